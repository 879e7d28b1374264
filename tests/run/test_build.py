"""From names to objects."""

from __future__ import annotations

import pytest
import torch
from composer.models import ComposerClassifier

from composer_kd import Distillation, NormalizationAdapter
from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.run.build import build_loader, build_model, build_trainer, construct
from composer_kd.run.config import LoaderConfig, load_config
from composer_kd.run.names import SCOPES, known_names, resolve
from composer_kd.run.parts import Component

SMALL = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}


def my_loss(student, teacher, power=2.0):
    return (student - teacher).abs().pow(power).mean()


class MyComposerModel(ComposerClassifier):
    def __init__(self) -> None:
        super().__init__(torch.nn.Linear(4, 3), num_classes=3)


@pytest.mark.parametrize('scope', SCOPES)
def test_every_known_name_resolves_to_what_it_names(scope):
    names = known_names(scope)
    assert names
    for name, thing in names.items():
        assert resolve(scope, name) is thing


@pytest.mark.parametrize(
    ('scope', 'name', 'expected'),
    [
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

    teacher = 'algorithms={distillation: {teachers: {model: {name: DeepCNN, in_channels: 1, image_size: 8}}, '
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
    config = load_config(
        'yamls/digits/kd_two_teachers.yaml',
        [
            f'variables.teacher={tmp_path}/teacher.pt',
            'algorithms.distillation.teachers.1={model: {name: ImageRNN, in_channels: 1, image_size: 8}, '
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


def test_missing_checkpoints_and_data_show_before_training(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match='nowhere'):
        build_trainer(load_config('yamls/digits/kd.yaml', ['variables.teacher=nowhere.pt']))
    with pytest.raises(ConfigError, match='load_path'):
        build_trainer(load_config('yamls/digits/student.yaml', ['load_path=nowhere.pt']))
    with pytest.raises(ConfigError, match=r'train_loader\.dataset: .*cifar-10'):
        build_trainer(load_config('yamls/cifar10/student.yaml', [f'train_loader.dataset.root={tmp_path}']))


def test_too_few_samples_for_a_batch_are_refused():
    loader = LoaderConfig(Component('dataset', 'digits', {'subset': 10}, 'train_loader.dataset'), drop_last=True)
    with pytest.raises(ConfigError, match='10 samples make no batch of 64'):
        build_loader(loader, 64, seed=0, train=True)


@pytest.mark.parametrize('train', [True, False])
def test_training_is_shuffled_and_evaluation_is_not(train):
    loader = build_loader(LoaderConfig(Component('dataset', 'digits', {'split': 'test'})), 10, seed=0, train=train)
    assert (list(loader.sampler) != list(range(500))) == train
