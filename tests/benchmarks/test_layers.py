"""The study of layers: parts of the data that know nothing of one another, and tables of what was found."""

import itertools
import json
import re

import pytest

from benchmarks import layers, layers_data
from benchmarks.jobs import Runner, write_file
from benchmarks.layers_teachers import STRATEGIES, STUDENT, TEACHER, Chosen, Parts, Stored
from composer_kd.config.load import load_config
from composer_kd.students.layer_choice import chosen_layers
from tests.texts import save_jsonl, save_model, save_sst2, sentences


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A tiny model, and data of which few samples are set apart."""
    monkeypatch.setattr(
        layers_data, 'SIZES', {'sst2': {'test': 20, 'held_out': 16}, 'mnli': {'test': 8, 'held_out': 6}}
    )
    monkeypatch.setattr(layers_data, 'SENTENCE', 8)
    monkeypatch.setenv('COMPOSER_KD_DATA', save_sst2(tmp_path / 'data', train=300, validation=12))
    layers_data._parts.cache_clear()
    yield save_model(tmp_path / 'bert', num_labels=2)
    layers_data._parts.cache_clear()


def runs_of(tokens):
    return {tuple(tokens[start : start + 5]) for start in range(1, len(tokens) - 5)}


def test_parts_of_sentences_share_no_run_of_tokens(small):
    parts = {part: layers_data.texts('sst2', part, tokenizer=small) for part in layers_data.PARTS}
    assert {part: len(parts[part]) for part in ('test', 'held_out')} == {'test': 12 + 20, 'held_out': 16}
    runs = {
        part: [runs_of(samples[index]['input_ids']) for index in range(len(samples))] for part, samples in parts.items()
    }
    for one, other in itertools.combinations(runs.values(), 2):
        assert not set().union(*one) & set().union(*other)
    apart = runs['test'][12:]
    assert sum(map(len, apart)) == len(set().union(*apart))  # nor do two samples that are tested on
    lengths = [len(parts['test'][index]['input_ids']) for index in range(32)]
    assert lengths[:12] == sorted(lengths[:12])
    assert lengths[12:] == sorted(lengths[12:])
    assert parts['test'].targets == [parts['test'][index]['labels'] for index in range(32)]
    assert (parts['test'].texts, parts['test'].max_length) == (('sentence',), 64)  # as the page asks


def test_a_subset_is_balanced_and_a_part_of_a_larger_one(small):
    few, more = (layers_data.texts('sst2', tokenizer=small, subset=count) for count in (20, 40))
    assert [few[index] for index in range(20)] == [more[index] for index in range(20)]
    assert sum(few.targets) == 10


def test_pairs_of_a_premise_stay_together(small, tmp_path):
    premises = sentences(12, longest=9)
    names = ('entailment', 'neutral', 'contradiction')
    rows = [
        {'premise': premise, 'hypothesis': hypothesis, 'label': names[index % 3]}
        for premise in premises
        for index, hypothesis in enumerate(sentences(3, seed=len(premise)))
    ]
    save_jsonl(tmp_path / 'data' / 'glue' / 'MNLI' / 'dev_matched.jsonl', rows)
    parts = {part: layers_data.texts('mnli', part, tokenizer=small, max_length=8) for part in layers_data.PARTS}
    assert sum(map(len, parts.values())) == len(rows)
    assert len(parts['test']) >= 8
    groups = [set(part.groups) for part in parts.values()]
    assert sum(map(len, groups)) == len(set().union(*groups)) == len(set(premises))


KEPT = {**{name: chosen_layers(name, 6, 3) for name in STRATEGIES[:-1]}, 'importance': [1, 3, 5]}  # as odd
SAMPLES = 1000
LABELS = [index % 2 for index in range(SAMPLES)]


def given(task, result):
    write_file(task.path, json.dumps({'name': task.name, 'cpu': 1.0, 'wall': 1.0, 'batches': task.batches} | result))
    return result


def answers(wrong):
    """Answers of a student that has the samples of these numbers wrong."""
    return ''.join(str(1 - label if index in wrong else label) for index, label in enumerate(LABELS))


def write_results(study):
    """Results of all runs: `bottom` is wrong 60 times more often, being distilled helps none, seeds change little."""
    teacher = study.teachers['sst2']
    for task, result in (
        (Parts(teacher.basis), {'labels': LABELS, 'groups': list(range(SAMPLES)), 'sizes': {'test': SAMPLES}}),
        (teacher, {'accuracy': 0.95, 'answers': answers(range(50))}),
        (Chosen(teacher), {'layers': KEPT}),
        (Stored(teacher), {'seconds': 3.0, 'bytes': 2000}),
    ):
        given(task, result)
    study.layers['sst2'] = {name: tuple(layers) for name, layers in KEPT.items()}
    for method, rate in itertools.product(layers.METHODS, (3e-5, 1e-4, 3e-4)):
        given(study._tuning(('sst2', method), rate), {'accuracy': 0.8 + (rate == 1e-4) / 10})
    study.rates = dict.fromkeys((('sst2', method) for method in layers.METHODS), 1e-4)
    study.runner = Writing()
    for seed in (1, 2, 3):
        study._seed('sst2', seed)


class Writing:
    """In the place of a runner: writes a result for each task."""

    def __call__(self, tasks, title):
        return {task: given(task, {'answers': self.of(task)}) for task in tasks}

    def of(self, task):
        if hasattr(task, 'runs'):
            return answers(range(100))
        more = 60 if task.layers == (0, 1, 2) else 0
        return answers(range(100 + more + (task.seed == 2) * (1 + len(task.method))))


@pytest.fixture
def options(tmp_path):
    return layers.parse(['--work', str(tmp_path / 'work'), '--out', str(tmp_path), '--tasks', 'sst2'])


def test_tables_say_what_is_larger_than_the_noise(options, tmp_path):
    options.work.mkdir()
    write_results(layers.Study(options, Runner(0, dry=True)))
    layers.Study(options, Runner(0, dry=True)).run()
    table = (tmp_path / 'layers.md').read_text()
    assert '| bottom | 0 1 2 | 83.8 ± 0.2 | 83.7 ± 0.3 | -0.1 ± ' in table
    assert '| odd, importance | 1 3 5 | 89.8 ± 0.2 | 89.7 ± 0.3 |' in table
    assert re.search(r'\| top \| \*\*\+6.0 ± 0\.[78]\*\* \| \+0.0 ± ', table)
    assert 'The teacher, fine-tuned in 500 batches of 32 on 16,000 samples, has 95.0 %' in table
    larger, rest = table.split('Larger than the noise, of 35 comparisons')[1].split('The other ')
    assert larger.count('over `bottom`') == 10  # four strategies and all together, alone and distilled
    assert '- alone: `top` over `bottom`: 6.0 ± ' in larger
    assert larger.count('- ') == 10
    assert rest.startswith('25 are not')
    assert str(tmp_path) not in table
    found = json.loads((tmp_path / 'layers.json').read_text())['sst2']
    assert sum(one['is_larger'] for one in found['differences']) == 10
    assert found['rates'] == {'alone': 1e-4, 'distilled': 1e-4}


def test_a_report_of_nothing_is_a_report(options, tmp_path):
    options.work.mkdir()
    layers.Study(options, Runner(0, dry=True)).run()
    assert 'which layers' in (tmp_path / 'layers.md').read_text()


def test_each_run_is_valid_and_known_by_what_it_does(options, small, tmp_path):
    options.pretrained = small
    study = layers.Study(options, Runner(0, dry=True))
    teacher = study.teachers['sst2']
    assert load_config(TEACHER, list(teacher.overrides)).max_duration == '500ba'
    study.layers['sst2'] = {name: tuple(chosen) for name, chosen in KEPT.items()}
    study.rates = dict.fromkeys((('sst2', method) for method in layers.METHODS), 1e-4)
    asked = []
    study.runner = lambda tasks, title: asked.extend(tasks) or {}
    study._seed('sst2', 1)
    study._vary('sst2', tuple(KEPT['spaced']), 1)
    tuning = study._tuning(('sst2', 'alone'), 1e-4)
    for run in (*asked, *tuning.runs):
        config = load_config(STUDENT, list(run.overrides))
        assert config.model.options['layers'] == list(run.layers)
        assert config.train_loader.dataset.options['subset'] == 4800
    assert {run.part for run in tuning.runs} == {'held_out'}
    assert all(run.batches * 32 == 4800 for run in asked if not any('global' in one for one in run.more))
    assert len({run.path for run in asked}) == len(asked) - 2  # importance is odd here, alone and distilled
    elsewhere = layers.parse(['--work', str(tmp_path / 'other'), '--tasks', 'sst2', '--pretrained', small])
    assert layers.Study(elsewhere, Runner(0, dry=True)).teachers['sst2'].path.name == teacher.path.name


@pytest.mark.slow
def test_a_study_at_a_tiny_size_runs_and_goes_on(small, tmp_path, capsys):
    options = ['--work', str(tmp_path / 'work'), '--out', str(tmp_path), '--pretrained', small, '--seeds', '1', '2']
    options += ['--batches', '2', '--teacher-batches', '1', '--teacher-samples', '64', '--num-layers', '1']
    options += ['--tasks', 'sst2', '--workers', '0', '--max-length', '16']
    layers.main(options)
    table = (tmp_path / 'layers.md').read_text()
    assert '## SST-2' in table
    assert '| all together, 2 |' in table
    assert '| weight decay 0.001 | alone |' in table
    assert table.count('| as in the tables |') == 2
    found = json.loads((tmp_path / 'layers.json').read_text())
    kept = {tuple(one['layers']) for one in found['sst2']['students'] if one['layers']}
    assert kept == {(0,), (1,)}
    capsys.readouterr()
    layers.main(options)
    said = capsys.readouterr().out
    assert 'seed 2: 0 of' in said
    assert '[1/' not in said
    (tmp_path / 'layers.md').unlink()
    layers.main([*options, '--report'])
    assert (tmp_path / 'layers.md').read_text() == table
    assert str(tmp_path) not in table
