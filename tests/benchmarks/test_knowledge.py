"""The table of methods runs, goes on where it stopped, and says what it promises; what it finds is not asserted."""

import json
from collections import Counter
from types import SimpleNamespace

import pytest
import torch

from benchmarks import jobs, knowledge, knowledge_data, knowledge_report
from benchmarks.jobs import ROOT, Job, Runner, choose_rates, execute
from benchmarks.knowledge import ALONE, METHODS, RATES, Cell
from composer_kd.config.load import load_config
from composer_kd.errors import LossError

YAML = ROOT / 'yamls' / METHODS
WRITTEN = load_config(YAML).variables
CHOICES = [
    (pair, method)
    for pair, described in WRITTEN['pairs'].items()
    for method in WRITTEN['methods']
    if method not in described['not_defined']
]


@pytest.fixture
def few_images(monkeypatch):
    """300 + 60 random images in place of CIFAR-10, of which 50 are held out and 70 keep a label."""

    def read(split):
        count = {'train': 300, 'test': 60}[split]
        generator = torch.Generator().manual_seed(count)
        images = torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
        return images, [i % 10 for i in range(count)]

    monkeypatch.setattr(knowledge_data, 'read', read)
    monkeypatch.setattr(knowledge_data, 'HELD_OUT', 50)
    monkeypatch.setitem(
        knowledge.SETTINGS,
        '2,000 labels',
        ['train_loader.dataset.n_labels=70', 'train_loader.dataset.labelled_share=0.5'],
    )


def run(tmp_path, *arguments):
    same = ['--workers', '0', '--batches', '4', '--teacher-batches', '2', '--seeds', '1', '2']
    knowledge.main([*same, *arguments, '--work', str(tmp_path / 'work'), '--out', str(tmp_path / 'out')])
    return json.loads((tmp_path / 'out/knowledge.json').read_text()), (tmp_path / 'out/knowledge.md').read_text()


def test_a_table_is_run_and_goes_on_where_it_stopped(few_images, tmp_path, capsys):
    arguments = ['--pairs', 'cnn_to_cnn', 'rnn_to_cnn', '--methods', ALONE, 'at']
    found, markdown = run(tmp_path, *arguments)
    said = capsys.readouterr().out
    # 2 settings x (2 + 1 methods), of which the student alone is the same run for both pairs.
    assert 'teachers: 2 of 2 to run' in said
    assert f'tuning: {4 * len(RATES)} of {6 * len(RATES)} to run' in said
    assert 'seed 1: 4 of 6 to run' in said
    assert 'seed 2: 4 of 6 to run' in said
    assert len(found['runs']) == 12
    assert len(found['tuning']) == 6 * len(RATES)
    assert all(0 <= result['accuracy'] <= 1 and result['cpu'] > 0 for result in found['runs'])
    assert {result['batches'] for result in found['runs']} == {4}
    assert {result['batches'] for result in found['tuning']} == {1}
    assert {result['seed'] for result in found['runs']} == {1, 2}
    rates = {(r['pair'], r['setting'], r['method']): r['rate'] for r in found['runs']}
    for place, rate in rates.items():
        accuracy = {
            r['rate']: r['accuracy'] for r in found['tuning'] if (r['pair'], r['setting'], r['method']) == place
        }
        assert accuracy[rate] == max(accuracy.values())

    rows = [line for line in markdown.splitlines() if line.startswith('| ')]
    assert rows[0] == '| method | all labels | 2,000 labels | CPU seconds | learning rates |'
    assert [row.split(' | ')[0] for row in rows[1:3]] == ['| student alone', '| AT']
    assert rows[5].startswith('| AT | not defined: the states of an RNN')
    assert 'The teacher: ' in markdown
    assert str(tmp_path) not in markdown + json.dumps(found)

    one = next(path for path in (tmp_path / 'work').glob('*.json') if 'run-cnn_to_cnn-all-at-2' in path.read_text())
    one.unlink()
    again, _ = run(tmp_path, *arguments)
    said = capsys.readouterr().out
    assert 'teachers: 0 of 2 to run' in said
    assert f'tuning: 0 of {6 * len(RATES)} to run' in said
    assert 'seed 1: 0 of 6 to run' in said
    assert 'seed 2: 1 of 6 to run' in said
    assert [r['accuracy'] for r in again['runs']] == [r['accuracy'] for r in found['runs']]


def test_a_result_belongs_to_its_settings(few_images, tmp_path):
    def job(batches=4, name='x', *overrides):
        return Job(name, METHODS, ('algorithms={}', 'save_folder=null', *overrides), batches, str(tmp_path))

    assert job().path == job().path
    assert job().path != job(batches=5).path
    assert job().path != job(4, 'x', 'optimizer.lr=0.5').path
    assert job().path == job(4, 'x', 'variables.method=kd_t1').path  # nobody teaches: it is the same run


def test_a_run_that_diverges_is_recorded_and_an_error_is_tried_again(few_images, tmp_path, monkeypatch, capsys):
    job = Job('x', METHODS, ('algorithms={}', 'save_folder=null'), 2, str(tmp_path))

    def fail(error):
        def train(config):
            raise error

        monkeypatch.setattr(jobs, 'train', train)
        return Runner(0)([job], 'runs')[job]

    found = fail(OSError('no space'))
    assert found['failed'] == 'OSError: no space'
    assert not job.path.exists()
    found = fail(LossError('the shapes do not fit'))
    assert found['failed'] == 'LossError: the shapes do not fit'
    assert not job.path.exists()
    found = fail(LossError('the loss is not finite'))
    assert found['failed'] == 'diverged: the loss is not finite'
    assert found['cpu'] >= 0
    assert json.loads(job.path.read_text()) == found
    monkeypatch.setattr(jobs, 'train', None)
    assert Runner(0)([job], 'runs')[job] == found


def test_logits_that_are_no_numbers_are_no_result(tmp_path, monkeypatch, few_images):
    metrics = {'metrics/eval/MulticlassAccuracy': 0.1, 'metrics/eval/CrossEntropy': float('nan')}
    monkeypatch.setattr(jobs, 'train', lambda config: metrics)
    job = Job('x', METHODS, ('algorithms={}',), 2, str(tmp_path))
    assert execute(job, tmp_path / 'x.json')['failed'].startswith('diverged')


def test_the_best_rate_is_taken_and_the_lower_of_equals():
    cells = [Cell('p', 's', name) for name in 'abcd']
    low, middle, high = sorted(RATES)
    results = [(0.5, 0.6, 0.7), (0.6, 0.6, 0.1), (0.5, 0.6, None), (None, None, None)]
    tuned = {
        (cell, rate): {'failed': 'diverged'} if accuracy is None else {'accuracy': accuracy}
        for cell, values in zip(cells, results)
        for rate, accuracy in zip((low, middle, high), values)
    }
    assert list(choose_rates(cells, tuned).values()) == [high, low, middle, low]


def test_the_table_shows_what_failed():
    cell = Cell('p', 'all labels', 'm')
    runs = {
        (cell, 1): {'accuracy': 0.5, 'cpu': 2.0},
        (cell, 2): {'accuracy': 0.6, 'cpu': 4.0},
        (cell, 3): {'accuracy': 0.1, 'failed': 'diverged: nan', 'cpu': 9.0},
    }
    shown = knowledge_report.table('p', {'m': 'M', 'n': 'N'}, {'n': 'why'}, [1, 2, 3], {cell: 0.001}, runs)
    assert shown.splitlines()[2:] == [
        '| M | 55.0 ± 5.0, 1 of 3 diverged | 5.0 | 0.001 |',
        '| N | not defined: why |  |  |',
    ]


@pytest.mark.parametrize(('pair', 'method'), CHOICES)
def test_every_method_is_valid_for_every_pair_that_it_is_defined_for(pair, method):
    config = load_config(YAML, [f'variables.pair={pair}', f'variables.method={method}'])
    options = config.algorithms['distillation'].options
    assert (options['kd_loss_weight'], options['org_loss_weight']) in ((0.9, 0.1), (1, 1), (1, 0.1))
    assert config.model.name == {'title': 0, 'cnn': 'ShallowCNN', 'rnn': 'ImageRNN'}[pair.split('_to_')[1]]
    assert options['teachers'][0].model.name == {'cnn': 'DeepCNN', 'rnn': 'ImageRNN'}[pair.split('_to_')[0]]


def test_the_teacher_of_a_pair_is_the_one_that_is_trained():
    for pair in WRITTEN['pairs'].values():
        trained = load_config(ROOT / 'yamls' / knowledge.TEACHER, [f'variables.kind={pair["teacher"]}']).model
        assert {'name': trained.name, **trained.options} == pair['teacher_model']


def test_the_held_out_images_are_no_training_images(few_images):
    train, held_out, test = (knowledge_data.small_cifar10(split) for split in ('train', 'held_out', 'test'))
    assert [len(part) for part in (train, held_out, test)] == [250, 50, 60]
    seen = {image.numpy().tobytes() for image in train.images}
    assert not seen & {image.numpy().tobytes() for image in held_out.images}
    assert sorted(held_out.targets) == [i // 5 for i in range(50)]
    assert tuple(train[0][0].shape) == (3, 16, 16)
    with pytest.raises(ValueError, match="got 'validation'"):
        knowledge_data.small_cifar10('validation')


def test_as_many_samples_as_wanted_have_a_label(few_images):
    whole = knowledge_data.small_cifar10(n_labels=20, seed=3)
    mixed = knowledge_data.small_cifar10(n_labels=20, seed=3, labelled_share=0.5)
    assert len(mixed) == len(whole) == 250
    assert sum(target != -100 for target in mixed.targets) == 125
    labelled = {x.numpy().tobytes(): y for x, y in whole if y != -100}
    unlabelled = {x.numpy().tobytes() for x, y in whole if y == -100}
    seen = Counter()
    for (x, y), target in zip(mixed, mixed.targets):
        key = x.numpy().tobytes()
        seen[key] += 1
        assert y == target == labelled.get(key, -100)
    assert {seen[key] for key in labelled} == {6, 7}
    assert {seen[key] for key in unlabelled} == {0, 1}
    assert len(knowledge_data.small_cifar10(n_labels=20, keep_unlabelled=False, labelled_share=0.5)) == 20


def test_images_are_averaged_down(monkeypatch):
    images = torch.arange(32).view(1, 1, 1, 32).expand(2, 3, 32, 32).to(torch.uint8) * 4
    monkeypatch.setattr(knowledge_data, 'cifar10', lambda split: SimpleNamespace(images=images, targets=[3, 4]))
    knowledge_data.read.cache_clear()
    small, targets = knowledge_data.read('train')
    knowledge_data.read.cache_clear()
    assert (tuple(small.shape), small.dtype, targets) == ((2, 3, 16, 16), torch.uint8, [3, 4])
    # Means around the middle of two pixels, each 4 brighter than the one before; the borders have less to average.
    assert small[0, 0, 5, 1:-1].tolist() == [2 + 8 * i for i in range(1, 15)]


@pytest.mark.data
def test_cifar10_itself_and_workers(tmp_path):
    sizes = [len(knowledge_data.small_cifar10(split)) for split in ('train', 'held_out', 'test')]
    assert sizes == [45_000, 5_000, 10_000]
    found, _ = run(tmp_path, '--pairs', 'rnn_to_cnn', '--methods', ALONE, 'crd', '--workers', '2')
    assert [result.get('failed') for result in found['runs']] == [None] * 8
