"""Classes that both models exclude, as in padded vocabularies, by the least finite number, or by minus infinity."""

import math

import pytest
import torch

from composer_kd import losses
from composer_kd.losses._fused import FUSED_FROM

MASKS = [torch.finfo(torch.float32).min, torch.finfo(torch.float64).min, -math.inf, -1e30, -1e9]
CLASSES, EXCLUDED = 520, 40
SMALL, LARGE = 7, 1 + FUSED_FROM // CLASSES


def labelled(function):
    """Labels among all classes, also among those that are excluded."""
    return lambda s, t, temperature: function(s, t, torch.arange(len(s)) * 13 % s.shape[1], temperature=temperature)


LOSSES = {
    'kl_divergence': losses.kl_divergence,
    'reverse_kl': losses.reverse_kl,
    'generalized_jsd': lambda s, t, temperature: losses.generalized_jsd(s, t, 0.3, temperature),
    'soft_cross_entropy': losses.soft_cross_entropy,
    'skewed_kl': lambda s, t, temperature: losses.skewed_kl(s, t, 0.1, temperature),
    'skewed_reverse_kl': lambda s, t, temperature: losses.skewed_reverse_kl(s, t, 0.1, temperature),
    'alpha_beta_divergence': lambda s, t, temperature: losses.alpha_beta_divergence(s, t, 0.2, 0.7, temperature),
    'alpha_beta_divergence at 0': lambda s, t, temperature: losses.alpha_beta_divergence(s, t, 0.0, 0.7, temperature),
    'adaptive_kl': lambda s, t, temperature: losses.adaptive_kl(s, t, 0.5, temperature),
    'total_variation': losses.total_variation,
    'MultiTemperature': lambda s, t, temperature: losses.MultiTemperature(temperatures=[temperature, 2.0])(s, t),
    'dkd': labelled(losses.dkd),
    'nkd': labelled(losses.nkd),
    'dist': lambda s, t, temperature: losses.dist(s, t, temperature=temperature),
    'universal_logit': losses.universal_logit,
    'standardised kl': lambda s, t, temperature: losses.LogitStandardization(losses.KLDivergence(temperature))(s, t),
    'standardised dkd': lambda s, t, temperature: losses.LogitStandardization(losses.DKD(temperature=temperature))(
        s, t, labels=torch.arange(len(s)) % 100
    ),
    'channel_wise_kl': lambda s, t, temperature: losses.channel_wise_kl(
        s.unflatten(1, (1, 20, 26)), t.unflatten(1, (1, 20, 26)), temperature
    ),
    'kl of maps': lambda s, t, temperature: losses.kl_divergence(s.T[None], t.T[None], temperature, softmax_dim=1),
}
COUNTS_COLUMNS = {'dist'}  # a mean over the classes, excluded or not
NEEDS_LABELS = {'dkd', 'nkd'}  # those of excluded classes have no counterpart without them


def sides(rows, mask, dtype=torch.float32, which=slice(-EXCLUDED, None)):
    generator = torch.Generator().manual_seed(3)
    pair = [3 * torch.randn(rows, CLASSES, generator=generator, dtype=torch.float64) for _ in range(2)]
    for side in pair:
        side[:, which] = mask
    return [side.to(dtype) for side in pair]


def value_and_grad(loss, student, teacher, temperature):
    student = student.clone().requires_grad_()
    value = loss(student, teacher, temperature)
    (grad,) = torch.autograd.grad(value, student)
    assert value.isfinite()
    assert grad.isfinite().all()
    return value.item(), grad


@pytest.mark.parametrize('rows', [SMALL, LARGE], ids=['plain', 'fused'])
@pytest.mark.parametrize('temperature', [0.05, 1.0, 4.0, 100.0])
@pytest.mark.parametrize('name', LOSSES)
def test_any_number_that_excludes_a_class_counts_like_any_other(name, temperature, rows):
    expected, expected_grad = value_and_grad(LOSSES[name], *sides(rows, -1e30), temperature)
    for mask in MASKS:
        value, grad = value_and_grad(LOSSES[name], *sides(rows, mask), temperature)
        assert value == pytest.approx(expected, rel=1e-6)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-5, atol=1e-7)
        assert grad[:, -EXCLUDED:].abs().max() < 1e-20


@pytest.mark.parametrize('rows', [SMALL, LARGE], ids=['plain', 'fused'])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize('name', sorted(set(LOSSES) - COUNTS_COLUMNS - NEEDS_LABELS - {'channel_wise_kl'}))
def test_the_value_is_that_of_the_other_classes_alone(name, temperature, rows):
    student, teacher = sides(rows, torch.finfo(torch.float32).min)
    value, grad = value_and_grad(LOSSES[name], student, teacher, temperature)
    kept = [side[:, :-EXCLUDED].double() for side in (student, teacher)]
    expected, expected_grad = value_and_grad(LOSSES[name], *kept, temperature)
    assert value == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(grad[:, :-EXCLUDED], expected_grad.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('loss', [losses.dkd, losses.nkd])
@pytest.mark.parametrize('temperature', [0.5, 1.0, 4.0])
@pytest.mark.parametrize(
    'which', [slice(-EXCLUDED, None), slice(1, None), slice(0, 1)], ids=['some', 'others', 'label']
)
def test_labels_beside_excluded_classes(loss, temperature, which):
    """All classes but the label may be excluded, or the label alone."""
    labels = torch.zeros(SMALL, dtype=torch.long)

    def of(mask):
        return value_and_grad(
            lambda s, t, temperature: loss(s, t, labels, temperature=temperature),
            *sides(SMALL, mask, torch.float64, which),
            temperature,
        )

    expected, expected_grad = of(-1e6)  # far enough, in float64
    value, grad = of(torch.finfo(torch.float64).min)
    assert value == pytest.approx(expected, rel=1e-6, abs=1e-9)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('rows', [SMALL, LARGE], ids=['plain', 'fused'])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('name', LOSSES)
def test_the_least_number_of_any_precision_excludes(name, dtype, rows):
    student, teacher = sides(rows, torch.finfo(dtype).min, dtype)
    value, grad = value_and_grad(LOSSES[name], student, teacher, 1.0)
    exact = [side.double().masked_fill(side == torch.finfo(dtype).min, -1e30) for side in (student, teacher)]
    expected, _ = value_and_grad(LOSSES[name], *exact, 1.0)
    assert value == pytest.approx(expected, rel=1e-4)
    assert grad.dtype == dtype


@pytest.mark.parametrize('rows', [SMALL, LARGE], ids=['plain', 'fused'])
@pytest.mark.parametrize('mask', MASKS[:3])
@pytest.mark.parametrize('name', sorted(set(LOSSES) - {'standardised dkd'}))
def test_rows_of_excluded_classes_alone_are_uniform(name, mask, rows):
    """Whole positions may be filled: they add what equal logits add."""
    student, teacher = (side.index_fill(0, torch.tensor([3]), mask) for side in sides(rows, mask, torch.float64))
    student, teacher = student.float(), teacher.float()
    value, grad = value_and_grad(LOSSES[name], student, teacher, 1.0)
    uniform = [side.index_fill(0, torch.tensor([3]), 0.0) for side in (student, teacher)]
    expected, _ = value_and_grad(LOSSES[name], *uniform, 1.0)
    assert value == pytest.approx(expected, rel=1e-5)
    assert grad[3].abs().max() < 1


@pytest.mark.parametrize('rows', [SMALL, LARGE], ids=['plain', 'fused'])
@pytest.mark.parametrize('side', [0, 1], ids=['student', 'teacher'])
@pytest.mark.parametrize('name', ['kl_divergence', 'reverse_kl', 'generalized_jsd', 'soft_cross_entropy', 'dkd', 'nkd'])
def test_what_one_model_alone_excludes_is_finite_and_large_at_most(name, side, rows):
    for temperature in (0.5, 1.0, 4.0):
        pairs = [sides(rows, mask) for mask in (torch.finfo(torch.float32).min, -1e30, 0.0)]
        least, expected, open_ = pairs
        least[1 - side], expected[1 - side] = open_[1 - side], open_[1 - side]
        value, grad = value_and_grad(LOSSES[name], *least, temperature)
        want, want_grad = value_and_grad(LOSSES[name], *expected, temperature)
        assert value == pytest.approx(want, rel=1e-5)
        torch.testing.assert_close(grad, want_grad, rtol=1e-4, atol=1e-6)


def test_transforms_of_torch_go_through_small_losses():
    student, teacher = sides(3, -math.inf, torch.float64)
    way = torch.randn_like(student)
    (expected,) = torch.autograd.grad(losses.kl_divergence(one := student.clone().requires_grad_(), teacher), one)
    torch.testing.assert_close(torch.func.grad(losses.kl_divergence)(student, teacher), expected)
    _, slope = torch.func.jvp(lambda s: losses.kl_divergence(s, teacher), (student,), (way,))
    assert slope.item() == pytest.approx((expected * way).sum().item())


def test_z_scores_are_those_of_the_classes_that_exist():
    logits = torch.tensor([[1.0, -math.inf, 2.0, 3.0], [4.0, 4.0, -1e30, 4.0], [5.0, 7.0, -65504.0, -65504.0]])
    scores = losses.standardize(logits)
    assert torch.equal(scores <= -1e30 * 0.999, logits <= -65504)
    torch.testing.assert_close(scores[0, [0, 2, 3]], torch.tensor([-1.0, 0.0, 1.0]))
    assert not scores[1, [0, 1, 3]].any()
    torch.testing.assert_close(scores[2, :2], torch.tensor([-(0.5**0.5), 0.5**0.5]))


def test_z_scores_of_rows_with_one_class_left_or_none():
    logits = torch.tensor([[3.0, -math.inf, -math.inf], [-math.inf] * 3], requires_grad=True)
    scores = losses.standardize(logits)
    assert scores[0].tolist() == [0.0, pytest.approx(-1e30), pytest.approx(-1e30)]
    assert scores[1].tolist() == [0.0, 0.0, 0.0]
    scores.clamp(min=-9).sum().backward()
    assert not logits.grad.any()


def test_z_scores_have_the_gradient_of_the_classes_that_exist():
    logits, weight = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    logits[:, [1, 4]] = -math.inf
    kept = logits[:, [0, 2, 3, 5]].clone().requires_grad_()
    whole = logits.clone().requires_grad_()
    (losses.standardize(whole).clamp(min=-1e9) * weight).sum().backward()
    plain = (kept - kept.mean(1, keepdim=True)) / (kept.std(1, keepdim=True) + 1e-7)
    (plain * weight[:, [0, 2, 3, 5]]).sum().backward()
    torch.testing.assert_close(whole.grad[:, [0, 2, 3, 5]], kept.grad)
    assert not whole.grad[:, [1, 4]].any()


def test_constant_columns_of_dist_count_as_its_docstring_says():
    """No correlation: each adds gamma tau^2 / V, also for equal inputs; sliced off they add nothing."""
    student = sides(SMALL, -math.inf)[0]
    share = EXCLUDED / CLASSES
    assert losses.dist(student, student, temperature=2.0).item() == pytest.approx(4 * share, rel=1e-5)
    assert losses.dist(student, student, gamma=3.0).item() == pytest.approx(3 * share, rel=1e-5)
    kept = student[:, :-EXCLUDED]
    assert losses.dist(kept, kept).item() == pytest.approx(0.0, abs=1e-6)
