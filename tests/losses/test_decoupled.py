import math

import pytest
import torch
import torch.nn.functional as F

from composer_kd.losses import DKD, NKD, _fused, dkd, kl_divergence, nkd

STUDENT, TEACHER = torch.zeros(1, 3), torch.tensor([[4.0, 3.0, 1.0]]).log()  # thirds; 1/2, 3/8, 1/8
OF_TARGET = 1 / 2 * math.log(3 / 2) + 1 / 2 * math.log(3 / 4)
OF_OTHERS = 3 / 4 * math.log(3 / 2) + 1 / 4 * math.log(1 / 2)


def random(rows=6, classes=5):
    student, teacher = (2 * torch.randn(rows, classes, dtype=torch.float64) for _ in range(2))
    return student, teacher, torch.randint(classes, (rows,))


@pytest.mark.parametrize(('alpha', 'beta'), [(1.0, 8.0), (1.0, 0.0), (0.0, 1.0), (2.0, 3.0)])
def test_dkd_by_hand(alpha, beta):
    value = dkd(STUDENT, TEACHER, torch.tensor([0]), alpha, beta, temperature=1.0).item()
    assert value == pytest.approx(alpha * OF_TARGET + beta * OF_OTHERS, rel=1e-5, abs=1e-7)


def test_dkd_with_the_share_of_the_others_for_beta_is_kl():
    """The paper's equation 6: KL = TCKD + (1 - p_t of the label) NCKD, sample by sample."""
    for student, teacher, label in zip(*random()):
        others = 1 - (teacher / 3).softmax(-1)[label].item()
        value = dkd(student[None], teacher[None], label[None], 1.0, others, 3.0)
        assert value.item() == pytest.approx(kl_divergence(student[None], teacher[None], 3.0).item())


def test_dkd_of_a_certain_teacher_keeps_what_it_says_of_the_others():
    """Where 1 - p of the label rounds to 0, logarithms of probabilities would be infinite or capped."""
    teacher, student = torch.tensor([[60.0, 2.0, 1.0]]), torch.tensor([[50.0, 1.0, 2.0]])
    value = dkd(student, teacher, torch.tensor([0]), temperature=1.0).item()
    p = 1 / (1 + math.exp(-1))
    assert value == pytest.approx(8 * (2 * p - 1), rel=1e-5)


def test_dkd_hides_the_label_among_the_others():
    student, teacher, labels = random()
    moved = student + 5.0 * F.one_hot(labels, 5)
    assert dkd(student, teacher, labels, alpha=0.0).item() == pytest.approx(dkd(moved, teacher, labels, 0.0).item())
    assert dkd(student, teacher, labels, beta=0.0).item() != pytest.approx(dkd(moved, teacher, labels, beta=0.0).item())


def test_two_classes_leave_nothing_among_the_others():
    student, teacher, labels = random(classes=2)
    student.requires_grad_()
    value = dkd(student, teacher, labels, temperature=2.0)
    assert value.item() == pytest.approx(kl_divergence(student, teacher, 2.0).item())
    (grad,) = torch.autograd.grad(value, student)
    assert grad.isfinite().all()


@pytest.mark.parametrize('temperature', [1.0, 2.0])
def test_nkd_by_hand(temperature):
    """The temperature is for the other classes only."""
    others = torch.tensor([3.0, 1.0]).pow(1 / temperature)
    p = (others / others.sum()).tolist()
    student = torch.tensor([[3.0, 2.0, 1.0]]).log()
    q = torch.tensor([2.0, 1.0]).pow(1 / temperature)
    log_q = (q / q.sum()).log().tolist()
    by_hand = -1 / 2 * math.log(3 / 6) - 1.5 * temperature**2 * (p[0] * log_q[0] + p[1] * log_q[1])
    value = nkd(student, TEACHER, torch.tensor([0]), temperature=temperature).item()
    assert value == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize('loss', [dkd, nkd])
def test_a_sample_without_label_takes_the_teachers_top_class(loss):
    student, teacher, labels = random()
    labels[[1, 4]] = -100
    filled = torch.where(labels == -100, teacher.argmax(-1), labels)
    assert loss(student, teacher, labels) == loss(student, teacher, filled)
    assert labels[1] == -100  # the batch is never changed


@pytest.mark.parametrize('loss', [dkd, nkd])
def test_labels_matter_and_positions_are_rows(loss):
    student, teacher, labels = random()
    value = loss(student, teacher, labels)
    assert value.item() != pytest.approx(loss(student, teacher, (labels + 1) % 5).item())
    positions = loss(student.reshape(2, 3, 5), teacher.reshape(2, 3, 5), labels.reshape(2, 3))
    assert positions.item() == pytest.approx(value.item())


@pytest.mark.parametrize('loss', [dkd, nkd])
def test_bad_inputs(loss):
    student, teacher, labels = random()
    name = loss.__name__
    with pytest.raises(ValueError, match=rf'{name}: expected labels of 6 rows as class indices, got \(5,\)'):
        loss(student, teacher, labels[:5])
    with pytest.raises(ValueError, match=rf'{name}: expected labels .*float'):
        loss(student, teacher, labels.float())
    with pytest.raises(ValueError, match=rf'{name}: expected labels .* got \(6, 5\)'):
        loss(student, teacher, F.one_hot(labels, 5))
    with pytest.raises(ValueError, match=rf'{name}: expected at least 2 classes'):
        loss(student[:, :1], teacher[:, :1], labels)
    with pytest.raises(ValueError, match=rf'{name}: student \(6, 5\) and teacher \(6, 4\)'):
        loss(student, teacher[:, :4], labels)


@pytest.mark.parametrize('loss', [dkd, nkd])
@pytest.mark.parametrize('dtype', [torch.int32, torch.int16, torch.int8, torch.uint8])
def test_labels_of_any_integers(loss, dtype):
    student, teacher, labels = random()
    assert loss(student, teacher, labels.to(dtype)) == loss(student, teacher, labels)


@pytest.mark.parametrize('loss', [dkd, nkd])
def test_labels_that_are_no_classes(loss):
    student, teacher, labels = random()
    with pytest.raises(ValueError, match=rf'{loss.__name__}: expected labels .*bool'):
        loss(student, teacher, labels > 2)
    for wrong in (5, -1, -101):
        labels[3] = wrong
        with pytest.raises(ValueError, match=rf'{loss.__name__}: expected labels from 0 to 4, or -100 .*got {wrong}'):
            loss(student, teacher, labels)


@pytest.mark.parametrize('beta', [0.0, 8.0])
@pytest.mark.parametrize('apart', [0.0, 1e-4, 1e-2])
def test_dkd_near_equality_keeps_its_digits(beta, apart):
    teacher = 3 * torch.randn(32, 4096, generator=torch.Generator().manual_seed(1))
    student = teacher + apart * torch.randn(teacher.shape, generator=torch.Generator().manual_seed(2))
    labels = torch.arange(32)
    value = dkd(student, teacher, labels, beta=beta).item()
    exact = dkd(student.double(), teacher.double(), labels, beta=beta).item()
    assert value >= -1e-7 * beta
    assert value == pytest.approx(exact, rel=1e-4, abs=2e-8 * beta + 1e-12)


def test_settings_may_be_scheduled():
    student, teacher, labels = random()
    loss = DKD()
    loss.alpha, loss.beta, loss.temperature = 3.0, 2.0, 5.0
    assert loss(student, teacher, labels) == dkd(student, teacher, labels, 3.0, 2.0, 5.0)
    other = NKD()
    other.gamma, other.temperature = 3.0, 2.0
    assert other(student, teacher, labels) == nkd(student, teacher, labels, 3.0, 2.0)


@pytest.mark.parametrize(
    ('make', 'name'),
    [
        (lambda: DKD(alpha=-1.0), 'DKD: alpha'),
        (lambda: DKD(beta=math.nan), 'DKD: beta'),
        (lambda: DKD(temperature=0.0), 'DKD: temperature'),
        (lambda: NKD(gamma=-1.0), 'NKD: gamma'),
        (lambda: NKD(temperature=0.0), 'NKD: temperature'),
    ],
)
def test_bad_settings(make, name):
    with pytest.raises(ValueError, match=f'{name} must be'):
        make()


def test_a_weight_of_zero_is_allowed():
    assert (DKD(alpha=0.0).alpha, DKD(beta=0.0).beta, NKD(gamma=0.0).gamma) == (0.0, 0.0, 0.0)


def plain_dkd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    own = F.one_hot(labels, student.shape[1]).bool()
    b, others = [], []
    for side in (student / temperature, teacher / temperature):
        rest = side[~own].reshape(len(side), -1)
        b.append(torch.stack([side[own], rest.logsumexp(-1)], -1).log_softmax(-1))
        others.append(rest.log_softmax(-1))
    parts = [F.kl_div(*pair, reduction='batchmean', log_target=True) for pair in (b, others)]
    return (alpha * parts[0] + beta * parts[1]) * temperature**2


def plain_nkd(student, teacher, labels, gamma=1.5, temperature=1.0):
    own = F.one_hot(labels, student.shape[1]).bool()
    of_target = -(teacher.softmax(-1)[own] * student.log_softmax(-1)[own]).mean()
    s, t = ((x[~own].reshape(len(x), -1) / temperature).log_softmax(-1) for x in (student, teacher))
    return of_target - gamma * temperature**2 * (t.exp() * s).sum(-1).mean()


@pytest.mark.parametrize(('loss', 'plain'), [(dkd, plain_dkd), (nkd, plain_nkd)])
@pytest.mark.parametrize('temperature', [1.0, 3.0])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_value_and_gradient_are_those_of_plain_torch_in_any_chunks(loss, plain, temperature, dtype, monkeypatch):
    monkeypatch.setitem(_fused._CHUNK, 'cpu', 4 * 50)  # of four rows, and one of two
    student, teacher, labels = random(10, 50)
    student, teacher = student.to(dtype).requires_grad_(), teacher.to(dtype)
    value = loss(student, teacher, labels, temperature=temperature)
    exact = student.detach().double().requires_grad_()
    expected = plain(exact, teacher.double(), labels, temperature=temperature)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    (grad,), (expected_grad,) = torch.autograd.grad(value, student), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(grad, expected_grad.to(dtype), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('loss', [dkd, nkd])
@pytest.mark.parametrize('height', [30.0, -30.0, 1e4, -1e4])
def test_extreme_targets_give_the_others_their_exact_gradient(loss, height):
    """Where the label's probability rounds to 1 or 0, in float32."""
    student, teacher, labels = random()
    own = F.one_hot(labels, 5)
    student, teacher = (student + height * own).float().requires_grad_(), (teacher + height * own).float()
    exact = student.detach().double().requires_grad_()
    value, expected = loss(student, teacher, labels), loss(exact, teacher.double(), labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    (grad,), (expected_grad,) = torch.autograd.grad(value, student), torch.autograd.grad(expected, exact)
    torch.testing.assert_close(grad, expected_grad.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('loss', [dkd, nkd])
def test_gradients_of_float16_survive_until_they_are_scaled(loss):
    teacher, labels = torch.randn(4, 2**15), torch.arange(4)
    student = (teacher + 0.05 * torch.randn(4, 2**15)).half().requires_grad_()
    (loss(student, teacher.half(), labels) * 4096.0).backward()
    exact = student.detach().double().requires_grad_()
    (loss(exact, teacher.half().double(), labels) * 4096.0).backward()
    assert student.grad.dtype == torch.float16
    assert (student.grad.double() - exact.grad).norm() / exact.grad.norm() < 1e-3
