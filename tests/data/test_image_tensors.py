from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader

from composer_kd.data import ImageTensors
from composer_kd.data.image_tensors import random_crop_and_flip
from composer_kd.errors import ConfigError

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 1.0, 2.0)


@pytest.fixture
def images():
    return torch.randint(0, 256, (12, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def dataset(images, **options):
    return ImageTensors(images, [i % 3 for i in range(12)], 3, MEAN, STD, **options)


def test_pixels_are_scaled_shifted_and_divided(images):
    x, y = dataset(images)[7]
    mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(x, (images[7] / 255 - mean) / std)
    assert x.dtype == torch.float32
    assert type(y) is int
    assert y == 1


def test_a_loader_stacks_what_single_items_are(images):
    data = dataset(images)
    x, y = next(iter(DataLoader(data, batch_size=12)))
    assert x.shape == (12, 3, 6, 5)
    assert y.dtype == torch.int64
    assert torch.equal(x, torch.stack([image for image, _ in data]))
    assert y.tolist() == data.targets


def test_the_images_are_never_changed(images):
    before = images.clone()
    list(DataLoader(dataset(images, pad=1, flip=True), batch_size=4))
    assert torch.equal(images, before)


def test_every_crop_and_mirror_image_occurs_and_nothing_else():
    torch.manual_seed(0)
    image = torch.arange(1, 13, dtype=torch.uint8).view(1, 1, 3, 4)
    padded = torch.nn.functional.pad(image[0, 0], (1, 1, 1, 1))
    possible = set()
    for top in range(3):
        for left in range(3):
            crop = padded[top : top + 3, left : left + 4]
            possible |= {tuple(crop.flatten().tolist()), tuple(crop.flip(1).flatten().tolist())}
    made = random_crop_and_flip(image.expand(1000, 1, 3, 4), pad=1, flip=True)
    assert {tuple(one.flatten().tolist()) for one in made} == possible
    assert len(possible) == 18


def test_flips_alone_mirror_about_half(images):
    torch.manual_seed(0)
    image = images[:1].expand(1000, -1, -1, -1)
    made = random_crop_and_flip(image, pad=0, flip=True)
    same = (made == image).flatten(1).all(1)
    assert torch.equal(made[~same], image[~same].flip(3))
    assert 450 < same.sum() < 550


@pytest.mark.parametrize('workers', [0, 1])
def test_augmentation_follows_the_global_seed(images, workers):
    def epoch(seed):
        torch.manual_seed(seed)
        loader = DataLoader(dataset(images, pad=2, flip=True), batch_size=4, shuffle=True, num_workers=workers)
        return torch.cat([x for x, _ in loader])

    assert torch.equal(epoch(1), epoch(1))
    assert not torch.equal(epoch(1), epoch(2))


def test_images_are_resized(images):
    x, _ = dataset(torch.full_like(images, 51), size=9)[0]
    torch.testing.assert_close(x, torch.tensor([0.2, 0.0, -0.05]).view(3, 1, 1).expand(3, 9, 9))


def test_an_index_beyond_the_end_ends_a_loop(images):
    assert len(list(dataset(images))) == 12
    with pytest.raises(IndexError):
        dataset(images)[12]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'targets': [0]}, 'targets: expected one for each of 12 images, got 1'),
        ({'mean': (0.5,)}, r'mean: expected a number for each of 3 channels, got \[0.5\]'),
        ({'std': (1.0, 1.0)}, 'std: expected a number for each of 3 channels'),
        ({'std': (1.0, 0.0, 1.0)}, 'std: expected positive numbers'),
        ({'size': 0}, 'size: expected a number of pixels or None, got 0'),
    ],
)
def test_what_does_not_fit_is_refused(images, arguments, message):
    sound = {'targets': [0] * 12, 'mean': MEAN, 'std': STD}
    with pytest.raises(ConfigError, match=message):
        ImageTensors(images, num_classes=3, **{**sound, **arguments})
