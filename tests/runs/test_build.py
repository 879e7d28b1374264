"""From names to objects."""

from __future__ import annotations

import os
import re

import pytest
import torch
from composer.models import ComposerClassifier, HuggingFaceModel

from composer_kd import Distillation, NormalizationAdapter
from composer_kd.config.construct import construct
from composer_kd.config.hints import nested_hints
from composer_kd.config.load import load_config
from composer_kd.config.markers import Component
from composer_kd.config.registry import SCOPES, import_path, known_names, resolve
from composer_kd.config.schema import LoaderConfig
from composer_kd.config.typecheck import describe, parameters
from composer_kd.errors import CheckpointNotFoundError, ComposerKDError, ConfigError
from composer_kd.models import DeepCNN, ImageRNN
from composer_kd.runs.build import build_model, build_trainer
from composer_kd.runs.loaders import build_loader
from composer_kd.runs.preflight import dry_run

SMALL = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}


def my_loss(student, teacher, power=2.0):
    return (student - teacher).abs().pow(power).mean()


class MyLoadedNet(torch.nn.Sequential):
    def __init__(self, in_features=64):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(in_features, 10))


class MyStream(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(64), 0


def halved(inputs, by=0.5):
    return inputs * by


def constant(state, ssr=1.0, factor=0.5):
    return factor


class Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


class MyComposerModel(ComposerClassifier):
    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(4, 3), num_classes=3)


@pytest.mark.parametrize('scope', [scope for scope, rule in SCOPES.items() if rule.modules or rule.also])
def test_every_known_name_is_a_thing_of_its_scope_in_snake_case_too(scope):
    names = known_names(scope)
    assert names
    for name, thing in names.items():
        assert getattr(thing, '__name__', None) in (name, 'DecoupledAdamW', 'DecoupledSGDW')
        snake = re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower().removesuffix('_' + SCOPES[scope].suffix.lower())
        twins = {other.replace('_', '').lower() for other in names if other != name}  # KLDivergence and kl_divergence
        if snake.replace('_', '') not in twins:
            assert resolve(scope, snake) is thing
        if SCOPES[scope].base and name != 'Ramp':
            assert issubclass(thing, import_path(SCOPES[scope].base))


@pytest.mark.parametrize('scope', ['model', 'dataset'])
def test_what_needs_an_object_cannot_be_named(scope):
    for thing in known_names(scope).values():
        known = parameters(thing)[0]
        written = nested_hints(scope, thing, known)  # such as the teacher that a student is cut out of
        needed = [p.annotation for name, p in known.items() if p.required and name not in written]
        assert all('which a YAML file cannot hold' not in describe(annotation) for annotation in needed)
    known = {name.replace('_', '').lower() for name in known_names(scope)}
    for name in (name for name in SCOPES[scope].without if name.lower() not in known):  # TextPairs means text_pairs
        with pytest.raises(ConfigError, match=f'unknown {SCOPES[scope].what} {name!r}'):
            resolve(scope, name)


@pytest.mark.parametrize(
    ('scope', 'name', 'expected'),
    [
        ('schedule', 'linear_scheduler', 'LinearScheduler'),
        ('schedule', 'linear', 'LinearScheduler'),
        ('schedule', 'ramp', 'Ramp'),
        ('projector', 'Conv2d', 'Conv2d'),
        ('algorithm', 'distillation', 'Distillation'),
        ('algorithm', 'label_smoothing', 'LabelSmoothing'),
        ('algorithm', 'mixup', 'MixUp'),
        ('logger', 'wandb', 'WandBLogger'),
        ('logger', 'tensorboard', 'TensorboardLogger'),
        ('callback', 'speed_monitor', 'SpeedMonitor'),
        ('adapter', 'normalization', 'NormalizationAdapter'),
        ('optimizer', 'AdamW', 'AdamW'),
        ('loss', 'torch.nn.MSELoss', 'MSELoss'),
    ],
)
def test_names_in_yaml_spelling(scope, name, expected):
    assert resolve(scope, name).__name__ == expected


def test_a_plain_model_gets_metrics_and_a_composer_model_is_taken_as_it_is():
    model = build_model(Component('model', 'ShallowCNN', SMALL, 'model'))
    assert set(model.get_metrics(is_train=False)) == {'MulticlassAccuracy', 'CrossEntropy'}
    assert set(model.get_metrics(is_train=True)) == {'MulticlassAccuracy'}
    assert isinstance(build_model(Component('model', f'{__name__}.MyComposerModel')), MyComposerModel)


def test_a_model_that_does_not_say_its_classes_is_refused():
    options = {'in_features': 2, 'out_features': 2}
    with pytest.raises(ConfigError, match=r'model: .*num_classes'):
        build_model(Component('model', 'torch.nn.Linear', options, 'model'))


def test_a_model_that_cannot_be_built_is_named_with_its_key():
    with pytest.raises(ConfigError, match=r'^model: .*num_classes'):
        build_model(Component('model', 'ShallowCNN', {**SMALL, 'num_classes': 0}, 'model'))


def test_a_function_is_a_loss_of_its_own():
    loss = construct(Component('loss', f'{__name__}.my_loss', {'power': 1.0}))
    assert float(loss(torch.tensor([1.0]), torch.tensor([4.0]))) == 3.0


def test_the_seed_determines_initial_weights_and_order_whatever_the_teacher(tmp_path):
    def first_weights(*overrides):
        trainer = build_trainer(load_config('yamls/digits/student.yaml', ['save_folder=null', *overrides]))
        order = list(trainer.state.train_dataloader.sampler)[:20]
        weights = next(trainer.state.model.parameters()).detach().clone()
        trainer.close()
        return weights, order

    torch.save(DeepCNN(**SMALL).state_dict(), tmp_path / 'deep.pt')
    teacher = 'algorithms={distillation: {teachers: {model: {name: DeepCNN, in_channels: 1, image_size: 8}, '
    teacher += f'checkpoint: {tmp_path}/deep.pt' + '}, '
    weights, order = first_weights('seed=1')
    with_teacher, same_order = first_weights('seed=1', teacher + 'kd_loss_fn: KLDivergence}}')
    other, other_order = first_weights('seed=2')
    assert torch.equal(weights, with_teacher)
    assert order == same_order
    assert not torch.equal(weights, other)
    assert order != other_order


def test_one_yaml_distils_with_two_teachers_a_checkpoint_and_an_adapter(tmp_path):
    teacher = build_model(Component('model', 'DeepCNN', SMALL, 'teacher'))
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pt')
    torch.save(ImageRNN(in_channels=1, image_size=8).state_dict(), tmp_path / 'rnn.pt')
    config = load_config(
        'yamls/digits/kd_two_teachers.yaml',
        [
            f'variables.teacher={tmp_path}/teacher.pt',
            'algorithms.distillation.teachers.1={model: {name: ImageRNN, in_channels: 1, image_size: 8}, '
            f'checkpoint: {tmp_path}/rnn.pt, '
            'input_adapter: {name: normalization, mean_original: [0.5], std_original: [0.5], '
            'mean_required: [0], std_required: [1]}}',
            'save_folder=null',
        ],
    )
    trainer = build_trainer(config)
    (distillation,) = [a for a in trainer.state.algorithms if isinstance(a, Distillation)]
    trainer.close()
    first, second = distillation.pool.teachers
    assert first.name == 'first'
    assert isinstance(second.input_adapter, NormalizationAdapter)
    assert 'KLDivergence' in repr(distillation)
    assert torch.equal(next(first.model.parameters()), next(teacher.module.parameters()))


def test_a_yaml_chooses_among_the_weights_of_a_checkpoint(tmp_path):
    one, other = ({key: value + n for key, value in DeepCNN(**SMALL).state_dict().items()} for n in (0, 1))
    torch.save({'model': one, 'ema': other}, tmp_path / 'both.pt')
    settings = [f'variables.teacher={tmp_path}/both.pt', 'save_folder=null']
    with pytest.raises(ComposerKDError, match=r"under 'model', 'ema': choose one.*entry: 'model' in a YAML"):
        build_trainer(load_config('yamls/digits/kd.yaml', settings))
    trainer = build_trainer(
        load_config('yamls/digits/kd.yaml', [*settings, 'algorithms.distillation.teachers.0.entry=ema'])
    )
    (distillation,) = [a for a in trainer.state.algorithms if isinstance(a, Distillation)]
    trainer.close()
    found = distillation.pool.teachers[0].model.state_dict()
    assert all(any(torch.equal(value, mine) for mine in found.values()) for value in other.values())


def test_missing_checkpoints_and_data_show_before_training(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match='nowhere'):
        build_trainer(load_config('yamls/digits/kd.yaml', ['variables.teacher=nowhere.pt']))
    with pytest.raises(ConfigError, match='load_path'):
        build_trainer(load_config('yamls/digits/student.yaml', ['load_path=nowhere.pt']))
    with pytest.raises(ConfigError, match=r'train_loader\.dataset: .*cifar-10'):
        build_trainer(load_config('yamls/cifar10/student.yaml', [f'train_loader.dataset.root={tmp_path}']))


def test_everything_that_is_missing_is_told_at_once(tmp_path):
    (tmp_path / 'file').touch()
    overrides = ['variables.teacher=no-1.pt', 'variables.teacher_2=no-2.pt', 'load_path=no-3.pt']
    overrides += [f'save_folder={tmp_path}/file/x', 'model.num_classes=0', 'train_loader.dataset.subset=9999']
    with pytest.raises(ConfigError) as caught:
        build_trainer(load_config('yamls/digits/kd_two_teachers.yaml', overrides))
    for part in ('no-1.pt', 'no-2.pt', 'load_path: ', 'save_folder: the folder', '\nmodel: ', 'train_loader.data'):
        assert part in str(caught.value)


def test_what_composer_cannot_load_is_refused_and_never_run(tmp_path):
    (tmp_path / 'text.pt').write_text('hello')
    torch.save(DeepCNN(**SMALL).state_dict(), tmp_path / 'plain.pt')
    torch.save({'state': {'model': Hostile(str(tmp_path / 'mark'))}}, tmp_path / 'hostile.pt')
    for name in ('', 'text.pt', 'plain.pt', 'hostile.pt'):
        overrides = ['save_folder=null', f'load_path={tmp_path / name}']
        with pytest.raises(ConfigError, match='load_path: expected a Composer checkpoint'):
            build_trainer(load_config('yamls/digits/student.yaml', overrides))
    assert not (tmp_path / 'mark').exists()


@pytest.mark.parametrize(
    ('overrides', 'said'),
    [
        (['model.in_channels=3'], r'^model: fails on the first sample of train_loader\.dataset: .*channels'),
        (
            ['algorithms.distillation.teachers.0.model.in_channels=3'],
            r'^algorithms.distillation.teachers: the teacher',
        ),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_named(overrides, said, tmp_path):
    channels = 3 if 'teachers' in overrides[0] else 1
    torch.save(DeepCNN(**{**SMALL, 'in_channels': channels}).state_dict(), tmp_path / 'deep.pt')
    overrides = [*overrides, f'variables.teacher={tmp_path}/deep.pt', 'save_folder=null']
    with pytest.raises(ConfigError, match=said):
        build_trainer(load_config('yamls/digits/kd.yaml', overrides))


def test_the_trial_on_a_sample_leaves_the_random_state_and_modes_as_they_were():
    config = load_config('yamls/digits/student.yaml')
    model = build_model(config.model)
    before = torch.get_rng_state()
    dry_run(model, {}, build_loader(config.train_loader, 4, seed=0, train=True))
    assert torch.equal(before, torch.get_rng_state())
    assert all(module.training for module in model.modules())


def test_a_teacher_of_ones_own_without_a_checkpoint_is_warned_of():
    config = load_config(
        'yamls/digits/kd.yaml', [f'algorithms.distillation.teachers={{model: {__name__}.MyLoadedNet}}']
    )
    with pytest.warns(UserWarning, match='no checkpoint is given, so the teacher'):
        construct(config.algorithms['distillation'])


@pytest.mark.parametrize('name', [f'{__name__}.MyLoadedNet', 'torchvision.models.resnet18'])
def test_a_model_of_ones_own_takes_its_classes_from_its_options_or_the_data(name):
    assert build_model(Component('model', name, {}, 'model'), num_classes=10).num_classes == 10
    if 'resnet18' in name:
        assert build_model(Component('model', name, {'num_classes': 7}, 'model'), num_classes=10).num_classes == 7


def test_a_model_with_other_logits_than_classes_is_refused():
    config = load_config('yamls/digits/student.yaml')
    model = build_model(Component('model', f'{__name__}.MyLoadedNet', {}, 'model'), num_classes=7)
    with pytest.raises(ConfigError, match='model: answers with 10 logits for 7 classes'):
        dry_run(model, {}, build_loader(config.train_loader, 4, seed=0, train=True))


def test_a_data_set_without_length_is_refused():
    loader = LoaderConfig(Component('dataset', f'{__name__}.MyStream', {}, 'train_loader.dataset'))
    with pytest.raises(ConfigError, match=r'train_loader\.dataset: .*MyStream has no length'):
        build_loader(loader, 4, seed=0, train=True)


def test_a_function_is_an_adapter_or_a_scheduler_of_its_own(tmp_path):
    torch.save(DeepCNN(**SMALL).state_dict(), tmp_path / 'deep.pt')
    adapter = f'algorithms.distillation.teachers.0.input_adapter={{name: {__name__}.halved, by: 0.25}}'
    scheduler = f'scheduler={{name: {__name__}.constant, factor: 0.125}}'
    overrides = [adapter, scheduler, f'variables.teacher={tmp_path}/deep.pt', 'save_folder=null']
    config = load_config('yamls/digits/kd.yaml', overrides)
    teacher = config.algorithms['distillation'].options['teachers'][0]
    assert construct(teacher.input_adapter)(8.0) == 2.0
    assert construct(config.scheduler)(None) == 0.125
    build_trainer(config).close()


def test_too_few_samples_for_a_batch_are_refused():
    loader = LoaderConfig(Component('dataset', 'digits', {'subset': 10}, 'train_loader.dataset'), drop_last=True)
    with pytest.raises(ConfigError, match='10 samples make no batch of 64'):
        build_loader(loader, 64, seed=0, train=True)


@pytest.mark.parametrize('train', [True, False])
def test_training_is_shuffled_and_evaluation_is_not(train):
    loader = build_loader(LoaderConfig(Component('dataset', 'digits', {'split': 'test'})), 10, seed=0, train=train)
    assert (list(loader.sampler) != list(range(500))) == train


def a_model_of_transformers() -> torch.nn.Module:
    transformers = pytest.importorskip('transformers')
    sizes = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
    return transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=11, **sizes))


def wrapped() -> HuggingFaceModel:
    return HuggingFaceModel(a_model_of_transformers(), use_logits=True)


@pytest.mark.parametrize(
    ('name', 'options', 'what'),
    [
        ('composer.models.HuggingFaceModel', {'model': 'bert-base-uncased'}, 'takes a model as an object'),
        (f'{__name__}.a_model_of_transformers', {}, 'is a model of transformers, which needs a wrapper'),
    ],
)
def test_a_model_of_transformers_without_its_wrapper_is_answered(name, options, what):
    with pytest.raises(
        ConfigError, match=f'^model: .* {what}.* In a YAML, write .*hf_classifier, .* a function of yours'
    ):
        build_model(Component('model', name, options, 'model'))
    assert isinstance(build_model(Component('model', f'{__name__}.wrapped')), HuggingFaceModel)


def test_a_callback_that_loads_runs_nothing_of_a_checkpoint(tmp_path):
    torch.save({'state': {'model': {}, 'callbacks': Hostile(str(tmp_path / 'ran'))}}, tmp_path / 'w.pt')
    more = [f'callbacks={{load_checkpoint: {{load_path: {tmp_path}/w.pt}}}}', 'save_folder=null', 'progress_bar=false']
    with pytest.raises(ConfigError, match='loading that could run code'):
        build_trainer(load_config('yamls/digits/student.yaml', more))
    assert not (tmp_path / 'ran').exists()
