import torch
from torch import nn

from composer_kd import Distillation, FrozenTeacher, Match, student_state_dict
from composer_kd.losses import hint
from composer_kd.students import without_extras
from composer_kd.teachers import load_weights, read_weights
from tests.helpers import loader, mlp, mse, pairs, student, train


def distilled(folder):
    model = student()
    match = Match(hint, on=('0', '0'), project=nn.Linear(8, 8))
    train(model, loader(*pairs()), [Distillation(mlp(seed=3), [match])], save_folder=str(folder))
    return model


def test_the_exported_student_is_the_student_alone(tmp_path):
    model = distilled(tmp_path)
    assert any(key.startswith('composer_kd.') for key in model.state_dict())
    assert sorted(student_state_dict(model)) == sorted(student().state_dict())
    student().load_state_dict(student_state_dict(model), strict=True)


def test_a_distilled_student_teaches_in_its_turn(tmp_path):
    model = distilled(tmp_path)
    checkpoint = tmp_path / 'latest-rank0.pt'
    assert not any('composer_kd' in key for key in read_weights(checkpoint))
    bare = mlp(seed=9)
    load_weights(bare, checkpoint)
    x = torch.randn(5, 6)
    assert torch.equal(bare.eval()(x), model.module.eval()(x))
    train(student(seed=4), loader(*pairs()), [Distillation({str(checkpoint): mlp()}, mse)])
    assert isinstance(FrozenTeacher(mlp(), checkpoint=checkpoint), FrozenTeacher)


def test_whatever_wraps_it():
    weights = {'module.composer_kd.a.weight': 1, 'composer_kd.b': 2, 'module.head.weight': 3, 'composer_kdx': 4}
    assert without_extras(weights) == {'module.head.weight': 3, 'composer_kdx': 4}
