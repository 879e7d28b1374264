"""Arguments of Composer's Trainer in a YAML: names of checkpoints, the best one, compiling, log level, parallelism."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from composer import Trainer

from composer_kd.callbacks import BestCheckpoint
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from tests.helpers import loader, pairs, student

NAMES = [
    'save_filename="{run_name}-ep{epoch}-ba{batch}-rank{rank}.pt"',
    'save_latest_filename="{run_name}-latest-rank{rank}.pt"',
]
ACCURACY = 'metrics/eval/MulticlassAccuracy'
BEST = 'callbacks={best_checkpoint: {metric: metrics/eval/MulticlassAccuracy}}'


def settings(folder, *overrides):
    quick = [
        'max_duration=2ep',
        'train_subset_num_batches=4',
        'save_interval=1ep',
        'save_num_checkpoints_to_keep=-1',
        'progress_bar=false',
        f'save_folder={folder}',
    ]
    return load_config('yamls/digits/student.yaml', [*quick, *overrides])


def run(folder, *overrides):
    return train(settings(folder, *overrides), quiet=True)


def test_own_names_are_found_by_everything(tmp_path):
    metrics = run(tmp_path / 'a', *NAMES, 'run_name=a')
    latest = tmp_path / 'a/a-latest-rank0.pt'
    assert latest.resolve().name == 'a-ep2-ba8-rank0.pt'
    assert open_run(tmp_path / 'a').checkpoint == latest
    assert evaluate(tmp_path / 'a').metrics[ACCURACY] == metrics[ACCURACY]
    with pytest.raises(ConfigError, match='holds a run'):
        run(tmp_path / 'a', *NAMES, 'run_name=a')
    run(tmp_path / 'a', *NAMES, 'run_name=a', 'save_overwrite=true', 'max_duration=1ep')
    assert {file.name for file in (tmp_path / 'a').glob('*.pt')} == {'a-ep1-ba4-rank0.pt', 'a-latest-rank0.pt'}


def test_own_names_are_resumed_to_the_same_weights(tmp_path):
    run(tmp_path / 'a', *NAMES, 'run_name=a')
    run(tmp_path / 'b', *NAMES, 'run_name=a')
    for name in ('a-ep2-ba8-rank0.pt', 'a-latest-rank0.pt', 'metrics.json'):  # as a kill leaves it
        (tmp_path / 'b' / name).unlink()
    with pytest.raises(ConfigError, match='save_latest_filename'):
        run(tmp_path / 'b', NAMES[0], 'run_name=a', 'autoresume=true')
    (tmp_path / 'b/a-latest-rank0.pt').symlink_to('gone.pt')
    run(tmp_path / 'b', *NAMES, 'run_name=a', 'autoresume=true')
    states = [torch.load(tmp_path / f'{one}/a-latest-rank0.pt', weights_only=False)['state']['model'] for one in 'ab']
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_the_best_checkpoint_lies_beside_the_last(tmp_path):
    """With a learning rate that spoils the second epoch, the best is the first one's."""
    spoiled = [
        BEST,
        'scheduler={name: tests.runs.test_trainer_arguments.spoiling}',
        'max_duration=3ep',
        'optimizer.lr=0.1',
        'eval_interval=1ep',
    ]
    metrics = run(tmp_path / 'a', *spoiled)
    noted = json.loads((tmp_path / 'a/best.json').read_text())
    assert noted['batch'] == 4
    found = evaluate(tmp_path / 'a/best-rank0.pt').metrics[ACCURACY]
    assert found == pytest.approx(noted['best'])
    assert found > metrics[ACCURACY]
    last = evaluate(tmp_path / 'a').metrics[ACCURACY]
    assert last == pytest.approx(metrics[ACCURACY])
    # A resumed run knows what was best.
    run(tmp_path / 'b', *spoiled)
    for name in ('ep3-ba12-rank0.pt', 'latest-rank0.pt', 'metrics.json', 'best.json'):
        (tmp_path / 'b' / name).unlink()
    (tmp_path / 'b/latest-rank0.pt').symlink_to('ep2-ba8-rank0.pt')
    state = torch.load(tmp_path / 'b/latest-rank0.pt', weights_only=False)['state']['callbacks']
    assert dict(state)['BestCheckpoint']['best'] == noted['best']
    run(tmp_path / 'b', *spoiled, 'autoresume=true')
    assert not (tmp_path / 'b/best.json').exists()  # nothing better came
    again = evaluate(tmp_path / 'b/best-rank0.pt').metrics[ACCURACY]
    assert again == pytest.approx(noted['best'])


def test_a_run_from_a_checkpoint_of_another_folder_has_a_best_of_its_own(tmp_path):
    spoiled = [BEST, 'optimizer.lr=0.1', 'scheduler={name: tests.runs.test_trainer_arguments.spoiling}']
    spoiled.append('eval_interval=1ep')
    run(tmp_path / 'a', *spoiled)
    before = json.loads((tmp_path / 'a/best.json').read_text())
    run(tmp_path / 'b', *spoiled, f'load_path={tmp_path}/a/latest-rank0.pt', 'max_duration=3ep')
    noted = json.loads((tmp_path / 'b/best.json').read_text())
    assert (noted['batch'], noted['best'] < before['best']) == (12, True)
    assert (tmp_path / 'b/best-rank0.pt').is_file()


def test_a_longer_run_knows_what_the_evaluation_at_the_end_found(tmp_path):
    spoiled = [BEST, 'optimizer.lr=0.1', 'scheduler={name: tests.runs.test_trainer_arguments.spoiling}']
    run(tmp_path, *spoiled, 'eval_interval=5ep', 'max_duration=1ep')
    noted = (tmp_path / 'best.json').read_text()
    run(tmp_path, *spoiled, 'eval_interval=5ep', 'autoresume=true')
    assert (tmp_path / 'best.json').read_text() == noted


def test_the_best_of_another_run_is_not_replaced_without_a_word(tmp_path):
    best = f'callbacks={{best_checkpoint: {{metric: {ACCURACY}, folder: {tmp_path}/best}}}}'
    run(tmp_path / 'a', best, 'max_duration=1ep')
    with pytest.warns(UserWarning, match='best-rank0.pt is that of another run'):
        run(tmp_path / 'b', best, 'max_duration=1ep')


def test_two_best_checkpoints_are_refused():
    model = student()
    one = Trainer(
        model=model, max_duration='1ba', progress_bar=False, train_dataloader=loader(*pairs()),
        eval_dataloader=loader(*pairs()), callbacks=[BestCheckpoint(ACCURACY), BestCheckpoint(ACCURACY)],
    )  # fmt: skip
    with pytest.raises(ConfigError, match='a run has one'):
        one.fit()
    one.close()


def spoiling(state):
    return 1.0 if int(state.timestamp.batch) < 4 else 1e6


def test_the_evaluation_at_the_end_counts_too(tmp_path):
    run(tmp_path, BEST, 'eval_interval=5ba', 'save_interval=2ep')
    noted = json.loads((tmp_path / 'best.json').read_text())
    weights = torch.load(tmp_path / 'best-rank0.pt', weights_only=False)['state']
    assert noted['batch'] in (5, 8)
    assert 'optimizers' not in weights


@pytest.mark.parametrize(
    ('best', 'message'),
    [
        ('metrics/eval/MulticlasAccuracy', "did you mean 'metrics/eval/MulticlassAccuracy'"),
        ('metrics/eval/CrossEntropy', 'give mode'),
    ],
)
def test_a_metric_that_is_not_there_is_said_before_the_first_batch(tmp_path, best, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, f'callbacks={{best_checkpoint: {{metric: {best}}}}}')
    assert not (tmp_path / 'latest-rank0.pt').exists()


def test_only_finite_and_strictly_better_values_count():
    saver = BestCheckpoint(mode='min')
    saver.best = 0.5
    assert [saver.is_better(value) for value in (0.5, 0.4, float('nan'), float('-inf'))] == [False, True, False, False]


def test_python_log_level_and_load_ignore_keys(tmp_path, caplog):
    import logging

    before = logging.getLogger('composer').level
    try:
        run(tmp_path / 'a', 'python_log_level=error', 'max_duration=1ep')
        assert logging.getLogger('composer').level == logging.ERROR
    finally:
        logging.getLogger('composer').setLevel(before)
    metrics = run(
        tmp_path / 'b', f'load_path={tmp_path}/a/latest-rank0.pt',
        'load_ignore_keys=[state/timestamp/*, state/timestamp]', 'max_duration=2ep',
    )  # fmt: skip
    assert metrics['time/batch'] == 8


@pytest.mark.parametrize(
    ('override', 'message'),
    [
        ('save_filename=best.pt', 'save_filename: expected a string that is a file name with ep'),
        ('save_filename=ep{epoch}-ba{batch}-{oh}-rank{rank}.pt', 'save_filename: expected'),
        ('save_filename=sub/ep{epoch}-ba{batch}-rank{rank}.pt', 'save_filename: expected'),
        ('save_latest_filename=last-rank{rank}.pt', 'with latest in it'),
        ('python_log_level=loud', 'python_log_level: expected'),
        ('compile_config={bakend: eager}', "compile_config.bakend: unknown setting; did you mean 'backend'"),
        ('compile_config={backend: nothing}', 'compile_config: torch.compile refuses it'),
        ('compile_config={mode: fastest}', 'compile_config: torch.compile refuses it'),
        (
            'parallelism_config={fsdp: {sharding_strategy: FULL_SHARD}}',
            'parallelism_config.fsdp: shards a model over GPUs',
        ),
        ('parallelism_config={fsdp: {sharding: FULL_SHARD}}', 'parallelism_config.fsdp.sharding: unknown setting'),
        ('parallelism_config={tp: {tensor_parallel_degree: 2}}', 'layer_plan consists of objects'),
        ('parallelism_config={ftsp: {}}', "unknown key; did you mean 'fsdp'"),
    ],
)
def test_wrong_values_are_said_before_the_run(tmp_path, override, message):
    with pytest.raises(ConfigError) as caught:
        settings(tmp_path, override)
    assert message in str(caught.value)


PAGE = (Path(__file__).parents[2] / 'docs/how_to/trainer_arguments.md').read_text(encoding='utf-8')


@pytest.mark.parametrize('block', re.findall(r'```yaml\n(.*?)```', PAGE, re.DOTALL))
def test_the_yaml_of_the_page(tmp_path, block):
    """Each block stands in a YAML of digits, and its run trains."""
    text = Path('yamls/digits/student.yaml').read_text(encoding='utf-8')
    added = yaml.safe_load(block)
    written = {**yaml.safe_load(text), **added}
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(written), encoding='utf-8')
    quick = [
        'max_duration=1ep',
        'train_subset_num_batches=2',
        'progress_bar=false',
        f'save_folder={tmp_path}/{{run_name}}',
    ]
    train(load_config(tmp_path / 'run.yaml', quick), quiet=True)


def test_a_slash_in_the_run_name_is_no_file_name(tmp_path):
    with pytest.raises(ConfigError, match='this is the name of a file'):
        settings(tmp_path, 'run_name=a/b', NAMES[0])


def test_compiled_runs_learn_the_same(tmp_path):
    plain = run(tmp_path / 'a')
    compiled = run(tmp_path / 'b', 'compile_config={backend: aot_eager}')
    assert compiled['loss/train/total'] == pytest.approx(plain['loss/train/total'], rel=1e-4)
    assert open_run(tmp_path / 'b').model(10) is not None
