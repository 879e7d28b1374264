import inspect
import math

import pytest
import torch

from composer_kd.losses import RKD, correlation_congruence, flow, fsp, pkt, rkd, similarity_preserving

FUNCTIONS = (similarity_preserving, rkd, correlation_congruence, pkt)
ANY_WIDTH = (similarity_preserving, rkd, pkt)


def sides(batch=6, widths=(5, 5), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, width, generator=generator) for width in widths]


def value_and_grad(loss, student, teacher):
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    return value.item(), torch.autograd.grad(value, student)[0]


def test_similarity_preserving_divides_by_l2_norms_of_rows():
    # student Gram ((9, 12), (12, 16)): rows (3, 4)/5 twice; teacher Gram ((1, 0), (0, 4)): the identity
    student, teacher = torch.tensor([[3.0], [4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    by_hand = ((0.6 - 1) ** 2 + 0.8**2 + 0.6**2 + (0.8 - 1) ** 2) / 4
    assert similarity_preserving(student, teacher).item() == pytest.approx(by_hand, rel=1e-6)


def test_similarity_preserving_sees_whole_maps():
    """A permutation of positions changes inner products, but not the pooled features."""
    maps = torch.randn(4, 3, 2, 2)
    moved = maps.clone()
    moved[0] = moved[0].flip(-1)
    assert similarity_preserving(maps, moved) > 1e-4
    assert rkd(maps, moved).item() == pytest.approx(0.0, abs=1e-6)
    assert not hasattr(similarity_preserving, 'summary')


def test_rkd_by_hand():
    # a right angle at the first sample, legs 1 and 1 against legs 3 and 4
    student = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    teacher = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    ours = [1.0, 1.0, math.sqrt(2)]
    theirs = [3.0, 4.0, 5.0]
    apart = [a * 3 / sum(ours) - b * 3 / sum(theirs) for a, b in zip(ours, theirs)]
    distance = 2 * sum(0.5 * d * d for d in apart) / 9
    assert rkd(student, teacher, angle=0.0).item() == pytest.approx(25 * distance, rel=1e-5)
    # cosines at the other two: 1/sqrt 2 each, against 3/5 and 4/5; each stands twice among 27 triplets
    half = math.sqrt(0.5)
    angle = 2 * (0.5 * (half - 0.6) ** 2 + 0.5 * (half - 0.8) ** 2) / 27
    assert rkd(student, teacher, distance=0.0).item() == pytest.approx(50 * angle, rel=1e-5)
    assert rkd(student, teacher).item() == pytest.approx(25 * distance + 50 * angle, rel=1e-5)
    assert rkd(student, teacher, 2.0, 3.0).item() == pytest.approx(2 * distance + 3 * angle, rel=1e-5)
    assert RKD(distance=2.0, angle=3.0)(student, teacher).item() == pytest.approx(2 * distance + 3 * angle, rel=1e-5)


def test_rkd_is_linear_far_away():
    """Smooth L1, not squares: doubling a large difference of distances doubles it."""
    student = torch.tensor([[0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [0.0], [1.0]])  # 14 of 56 distances are 1
    teacher = torch.arange(8.0).unsqueeze(1)
    value = rkd(student, teacher, distance=1.0, angle=0.0).item()
    distances = [abs(i - j) for i in range(8) for j in range(8)]
    mean = sum(distances) / 56
    total = 0.0
    for i in range(8):
        for j in range(8):
            apart = abs((7 in (i, j) and i != j) * 4.0 - abs(i - j) / mean)
            total += apart**2 / 2 if apart < 1 else apart - 0.5
    assert value == pytest.approx(total / 64, rel=1e-6)
    assert any(d / mean > 2 for d in distances)  # far enough to tell


@pytest.mark.parametrize('equal', [1, 3])
def test_rkd_averages_the_distances_of_all_pairs_of_samples(equal):
    """A repeated image is a pair of samples too: nothing jumps where two samples become equal."""
    student, teacher = (side.double() for side in sides(batch=6))
    student[1 : 1 + equal] = student[0]

    def reference(side):
        pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
        mean = sum(math.dist(side[i], side[j]) for i, j in pairs) / 30
        return {(i, j): math.dist(side[i], side[j]) / mean for i, j in pairs}

    ours, theirs = reference(student.tolist()), reference(teacher.tolist())
    apart = [abs(ours[pair] - theirs[pair]) for pair in ours]
    expected = sum(d * d / 2 if d < 1 else d - 0.5 for d in apart) / 36
    assert rkd(student, teacher, distance=1.0, angle=0.0).item() == pytest.approx(expected, rel=1e-12)
    near = student.clone()
    near[1 : 1 + equal] += 1e-9
    assert rkd(near, teacher, distance=1.0, angle=0.0).item() == pytest.approx(expected, rel=1e-7)


def test_rkd_of_equal_samples_alone():
    student, teacher = torch.ones(4, 3, requires_grad=True), torch.randn(4, 3)
    value = rkd(student, teacher)
    value.backward()
    assert value.isfinite()
    assert student.grad.isfinite().all()
    assert rkd(teacher, torch.ones(4, 3)).isfinite()


def test_rkd_distances_of_duplicates_are_exactly_zero_in_large_batches():
    """By way of inner products they would be tiny, positive, and so count in the mean."""
    student, teacher = sides(batch=64, widths=(64, 64))
    student[32:] = student[:32]
    student = student + 100  # whose inner products are large
    value = rkd(student, teacher, angle=0.0)
    exact = rkd(student.double(), teacher.double(), angle=0.0)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def test_rkd_angles_of_two_samples_are_no_angles():
    student, teacher = sides(batch=2)
    assert rkd(student, teacher, distance=0.0).item() == pytest.approx(0.0, abs=1e-10)
    assert rkd(student, teacher, angle=0.0).item() == pytest.approx(0.0, abs=1e-10)  # one distance, which is the mean


def test_rkd_is_blind_to_scale_shift_and_rotation():
    student, teacher = (side.double() for side in sides())
    turn = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    expected = rkd(student, teacher).item()
    assert rkd(7 * student @ turn + 3, teacher).item() == pytest.approx(expected, rel=1e-9)
    assert rkd(student, 0.1 * teacher @ turn - 2).item() == pytest.approx(expected, rel=1e-9)


def test_correlation_congruence_is_elementwise_and_in_order():
    teacher = torch.zeros(3, 2)
    student = torch.tensor([[1.0, 0.0], [0.0, -5.0], [3.0, 1.0]])
    # |d1|.|d2| = 0, |d2|.|d3| = 5; by norms it would be (1 * 5 + 5 * sqrt 10) / 2
    assert correlation_congruence(student, teacher).item() == 2.5
    assert correlation_congruence(student[[1, 0, 2]], teacher).item() == 1.5


def test_pkt_by_hand():
    # cosines 1 and -1, so affinities 1 and 0: rows (1, 0); the teacher's (2/3, 1/3)
    student, teacher = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
    by_hand = 2 * (2 / 3 * math.log(2 / 3) + 1 / 3 * math.log((1 / 3 + 1e-7) / 1e-7)) / 4
    value, grad = value_and_grad(pkt, student, teacher)
    assert value == pytest.approx(by_hand, rel=1e-5)
    assert grad.isfinite().all()


@pytest.mark.parametrize('seed', range(20))
def test_pkt_survives_cosines_that_rounding_puts_below_minus_one(seed):
    x = torch.randn(1, 20000, generator=torch.Generator().manual_seed(seed))
    value, grad = value_and_grad(pkt, torch.cat([x, -x]), torch.randn(2, 8))
    assert math.isfinite(value)
    assert grad.isfinite().all()


@pytest.mark.parametrize('loss', [similarity_preserving, pkt])
def test_falls_with_the_batch(loss):
    """What their docstrings say of the weight."""
    student, teacher = sides()
    twice = loss(student.repeat(2, 1), teacher.repeat(2, 1)).item()
    assert twice == pytest.approx(loss(student, teacher).item() / 2, rel=1e-3)


@pytest.mark.parametrize('loss', ANY_WIDTH)
def test_sides_of_any_widths_and_ranks(loss):
    student = torch.randn(4, 3, 5, 5)
    teacher = torch.randn(4, 7, 6)
    assert loss(student, teacher) > 0


@pytest.mark.parametrize('loss', [rkd, correlation_congruence, pkt])
def test_reads_pooled_features(loss):
    maps = torch.randn(4, 5, 3, 3), torch.randn(4, 6, 5)
    means = maps[0].mean((2, 3)), maps[1].mean(1)
    assert loss(*maps).item() == pytest.approx(loss(*means).item(), rel=1e-5)
    assert torch.equal(loss.summary(maps[0]), means[0])
    assert RKD().summary is loss.summary


@pytest.mark.parametrize('loss', ANY_WIDTH)
def test_gradients_stay_moderate_with_duplicates_near_duplicates_and_zeros(loss):
    """Finite is not enough: 1e12 is finite, and ends a training."""
    for spoil in ('duplicate', 'near', 'zero'):
        student, teacher = sides(batch=8)
        student[3] = 0.0 if spoil == 'zero' else student[1] + (1e-7 if spoil == 'near' else 0.0)
        _, grad = value_and_grad(loss, student, teacher)
        assert grad.isfinite().all()
        assert grad.abs().max() < 100, spoil


@pytest.mark.parametrize('loss', FUNCTIONS)
def test_autocast_does_not_lower_the_precision(loss):
    student, teacher = sides(batch=16, widths=(64, 64))
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(loss(student, teacher).item(), rel=1e-6)


@pytest.mark.parametrize('loss', [*FUNCTIONS, RKD()])
def test_bad_batches(loss):
    with pytest.raises(ValueError, match=r'batch of at least 2, got 1.*drop_last'):
        loss(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r'student \(3, 4\) and teacher \(2, 4\)'):
        loss(torch.zeros(3, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r'student \(3,\) and teacher \(3, 4\)'):
        loss(torch.zeros(3), torch.zeros(3, 4))


def test_correlation_congruence_needs_one_width():
    with pytest.raises(ValueError, match=r'project the student.*\(3, 4\) and teacher \(3, 5\)'):
        correlation_congruence(torch.zeros(3, 4), torch.zeros(3, 5))


def test_rkd_settings():
    assert RKD().distance == inspect.signature(rkd).parameters['distance'].default == 25.0
    assert RKD().angle == inspect.signature(rkd).parameters['angle'].default == 50.0
    for name in ('distance', 'angle'):
        with pytest.raises(ValueError, match=f'RKD: {name} must be .*of at least 0, got -1'):
            RKD(**{name: -1.0})
    for loss in (RKD, lambda **weights: rkd(*sides(), **weights)):
        with pytest.raises(ValueError, match='both 0'):
            loss(distance=0.0, angle=0.0)
    loss = RKD()
    loss.angle = 0.0  # settings are read when the loss is called
    student, teacher = sides()
    assert loss(student, teacher).item() == rkd(student, teacher, angle=0.0).item()


@pytest.mark.parametrize('loss', [similarity_preserving, pkt, rkd])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_short_vectors_keep_their_direction_down_to_rounding(loss, dtype):
    """A millionth of the longest is the threshold, for vectors, not for their products."""
    teacher = torch.eye(3, 4, dtype=dtype)
    for length in (1e-3, 1e-5):
        student = teacher.clone()
        student[2] *= length
        if loss is rkd:  # two samples as near each other as that
            student[2] += student[0]
        whole = student.clone().requires_grad_()
        (grad,) = torch.autograd.grad(loss(whole, teacher), whole)
        assert grad.isfinite().all()
        if loss is not rkd:
            assert loss(student, teacher).item() == pytest.approx(0.0, abs=1e-9)
        assert loss(student, teacher.flip(0)[[0, 0, 1]]).item() > 1e-3
    student = teacher.clone()
    student[2] *= 1e-7
    student.requires_grad_()
    value = loss(student, teacher)
    (grad,) = torch.autograd.grad(value, student)
    assert value.item() > 1e-3  # as if it were zero
    if loss is not rkd:
        assert (grad[2] == 0).all()
        zero = student.detach().clone()
        zero[2] = 0
        assert value.item() == pytest.approx(loss(zero, teacher).item(), rel=1e-6)


@pytest.mark.parametrize(('rows', 'columns', 'adaptive'), [(2, 3, False), (4, 3, False), (2, 2, True), (3, 3, True)])
def test_fsp_pools_in_even_windows_where_both_sides_allow_it(rows, columns, adaptive, monkeypatch):
    """Adaptive pooling has no deterministic gradient on CUDA."""
    maps, calls = torch.randn(2, 3, 4, 9), []
    pooling = torch.nn.functional.adaptive_max_pool2d
    expected = pooling(maps, (rows, columns))
    monkeypatch.setattr(torch.nn.functional, 'adaptive_max_pool2d', lambda *args: (calls.append(1), pooling(*args))[1])
    assert torch.equal(flow._shrunk(maps, rows, columns), expected)
    assert bool(calls) == adaptive


def test_fsp_by_hand():
    # G = (mean of 1 * 1, 2 * 1, 3 * 0, 4 * 2) = 11/4, against 1; two samples, the second equal
    before = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).expand(2, 1, 2, 2)
    after = torch.tensor([[1.0, 1.0], [0.0, 2.0]]).expand(2, 1, 2, 2)
    other = [before.clone(), after.clone()]
    other[0][0], other[1][0] = 1.0, 1.0
    assert fsp([before, after], other).item() == pytest.approx((11 / 4 - 1) ** 2 / 2)


def test_fsp_takes_maxima_where_sizes_differ():
    big = torch.tensor([[0.0, 0.0, 1.0, 0.0], [0.0, 5.0, 0.0, 0.0]]).expand(1, 1, 2, 4)
    small = torch.tensor([[1.0, 1.0]]).expand(1, 1, 1, 2)
    zeros = [torch.zeros(1, 1, 2, 2)] * 2
    for pair in ([big, small], [small, big]):
        assert fsp(pair, zeros).item() == pytest.approx(((5 + 1) / 2) ** 2)


def test_fsp_averages_consecutive_pairs():
    maps, others = [torch.randn(2, 3, 4, 4) for _ in range(3)], [torch.randn(2, 3, 4, 4) for _ in range(3)]
    both = (fsp(maps[:2], others[:2]) + fsp(maps[1:], others[1:])) / 2
    assert fsp(maps, others).item() == pytest.approx(both.item(), rel=1e-6)
    assert fsp(tuple(maps), tuple(others)).item() == fsp(maps, others).item()


def test_fsp_in_autocast():
    student, teacher = [[torch.randn(2, 8, 6, 6) for _ in range(2)] for _ in range(2)]
    with torch.autocast('cpu', torch.bfloat16):
        value = fsp(student, teacher)
    assert value.item() == pytest.approx(fsp(student, teacher).item(), rel=1e-6)


def test_fsp_errors():
    one, other = torch.zeros(2, 3, 4, 4), torch.zeros(2, 5, 4, 4)
    with pytest.raises(
        ValueError, match=r'student \[\(2, 3, 4, 4\), \(2, 3, 4, 4\)\] and teacher \[\(2, 3, 4, 4\), \(2, 5'
    ):
        fsp([one, one], [one, other])
    with pytest.raises(ValueError, match='agree in number of maps'):
        fsp([one, one, one], [one, one])
    with pytest.raises(ValueError, match='agree in number of maps, batch'):
        fsp([one, one], [one[:1], one[:1]])
    with pytest.raises(ValueError, match=r'the student as a list.*one tensor \(2, 3, 4, 4\)'):
        fsp(one, [one, one])
    with pytest.raises(ValueError, match=r'the teacher as a list.*\[\(2, 3, 4, 4\)\]'):
        fsp([one, one], [one])
    with pytest.raises(ValueError, match=r'\(2, 3\)'):
        fsp([one, one[..., 0, 0]], [one, one])
