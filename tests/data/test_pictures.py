"""The images of data sets as pictures, and pictures as their inputs."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset
from torchvision.transforms import v2

from composer_kd.data import HeldOut, ImageTensors, Indexed, digits, image_folder
from composer_kd.data.pictures import MOST_PIXELS, pictures_of, read_picture, shown
from composer_kd.errors import ConfigError


def coloured(size=None, classes=None):
    pixels = torch.randint(256, (6, 3, 9, 9), dtype=torch.uint8)
    return ImageTensors(pixels, [0, 1, 2, 0, 1, 2], 3, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), size=size, classes=classes)


@pytest.fixture
def folder(tmp_path):
    for name, colour in (('cat', 'red'), ('dog', 'blue')):
        place = tmp_path / 'val' / name
        place.mkdir(parents=True)
        for number in range(2):
            Image.new('RGB', (50 + number, 40), colour).save(place / f'{number}.png')
    return image_folder(tmp_path, 'val', size=16)


def test_a_picture_of_the_data_becomes_exactly_its_sample(folder):
    sets = [
        digits('test', subset=30), digits('test', size=12), HeldOut(digits(), 0.1, 'held_out'), Indexed(digits('test')),
        Subset(digits('test'), [5, 3]), coloured(), coloured(size=7), folder, Subset(folder, [2, 1]),
    ]  # fmt: skip
    for dataset in sets:
        found = pictures_of(dataset)
        assert found.count == len(dataset)
        for index in {0, 1, len(dataset) - 1}:
            x, y = dataset[index][:2]
            assert torch.equal(found.prepare(found.picture(index)), x)
            assert found.target(index) == y


def test_augmented_data_prepares_without_random_transforms():
    plain, augmented = digits('test'), digits('test', augment=True)
    found = pictures_of(augmented)
    assert torch.equal(found.prepare(found.picture(3)), plain[3][0])


def test_a_picture_from_elsewhere_is_fitted_to_the_data(folder):
    grey = pictures_of(digits('test')).prepare(Image.new('RGBA', (100, 30), 'white'))
    assert grey.shape == (1, 8, 8)
    torch.testing.assert_close(grey, torch.full_like(grey, (1 - 0.3057) / 0.3765))
    assert pictures_of(folder).prepare(Image.new('L', (300, 20))).shape == (3, 16, 16)


def test_data_that_does_not_say_how_is_refused():
    with pytest.raises(ConfigError, match=r'list does not say how .* the methods picture\(index\)'):
        pictures_of([(torch.zeros(3, 4, 4), 1)])


def test_names_of_classes_are_kept():
    assert coloured(classes=['a', 'b', 'c']).classes == ['a', 'b', 'c']
    assert not hasattr(coloured(), 'classes')


def encoded(image, kind='PNG', **settings):
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def test_a_picture_is_turned_upright():
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned
    assert read_picture(encoded(Image.new('RGB', (30, 10)), 'JPEG', exif=exif)).size == (10, 30)
    assert read_picture(encoded(Image.new('RGB', (30, 10)), 'WEBP')).size == (30, 10)


def test_what_is_no_picture_is_refused():
    with pytest.raises(ConfigError, match='got something else'):
        read_picture(b'<svg xmlns="http://www.w3.org/2000/svg"/>')
    with pytest.raises(ConfigError, match='the picture is damaged'):
        read_picture(encoded(Image.effect_noise((64, 64), 90))[:800])
    with pytest.raises(ConfigError, match=f'at most {MOST_PIXELS:,} pixels, got 10000 x 5000'):
        read_picture(encoded(Image.new('1', (10_000, 5000))))


def test_inputs_are_drawn_from_dark_to_bright():
    assert shown(torch.tensor([[[-1.0, 1.0]]])).tobytes() == b'\x00\xff'
    assert shown(torch.zeros(3, 2, 5)).size == (5, 2)
    assert v2.functional.pil_to_tensor(shown(torch.zeros(1, 2, 2))).sum() == 0


def test_a_picture_of_16_bits_is_as_bright_as_one_of_8():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    content = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(content, 'PNG')
    assert np.array_equal(np.array(read_picture(content.getvalue()).convert('L')), grey)
