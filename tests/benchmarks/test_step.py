"""The benchmark runs and says what it promises; what it finds is not asserted."""

import json

import pytest

from benchmarks import losses, step, variants
from benchmarks.timing import Spread, median_step
from benchmarks.workloads import WORKLOADS


@pytest.fixture(scope='module')
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp('results')
    step.main(['--workloads', 'tiny', '--threads', '1', '--rounds', '2', '--steps', '3', '--out', str(out)])
    return json.loads((out / 'step.json').read_text()), (out / 'step.md').read_text(), str(out)


def test_report_holds_each_variant_and_both_targets_of_tiny(report):
    found, _, _ = report
    (tiny,) = found['measured']
    wanted = {'student', 'teacher', 'composer_kd', 'composer_kd outside', 'naive', 'loop', 'loop distilling'}
    assert wanted <= set(tiny['variants'])
    for clocks in tiny['variants'].values():
        assert len(clocks.pop('rounds')) == 2
        for spread in clocks.values():
            assert 0 < spread['low'] <= spread['median'] <= spread['high']
    targets = {row['name'][:2]: row for row in tiny['quantities'] if row['target'] is not None}
    assert {name: row['target'] for name, row in targets.items()} == {'G1': 5.0, 'G2': 60.0}
    assert all(row['met'] == (row['wall']['median'] <= row['target']) for row in targets.values())


def test_markdown_shows_targets_and_names_no_folder(report):
    found, markdown, out = report
    assert '| G1: composer_kd outside its window - student (tiny) | <= 5.0 us |' in markdown
    assert found['command'] == 'python benchmarks/step.py --workloads tiny --threads 1 --rounds 2 --steps 3'
    assert out not in markdown + json.dumps(found)


def test_variants_that_differ_are_found(monkeypatch):
    half = variants.KLDivergence(temperature=2.0)
    monkeypatch.setattr(variants, 'KLDivergence', lambda temperature: half)
    with pytest.raises(variants.DisagreementError, match=r'composer_kd and naive do not .* at step 0'):
        step.measure(WORKLOADS['tiny'], threads=1, rounds=1, steps=1)


def test_agreement_is_relative_and_counts_steps():
    variants.check_agreement({'a': [1000.0, 2.0], 'b': [1000.05, 2.0]})
    with pytest.raises(variants.DisagreementError, match=r'step 1 are 2 and 2\.001'):
        variants.check_agreement({'a': [1000.0, 2.0], 'b': [1000.05, 2.001]})
    with pytest.raises(variants.DisagreementError):
        variants.check_agreement({'a': [1.0], 'b': [float('nan')]})


def test_median_step_ignores_an_interruption():
    wall, cpu = median_step([(0.0, 0.0), (1.0, 1.0), (9.0, 2.0), (10.0, 4.0)])
    assert (wall, cpu) == (1.0, 1.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 2.0, 4.0)


def test_each_way_of_the_loss_is_timed_and_the_threshold_is_put_back():
    threshold = losses.kl.FUSED_FROM
    found = losses.measure((16, 10), rounds=2)
    assert set(found['microseconds']) == set(losses.LOSSES)
    assert threshold == losses.kl.FUSED_FROM
