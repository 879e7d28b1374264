"""How models are called."""

import copy

import pytest
import torch
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import FrozenTeacher
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.calling import WithBatch, WithInputs, WithKeywords, calling_of, choose_call
from tests.deploy import tiny
from tests.helpers import TokenModel, mlp, pairs


class OfBatches(nn.Module):
    def forward(self, batch, **options):
        return batch['left'] + len(options)


@pytest.mark.parametrize(
    ('model', 'batch', 'expected'),
    [
        (ComposerClassifier(mlp(), num_classes=4), pairs(), WithBatch()),
        (TokenModel(), tiny.tokens(2), WithBatch()),
        (OfBatches(), tiny.Measured().columns, WithBatch()),
        (mlp(), pairs(), WithInputs(0)),
        (mlp(), pairs()[0], WithInputs(None)),
        (nn.Linear(4, 2), {'pixels': torch.zeros(2, 4), 'labels': torch.zeros(2)}, WithInputs('pixels')),
        (tiny.Keywords(), tiny.Measured().columns, WithKeywords(frozenset({'x'}), any_name=True)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_way_follows_from_model_and_batch(model, batch, expected):
    assert calling_of(model, batch) == expected


@pytest.mark.parametrize('make', [tiny.bert, tiny.bert_module])
def test_a_transformer_takes_what_it_names(make):
    calling = calling_of(make(), {**tiny.tokens(2), 'labels': torch.zeros(2)})
    assert isinstance(calling, WithKeywords)
    assert calling.takes('attention_mask')
    assert not calling.takes('index')


def test_a_teacher_of_batches_may_take_keywords_too():
    batch = tiny.Measured().columns
    assert torch.equal(FrozenTeacher(OfBatches())(batch), batch['left'])


def test_a_copy_of_a_teacher_is_called_itself():
    teacher = FrozenTeacher(mlp())
    x, y = pairs()
    before = teacher((x, y))
    twin = copy.deepcopy(teacher)
    with torch.no_grad():
        for parameter in twin.model.parameters():
            parameter.zero_()
    assert torch.equal(twin((x, y)), torch.zeros_like(before))
    assert torch.equal(teacher((x, y)), before)


def test_who_finds_no_input_is_told_what_the_batch_has():
    batch = {'a': torch.zeros(2), 'b': torch.zeros(2)}
    with pytest.raises(ConfigError, match=r"^net takes input, of which the batch with the keys \['a', 'b'\] has none$"):
        calling_of(nn.Linear(2, 2), batch, 'net')
    with pytest.raises(TeacherError, match=r'has none\. Say how to call it: FrozenTeacher'):
        choose_call(nn.Linear(2, 2), batch)
