"""Algorithms and callbacks of Composer that cannot be combined with a match are refused before training."""

import io

import pytest
import torch
from composer.algorithms import (
    CutMix,
    GyroDropout,
    LayerFreezing,
    MixUp,
    SelectiveBackprop,
    StochasticDepth,
)
from composer.callbacks import ExportForInferenceCallback
from composer.models import ComposerClassifier
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

from composer_kd import CoDistillation, ConfigError, Distillation, KLDivergence, Match, MutualLearning
from composer_kd.losses import CRD, hint, mse, rkd
from tests.distilling import cnn, distil, image_student, images
from tests.helpers import (
    FEATURES,
    EventSpy,
    Recorder,
    TokenDataset,
    TokenModel,
    loader,
    mlp,
    pairs,
    student,
    train,
    trainer,
    weights,
)


def losses(match=None):
    return [KLDivergence(2.0), *([] if match is None else [match])]


def crd():
    return Match(CRD(24, negatives=8), on='4')


REFUSED = {
    'LayerFreezing': (lambda: LayerFreezing(), lambda: Match(hint, on='4', project='auto')),
    'LayerFreezing, own': (lambda: LayerFreezing(), lambda: Match(hint, on='4', project=nn.Conv2d(8, 16, 1))),
    'SelectiveBackprop': (lambda: SelectiveBackprop(), crd),
    'MixUp': (lambda: MixUp(), crd),
    'CutMix': (lambda: CutMix(), crd),
}


@pytest.mark.parametrize('order', [1, -1])
@pytest.mark.parametrize('name', REFUSED)
def test_refuses_an_algorithm_in_either_order(name, order):
    other, match = (make() for make in REFUSED[name])
    algorithms = [Distillation(cnn(8, 2), losses(match)), other][::order]
    with pytest.raises(ConfigError, match=f'{type(other).__name__} and Match .{match.name}.:'):
        trainer(image_student(indexed=True), images(indexed=True), algorithms)


@pytest.mark.parametrize('other', [SelectiveBackprop(), MixUp(), CutMix()], ids=lambda other: type(other).__name__)
def test_without_such_a_match_they_train_on(other):
    model = image_student()
    before = weights(model).clone()
    train(model, images(), [Distillation(cnn(8, 2), losses(Match(rkd, on='4'))), other])
    assert not torch.equal(before, weights(model))


def test_a_teacher_of_ones_own_may_look_up_answers_by_number():
    class Stored:
        name = 'stored'

        def prepare(self, state): ...

        def outputs(self, batch, index=None):
            return torch.zeros(len(batch[0]), 4)

        def end_batch(self, state): ...

    with pytest.warns(UserWarning, match="MixUp changes the samples.*'stored' must not look up"):
        trainer(image_student(indexed=True), images(indexed=True), [Distillation(Stored(), KLDivergence()), MixUp()])


def test_an_export_at_the_end_is_of_the_student_alone(tmp_path):
    def export(name):
        sample = (next(iter(images())), {})
        return ExportForInferenceCallback('torchscript', str(tmp_path / name), sample_input=sample)

    with pytest.raises(ConfigError, match=r'ExportForInferenceCallback and Match .hint_4.: .*close'):
        distil(losses(Match(hint, on='4', project='auto')), callbacks=[export('a.pt')])
    run, _, _ = distil(losses(Match(rkd, on='4')), callbacks=[export('b.pt')])
    exported = torch.jit.load(str(tmp_path / 'b.pt'))
    x, y = next(iter(images()))
    model = run.state.model.eval()
    torch.testing.assert_close(exported((x, y)), model((x, y)))
    torch.save(model, io.BytesIO())


def test_a_match_ends_with_the_layer_that_is_frozen():
    """The rest trains on, and is what it is when that match has no weight from there on."""

    def run(weight):
        model, recorder = image_student(), Recorder()
        matches = [KLDivergence(2.0), Match(mse, on='0', weight=weight)]
        algorithms = [LayerFreezing(freeze_start=0.3, freeze_level=1.0), Distillation(cnn(4, 2), matches)]
        with pytest.warns(UserWarning, match="'0' of the student was frozen during training"):
            train(model, images(), algorithms, [recorder], max_duration='8ep')
        return model, [batch for batch in recorder.batches if batch]

    frozen = []

    def look(state):
        frozen.append(not state.model.module[0].weight.requires_grad)
        return 0.0 if frozen[-1] else 1.0

    model, batches = run(1.0)
    expected, _ = run(look)
    assert any(frozen)
    assert not all(frozen)
    assert torch.equal(weights(model), weights(expected))
    assert all('mse_0' in batch for batch in batches)


def test_a_layer_that_was_never_trained_is_refused():
    model = student()
    model.module[0].requires_grad_(False)
    with pytest.raises(ConfigError, match='has no gradient'):
        train(model, loader(*pairs()), [Distillation(mlp(seed=3), Match(mse, on='0'))])


def bottlenecks(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return ResNet(Bottleneck, [1, 2, 1, 1], num_classes=4)


@pytest.mark.parametrize('order', [1, -1])
@pytest.mark.parametrize(
    ('layer', 'method', 'refused'),
    [('layer2.1.conv2', 'block', True), ('layer2.1', 'block', False), ('layer2.1.conv2', 'sample', False)],
)
def test_stochastic_depth(layer, method, refused, order):
    depth = StochasticDepth('ResNetBottleneck', stochastic_method=method, drop_rate=0.9)
    algorithm = Distillation(bottlenecks(2), losses(Match(rkd, on=layer)))
    model, recorder = ComposerClassifier(bottlenecks(1), num_classes=4), Recorder()
    if refused:
        with pytest.raises(ConfigError, match=r"drops the block 'module\.layer2\.1'.*'layer2\.1\.conv2'"):
            trainer(model, images(), [algorithm, depth][::order])
    else:
        train(model, images(), [algorithm, depth][::order], [recorder])
        assert all(f'rkd_{layer}' in batch for batch in recorder.batches)


@pytest.mark.parametrize('order', [1, -1])
def test_a_dropout_that_another_replaces_is_seen(order):
    def net(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(FEATURES, 8), nn.Dropout(0.5), nn.Linear(8, 4))

    model, recorder, kinds = ComposerClassifier(net(1), num_classes=4), Recorder(), []
    look = EventSpy('batch_start', lambda state: kinds.append(type(state.model.module[1]).__name__))
    algorithms = [Distillation(net(2), losses(Match(mse, on='1'))), GyroDropout(0.5, sigma=4, tau=2)][::order]
    train(model, loader(*pairs()), algorithms, [recorder, look], max_duration='4ep')
    assert kinds[0] == 'GyroDropoutLayer'
    assert all('mse_1' in batch for batch in recorder.batches)


@pytest.mark.parametrize(
    'make',
    [
        lambda: Distillation(TokenModel(seed=3), KLDivergence()),
        lambda: MutualLearning([TokenModel(seed=3)]),
        lambda: CoDistillation(),
    ],
)
def test_microbatches_that_the_trainer_weights_by_tokens(make):
    """What counts is counted by the algorithm: valid tokens would count twice."""
    ids = torch.randint(11, (8, 5))
    data = torch.utils.data.DataLoader(TokenDataset(input_ids=ids, labels=ids), batch_size=4)
    with pytest.raises(ConfigError, match=r'accumulate_train_batch_on_tokens=True.* count twice\. Leave it out'):
        trainer(TokenModel(), data, [make()], accumulate_train_batch_on_tokens=True)
