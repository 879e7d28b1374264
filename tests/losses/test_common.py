"""What all losses have in common beyond the laws: precision, masks, settings, and words for wrong inputs."""

import inspect
import math
import re

import pytest
import torch

from composer_kd import losses
from composer_kd.losses._common import pooled, ready, valid
from composer_kd.testing.tools import as_list, drawn, each, leaves, second_along, to_float32, value_of
from tests.losses.test_laws import CASES

SEVERAL = {'ReviewKD', 'fsp'}  # lists of features
MASKED = {name: case for name, case in CASES.items() if 'mask' in drawn(case)[2]}


@pytest.mark.parametrize('name', CASES)
def test_autocast_does_not_lower_the_precision(name):
    """In a loop of one's own the loss may be inside autocast."""
    student, teacher, extra = (each(part, to_float32) for part in drawn(CASES[name]))
    with torch.autocast('cpu', torch.bfloat16):
        value = value_of(CASES[name], student, teacher, extra)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(value_of(CASES[name], student, teacher, extra).item(), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize('name', CASES)
def test_one_side_may_be_of_higher_precision(name):
    student, teacher, extra = drawn(CASES[name])
    value = value_of(CASES[name], each(student, to_float32), teacher, extra)
    exact = value_of(CASES[name], student, teacher, extra)
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('height', [0.0, 1.0])
def test_second_derivatives_of_constant_features_are_numbers(name, height):
    student, teacher, extra = (each(part, to_float32) for part in drawn(CASES[name]))
    constant = leaves(each(student, lambda x: torch.full_like(x, height)))
    try:
        found = second_along(value_of(CASES[name], constant, teacher, extra), constant, as_list(student))
    except RuntimeError as error:
        assert 'derivative' in str(error)  # noqa: PT017 - refused, in words
    else:
        assert all(second.isfinite().all() for second in found)


def test_ready_promotes_both():
    for student, teacher, expected in (
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.bfloat16, torch.float64),
        (torch.bfloat16, torch.float16, torch.float32),
    ):
        sides = ready('any', torch.zeros(2, dtype=student), torch.zeros(2, dtype=teacher))
        assert [side.dtype for side in sides] == [expected] * 2
    student = torch.zeros(2, 3, requires_grad=True)
    (grad,) = torch.autograd.grad(losses.hint(student, torch.ones(2, 3, dtype=torch.float64)), student)
    assert grad.dtype == torch.float32


def with_mask(name):
    if name == 'attention_transfer':
        return (torch.randn(3, 4, 5), torch.randn(3, 4, 6)), losses.attention_transfer, MASKED['attention_kl']
    student, teacher, _ = drawn(MASKED[name])
    return (student, teacher), MASKED[name].loss, MASKED[name]


@pytest.mark.parametrize('name', [*MASKED, 'attention_transfer'])
def test_masks_of_integers_are_booleans_not_places(name):
    sides, loss, case = with_mask(name)
    mask = drawn(case)[2]['mask']
    expected = loss(*sides, mask=mask)
    for dtype in (torch.int64, torch.int32, torch.uint8):
        assert loss(*sides, mask=mask.to(dtype)).item() == expected.item()
        assert loss(*sides, mask=mask.to(dtype).flatten()).item() == expected.item()


@pytest.mark.parametrize('name', [*MASKED, 'attention_transfer'])
def test_masks_that_do_not_fit(name):
    sides, loss, case = with_mask(name)
    mask = drawn(case)[2]['mask']
    with pytest.raises(ValueError, match=r'expected a mask .* or flat, got one tensor'):
        loss(*sides, mask=mask[:, :-1])
    with pytest.raises(ValueError, match=r'expected a mask .* or flat, got list'):
        loss(*sides, mask=mask.tolist())
    with pytest.raises(ValueError, match=r'expected a mask of booleans, or of integers 0 and 1.*float32'):
        loss(*sides, mask=mask.float())
    with pytest.raises(ValueError, match=r'expected a mask of booleans, or of integers 0 and 1.*int64'):
        loss(*sides, mask=2 * mask.long())


def test_a_flat_mask_gets_the_shape_of_the_positions():
    mask = torch.tensor([1, 0, 1, 1, 0, 0])
    assert torch.equal(valid('any', mask, (2, 3)), mask.bool().reshape(2, 3))


def test_pooled_is_the_mean_over_the_positions_that_count():
    tokens = torch.arange(24.0).reshape(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    by_hand = torch.stack([(tokens[0, 0] + tokens[0, 2]) / 2, torch.zeros(4)])
    assert torch.equal(pooled(tokens, mask), by_hand)
    assert torch.equal(pooled(tokens, mask.long().flatten()), by_hand)
    tokens[0, 1] = math.nan  # what does not count may be anything
    assert torch.equal(pooled(tokens, mask), by_hand)
    with pytest.raises(ValueError, match=r'expected a mask \(2, 3\) or flat'):
        pooled(tokens, mask[:1])


def test_the_mean_over_no_positions_is_zero():
    for nothing in (torch.zeros(2, 0, 4), torch.zeros(2, 4, 0, 3), torch.zeros(2, 4, 0, 0, 0)):
        assert torch.equal(pooled(nothing), torch.zeros(2, 4))


COMPARE_SAMPLES = {'dist', 'rkd', 'correlation_congruence', 'kernel_congruence', 'pkt', 'similarity_preserving'}


@pytest.mark.parametrize('name', CASES)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_an_empty_batch_gives_zero_or_an_error_that_says_so(name, dtype):
    """The law says more; here it is certain which losses refuse."""
    student, teacher, extra = (each(part, lambda x: x[:0]) for part in drawn(CASES[name]))
    student, teacher = (each(side, lambda x: x.to(dtype)) for side in (student, teacher))
    refuses = name.replace('_', '').lower() in {loss.replace('_', '') for loss in COMPARE_SAMPLES} | {'reviewkd'}
    if refuses:
        with pytest.raises(ValueError, match=r'batch of at least 2, got 0|BatchNorm .* got features \(0, '):
            value_of(CASES[name], student, teacher, extra)
        return
    student = leaves(student)
    value = value_of(CASES[name], student, teacher, extra)
    value.backward()
    assert value == 0
    assert value.dtype == torch.float32
    assert all(x.grad is not None for x in as_list(student))


def in_snake_case(twin):
    return [name for name in losses.__all__ if name.replace('_', '') == twin.lower() and name != twin]


TWINS = {name: function for name in losses.__all__ for function in in_snake_case(name) if name[0].isupper()}


def defaults(thing):
    parameters = inspect.signature(thing).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.default is not None}


def test_twins_have_the_defaults_of_their_functions():
    assert len(TWINS) == 17
    for twin, function in TWINS.items():
        assert defaults(getattr(losses, twin)) == defaults(getattr(losses, function)), twin
        made = getattr(losses, twin)()
        assert {name: getattr(made, name) for name in defaults(type(made))} == defaults(type(made))


def test_defaults_are_those_published():
    published = {
        'kl_divergence': {'temperature': 4.0, 'softmax_dim': -1},
        'reverse_kl': {'temperature': 1.0},
        'generalized_jsd': {'beta': 0.5, 'temperature': 1.0},
        'soft_cross_entropy': {'temperature': 1.0},
        'universal_logit': {'temperature': 1.0},
        'dkd': {'alpha': 1.0, 'beta': 8.0, 'temperature': 4.0},
        'nkd': {'gamma': 1.5, 'temperature': 1.0},
        'dist': {'beta': 1.0, 'gamma': 1.0, 'temperature': 1.0, 'scaled': True},
        'rkd': {'distance': 25.0, 'angle': 50.0},
        'kernel_congruence': {'gamma': 0.4, 'order': 2},
        'channel_wise_kl': {'temperature': 4.0},
        'value_relation_kl': {'heads': 12},
        'VID': {'init_var': 5.0, 'eps': 1e-5},
        'CRD': {'dim': 128, 'negatives': 16384, 'temperature': 0.07, 'momentum': 0.5},
        'ReviewKD': {},
        'standardize': {'dim': -1},
    }
    assert {name: defaults(getattr(losses, name)) for name in published} == published
    assert losses.LogitStandardization().temperature == 2.0


WITH_TEMPERATURE = [name for name in TWINS.values() if 'temperature' in defaults(getattr(losses, name))]


@pytest.mark.parametrize('name', WITH_TEMPERATURE)
@pytest.mark.parametrize('temperature', [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_out_of_range_whenever_it_is_set(name, temperature):
    student, teacher, extra = drawn(CASES[name])
    message = f'{name}: temperature must be a positive finite number, got {temperature}'
    with pytest.raises(ValueError, match=message):
        getattr(losses, name)(student, teacher, temperature=temperature, **extra)
    twin = getattr(losses, next(twin for twin, function in TWINS.items() if function == name))()
    twin.temperature = temperature
    with pytest.raises(ValueError, match=message):
        twin(student, teacher, **extra)


@pytest.mark.parametrize('shape', [(4, 0), (0, 0), (4, 3, 0), ()])
@pytest.mark.parametrize(
    'loss', [losses.kl_divergence, losses.reverse_kl, losses.generalized_jsd, losses.soft_cross_entropy]
)
def test_logits_without_a_class(loss, shape):
    with pytest.raises(ValueError, match=rf'{loss.__name__}: expected at least 1 class'):
        loss(torch.zeros(shape), torch.zeros(shape))


@pytest.mark.parametrize('name', sorted(set(CASES) - SEVERAL))
def test_lists_where_one_tensor_is_compared(name):
    student, teacher, extra = drawn(CASES[name])
    shape = tuple(student.shape)
    message = f'expected the student as one tensor, got a list of 2 tensors [{shape}, {shape}]'
    with pytest.raises(ValueError, match=re.escape(message)):
        CASES[name].loss([student, student], [teacher, teacher], **extra)
    with pytest.raises(ValueError, match='expected the teacher as one tensor, got NoneType None'):
        CASES[name].loss(student, None, **extra)


@pytest.mark.parametrize('name', sorted(SEVERAL))
def test_one_tensor_where_lists_are_compared(name):
    student, teacher, _ = drawn(CASES[name])
    with pytest.raises(ValueError, match=r'expected the student as a list .*, got one tensor \('):
        CASES[name].loss(student[0], teacher)
    with pytest.raises(ValueError, match=r'expected the teacher as a list .*, got NoneType None'):
        CASES[name].loss(student, None)
    with pytest.raises(ValueError, match=r'expected the teacher as a list .*, got list \['):
        CASES[name].loss(student, [1, 2])


def test_shapes_of_the_wrong_kind():
    one, several = torch.Size((2, 3, 4, 4)), [torch.Size((2, 3, 4, 4))]
    for sides in ((one, several), (several, one)):
        with pytest.raises(ValueError, match=r"ReviewKD: expected the (student|teacher)'s shapes as a list"):
            losses.ReviewKD().build(*sides)
        for loss in (losses.VID(), losses.CRD(10)):
            with pytest.raises(ValueError, match=r'expected the shape of one feature of the (student|teacher)'):
                loss.build(*sides)


LEARNED = {
    'VID': (lambda: losses.VID(3, 4), losses.VID),
    'CRD': (lambda: losses.CRD(20, 3, 4, dim=8, negatives=5), lambda: losses.CRD(20, dim=8, negatives=5)),
    'ReviewKD': (lambda: losses.ReviewKD([3, 2], [4, 5], mid_channels=7), losses.ReviewKD),
}


@pytest.mark.parametrize('name', LEARNED)
def test_weights_may_be_loaded_before_the_loss_is_built(name):
    built, unbuilt = LEARNED[name]
    one, other = built(), unbuilt()
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(torch.rand_like(parameter))
    nested = torch.nn.ModuleList([other])  # under a prefix too
    nested.load_state_dict(torch.nn.ModuleList([one]).state_dict())
    student, teacher = torch.randn(6, 3, 4, 4), torch.randn(6, 4, 4, 4)
    extra = {'index': torch.arange(6)} if name == 'CRD' else {}
    if name == 'ReviewKD':
        student, teacher = [student, torch.randn(6, 2, 2, 2)], [teacher, torch.randn(6, 5, 2, 2)]
    assert len(other.state_dict()) == len(one.state_dict()) > 3
    assert one(student, teacher, **extra).item() == other(student, teacher, **extra).item()
    other.build(*(each(side, lambda x: x.shape) for side in (student, teacher)))  # fits


@pytest.mark.parametrize('name', LEARNED)
def test_weights_that_are_missing_are_told(name):
    built, unbuilt = LEARNED[name]
    state = built().state_dict()
    for key in [key for key in state if not key.endswith('_head.weight')]:  # without it there is no layer to load
        partial = {other: value for other, value in state.items() if other != key}
        with pytest.raises(RuntimeError, match=r'(Missing|Unexpected) key'):
            unbuilt().load_state_dict(partial)
