import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from composer_kd import ConfigError
from composer_kd.matches.projector import AutoProjector


def join(student, teacher, mask=None):
    return AutoProjector(student, teacher)(torch.randn(student), torch.randn(teacher), mask)


@pytest.mark.parametrize(
    ('student', 'teacher', 'layer', 'shape'),
    [
        ((4, 8, 6, 6), (4, 16, 6, 6), nn.Conv2d, (4, 16, 6, 6)),
        ((4, 8, 8, 8), (4, 16, 4, 4), nn.Conv2d, (4, 16, 4, 4)),
        ((4, 8, 4, 4), (4, 16, 7, 7), nn.Conv2d, (4, 16, 4, 4)),
        ((4, 8, 4, 9), (4, 8, 9, 4), nn.Identity, (4, 8, 4, 4)),
        ((4, 8, 2, 4, 4), (4, 3, 2, 2, 2), nn.Conv3d, (4, 3, 2, 2, 2)),
        ((4, 5, 8), (4, 5, 12), nn.Linear, (4, 5, 12)),
        ((4, 8), (4, 12), nn.Linear, (4, 12)),
        ((4, 8), (4, 8), nn.Identity, (4, 8)),
        ((4, 8, 6, 6), (4, 5, 12), nn.Linear, (4, 12)),
        ((4, 5, 12), (4, 8, 6, 6), nn.Linear, (4, 8)),
        ((4, 8, 6, 6), (4, 8), nn.Identity, (4, 8)),
    ],
)
def test_joins(student, teacher, layer, shape):
    projector = AutoProjector(student, teacher)
    ours, theirs = projector(torch.randn(student), torch.randn(teacher))
    assert type(projector.layer) is layer
    assert ours.shape == theirs.shape == shape


def test_the_larger_map_is_averaged():
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    ours, theirs = AutoProjector(student.shape, teacher.shape)(student, teacher)
    torch.testing.assert_close(ours, student.unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5)))
    assert theirs is teacher


def test_tokens_are_averaged_where_they_count():
    tokens, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    ours, _ = AutoProjector((2, 3, 4), (2, 4))(tokens, torch.randn(2, 4), mask)
    torch.testing.assert_close(ours, torch.stack([tokens[0, :2].mean(0), tokens[1, 0]]))


@pytest.mark.parametrize(
    ('student', 'teacher'), [((4, 5, 8), (4, 6, 8)), ((4,), (4, 8)), ((4, 8), ()), ((4, 2, 2, 2, 2, 2), (4, 8))]
)
def test_says_both_shapes_where_nothing_joins(student, teacher):
    with pytest.raises(ConfigError) as caught:
        AutoProjector(student, teacher, "Match 'hint'")
    assert str(student) in str(caught.value)
    assert str(teacher) in str(caught.value)
    assert "Match 'hint'" in str(caught.value)


@settings(max_examples=30, deadline=None)
@given(
    channels=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    sizes=st.tuples(*[st.integers(1, 9)] * 4),
    samples=st.integers(1, 3),
)
def test_any_two_maps_become_comparable(channels, sizes, samples):
    student, teacher = (samples, channels[0], *sizes[:2]), (samples, channels[1], *sizes[2:])
    ours, theirs = join(student, teacher)
    assert ours.shape == theirs.shape == (samples, channels[1], min(sizes[0], sizes[2]), min(sizes[1], sizes[3]))
