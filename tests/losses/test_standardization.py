import pytest
import torch
from torch import nn

from composer_kd.losses import (
    DKD,
    KLDivergence,
    LogitStandardization,
    dkd,
    kl_divergence,
    mse,
    standardize,
    universal_logit,
)
from composer_kd.testing import check_loss


def test_standardize_is_unbiased():
    logits = torch.tensor([[2.0, 4.0, 6.0], [0.0, 0.0, 3.0]])
    expected = torch.tensor([[-1.0, 0.0, 1.0], [-1 / 3**0.5, -1 / 3**0.5, 2 / 3**0.5]])  # deviations 2 and 3**0.5
    torch.testing.assert_close(standardize(logits), expected)


def test_standardize_agrees_with_torch_along_any_dimension():
    logits = torch.randn(3, 4, 5, dtype=torch.float64)
    for dim in (-1, 1):
        expected = (logits - logits.mean(dim, keepdim=True)) / (logits.std(dim, keepdim=True) + 1e-7)
        torch.testing.assert_close(standardize(logits, dim), expected, rtol=1e-12, atol=1e-12)


def test_the_small_number_stands_beside_the_deviation():
    logits = torch.tensor([[-3e-7, 0.0, 3e-7]], dtype=torch.float64)  # a deviation of 3e-7
    torch.testing.assert_close(standardize(logits), torch.tensor([[-0.75, 0.0, 0.75]], dtype=torch.float64))


@pytest.mark.parametrize('dim', [-1, 1])
def test_the_gradient_is_that_of_finite_differences(dim):
    logits = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: standardize(x, dim), (logits,))


@pytest.mark.parametrize('row', [[3.0] * 4, [0.0] * 4, [0.0, 1e-9, 0.0, -1e-9], [1e4, 1e4, 1e4 * (1 + 2e-7), 1e4]])
def test_constant_rows_but_for_rounding_become_zeros_without_a_gradient(row):
    logits = torch.tensor([row, [1.0, 2.0, 3.0, 5.0]], requires_grad=True)
    out = standardize(logits)
    assert (out[0] == 0).all()
    (grad,) = torch.autograd.grad((out * torch.randn(2, 4)).sum(), logits)
    assert (grad[0] == 0).all()
    assert grad[1].abs().max() > 0


def test_rows_that_vary_more_than_rounding_are_no_constants():
    logits = torch.tensor([[1.0, 1.0 + 1e-5, 1.0 - 1e-5], [0.0, 1e-5, -1e-5]])
    torch.testing.assert_close(standardize(logits), standardize(logits.double()).float(), rtol=1e-3, atol=1e-6)
    assert standardize(logits).abs().amax(-1).min() > 0.9


def test_standardize_computes_in_float32_and_needs_two_classes():
    logits = torch.randn(2, 5).bfloat16()
    assert standardize(logits).dtype == torch.float32
    with pytest.raises(ValueError, match=r'at least 2 classes in dimension -1, got \(2, 1\)'):
        standardize(logits[:, :1])


@pytest.mark.parametrize('loss', [None, KLDivergence(4.0), mse, DKD()])
def test_blind_to_scale_and_shift(loss):
    student, teacher = torch.randn(6, 5).double(), torch.randn(6, 5).double()
    extra = {'labels': torch.arange(6) % 5} if isinstance(loss, DKD) else {}
    wrapped = LogitStandardization(loss)
    value = wrapped(student, teacher, **extra)
    assert value > 0.01
    moved = wrapped(7 * student + 3, 0.1 * teacher - 5, **extra)
    assert value.item() == pytest.approx(moved.item(), rel=1e-5)


def test_is_the_loss_of_standardised_logits():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    default = kl_divergence(standardize(student), standardize(teacher), temperature=2.0)
    assert LogitStandardization()(student, teacher) == default


def test_passes_labels_and_mask_through():
    student, teacher = torch.randn(6, 5), torch.randn(6, 5)
    labels = torch.tensor([0, 1, 2, 3, 4, -100])
    value = LogitStandardization(DKD())(student, teacher, labels=labels)
    assert value == dkd(standardize(student), standardize(teacher), labels)
    mask = torch.tensor([True, True, False, True, False, False])
    masked = LogitStandardization(KLDivergence())(student, teacher, mask=mask)
    assert masked.item() == pytest.approx(kl_divergence(standardize(student)[mask], standardize(teacher)[mask]).item())


def with_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 3, 5, generator=generator).double() for _ in range(2))
    return student, teacher, {'mask': torch.tensor([[True, True, False], [True, False, False]])}


def test_obeys_the_laws_with_a_mask_and_around_a_function():
    check_loss(LogitStandardization(), with_mask)
    check_loss(LogitStandardization(nn.MSELoss()))  # which by itself lets a gradient reach the teacher


def test_the_temperature_is_that_of_the_loss():
    inner = KLDivergence(4.0)
    loss = LogitStandardization(inner)
    assert loss.temperature == 4.0
    loss.temperature = 1.5
    assert (inner.temperature, loss.temperature) == (1.5, 1.5)
    assert not hasattr(LogitStandardization(mse), 'temperature')


def test_stands_for_the_loss_that_it_wraps():
    inner = nn.Bilinear(5, 5, 1)
    loss = LogitStandardization(inner)
    assert loss.wrapped is inner
    assert list(loss.parameters()) == list(inner.parameters())  # one that learns is trained
    assert LogitStandardization(universal_logit).any_classes
    assert not loss.any_classes
    assert loss.softmax_dim == -1


def test_along_the_dimension_of_the_classes():
    student, teacher = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    loss = LogitStandardization(KLDivergence(2.0, softmax_dim=1))
    expected = LogitStandardization()(student.movedim(1, -1), teacher.movedim(1, -1))
    assert loss.softmax_dim == 1
    assert loss(student, teacher).item() == pytest.approx(expected.item(), rel=1e-6)


def test_something_that_is_no_loss():
    with pytest.raises(ValueError, match='LogitStandardization: expected a callable'):
        LogitStandardization('kl_divergence')
