"""CIFAR-10 in fixed views, and teachers whose answers to those views are written down once.

A student that is taught by a ResNet spends most of its time waiting for it. Here every training image comes in a few
random crops and mirrorings that are drawn once; each teacher answers for all of them once, and every run reads its
answers. The student sees what it would see with a live teacher, and learns from the same logits.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pathlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks import knowledge_data
from composer_kd import models
from composer_kd.data import CIFAR10_MEAN, CIFAR10_STD, ImageTensors, PartlyLabelled, cifar10
from composer_kd.teachers import FrozenTeacher, load_weights

__all__ = ['Answers', 'FixedViews', 'InBfloat16', 'images', 'pretrained_resnet', 'read', 'remember']

PRETRAINED = {20: 'resnet20-12fca82f.th', 56: 'resnet56-4bfd9763.th'}
VIEWS_SEED = 20


@functools.cache
def read(split: str, size: int) -> tuple[Tensor, list[int]]:
    """All images of a split as bytes ``(N, 3, size, size)``, and their classes; once for each process."""
    if size == knowledge_data.SIZE:
        return knowledge_data.read(split)
    whole: Any = cifar10(split)
    return whole.images, list(whole.targets)


@functools.cache
def _chosen(split: str) -> list[int]:
    """The training images that are held out, or all others: the same at every size."""
    pixels, targets = read('train', knowledge_data.SIZE)
    whole = ImageTensors(pixels, targets, 10, CIFAR10_MEAN, CIFAR10_STD)
    apart = PartlyLabelled(whole, subset=knowledge_data.HELD_OUT).indices
    return list(apart) if split == 'held_out' else sorted(set(range(len(targets))) - set(apart))


@functools.cache
def _part(split: str, size: int) -> tuple[Tensor, list[int]]:
    pixels, targets = read('test' if split == 'test' else 'train', size)
    if split in ('test', 'all'):
        return pixels, targets
    chosen = _chosen(split)
    return pixels[chosen], [targets[index] for index in chosen]


@functools.cache
def _views(split: str, pad: int, views: int) -> tuple[Tensor, Tensor]:
    """Corners ``(2, N * views)`` and whether mirrored: an image has the same ones in every split it is in."""
    count = len(read('test' if split == 'test' else 'train', knowledge_data.SIZE)[1])
    generator = torch.Generator().manual_seed(VIEWS_SEED)
    corners = torch.randint(0, 2 * pad + 1, (2, count, views), generator=generator)
    mirrored = torch.rand(count, views, generator=generator) < 0.5
    if split in ('train', 'held_out'):
        corners, mirrored = corners[:, _chosen(split)], mirrored[_chosen(split)]
    return corners.flatten(1), mirrored.flatten()


def images(split: str = 'train', size: int = 32, augment: bool = False, views: int | None = None) -> Dataset[Any]:
    """CIFAR-10 at a size.

    Args:
        split: ``'all'`` (50,000 training images), ``'train'`` (45,000 of them), ``'held_out'`` (the other 5,000) or
            ``'test'`` (10,000).
        size: Height and width: 32, or 16 for a quarter of the pixels.
        augment: Whether to pad by an eighth of the size, crop at random, and mirror half of the images.
        views: Draw so many of these crops and mirrorings for each image once, and give no others: an epoch has all.

    Returns:
        A data set of ``(x, y)``: a normalised float image ``(3, size, size)`` and its class.
    """
    if split not in ('all', 'train', 'held_out', 'test'):
        raise ValueError(f"split: expected 'all', 'train', 'held_out' or 'test', got {split!r}")
    pixels, targets = _part(split, size)
    if views is not None:
        return FixedViews(pixels, targets, *_views(split, size // 8, views))
    pad = size // 8 if augment else 0
    return ImageTensors(pixels, targets, 10, CIFAR10_MEAN, CIFAR10_STD, pad=pad, flip=augment)


class FixedViews(Dataset[tuple[Tensor, int]]):
    """Each image in several crops and mirrorings.

    Args:
        pixels: Bytes ``(N, 3, size, size)``.
        targets: Their classes.
        corners: Of the crops ``(2, N * views)``, in images that are padded by an eighth of their size.
        mirrored: Whether they are mirrored ``(N * views,)``.
    """

    num_classes = 10

    def __init__(self, pixels: Tensor, targets: list[int], corners: Tensor, mirrored: Tensor) -> None:
        self.views = len(mirrored) // len(pixels)
        self.pixels, self.corners, self.mirrored = pixels, corners, mirrored
        self.targets = [target for target in targets for _ in range(self.views)]
        self.shift = 255 * torch.tensor(CIFAR10_MEAN).view(3, 1, 1)
        self.spread = 255 * torch.tensor(CIFAR10_STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """Prepares a batch: what a ``DataLoader`` calls."""
        where = torch.as_tensor(indices)
        size = self.pixels.shape[-1]
        windows = F.pad(self.pixels[where // self.views], [size // 8] * 4).unfold(2, size, 1).unfold(3, size, 1)
        top, left = self.corners[:, where]
        x = windows[torch.arange(len(where)), :, top, left]
        x = torch.where(self.mirrored[where].view(-1, 1, 1, 1), x.flip(3), x)
        x = x.float().sub_(self.shift).div_(self.spread)
        return [(image, self.targets[index]) for image, index in zip(x.unbind(), indices)]


def _names(x: Tensor) -> Tensor:
    """A number of 64 bits for each image, by its content."""
    rows = x.detach().cpu().contiguous().numpy()
    digests = [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows]
    return torch.tensor([int.from_bytes(digest, 'little', signed=True) for digest in digests])


class Answers(nn.Module):
    """A teacher that answers from what `remember` has written: the logits of another model for the same images.

    Args:
        path: The file.

    Raises:
        KeyError: For an image that is not in the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        written = torch.load(path, weights_only=True)
        self.register_buffer('names', written['names'])
        self.register_buffer('logits', written['logits'])

    def forward(self, x: Tensor) -> Tensor:
        """The logits ``(B, 10)`` for images ``(B, 3, size, size)``."""
        names: Tensor = self.get_buffer('names')
        wanted = _names(x).to(names.device)
        places = torch.searchsorted(names, wanted).clamp(max=len(names) - 1)
        if not torch.equal(names[places], wanted):
            raise KeyError('an image that the teacher was never asked about: other views, or other training images')
        return self.get_buffer('logits')[places]


def remember(teacher: FrozenTeacher, dataset: Dataset[Any], path: pathlib.Path, half: bool = False) -> None:
    """Asks a teacher about every sample of a data set, and writes its answers.

    Args:
        teacher: Any.
        dataset: Of ``(x, y)``.
        path: The file.
        half: Whether the teacher computes in bfloat16.
    """
    names, logits = [], []
    for batch, answer in answers(teacher, dataset, half):
        names.append(_names(batch[0]))
        logits.append(answer)
    order = torch.cat(names).argsort()
    part = path.with_suffix('.part')
    torch.save({'names': torch.cat(names)[order], 'logits': torch.cat(logits)[order]}, part)
    part.replace(path)


def answers(teacher: FrozenTeacher, dataset: Dataset[Any], half: bool = False) -> Any:
    """Each batch of a data set with the teacher's logits for it, float32."""
    context = torch.autocast('cpu', torch.bfloat16, enabled=half)
    for x, y in DataLoader(dataset, batch_size=100):
        batch = knowledge_data.channels_last(x), y
        with torch.no_grad(), context:
            answer = teacher(batch).float()
        yield (x, y), answer


def accuracy(teacher: FrozenTeacher, dataset: Dataset[Any], half: bool = False) -> float:
    """How many of a data set's labels a teacher finds, from 0 to 1."""
    right = [(answer.argmax(1) == batch[1]).float().mean() for batch, answer in answers(teacher, dataset, half)]
    return float(torch.stack(right).mean())


def pretrained_resnet(depth: int = 20, fresh_head: bool = False) -> nn.Module:
    """A CIFAR ResNet with the public weights, made for 32x32 pixels, from ``weights`` below ``COMPOSER_KD_DATA``.

    Args:
        depth: 20 or 56.
        fresh_head: Whether the last layer starts afresh, as that of a network made for other classes must.
    """
    model: Any = {20: models.resnet20, 56: models.resnet56}[depth]()
    load_weights(model, pathlib.Path(os.environ.get('COMPOSER_KD_DATA', './data')) / 'weights' / PRETRAINED[depth])
    if fresh_head:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model.linear.reset_parameters()
    return model


class InBfloat16(nn.Module):
    """A model whose matrix products run in bfloat16, on a CPU that does so twice as fast; its weights stay float32.

    Args:
        model: A name in ``composer_kd.models``.
        **options: Its arguments.
    """

    num_classes = 10

    def __init__(self, model: str, **options: Any) -> None:
        super().__init__()
        self.model = getattr(models, model)(**options)

    def forward(self, x: Tensor) -> Tensor:
        """The model's logits, float32."""
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.model(x).float()
