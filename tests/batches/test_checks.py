"""What the first labels and the model's own loss show."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from composer.models import ComposerClassifier, ComposerModel
from torch import nn

from composer_kd import Distillation, KLDivergence
from composer_kd.losses import DIST, RKD, LogitStandardization, ReverseKL, cosine, hard_label, mse
from tests.helpers import loader, mlp, named, pairs, student, train


def binary(student, teacher):
    return F.binary_cross_entropy_with_logits(student, teacher.sigmoid())


def own_divergence(student, teacher):
    return F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction='batchmean')


class Several(ComposerModel):
    """Several labels at once, each with a binary cross-entropy of its own."""

    def __init__(self, loss=F.binary_cross_entropy_with_logits):
        super().__init__()
        self.net, self.own = mlp(), loss

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return self.own(outputs, batch[1])


def hot(*rows):
    return torch.tensor(rows).float().repeat(3, 1)


SEVERAL = hot([1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1], [0, 0, 1, 0])
LATE = torch.eye(4).repeat(3, 1) + torch.tensor([[0.0]] * 11 + [[1.0]])


def said(model, labels, loss, micro=4, **options):
    x, _ = pairs(12)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        train(
            model,
            loader(x, labels, 4),
            [Distillation(mlp(seed=3), loss)],
            device_train_microbatch_size=micro,
            **options,
        )
    return [str(one.message) for one in found if 'several labels at once' in str(one.message)]


@pytest.mark.parametrize('micro', [4, 1])
@pytest.mark.parametrize('labels', [SEVERAL, LATE], ids=['at once', 'in the last row'])
@pytest.mark.parametrize(
    ('loss', 'of_softmax'),
    [
        (KLDivergence(2.0), True),
        (ReverseKL(), True),
        (hard_label, True),
        (LogitStandardization(), True),
        (own_divergence, False),  # not called beside the training
        (mse, False),
        (cosine, False),
        (binary, False),
    ],
    ids=named,
)
def test_a_softmax_of_classes_that_come_together_is_told_of_once(loss, of_softmax, labels, micro):
    found = said(Several(), labels, loss, micro)
    assert len(found) == of_softmax
    assert all('composer_kd.losses.mse' in text for text in found)


@pytest.mark.parametrize(
    ('model', 'labels'),
    [
        (Several(), torch.eye(4).repeat(3, 1)),  # one class, trained by a binary cross-entropy
        (Several(F.cross_entropy), torch.rand(12, 4).softmax(1)),  # probabilities, as from MixUp
        (Several(F.cross_entropy), torch.arange(12) % 4),
        (student(), torch.arange(12) % 4),
    ],
    ids=['one hot', 'probabilities', 'numbers', 'classifier'],
)
def test_one_label_is_no_case_of_several(model, labels):
    assert said(model, labels, KLDivergence()) == []
    assert said(model, labels, DIST()) == []


def test_whole_numbers_for_each_class_are_several_labels_too():
    model = Several(lambda outputs, labels: F.binary_cross_entropy_with_logits(outputs, labels.float()))
    assert len(said(model, SEVERAL.long(), KLDivergence())) == 1


def test_a_model_may_say_that_there_are_several_labels():
    class Says(Several):
        def __init__(self):
            super().__init__()
            self.margin = nn.MultiLabelSoftMarginLoss()

        def loss(self, outputs, batch):
            return self.margin(outputs, batch[1])

    assert len(said(Says(), torch.eye(4).repeat(3, 1), KLDivergence())) == 1


def test_maps_of_several_labels_are_told_of():
    class Map(ComposerClassifier):
        def __init__(self):
            super().__init__(nn.Conv2d(2, 3, 1), num_classes=3, loss_fn=F.binary_cross_entropy_with_logits)

    labels = torch.randint(2, (4, 3, 5, 5)).float()
    with pytest.warns(UserWarning, match='several labels at once'):
        train(Map(), loader(torch.randn(4, 2, 5, 5), labels, 2), [Distillation(nn.Conv2d(2, 3, 1), KLDivergence())])


def test_relations_of_samples_are_no_softmax():
    assert said(Several(), SEVERAL, RKD()) == []
