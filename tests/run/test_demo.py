"""The demo, in small."""

from __future__ import annotations

import json

import pytest

from composer_kd.errors import ConfigError
from composer_kd.run.demo import demo
from composer_kd.run.report import in_words
from composer_kd.run.results import Entry, Results, Settings


@pytest.fixture(scope='module')
def small(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo')
    return out, demo(out, [0], Settings(teacher_epochs=2, student_epochs=2))


def test_it_leaves_numbers_table_and_plot(small):
    out, results = small
    written = json.loads((out / 'results.json').read_text())
    assert [model['name'] for model in written['models']] == ['teacher', 'student alone', 'student distilled']
    for model in written['models']:
        assert model['accuracy'] == model['curves'][0][-1]  # the last epoch, never the best
        assert model['parameters'] > 0
        assert model['size'] > 4 * model['parameters']
        assert 0 < model['latency'] < 1
    alone, distilled = written['models'][1:]
    assert all(alone[key] == distilled[key] for key in ('parameters', 'size', 'latency'))  # one architecture
    assert written['gain'] == pytest.approx(results.distilled.accuracy - results.alone.accuracy)
    assert in_words(results) in (out / 'results.md').read_text()
    assert (out / 'results.png').read_bytes().startswith(b'\x89PNG')
    assert (out / 'results.png').stat().st_size > 20_000


def test_a_folder_that_cannot_be_made_is_told_before_training(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(ConfigError, match=r'^--out: the folder .* cannot be used'):
        demo(tmp_path / 'file' / 'demo')


def results_of(alone, distilled):
    entries = [Entry('teacher', '', [[0.9]], 200), Entry('a', '', alone, 100), Entry('d', '', distilled, 100)]
    return Results(Settings(), (1297, 500), *entries)


def test_the_sentence_says_what_the_numbers_say():
    better = in_words(results_of([[0.5], [0.5], [0.5]], [[0.7], [0.69], [0.71]]))
    assert 'took the student from 50.0 % to 70.0 % (+20.0 points' in better
    assert '50 % of the way to the teacher' in better
    worse = in_words(results_of([[0.5], [0.51]], [[0.3], [0.31]]))
    assert 'lowered the student from 50.5 % to 30.5 % (-20.0 points' in worse
    assert 'as good as the teacher' in in_words(results_of([[0.5], [0.5]], [[0.9], [0.91]]))
    assert 'no clear difference' in in_words(results_of([[0.5], [0.6]], [[0.52], [0.59]]))
    assert '95 % interval +17.5 to +22.5 over 3 seeds)' in better  # t: 4.30 standard errors of 0.58
    # Above two standard errors, yet with two seeds the interval reaches 12.7 of them.
    few = in_words(results_of([[0.5], [0.5]], [[0.6], [0.66]]))
    assert '95 % interval -25.1 to +51.1 over 2 seeds, so no clear difference' in few
    assert 'a single seed' in in_words(results_of([[0.5]], [[0.6]]))


def test_the_standard_error_is_that_of_the_mean():
    entry = Entry('x', '', [[0.1], [0.2], [0.3]])
    assert entry.accuracy == pytest.approx(0.2)
    assert entry.standard_error == pytest.approx(0.1 / 3**0.5)
    assert Entry('x', '', [[0.1]]).standard_error is None
