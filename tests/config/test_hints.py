"""Losses, matches and lists of them in a run's YAML."""

from __future__ import annotations

import pathlib

import pytest
import torch
from composer.optim import LinearScheduler
from omegaconf import OmegaConf

from composer_kd import KLDivergence, Match, Ramp
from composer_kd.config.construct import construct
from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.registry import known_names
from composer_kd.models import DeepCNN
from composer_kd.runs.train import train
from tests.config.test_check import KD, refusal

LOSS = 'algorithms.distillation.kd_loss_fn'
ALL = """[
    {name: KLDivergence, temperature: 2.0},
    torch.nn.functional.mse_loss,
    {loss: {name: KLDivergence}, name: soft, weight: {name: linear_scheduler, alpha_i: 1.0, alpha_f: 0.0},
     temperature: {name: Ramp, initial: 4, final: 1.0, end: 20ep}},
    {loss: hint, on: [features.0, features.2], weight: 2, lr: 0.1,
     project: {name: torch.nn.Conv2d, in_channels: 16, out_channels: 128, kernel_size: 1}},
    {loss: hint, on: features, project: auto, weight: {name: Ramp, initial: 0.0, final: 1.0}},
    {loss: {name: tests.config.test_hints.several, power: 1.0},
     on: [[features.0, features.3], [features.0, features.2]], teacher: big},
    {name: LogitStandardization, loss: {name: KLDivergence, temperature: 3.0}}]"""
NAMED = 'algorithms.distillation.teachers.0.name=big'


def several(student, teacher, power=2.0):
    assert isinstance(student, list)
    return sum((s.mean() - t.mean()).abs() ** power for s, t in zip(student, teacher))


def with_labels(student, teacher, labels, mask, index, scale=1.0):
    assert labels.shape == index.shape == student.shape[:1]
    return scale * torch.nn.functional.cross_entropy(student, labels) + 0 * teacher.sum()


class Pairs(torch.nn.Module):
    """A loss that must be built first, as VID."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale, self.is_built = scale, False

    def forward(self, student, teacher):
        if not self.is_built:
            raise RuntimeError('not built')
        return self.scale * (student - teacher).square().mean()


def weight_of(state, factor=0.5):
    return factor


def kd_loss_fn(written):
    return load_config(KD, [NAMED, f'{LOSS}={written}']).algorithms['distillation'].options['kd_loss_fn']


def test_everything_that_a_script_can_say_a_yaml_can():
    made = [construct(component) for component in kd_loss_fn(ALL)]
    kl, mse, soft, hint, auto, several_layers, wrapped = made
    assert isinstance(kl, KLDivergence)
    assert mse.func is torch.nn.functional.mse_loss
    assert (soft.name, type(soft.weight), type(soft.temperature)) == ('soft', LinearScheduler, Ramp)
    assert (soft.temperature.initial, soft.temperature.final) == (4.0, 1.0)
    assert (hint.student_layers, hint.teacher_layers) == (['features.0'], ['features.2'])
    assert (hint.weight, hint.lr, hint.project.out_channels) == (2, 0.1, 128)
    assert (auto.student_layers, auto.teacher_layers, auto.project) == (['features'], ['features'], 'auto')
    assert several_layers.student_layers == ['features.0', 'features.3']
    assert several_layers.teacher_layers == ['features.0', 'features.2']
    assert several_layers.teacher == 'big'
    assert several_layers.loss.keywords == {'power': 1.0}
    assert wrapped.wrapped.temperature == 3.0
    assert {type(match) for match in (soft, hint, auto, several_layers)} == {Match}


@pytest.mark.parametrize(
    'written',
    [
        ALL,
        '{loss: KLDivergence}',
        '{loss: KLDivergence, name: kl, on: logits}',
        '[{loss: {name: LogitStandardization, loss: KLDivergence}, name: LogitStandardization, on: logits}]',
        '{loss: KLDivergence, weight: tests.config.test_hints.weight_of, project: null, temperature: null}',
    ],
)
def test_matches_survive_being_written_and_read(written, tmp_path):
    config = load_config(KD, [NAMED, f'{LOSS}={written}'])
    OmegaConf.save(OmegaConf.create(as_mapping(config)), tmp_path / 'config.yaml')
    assert load_config(tmp_path / 'config.yaml') == config


def test_a_match_may_have_a_name_and_a_wrapping_loss_is_no_match():
    assert construct(kd_loss_fn('{name: soft, loss: KLDivergence}')).name == 'soft'
    named = construct(kd_loss_fn('{name: LogitStandardization, loss: KLDivergence, weight: 3}'))
    assert (named.name, named.weight) == ('LogitStandardization', 3)
    assert kd_loss_fn('{name: LogitStandardization, loss: KLDivergence}').scope == 'loss'
    assert construct(kd_loss_fn('LogitStandardization')).temperature == 2.0


def test_single_values_of_lists_and_matches_can_be_overridden(tmp_path):
    config = load_config(KD, [NAMED, f'{LOSS}={ALL}', f'{LOSS}.2.loss.temperature=7', f'{LOSS}.3.on=features.0'])
    _, _, soft, hint, *_ = config.algorithms['distillation'].options['kd_loss_fn']
    assert soft.options['loss'].options == {'temperature': 7}
    assert hint.options['on'] == 'features.0'


def test_all_faults_of_matches_are_told_at_once_with_their_keys():
    text = refusal(
        KD,
        f"""{LOSS}=[
        {{losss: KLDivergence, on: features.0}},
        {{loss: {{name: KLDivergense}}, onn: features.0, weight: -1}},
        {{loss: {{name: KLDivergence, temprature: 2}}, on: [a, b], weight: {{name: linear, alpha_f: x}}}},
        {{loss: KLDivergence, on: 3, project: {{name: Conv2d, in_channel: 3}}, temperature: 0}},
        {{loss: hint, on: 'features[', lr: fast, weight: linaer}},
        {{loss: hint, on: features, project: atuo}},
        {{loss: hint, on: features, project: {{name: Projection}}}},
        {{loss: torch.nn.functional.mse_loss, temperature: 2}},
        {{name: KLDivergence, on: features, weight: 2}},
        {{loss: {{name: {__name__}.with_labels, labels: 3, mask: 1, index: 2, scal: 1}}}},
        {{name: LogitStandardisation, loss: {{name: KLDivergence}}}},
        {{name: LogitStandardization, loss: {{name: KLDivergence, temperature: -1}}}},
        {{loss: KLDivergence, weight: {{name: Ramp, initial: 1, final: 0, end: 10 epochs}}}},
        [KLDivergence], 3, {{}}]""",
        'algorithms.distillation.kd_loss_weight=-1',
    )
    for expected in [
        "kd_loss_fn.0.losss: unknown option of Match; did you mean 'loss'?",
        'kd_loss_fn.0.loss: required option of Match is missing; expected a distillation loss: {name: ...',
        "kd_loss_fn.1.loss: unknown distillation loss 'KLDivergense'; did you mean 'KLDivergence'",
        "kd_loss_fn.1.onn: unknown option of Match; did you mean 'on'?",
        'kd_loss_fn.1.weight: expected a number that is zero or more, got -1',
        "kd_loss_fn.2.loss.temprature: unknown option of KLDivergence; did you mean 'temperature'?",
        "kd_loss_fn.2.weight.alpha_f: expected a number, got 'x'",
        'kd_loss_fn.3.on: expected a string or a list',
        "kd_loss_fn.3.project.in_channel: unknown option of Conv2d; did you mean 'in_channels'",
        'kd_loss_fn.3.project.out_channels: required option of Conv2d is missing; expected an integer',
        'kd_loss_fn.3.temperature: expected a number or null that is positive, got 0',
        'kd_loss_fn.4.on: ',
        "kd_loss_fn.4.lr: expected a number or null, got 'fast'",
        "kd_loss_fn.4.weight: unknown schedule 'linaer'; did you mean 'LinearScheduler'",
        "kd_loss_fn.5.project: expected one of 'auto', 'orthogonal' or null, got 'atuo'",
        'kd_loss_fn.6.project: unknown projector',
        'kd_loss_fn.7.temperature: ',
        'kd_loss_fn.8.on: is a setting of a match, not of its loss: write {loss: {name: KLDivergence, ...}, on: ...}',
        'kd_loss_fn.8.weight: is a setting of a match',
        'kd_loss_fn.9.loss.labels: unknown option of with_labels',
        'kd_loss_fn.9.loss.mask: unknown option of with_labels',
        'kd_loss_fn.9.loss.index: unknown option of with_labels',
        "kd_loss_fn.9.loss.scal: unknown option of with_labels; did you mean 'scale'?",
        "kd_loss_fn.10: unknown distillation loss 'LogitStandardisation'; did you mean 'LogitStandardization'",
        'kd_loss_fn.11.loss.temperature: ',
        "kd_loss_fn.12.weight.end: expected a number or an integer or a Composer time such as '10ep'",
        'kd_loss_fn.13: expected a distillation loss: {name: ..., its options}; got',
        'kd_loss_fn.14: expected a distillation loss: {name: ..., its options}; got 3',
        'kd_loss_fn.15: expected a distillation loss',
        'algorithms.distillation.kd_loss_weight: ',
    ]:
        assert f'  algorithms.distillation.{expected}' in text or f'  {expected}' in text, expected


@pytest.mark.parametrize('written', ['[]', '[[]]'])
def test_empty_lists_are_refused(written):
    assert refusal(KD, f'{LOSS}={written}')


@pytest.mark.parametrize(
    'loss',
    [
        f'{__name__}.with_labels',
        f'{{name: {__name__}.with_labels, scale: 2.0}}',
        f'{{loss: {__name__}.several, on: [[features.0], [features.0]]}}',
        f'{__name__}.Pairs',
        'attention_transfer',
        'torch.nn.functional.mse_loss',
    ],
)
def test_losses_that_a_trial_cannot_call_are_not_refused(loss):
    assert load_config(KD, [f'{LOSS}={loss}'])


def test_a_run_with_matches_learns_saves_and_goes_on(tmp_path):
    teacher = DeepCNN(in_channels=1, image_size=8)
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pt')
    loss = """[KLDivergence,
        {loss: hint, on: [features.2, features.4], project: auto, weight: {name: Ramp, initial: 0.0, final: 1.0}},
        {loss: tests.config.test_hints.with_labels, name: labelled}]"""
    common = [f'{LOSS}={loss}', f'variables.teacher={tmp_path}/teacher.pt', f'save_folder={tmp_path}/run']
    common += ['progress_bar=false', 'train_loader.dataset.subset=96', 'train_loader.with_index=true', 'seed=5']
    common += ['eval_loader.dataset.subset=50', 'autoresume=true', 'device_train_microbatch_size=20']
    first = train(load_config(KD, [*common, 'max_duration=1ep']))
    assert {f'loss/train/{name}' for name in ('total', 'task', 'KLDivergence', 'hint_features.2', 'labelled')} <= {
        *first
    }
    again = train(load_config(KD, [*common, 'max_duration=2ep']))
    assert again['time/epoch'] == 2


def test_a_match_of_a_teacher_that_is_not_there_is_refused():
    match = f'{LOSS}={{loss: KLDivergence, teacher: big}}'
    assert load_config(KD, [NAMED, match])
    assert "no teacher of that name, 'big'" in refusal(KD, match)


@pytest.mark.parametrize(
    'name', [name for name in known_names('loss') if name not in ('CRD', 'FirstToken', 'standardize')]
)
def test_every_loss_can_be_named(name):
    assert load_config(KD, [f'{LOSS}={name}'])


def test_losses_that_learn_or_remember_need_no_sizes(tmp_path):
    torch.save(DeepCNN(in_channels=1, image_size=8).state_dict(), tmp_path / 'teacher.pt')
    loss = """[DKD,
        {loss: VID, on: [features.2, features.4]},
        {loss: {name: CRD, n_samples: 96, negatives: 32}, on: [classifier.1, classifier.1]},
        {loss: ReviewKD, on: [[features.1, features.4], [features.4, features.9]], weight: 5}]"""
    common = [f'{LOSS}={loss}', f'variables.teacher={tmp_path}/teacher.pt', 'save_folder=null', 'progress_bar=false']
    common += ['train_loader.dataset.subset=96', 'train_loader.with_index=true', 'max_duration=2ba']
    metrics = train(load_config(KD, common))
    names = {'DKD', 'VID_features.2', 'CRD_classifier.1', 'ReviewKD_features.1_features.4'}
    assert {f'loss/train/{name}' for name in names} <= {*metrics}


def test_the_key_on_is_a_name_in_a_file_too(tmp_path):
    text = pathlib.Path(KD).read_text()
    loss = text[text.index('    kd_loss_fn:') : text.index('    kd_loss_weight')]
    match = '    kd_loss_fn:\n      - loss: hint\n        on: [features.0, features.2]\n        project: auto\n'
    (tmp_path / 'run.yaml').write_text(text.replace(loss, match))
    for overrides in ([], [f'{LOSS}.0.on=[features.0, features.2]']):
        config = load_config(tmp_path / 'run.yaml', overrides)
        (component,) = config.algorithms['distillation'].options['kd_loss_fn']
        assert component.options['on'] == ['features.0', 'features.2']
