import math

import pytest
import torch
import torch.nn.functional as F

from composer_kd import LossError
from composer_kd.batches.masks import valid_of
from composer_kd.batches.microbatch import Microbatch
from composer_kd.losses import UniversalLogit, cosine, hard_label, mse, universal_logit
from composer_kd.matches.loss_adapter import LossAdapter


def test_hard_label_is_cross_entropy_with_the_top_class():
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    expected = F.cross_entropy(student.reshape(6, 5), teacher.reshape(6, 5).argmax(-1))
    assert hard_label(student, teacher).item() == pytest.approx(expected.item())
    assert hard_label(student, teacher * 9) == hard_label(student, teacher)  # only the order matters


def test_mse_is_torchs_but_never_broadcasts():
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    assert mse(student, teacher) == F.mse_loss(student, teacher)
    with pytest.raises(ValueError, match=r'mse: student \(3, 5\) and teacher \(3, 1\)'):
        mse(student, teacher[:, :1])


@pytest.mark.parametrize(('angle', 'expected'), [(0.0, 0.0), (60.0, 0.5), (90.0, 1.0), (180.0, 2.0)])
def test_cosine_by_hand(angle, expected):
    radians = math.radians(angle)
    student, teacher = torch.tensor([[7.0, 0.0]]), torch.tensor([[0.1 * math.cos(radians), 0.1 * math.sin(radians)]])
    assert cosine(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_cosine_of_zeros_has_a_moderate_gradient():
    student, teacher = torch.zeros(3, 4, requires_grad=True), torch.randn(3, 4)
    value = cosine(student, teacher)
    (grad,) = torch.autograd.grad(value, student)
    assert value.item() == 1.0
    assert 0 < grad.abs().max() < 1  # it still tells where to go


def test_cosine_compares_tokens_one_by_one_and_maps_as_a_whole():
    student, teacher = torch.randn(2, 3, 4).double(), torch.randn(2, 3, 4).double()
    rows = cosine(student.reshape(6, 4), teacher.reshape(6, 4))
    assert cosine(student, teacher).item() == pytest.approx(rows.item())
    maps = cosine(student.reshape(2, 3, 2, 2), teacher.reshape(2, 3, 2, 2))
    assert maps.item() == pytest.approx(cosine(student.reshape(2, 12), teacher.reshape(2, 12)).item())
    assert maps.item() != pytest.approx(rows.item())


def test_universal_logit_by_hand_with_different_vocabularies():
    small, large = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 5.0, 2.0, 2.0]]).log()
    by_hand = abs(0.75 - 0.5) + abs(0.25 - 0.2) + 0.2 + 0.1
    assert universal_logit(small, large).item() == pytest.approx(by_hand, rel=1e-6)
    assert universal_logit(large, small).item() == pytest.approx(by_hand, rel=1e-6)


def test_universal_logit_is_blind_to_the_order_of_classes():
    student, teacher = torch.randn(6, 5), torch.randn(6, 7)
    permuted = universal_logit(student[:, torch.tensor([3, 0, 4, 1, 2])], teacher.flip(-1))
    assert permuted.item() == pytest.approx(universal_logit(student, teacher).item(), rel=1e-6)


def test_universal_logit_lets_the_gradient_of_the_larger_vocabulary_through():
    student = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, 5, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: universal_logit(s, teacher, 2.0), (student,))


def test_universal_logit_is_the_mean_over_rows_of_any_shape():
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 4)
    rows = universal_logit(student.reshape(6, 5), teacher.reshape(6, 4))
    assert universal_logit(student, teacher).item() == pytest.approx(rows.item())
    with pytest.raises(ValueError, match=r'\(2, 3, 5\) and teacher \(3, 2, 4\) must differ in the last dimension only'):
        universal_logit(student, teacher.reshape(3, 2, 4))


def test_universal_logit_of_masked_positions_is_that_of_the_others():
    student, teacher = torch.randn(2, 3, 5), torch.randn(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, True]])
    expected = universal_logit(student[mask], teacher[mask])
    for given in (mask, mask.flatten(), mask.long()):
        assert universal_logit(student, teacher, mask=given) == expected
        assert UniversalLogit()(student, teacher, given) == expected
    student[~mask] = math.nan  # what does not count may be anything
    assert universal_logit(student, teacher, mask=mask) == expected
    nothing = universal_logit(student.requires_grad_(), teacher, mask=torch.zeros_like(mask))
    assert nothing == 0
    assert nothing.requires_grad


def test_universal_logit_of_other_lengths_says_how():
    """Answers of two tokenizers: the mask of the student's labels fits the student alone."""
    student, teacher = torch.randn(1, 5, 11), torch.randn(1, 7, 17)
    mask = torch.tensor([[False, False, True, True, True]])
    message = r'\(1, 5, 11\) and teacher \(1, 7, 17\) .*position by position.*logits of the answer.*cut to the length'
    with pytest.raises(ValueError, match=message):
        universal_logit(student, teacher, mask=mask)
    with pytest.raises(ValueError, match=message):
        universal_logit(student, teacher)
    labels = torch.tensor([[-100, -100, 3, 4, 5]])
    batch = {'input_ids': labels.clamp(min=0), 'labels': labels}
    micro = Microbatch(batch, 3, valid_of(batch))
    with pytest.raises(LossError, match=r"The match 'UniversalLogit' fails at batch 3.*" + message):
        LossAdapter(UniversalLogit()).of_logits(student, teacher, micro)


def test_universal_logit_says_that_any_classes_do():
    assert universal_logit.any_classes
    assert UniversalLogit().any_classes


def test_universal_logit_temperature():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    loss = UniversalLogit()
    loss.temperature = 3.0
    assert loss(student, teacher).item() == pytest.approx(universal_logit(student / 3, teacher / 3).item())
    with pytest.raises(ValueError, match='UniversalLogit: temperature'):
        UniversalLogit(0.0)


@pytest.mark.parametrize('loss', [hard_label, cosine])
def test_shapes_that_differ(loss):
    with pytest.raises(ValueError, match=rf'{loss.__name__}: student \(2, 3\) and teacher \(1, 3\)'):
        loss(torch.zeros(2, 3), torch.zeros(1, 3))
