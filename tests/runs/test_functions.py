"""Functions and adapters that a YAML names: how batches are made, what a teacher sees and how it is called."""

import pytest
import torch
from torch.utils.data import default_collate

from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.train import train

KD = 'yamls/digits/kd.yaml'
QUICK = ['progress_bar=false', 'train_loader.dataset.subset=128', 'eval_loader.dataset.subset=64', 'save_folder=null']
TEACHER = 'algorithms.distillation.teachers.0.'


def halved(samples):
    images, labels = default_collate(samples)
    return images / 2, labels


def doubled(inputs):
    return inputs * 2


def twice_the_logits(model, batch):
    return 2 * model(batch[0] if isinstance(batch, (tuple, list)) else batch)


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teacher')
    quick = [one for one in QUICK if not one.startswith('save_folder')]
    train(load_config('yamls/digits/teacher.yaml', [*quick, 'max_duration=1ep', f'save_folder={folder}']), quiet=True)
    return f'variables.teacher={folder / "latest-rank0.pt"}'


def losses(teacher, *overrides):
    found = train(load_config(KD, [*QUICK, teacher, 'max_duration=2ba', *overrides]), quiet=True)
    return {name: value for name, value in found.items() if name.startswith(('loss/', 'metrics/'))}


def test_several_adapters_are_applied_in_order(teacher):
    named = f'{{name: {__name__}.doubled}}'
    normal = '{name: NormalizationAdapter, mean_original: [0.0], std_original: [1.0], mean_required: [0.0], '
    one = losses(teacher, f'{TEACHER}input_adapter={normal} std_required: [0.25]}}')
    assert losses(teacher, f'{TEACHER}input_adapter=[{named}, {named}]') == pytest.approx(one)
    assert one != pytest.approx(losses(teacher))
    with pytest.raises(ConfigError, match=r'input_adapter\.1'):
        losses(teacher, f'{TEACHER}input_adapter=[{named}, {{name: ResizeAdaptor, size: 8}}]')


def test_a_teacher_is_called_by_a_function(teacher):
    # Twice the logits at twice the temperature: the same answers, and T^2 of the loss four times as much.
    temperature = 'algorithms.distillation.kd_loss_fn.temperature='
    calls = f'{TEACHER}forward={__name__}.twice_the_logits'
    only = ['algorithms.distillation.kd_loss_weight=1.0', 'algorithms.distillation.org_loss_weight=0.0']
    plain = losses(teacher, *only, f'{temperature}1', 'max_duration=1ba')
    assert losses(teacher, *only, f'{temperature}1', 'max_duration=1ba', calls) != plain
    with pytest.raises(ConfigError, match=r'forward: .* has no .twice_the_logit'):
        losses(teacher, f'{TEACHER}forward={__name__}.twice_the_logit')


def test_batches_are_made_by_a_function(teacher):
    made = losses(teacher, f'train_loader.collate_fn={__name__}.halved')
    assert made != losses(teacher)
    default = losses(teacher, 'train_loader.collate_fn=torch.utils.data.default_collate')
    assert default == losses(teacher)
    with pytest.raises(ConfigError, match=r'collate_fn: .torch\.utils\.data. is no collate function'):
        losses(teacher, 'train_loader.collate_fn=torch.utils.data')
    assert torch.is_grad_enabled()
