import pytest
import torch
import torch.nn.functional as F

from composer_kd.losses import ReviewKD
from tests.losses.cases import feature as reference


def features(shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


STUDENT = [(3, 2, 8, 8), (3, 4, 4, 4), (3, 4)]
TEACHER = [(3, 3, 8, 8), (3, 5, 4, 4), (3, 6)]


def built(*channels, **settings):
    torch.manual_seed(0)
    return ReviewKD(*channels, **settings)


def constant(value, channels=1):
    """A loss of one level whose answer is ``value`` everywhere, whatever the student's feature."""
    loss = ReviewKD([1], [channels])
    _, norm = loss.fusions[0].expand
    with torch.no_grad():
        norm.weight.zero_()
        norm.bias.fill_(value)
    return loss


@pytest.mark.parametrize(
    ('size', 'weights'),
    [
        ((8, 8), (1, 1 / 2, 1 / 4, 1 / 8)),
        ((4, 4), (1, 1 / 2, 1 / 4)),  # 4x4 is the map itself: left out, and 2x2 takes its weight
        ((2, 2), (1, 1 / 2)),
        ((1, 1), (1,)),
    ],
)
def test_hierarchical_context_by_hand(size, weights):
    """An error at one position of n has a mean square of 1 / n; pooled to m positions, m / n times as much error."""
    n = size[0] * size[1]
    teacher = torch.zeros(2, 1, *size)
    teacher[..., 0, 0] = 1.0
    sides = [size[0], *(side for side in (4, 2, 1) if side < size[0])]
    pools = [(side * side / n) ** 2 / side**2 for side in sides]
    expected = sum(w * e for w, e in zip(weights, pools)) / sum(weights)
    value = constant(0.0)(features([(2, 1, 3, 3)]), [teacher])
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_levels_are_summed():
    """Answers of 0 against teachers of 1, 2 and 3: 1 + 4 + 9."""
    loss = built([2, 4, 4], [3, 5, 6])
    for fusion in loss.fusions:
        torch.nn.init.zeros_(fusion.expand[1].weight)
    teacher = [torch.full(shape, float(level + 1)) for level, shape in enumerate(TEACHER)]
    assert loss(features(STUDENT), teacher).item() == pytest.approx(14.0, rel=1e-5)


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        (STUDENT, TEACHER),
        ([(2, 2, 4, 4)], [(2, 3, 7, 5)]),  # one level, another size
        ([(2, 2, 9, 5), (2, 3, 4, 2)], [(2, 3, 3, 3), (2, 2, 6, 6)]),
        ([(2, 2, 9, 5), (2, 3, 4, 2)], [(2, 3, 9, 7), (2, 2, 6, 6)]),  # passed on in the teacher's size
        ([(2, 2, 1, 8), (2, 3, 1, 4)], [(2, 3, 1, 8), (2, 2, 1, 4)]),  # maps of one row
    ],
)
def test_agrees_with_loops(student, teacher):
    loss = built([shape[1] for shape in student], [shape[1] for shape in teacher], mid_channels=3).double()
    student, teacher = ([x.double() for x in features(shapes)] for shapes in (student, teacher))
    expected = reference.review(loss)([x.numpy() for x in student], [x.numpy() for x in teacher])
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-6)


def test_a_shallow_teacher_teaches_deep_levels_too_but_not_the_other_way_round():
    loss = built([2, 4, 4], [3, 5, 6])
    student, teacher = features(STUDENT), features(TEACHER, seed=1)
    for level in range(3):
        leaves = [x.clone().requires_grad_() for x in student]
        # what only this level's teacher says: the rest cancels out
        other = list(teacher)
        other[level] = -teacher[level]
        value = loss(leaves, teacher) - loss(leaves, other)
        grads = torch.autograd.grad(value, leaves)
        reached = [grad.abs().max().item() > 1e-6 for grad in grads]
        assert reached[level:] == [True] * (3 - level)
        assert not any(reached[:level])


def test_attention_shares_out_what_is_passed_on():
    """With all attention on its own feature, a level forgets what came from deeper."""
    loss = built([2, 4, 4], [3, 5, 6])
    student, teacher = features(STUDENT), features(TEACHER, seed=1)
    for fusion in loss.fusions[:2]:
        torch.nn.init.zeros_(fusion.attention.weight)
        with torch.no_grad():
            fusion.attention.bias.copy_(torch.tensor([100.0, -100.0]))
    leaves = [x.requires_grad_() for x in student]
    alone = ReviewKD([2], [3], mid_channels=4)
    alone.fusions[0].load_state_dict(
        {name: value for name, value in loss.fusions[0].state_dict().items() if 'attention' not in name}
    )
    total, deeper = loss(leaves, teacher), ReviewKD([4, 4], [5, 6])
    deeper.fusions.load_state_dict(
        {f'{int(name[0]) - 1}{name[1:]}': value for name, value in loss.fusions.state_dict().items() if name[0] != '0'}
    )
    apart = alone(leaves[:1], teacher[:1]) + deeper(leaves[1:], teacher[1:])
    assert total.item() == pytest.approx(apart.item(), rel=1e-5)


def test_a_perfect_answer_costs_nothing():
    loss = built([2, 4, 4], [3, 5, 6])
    student, answers = features(STUDENT), []
    for fusion in loss.fusions:
        fusion.expand.register_forward_hook(lambda module, inputs, output: answers.insert(0, output.detach()))
    loss(student, features(TEACHER))
    assert loss(student, answers[:]).item() == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize(('deepest', 'mid'), [(8, 8), (512, 512), (600, 512)])
def test_default_of_mid_channels(deepest, mid):
    loss = ReviewKD([2, deepest], [3, 4])
    assert loss.mid_channels == mid
    assert loss.fusions[0].reduce[0].out_channels == mid
    assert ReviewKD([2, deepest], [3, 4], mid_channels=5).fusions[1].reduce[0].out_channels == 5


def test_convolutions_begin_as_published():
    """Uniform with a variance of 1 / fan in, as Kaiming's for a gain of 1."""
    fusion = built([64], [64]).fusions[0]
    for conv in (fusion.reduce[0], fusion.expand[0]):
        fan_in = conv.in_channels * conv.kernel_size[0] ** 2
        assert conv.weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.05)


def test_the_deepest_level_has_nothing_to_fuse():
    loss = ReviewKD([2, 4], [3, 5])
    assert loss.fusions[0].attention is not None
    assert loss.fusions[1].attention is None


def test_all_of_it_and_the_student_get_gradients():
    loss = built([2, 4, 4], [3, 5, 6])
    student, teacher = ([x.requires_grad_() for x in features(shapes)] for shapes in (STUDENT, TEACHER))
    loss(student, teacher).backward()
    for tensor in (*student, *loss.parameters()):
        assert tensor.grad.abs().max() > 0
    assert all(x.grad is None for x in teacher)


def test_it_learns():
    """A teacher that is a function of the student is told ever better."""
    loss = built([2, 4], [2, 4])
    student = features([(8, 2, 4, 4), (8, 4, 2, 2)])
    teacher = [F.layer_norm(x.roll(1, 1), x.shape) for x in student]
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.05, momentum=0.9)
    start = loss(student, teacher).item()
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(student, teacher)
        value.backward()
        optimizer.step()
    assert value.item() < 0.5 * start


def test_it_keeps_no_statistics_and_is_the_same_in_eval():
    loss = built([2, 4, 4], [3, 5, 6])
    value = loss(features(STUDENT), features(TEACHER)).item()
    assert not list(loss.buffers())
    assert loss.eval()(features(STUDENT), features(TEACHER)).item() == value


def test_build_reads_the_channels():
    loss = ReviewKD()
    assert not list(loss.parameters())
    loss.build([torch.Size(shape) for shape in STUDENT], [torch.Size(shape) for shape in TEACHER])
    assert (loss.student_channels, loss.teacher_channels, loss.mid_channels) == ([2, 4, 4], [3, 5, 6], 4)
    number = sum(parameter.numel() for parameter in loss.parameters())
    loss.build([torch.Size(shape) for shape in STUDENT], [torch.Size(shape) for shape in TEACHER])  # only a check
    assert sum(parameter.numel() for parameter in loss.parameters()) == number
    assert loss(features(STUDENT), features(TEACHER)).isfinite()


def test_state_goes_round():
    one, other = ReviewKD([2, 4, 4], [3, 5, 6]), ReviewKD()
    other.build([torch.Size(shape) for shape in STUDENT], [torch.Size(shape) for shape in TEACHER])
    inputs = features(STUDENT), features(TEACHER)
    assert one(*inputs).item() != other(*inputs).item()
    other.load_state_dict(one.state_dict())
    assert one(*inputs).item() == other(*inputs).item()


def test_parameters_in_half_precision_are_computed_in_float32():
    half = built([2, 4, 4], [3, 5, 6]).bfloat16()
    exact = ReviewKD([2, 4, 4], [3, 5, 6])
    exact.load_state_dict(half.state_dict())
    student, teacher = ([x.bfloat16() for x in features(shapes)] for shapes in (STUDENT, TEACHER))
    value = half(student, teacher)
    value.backward()
    assert value.dtype == torch.float32
    expected = exact([x.float() for x in student], [x.float() for x in teacher])
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert all(parameter.grad is not None for parameter in half.parameters())


def test_forward_before_build():
    with pytest.raises(RuntimeError, match='call build'):
        ReviewKD()(features(STUDENT), features(TEACHER))


def test_features_that_do_not_fit():
    loss = ReviewKD([2, 4, 4], [3, 5, 6])
    with pytest.raises(ValueError, match='as many levels of the student as of the teacher, at least one, got 2 and 3'):
        loss(features(STUDENT[:2]), features(TEACHER))
    with pytest.raises(ValueError, match=r'built for \[2, 4, 4\] .* got \[3, 5, 6\] and \[2, 4, 4\]'):
        loss(features(TEACHER), features(STUDENT))
    with pytest.raises(ValueError, match=r'maps \(B, C, H, W\) or pooled features'):
        ReviewKD([2], [2])(features([(3, 2, 4)]), features([(3, 2, 4)]))
    with pytest.raises(ValueError, match=r'same samples, got student \(3, 2\) and teacher \(2, 2\)'):
        ReviewKD([2], [2])(features([(3, 2)]), features([(2, 2)]))


def test_a_batch_of_one_with_pooled_features():
    loss = ReviewKD([2], [3])
    with pytest.raises(ValueError, match=r'more than one value per channel.*drop_last'):
        loss(features([(1, 2)]), features([(1, 3)]))
    with pytest.raises(ValueError, match='more than one value per channel'):
        loss(features([(1, 2, 4, 4)]), features([(1, 3)]))
    assert loss(features([(1, 2, 4, 4)]), features([(1, 3, 2, 2)])).isfinite()


def test_bad_settings():
    with pytest.raises(ValueError, match=r'both student_channels and teacher_channels, or neither, got \[2\] and None'):
        ReviewKD(student_channels=[2])
    with pytest.raises(ValueError, match=r'the same length, at least one, got \[2, 4\] and \[3\]'):
        ReviewKD([2, 4], [3])
    with pytest.raises(ValueError, match='the same length, at least one'):
        ReviewKD([], [])
    with pytest.raises(ValueError, match='student_channels must be positive integers, got 0'):
        ReviewKD([0], [3])
    with pytest.raises(ValueError, match='mid_channels must be positive integers, got -1'):
        ReviewKD([2], [3], mid_channels=-1)
