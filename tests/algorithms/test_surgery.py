"""Algorithms that replace layers: they change the student and nothing that is trained beside it, in either order."""

import pytest
import torch
from composer import algorithms as composer_algorithms
from composer.core import Algorithm, Event
from composer.models import ComposerClassifier
from composer.utils import module_surgery
from torch import nn

from composer_kd import Distillation, Match
from composer_kd.losses import VID, hint
from tests.distilling import cnn, image_student, images
from tests.helpers import Recorder, train, weights

SURGERY = {
    'Factorize': lambda: composer_algorithms.Factorize(
        min_channels=4, min_features=4, latent_channels=2, latent_features=2
    ),
    'SqueezeExcite': lambda: composer_algorithms.SqueezeExcite(min_channels=4),
    'BlurPool': lambda: composer_algorithms.BlurPool(min_channels=4),
    'GhostBatchNorm': lambda: composer_algorithms.GhostBatchNorm(ghost_batch_size=4),
    'WeightStandardization': lambda: composer_algorithms.WeightStandardization(),
}
PROJECTORS = {
    'auto': lambda: 'auto',
    'own': lambda: nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16)),
}


def distilled(surgery, order, project):
    torch.manual_seed(0)
    model, recorder = ComposerClassifier(cnn(4, 1, norm=True), num_classes=4), Recorder()
    projector = PROJECTORS[project]()
    algorithm = Distillation(cnn(8, 2), [Match(hint, on='4', project=projector), Match(VID(), on='3')])
    others = [] if surgery is None else [SURGERY[surgery]()]
    train(model, images(), [algorithm, *others][::order], [recorder])
    return model, recorder.batches, algorithm


@pytest.mark.parametrize('project', PROJECTORS)
@pytest.mark.parametrize('surgery', SURGERY)
def test_the_order_makes_no_difference(surgery, project):
    runs = [distilled(surgery, order, project) for order in (1, -1)]
    (first, losses, _), (second, others, _) = runs
    assert losses == others
    assert torch.equal(weights(first), weights(second))
    for model, _, algorithm in runs:
        for term in algorithm.criterion.terms:
            for name, part in term.learned().items():
                inside = model.composer_kd[f'{term.match.key}_0'][name]
                assert inside is part
        kinds = [type(part) for part in model.composer_kd.modules()]
        plain = distilled(None, 1, project)[0]
        assert kinds == [type(part) for part in plain.composer_kd.modules()]


@pytest.mark.parametrize('order', [1, -1])
@pytest.mark.parametrize('project', PROJECTORS)
def test_averages_of_weights_are_resumed_with_what_is_learned(project, order, tmp_path):
    def run(**options):
        torch.manual_seed(3)
        model, recorder = image_student(), Recorder()
        algorithm = Distillation(cnn(8, 2), [Match(hint, on='4', project=PROJECTORS[project]())])
        swa = composer_algorithms.SWA('1ep', '2ep', update_interval='1ba', schedule_swa_lr=False)
        train(model, images(), [algorithm, swa][::order], [recorder], max_duration='8ba', **options)
        return model, recorder.batches

    straight, losses = run(save_folder=str(tmp_path), save_interval='4ba')
    resumed, rest = run(load_path=str(tmp_path / 'ep1-ba4-rank0.pt'))
    assert losses[4:] == rest
    assert torch.equal(weights(straight), weights(resumed))


def test_what_is_replaced_beside_the_student_all_the_same_is_what_trains():
    """By an algorithm that works after a checkpoint was loaded, as low precision norms may."""

    class Wider(nn.LayerNorm):
        pass

    class Late(Algorithm):
        def match(self, event, state):
            return event == Event.AFTER_LOAD

        def apply(self, event, state, logger):
            policies = {nn.LayerNorm: lambda layer, number: None if isinstance(layer, Wider) else Wider(4)}
            module_surgery.replace_module_classes(state.model, policies, optimizers=state.optimizers)

    model = ComposerClassifier(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Linear(4, 4)), num_classes=4)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.Linear(4, 4))
    algorithm = Distillation(teacher, [Match(hint, on='1', project=nn.LayerNorm(4))])
    train(model, images(), [algorithm, Late()])
    inside = model.composer_kd.hint_1_0.projector
    assert type(inside) is Wider
    assert algorithm.criterion.terms[0].projector is inside
    assert not torch.equal(inside.weight, torch.ones(4))
