"""``evaluators:`` of a YAML: further data under labels of their own, in training, evaluate, report and export."""

import pytest
import torch

from composer_kd.callbacks.history import curve, read_history
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.data import digits
from composer_kd.errors import ConfigError
from composer_kd.runs.evaluate import as_table, evaluate
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from composer_kd.workflows.report import ReportOptions, report

EVALUATORS = """evaluators=[
  {label: seen, dataset: {name: digits, split: train}, eval_interval: 4ba, metrics: [MulticlassAccuracy]},
  {label: few, dataset: {name: digits, split: test}, subset_num_batches: 1}]"""
SEEN, FEW = 'metrics/seen/MulticlassAccuracy', 'metrics/few/MulticlassAccuracy'


def run(folder, *overrides, evaluators=EVALUATORS):
    quick = ['max_duration=2ep', 'train_subset_num_batches=8', 'progress_bar=false', 'eval_interval=1ep']
    quick += [f'save_folder={folder}', 'device_eval_batch_size=100', evaluators]
    return train(load_config('yamls/digits/student.yaml', [*quick, *overrides]), quiet=True)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    return folder, run(folder)


def accuracy(folder, dataset):
    x, y = (torch.stack([torch.as_tensor(one) for one in column]) for column in zip(*dataset))
    with torch.no_grad():
        return float((open_run(folder).model(10).module(x).argmax(1) == y).float().mean())


def test_each_evaluator_measures_its_own_data(trained):
    folder, metrics = trained
    assert metrics[SEEN] == pytest.approx(accuracy(folder, digits('train')))
    test = digits('test')
    assert metrics[FEW] == pytest.approx(accuracy(folder, [test[number] for number in range(100)]))
    assert metrics['metrics/eval/MulticlassAccuracy'] == pytest.approx(accuracy(folder, test))
    assert 'metrics/seen/CrossEntropy' not in metrics
    assert 'metrics/few/CrossEntropy' in metrics


def test_each_has_its_interval_in_the_history(trained):
    history = read_history(trained[0])
    assert curve(history, SEEN)[0] == [4, 8, 12, 16]
    assert curve(history, FEW)[0] == [8, 16]


def test_evaluate_measures_the_same(trained):
    folder, metrics = trained
    found = evaluate(folder)
    assert found.metrics == pytest.approx({key: value for key, value in metrics.items() if key.startswith('metrics/')})
    assert {'accuracy', 'seen accuracy', 'few accuracy', 'few loss'} <= {
        one.header for one in as_table([found]).columns
    }


def test_report_and_model_card_name_them(trained, tmp_path, monkeypatch):
    folder, metrics = trained
    report(ReportOptions([folder], tmp_path / 'report', with_bench=False))
    text = (tmp_path / 'report/report.md').read_text(encoding='utf-8')
    assert 'seen: accuracy, %' in text
    assert f'{100 * metrics[SEEN]:.1f}' in text
    assert main(['export', str(folder), '--to', 'state-dict', '--out', str(tmp_path / 'export')]) == 0
    card = (tmp_path / 'export/state-dict/README.md').read_text(encoding='utf-8')
    assert f'seen: accuracy, % | {100 * metrics[SEEN]:.2f}' in card


def test_they_do_not_change_what_is_learned(trained, tmp_path):
    folder, _ = trained
    run(tmp_path / 'plain', evaluators='evaluators=[]')
    models = [open_run(one).model(10).state_dict() for one in (folder, tmp_path / 'plain')]
    assert all(torch.equal(value, models[1][key]) for key, value in models[0].items())
    run(folder, 'autoresume=true', evaluators='evaluators=[]')  # may change on a resume


def test_the_best_checkpoint_by_one_of_them(tmp_path):
    metrics = run(tmp_path, f'callbacks={{best_checkpoint: {{metric: {FEW}}}}}')
    found = evaluate(tmp_path / 'best-rank0.pt').metrics
    assert found[FEW] >= metrics[FEW]


def test_without_an_eval_loader(tmp_path):
    assert set(run(tmp_path, 'eval_loader=null')) > {SEEN, FEW}


@pytest.mark.parametrize(
    ('written', 'message'),
    [
        ('[{dataset: {name: digits}}]', 'evaluators.0.label: required key is missing'),
        ('[{label: eval, dataset: {name: digits}}]', 'evaluators.0.label: expected'),
        ('[{label: a/b, dataset: {name: digits}}]', 'evaluators.0.label: expected'),
        ('[{label: a, dataset: {name: digits}}, {label: a, dataset: {name: digits}}]', "2 have the label 'a'"),
        ('[{label: a, dataset: {name: digits}, hold_out: 0.1}]', 'hold_out: is for training data'),
        ('[{label: a, dataset: {name: digits}, eval_interval: 3tok}]', 'evaluators.0.eval_interval: expected'),
        (
            '[{label: a, dataset: {name: digits}, metrics: [Accurcy]}]',
            "the model has no metric 'Accurcy'; valid: Cross",
        ),
        ('[{label: a, dataset: {name: digits}, metrics: ["("]}]', 'no name or pattern of a metric'),
    ],
)
def test_wrong_evaluators_are_said_before_the_run(tmp_path, written, message):
    with pytest.raises(ConfigError) as caught:
        run(tmp_path, evaluators=f'evaluators={written}')
    assert message in str(caught.value)
