from __future__ import annotations

import pytest
import torch

from composer_kd.errors import ConfigError
from composer_kd.models import DeepCNN, ShallowCNN

BOTH = pytest.mark.parametrize('network', [ShallowCNN, DeepCNN])


@pytest.mark.parametrize(('network', 'expected'), [(ShallowCNN, 267_738), (DeepCNN, 1_186_986)])
def test_number_of_parameters(network, expected):
    assert sum(parameter.numel() for parameter in network().parameters()) == expected


@BOTH
@pytest.mark.parametrize(('channels', 'size', 'classes'), [(1, 8, 10), (3, (20, 31), 7), (4, 4, 1), (1, 28, 100)])
def test_other_channels_sizes_and_classes(network, channels, size, classes):
    model = network(in_channels=channels, image_size=size, num_classes=classes)
    height, width = (size, size) if isinstance(size, int) else size
    assert model(torch.randn(2, channels, height, width)).shape == (2, classes)
    assert model.num_classes == classes


@BOTH
def test_gradients_reach_every_parameter(network):
    model = network(in_channels=1, image_size=8)
    model(torch.randn(16, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@BOTH
def test_images_do_not_influence_one_another(network):
    model = network(image_size=8).eval()
    x = torch.randn(3, 3, 8, 8)
    torch.testing.assert_close(model(x)[1:2], model(x[1:2]))


@BOTH
def test_dropout_acts_in_training_only(network):
    model = network(in_channels=1, image_size=8, dropout=0.5)
    x = torch.randn(4, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@BOTH
def test_too_small_images_are_refused(network):
    with pytest.raises(ConfigError, match=r'image_size: expected at least 4 pixels .* got 3; enlarge'):
        network(image_size=3)


@BOTH
@pytest.mark.parametrize('setting', [{'dropout': 1.0}, {'in_channels': 0}, {'num_classes': 0}])
def test_wrong_settings_are_refused_by_name(network, setting):
    with pytest.raises(ConfigError, match=f'{next(iter(setting))}: expected .*, got'):
        network(**setting)
