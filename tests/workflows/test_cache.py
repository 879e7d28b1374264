"""``composer-kd cache``: teachers of a YAML are stored, and taught from."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from composer_kd import build_store
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError, StoreError, TeacherError
from composer_kd.presentation.roles import DISTILLED, TEACHER
from composer_kd.runs.compared import compared_models
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from composer_kd.stores import Dense, Sampled, Store, TopK
from composer_kd.teachers import FrozenTeacher
from composer_kd.workflows.cache import CacheSettings, cache, default_folder
from composer_kd.workflows.cache.demo import cache_demo
from composer_kd.workflows.cache.measure import measure
from composer_kd.workflows.cache.progress import BuildProgress
from composer_kd.workflows.cache.report import Built, lines_of
from composer_kd.workflows.layers import show_layers
from tests.helpers import TokenDataset, TokenModel

ROOT = Path(__file__).parents[2]
KD, CACHED = 'yamls/digits/kd.yaml', 'yamls/digits/kd_cached.yaml'
SMALL = ['train_loader.dataset.subset=96', 'progress_bar=false']
LOSS = 'algorithms.distillation.kd_loss_fn'
TEACHERS = 'algorithms.distillation.teachers'
RAMP = '{name: Ramp, initial: 4, final: 1.0, end: 20ep}'


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp('teacher')
    train(
        load_config('yamls/digits/teacher.yaml', [*SMALL, 'max_duration=3ba', f'save_folder={folder}/big']), quiet=True
    )
    return folder / 'big' / 'latest-rank0.pt'


@pytest.fixture
def overrides(teacher, tmp_path):
    return [*SMALL, f'variables.teacher={teacher}', f'save_folder={tmp_path}/{{run_name}}']


def said(capsys):
    return capsys.readouterr().out


def refusal(overrides, settings=None, error=ConfigError):
    with pytest.raises(error) as found:
        cache(load_config(KD, overrides), settings)
    return str(found.value)


def test_a_run_from_the_store_is_that_of_the_live_teacher(overrides, tmp_path, capsys):
    assert main(['cache', KD, *overrides]) == 0
    printed = said(capsys)
    folder = tmp_path / 'digits-kd-cache'
    for part in (
        f'stored in {folder}', '96 samples', '22.0 bytes a sample', 'KL(live || stored)', 'in 30 epochs',
        f'{TEACHERS}.0: {{cache: {folder}}}',
    ):  # fmt: skip
        assert part in printed
    short = ['max_duration=2ep', 'global_train_batch_size=32']
    live = train(load_config(KD, [*overrides, *short]), quiet=True)
    stored = train(load_config(CACHED, [*overrides[:2], overrides[3], *short, f'variables.store={folder}']), quiet=True)
    for name in ('loss/train/kd', 'loss/train/total', 'metrics/eval/CrossEntropy'):
        assert stored[name] == pytest.approx(live[name], rel=1e-3)
    teacher, student = compared_models([open_run(tmp_path / 'digits-kd-cached')])
    assert (teacher.role, student.role, student.taught_by) == (TEACHER, DISTILLED, (teacher.name,))


def test_a_resumed_run_is_that_of_a_straight_one(overrides, tmp_path):
    (store,) = cache(load_config(KD, overrides))
    options = [*overrides[:2], overrides[3], f'variables.store={store.folder}', 'save_interval=1ep', 'scheduler=null']

    def go(name, *more):
        return train(load_config(CACHED, [*options, f'run_name={name}', *more]), quiet=True)

    straight = go('straight', 'max_duration=3ep')
    go('halves', 'max_duration=1ep')
    resumed = go('halves', 'max_duration=3ep', 'autoresume=true')
    same = [name for name in straight if name.startswith(('loss/', 'metrics/'))]
    assert [resumed[name] for name in same] == [straight[name] for name in same]


def test_the_vocabulary_of_a_yaml_is_that_of_its_store(overrides, tmp_path):
    (store,) = cache(load_config(KD, [*overrides, 'algorithms.distillation.vocabulary=7']), CacheSettings('topk', k=7))
    assert store.manifest.classes == 7
    short = ['max_duration=1ep', 'algorithms.distillation.vocabulary=7']
    live = train(load_config(KD, [*overrides, *short]), quiet=True)
    stored = [*overrides[:2], overrides[3], f'variables.store={store.folder}']
    assert train(load_config(CACHED, [*stored, *short]), quiet=True)['loss/train/kd'] == pytest.approx(
        live['loss/train/kd'], rel=1e-2
    )
    (dense,) = cache(load_config(KD, overrides), out=tmp_path / 'dense')
    stored = [*overrides[:2], overrides[3], f'variables.store={dense.folder}', 'algorithms.distillation.vocabulary=7']
    (part,) = cache(load_config(CACHED, stored), CacheSettings('topk', k=3))
    assert (dense.manifest.classes, part.manifest.classes) == (10, 7)


def test_formats_features_and_views(overrides, tmp_path, capsys):
    top = CacheSettings('topk', k=4, features=['features.0:pooled', 'features.3'])
    (store,) = cache(load_config(KD, [*overrides, 'train_loader.views=2']), top, tmp_path / 'top')
    assert (store.format, store.manifest.views) == (TopK(4, 4.0), 2)
    assert {path: one.shape for path, one in store.manifest.features.items()} == {
        'features.0': (128,), 'features.3': (64, 8, 8),
    }  # fmt: skip
    assert '96 samples x 2 views' in said(capsys)
    (store,) = cache(load_config(KD, overrides), CacheSettings('sampled', draws=3, temperature=2.0), tmp_path / 'draws')
    assert store.format == Sampled(3, 2.0)
    (store,) = cache(load_config(KD, overrides), CacheSettings(dtype='bfloat16'), tmp_path / 'bf')
    assert store.format == Dense('bfloat16')
    printed = said(capsys)
    assert 'the draws estimate' in printed
    assert 'for a run with other losses than those of this YAML' in printed


@pytest.mark.parametrize('loss', ['{name: KLDivergence, temperature: 4.0}', '{name: DKD}'])
def test_hidden_states_get_the_stored_last_layer_in_training(overrides, tmp_path, capsys, loss):
    folder = tmp_path / 'hidden'
    assert main(['cache', KD, *overrides, '--format', 'hidden', '--dtype', 'float32', '--out', str(folder)]) == 0
    printed = said(capsys)
    assert "Hidden(width=512, dtype='float32')" in printed
    assert float(re.search(r'KL\(live \|\| stored\) (\S+) nats', printed)[1]) < 1e-9
    short = ['max_duration=2ep', 'global_train_batch_size=32', f'{LOSS}={loss}']
    live = train(load_config(KD, [*overrides, *short]), quiet=True)
    stored = train(load_config(CACHED, [*overrides[:2], overrides[3], *short, f'variables.store={folder}']), quiet=True)
    assert stored['loss/train/kd'] == pytest.approx(live['loss/train/kd'], rel=1e-3)


@pytest.mark.parametrize('form', [['--format', 'hidden'], ['--format', 'topk', '--k', '4']])
def test_a_copy_in_mds_teaches_as_the_store_does(overrides, tmp_path, capsys, form):
    pytest.importorskip('streaming')
    mds = tmp_path / 'mds'
    assert main(['cache', KD, *overrides, *form, '--out', str(tmp_path / 'mapped'), '--mds', str(mds)]) == 0
    assert f'{TEACHERS}.0: {{cache: {mds}}}' in said(capsys)
    options = [*overrides[:2], overrides[3], 'max_duration=2ep', 'global_train_batch_size=32']

    def go(name, written):
        where = f'run_name={name}'
        return train(load_config(CACHED, [*options, where, f'{TEACHERS}=[{written}]']), quiet=True)

    mapped = go('mapped', f'{{cache: {tmp_path}/mapped}}')
    for name, local in (('copy', ''), ('fetched', f', local: {tmp_path}/kept')):
        found = go(name, f'{{cache: {mds}{local}}}')
        assert found['loss/train/kd'] == mapped['loss/train/kd']
    teacher, _ = compared_models([open_run(tmp_path / 'copy')])
    assert teacher.role == TEACHER
    assert main(['cache', KD, *overrides, *form, '--out', str(tmp_path / 'mapped'), '--mds', str(mds), '--resume']) == 2


def test_a_dense_store_is_written_in_another_format(overrides, tmp_path, capsys):
    (dense,) = cache(load_config(KD, overrides), CacheSettings(features=['features.3:pooled']), tmp_path / 'dense')
    own = [*overrides[:2], overrides[3], 'max_duration=2ba', f'{TEACHERS}=[{{cache: {dense.folder}}}]']
    shutil.rmtree(tmp_path / 'teacher', ignore_errors=True)
    said(capsys)
    top = tmp_path / 'top'
    assert main(['cache', CACHED, *own, '--format', 'topk', '--k', '4', '--out', str(top)]) == 0
    printed = said(capsys)
    for part in (f'stored in {top}', 'TopK(k=4, temperature=4.0', 'KL(dense || stored)', f'{TEACHERS}.0: {{cache: '):
        assert part in printed
    assert 'saves' not in printed
    made = Store(top)
    (direct,) = cache(load_config(KD, overrides), CacheSettings('topk', k=4, features=['features.3:pooled']))
    one, other = (store.logits(0, torch.arange(96)) for store in (made, direct))
    assert torch.equal(one.ids, other.ids)
    torch.testing.assert_close(one.log_probs, other.log_probs, rtol=1e-3, atol=1e-3)
    assert (top / 'teacher.yaml').read_bytes() == (direct.folder / 'teacher.yaml').read_bytes()
    train(load_config(CACHED, [*own, f'{TEACHERS}=[{{cache: {top}}}]']), quiet=True)
    (wide,) = cache(load_config(CACHED, own), CacheSettings(dtype='bfloat16'), tmp_path / 'wide')
    assert wide.format == Dense('bfloat16')


def test_a_store_that_cannot_be_written_in_another_format_is_refused(overrides, tmp_path):
    top = CacheSettings('topk', k=4)
    (store,) = cache(load_config(KD, overrides), top)
    (dense,) = cache(load_config(KD, overrides), None, tmp_path / 'dense')

    def message(folder, settings, error, *more):
        with pytest.raises(error) as found:
            cache(load_config(KD, [*overrides, f'{TEACHERS}=[{{cache: {folder}}}]', *more]), settings, tmp_path / 'new')
        return str(found.value)

    assert 'format dense' in message(store.folder, CacheSettings('topk', k=2), StoreError)
    assert 'running the teacher' in message(dense.folder, CacheSettings('hidden'), StoreError)
    assert 'are kept as they are' in message(dense.folder, CacheSettings('topk', features=['a']), ConfigError)
    assert 'needs the logits of all' in message(dense.folder, top, ConfigError, f'{LOSS}={{name: DKD}}')
    assert 'holds no store' in message(tmp_path / 'none', top, StoreError)
    stored = load_config(KD, [*overrides, f'{TEACHERS}=[{{cache: {dense.folder}}}]'])
    with pytest.raises(ConfigError, match='is the store that is read'):
        cache(stored, top, dense.folder)
    with pytest.raises(StoreError, match='holds a finished store'):
        cache(stored, top)


def test_a_copy_in_mds_has_a_folder_of_its_own(overrides, tmp_path):
    pytest.importorskip('streaming')
    with pytest.raises(ConfigError, match='give the copy one of its own'):
        cache(load_config(KD, overrides), None, tmp_path / 'store', f'{tmp_path}/store/')
    assert not (tmp_path / 'store').exists()


def test_streaming_that_is_not_installed_is_said_first(overrides, monkeypatch):
    monkeypatch.setitem(sys.modules, 'streaming', None)
    with pytest.raises(ConfigError, match=r'composer_kd\[streaming\]'):
        cache(load_config(KD, overrides), None, None, 's3://bucket/store')


def test_a_last_layer_that_cannot_be_kept_is_refused(overrides):
    for head, part in (('features.0', 'is a '), ('clasifier', "no layer 'clasifier'"), ('classifier.1', 'softcap')):
        assert part in refusal(overrides, CacheSettings('hidden', head=head), (ConfigError, TeacherError))


def test_layers_that_matches_need_and_that_are_not_stored_are_said(overrides, capsys):
    match = f'{LOSS}=[{{name: KLDivergence}}, {{loss: hint, on: [features.3, features.3], project: auto}}]'
    cache(load_config(KD, [*overrides, match]))
    assert 'the matches on features.3 need the live teacher, or --features features.3' in said(capsys)


def test_several_teachers_have_folders_of_their_names(overrides, teacher, tmp_path):
    model = '{name: DeepCNN, in_channels: 1, image_size: 8, num_classes: 10}'
    three = f'[{{model: {model}, checkpoint: {teacher}, name: a/one}}, {{cache: runs/kept}}, '
    three += f'{{model: {model}, checkpoint: {teacher}}}, {{model: {model}, checkpoint: {teacher}}}]'
    stores = cache(load_config(KD, [*overrides, f'{TEACHERS}={three}']))
    folder = tmp_path / 'digits-kd-cache'
    assert [store.folder for store in stores] == [folder / 'one', folder / 'DeepCNN', folder / 'DeepCNN-2']


class Fixed(FrozenTeacher):
    def __init__(self, checkpoint):
        config = load_config(KD).algorithms['distillation'].options[TEACHERS.rpartition('.')[2]][0].model
        super().__init__(config.target(**config.options), checkpoint)


def test_a_kind_of_teacher_of_the_users_is_stored_too(overrides, teacher, capsys):
    own = f'{TEACHERS}=[{{name: tests.workflows.test_cache.Fixed, checkpoint: {teacher}}}]'
    (store,) = cache(load_config(KD, [*overrides, own]))
    assert store.manifest.teacher['class'] == 'Fixed of DeepCNN'


@pytest.mark.parametrize(
    ('settings', 'part'),
    [
        ({'format': 'topkk'}, "--format: 'topkk' is unknown; did you mean 'topk'?"),
        ({'k': 3}, '--k: is for --format topk, got --format dense'),
        ({'format': 'topk', 'draws': 3}, '--draws: is for --format sampled'),
        ({'temperature': 2.0}, '--temperature: is for --format topk and sampled'),
        ({'format': 'topk', 'bits': 3.0}, 'bits: expected 16'),
        ({'format': 'sampled', 'temperature': -1.0}, 'temperature: expected a positive finite number'),
        ({'features': ['a:poled']}, "did you mean 'pooled'"),
        ({'features': ['a', 'a:pooled']}, 'expected each layer once'),
    ],
)
def test_settings_are_checked_before_anything_runs(settings, part):
    with pytest.raises(ConfigError) as found:
        CacheSettings(**settings)
    assert part in str(found.value)


def test_an_unknown_dtype_is_refused():
    with pytest.raises((ConfigError, StoreError), match='float16'):
        CacheSettings(dtype='float17')


@pytest.mark.parametrize(
    ('written', 'part'),
    [
        (f'{LOSS}={{loss: {{name: KLDivergence}}, temperature: {RAMP}}}', 'changes in training'),
        (f'{LOSS}=[{{name: KLDivergence, temperature: 2}}, {{name: ReverseKL, temperature: 3}}]', 'have several'),
        (f'{LOSS}=mse', 'no loss on logits of the run has one'),
        (f'{LOSS}={{name: DKD}}', 'needs the logits of all 10 classes'),
    ],
)
def test_a_format_that_the_losses_do_not_take_is_refused(overrides, written, part):
    assert part in refusal([*overrides, written], CacheSettings('topk', k=4))


def test_what_cannot_be_stored_is_refused(overrides, tmp_path):
    assert 'no algorithm of it has a model' in refusal([*overrides, 'algorithms={}'])
    assert 'stored already' in refusal([*overrides, f'{TEACHERS}=[{{cache: runs/a}}]'])
    assert 'stored already' in refusal([*overrides, f'{TEACHERS}={{name: CachedTeacher, folder: runs/a}}'])
    moving = f'{TEACHERS}=[{{name: EMATeacher, half_life: 10ba}}]'
    assert 'changes during training' in refusal([*overrides, moving], error=TeacherError)
    with pytest.raises(ConfigError, match='the folder of the run itself'):
        cache(load_config(KD, overrides), out=tmp_path / 'digits-kd')
    with pytest.raises(ConfigError, match="no layer 'feat'"):
        cache(load_config(KD, overrides), CacheSettings(features=['feat']))


def test_the_default_folder_is_beside_that_of_the_run():
    assert default_folder(load_config(KD)) == Path('runs/digits-kd-cache')
    assert default_folder(load_config(KD, ['save_folder=null'])) == Path('runs/digits-kd-cache')


def test_progress_says_a_line_now_and_then_where_there_is_no_terminal():
    console = Console(file=io.StringIO(), width=200)
    with BuildProgress('big', every=0.0, console=console) as shown:
        for done in (0, 4, 8, 10):
            time.sleep(0.01)
            shown(done, 10)
    lines = console.file.getvalue().splitlines()
    assert [line.split(' samples')[0] for line in lines] == ['big: 0 of 10', 'big: 4 of 10', 'big: 8 of 10']
    assert lines[1].endswith('left')
    assert shown.written == 10


def test_progress_shows_a_bar_on_a_terminal():
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    with BuildProgress('big', console=console) as shown:
        shown(4, 10)
        shown(10, 10)
    assert '100%' in console.file.getvalue()
    assert shown.written == 6


def test_a_build_that_is_stopped_says_how_it_goes_on():
    console = Console(file=io.StringIO(), width=200)
    with pytest.raises(KeyboardInterrupt), BuildProgress('big', console=console):
        raise KeyboardInterrupt
    assert '--resume goes on' in console.file.getvalue()


def test_tokens_are_measured_where_they_are_compared(tmp_path):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (12, 6), generator=generator)
    labels = ids.where(torch.rand(12, 6, generator=generator) < 0.5, -100)
    data, teacher = TokenDataset(input_ids=ids, labels=labels), FrozenTeacher(TokenModel(seed=0))
    store = build_store(tmp_path, teacher, TokenModel(seed=1), data, TopK(3, 1.0))
    found = measure(teacher, store, TokenModel(seed=1), data, batch_size=5)
    assert (found.samples, found.error.positions) == (12, int((labels != -100).sum()))
    assert 0 <= found.error.kl < 1e-4
    assert found.live > 0 < found.stored
    built = Built('big', 'teachers.0', store, 2.0, 12, found)
    assert 'bytes a token' in '\n'.join(lines_of(built, load_config(KD)))


def test_features_are_matched_from_the_store(overrides, tmp_path):
    (store,) = cache(load_config(KD, overrides), CacheSettings(features=['features.3']))
    match = f'{LOSS}=[{{name: KLDivergence}}, {{loss: hint, on: [features.3, features.3], project: auto}}]'
    own = [*overrides[:2], overrides[3], 'max_duration=2ba', match, f'variables.store={store.folder}']
    metrics = train(load_config(CACHED, own), quiet=True)
    live = train(load_config(KD, [*overrides, 'max_duration=2ba', match]), quiet=True)
    assert metrics['loss/train/hint_features.3'] == pytest.approx(live['loss/train/hint_features.3'], rel=1e-3)
    (_, table) = show_layers(CACHED, own)
    assert list(table.columns[0].cells) == ['features.3']
    with pytest.raises(ConfigError, match=r"no layer 'features.6'"):
        train(load_config(CACHED, [*own, 'run_name=other', match.replace('features.3]', 'features.6]')]), quiet=True)


def test_commands_cope_with_a_store_that_is_gone(overrides, tmp_path):
    (store,) = cache(load_config(KD, overrides))
    own = [*overrides[:2], overrides[3], 'max_duration=2ba', f'variables.store={store.folder}']
    train(load_config(CACHED, own), quiet=True)
    shutil.rmtree(store.folder)
    run = open_run(tmp_path / 'digits-kd-cached')
    assert run.is_distilled
    with pytest.warns(UserWarning, match='is left out of the comparison: its model is not known'):
        (student,) = compared_models([run])
    assert student.role == DISTILLED
    assert main(['evaluate', str(run.folder)]) == 0
    assert main(['export', str(run.folder), '--to', 'state-dict', '--out', str(tmp_path / 'out')]) == 0
    assert 'distilled from digits-kd-cache' in (tmp_path / 'out' / 'state-dict' / 'README.md').read_text()


def launch(*arguments, processes=1, **options):
    launcher = ['-m', 'composer.cli.launcher', '-n', str(processes), '-m', 'composer_kd'] if processes > 1 else None
    command = [sys.executable, *(launcher or ['-m', 'composer_kd']), 'cache', KD, *arguments]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, **options)


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob('*'))
        if file.is_file() and not file.name.endswith('.lock')
    }


@pytest.mark.slow
def test_two_processes_store_what_one_stores(overrides, tmp_path):
    one, two = (launch(*overrides, '--out', str(tmp_path / str(n)), processes=n) for n in (1, 2))
    assert 'stored in' in one.communicate(timeout=240)[0]
    assert two.communicate(timeout=240)[0].count('stored in') == 1
    assert (one.returncode, two.returncode) == (0, 0)
    assert contents(tmp_path / '1') == contents(tmp_path / '2')
    assert 'manifest.json' in contents(tmp_path / '1')


@pytest.mark.slow
def test_a_killed_build_goes_on(overrides, tmp_path):
    out, options = tmp_path / 'store', [*overrides, 'train_loader.views=40', '--batch-size', '8']
    killed = launch(*options, '--out', str(out))
    deadline = time.monotonic() + 120
    while not list((out / 'shards').glob('*')) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate(timeout=60)
    assert main(['cache', KD, *options, '--out', str(out)]) == 2  # without --resume
    assert main(['cache', KD, *options, '--out', str(out), '--resume']) == 0
    assert main(['cache', KD, *options, '--out', str(tmp_path / 'whole')]) == 0
    assert contents(out) == contents(tmp_path / 'whole')
    assert main(['cache', KD, *options, '--out', str(out), '--resume']) == 0  # nothing is left to do
    Store(out).verify()


def test_the_demo_measures_both(tmp_path, capsys):
    found = cache_demo(tmp_path, teacher_epochs=1, epochs=1, samples=128)
    assert found.accuracy['live'] == pytest.approx(found.accuracy['stored'], abs=0.01)
    assert found.same > 0.99
    assert found.nbytes == 128 * 22
    assert 'times less' in said(capsys)
    assert json.loads((tmp_path / 'stored' / 'metrics.json').read_text())
