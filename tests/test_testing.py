"""A loss of your own is held to the laws by one line; each law names itself to the loss that breaks it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from composer_kd.testing import check_loss


def squared_error(student, teacher):
    return (student - teacher.detach()).square().mean()


def centred_cosine(student, teacher):
    """Written by a user who thinks of nothing but the definition."""
    student, teacher = (x - x.mean(-1, keepdim=True) for x in (student, teacher.detach()))
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def with_labels(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(6, 5, generator=generator).double() for _ in range(2))
    return student, teacher, {'labels': torch.tensor([0, 1, 2, 3, 4, 0])}


def with_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 3, 5, generator=generator).double() for _ in range(2))
    return student, teacher, {'mask': torch.tensor([[True, True, False], [True, False, False]])}


def numpy_squared_error(student, teacher):
    return ((student - teacher) ** 2).sum() / student.size


class Learned(nn.Module):
    """Built from the shapes, samples, and remembers: each call of a check starts from the same state."""

    def build(self, student_shape, teacher_shape):
        self.project = nn.Linear(student_shape[-1], teacher_shape[-1])
        self.calls = 0

    def forward(self, student, teacher):
        self.calls += 1
        noise = 1 + torch.rand(())
        weight = self.project.weight.dtype
        return self.calls * noise * (self.project(student.to(weight)) - teacher.detach()).square().mean()


def test_a_good_loss_of_your_own_passes_by_one_line():
    check_loss(squared_error)
    check_loss(centred_cosine)
    check_loss(squared_error, reference=numpy_squared_error)
    check_loss(lambda s, t, labels: squared_error(s, t), with_labels)
    check_loss(
        lambda student, teacher, labels: F.cross_entropy(student, labels),
        with_labels,
        zero_at_equality=False,
        minimum_at_equality=False,
    )


def test_a_learned_loss_is_left_as_it_was():
    loss = Learned()
    check_loss(loss, zero_at_equality=False, minimum_at_equality=False)
    assert not hasattr(loss, 'calls')


def moved_by_mask(student, teacher, mask):
    return squared_error(student, teacher) * mask.double().mean()


def well_masked(student, teacher, mask):
    return (student - teacher.detach()).square().mean(-1)[mask].mean()


def test_a_masked_loss_of_your_own():
    check_loss(well_masked, with_mask)
    with pytest.raises(AssertionError, match=r'^masked positions never count: .* by garbage there'):
        check_loss(moved_by_mask, with_mask)


@pytest.mark.parametrize(
    ('law', 'message', 'broken'),
    [
        ('scalar of the student', r'shape \(\)', lambda s, t: (s - t.detach()).square()),
        ('scalar of the student', 'does not depend', lambda s, t: (s - t).detach().square().mean()),
        ('reference', 'its reference', lambda s, t: (s - t.detach()).abs().mean()),
        ('zero at equality', 'equals its teacher', lambda s, t: F.cross_entropy(s, t.detach().softmax(-1))),
        ('zero at equality', 'below 0', lambda s, t: (s - t.detach()).mean()),
        (
            'minimum at equality',
            'the gradient at',
            lambda s, t: (s - t.detach()).mean().abs() + (s - s.detach()).mean(),
        ),
        ('minimum at equality', 'near by', lambda s, t: (1 - (s - t.detach()).square()).mean()),
        ('no gradient to the teacher', 'detach', lambda s, t: (s - t).square().mean()),
        ('same for a repeated batch', 'repeated twice', lambda s, t: (s - t.detach()).square().sum()),
        ('finite at extremes', 'nan|inf', lambda s, t: (s.exp() - t.detach().exp()).square().mean()),
        ('finite for degenerate inputs', 'not finite', lambda s, t: (s - t.detach()).square().sum(-1).sqrt().mean()),
        ('half precision', 'nan|inf', lambda s, t: ((s - t.detach()) * 1e5).square().mean()),
        ('gradcheck', 'finite differences', lambda s, t: Crooked.apply(s - t.detach())),
    ],
)
def test_each_law_fails_the_loss_that_breaks_it_and_names_itself(law, message, broken):
    claims = {
        'reference': numpy_squared_error if law == 'reference' else None,
        'zero_at_equality': law == 'zero at equality',
        'minimum_at_equality': law == 'minimum at equality',
    }
    with pytest.raises(AssertionError, match=f'^{law}: .*({message})'):
        check_loss(broken, **claims)


class Crooked(torch.autograd.Function):
    """The mean square with a wrong gradient."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().mean()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]
