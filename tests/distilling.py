"""What tests of matches share: small image nets, their data, and a run that distils."""

import torch
from composer.models import ComposerClassifier
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import Distillation, Match
from composer_kd.data.indexed import Indexed
from composer_kd.losses import CRD, VID, ReviewKD, hint
from composer_kd.models.classifier import IndexedClassifier
from tests.helpers import (
    Recorder,
    TokenDataset,
    train,
)


def cnn(width, seed, norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 4),
        )


def images(n=24, batch_size=8, indexed=False):
    generator = torch.Generator().manual_seed(5)
    dataset = TensorDataset(torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % 4)
    return DataLoader(Indexed(dataset) if indexed else dataset, batch_size=batch_size)


def image_student(indexed=False, **options):
    make = IndexedClassifier if indexed else ComposerClassifier
    return make(cnn(4, 1, **options), num_classes=4)


def distil(matches, teachers=None, model=None, data=None, **options):
    model, recorder = model or image_student(), Recorder()
    settings = {
        key: options.pop(key)
        for key in ('start_dur', 'end_dur', 'n_teachers_to_sample', 'teacher_weights')
        if key in options
    }
    algorithm = Distillation(teachers or cnn(8, 2), matches, **settings)
    run = train(model, data or images(), [algorithm], [recorder, *options.pop('callbacks', ())], **options)
    return run, recorder, algorithm


def tokens(attention):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (16, 6), generator=generator)
    labels = torch.where(torch.rand(16, 6, generator=generator) < 0.3, ids, -100)
    labels[:, 0] = ids[:, 0]
    lengths = torch.randint(2, 7, (16, 1), generator=generator)
    mask = (torch.arange(6) < lengths).long() if attention else torch.ones(16, 6, dtype=torch.long)
    return TokenDataset(input_ids=ids, labels=torch.where(mask == 1, labels, -100), attention_mask=mask)


LEARNERS = {
    'projector': lambda: [Match(hint, on='4', project='auto')],
    'own projector': lambda: [Match(hint, on='4', project=nn.Conv2d(8, 16, 1))],
    'VID': lambda: [Match(VID(), on='4')],
    'ReviewKD': lambda: [Match(ReviewKD(), on=(['2', '4'], ['2', '4']))],
    'CRD': lambda: [Match(CRD(24, negatives=8), on='4')],
}
