"""The parts of a model's own loss are logged as without distillation, inside the window and outside."""

import pytest
import torch
import torch.nn.functional as F
from composer.loggers import InMemoryLogger
from composer.models import ComposerModel

from composer_kd import Distillation, KLDivergence, Match, MutualLearning, SelfDistillation
from composer_kd.losses import mse
from tests.helpers import loader, mlp, pairs, sgd, trainer

FORMS = {
    'parts': lambda ce, dice: {'ce': ce, 'dice': dice},
    'parts and total': lambda ce, dice: {'total': ce + 0.5 * dice, 'ce': ce, 'dice': dice},
    'tuple': lambda ce, dice: (ce, dice),
    'one': lambda ce, dice: ce,
    'not scalar': lambda ce, dice: {'ce': ce.expand(3), 'dice': dice},
}


class Parts(ComposerModel):
    def __init__(self, form):
        super().__init__()
        self.net, self.form = mlp(seed=1), form

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return self.form(F.cross_entropy(outputs, batch[1]), outputs.square().mean())


def logged(form, algorithms, lr=0.0, data=None, **options):
    model, memory = Parts(form), InMemoryLogger()
    run = trainer(model, data or loader(*pairs()), algorithms, optimizer=sgd(model, lr), loggers=[memory], **options)
    run.fit()
    run.close()
    return {key: [float(value) for _, value in values] for key, values in memory.data.items() if key.startswith('loss')}


@pytest.mark.parametrize('window', [(0.0, 1.0), ('1ba', '2ba')], ids=['whole', 'part'])
@pytest.mark.parametrize('microbatch', [8, 4])
@pytest.mark.parametrize('form', FORMS)
def test_parts_are_logged_as_without(form, microbatch, window):
    """With a learning rate of 0, so that both runs see the same student."""
    size = {'device_train_microbatch_size': microbatch}
    alone = logged(FORMS[form], [], **size)
    distilled = logged(FORMS[form], [Distillation(mlp(seed=3), KLDivergence(), start_dur=window[0], end_dur=window[1])],
                       **size)  # fmt: skip
    for name in alone.keys() - {'loss/train/total'}:
        assert distilled[name] == pytest.approx(alone[name], rel=1e-6)
    inside = slice(0, 3) if window[0] == 0.0 else slice(1, 2)
    assert distilled['loss/train/task'] == pytest.approx(alone['loss/train/total'][inside], rel=1e-6)


def test_parts_are_means_over_labels_as_the_task_is():
    """Of a batch whose labels are spread unevenly over its microbatches, one of which has none."""
    x, y = pairs(8, unlabelled=(0, 1, 2, 3, 5))
    whole, split = (
        logged(lambda ce, dice: {'ce': ce, 'twice': 2 * ce}, [Distillation(mlp(seed=3), KLDivergence())],
               data=loader(x, y), device_train_microbatch_size=size)
        for size in (8, 2)
    )  # fmt: skip
    with torch.no_grad():
        expected = F.cross_entropy(mlp(seed=1)(x), y).item()
    assert whole['loss/train/ce'] == pytest.approx([expected], rel=1e-6)
    assert split['loss/train/ce'] == pytest.approx([expected], rel=1e-6)
    assert split['loss/train/twice'] == pytest.approx([2 * expected], rel=1e-6)


@pytest.mark.parametrize('other', [lambda: MutualLearning([mlp(seed=3)]), lambda: SelfDistillation(['net.0'])])
def test_parts_beside_other_nets_are_means_over_labels_as_the_task_is(other):
    """They have the task's share of the batch, in the same uneven microbatches."""
    x, y = pairs(8, unlabelled=(0, 1, 2, 3, 5))
    found = logged(lambda ce, dice: {'ce': ce, 'twice': 2 * ce}, [other()], data=loader(x, y),
                   device_train_microbatch_size=2)  # fmt: skip
    with torch.no_grad():
        expected = F.cross_entropy(mlp(seed=1)(x), y).item()
    assert found['loss/train/ce'] == pytest.approx([expected], rel=1e-6)
    assert found['loss/train/twice'] == pytest.approx([2 * expected], rel=1e-6)
    assert found['loss/train/task'] == pytest.approx([3 * expected], rel=1e-6)


def test_a_name_that_is_taken():
    def run():
        matches = [Match(mse, name='mse')]
        return logged(lambda ce, dice: {'kd': ce, 'mse': dice, 'task': 0 * ce}, [Distillation(mlp(seed=3), matches)])

    with pytest.warns(UserWarning, match="'mse' of the model's own loss is logged as 'own_mse'"):
        found = run()
    alone = logged(lambda ce, dice: {'kd': ce, 'mse': dice, 'task': 0 * ce}, [])
    assert found['loss/train/own_kd'] == pytest.approx(alone['loss/train/kd'])
    assert found['loss/train/own_mse'] == pytest.approx(alone['loss/train/mse'])
    assert found['loss/train/task'] == pytest.approx(alone['loss/train/total'])
    assert found['loss/train/kd'] == found['loss/train/mse']


def test_a_loss_of_the_same_keys_is_no_second_distillation():
    logged(lambda ce, dice: {'total': ce, 'task': ce, 'kd': dice}, [Distillation(mlp(seed=3), KLDivergence())])
