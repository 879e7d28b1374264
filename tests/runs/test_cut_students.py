"""Students cut out of their teacher in a YAML: from a model, or from an earlier stage."""

import pytest
import torch
from composer.metrics import CrossEntropy
from composer.models import HuggingFaceModel
from torch.utils.data import Dataset

from composer_kd import student_from_teacher
from composer_kd.config.load import load_config
from composer_kd.config.stages import load_chain
from composer_kd.errors import ConfigError
from composer_kd.runs.build import build_model, build_trainer
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.train import train
from composer_kd.workflows.stages import train_stages
from tests.helpers import TokenDataset
from tests.students.teachers import LENGTH, WORDS, answers, batch
from tests.students.teachers import teacher as tiny

YAML = f"""
seed: 3
model: {{name: {__name__}.net}}
optimizer: {{name: AdamW, lr: 0.001}}
train_loader: {{dataset: {{name: {__name__}.sentences}}}}
eval_loader: {{dataset: {{name: {__name__}.sentences}}}}
max_duration: 1ep
global_train_batch_size: 8
progress_bar: false
"""
CUT = f'{{name: student_from_teacher, layers: odd, teacher: {{name: {__name__}.net}}}}'
MEASURED = f'data: {{dataset: {{name: {__name__}.sentences}}, samples: 6, batch_size: 2}}'


def net() -> HuggingFaceModel:
    return HuggingFaceModel(tiny('bert'), use_logits=True, metrics=[CrossEntropy()])


def sentences() -> Dataset:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, WORDS, (16, LENGTH), generator=generator)
    return TokenDataset(input_ids=words, attention_mask=torch.ones_like(words), labels=torch.arange(16) % 2)


@pytest.fixture
def yaml(tmp_path):
    file = tmp_path / 'cut.yaml'
    file.write_text(YAML, encoding='utf-8')
    return file


def built(yaml, model):
    return build_model(load_config(yaml, [f'model={model}']).model)


def test_from_a_model_as_in_python(yaml):
    student = built(yaml, CUT)
    assert type(student) is HuggingFaceModel
    assert student.config.cut_from['layers'] == [1, 3]
    expected = student_from_teacher(tiny('bert'), 'odd')
    assert torch.equal(answers(student.model, batch(student.model)), answers(expected, batch(expected)))


def test_by_importance_on_samples(yaml):
    model = CUT.replace(
        'odd', f'importance, num_layers: 2, num_attention_heads: 1, intermediate_size: 9, hidden_size: 8, {MEASURED}'
    )
    student = built(yaml, model)
    data = [sentences()[index * 16 // 6] for index in range(6)]
    batches = [{key: torch.stack([one[key] for one in data[i : i + 2]]) for key in data[0]} for i in (0, 2, 4)]
    expected = student_from_teacher(
        tiny('bert'), 'importance', 2, num_attention_heads=1, intermediate_size=9, hidden_size=8, data=batches
    )
    assert student.config.cut_from['layers'] == expected.config.cut_from['layers']
    assert torch.equal(answers(student.model, batch(student.model)), answers(expected, batch(expected)))


def test_a_stage_is_cut_out_of_the_one_before(yaml, tmp_path):
    text = f"""
run_name: chain
save_folder: {tmp_path / 'chain'}
stages:
  teacher: {{algorithms: null}}
  student:
    model: {{name: student_from_teacher, layers: odd, teacher: {{stage: teacher}}}}
    optimizer.lr: 0.0
    algorithms.distillation.teachers: [{{stage: teacher}}]
algorithms: {{distillation: {{kd_loss_fn: KLDivergence}}}}
"""
    yaml.write_text(YAML + text, encoding='utf-8')
    train_stages(load_chain(yaml, []), quiet=True)
    weights = {
        name: torch.load(tmp_path / 'chain' / name / 'latest-rank0.pt', weights_only=False)['state']['model']
        for name in ('teacher', 'student')
    }
    layer = 'model.bert.encoder.layer.{}.output.dense.weight'
    assert torch.equal(weights['student'][layer.format(0)], weights['teacher'][layer.format(1)])
    assert torch.equal(weights['student'][layer.format(1)], weights['teacher'][layer.format(3)])
    assert layer.format(2) not in weights['student']
    assert not torch.equal(weights['teacher'][layer.format(1)], tiny('bert').state_dict()[layer.format(1)[6:]])
    found = evaluate(tmp_path / 'chain/student')
    assert found.metrics['metrics/eval/CrossEntropy'] > 0


def test_a_stage_is_cut_out_of_one_that_was_cut_out_itself(yaml, tmp_path):
    text = f"""
run_name: chain
save_folder: {tmp_path / 'chain'}
stages:
  teacher: {{}}
  half:
    model: {{name: student_from_teacher, layers: odd, teacher: {{stage: teacher}}}}
  copied:
    model: {{name: student_from_teacher, layers: [0, 1], teacher: {{stage: half}}}}
    optimizer.lr: 0.0
"""
    yaml.write_text(YAML + text, encoding='utf-8')
    train_stages(load_chain(yaml, []), quiet=True)
    half, copied = (
        torch.load(tmp_path / 'chain' / name / 'latest-rank0.pt', weights_only=False)['state']['model']
        for name in ('half', 'copied')
    )
    assert half.keys() == copied.keys()
    assert all(torch.equal(half[name], copied[name]) for name in half)


def test_weights_of_an_earlier_stage_are_not_named_by_their_path(yaml, tmp_path):
    text = f"""
run_name: chain
save_folder: {tmp_path / 'chain'}
stages:
  first: {{algorithms: null}}
  second:
    model:
      name: student_from_teacher
      layers: odd
      teacher: {{model: {{name: {__name__}.net}}, checkpoint: {tmp_path / 'chain' / 'first' / 'latest-rank0.pt'}}}
"""
    yaml.write_text(YAML + text, encoding='utf-8')
    with pytest.raises(ConfigError, match=r'model.teacher: .* is of a stage of this YAML; write {stage: its name}'):
        load_chain(yaml, [])


def test_a_resume_is_bit_equal(yaml, tmp_path):
    def run(name, *more):
        options = [f'model={CUT}', f'save_folder={tmp_path / name}', 'save_interval=1ba', *more]
        train(load_config(yaml, options), quiet=True)
        return torch.load(tmp_path / name / 'latest-rank0.pt', weights_only=False)['state']['model']

    straight = run('straight', 'max_duration=3ba')
    run('resumed', 'max_duration=2ba')
    resumed = run('resumed', 'max_duration=3ba', 'autoresume=true')
    assert all(torch.equal(value, straight[name]) for name, value in resumed.items())


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        (
            '{name: student_from_teacher, layers: odd}',
            r'model.teacher: required .* is missing; expected a trained model',
        ),
        (CUT.replace('odd', 'odds'), r"model.layers: expected one of 'top', 'bottom'.*got 'odds'"),
        (CUT.replace('layers', 'layer'), "model.layer: unknown option.*did you mean 'layers'"),
        (CUT.replace('odd', 'odd, num_layers: 3'), '^model: num_layers: .*2 layers with an odd index, got 3'),
        (
            f'{{name: student_from_teacher, layers: odd, teacher: {{model: {{name: {__name__}.net}}}}}}',
            'checkpoint: the',
        ),
        ('{name: student_from_teacher, layers: odd, teacher: {stage: first}}', 'names a stage, and this YAML has none'),
        (CUT.replace('odd', 'odd, data: {samples: 3}'), r'model.data.dataset: required key is missing'),
    ],
)
def test_bad_input(yaml, model, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        build_trainer(load_config(yaml, [f'model={model}', f'save_folder={tmp_path / "run"}']))
