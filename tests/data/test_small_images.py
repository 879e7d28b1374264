from __future__ import annotations

import pickle
import time
from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from composer_kd.data import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR100_MEAN,
    FASHION_MNIST_MEAN,
    FASHION_MNIST_STD,
    UNLABELLED,
    cifar10,
    cifar100,
    fashion_mnist,
)
from composer_kd.errors import ConfigError

FOLDERS = [
    (cifar10, 'cifar-10-batches-py'),
    (cifar100, 'cifar-100-python'),
    (fashion_mnist, 'FashionMNIST/raw'),
]


def pixels(count, seed):
    return np.random.RandomState(seed).randint(0, 256, (count, 3072)).astype(np.uint8)


def write(path, content):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(content))


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A CIFAR-10 of 50 + 10 images and a CIFAR-100 of 200 + 100, whose checksums torchvision would refuse."""
    monkeypatch.setattr('torchvision.datasets.cifar.check_integrity', lambda path, md5=None: True)
    ten, hundred = tmp_path / 'cifar-10-batches-py', tmp_path / 'cifar-100-python'
    for seed, name in enumerate(['test_batch', *(f'data_batch_{i}' for i in range(1, 6))]):
        write(ten / name, {'data': pixels(10, seed), 'labels': list(range(10))})
    write(ten / 'batches.meta', {'label_names': list('abcdefghij')})
    write(hundred / 'train', {'data': pixels(200, 1), 'fine_labels': list(range(100)) * 2})
    write(hundred / 'test', {'data': pixels(100, 2), 'fine_labels': list(range(100))})
    write(hundred / 'meta', {'fine_label_names': [str(i) for i in range(100)]})
    return tmp_path


def test_cifar10_is_read_normalised(root):
    train, test = cifar10('train', root), cifar10('test', root)
    assert (len(train), len(test), train.num_classes) == (50, 10, 10)
    raw = torch.from_numpy(pixels(10, 0)).view(10, 3, 32, 32) / 255
    expected = (raw - torch.tensor(CIFAR10_MEAN).view(3, 1, 1)) / torch.tensor(CIFAR10_STD).view(3, 1, 1)
    x, y = next(iter(DataLoader(test, batch_size=10)))
    torch.testing.assert_close(x, expected)
    assert y.tolist() == test.targets == list(range(10))


def test_cifar100_is_read_with_its_own_statistics(root):
    train = cifar100('train', root, std=(1.0, 1.0, 1.0))
    assert (len(train), train.num_classes, len(cifar100('test', root))) == (200, 100, 100)
    raw = torch.from_numpy(pixels(200, 1)).view(200, 3, 32, 32) / 255
    torch.testing.assert_close(train[5][0], raw[5] - torch.tensor(CIFAR100_MEAN).view(3, 1, 1))
    assert train.targets[105] == 5


def test_the_root_may_come_from_the_environment(root, monkeypatch):
    monkeypatch.setenv('COMPOSER_KD_DATA', str(root))
    assert len(cifar10('test')) == 10


def test_options(root):
    assert Counter(cifar10('train', root, n_labels=20).targets) == {
        UNLABELLED: 30,
        **dict.fromkeys(range(10), 2),
    }
    assert len(cifar10('train', root, n_labels=20, keep_unlabelled=False)) == 20
    assert len(cifar10('train', root, subset=30)) == 30
    assert cifar10('train', root, size=64)[0][0].shape == (3, 64, 64)
    plain = cifar10('train', root, mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.equal(plain[0][0], torch.from_numpy(pixels(10, 1)[0]).view(3, 32, 32) / 255)


def test_augmentation_changes_training_images(root):
    torch.manual_seed(0)
    augmented = cifar10('train', root, augment=True)
    assert not torch.equal(augmented[0][0], augmented[0][0])
    assert augmented[0][1] == 0


@pytest.mark.parametrize(('build', 'folder'), FOLDERS)
def test_missing_files_say_where_what_and_how(build, folder, tmp_path):
    with pytest.raises(ConfigError) as got:
        build(root=tmp_path)
    for part in (str(tmp_path / folder), 'download=true', 'COMPOSER_KD_DATA', 'root='):
        assert part in str(got.value)


@pytest.mark.parametrize(('build', 'folder'), FOLDERS)
def test_a_failed_download_says_the_same(build, folder, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr('torchvision.datasets.cifar.download_and_extract_archive', fail)
    monkeypatch.setattr('torchvision.datasets.mnist.download_and_extract_archive', fail)
    with pytest.raises(ConfigError, match=r'(?s)expected its files in .* got .*download=True') as got:
        build(root=tmp_path, download=True)
    assert str(tmp_path / folder) in str(got.value)


@pytest.mark.parametrize(('build', 'folder'), FOLDERS)
def test_damaged_files_are_refused(build, folder, tmp_path):
    for name in ('data_batch_1', 'test_batch', 'train', 'train-images-idx3-ubyte', 'train-labels-idx1-ubyte'):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).write_bytes(b'cut')
    for name in ('t10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte'):
        (tmp_path / folder / name).write_bytes(b'cut')
    with pytest.raises(ConfigError, match=r'expected its files in'):
        build(root=tmp_path)


@pytest.mark.parametrize(('build', 'folder'), FOLDERS)
def test_an_unknown_split_is_refused_before_files_are_looked_for(build, folder, tmp_path):
    with pytest.raises(ConfigError, match=r"split: .* got 'trian'; did you mean 'train'"):
        build('trian', root=tmp_path)


@pytest.mark.data
def test_cifar10_as_published():
    train, test = cifar10('train'), cifar10('test')
    assert (len(train), len(test)) == (50_000, 10_000)
    assert Counter(train.targets) == dict.fromkeys(range(10), 5000)
    pixels = train.images.double() / 255
    assert pixels.mean(dim=(0, 2, 3)).tolist() == pytest.approx(CIFAR10_MEAN, abs=1e-4)
    assert pixels.std(dim=(0, 2, 3)).tolist() == pytest.approx(CIFAR10_STD, abs=1e-4)
    assert Counter(cifar10(n_labels=4000).targets) == {UNLABELLED: 46_000, **dict.fromkeys(range(10), 400)}


@pytest.mark.data
def test_fashion_mnist_as_published():
    train, test = fashion_mnist('train'), fashion_mnist('test')
    assert (len(train), len(test), train.num_classes) == (60_000, 10_000, 10)
    assert Counter(test.targets) == dict.fromkeys(range(10), 1000)
    pixels = train.images.double() / 255
    assert (pixels.mean().item(), pixels.std().item()) == pytest.approx(
        (*FASHION_MNIST_MEAN, *FASHION_MNIST_STD), abs=1e-4
    )
    assert fashion_mnist('test', augment=True, size=32)[0][0].shape == (1, 32, 32)


@pytest.mark.data
def test_an_augmented_epoch_takes_little_time():
    train = cifar10('train', augment=True)
    start = time.perf_counter()
    assert sum(len(y) for _, y in DataLoader(train, batch_size=128, shuffle=True)) == 50_000
    assert time.perf_counter() - start < 3
