from __future__ import annotations

import pytest
import torch

from composer_kd.errors import ConfigError
from composer_kd.models import ImageRNN

CELLS = pytest.mark.parametrize('cell', ['lstm', 'gru'])


@CELLS
@pytest.mark.parametrize('bidirectional', [False, True])
@pytest.mark.parametrize('layers', [1, 2])
def test_shapes_and_gradients(cell, bidirectional, layers):
    model = ImageRNN(1, (9, 5), 7, hidden_size=6, num_layers=layers, cell=cell, bidirectional=bidirectional)
    logits = model(torch.randn(4, 1, 9, 5))
    assert logits.shape == (4, 7)
    assert model.num_classes == 7
    logits.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@CELLS
def test_rows_are_read_from_top_to_bottom(cell):
    model = ImageRNN(3, (5, 4), 2, hidden_size=6, cell=cell)
    x = torch.randn(2, 3, 5, 4)
    states, _ = model.rnn(torch.stack([x[:, :, row].reshape(2, 12) for row in range(5)], dim=1))
    torch.testing.assert_close(model(x), model.linear(states[:, -1]))


@CELLS
def test_the_order_of_rows_matters(cell):
    model = ImageRNN(3, 6, cell=cell)
    x = torch.randn(2, 3, 6, 6)
    assert not torch.allclose(model(x), model(x.flip(2)), atol=1e-4)


def test_both_directions_end_at_their_last_row():
    model = ImageRNN(1, (5, 4), 2, hidden_size=6, bidirectional=True, cell='gru')
    x = torch.randn(2, 1, 5, 4)
    _, last = model.rnn(x[:, 0])
    torch.testing.assert_close(model(x), model.linear(torch.cat([last[0], last[1]], dim=1)))


def test_an_unknown_cell_names_the_nearest():
    with pytest.raises(ConfigError, match=r"cell: expected a recurrent cell, got 'lstn'; did you mean 'lstm'?"):
        ImageRNN(cell='lstn')


@pytest.mark.parametrize('name', ['hidden_size', 'num_layers', 'num_classes', 'in_channels'])
def test_sizes_are_at_least_one(name):
    with pytest.raises(ConfigError, match=f'{name}: expected an integer of at least 1, got 0'):
        ImageRNN(**{name: 0})
