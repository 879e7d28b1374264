import math

import pytest
import torch

from composer_kd.losses import ValueRelationKL, attention_kl, attention_mse, value_relation_kl

MASK = torch.tensor([[True, True, True], [True, False, False]])
NONE = torch.zeros_like(MASK)


def probabilities(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


def attentions():
    return probabilities(2, 4, 3, 3), probabilities(2, 4, 3, 3, seed=1)


def values():
    return torch.randn(2, 3, 4), torch.randn(2, 3, 6)


ALL = [
    (attention_mse, attentions),
    (attention_kl, attentions),
    (ValueRelationKL(heads=2), values),
]
IDS = ['attention_mse', 'attention_kl', 'value_relation_kl']


@pytest.mark.parametrize(('loss', 'inputs'), ALL, ids=IDS)
def test_padding_is_as_if_it_were_not_there(loss, inputs):
    """The first sample is whole, the second has one token: one query in four."""
    student, teacher = inputs()
    # the sample alone, cut to what counts; cut attention is brought to a sum of 1 by attention_kl itself
    short = [x[1:, :, :1, :1] if x.ndim == 4 else x[1:, :1] for x in (student, teacher)]
    long, short = loss(student[:1], teacher[:1]), loss(*short)
    expected = (3 * long + short) / 4  # by valid queries, as microbatches are weighed
    assert loss(student, teacher, mask=MASK).item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss(student, teacher, mask=MASK.flatten()).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(('loss', 'inputs'), ALL, ids=IDS)
def test_a_mask_of_ones_changes_nothing(loss, inputs):
    student, teacher = inputs()
    masked = loss(student, teacher, mask=torch.ones_like(MASK))
    assert loss(student, teacher).item() == pytest.approx(masked.item(), rel=1e-5)


@pytest.mark.parametrize(('loss', 'inputs'), ALL, ids=IDS)
@pytest.mark.parametrize('garbage', [math.nan, math.inf, -math.inf], ids=str)
def test_padding_may_hold_anything(loss, inputs, garbage):
    student, teacher = inputs()
    clean = loss(student, teacher, mask=MASK)
    outside = ~(MASK[:, None, :, None] & MASK[:, None, None, :]) if student.ndim == 4 else ~MASK[:, :, None]
    student, teacher = (x.masked_fill(outside, garbage) for x in (student, teacher))
    student.requires_grad_()
    value = loss(student, teacher, mask=MASK)
    value.backward()
    assert value.item() == pytest.approx(clean.item(), rel=1e-6)
    assert student.grad.isfinite().all()
    assert (student.grad[outside.expand_as(student)] == 0).all()


@pytest.mark.parametrize(('loss', 'inputs'), ALL, ids=IDS)
def test_nothing_valid_is_zero(loss, inputs):
    student, teacher = inputs()
    student.requires_grad_()
    value = loss(student, teacher, mask=NONE)
    value.backward()
    assert value.item() == 0.0
    assert (student.grad == 0).all()


@pytest.mark.parametrize(('loss', 'inputs'), ALL, ids=IDS)
def test_does_not_grow_with_length_or_heads(loss, inputs):
    """Twice the heads, the same in each: the same mean."""
    student, teacher = inputs()
    value = loss(student, teacher).item()
    if student.ndim == 4:
        assert loss(student.repeat(1, 2, 1, 1), teacher.repeat(1, 2, 1, 1)).item() == pytest.approx(value, rel=1e-5)
    else:
        more = value_relation_kl(student.repeat(1, 1, 2), teacher.repeat(1, 1, 2), heads=4).item()
        assert more == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(('loss', 'inputs'), ALL, ids=IDS)
@pytest.mark.parametrize('mask', [torch.ones(2, 4, dtype=torch.bool), torch.ones(5, dtype=torch.bool)], ids=str)
def test_a_mask_that_does_not_fit(loss, inputs, mask):
    with pytest.raises(ValueError, match=r'expected a mask \(2, 3\) or flat'):
        loss(*inputs(), mask=mask)


@pytest.mark.parametrize('loss', [attention_mse, attention_kl])
def test_attention_needs_the_same_heads(loss):
    with pytest.raises(
        ValueError, match=r'same number of heads, got student \(2, 4, 3, 3\) and teacher \(2, 2, 3, 3\)'
    ):
        loss(torch.ones(2, 4, 3, 3), torch.ones(2, 2, 3, 3))
    with pytest.raises(ValueError, match='as many queries as keys'):  # across two sequences there is no one mask
        loss(torch.ones(2, 4, 3, 5), torch.ones(2, 4, 3, 5), mask=MASK)
    assert loss(torch.ones(2, 4, 3, 5), torch.ones(2, 4, 3, 5)).item() == 0.0


def test_attention_mse_by_hand():
    student = torch.tensor([[0.5, 0.5], [1.0, 0.0]]).reshape(1, 1, 2, 2)
    teacher = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 1, 2, 2)
    assert attention_mse(student, teacher).item() == pytest.approx((0.25 + 0.25) / 4)


def test_attention_kl_by_hand_and_in_its_direction():
    # the first query: 1/4 log 1/2 + 3/4 log 3/2; the second is alike
    student = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).reshape(1, 1, 2, 2)
    teacher = torch.tensor([[0.25, 0.75], [0.1, 0.9]]).reshape(1, 1, 2, 2)
    by_hand = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert attention_kl(student, teacher).item() == pytest.approx(by_hand / 2, rel=1e-5)
    assert attention_kl(teacher, student).item() != pytest.approx(by_hand / 2, rel=1e-2)


def test_attention_kl_of_exact_zeros():
    """Causal attention has them on both sides, hard attention on either."""
    student, teacher = (x.tril() / x.tril().sum(-1, keepdim=True) for x in attentions())
    student.requires_grad_()
    value = attention_kl(student, teacher)
    value.backward()
    by_row = [
        sum(t * math.log(t / s) for s, t in zip(*rows) if t > 0)
        for rows in zip(student.detach().flatten(0, 2).tolist(), teacher.flatten(0, 2).tolist())
    ]
    assert value.item() == pytest.approx(sum(by_row) / len(by_row), rel=1e-5)
    assert student.grad.isfinite().all()
    assert (student.grad.triu(1) == 0).all()

    student, teacher = torch.eye(2).reshape(1, 1, 2, 2).requires_grad_(), torch.eye(2).flip(0).reshape(1, 1, 2, 2)
    value = attention_kl(student, teacher)
    value.backward()
    assert value.item() == pytest.approx(12 * math.log(10), rel=1e-5)  # as bad as it gets: a probability of 1e-12
    assert student.grad.isfinite().all()


def test_attention_kl_is_blind_to_the_rounding_of_a_sum():
    student, teacher = attentions()
    assert attention_kl(student * 1.01, teacher * 0.99).item() == pytest.approx(
        attention_kl(student, teacher).item(), rel=1e-5
    )


def test_value_relation_by_hand():
    # one head of size 2: scores / sqrt(2); the student's positions are alike
    student = torch.zeros(1, 2, 4)
    teacher = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]]) * math.sqrt(math.log(3.0) / math.sqrt(2.0))  # (3/4, 1/4)
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert value_relation_kl(student, teacher, heads=1).item() == pytest.approx(divergence / 2, rel=1e-5)
    assert value_relation_kl(teacher, student, heads=1).item() != pytest.approx(divergence / 2, rel=1e-2)


def test_value_relation_looks_at_heads_apart():
    student, teacher = values()
    value = value_relation_kl(student, teacher, heads=2).item()
    swapped = torch.cat([student[..., 2:], student[..., :2]], -1)  # head against another head
    assert value_relation_kl(swapped, teacher, heads=2).item() != pytest.approx(value, rel=1e-3)
    assert value_relation_kl(student, teacher, heads=1).item() != pytest.approx(value, rel=1e-3)
    turned = student * torch.tensor([-1.0, -1.0, 1.0, 1.0])  # a relation is blind to a rotation within a head
    assert value_relation_kl(turned, teacher, heads=2).item() == pytest.approx(value, rel=1e-5)


def test_value_relation_reads_its_heads_at_call_time():
    student, teacher = values()
    loss = ValueRelationKL(heads=1)
    loss.heads = 2
    assert loss(student, teacher).item() == value_relation_kl(student, teacher, heads=2).item()
    assert ValueRelationKL().heads == 12


def test_value_relation_of_bad_input():
    with pytest.raises(ValueError, match='5 heads must divide'):
        value_relation_kl(torch.zeros(2, 3, 10), torch.zeros(2, 3, 4), heads=5)
    with pytest.raises(ValueError, match='same B and S'):
        value_relation_kl(torch.zeros(2, 3, 4), torch.zeros(2, 4, 4), heads=2)
    with pytest.raises(ValueError, match=r'values \(B, S, D\)'):
        value_relation_kl(torch.zeros(6, 4), torch.zeros(6, 4), heads=2)


@pytest.mark.parametrize('heads', [0, -1, 2.0, True, None, '12'])
def test_bad_heads(heads):
    with pytest.raises(ValueError, match='heads must be a positive int'):
        ValueRelationKL(heads=heads)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('logit', [-20.0, -27.0, -28.0, -40.0, -80.0])
def test_attention_that_the_student_has_lost_can_rise_again(dtype, logit):
    """Through the softmax, the gradient is p_s - p_t at any size of p_s, also where the value is capped at 1e-12."""
    scores = torch.tensor([0.0, 1.0, logit], dtype=dtype).expand(1, 1, 3, 3).clone().requires_grad_()
    teacher = torch.tensor([0.2, 0.3, 0.5], dtype=dtype).expand(1, 1, 3, 3)
    attention_kl(scores.softmax(-1), teacher).backward()
    expected = (scores.detach().double().softmax(-1) - teacher.double()) / 3
    torch.testing.assert_close(scores.grad.double(), expected, rtol=1e-5, atol=1e-6)


def test_probabilities_below_the_cap_count_as_the_cap():
    teacher = torch.tensor([0.5, 0.5]).expand(1, 1, 2, 2)
    for least in (1e-12, 1e-13, 1e-30, 1e-40, 0.0):
        student = torch.tensor([1.0, least]).expand(1, 1, 2, 2)
        expected = 0.5 * math.log(0.5) + 0.5 * math.log(0.5e12)
        assert attention_kl(student, teacher).item() == pytest.approx(expected, rel=1e-5)


def test_exact_zeros_of_attention_have_no_gradient():
    student = torch.tensor([0.75, 0.25, 0.0]).expand(1, 1, 3, 3).clone().requires_grad_()
    teacher = torch.tensor([0.5, 0.25, 0.25]).expand(1, 1, 3, 3)
    attention_kl(student, teacher).backward()
    assert not student.grad[..., 2].any()
    assert student.grad[..., :2].any()
