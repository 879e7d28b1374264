"""The divergences for language models that share the fused pass: skewed, alpha-beta, adaptive, total variation."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd import Distillation
from composer_kd.losses import (
    DKD,
    AdaptiveKL,
    AlphaBetaDivergence,
    KLDivergence,
    MultiTemperature,
    SkewedKL,
    SkewedReverseKL,
    TotalVariation,
    _fused,
    adaptive_kl,
    alpha_beta_divergence,
    dkd,
    kl_divergence,
    reverse_kl,
    skewed_kl,
    skewed_reverse_kl,
    total_variation,
)
from tests.distilling import tokens
from tests.helpers import Recorder, TokenModel, train

BIG = (9, 8193)


def logarithms(student, teacher, temperature):
    return ((x / temperature).log_softmax(-1) for x in (student, teacher))


def plain_skewed(student, teacher, temperature, alpha=0.1):
    q, p = logarithms(student, teacher, temperature)
    m = torch.logaddexp(p + math.log(alpha), q + math.log1p(-alpha))
    return (p.exp() * (p - m)).sum(-1).mean() * temperature**2


def plain_skewed_reverse(student, teacher, temperature, alpha=0.1):
    q, p = logarithms(student, teacher, temperature)
    m = torch.logaddexp(p + math.log1p(-alpha), q + math.log(alpha))
    return (q.exp() * (q - m)).sum(-1).mean() * temperature**2


def plain_alpha_beta(student, teacher, temperature, alpha=0.2, beta=0.7):
    q, p = (x.exp() for x in logarithms(student, teacher, temperature))
    both = alpha + beta
    parts = p**alpha * q**beta - alpha / both * p**both - beta / both * q**both
    return -parts.sum(-1).mean() / (alpha * beta) * temperature**2


def plain_variation(student, teacher, temperature):
    q, p = (x.exp() for x in logarithms(student, teacher, temperature))
    return (p - q).abs().sum(-1).mean() / 2


def plain_adaptive(student, teacher, temperature, head=0.5):
    """With the head found class by class, and shares that are constants."""
    log_q, log_p = logarithms(student, teacher, temperature)
    q, p = log_q.exp(), log_p.exp()
    values = []
    for row in range(len(p)):
        in_head, mass = torch.zeros(p.shape[1], dtype=torch.bool), 0.0
        for c in p[row].argsort(descending=True).tolist():
            in_head[c] = True
            mass += p[row, c].item()
            if mass >= head:
                break
        gaps = (p[row] - q[row]).abs().detach()
        share = gaps[in_head].sum() / gaps.sum()
        forward, backward = (p * (log_p - log_q))[row].sum(), (q * (log_q - log_p))[row].sum()
        values.append(share * forward + (1 - share) * backward)
    return torch.stack(values).mean() * temperature**2


PAIRS = {
    'skewed_kl': (skewed_kl, plain_skewed),
    'skewed_reverse_kl': (skewed_reverse_kl, plain_skewed_reverse),
    'alpha_beta': (alpha_beta_divergence, plain_alpha_beta),
    'alpha_beta above 1': (
        partial(alpha_beta_divergence, alpha=1.4, beta=0.6),
        partial(plain_alpha_beta, alpha=1.4, beta=0.6),
    ),
    'total_variation': (total_variation, plain_variation),
    'adaptive_kl': (adaptive_kl, plain_adaptive),
}
LOSSES = [loss for loss, _ in PAIRS.values()]
TWINS = [(SkewedKL, skewed_kl), (SkewedReverseKL, skewed_reverse_kl), (AlphaBetaDivergence, alpha_beta_divergence),
         (TotalVariation, total_variation), (AdaptiveKL, adaptive_kl)]  # fmt: skip
each_loss = pytest.mark.parametrize('loss', LOSSES, ids=list(PAIRS))


def random(*shape, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [spread * torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(2)]


@pytest.mark.parametrize(('loss', 'plain'), PAIRS.values(), ids=list(PAIRS))
@pytest.mark.parametrize('temperature', [1.0, 4.0])
@pytest.mark.parametrize('shape', [(5, 7), BIG], ids=['small', 'large'])
def test_value_and_gradient_are_those_of_plain_torch(loss, plain, temperature, shape, monkeypatch):
    monkeypatch.setitem(_fused._CHUNK, 'cpu', 2**15)  # several chunks, the last one incomplete
    student, teacher = (x.float() for x in random(*shape, spread=3.0))
    student.requires_grad_()
    value = loss(student, teacher, temperature=temperature)
    exact = student.detach().double().requires_grad_()
    expected = plain(exact, teacher.double(), temperature)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (grad,), (expected_grad,) = torch.autograd.grad(3 * value, student), torch.autograd.grad(3 * expected, exact)
    torch.testing.assert_close(grad, expected_grad.float(), rtol=1e-4, atol=1e-8)


def test_skewed_at_0_is_kl():
    student, teacher = random(6, 5)
    assert skewed_kl(student, teacher, 0.0, 2.0) == kl_divergence(student, teacher, 2.0)
    assert skewed_reverse_kl(student, teacher, 0.0, 2.0) == reverse_kl(student, teacher, 2.0)


def test_skewed_is_bounded_by_the_logarithm_of_its_share():
    student, teacher = torch.full((2, 5), -1e4), torch.full((2, 5), -1e4)
    student[:, 0], teacher[:, 1] = 1e4, 1e4
    for alpha in (0.001, 0.1, 0.9):
        for loss in (skewed_kl, skewed_reverse_kl):
            assert loss(student, teacher, alpha).item() == pytest.approx(-math.log(alpha), rel=1e-4)


def test_total_variation_without_overlap_is_1():
    student, teacher = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 1e4]])
    assert total_variation(student, teacher, 3.0).item() == 1.0


@pytest.mark.parametrize(
    ('alpha', 'beta', 'expected'),
    [(1.0, 0.0, kl_divergence), (0.0, 1.0, reverse_kl)],
    ids=['forward', 'reverse'],
)
def test_alpha_beta_at_its_corners_is_kl(alpha, beta, expected):
    student, teacher = random(6, 5)
    student.requires_grad_()
    value, other = alpha_beta_divergence(student, teacher, alpha, beta, 2.0), expected(student, teacher, 2.0)
    assert value.item() == pytest.approx(other.item(), rel=1e-12)
    torch.testing.assert_close(torch.autograd.grad(value, student), torch.autograd.grad(other, student))


@settings(deadline=None, max_examples=40)
@given(
    alpha=st.floats(0.0, 3.0), beta=st.floats(0.0, 3.0), spread=st.floats(0.01, 30.0), seed=st.integers(0, 99),
    temperature=st.floats(0.5, 8.0),
)  # fmt: skip
def test_alpha_beta_is_never_negative_and_changes_sides_with_its_parameters(alpha, beta, spread, seed, temperature):
    if alpha + beta < 0.01:
        return
    student, teacher = random(3, 6, spread=spread, seed=seed)
    value = alpha_beta_divergence(student, teacher, alpha, beta, temperature)
    assert value >= 0.0
    other = alpha_beta_divergence(teacher, student, beta, alpha, temperature)
    assert value.item() == pytest.approx(other.item(), rel=1e-9, abs=1e-12)
    assert alpha_beta_divergence(student, student + 1.0, alpha, beta, temperature).item() < 1e-12


@pytest.mark.parametrize('alpha', [1e-9, 1e-5, 1e-3])
def test_alpha_beta_reaches_its_limits_continuously_in_float32(alpha):
    student, teacher = random(6, 50, spread=3.0)
    for at, near in (((0.0, 0.7), (alpha, 0.7)), ((0.7, 0.0), (0.7, alpha))):
        exact = alpha_beta_divergence(student, teacher, *at).item()
        assert alpha_beta_divergence(student.float(), teacher.float(), *near).item() == pytest.approx(exact, rel=0.01)


@each_loss
@pytest.mark.parametrize('apart', [0.0, 1e-5, 1e-4, 1e-2])
def test_near_equality_it_is_never_negative(loss, apart):
    teacher, noise = (x.float() for x in random(32, 4096, spread=3.0, seed=1))
    value, exact = (loss(s, t).item() for s, t in ((teacher + apart * noise, teacher), (
        (teacher + apart * noise).double(), teacher.double())))  # fmt: skip
    assert value >= 0.0
    assert value == pytest.approx(exact, rel=0.02, abs=1e-7)


@each_loss
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
@pytest.mark.parametrize('classes', [5, 8192])
def test_extreme_logits_are_finite(loss, dtype, classes):
    student, teacher = ((x * 1e4).to(dtype) for x in random(9, classes))
    student.requires_grad_()
    value = loss(student, teacher)
    value.backward()
    assert value.isfinite()
    assert value.dtype == torch.float32
    assert student.grad.isfinite().all()
    assert student.grad.dtype == dtype


@each_loss
def test_a_retained_graph_gives_the_gradient_twice(loss):
    student, teacher = (x.float() for x in random(*BIG))
    value = loss(student.requires_grad_(), teacher)
    (first,) = torch.autograd.grad(value, student, retain_graph=True)
    first = first.clone()
    torch.testing.assert_close(torch.autograd.grad(value, student)[0], first, rtol=0, atol=0)


@each_loss
def test_the_mean_runs_over_all_rows_and_no_rows_have_no_loss(loss):
    student, teacher = random(2, 3, 5)
    each = [loss(s, t).item() for s, t in zip(student.reshape(6, 1, 5), teacher.reshape(6, 1, 5))]
    assert loss(student, teacher).item() == pytest.approx(sum(each) / 6)
    empty = torch.zeros(0, 5, requires_grad=True)
    loss(empty, torch.zeros(0, 5)).backward()


@pytest.mark.parametrize(('twin', 'function'), TWINS)
def test_the_temperature_may_be_scheduled(twin, function):
    student, teacher = random(6, 5)
    loss = twin(temperature=1.0)
    assert loss(student, teacher) == function(student, teacher)
    loss.temperature = 4.0
    assert loss(student, teacher) == function(student, teacher, temperature=4.0)


@pytest.mark.parametrize(
    ('make', 'said'),
    [
        (lambda: SkewedKL(1.0), 'SkewedKL: alpha must be 0, or at least 0.001 and below 1, got 1.0'),
        (lambda: SkewedReverseKL(1e-6), 'SkewedReverseKL: alpha must be 0, or at least 0.001'),
        (lambda: skewed_kl(*random(2, 3), alpha=-0.1), 'skewed_kl: alpha must be a finite number of at least 0'),
        (lambda: AlphaBetaDivergence(0.0, 0.0), 'alpha and beta must not both be 0'),
        (lambda: AlphaBetaDivergence(-0.5, 1.0), 'alpha must be a finite number of at least 0'),
        (lambda: AdaptiveKL(1.0), 'head must be between 0 and 1'),
        (lambda: AdaptiveKL(0.0), 'head must be a positive finite number'),
        (lambda: TotalVariation(0.0), 'temperature must be a positive finite number'),
        (lambda: total_variation(*random(2, 3), temperature=math.nan), 'temperature must be a positive'),
        (lambda: adaptive_kl(torch.zeros(2, 3), torch.zeros(1, 3)), 'differ in shape'),
        (lambda: MultiTemperature(temperatures=[]), 'one weight for each of the 0 temperatures'),
        (lambda: MultiTemperature(temperatures=[1.0, 2.0], weights=[0.0, 0.0]), 'not all 0'),
        (lambda: MultiTemperature(temperatures=[1.0, -2.0]), 'each temperature must be a positive'),
        (lambda: MultiTemperature(total_variation), 'expected a loss with an attribute temperature'),
    ],
)
def test_what_is_out_of_bounds_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_multi_temperature_leaves_the_loss_as_it_was_and_passes_on_what_it_asks_for():
    student, teacher = random(6, 5)
    labels = torch.arange(6) % 5
    loss = MultiTemperature(DKD(temperature=7.0), [1.0, 2.0])
    expected = (dkd(student, teacher, labels, temperature=1.0) + dkd(student, teacher, labels, temperature=2.0)) / 2
    assert loss(student, teacher, labels=labels).item() == pytest.approx(expected.item())
    assert loss.wrapped.temperature == 7.0
    with pytest.raises(TypeError):
        loss(student, teacher)
    assert loss.wrapped.temperature == 7.0
    assert MultiTemperature(KLDivergence(softmax_dim=1)).softmax_dim == 1


@pytest.mark.parametrize('loss', [*(twin(temperature=2.0) for twin, _ in TWINS), MultiTemperature()], ids=repr)
def test_a_trainer_takes_the_mean_over_the_tokens_that_count(loss):
    def run(microbatch):
        recorder, data = Recorder(), torch.utils.data.DataLoader(tokens(attention=False), 8)
        algorithm = Distillation(TokenModel(seed=5), loss)
        train(TokenModel(), data, [algorithm], [recorder], device_train_microbatch_size=microbatch)
        return [batch['kd'] for batch in recorder.batches]

    whole = run(8)
    assert run(3) == pytest.approx(whole, rel=1e-4)
    batch = next(iter(torch.utils.data.DataLoader(tokens(attention=False), 8)))
    counts = batch['labels'] != -100
    with torch.no_grad():
        assert whole[0] == pytest.approx(loss(TokenModel()(batch)[counts], TokenModel(seed=5)(batch)[counts]).item())
