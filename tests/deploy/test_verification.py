import pytest
import torch
from torch import nn

from composer_kd.deploy.verification import TOLERANCE, in_pieces, verify
from composer_kd.errors import ConfigError


def test_pieces_are_all_samples_once_in_order():
    batches = [(torch.arange(50),), (torch.arange(50, 130),)]
    pieces = in_pieces(batches)
    assert [len(piece[0]) for piece in pieces[:3]] == [1, 2, 7]
    assert max(len(piece[0]) for piece in pieces) == 32
    assert torch.cat([piece[0] for piece in pieces]).tolist() == list(range(130))


def test_no_more_batches_are_drawn_than_needed():
    def batches():
        yield (torch.arange(20),)
        yield (torch.arange(20, 40),)
        raise AssertionError('a third batch was asked for')

    assert torch.cat([piece[0] for piece in in_pieces(batches(), samples=25)]).tolist() == list(range(25))


def test_few_samples_will_do():
    assert [len(piece[0]) for piece in in_pieces([(torch.zeros(2, 4),)])] == [1, 1]


def test_what_is_reported():
    model = nn.Linear(4, 3)
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor([2.0, 1.0, -4.0]))
    off = torch.tensor([[0.0, 1.5, 0.0]])  # puts the second class first
    found = verify(lambda x: model(x) + off * (x[:, :1] > 0), model, [(torch.ones(1, 4),), (torch.zeros(3, 4),)])
    assert (found.samples, found.batch_sizes, found.answers, found.agreeing) == (4, (1, 3), 4, 3)
    assert (found.difference, found.largest) == (1.5, 4.0)
    with pytest.raises(ConfigError, match=r'4 samples .*difference 1\.5e\+00.*3 of 4'):
        found.require()


@pytest.mark.parametrize(('share', 'passes'), [(0.5, True), (2.0, False)])
@pytest.mark.parametrize('scale', [1e-3, 1.0, 1e3])
def test_the_tolerance_is_a_share_of_the_largest_logit(share, passes, scale):
    answers = torch.tensor([[1.0, -0.5]]) * scale
    found = verify(lambda x: answers + share * TOLERANCE * scale, lambda x: answers, [(torch.zeros(1, 1),)])
    assert found.passed is passes


def test_nan_never_passes():
    answers = torch.tensor([[1.0, -0.5], [1.0, 2.0]])
    pieces = [(torch.zeros(2, 1),), (torch.zeros(2, 1),)]
    broken = iter([answers * torch.nan, answers])
    assert not verify(lambda x: next(broken), lambda x: answers, pieces).passed
    diverged = verify(lambda x: answers * torch.nan, lambda x: answers * torch.nan, pieces)
    with pytest.raises(ConfigError, match='itself answers with numbers that are not finite'):
        diverged.require()


def test_other_shapes_and_failures_are_said():
    pieces = [(torch.zeros(2, 4),)]
    with pytest.raises(ConfigError, match=r'in the shape \(2, 4\), the model in PyTorch in \(2, 3\)'):
        verify(lambda x: x, nn.Linear(4, 3), pieces)
    with pytest.raises(ConfigError, match=r'fails on inputs of \(2, 4\): mat1 and mat2'):
        verify(nn.Linear(5, 3), nn.Linear(4, 3), pieces)


def test_language_models_are_compared_at_every_token():
    logits = torch.randn(2, 5, 7)
    found = verify(lambda x: logits, lambda x: logits, [(torch.zeros(2, 5, dtype=torch.long),)])
    assert (found.samples, found.answers, found.agreeing) == (2, 10, 10)


def test_maps_are_compared_at_every_pixel():
    model = nn.Conv2d(1, 11, 1)
    found = verify(model, model, [(torch.randn(2, 1, 6, 5),), (torch.randn(1, 1, 6, 5),)])
    assert (found.answers, found.agreeing) == (90, 90)
