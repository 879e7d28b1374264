"""Students that teach themselves, from YAML files."""

import json

import pytest
from composer.models import ComposerClassifier

from composer_kd import ConfigError
from composer_kd.config.load import load_config
from composer_kd.models import ShallowCNN
from composer_kd.runs.train import train

FREE, KD = 'yamls/digits/teacher_free.yaml', 'algorithms.distillation'
OWN = '{loss: {name: sad}, "on": [features.1, features.3], teacher: student, weight: 0.1}'


def config(tmp_path, *overrides):
    quiet = ['progress_bar=false', f'save_folder={tmp_path}', 'save_interval=1ep', 'eval_interval=1ep']
    return load_config(FREE, [*quiet, 'max_duration=2ba', *overrides])


def adapted():
    """A student of a user's own package."""
    peft = pytest.importorskip('peft')
    net = ShallowCNN(in_channels=1, num_classes=10, image_size=8)
    net = peft.get_peft_model(net, peft.LoraConfig(target_modules=['classifier.4']))
    return ComposerClassifier(net, num_classes=10)


def test_the_virtual_teacher(tmp_path):
    found = train(config(tmp_path))
    assert found['loss/train/kd'] > 0
    assert json.loads((tmp_path / 'metrics.json').read_text())['loss/train/kd'] == found['loss/train/kd']


@pytest.mark.parametrize('teachers', ['[]', '[{name: EMATeacher, half_life: 10ba}]'])
def test_layers_of_the_student(tmp_path, teachers):
    found = train(config(tmp_path, f'{KD}.teachers={teachers}', f'{KD}.kd_loss_fn={OWN}'))
    assert found['loss/train/sad_features.1'] > 0


def test_the_base_model(tmp_path):
    pytest.importorskip('peft')
    model = f'model={{name: {__name__}.adapted}}'
    found = train(config(tmp_path, f'{KD}.teachers=[{{name: BaseModelTeacher}}]', model))
    assert found['loss/train/kd'] == pytest.approx(0.0, abs=1e-4)  # after two batches


@pytest.mark.parametrize(
    ('overrides', 'part'),
    [
        ([f'{KD}.teachers=[]'], 'No teachers'),
        ([f'{KD}.teachers=[]', f'{KD}.kd_loss_fn={{loss: {{name: mse}}, teacher: student}}'], 'which is always 0'),
        ([f'{KD}.teachers=[{{name: BaseModelTeacher}}]'], 'this student has none in its layers'),
        ([f'{KD}.teachers=[{{name: VirtualTeacher, correct: 1.5}}]'], 'between 0 and 1, such as 0.99, got 1.5'),
        ([f'{KD}.teachers=[{{name: VirtualTeacher, correct: 0.05}}]'], 'no more than chance'),
        ([f'{KD}.teachers=[{{name: VirtualTeachr}}]'], "did you mean 'VirtualTeacher'"),
    ],
)
def test_refusals(tmp_path, overrides, part):
    with pytest.raises(ConfigError, match=part):
        train(config(tmp_path, *overrides))
