"""LabelSmoothing beside distillation, where some labels are missing."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from composer.algorithms import LabelSmoothing
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import Distillation, KLDivergence
from composer_kd.losses import DKD
from tests.helpers import Recorder, loader, mlp, pairs, student, train


def conv(seed):
    torch.manual_seed(seed)
    return nn.Conv2d(2, 3, 1)


def logged(model, data, algorithms, micro):
    recorder, still = Recorder(), torch.optim.SGD(model.parameters(), lr=0.0)
    train(model, data, algorithms, [recorder], optimizer=still, device_train_microbatch_size=micro)
    return recorder.batches[0]


@pytest.mark.filterwarnings('error:Samples may have several labels')
@pytest.mark.parametrize('micro', [4, 1])
@pytest.mark.parametrize('order', [1, -1], ids=['before', 'after'])
def test_ignored_pixels_stay_ignored(order, micro):
    x, labels = torch.randn(4, 2, 4, 5), torch.randint(3, (4, 4, 5))
    labels[:, 0] = labels[2:] = -100
    algorithms = [LabelSmoothing(0.1), Distillation(conv(2), [KLDivergence(1.0), DKD()])][::order]
    found = logged(ComposerClassifier(conv(1), num_classes=3), loader(x, labels, 4), algorithms, micro)
    alone = logged(ComposerClassifier(conv(1), num_classes=3), loader(x, labels, 4), [LabelSmoothing(0.1)], micro)
    ours, theirs = (conv(seed)(x).movedim(1, -1)[labels != -100] for seed in (1, 2))
    kl = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), log_target=True, reduction='batchmean')
    assert found['KLDivergence'] == pytest.approx(kl.item(), rel=1e-5)
    assert found['DKD'] == pytest.approx(DKD()(ours, theirs, labels[labels != -100]).item(), rel=1e-5)
    assert found['task'] == pytest.approx(alone['total'], rel=1e-5)


@pytest.mark.parametrize(('micro', 'unlabelled', 'told'), [(8, (0, 5), 0), (2, (), 0), (2, (0, 5), 1)])
def test_missing_labels_that_are_smoothed_in_several_microbatches_are_told_of(micro, unlabelled, told):
    data = loader(*pairs(16, unlabelled=unlabelled))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        logged(student(), data, [LabelSmoothing(0.1), Distillation(mlp(seed=3), KLDivergence())], micro)
    assert len([one for one in found if 'depends on how the batch is split' in str(one.message)]) == told


@pytest.mark.parametrize('micro', [8, 2])
@pytest.mark.parametrize('order', [1, -1], ids=['before', 'after'])
def test_the_task_is_that_of_composer(order, micro):
    data = loader(*pairs(8, unlabelled=(0, 1, 2, 5)))
    algorithms = [LabelSmoothing(0.1), Distillation(mlp(seed=3), KLDivergence())][::order]
    found = logged(student(), data, algorithms, micro)
    assert found['task'] == pytest.approx(logged(student(), data, [LabelSmoothing(0.1)], micro)['total'], rel=1e-5)
