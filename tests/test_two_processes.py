"""Two processes with gloo train what one process trains."""

import json

import pytest

from tests.launching import on_ranks
from tests.two_processes import CASES, main


def launch(processes, folder):
    out = folder / f'{processes}.json'
    on_ranks(processes, main, str(out))
    return json.loads(out.read_text())


@pytest.fixture(scope='module')
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp('launched')
    one, two = launch(1, folder), launch(2, folder)
    assert (one['world_size'], two['world_size']) == (1, 2)
    return one, two


@pytest.mark.parametrize('case', CASES)
def test_losses_to_four_decimals(results, case):
    one, two = (result[case]['losses'] for result in results)
    assert len(one) == len(two) == 4
    for alone, together in zip(one, two):
        assert set(alone) == set(together)
        for key in alone:
            assert together[key] == pytest.approx(alone[key], abs=5e-5), (case, key)


@pytest.mark.parametrize('case', CASES)
def test_weights(results, case):
    one, two = (result[case] for result in results)
    assert two['equal']
    assert two['weights'] == pytest.approx(one['weights'], abs=1e-5)


def test_all_ranks_draw_the_same_teachers(results):
    for result in results:
        drawn = result['sampled teachers']['drawn']
        assert all(rank == drawn[0] for rank in drawn)
    assert results[0]['sampled teachers']['drawn'][0] == results[1]['sampled teachers']['drawn'][0]


def test_repeated_samples_do_not_count_in_the_teachers_evaluation(results):
    one, two = (result['evaluation'] for result in results)
    assert two == pytest.approx(one, abs=1e-6)


def test_features_of_a_sharded_student(results):
    """Of the first batch: from then on FSDP2 on gloo takes other steps, with distillation or without."""
    one, two = (result['sharded'] for result in results)
    assert set(one) == {'total', 'task', 'kd', 'hint_2', 'KLDivergence'}
    assert two == pytest.approx(one, abs=5e-5)


def test_a_sharded_student_is_taught_from_a_store(results):
    for live, stored in (result['sharded, from a store'] for result in results):
        assert stored == pytest.approx(live, abs=1e-6)
    assert results[1]['sharded, from a store'][1] == pytest.approx(results[0]['sharded, from a store'][1], abs=5e-5)


def test_a_sharded_student_learns_nothing_beside_itself(results):
    assert 'Under FSDP use matches without projector' in results[1]['sharded and learning']


def test_an_average_with_statistics_is_equal_on_all_ranks(results):
    assert all(result['average with statistics'] for result in results)


def test_wrapped_and_sharded_teachers_have_the_hash_of_the_net(results):
    assert all(result['hashes'] == [['Sequential', True]] * 3 for result in results)


@pytest.mark.parametrize('moment', [0, 1], ids=['at the start', 'on the way'])
def test_a_process_that_fails_ends_the_build_of_all(results, moment):
    """Not at the timeout of a barrier, and long before the others have read their samples."""
    one, two = (result['failing build'][moment] for result in results)
    (alone, _), ((first, read), (second, _)) = *one, two
    assert alone.startswith('OSError: sample')
    assert second.startswith('OSError: sample')
    assert first == f'StoreError: process 1 of 2 has failed, which ends the work of all: {second}'
    assert read < 100
