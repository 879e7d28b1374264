from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from composer_kd.data import IMAGENET_MEAN, IMAGENET_STD, cifar10
from composer_kd.errors import ConfigError
from composer_kd.models import CifarResNet, resnet20, resnet32, resnet44, resnet56, resnet110


@pytest.mark.parametrize(
    ('build', 'depth', 'parameters'),
    [  # the millions of He et al. 2015, table 6: 0.27, 0.46, 0.66, 0.85, 1.7
        (resnet20, 20, 269_722),
        (resnet32, 32, 464_154),
        (resnet44, 44, 658_586),
        (resnet56, 56, 853_018),
        (resnet110, 110, 1_727_962),
    ],
)
def test_depth_and_number_of_parameters(build, depth, parameters):
    model = build()
    weighted = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(weighted) == depth
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_names_are_those_of_the_shared_checkpoints():
    state = resnet20().state_dict()
    assert {name.split('.')[0] for name in state} == {'conv1', 'bn1', 'layer1', 'layer2', 'layer3', 'linear'}
    assert {name for name in state if name.startswith('layer2.0') and name.endswith('weight')} == {
        f'layer2.0.{name}.weight' for name in ('conv1', 'bn1', 'conv2', 'bn2')
    }


@pytest.mark.parametrize(('channels', 'size', 'classes'), [(1, 8, 10), (3, (9, 31), 7), (4, 1, 100)])
def test_other_channels_sizes_and_classes(channels, size, classes):
    model = CifarResNet(8, channels, size, classes, width=4)
    height, width = (size, size) if isinstance(size, int) else size
    assert model(torch.randn(2, channels, height, width)).shape == (2, classes)
    assert model.num_classes == classes


def test_each_stage_halves_the_image():
    model = CifarResNet(8)
    x = torch.relu(model.bn1(model.conv1(torch.randn(1, 3, 32, 32))))
    shapes = []
    for stage in (model.layer1, model.layer2, model.layer3):
        x = stage(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_the_shortcut_strides_and_pads_with_zeros():
    block = CifarResNet(8, width=4).layer2[0]
    torch.nn.init.zeros_(block.bn2.weight)  # switches the convolutions off
    x = torch.rand(1, 4, 6, 6)
    expected = torch.zeros(1, 8, 3, 3)
    expected[:, 2:6] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_weights_start_as_in_he_et_al():
    torch.manual_seed(0)
    weight = CifarResNet(8).layer3[0].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)


def test_gradients_reach_every_parameter():
    model = CifarResNet(14, width=4)
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(('depth', 'advice'), [(18, 'try 14 or 20'), (2, 'try 8 or 14'), (21, 'try 20 or 26')])
def test_other_depths_are_refused_with_the_nearest(depth, advice):
    with pytest.raises(ConfigError, match=rf'depth: expected 6 n \+ 2 .*, got {depth}; {advice}'):
        CifarResNet(depth)


@pytest.mark.data
@pytest.mark.parametrize(
    ('build', 'file', 'samples', 'accuracy'),
    [
        (resnet20, 'resnet20-12fca82f.th', 10_000, 0.9173),
        (resnet56, 'resnet56-4bfd9763.th', 1_000, 0.926),
    ],
)
def test_shared_checkpoints_reach_their_accuracy(build, file, samples, accuracy):
    path = Path(os.environ['COMPOSER_KD_DATA'], 'weights', file)
    saved = torch.load(path, map_location='cpu', weights_only=True)['state_dict']
    model = build().eval()
    model.load_state_dict({name.removeprefix('module.'): value for name, value in saved.items()})
    images = cifar10('test', mean=IMAGENET_MEAN, std=IMAGENET_STD)
    correct = 0
    with torch.inference_mode():
        for batch in torch.utils.data.DataLoader(torch.utils.data.Subset(images, range(samples)), 500):
            correct += (model(batch[0]).argmax(1) == batch[1]).sum().item()
    assert correct / samples == pytest.approx(accuracy, abs=2e-4)
