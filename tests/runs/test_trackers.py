"""What trackers have of a distilling run, read back from what each wrote; and docs/how_to/trackers.md."""

import functools
import json
import math
import re
from pathlib import Path

import pytest
import torch
from composer import Callback
from composer.loggers import InMemoryLogger, LoggerDestination

from composer_kd import CoDistillation, Distillation, KLDivergence, Match, MutualLearning, Ramp, SelfDistillation
from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.config.load import load_config
from composer_kd.losses import hint
from composer_kd.runs.train import train as train_yaml
from tests.distilling import cnn, image_student, images
from tests.helpers import trainer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs/how_to/trackers.md').read_text(encoding='utf-8')
BLOCKS = dict(re.findall(r'<!-- name: (.*?) -->\n```python\n(.*?)```', PAGE, re.DOTALL))
KL = 'algorithms.distillation.kd_loss_fn.0'
STEPS = 6  # of 1,437 digits in batches of 256
WEIGHTS = [1.0 - 0.5 * step / STEPS for step in range(STEPS)]
TEMPERATURES = [8.0 - 6.0 * step / STEPS for step in range(STEPS)]


def page(name, tmp_path, monkeypatch):
    """Runs a block of the page after the one that defines the run."""
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for one in ('the run', name):
        exec(compile(BLOCKS[one], f'trackers.md: {one}', 'exec'), namespace)
    return namespace['run']


# Each tracker ---------------------------------------------------------------------------------------------------------


def wandb_file(folder):
    """What an offline run's file holds: the settings, and what was logged by step."""
    from wandb.proto import wandb_internal_pb2
    from wandb.sdk.internal.datastore import DataStore

    (path,) = folder.glob('wandb/offline-run-*/run-*.wandb')
    store, settings, steps = DataStore(), {}, {}
    store.open_for_scan(str(path))
    while (data := store.scan_data()) is not None:
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        for item in record.config.update:
            settings[item.key or '.'.join(item.nested_key)] = json.loads(item.value_json)
        if record.HasField('history'):
            for item in record.history.item:
                name = item.key or '/'.join(item.nested_key)
                steps.setdefault(name, []).append((record.history.step.num, json.loads(item.value_json)))
    return settings, steps


def test_wandb(tmp_path, monkeypatch):
    pytest.importorskip('wandb').teardown()  # it keeps the folder of the first run of a process
    page('wandb', tmp_path, monkeypatch)
    settings, steps = wandb_file(tmp_path)
    assert settings[f'{KL}.loss.name'] == 'KLDivergence'
    assert settings[f'{KL}.temperature.initial'] == 8.0
    assert settings['algorithms.distillation.teachers.0.model.name'] == 'DeepCNN'
    assert steps['schedules/kl/weight'] == [(step, pytest.approx(value)) for step, value in enumerate(WEIGHTS)]
    assert [step for step, _ in steps['schedules/kl/temperature']] == list(range(STEPS))
    assert [step for step, _ in steps['loss/train/kl']] == list(range(STEPS))
    assert 'throughput/samples_per_sec' in steps


def tensorboard_of(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(folder), size_guidance={'scalars': 0}).Reload()


def scalars(events, tag):
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    page('tensorboard', tmp_path, monkeypatch)
    events = tensorboard_of(tmp_path / 'runs/tensorboard/digits-kd')
    assert scalars(events, 'schedules/kl/temperature') == list(enumerate(pytest.approx(t) for t in TEMPERATURES))
    assert [step for step, _ in scalars(events, 'loss/train/kl')] == list(range(STEPS))
    assert 'throughput/samples_per_sec' in events.Tags()['scalars']
    # With each evaluation its hyperparameters, in a folder of their own.
    written = tensorboard_of(tmp_path / 'runs/tensorboard/digits-kd/digits-kd')
    start = written.SummaryMetadata('_hparams_/session_start_info').plugin_data.content
    assert f'{KL}.loss.name'.encode() in start
    assert b'KLDivergence' in start


def mlflow_run(folder, experiment='digits'):
    from mlflow import MlflowClient

    client = MlflowClient(folder.as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run.data.params, lambda name: [
        (point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)
    ]


def test_mlflow(tmp_path, monkeypatch):
    pytest.importorskip('mlflow')
    page('mlflow', tmp_path, monkeypatch)
    settings, history = mlflow_run(tmp_path / 'runs/mlflow')
    assert settings[f'{KL}.loss.name'] == 'KLDivergence'
    assert settings[f'{KL}.weight.final'] == '0.5'
    assert history('schedules/kl/weight') == [(step, pytest.approx(value)) for step, value in enumerate(WEIGHTS)]
    assert [step for step, _ in history('loss/train/kl')] == list(range(STEPS))
    assert history('throughput/samples_per_sec')


# One run after a resume -----------------------------------------------------------------------------------------------


class Stops(Callback):
    """Ends a run as a machine that goes away would."""

    def __init__(self, batch):
        self.batch = batch

    def batch_end(self, state, logger):
        if state.timestamp.batch.value == self.batch:
            raise KeyboardInterrupt


def twice(tmp_path, logger):
    """A run that is killed at batch 5, after its checkpoint at 4, and goes on to 6."""
    quick = ['train_subset_num_batches=2', 'max_duration=3ep', 'eval_interval=1ep', 'save_interval=1ep']
    quick += ['eval_loader.dataset.subset=50', f'save_folder={tmp_path}/run', 'autoresume=true', 'progress_bar=false']
    config = load_config(str(ROOT / 'yamls/digits/student.yaml'), [*quick, f'loggers={logger}'])
    with pytest.raises(KeyboardInterrupt):
        train_yaml(config, [Stops(5)], quiet=True)
    train_yaml(config, quiet=True)


def test_tensorboard_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    from tensorboard.summary.writer import event_file_writer as writing

    # Files are read in the order of their names: second, process and a counter, as text.
    monkeypatch.setattr(writing, '_global_uid', writing.AtomicCounter(100))
    twice(tmp_path, f'{{tensorboard: {{log_dir: {tmp_path}/tb}}}}')
    events = tensorboard_of(tmp_path / 'tb/digits-student')
    steps = [step for step, _ in scalars(events, 'loss/train/total')]
    assert sorted(set(steps)) == list(range(6))
    assert steps.count(4) == 2  # where the checkpoint is: it stays, and its value is the same
    assert len(steps) == 7
    assert len({value for step, value in scalars(events, 'loss/train/total') if step == 4}) == 1
    assert [step for step, _ in scalars(events, 'metrics/eval/MulticlassAccuracy')] == [2, 4, 6]


def test_mlflow_after_a_resume(tmp_path):
    pytest.importorskip('mlflow')
    store = f'tracking_uri: "{(tmp_path / "ml").as_uri()}"'
    twice(tmp_path, f'{{mlflow: {{experiment_name: digits, {store}, resume: true, log_system_metrics: false}}}}')
    settings, history = mlflow_run(tmp_path / 'ml')
    assert settings['optimizer.lr'] == '0.01'
    assert settings['model.name'] == 'ShallowCNN'
    found = history('loss/train/total')
    assert sorted({step for step, _ in found}) == list(range(6))
    assert len(set(found)) == 6  # what was trained again has the same values
    assert [step for step, _ in history('metrics/eval/MulticlassAccuracy')] == [2, 4, 6]


def test_wandb_after_a_resume(tmp_path, monkeypatch):
    pytest.importorskip('wandb').teardown()
    monkeypatch.chdir(tmp_path)
    twice(tmp_path, '{wandb: {project: digits, init_kwargs: {id: digits-student, resume: allow, mode: offline}}}')
    first, second = sorted(tmp_path.glob('wandb/offline-run-*/run-*.wandb'))
    assert first.name == second.name == 'run-digits-student.wandb'  # `wandb sync` puts them into one run


# Schedules ------------------------------------------------------------------------------------------------------------


class Series(LoggerDestination):
    """Every value of the schedules, with its step."""

    def __init__(self):
        self.points, self.settings = {}, {}

    def log_metrics(self, metrics, step=None):
        for name, value in metrics.items():
            if name.startswith('schedules/'):
                self.points.setdefault(name, []).append((step, value))

    def log_hyperparameters(self, hyperparameters):
        self.settings.update(hyperparameters)


def distilled(algorithm, **options):
    series = Series()
    run = trainer(image_student(), images(), [algorithm], loggers=[series], **options)
    run.fit()
    run.close()
    return series


def test_a_schedule_is_read_once_a_microbatch_and_logged_once_a_batch():
    asked = []

    def weight(state):
        asked.append(state.timestamp.batch.value)
        return 0.5 + state.timestamp.batch.value

    matches = [Match(KLDivergence(), weight=weight, temperature=Ramp(4.0, 1.0)), Match(hint, on='1', name='layer')]
    algorithm = Distillation(cnn(4, 2), matches)
    points = distilled(algorithm, device_train_microbatch_size=4).points
    assert points['schedules/KLDivergence/weight'] == [(0, 0.5), (1, 1.5), (2, 2.5)]
    assert points['schedules/KLDivergence/temperature'] == [(0, 4.0), (1, 3.0), (2, 2.0)]
    assert asked == [0, 0, 1, 1, 2, 2]
    assert len(points) == 2


def test_what_was_not_used_is_not_logged():
    matches = [Match(KLDivergence(), weight=Ramp(1.0, 0.0), teacher=name, name=name) for name in ('one', 'two')]
    from composer_kd import FrozenTeacher

    teachers = [FrozenTeacher(cnn(8, seed), name=name) for seed, name in enumerate(('one', 'two'))]
    algorithm = Distillation(teachers, matches, start_dur='1ba', n_teachers_to_sample=1)
    points = distilled(algorithm, max_duration='2ep').points
    steps = [step for name in ('one', 'two') for step, _ in points.get(f'schedules/{name}/weight', [])]
    assert sorted(steps) == [1, 2, 3, 4, 5]


def test_constant_weights_are_settings_alone():
    series = distilled(Distillation(cnn(8, 2), [Match(KLDivergence(2.0), weight=0.3)]))
    assert not series.points
    assert series.settings[f'{KL}.weight'] == 0.3
    assert series.settings[f'{KL}.loss.temperature'] == 2.0


# Settings -------------------------------------------------------------------------------------------------------------


class Mine(DistillationAlgorithm):
    def __init__(self, strength, *, address='s3://key:secret@bucket/x', nothing=None, many=range(1000)):
        self.strength = strength

    def match(self, event, state):
        return event.value == 'fit_start'

    def apply(self, event, state, logger):
        self.log_settings(state, logger)


ALGORITHMS = {
    'distillation': (
        lambda: Distillation([cnn(8, 2)], KLDivergence(4.0), end_dur='2ba'),
        {'kd_loss_fn.name': 'KLDivergence', 'kd_loss_fn.temperature': 4.0, 'end_dur': '2ba', 'org_loss_weight': 0.1}
        | {'teachers.0.name': 'Sequential', 'teachers.0.model.parameters': 1460},
    ),
    'mutual_learning': (
        lambda: MutualLearning([cnn(8, 2)], functools.partial(torch.nn.functional.mse_loss, reduction='mean')),
        {'peers.0.name': 'Sequential', 'kd_loss_fn.name': 'mse_loss', 'kd_loss_fn.reduction': 'mean'},
    ),
    'self_distillation': (
        lambda: SelfDistillation(['2', '4'], hint_weight=0.5),
        {'exits.0': '2', 'exits.1': '4', 'hint_weight': 0.5, 'kd_loss_weight': 0.3},
    ),
    'mine': (lambda: Mine(2), {'strength': 2, 'address': 's3://***@bucket/x', 'many': '1000 values'}),
}


@pytest.mark.parametrize('name', ALGORITHMS)
def test_an_algorithm_logs_what_it_was_given(name):
    make, expected = ALGORITHMS[name]
    settings = distilled(make(), max_duration='1ba').settings
    found = {key.removeprefix(f'algorithms.{name}.'): value for key, value in settings.items() if name in key}
    assert expected.items() <= found.items()
    assert {type(value) for value in found.values()} <= {bool, int, float, str}
    assert 'nothing' not in found


def test_settings_without_a_run():
    assert CoDistillation('5ba', groups=2).settings()['exchange_every'] == '5ba'
    with pytest.raises(TypeError):  # by the constructor, as ever
        Distillation(no_such=1)


def test_two_of_a_class_are_told_apart():
    both = [
        Distillation(cnn(8, 2), KLDivergence(2.0), end_dur='1ba'),
        Distillation(cnn(8, 3), KLDivergence(3.0), start_dur='1ba'),
    ]
    series = Series()
    run = trainer(image_student(), images(), both, loggers=[series])
    run.fit()
    run.close()
    assert series.settings['algorithms.distillation.kd_loss_fn.temperature'] == 2.0
    assert series.settings['algorithms.distillation_2.kd_loss_fn.temperature'] == 3.0


def test_composers_own_log_of_arguments_stands_beside():
    series = distilled(Distillation(cnn(8, 2), KLDivergence(4.0)), auto_log_hparams=True)
    assert series.settings['algorithms.distillation.kd_loss_weight'] == 0.9
    assert series.settings['max_duration'] == '1ep'


def test_a_yaml_logs_its_whole_configuration_and_no_secret(tmp_path, monkeypatch):
    monkeypatch.setenv('MY_TOKEN', 'very-s3cret')
    text = (
        (ROOT / 'yamls/digits/student.yaml')
        .read_text()
        .replace('variables:', 'variables:\n  token: ${oc.env:MY_TOKEN}')
    )
    (tmp_path / 'student.yaml').write_text(text)
    part = ['callbacks={speed_monitor: {window_size: 1}, memory_monitor: {}}']
    quick = [*part, 'max_duration=3ba', f'save_folder={tmp_path}/run', 'eval_loader=null', 'progress_bar=false']
    memory = InMemoryLogger()
    train_yaml(load_config(str(tmp_path / 'student.yaml'), quick), [memory], quiet=True)
    settings = memory.hyperparameters
    assert settings['optimizer.lr'] == 0.01
    assert settings['train_loader.dataset.name'] == 'digits'
    assert settings['variables.token'] == '${oc.env:MY_TOKEN}'
    assert 's3cret' not in json.dumps({key: str(value) for key, value in settings.items()})
    speed = memory.data['throughput/samples_per_sec']
    assert all(math.isfinite(value) for _, value in speed)
