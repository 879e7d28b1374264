"""Checkpoints say which teachers a run had; another one in a resume is an error before training."""

import pytest
import torch

from composer_kd import CheckpointError, Distillation, EMATeacher, SnapshotTeacher, VirtualTeacher
from composer_kd.algorithms import teacher_record
from composer_kd.teachers import FrozenTeacher
from tests.helpers import EventSpy, loader, mlp, mse, pairs, student, train, trainer, weights

OUT = {'load_ignore_keys': ['state/algorithms/*']}


def run(*algorithms, until='2ba', **options):
    model = student()
    train(model, loader(*pairs()), algorithms, max_duration=until, **options)
    return model


def saved(tmp_path, *algorithms):
    run(*algorithms, save_folder=str(tmp_path), save_interval='1ba')
    return str(tmp_path / 'ep0-ba2-rank0.pt')


def teachers(*seeds, **options):
    return Distillation([FrozenTeacher(mlp(seed=seed), name=f'mlp {seed}') for seed in seeds], mse, **options)


def test_the_same_teachers_go_on_bit_for_bit_and_may_have_other_names(tmp_path):
    path = saved(tmp_path, teachers(3, 4))
    straight = run(teachers(3, 4), until='3ba')
    again = Distillation([mlp(seed=3), mlp(seed=4)], mse)
    assert torch.equal(weights(straight), weights(run(again, until='3ba', load_path=path)))


@pytest.mark.parametrize(
    ('other', 'said'),
    [
        (lambda: teachers(3, 5), r"teacher 1 \('mlp 5'\): weights saved \w{8}, now \w{8}"),
        (lambda: teachers(4, 3), "the same teachers in another order: saved 'mlp 3', 'mlp 4', now 'mlp 4', 'mlp 3'"),
        (lambda: teachers(3), r"2 teachers saved \('mlp 3', 'mlp 4'\), now 1 \('mlp 3'\)"),
        (lambda: Distillation([mlp(seed=3), EMATeacher()], mse), 'class saved Sequential, now EMATeacher'),
        (
            lambda: Distillation([mlp(seed=3), FrozenTeacher(mlp(seed=4), input_adapter=torch.neg)], mse),
            'input_adapter saved none, now .*neg',
        ),
    ],
)
def test_other_teachers_are_an_error_and_there_is_a_way_out(tmp_path, other, said):
    path = saved(tmp_path, teachers(3, 4))
    trained = []
    spy = EventSpy('batch_start', lambda state: trained.append(state.timestamp.batch.value))
    with pytest.raises(CheckpointError, match=said):
        trainer(student(), loader(*pairs()), [other()], [spy], max_duration='3ba', load_path=path)
    assert not trained
    train(student(), loader(*pairs()), [other()], [spy], max_duration='3ba', load_path=path, **OUT)
    assert trained == [2]


@pytest.mark.parametrize(
    ('before', 'now', 'said'),
    [
        (VirtualTeacher(0.9), VirtualTeacher(0.5), r"teacher 0 \('virtual'\): correct saved 0.9, now 0.5"),
        (EMATeacher('2ba'), EMATeacher('9ba'), "half_life saved '2ba', now '9ba'"),
        (SnapshotTeacher('1ba'), SnapshotTeacher('1ep'), "every saved '1ba', now '1ep'"),
    ],
    ids=lambda one: type(one).__name__,
)
def test_other_settings_make_another_teacher(tmp_path, before, now, said):
    path = saved(tmp_path, Distillation(before, mse, start_dur='1ba'))
    with pytest.raises(CheckpointError, match=said):
        run(Distillation(now, mse, start_dur='1ep'), until='3ba', load_path=path)
    checkpoint = torch.load(path, weights_only=False)
    ((_, state),) = checkpoint['state']['algorithms']  # as an earlier version saved it
    state['fingerprints'][0][0].pop('settings')
    torch.save(checkpoint, path)
    run(Distillation(now, mse, start_dur='1ep'), until='3ba', load_path=path)


def test_a_function_leaves_out_the_fingerprints_alone(tmp_path):
    """As docs/schemes.md has it: the average of the student goes on, beside another frozen teacher."""
    path = saved(tmp_path, Distillation([EMATeacher('2ba'), mlp(seed=3)], mse))

    def other_teachers(checkpoint):
        for _, state in checkpoint['state']['algorithms']:
            state.pop('fingerprints', None)

    average = EMATeacher('2ba')
    run(Distillation([average, mlp(seed=5)], mse), until='3ba', load_path=path, load_ignore_keys=other_teachers)
    assert average.steps == 3


def test_two_distillations_each_know_their_own(tmp_path):
    first, second = {'end_dur': '1ba'}, {'start_dur': '1ba'}
    path = saved(tmp_path, teachers(3, **first), teachers(4, **second))
    run(teachers(3, **first), teachers(4, **second), until='3ba', load_path=path)
    with pytest.raises(CheckpointError, match=r"Distillation 1: teacher 0 \('mlp 5'\): weights"):
        run(teachers(3, **first), teachers(5, **second), until='3ba', load_path=path)
    with pytest.raises(CheckpointError, match='2 Distillation saved, now 1'):
        run(teachers(4, **second), until='3ba', load_path=path)
    run(teachers(3, **first), teachers(5, **second), until='3ba', load_path=path, **OUT)


def test_checkpoints_of_older_versions_load(tmp_path):
    path = saved(tmp_path, teachers(3))
    checkpoint = torch.load(path, weights_only=False)
    for _, state in checkpoint['state']['algorithms']:
        assert state.pop('fingerprints')
    torch.save(checkpoint, path)
    run(teachers(5), until='3ba', load_path=path)


def test_weights_are_hashed_once_in_a_run_and_only_where_it_saves(tmp_path, monkeypatch):
    hashed = []
    real = teacher_record.teacher_fingerprint
    monkeypatch.setattr(teacher_record, 'teacher_fingerprint', lambda one: hashed.append(one.name) or real(one))
    run(teachers(3, 4))
    assert hashed == []
    saved(tmp_path, teachers(3, 4))
    assert hashed == ['mlp 3', 'mlp 4']
