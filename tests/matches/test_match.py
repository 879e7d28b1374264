import functools
import posixpath
import re

import pytest
import torch
from composer.optim import LinearScheduler
from torch import nn

from composer_kd import ConfigError, Distillation, KLDivergence, Match, Ramp, kl_divergence
from composer_kd.losses import hint, rkd
from tests.helpers import mlp, mse


def test_says_what_it_is():
    match = Match(hint, on=('layer2', 'layer3'), weight=100.0)
    assert repr(match) == "Match(hint, on=('layer2', 'layer3'), weight=100.0, name='hint_layer2')"
    assert Match(KLDivergence()).name == 'KLDivergence'
    assert Match(functools.partial(rkd, angle=1.0), on='a.b').name == 'rkd_a.b'


@pytest.mark.parametrize(
    ('loss', 'on', 'name', 'key'),
    [
        (hint, 'rnn[0]', 'hint_rnn.0', 'hint_rnn_0_'),
        (rkd, 'outputs.hidden_states[-1]', 'rkd_outputs.hidden_states.-1', 'rkd_outputs_hidden_states__1_'),
        (mse, "fpn['a b'][0]", 'mse_fpn.a b.0', 'mse_fpn__a_b___0_'),
        (mse, ('layer4:input', 'x[1]'), 'mse_layer4:input', 'mse_layer4_input'),
        (lambda student, teacher: student.sum(), 'a', 'lambda_a', '_lambda__a'),
    ],
)
def test_default_names_are_such_that_every_logger_takes_them(loss, on, name, key):
    """The names of their modules stay as checkpoints have them."""
    match = Match(loss, on=on)
    assert (match.name, match.key) == (name, key)
    full = f'loss/train/{match.name}'
    assert re.fullmatch(r'[/\w.\- :]*', full)  # as mlflow.utils.validation has it
    assert posixpath.normpath(full) == full


def test_names_that_differ_in_brackets_alone():
    with pytest.raises(ConfigError, match=r"Two matches are called 'mse_rnn\.0'"):
        Distillation(mlp(), [Match(mse, on='rnn[0]'), Match(mse, on='rnn.0')])


def test_one_layer_a_pair_and_several():
    assert Match(hint, on='a').student_layers == Match(hint, on='a').teacher_layers == ['a']
    assert Match(hint, on=['a', 'b']).teacher_layers == ['b']  # YAML has no tuples
    several = Match(hint, on=(['a', 'b'], ['c', 'd']))
    assert (several.student_layers, several.teacher_layers, several.several) == (['a', 'b'], ['c', 'd'], True)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'loss': 'KLDivergence'}, 'kd_loss_fn must be a callable'),
        ({'loss': KLDivergence}, r'a class: make one, KLDivergence\(\)'),
        ({'on': ('a', 'b', 'c')}, 'on must be .logits., a layer, or a pair'),
        ({'on': ('logits', 'a')}, 'logits are compared with logits'),
        ({'on': 'a b'}, 'A layer is named by its path'),
        ({'weight': -1.0}, 'weight must be a finite number of at least 0'),
        ({'weight': '1'}, 'weight must be a finite number'),
        ({'project': 'auto'}, 'a projector joins two features'),
        ({'project': 'linear', 'on': 'a'}, "project must be None, 'auto', 'orthogonal' or a torch.nn.Module"),
        ({'project': 'auto', 'on': (['a'], ['b'])}, 'or several layers; leave it out'),
        ({'name': 'total'}, "name must be a string other than 'total', 'task', 'kd'"),
        ({'name': 'kd[T=4]'}, r"not every logger takes 'kd\[T=4\]'.*as in 'kd\.T4'"),
        ({'name': 'a//b'}, "as in 'a/b'"),
        ({'temperature': 2.0}, 'the loss mse has no temperature'),
        ({'loss': kl_divergence, 'temperature': 0.0}, 'temperature must be a finite number above 0'),
        ({'lr': 0.0}, 'lr must be a finite number above 0'),
        ({'lr': float('nan')}, 'lr must be a finite number above 0'),
    ],
)
def test_refuses_settings_that_make_no_sense(options, message):
    with pytest.raises(ConfigError, match=message):
        Match(**{'loss': mse, **options})


def test_takes_schedules():
    for weight in (LinearScheduler(1.0, 0.0), Ramp(0.0, 1.0, '20ep'), lambda state: 2.0):
        assert Match(mse, weight=weight).weight is weight


@pytest.mark.parametrize(
    ('given', 'message'),
    [
        ([], 'got an empty list'),
        ([mse, mse], "Two matches are called 'mse'"),
        ([Match(mse, name='a'), Match(hint, on='0', name='a')], "Two matches are called 'a'"),
        (Match(mse, teacher='bigg'), "no teacher of that name, 'bigg'"),
        (None, 'must be a callable'),
        ('KLDivergence', 'must be a callable'),
    ],
)
def test_refuses_lists_that_make_no_sense(given, message):
    with pytest.raises(ConfigError, match=message):
        Distillation(mlp(), given)


def test_two_matches_must_not_share_what_they_learn():
    shared = nn.Linear(8, 8)
    with pytest.raises(ConfigError, match="The matches 'a' and 'b' share a module that learns"):
        Distillation(mlp(), [Match(hint, on=on, project=shared, name=name) for on, name in (('0', 'a'), ('2', 'b'))])


def test_a_name_that_two_teachers_have_binds_to_neither():
    with pytest.raises(ConfigError, match='2 teachers of that name'):
        Distillation([mlp(), mlp()], Match(mse, teacher='Sequential'))


def test_torch_modules_are_losses_too():
    assert Match(torch.nn.MSELoss()).name == 'MSELoss'
