import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from composer_kd import ConfigError, Match
from composer_kd.losses import hint
from composer_kd.matches.projector import AutoProjector, OrthogonalProjector
from tests.distilling import distil


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


def gram(feature, dim):
    rows = feature.movedim(dim, -1).flatten(0, -2)
    return rows @ rows.T


@pytest.mark.parametrize(
    ('student', 'teacher'),
    [
        ((4, 8), (4, 12)),
        ((4, 8), (4, 8)),
        ((4, 5, 8), (4, 5, 12)),
        ((2, 8, 3, 3), (2, 16, 3, 3)),
        ((2, 3, 2, 2, 2), (2, 5, 2, 2, 2)),
    ],
)
def test_orthogonal_keeps_lengths_and_angles(student, teacher):
    projector, feature = OrthogonalProjector(student, teacher), torch.randn(student)
    ours, theirs = projector(feature, torch.randn(teacher))
    assert ours.shape == theirs.shape == teacher
    dim = 1 if len(student) > 3 else -1
    torch.testing.assert_close(gram(ours, dim), gram(feature, dim), rtol=1e-4, atol=1e-4)
    assert projector.layer.linear.bias is None


def test_orthogonal_to_fewer_channels_has_orthonormal_rows():
    weight = OrthogonalProjector((4, 12), (4, 8)).layer.linear.weight
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), rtol=1e-4, atol=1e-5)


def test_orthogonal_stays_so_in_training_and_learns():
    match = Match(hint, on='4', project='orthogonal', weight=5.0)
    run, recorder, _ = distil([match], max_duration='4ep', optimizer=None)
    layer = run.state.model.composer_kd.hint_4_0.projector.layer
    weight = layer.linear.weight
    assert weight.shape == (16, 8)
    torch.testing.assert_close(weight.T @ weight, torch.eye(8), rtol=1e-4, atol=1e-5)
    assert recorder.batches[-1]['hint_4'] < 0.9 * recorder.batches[0]['hint_4']


def test_a_standardized_hint_is_one_to_the_layer_norm_of_the_teacher():
    student, teacher = torch.randn(3, 5, 8), 7.0 * torch.randn(3, 5, 8) + 2.0
    expected = nn.functional.mse_loss(student, nn.functional.layer_norm(teacher, (8,)))
    torch.testing.assert_close(hint(student, teacher, standardize=True), expected)
    maps = [x.movedim(-1, 1).unsqueeze(-1) for x in (student, teacher)]
    torch.testing.assert_close(hint(*maps, standardize=True), expected)


def test_orthogonal_is_resumed_bit_by_bit(tmp_path):
    def go(folder, **options):
        options = {'max_duration': '4ba', 'save_folder': str(folder), 'save_interval': '2ba', **options}
        run, recorder, _ = distil([Match(hint, on='4', project='orthogonal')], optimizer=None, **options)
        return run.state.model.state_dict(), recorder.batches

    straight, losses = go(tmp_path / 'a')
    resumed, rest = go(tmp_path / 'b', load_path=str(tmp_path / 'a' / 'ep0-ba2-rank0.pt'))
    assert losses[2:] == rest
    assert any('parametrizations' in key for key in straight)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
