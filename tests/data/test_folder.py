from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from composer_kd.data import IMAGENET_MEAN, IMAGENET_STD, UNLABELLED, image_folder
from composer_kd.errors import ConfigError


@pytest.fixture
def root(tmp_path):
    random = np.random.RandomState(0)
    for split, count in (('train', 4), ('val', 2)):
        for name in ('cat', 'dog', 'eel'):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(count):
                array = random.randint(0, 256, (40, 60, 3)).astype(np.uint8)
                Image.fromarray(array).save(tmp_path / split / name / f'{index}.png')
    return tmp_path


def test_classes_are_numbered_alphabetically(root):
    train, val = image_folder(root, size=32), image_folder(root, 'val', size=32)
    assert (len(train), len(val), train.num_classes) == (12, 6, 3)
    assert val.targets == [0, 0, 1, 1, 2, 2]
    x, y = val[3]
    assert x.shape == (3, 32, 32)
    assert x.dtype == torch.float32
    assert y == 1


def test_evaluation_cuts_out_the_centre_and_normalises(tmp_path):
    (tmp_path / 'val' / 'only').mkdir(parents=True)
    Image.new('RGB', (64, 64), (255, 0, 51)).save(tmp_path / 'val' / 'only' / 'a.png')
    x, _ = image_folder(tmp_path, 'val', size=56)[0]
    colour = torch.tensor([1.0, 0.0, 0.2]).sub(torch.tensor(IMAGENET_MEAN)).div(torch.tensor(IMAGENET_STD))
    torch.testing.assert_close(x, colour.view(3, 1, 1).expand(3, 56, 56))
    array = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(array).save(tmp_path / 'val' / 'only' / 'a.png')
    x, _ = image_folder(tmp_path, 'val', size=56, mean=(0, 0, 0), std=(1, 1, 1))[0]
    torch.testing.assert_close(x, torch.from_numpy(array[4:60, 4:60]).permute(2, 0, 1) / 255)


def test_grey_files_become_colour_images(tmp_path):
    (tmp_path / 'train' / 'only').mkdir(parents=True)
    Image.new('L', (40, 40), 9).save(tmp_path / 'train' / 'only' / 'a.png')
    assert image_folder(tmp_path, size=8)[0][0].shape == (3, 8, 8)


def test_augmentation_is_random_and_follows_the_global_seed(root):
    train = image_folder(root, size=32, augment=True)
    torch.manual_seed(0)
    first, second = train[0][0], train[0][0]
    torch.manual_seed(0)
    assert torch.equal(train[0][0], first)
    assert not torch.equal(first, second)


def test_labels_are_hidden_without_decoding_images(root, monkeypatch):
    monkeypatch.setattr('torchvision.datasets.ImageFolder.__getitem__', lambda *_: pytest.fail('decoded'))
    dataset = image_folder(root, n_labels=3, subset=6)
    assert sorted(dataset.targets) == [UNLABELLED] * 3 + [0, 1, 2]
    assert dataset.num_classes == 3


def test_missing_folders_say_how_images_must_lie(tmp_path):
    with pytest.raises(ConfigError, match=r'got: .* one folder for each class') as got:
        image_folder(tmp_path, 'val')
    assert f'expected images in {tmp_path}/val/<class>/' in str(got.value)


def test_an_empty_class_is_refused(root):
    (root / 'train' / 'fox').mkdir()
    with pytest.raises(ConfigError, match='fox'):
        image_folder(root)


def test_other_classes_than_in_training_are_refused(root):
    (root / 'val' / 'cat').rename(root / 'val' / 'lion')
    with pytest.raises(ConfigError, match=r"same class folders .* \['cat', 'lion'\] \(2 in all\)"):
        image_folder(root, 'val')


@pytest.mark.parametrize(('settings', 'message'), [({'split': 'test'}, "got 'test'"), ({'size': 0}, 'size: .* got 0')])
def test_wrong_settings_are_refused(root, settings, message):
    with pytest.raises(ConfigError, match=message):
        image_folder(root, **settings)
