"""Batches that tell the index of their samples, in a whole run of Composer's."""

from __future__ import annotations

import pytest
import torch
from composer.models import ComposerClassifier
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from composer_kd.data import Indexed, PartlyLabelled, digits
from composer_kd.models import IndexedClassifier, ShallowCNN
from tests.helpers import EventSpy, Recorder, train, weights


def classifier(kind):
    torch.manual_seed(3)
    accuracy = {name: MulticlassAccuracy(10, ignore_index=-100) for name in ('train_metrics', 'val_metrics')}
    return kind(ShallowCNN(in_channels=1, image_size=8), **accuracy)


def fit(kind, wrap, callbacks=(), **options):
    model = classifier(kind)
    data = DataLoader(wrap(PartlyLabelled(digits(), n_labels=60, subset=120)), batch_size=40)
    evaluation = DataLoader(wrap(digits('test')), batch_size=250)
    run = train(model, data, callbacks=callbacks, eval_dataloader=evaluation, **options)
    return weights(model), {
        name: float(group['MulticlassAccuracy'].compute())
        for name, group in (('train', run.state.train_metrics), ('eval', run.state.eval_metrics['eval']))
    }


def test_a_run_with_indices_is_the_run_without_them():
    pairs, found = fit(ComposerClassifier, lambda dataset: dataset)
    triples, same = fit(IndexedClassifier, Indexed)
    assert torch.equal(pairs, triples)
    assert found == same
    assert found['eval'] > 0.05
    assert torch.equal(pairs, fit(IndexedClassifier, lambda dataset: dataset)[0])


def test_microbatches_keep_images_labels_and_indices_together():
    recorder, sizes = Recorder(), []
    spy = EventSpy('before_forward', lambda state: sizes.append(len(state.batch[0])))
    fit(IndexedClassifier, Indexed, [recorder, spy], device_train_microbatch_size=16)
    dataset = PartlyLabelled(digits(), n_labels=60, subset=120)
    assert sizes == [16, 16, 8] * 3
    assert torch.cat([index for _, _, index in recorder.seen]).tolist() == list(range(120))
    for x, y, index in recorder.seen:
        assert y.tolist() == [dataset.targets[i] for i in index]
        assert torch.equal(x, torch.stack([dataset[i][0] for i in index]))


def test_checkpoints_are_those_of_composers_classifier():
    ours, theirs = classifier(IndexedClassifier), classifier(ComposerClassifier)
    assert ours.load_state_dict(theirs.state_dict())
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_other_batches_are_refused():
    with pytest.raises(ValueError, match=r'expected a batch \(x, y\) or \(x, y, index\), got 4 parts'):
        classifier(IndexedClassifier)((torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.zeros(1), torch.zeros(1)))
