"""What tells one teacher from another, and what does not: device, precision, wrappers, names."""

import copy

import pytest
import torch
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import EMATeacher, build_store
from composer_kd.models import IndexedClassifier
from composer_kd.teachers import CachedTeacher, FrozenTeacher, ResizeAdapter, differences, teacher_fingerprint
from composer_kd.teachers.adapters import InputAdapters
from composer_kd.teachers.fingerprint import weights_hash
from tests.helpers import mlp, pairs, student


class Constant:
    name = 'constant'

    def prepare(self, state): ...

    def outputs(self, batch, index=None):
        return torch.zeros(len(batch[0]), 4)

    def end_batch(self, state): ...


class Crop(FrozenTeacher):
    def outputs(self, batch, index=None):
        return super().outputs((batch[0] * 2, batch[1]), index)


def test_one_changed_weight_or_statistic_is_another_teacher():
    one = mlp(norm=True)
    for change in (lambda net: net[0].weight[0, 0], lambda net: net[1].running_mean[0]):
        other = copy.deepcopy(one)
        with torch.no_grad():
            change(other).add_(1e-3)
        assert weights_hash(one) != weights_hash(other)


@pytest.mark.parametrize(
    'around',
    [
        torch.compile,
        lambda net: ComposerClassifier(net, num_classes=4),
        lambda net: torch.compile(ComposerClassifier(net, num_classes=4)),
        copy.deepcopy,
    ],
)
def test_wrappers_change_nothing(around):
    one, other = FrozenTeacher(mlp()), FrozenTeacher(around(mlp()), name='elsewhere')
    assert not list(differences([teacher_fingerprint(one)], [teacher_fingerprint(other)]))


def test_half_precision_loaded_as_float32_is_the_same():
    half = mlp().bfloat16()
    assert weights_hash(half) == weights_hash(copy.deepcopy(half).float())


def test_a_teacher_of_a_kind_of_its_own_and_its_adapter():
    net = mlp()
    plain, crop = teacher_fingerprint(FrozenTeacher(net)), teacher_fingerprint(Crop(net))
    assert list(differences([plain], [crop])) == [
        "teacher 0 ('Sequential'): class saved Sequential, now Crop of Sequential"
    ]
    small, large = (teacher_fingerprint(FrozenTeacher(net, input_adapter=ResizeAdapter(n))) for n in (8, 16))
    (line,) = differences([small], [large])
    assert 'size=(8, 8)' in line
    assert 'size=(16, 16)' in line
    one, other = (
        teacher_fingerprint(FrozenTeacher(net, input_adapter=InputAdapters([f, ResizeAdapter(8)])))
        for f in (torch.neg, torch.exp)
    )
    assert list(differences([one], [other]))


def test_teachers_without_weights_say_what_they_can():
    assert teacher_fingerprint(Constant()) == {
        'name': 'constant', 'class': 'Constant', 'weights': None, 'input_adapter': None,
    }  # fmt: skip
    assert teacher_fingerprint(EMATeacher())['class'] == 'EMATeacher'
    assert teacher_fingerprint(EMATeacher('7ba'))['settings'] == {'half_life': '7ba'}
    assert teacher_fingerprint(EMATeacher())['weights'] is None
    student_itself = FrozenTeacher(mlp())
    student_itself.is_student = True  # trained in the run, as an adapter beside the base that teaches
    assert teacher_fingerprint(student_itself)['weights'] is None
    with torch.device('meta'):
        nowhere = nn.Linear(2, 3)
    assert weights_hash(nowhere) is None
    assert weights_hash(nn.LazyLinear(3)) is None
    eight_bit = mlp()
    eight_bit.is_loaded_in_8bit = True  # as transformers marks it: bitsandbytes rewrites its state in the first call
    assert weights_hash(eight_bit) is None


class Warm(Constant):
    def settings(self):
        return {'temperature': 2.0}


@pytest.mark.parametrize('make', [lambda: FrozenTeacher(mlp()), Warm])
def test_a_stored_teacher_is_the_one_that_was_stored(tmp_path, make):
    data = torch.utils.data.TensorDataset(*pairs(8))
    store = build_store(tmp_path / 'store', make(), IndexedClassifier(mlp(seed=1), num_classes=4), data)
    assert teacher_fingerprint(make()) == teacher_fingerprint(CachedTeacher(store.folder))


def test_order_and_number():
    one, other = (teacher_fingerprint(FrozenTeacher(mlp(seed=seed), name=str(seed))) for seed in (1, 2))
    assert list(differences([one, other], [other, one])) == [
        "the same teachers in another order: saved '1', '2', now '2', '1'"
    ]
    assert list(differences([one, other], [one])) == ["2 teachers saved ('1', '2'), now 1 ('1')"]
    assert not list(differences([one, other], [one, other]))


def test_the_class_of_a_net_of_ones_own_is_that_around_it():
    class Doubled(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    assert teacher_fingerprint(FrozenTeacher(Doubled(mlp())))['class'].endswith('Doubled')
    assert teacher_fingerprint(FrozenTeacher(student()))['class'] == 'Sequential'
