import pytest
import torch
from torchvision.transforms.v2.functional import normalize

from composer_kd import ConfigError, NormalizationAdapter, ResizeAdapter

CIFAR, IMAGENET = ((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_agrees_with_normalising_anew():
    raw = torch.rand(4, 3, 8, 8)
    adapted = NormalizationAdapter(*CIFAR, *IMAGENET)(normalize(raw, *CIFAR))
    torch.testing.assert_close(adapted, normalize(raw, *IMAGENET))


def test_leaves_its_input_alone_and_keeps_its_dtype():
    x = torch.rand(2, 3, 4, 4)
    before = x.clone()
    NormalizationAdapter(*CIFAR, *IMAGENET)(x)
    assert torch.equal(x, before)
    assert NormalizationAdapter(*CIFAR, *IMAGENET)(x.bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ('values', 'message'),
    [
        (([0.5], [0.5, 0.5], [0.5], [0.5]), 'lengths 1, 2, 1, 1'),
        (([], [], [], []), 'lengths 0'),
        (([0.5], [0.0], [0.5], [0.5]), 'must be positive'),
        (([0.5], [0.5], [float('nan')], [0.5]), 'finite'),
    ],
)
def test_bad_statistics(values, message):
    with pytest.raises(ConfigError, match=message):
        NormalizationAdapter(*values)


def test_resizes():
    x = torch.rand(2, 3, 8, 6)
    assert ResizeAdapter(16)(x).shape == (2, 3, 16, 16)
    assert ResizeAdapter((4, 3))(x).shape == (2, 3, 4, 3)
    assert ResizeAdapter((8, 6))(x) is x
    flat = torch.full((1, 1, 8, 8), 0.7)
    for mode in ('bilinear', 'bicubic', 'nearest'):
        torch.testing.assert_close(ResizeAdapter(5, mode)(flat), torch.full((1, 1, 5, 5), 0.7))


@pytest.mark.parametrize(
    ('size', 'mode'), [(0, 'bilinear'), ((1, 2, 3), 'bilinear'), ((4, -1), 'nearest'), (4, 'cubic')]
)
def test_bad_sizes(size, mode):
    with pytest.raises(ConfigError, match='ResizeAdapter'):
        ResizeAdapter(size, mode)
