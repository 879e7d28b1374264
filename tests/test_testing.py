"""A loss of your own is held to the laws by one line; each law names itself to the loss that breaks it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from composer_kd.testing import check_loss, logits


def squared_error(student, teacher):
    return (student - teacher.detach()).square().mean()


def centred_cosine(student, teacher):
    """Written by a user who thinks of nothing but the definition: a row of zeros has a gradient of 1e8."""
    student, teacher = (x - x.mean(-1, keepdim=True) for x in (student, teacher.detach()))
    return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()


def careful_cosine(student, teacher):
    student, teacher = (x - x.mean(-1, keepdim=True) for x in (student, teacher.detach()))
    return 1 - F.cosine_similarity(student, teacher, dim=-1, eps=0.01).mean()


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
    check_loss(careful_cosine)
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


class Crooked(torch.autograd.Function):
    """The mean square with a wrong gradient."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().mean()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0]


def slope(x):
    """0, with a gradient of 1."""
    return (x - x.detach()).sum()


def no_slope(x):
    """0, with a gradient that is no number."""
    return (x - x.detach()).sum().abs().sqrt()


def spoilt(when, by=lambda s: s.sum() * float('nan')):
    """The squared error, but where something holds of the inputs."""

    def loss(student, teacher):
        value = squared_error(student, teacher)
        return value + by(student) if when(student.detach(), teacher.detach()) else value

    return loss


def dented(low, high):
    """The squared error, below 0 at some distances from the teacher."""

    def loss(student, teacher):
        error = squared_error(student, teacher)
        return -error if low < error.item() < high else error

    return loss


def drawn_with(seed, sides=logits):
    """Whether these are the inputs of a seed."""
    return lambda s, t: s.shape == sides(seed)[0].shape and bool((s.double() == sides(seed)[0]).all())


def off(share, which=None):
    return spoilt(which or (lambda s, t: True), lambda s: share * (1 + 0 * s.sum()))


def zeros(x):
    return not x.any()


def constant(x):
    return bool((x == 1).all())


def alike(x):
    return len(x) > 1 and bool((x == x[0]).all()) and bool(x.any()) and not constant(x)


def huge(dtype, sign):
    teacher = logits(0)[1]
    return lambda s, t: (
        s.dtype == dtype and s.abs().max() > 1e3 and bool(((t.double() > 0) == (sign * teacher > 0)).all())
    )


FINITE = 'finite for degenerate inputs'
BROKEN = {
    'not a scalar': ('scalar of the student', r'shape \(\)', lambda s, t: (s - t.detach()).square()),
    'a number': ('scalar of the student', r'shape \(\)', lambda s, t: squared_error(s, t).item()),
    'cut off': ('scalar of the student', 'does not depend', lambda s, t: (s - t).detach().square().mean()),
    'another loss': ('reference', r'its reference .*inputs 0', lambda s, t: (s - t.detach()).abs().mean()),
    'reference but for rounding': ('reference', 'its reference', lambda s, t: squared_error(s, t) * (1 + 3e-6)),
    'second inputs': ('reference', r'inputs 1', off(0.1, drawn_with(1))),
    'third inputs': ('reference', r'inputs 2', off(0.1, drawn_with(2))),
    'cross-entropy': (
        'zero at equality',
        'equals its teacher',
        lambda s, t: F.cross_entropy(s, t.detach().softmax(-1)),
    ),
    'nearly zero': ('zero at equality', 'equals its teacher', off(1e-5)),
    'nearly zero from below': ('zero at equality', 'equals its teacher', off(-1e-5)),
    'below zero': ('zero at equality', 'below 0', lambda s, t: (s - t.detach()).mean()),
    'below zero later': ('zero at equality', 'below 0', off(-50.0, drawn_with(2))),
    'not flat': ('minimum at equality', 'the gradient at', lambda s, t: squared_error(s, t) + slope(s)),
    'hardly flat': ('minimum at equality', 'the gradient at', lambda s, t: squared_error(s, t) + 1e-5 * slope(s)),
    'a maximum': ('minimum at equality', 'near by', lambda s, t: (1 - (s - t.detach()).square()).mean()),
    'less at a small distance': ('minimum at equality', 'near by', dented(0, 1e-4)),
    'less at a middle distance': ('minimum at equality', 'near by', dented(1e-4, 1)),
    'less at a large distance': ('minimum at equality', 'near by', dented(1, 1e9)),
    'teacher': ('no gradient to the teacher', 'detach', lambda s, t: (s - t).square().mean()),
    'teacher a little': ('no gradient to the teacher', 'detach', lambda s, t: squared_error(s, t) + 1e-9 * slope(t)),
    'sum': ('same for a repeated batch', 'repeated twice', lambda s, t: (s - t.detach()).square().sum()),
    'grows a little': (
        'same for a repeated batch',
        'repeated twice',
        lambda s, t: squared_error(s, t) * (1 + 1e-6 * len(s)),
    ),
    'overflows': ('finite at extremes', 'nan|inf', lambda s, t: (s.exp() - t.detach().exp()).square().mean()),
    'extreme value': (
        'finite at extremes',
        'the loss is inf',
        spoilt(huge(torch.float32, 1), lambda s: 0 * s.sum() + float('inf')),
    ),
    'extreme gradient': (
        'finite at extremes',
        'its gradient is not finite',
        spoilt(huge(torch.float32, 1), no_slope),
    ),
    **{
        f'extremes in {dtype} {sign:+d}': ('finite at extremes', f'nan.*{dtype}', spoilt(huge(dtype, sign)))
        for dtype in (torch.float32, torch.bfloat16)
        for sign in (1, -1)
    },
    'root': (FINITE, 'not finite', lambda s, t: (s - t.detach()).square().sum(-1).sqrt().mean()),
    'too steep': (FINITE, 'where an ordinary one is', centred_cosine),
    'rather steep': (FINITE, 'where an ordinary one is', spoilt(lambda s, t: zeros(s), lambda s: 1e3 * slope(s))),
    'both zero': (FINITE, 'for zeros', spoilt(lambda s, t: zeros(s) and zeros(t))),
    'student zero': (FINITE, 'for a student of zeros', spoilt(lambda s, t: zeros(s) and not zeros(t))),
    'teacher zero': (FINITE, 'for a teacher of zeros', spoilt(lambda s, t: zeros(t) and not zeros(s))),
    'student constant': (FINITE, 'for a constant student', spoilt(lambda s, t: constant(s))),
    'teacher constant': (FINITE, 'for a constant teacher', spoilt(lambda s, t: constant(t))),
    'student alike': (FINITE, 'for a student that answers the same', spoilt(lambda s, t: alike(s) and not alike(t))),
    'both alike': (FINITE, 'for both answering the same', spoilt(lambda s, t: alike(s) and alike(t))),
    'half overflows': ('half precision', 'nan|inf', lambda s, t: ((s - t.detach()) * 1e5).square().mean()),
    **{
        f'{dtype} {share:+.1f}': ('half precision', f'in {dtype}, but', off(share, lambda s, t, d=dtype: s.dtype == d))
        for dtype in (torch.bfloat16, torch.float16)
        for share in (0.2, -0.2)
    },
    'gradient of half': (
        'half precision',
        'its gradient is not finite for torch.float16',
        spoilt(lambda s, t: s.dtype == torch.float16, no_slope),
    ),
    'crooked': ('gradcheck', 'finite differences', lambda s, t: Crooked.apply(s - t.detach())),
}


@pytest.mark.parametrize(('law', 'message', 'broken'), BROKEN.values(), ids=BROKEN)
def test_each_law_fails_the_loss_that_breaks_it_and_names_itself(law, message, broken):
    claims = {
        'reference': numpy_squared_error if law == 'reference' else None,
        'zero_at_equality': law == 'zero at equality',
        'minimum_at_equality': law == 'minimum at equality',
    }
    with pytest.raises(AssertionError, match=f'^{law}: .*({message})'):
        check_loss(broken, **claims)


def all_masked(seed):
    student, teacher, extra = with_mask(seed)
    return student, teacher, {'mask': torch.ones_like(extra['mask'])}


def none_masked(seed):
    student, teacher, extra = with_mask(seed)
    return student, teacher, {'mask': torch.zeros_like(extra['mask'])}


MASKED = {
    'value': ('by garbage there', moved_by_mask, with_mask),
    'value a little': (
        'by garbage there',
        lambda s, t, mask: well_masked(s, t, mask) + 1e-10 * s.detach()[~mask].mean(),
        with_mask,
    ),
    'masked gradient': (
        'a masked position has a gradient',
        lambda s, t, mask: well_masked(s, t, mask) + 1e-9 * slope(s[~mask]),
        with_mask,
    ),
    'masked gradient by garbage': (
        'a masked position has a gradient',
        lambda s, t, mask: well_masked(s, t, mask) + (slope(s[~mask]) if s.abs().max() > 100 else 0),
        with_mask,
    ),
    'masked gradient without garbage': (
        'a masked position has a gradient',
        lambda s, t, mask: well_masked(s, t, mask) + (slope(s[~mask]) if s.abs().max() < 100 else 0),
        with_mask,
    ),
    'gradient elsewhere': (
        'the gradient elsewhere changes',
        lambda s, t, mask: well_masked(s, t, mask) + 1e-6 * slope(s[mask]) * s.detach()[~mask].mean(),
        with_mask,
    ),
    'garbage of the teacher': (
        'by garbage there',
        lambda s, t, mask: well_masked(s, t, mask) + 1e-3 * t.detach()[~mask].mean(),
        with_mask,
    ),
    'all count': ('some positions, not all', well_masked, all_masked),
    'none count': ('some positions, not all', lambda s, t, mask: squared_error(s, t), none_masked),
}


@pytest.mark.parametrize(('message', 'broken', 'inputs'), MASKED.values(), ids=MASKED)
def test_each_clause_of_the_law_of_masks(message, broken, inputs):
    with pytest.raises(AssertionError, match=f'^masked positions never count: .*{message}'):
        check_loss(
            broken, inputs, zero_at_equality=False, minimum_at_equality=False, repeats=False, gradcheck=False, steep=1e9
        )


class Flat(torch.autograd.Function):
    """The mean square with a right gradient that forgets the inputs it depends on."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x.detach()
        return x.square().mean()

    @staticmethod
    def backward(ctx, grad):
        return grad * 2 * ctx.x / ctx.x.numel()


class Refusing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x / x.numel()

    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError('no second derivative')


class Refused(Flat):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square().mean()

    @staticmethod
    def backward(ctx, grad):
        return grad * Refusing.apply(ctx.saved_tensors[0])


def test_a_second_derivative_that_is_0_without_a_word():
    with pytest.raises(AssertionError, match=r'^second derivative: .* is off by up to .*raise a RuntimeError'):
        check_loss(lambda s, t: Flat.apply(s - t.detach()))
    check_loss(lambda s, t: Refused.apply(s - t.detach()))


def test_an_empty_batch_is_checked_on_request():
    with pytest.raises(AssertionError, match=r'^empty batch: the loss of an empty batch is nan'):
        check_loss(squared_error, empty=True)
    with pytest.raises(AssertionError, match=r'^empty batch: .*ZeroDivisionError'):
        check_loss(lambda s, t: (s - t.detach()).square().sum() * (1 / len(s)), empty=True)
    with pytest.raises(AssertionError, match=r'^empty batch: .*does not depend on the student'):
        check_loss(lambda s, t: squared_error(s, t) if len(s) else torch.zeros(()), empty=True)
    with pytest.raises(AssertionError, match=r'^empty batch: .*neither 0 nor'):
        check_loss(lambda s, t: squared_error(s, t) if len(s) else 1.0 + s.sum(), empty=True)
    check_loss(lambda s, t: squared_error(s, t) if len(s) else s.sum(), empty=True)
    check_loss(at_least_one, empty=True)


def at_least_one(student, teacher):
    if not len(student):
        raise ValueError('expected a batch of at least 1')
    return squared_error(student, teacher)


def plain_kl(student, teacher):
    return F.kl_div(student.log_softmax(-1), teacher.detach().log_softmax(-1), log_target=True, reduction='batchmean')


def careful_kl(student, teacher):
    return plain_kl(*(x.float().clamp(min=-1e30) if x.dtype != torch.float64 else x for x in (student, teacher)))


def test_excluded_classes_are_checked_on_request():
    with pytest.raises(AssertionError, match=r'^excluded classes: the loss is nan for a class of logit -inf in'):
        check_loss(plain_kl, classes=True)
    with pytest.raises(AssertionError, match=r'^excluded classes: the loss is .* for a class of -inf'):
        check_loss(lambda s, t: careful_kl(s, t) * (1 + 1e-5 * bool((s == -math.inf).any())), classes=True)
    with pytest.raises(AssertionError, match=r'^excluded classes: another gradient for a class of -3.4'):
        check_loss(lambda s, t: careful_kl(s, t) + slope(s[:, :1]) * bool((s < -1e38).any()), classes=True)
    check_loss(careful_kl, classes=True)


def test_a_steep_loss_may_say_so():
    check_loss(spoilt(lambda s, t: zeros(s), lambda s: 1e3 * slope(s)), steep=1e6)
