import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from composer_kd.losses import ChannelWiseKL, attention_transfer, channel_wise_kl, hint, normalized_mse, nst
from tests.losses.cases import feature as reference


def test_hint_is_a_mean_over_all_elements():
    student, teacher = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    teacher[0, 0, 0, 0] = 2.0
    assert hint(student, teacher).item() == pytest.approx(4 / 96)
    # not the mean of a broadcast, which mse_loss only warns of
    with pytest.raises(ValueError, match=r'student \(2, 3\) and teacher \(1, 3\)'):
        hint(torch.zeros(2, 3), torch.zeros(1, 3))


def test_attention_transfer_by_hand():
    # student: squares (9, 16) over one channel, norm sqrt(337); teacher: (16 + 0) / 2, (0 + 36) / 2 = (8, 18)
    student = torch.tensor([3.0, -4.0]).reshape(1, 1, 1, 2)
    teacher = torch.tensor([[4.0, 0.0], [0.0, 6.0]]).reshape(1, 2, 1, 2)
    s, t = (9 / math.sqrt(337), 16 / math.sqrt(337)), (8 / math.sqrt(388), 18 / math.sqrt(388))
    expected = ((s[0] - t[0]) ** 2 + (s[1] - t[1]) ** 2) / 2
    assert attention_transfer(student, teacher).item() == pytest.approx(expected, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    channels=st.tuples(*[st.integers(1, 3)] * 2),
    sizes=st.tuples(*[st.integers(1, 6)] * 4),
    seed=st.integers(0, 10**6),
)
def test_attention_transfer_of_any_channels_and_sizes(channels, sizes, seed):
    student, teacher, _ = reference.normal((2, channels[0], *sizes[:2]), (2, channels[1], *sizes[2:]))(seed)
    expected = reference.attention_transfer(student.numpy(), teacher.numpy())
    assert attention_transfer(student, teacher).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_attention_transfer_sees_neither_scale_nor_sign_nor_order_of_channels():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 4, 4)
    value = attention_transfer(student, teacher).item()
    for other in (student * 100, -student, student.flip(1), student.repeat(1, 2, 1, 1)):
        assert attention_transfer(other, teacher).item() == pytest.approx(value, rel=1e-4)
    assert attention_transfer(student.flip(2), teacher).item() != pytest.approx(value, rel=1e-2)


def test_attention_transfer_of_tokens_runs_over_positions():
    """Tokens (B, S, D) are maps of height S and width 1 with D channels."""
    student, teacher = torch.randn(2, 5, 3), torch.randn(2, 5, 7)
    maps = [x.transpose(1, 2).unsqueeze(-1) for x in (student, teacher)]
    assert attention_transfer(student, teacher).item() == pytest.approx(attention_transfer(*maps).item(), rel=1e-6)
    # sequences of other lengths are pooled too
    maps[0] = maps[0][:, :, :4]
    value = attention_transfer(student[:, :4], teacher).item()
    assert value == pytest.approx(attention_transfer(*maps).item(), rel=1e-6)


@pytest.mark.parametrize('flat', [False, True])
def test_attention_transfer_leaves_padding_out(flat):
    student, teacher = torch.randn(2, 4, 3).requires_grad_(), torch.randn(2, 4, 5)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    # a mean over the six positions that count: four of the first sample, two of the second
    first = attention_transfer(student[:1], teacher[:1]) * 4
    second = attention_transfer(student[1:, :2], teacher[1:, :2]) * 2
    value = attention_transfer(student, teacher, mask.flatten() if flat else mask)
    assert value.item() == pytest.approx((first + second).item() / 6, rel=1e-5)
    value.backward()
    assert (student.grad[~mask] == 0).all()
    assert (student.grad[mask] != 0).all()
    assert attention_transfer(student, teacher, torch.zeros_like(mask)).item() == 0.0


def test_attention_transfer_of_dead_features_has_a_moderate_gradient():
    student, teacher = torch.zeros(2, 3, 4, 4).requires_grad_(), torch.rand(2, 3, 4, 4)
    attention_transfer(student, teacher).backward()
    assert (student.grad == 0).all()
    student = torch.full((2, 3, 4, 4), 1e-5).requires_grad_()  # alive, if barely
    assert attention_transfer(student, torch.ones(2, 3, 4, 4)).item() < 1e-12


@pytest.mark.parametrize(
    ('student', 'teacher'), [((2, 3), (2, 3)), ((2, 3, 4), (2, 3, 4, 4)), ((2, 3, 4, 4), (1, 3, 4, 4))]
)
def test_attention_transfer_of_bad_shapes(student, teacher):
    with pytest.raises(ValueError, match='two features with positions'):
        attention_transfer(torch.zeros(student), torch.zeros(teacher))


def test_attention_transfer_of_a_bad_mask():
    mask = torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r'expected a mask \(2, 5\) or flat, got one tensor \(2, 4\)'):
        attention_transfer(torch.zeros(2, 5, 3), torch.zeros(2, 5, 3), mask)
    with pytest.raises(ValueError, match='does not fit'):
        attention_transfer(torch.zeros(2, 4, 3), torch.zeros(2, 5, 3), mask)


def test_channel_wise_kl_by_hand():
    # one channel as (1/4, 3/4) against (1/2, 1/2), another alike: half of the first's divergence
    student, teacher = torch.zeros(1, 2, 1, 2), torch.zeros(1, 2, 1, 2)
    teacher[0, 0, 0] = 2.0 * torch.tensor([1.0, 3.0]).log()
    divergence = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert channel_wise_kl(student, teacher, temperature=2.0).item() == pytest.approx(4 * divergence / 2, rel=1e-5)


def test_channel_wise_kl_is_over_positions_not_channels():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    value = channel_wise_kl(student, teacher).item()
    moved = channel_wise_kl(
        student + torch.randn(2, 3, 1, 1), teacher
    ).item()  # a softmax over positions is blind to it
    assert moved == pytest.approx(value, rel=1e-4)
    assert channel_wise_kl(student + torch.randn(2, 1, 4, 4), teacher).item() != pytest.approx(value, rel=1e-3)


def test_channel_wise_kl_keeps_its_temperature_at_call_time():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    loss = ChannelWiseKL()
    assert loss(student, teacher).item() == channel_wise_kl(student, teacher, 4.0).item()
    loss.temperature = 1.0
    assert loss(student, teacher).item() == channel_wise_kl(student, teacher, 1.0).item()


def test_channel_wise_kl_of_bad_input():
    with pytest.raises(ValueError, match=r'feature maps \(B, C, H, W\), got \(2, 3, 4\)'):
        channel_wise_kl(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match='differ in shape'):
        channel_wise_kl(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match='temperature must be a positive finite number'):
        ChannelWiseKL(temperature=0.0)


def test_normalized_mse_by_hand():
    # the directions (3, 4) / 5 and (1, 0): (0.4^2 + 0.8^2) = 0.8; a second vector of the same direction: 0
    student = torch.tensor([[[3.0, 4.0], [0.0, 2.0]]])
    teacher = torch.tensor([[[7.0, 0.0], [0.0, 9.0]]])
    assert normalized_mse(student, teacher).item() == pytest.approx(0.4, rel=1e-6)
    assert normalized_mse(student, -student).item() == pytest.approx(4.0, rel=1e-6)


def test_normalized_mse_of_maps_is_over_channels():
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, 3) for x in (student, teacher)]
    assert normalized_mse(student, teacher).item() == pytest.approx(normalized_mse(*rows).item(), rel=1e-6)


def test_normalized_mse_of_a_zero_vector_does_not_drown_the_others():
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    student[0] = 0.0
    student.requires_grad_()
    normalized_mse(student, teacher).backward()
    assert student.grad[0].abs().max() < 10 * student.grad[1:].abs().max()


def test_normalized_mse_of_bad_shapes():
    with pytest.raises(ValueError, match=r'student \(2, 3\) and teacher \(2, 4\)'):
        normalized_mse(torch.zeros(2, 3), torch.zeros(2, 4))


def test_nst_by_hand():
    # patterns (3, 4)/5 and (1, 0) of the student, (0, 1) of the teacher; k is the square of the inner product
    student = torch.tensor([[3.0, 4.0], [2.0, 0.0]]).reshape(1, 2, 1, 2)
    teacher = torch.tensor([[0.0, 7.0]]).reshape(1, 1, 1, 2)
    by_hand = 1.0 + (1 + 1 + 2 * 0.6**2) / 4 - 2 * (0.8**2 + 0.0) / 2
    assert nst(student, teacher).item() == pytest.approx(by_hand, rel=1e-6)


def test_nst_compares_patterns_of_any_size_and_order():
    student, teacher = (torch.randn(3, 4, 5, 5, dtype=torch.float64) for _ in range(2))
    value = nst(student, teacher).item()
    factors = torch.rand(3, 4, 1, 1, dtype=torch.float64) + 0.5
    assert nst(factors * student, teacher[:, [2, 0, 3, 1]]).item() == pytest.approx(value, rel=1e-9)
    assert nst(torch.cat([teacher, teacher], 1), teacher).item() == pytest.approx(0.0, abs=1e-12)
    each = [nst(s[None], t[None]).item() for s, t in zip(student, teacher)]
    assert value == pytest.approx(sum(each) / 3, rel=1e-9)


def test_nst_pools_the_larger_map():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 4)
    small = torch.nn.functional.avg_pool2d(student, (2, 1))
    assert nst(student, teacher).item() == pytest.approx(nst(small, teacher).item(), rel=1e-5)
    assert nst(torch.randn(2, 3, 2, 2, 2), torch.randn(2, 4, 2, 2, 2)) > 0


def test_nst_of_bad_shapes():
    for student, teacher in (((2, 3), (2, 3)), ((2, 3, 4), (2, 3, 4)), ((2, 3, 4, 4), (1, 3, 4, 4))):
        with pytest.raises(ValueError, match=r'nst: expected two feature maps \(B, C, H, W\) .*student \(2, 3'):
            nst(torch.zeros(student), torch.zeros(teacher))
