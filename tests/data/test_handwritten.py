from __future__ import annotations

from collections import Counter

import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader

from composer_kd.data import DIGITS_MEAN, DIGITS_STD, UNLABELLED, digits
from composer_kd.errors import ConfigError


def tensors(dataset):
    return next(iter(DataLoader(dataset, batch_size=len(dataset))))


def test_train_and_test_share_out_all_digits():
    images = torch.cat([digits('train').images, digits('test').images]).flatten(1)
    every = torch.from_numpy(load_digits().data).to(torch.uint8)
    assert len(images) == len(every) == 1797
    assert Counter(map(tuple, images.tolist())) == Counter(map(tuple, every.tolist()))


def test_the_split_is_stratified_and_pinned():
    train, test = digits('train'), digits('test')
    assert Counter(test.targets) == dict.fromkeys(range(10), 50)
    assert min(Counter(train.targets).values()) >= 124
    assert test.targets[:12] == [1, 2, 4, 5, 6, 9, 4, 7, 8, 9, 2, 7]


def test_training_images_have_zero_mean_and_unit_variance():
    x, y = tensors(digits())
    assert x.shape == (1297, 1, 8, 8)
    assert y.dtype == torch.int64
    assert abs(x.mean()) < 1e-3
    assert abs(x.std() - 1) < 1e-3


def test_pixels_are_those_of_scikit_learn():
    x = tensors(digits('test'))[0] * DIGITS_STD[0] + DIGITS_MEAN[0]
    bundled = load_digits().images / 16
    assert any((x[0, 0].numpy() - image).__abs__().max() < 1e-6 for image in bundled)


def test_the_seed_moves_labels_but_not_the_split():
    one, two = digits(n_labels=50, seed=1), digits(n_labels=50, seed=2)
    assert torch.equal(one.dataset.images, two.dataset.images)
    assert one.targets != two.targets
    assert Counter(one.targets) == {UNLABELLED: 1247, **dict.fromkeys(range(10), 5)}


def test_options():
    assert len(digits(n_labels=50, keep_unlabelled=False)) == 50
    assert len(digits(subset=100, n_labels=50)) == 100
    assert digits(subset=100).num_classes == digits().num_classes == 10
    assert digits(size=16)[0][0].shape == (1, 16, 16)


def test_augmentation_shifts_by_a_pixel_and_never_mirrors():
    torch.manual_seed(0)
    plain, shifted = digits(), digits(augment=True)
    background = -DIGITS_MEAN[0] / DIGITS_STD[0]
    padded = torch.nn.functional.pad(plain[3][0], (1, 1, 1, 1), value=background)
    possible = [padded[:, top : top + 8, left : left + 8] for top in range(3) for left in range(3)]
    for _ in range(20):
        made = shifted[3][0]
        assert any(torch.allclose(made, crop) for crop in possible)


def test_an_unknown_split_names_the_nearest():
    with pytest.raises(ConfigError, match="got 'tset'; did you mean 'test'"):
        digits('tset')
