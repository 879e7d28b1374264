import math

import pytest
import torch

from composer_kd.losses import VID


@pytest.mark.parametrize('var', [5.0, 0.5, 100.0, 0.01])
def test_the_variance_begins_as_asked(var):
    """With a mean of 0 and a teacher of 0 the loss is half of log(variance)."""
    loss = VID(3, 4, init_var=var)
    value = loss(torch.zeros(2, 3), torch.zeros(2, 4))
    assert value.item() == pytest.approx(0.5 * math.log(var), rel=1e-4, abs=1e-6)
    assert loss.raw.shape == (4,)


def test_each_channel_has_its_variance():
    loss = VID(1, 2, eps=1e-5)
    with torch.no_grad():
        loss.raw.copy_(torch.tensor([0.0, 40.0]))  # softplus: log 2 and 40
    teacher = torch.tensor([[1.0, 6.0]])
    first, second = math.log(2) + 1e-5, 40 + 1e-5
    expected = (0.5 * (1 / first + math.log(first)) + 0.5 * (36 / second + math.log(second))) / 2
    assert loss(torch.zeros(1, 1), teacher).item() == pytest.approx(expected, rel=1e-5)


def test_the_regressor_sees_each_position_alone():
    loss = VID(3, 4)
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 4, 4, 5)
    rows = [x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]) for x in (student, teacher)]
    tokens = [x.flatten(2).transpose(1, 2) for x in (student, teacher)]
    expected = loss(student, teacher).item()
    assert loss(*rows).item() == pytest.approx(expected, rel=1e-5)
    assert loss(*tokens).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(('student', 'teacher'), [((4, 4), (2, 2)), ((2, 2), (4, 4))])
def test_the_larger_side_is_pooled(student, teacher):
    loss = VID(3, 4)
    student, teacher = torch.randn(2, 3, *student), torch.randn(2, 4, *teacher)
    blocks = [x.reshape(2, -1, 2, 2, 2, 2).mean((3, 5)) if x.shape[-1] == 4 else x for x in (student, teacher)]
    assert loss(student, teacher).item() == pytest.approx(loss(*blocks).item(), rel=1e-5)


def test_it_learns_what_the_student_tells():
    """Of a teacher that is the student twice and as much noise, the first becomes certain, the second does not."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    loss = VID(2, 8)
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.05)
    for _ in range(200):
        student = torch.rand(64, 2, generator=generator)
        teacher = torch.cat([student, student, torch.randn(64, 4, generator=generator)], 1)
        optimizer.zero_grad()
        loss(student, teacher).backward()
        optimizer.step()
    variance = torch.nn.functional.softplus(loss.raw.detach())
    assert variance[:4].max() < 0.2
    assert variance[4:].min() > 0.6


def test_all_of_it_and_the_student_get_gradients():
    loss = VID(3, 4)
    student, teacher = torch.randn(2, 3, 4, 4).requires_grad_(), torch.randn(2, 4, 4, 4).requires_grad_()
    loss(student, teacher).backward()
    assert len(list(loss.parameters())) == 4
    for tensor in (student, *loss.parameters()):
        assert tensor.grad.abs().max() > 0
    assert teacher.grad is None


@pytest.mark.parametrize(
    ('student', 'teacher'), [((2, 3), (2, 5)), ((2, 7, 3), (2, 7, 5)), ((2, 3, 4, 4), (2, 5, 2, 2))]
)
def test_build_reads_the_channels(student, teacher):
    loss = VID()
    assert not list(loss.parameters())
    loss.build(torch.Size(student), torch.Size(teacher))
    assert (loss.student_channels, loss.teacher_channels) == (3, 5)
    assert loss(torch.randn(student), torch.randn(teacher)).isfinite()
    before = [parameter.clone() for parameter in loss.parameters()]
    loss.build(torch.Size(student), torch.Size(teacher))  # again: only a check
    assert all(torch.equal(*pair) for pair in zip(before, loss.parameters()))


def test_forward_before_build():
    with pytest.raises(RuntimeError, match=r'call build\(student.shape, teacher.shape\) first'):
        VID()(torch.zeros(2, 3), torch.zeros(2, 4))


def test_state_goes_round():
    one, other = VID(3, 4), VID()
    other.build(torch.Size((2, 3)), torch.Size((2, 4)))
    with torch.no_grad():
        one.raw.add_(1.0)
    inputs = torch.randn(2, 3), torch.randn(2, 4)
    assert one(*inputs).item() != other(*inputs).item()
    other.load_state_dict(one.state_dict())
    assert one(*inputs).item() == other(*inputs).item()


def test_parameters_in_half_precision_are_computed_in_float32():
    loss = VID(3, 4)
    student, teacher = torch.randn(2, 3, 2, 2), torch.randn(2, 4, 2, 2)
    half = VID(3, 4).bfloat16()
    half.load_state_dict(loss.state_dict())
    loss.load_state_dict(half.state_dict())  # the same rounded numbers
    value = half(student.bfloat16(), teacher.bfloat16())
    value.backward()
    exact = loss(student.bfloat16().float(), teacher.bfloat16().float())
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-6)
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in half.parameters())


def test_features_that_do_not_fit():
    loss = VID(3, 4)
    with pytest.raises(ValueError, match=r'built for 3 channels of the student and 4 .* student \(2, 4\)'):
        loss(torch.zeros(2, 4), torch.zeros(2, 3))
    with pytest.raises(ValueError, match='built for 3'):
        loss.build(torch.Size((2, 5, 3, 3)), torch.Size((2, 4, 3, 3)))
    for student, teacher in (((2, 5, 3), (2, 6, 4)), ((2, 3), (1, 4)), ((2, 3), (2, 4, 1, 1)), ((2,), (2,))):
        with pytest.raises(ValueError, match='two features of the same samples'):
            loss(torch.zeros(student), torch.zeros(teacher))


def test_bad_settings():
    with pytest.raises(ValueError, match='both student_channels and teacher_channels, or neither, got 3 and None'):
        VID(student_channels=3)
    with pytest.raises(ValueError, match='teacher_channels must be a positive int, got 0'):
        VID(3, 0)
    with pytest.raises(ValueError, match='init_var'):
        VID(3, 4, init_var=1e-6)
    with pytest.raises(ValueError, match='eps must be a positive finite number'):
        VID(3, 4, eps=0.0)
