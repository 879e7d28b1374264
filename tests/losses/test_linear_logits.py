"""Losses of a linear head in chunks of positions, against the same losses of the whole logits in plain torch."""

import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.losses import (
    DIST,
    GeneralizedJSD,
    KLDivergence,
    LogitStandardization,
    ReverseKL,
    SoftCrossEntropy,
    kl_divergence,
    linear_logits,
    mse,
    rkd,
)
from composer_kd.losses.linear_logits import LinearLogits, MeanLogits, in_chunks, sum_in_chunks
from composer_kd.losses.sparse import SparseTarget, coarse, top_logits

LOSSES = {
    'kl': KLDivergence(2.0),
    'reverse': ReverseKL(2.0),
    'soft cross-entropy': SoftCrossEntropy(1.0),
    'jsd': GeneralizedJSD(0.3, 2.0),
    'standardised': LogitStandardization(KLDivergence(2.0)),
    'mse': mse,
    'partial': functools.partial(kl_divergence, temperature=3.0),
}


@pytest.fixture(autouse=True)
def few_logits_at_once(monkeypatch):
    monkeypatch.setitem(linear_logits._CHUNK, 'cpu', 40)


def head(positions=(3, 5), classes=9, width=4, teacher_width=6, seed=0, bias=True, dtype=torch.float64, **settings):
    """Logits of a student, whose tensors take gradients, and of a teacher."""
    chance = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=chance, dtype=dtype)

    student = LinearLogits(
        drawn(*positions, width).requires_grad_(),
        drawn(classes, width).requires_grad_(),
        drawn(classes).requires_grad_() if bias else None,
        **settings,
    )
    teacher = LinearLogits(drawn(*positions, teacher_width), drawn(classes, teacher_width), drawn(classes))
    return student, teacher


def sources(logits):
    return [x for x in (logits.hidden, logits.weight, logits.bias) if x is not None]


def plain(logits):
    """What the whole logits are, written out."""
    z = logits.hidden @ logits.weight.t()
    z = logits.scale * (z if logits.bias is None else z + logits.bias)
    return z if logits.softcap is None else logits.softcap * torch.tanh(z / logits.softcap)


def assert_same(value, expected, logits, **close):
    torch.testing.assert_close(value, expected, **close)
    ours = torch.autograd.grad(value, sources(logits))
    theirs = torch.autograd.grad(expected, sources(logits))
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, **close)


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(sorted(LOSSES)),
    batch=st.integers(1, 4),
    length=st.integers(1, 7),
    classes=st.integers(2, 50),
    seed=st.integers(0, 99),
    bias=st.booleans(),
    scale=st.sampled_from([1.0, 0.25]),
    softcap=st.sampled_from([None, 2.0]),
    masked=st.booleans(),
)
def test_value_and_gradients_are_those_of_the_whole_logits(
    name, batch, length, classes, seed, bias, scale, softcap, masked
):
    student, teacher = head((batch, length), classes, seed=seed, bias=bias, scale=scale, softcap=softcap)
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < 0.6 if masked else None
    kept = torch.ones(batch, length, dtype=torch.bool) if mask is None else mask
    value = in_chunks(LOSSES[name], student, teacher, mask)
    if not kept.any():
        assert value.item() == 0.0
        assert value.requires_grad
        return
    assert_same(value, LOSSES[name](plain(student)[kept], plain(teacher)[kept]), student)


@pytest.mark.parametrize('given_as', ['logits', 'sparse', 'hidden'])
def test_a_teacher_is_taken_in_any_form(given_as):
    student, teacher = head()
    forms = {'logits': teacher.dense(), 'sparse': top_logits(teacher.dense(), 4, 2.0), 'hidden': teacher}

    def loss(logits, target):
        pair = coarse(logits, target) if isinstance(target, SparseTarget) else (logits, target)
        return kl_divergence(*pair, 2.0)

    rows = plain(student).flatten(0, 1)
    target = forms[given_as].rows() if given_as == 'sparse' else plain(teacher).flatten(0, 1)
    assert_same(in_chunks(loss, student, forms[given_as]), loss(rows, target), student, rtol=1e-6, atol=1e-9)


def test_labels_and_teacher_in_one_pass():
    student, teacher = head()
    labels = torch.arange(15).reshape(3, 5) % 9
    labels[0, :3] = -100

    def both(logits, target, labels):
        return 0.9 * kl_divergence(logits, target, 2.0) + 0.1 * F.cross_entropy(logits, labels)

    kept = labels != -100
    expected = both(plain(student)[kept], plain(teacher)[kept], labels[kept])
    assert_same(in_chunks(both, student, teacher, kept, labels=labels), expected, student)
    flat = in_chunks(both, student, teacher, kept.flatten(), labels=labels.flatten())
    torch.testing.assert_close(flat, expected)


def test_labels_alone():
    student, _ = head(bias=False)
    labels = torch.arange(15).reshape(3, 5) % 9
    value = in_chunks(lambda logits, labels: F.cross_entropy(logits, labels), student, labels=labels)
    assert_same(value, F.cross_entropy(plain(student).flatten(0, 1), labels.flatten()), student)


def test_an_embedding_that_the_head_is_tied_to_gets_both_gradients():
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(9, 4).double()
    tokens, (_, teacher) = torch.randint(9, (3, 5)), head()
    student = LinearLogits(embedding(tokens).tanh(), embedding.weight)
    value, expected = in_chunks(LOSSES['kl'], student, teacher), LOSSES['kl'](plain(student), plain(teacher))
    for one, other in zip(*(torch.autograd.grad(x, embedding.weight, retain_graph=True) for x in (value, expected))):
        torch.testing.assert_close(one, other)


def test_only_what_is_trained_gets_a_gradient():
    student, teacher = head()
    frozen = LinearLogits(student.hidden, student.weight.detach(), student.bias.detach())
    value = in_chunks(LOSSES['kl'], frozen, teacher)
    expected = LOSSES['kl'](plain(student), plain(teacher))
    torch.testing.assert_close(*(torch.autograd.grad(x, student.hidden)[0] for x in (value, expected)))
    with torch.no_grad():
        torch.testing.assert_close(in_chunks(LOSSES['kl'], student, teacher), expected)


def test_a_factor_and_a_second_pass_through_a_retained_graph():
    student, teacher = head()
    value, expected = (5.0 * x for x in (in_chunks(LOSSES['kl'], student, teacher),
                                         LOSSES['kl'](plain(student), plain(teacher))))  # fmt: skip
    for _ in range(2):
        ours, theirs = (torch.autograd.grad(x, sources(student), retain_graph=True) for x in (value, expected))
        for one, other in zip(ours, theirs):
            torch.testing.assert_close(one, other)


def test_a_second_derivative_is_refused():
    student, teacher = head()
    (slope,) = torch.autograd.grad(in_chunks(LOSSES['kl'], student, teacher), student.hidden, create_graph=True)
    with pytest.raises(RuntimeError, match='no second derivative'):
        slope.square().sum().backward()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast_the_products_have_its_dtype(dtype):
    student, teacher = head((8, 5), classes=30, width=16, dtype=torch.float32)
    with torch.autocast('cpu', dtype):
        value = in_chunks(LOSSES['kl'], student, teacher)
        expected = LOSSES['kl'](student.dense(), teacher.dense())
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    exact = torch.autograd.grad(LOSSES['kl'](plain(student), plain(teacher)), sources(student))
    for one, other in zip(torch.autograd.grad(value, sources(student)), exact):
        assert one.dtype == other.dtype
        assert (one - other).norm() < 0.02 * other.norm()


@pytest.mark.parametrize('kind', [torch.float32, torch.float16], ids=['float32', 'float16'])
def test_small_gradients_survive_float16(kind):
    """As the factor of a GradScaler comes only with the backward pass, when all is added up already."""
    student, teacher = head((64, 5), classes=30, width=16, dtype=torch.float32)
    mine = replace(student, hidden=student.hidden.to(kind))  # as the body of the model returns them
    with torch.autocast('cpu', torch.float16):
        value = 1e-6 * in_chunks(lambda s, t: 1e-4 * kl_divergence(s, t), mine, teacher)
    exact = 1e-10 * kl_divergence(plain(student), plain(teacher))
    for ours, theirs in zip(*(torch.autograd.grad(1e10 * x, sources(student)) for x in (value, exact))):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()


def test_weights_in_bfloat16_have_the_gradient_of_whole_logits():
    student, teacher = head((64, 64), classes=30, width=16, dtype=torch.float32)  # 4,096 chunks
    half = LinearLogits(*(x.detach().bfloat16().requires_grad_() for x in sources(student)))
    value = in_chunks(LOSSES['kl'], half, teacher)
    exact = LOSSES['kl'](plain(LinearLogits(*(x.double() for x in sources(half)))), plain(teacher).double())
    for ours, theirs in zip(*(torch.autograd.grad(x, sources(half)) for x in (value, exact))):
        assert ours.dtype == torch.bfloat16
        assert (ours - theirs).norm() < 0.01 * theirs.norm()


def test_a_padded_vocabulary_is_cut():
    student, teacher = head(classes=12)
    value = in_chunks(LOSSES['kl'], student.classes(9), teacher.classes(9))
    expected = LOSSES['kl'](plain(student)[..., :9], plain(teacher)[..., :9])
    assert_same(value, expected, student)
    assert student.classes(9).shape == (3, 5, 9)


def test_several_losses_of_several_teachers_in_one_pass():
    student, teacher = head()
    other, labels = head(seed=1)[1], torch.arange(15).reshape(3, 5) % 9
    kept = torch.arange(15) % 3 != 0

    def losses(rows, one, two, labels):
        values = {'kl': kl_divergence(rows, one), 'mse': mse(rows, two), 'task': F.cross_entropy(rows, labels)}
        return {'total': 0.5 * values['kl'] + 2.0 * values['mse'] + 0.1 * values['task'], **values}

    found = sum_in_chunks(
        losses, student, kept, one=teacher, two=top_logits(plain(other), 9, 1.0).dense(), labels=labels
    )
    rows = plain(student).flatten(0, 1)[kept]
    given = [plain(teacher), top_logits(plain(other), 9, 1.0).dense()]
    whole = losses(rows, *(x.flatten(0, 1)[kept] for x in given), labels.flatten()[kept])
    assert list(found) == ['total', 'kl', 'mse', 'task']
    for name in ('kl', 'mse', 'task'):
        torch.testing.assert_close(found[name], whole[name].detach())
    assert_same(found['total'], whole['total'], student)
    assert sum_in_chunks(losses, student, kept & False, one=teacher, two=teacher, labels=labels)['total'] == 0.0


def test_the_mean_of_several_teachers():
    student, teacher = head()
    dense = torch.randn(3, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    mean = MeanLogits((MeanLogits((teacher,), (0.25,)), dense), (1.0, 0.75))
    expected = 0.25 * plain(teacher) + 0.75 * dense
    torch.testing.assert_close(mean.dense(), expected)
    torch.testing.assert_close(mean.classes(4).dense(), expected[..., :4])
    assert mean.shape == (3, 5, 9)
    mask = torch.arange(15) % 2 == 0
    rows, targets = (x.flatten(0, 1)[mask] for x in (plain(student), expected))
    assert_same(in_chunks(LOSSES['kl'], student, mean, mask), LOSSES['kl'](rows, targets), student)


def test_the_logits_are_never_whole(monkeypatch):
    seen = []
    student, teacher = head((6, 10), classes=20)

    def loss(logits, target):
        seen.append((logits.shape, target.shape))
        return kl_divergence(logits, target)

    in_chunks(loss, student, teacher, torch.arange(60).reshape(6, 10) % 4 == 0)
    assert seen == [((2, 20), (2, 20))] * 7 + [((1, 20), (1, 20))]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'loss': DIST()}, 'compares positions with one another'),
        ({'loss': functools.partial(rkd, distance_weight=1.0)}, 'compares positions with one another'),
        ({'loss': lambda s, t: t.mean()}, 'does not depend on the student'),
        (
            {'teacher': torch.zeros(3, 4, 9)},
            r'teacher: expected one for each position of the student, \(3, 5\), got \(3, 4, 9\)',
        ),
        ({'teacher': [torch.zeros(3, 5, 9)]}, 'expected logits, LinearLogits or a sparse target'),
        ({'mask': torch.ones(3, 4)}, r'expected a mask \(15,\)'),
        (
            {'labels': torch.zeros(4, 5)},
            r'labels: expected one for each position of the student, \(3, 5\), got \(4, 5\)',
        ),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    student, teacher = head()
    loss, teacher = change.pop('loss', LOSSES['kl']), change.pop('teacher', teacher)
    with pytest.raises(ValueError, match=message):
        in_chunks(loss, student, teacher, **change)


def test_a_loss_that_learns_is_refused():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.ones(()))

        def forward(self, student, teacher):
            return self.factor * kl_divergence(student, teacher)

    with pytest.raises(ValueError, match='weights that are trained'):
        in_chunks(Scaled(), *head())


@pytest.mark.parametrize(
    ('parts', 'message'),
    [
        (
            (torch.zeros(2, 3), torch.zeros(5, 4)),
            r'weight \(V, D\), got \(2, 3\) and \(5, 4\)',
        ),
        ((torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(4)), r'a bias \(5,\), got \(4,\)'),
        ((torch.zeros(2, 3), torch.zeros(5, 3), None, 0.0), 'scale must be a positive finite number'),
        ((torch.zeros(2, 3), torch.zeros(5, 3), None, 1.0, -1.0), 'softcap must be a positive finite number'),
    ],
)
def test_sizes_are_checked(parts, message):
    with pytest.raises(ValueError, match=message):
        LinearLogits(*parts)
