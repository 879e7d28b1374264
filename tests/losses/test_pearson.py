import math

import pytest
import torch

from composer_kd.losses import DIST, dist


def random(rows=6, classes=5):
    return torch.randn(rows, classes, dtype=torch.float64), torch.randn(rows, classes, dtype=torch.float64)


def test_by_hand():
    """(1, 2, 3) and (1, 3, 2) have the correlation 1/2, equal rows 1; columns of two have 1 or -1."""
    student = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.5, 0.5]]).log()
    teacher = torch.tensor([[1.0, 3.0, 2.0], [3.0, 2.5, 0.5]]).log()
    # columns: 1 < 3 and 1 < 3; 2 < 2.5 and 3 > 2.5; 3 > .5 and 2 > .5
    assert dist(student, teacher, beta=1.0, gamma=0.0).item() == pytest.approx(1 - (1 / 2 + 1) / 2, rel=1e-5)
    assert dist(student, teacher, beta=0.0, gamma=1.0).item() == pytest.approx(1 - (1 - 1 + 1) / 3, rel=1e-5)
    assert dist(student, teacher, beta=4.0, gamma=0.5).item() == pytest.approx(4 / 4 + 0.5 * 2 / 3, rel=1e-5)


def test_with_and_without_the_square_of_the_temperature():
    student, teacher = random()
    plain = dist(student, teacher, temperature=4.0, scaled=False).item()
    assert plain == pytest.approx(dist(student / 4, teacher / 4).item())
    assert dist(student, teacher, temperature=4.0).item() == pytest.approx(16 * plain)


def test_small_columns_are_correlated_too():
    """A thousand classes, most of them improbable: an epsilon beside the product of the norms would hide them."""
    student = torch.randn(8, 5, dtype=torch.float64)
    student[:, 4] -= 12.0
    noise = torch.zeros_like(student)
    noise[:, 4] = torch.randn(8, dtype=torch.float64)
    assert dist(student, student + 1e-6 * noise, beta=0.0).item() == pytest.approx(0.0, abs=1e-6)


def test_a_class_that_never_varies_counts_as_uncorrelated():
    student, teacher = random()
    student[:, :], teacher[:, :] = student[:1], teacher
    assert dist(student, teacher, beta=0.0).item() == pytest.approx(1.0)


def test_what_rounding_leaves_of_a_constant_has_no_direction():
    """Else its gradient is millions of times too large."""
    teacher = torch.randn(7, 10)
    for row in (torch.zeros(10), torch.full((10,), 0.3), torch.randn(10) * 1e-8):
        student = row.repeat(7, 1).requires_grad_()  # rows, columns, or both are constant
        (grad,) = torch.autograd.grad(dist(student, teacher), student)
        assert grad.abs().max() < 1
    varied = torch.randn(7, 10) * 1e-4  # above rounding: full correlation with itself
    assert dist(varied, varied.clone()).item() == pytest.approx(0.0, abs=1e-5)


def test_needs_two_classes():
    with pytest.raises(ValueError, match=r'dist: expected logits .* at least 2 classes, got \(6, 1\)'):
        dist(torch.zeros(6, 1), torch.zeros(6, 1))
    with pytest.raises(ValueError, match=r'dist: expected logits'):
        dist(torch.zeros(6), torch.zeros(6))


def test_needs_two_rows():
    with pytest.raises(ValueError, match='at least 2, got 1'):
        dist(*random(rows=1))


def test_positions_are_rows():
    student, teacher = random()
    positions = dist(student.reshape(2, 3, 5), teacher.reshape(2, 3, 5))
    assert positions.item() == pytest.approx(dist(student, teacher).item())


def test_settings():
    student, teacher = random()
    loss = DIST()
    loss.beta, loss.gamma, loss.temperature, loss.scaled = 2.0, 3.0, 4.0, False
    assert loss(student, teacher) == dist(student, teacher, 2.0, 3.0, 4.0, False)
    with pytest.raises(ValueError, match='DIST: scaled'):
        DIST(scaled=1)
    with pytest.raises(ValueError, match='DIST: beta'):
        DIST(beta=-1.0)
    with pytest.raises(ValueError, match='DIST: gamma'):
        DIST(gamma=math.inf)
    with pytest.raises(ValueError, match='DIST: temperature'):
        DIST(temperature=0.0)


def test_shapes_that_differ():
    with pytest.raises(ValueError, match=r'dist: student \(6, 5\) and teacher \(6, 4\)'):
        dist(random()[0], random(classes=4)[1])
