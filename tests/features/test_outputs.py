import warnings
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

from composer_kd import TeacherError
from composer_kd.features.layer_path import LayerPath
from composer_kd.features.outputs import BY_FORWARD, logits_of, output_of, scalar_loss

LOGITS = torch.randn(2, 3)


@pytest.mark.parametrize(
    'outputs',
    [
        LOGITS,
        {'loss': torch.tensor(1.0), 'logits': LOGITS},
        {'out': LOGITS, 'loss': torch.tensor(1.0)},
        (torch.tensor(1.0), LOGITS),
        namedtuple('Outputs', 'logits aux')(LOGITS, torch.zeros(2, 3)),
    ],
    ids=['tensor', 'logits', 'only', 'tuple', 'named'],
)
def test_finds_logits(outputs):
    assert logits_of(outputs, 'x') is LOGITS


STATES = torch.randn(2, 5, 8)


def test_what_is_called_logits_may_have_one_dimension_beside_hidden_states():
    one = torch.randn(2)
    assert logits_of({'logits': one, 'pooler_output': STATES[:, 0]}, 'the student') is one


@pytest.mark.parametrize(
    'outputs',
    [
        {'last_hidden_state': STATES},
        {'last_hidden_state': STATES, 'pooler_output': STATES[:, 0]},
        {'encoder_last_hidden_state': STATES, 'loss': torch.tensor(1.0)},
    ],
)
def test_hidden_states_alone_are_no_logits(outputs):
    place = f'outputs.{next(iter(outputs))}'
    with pytest.raises(TeacherError, match=rf"{place} \(B, ..., 8\).*holds hidden states.*on='{place}'"):
        logits_of(outputs, 'the student')
    if len(outputs) == 1:
        assert output_of(outputs, 'the model') is STATES


def test_of_several_the_first_is_taken_and_said():
    said = r'the student has several tensors, outputs\[0\] \(B, 3\), outputs\[2\] \(B, \.\.\., 5\): the first is taken'
    with pytest.warns(UserWarning, match=said + r".*on='outputs\[2\]'"):
        assert logits_of([LOGITS, torch.zeros(2), torch.zeros(2, 4, 5)], 'the student') is LOGITS


def test_once_for_batches_of_all_sizes():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('default')
        for size in (4, 4, 3):
            logits_of((torch.zeros(size, size, 5), torch.zeros(size, 2)), 'the student')
    assert len(said) == 1


@dataclass
class Heads:
    left: torch.Tensor
    right: torch.Tensor


@pytest.mark.parametrize(
    'outputs', [{'left': LOGITS, 'right': LOGITS}, OrderedDict(left=LOGITS, right=LOGITS), Heads(LOGITS, LOGITS)]
)
def test_of_named_outputs_none_is_taken(outputs):
    with pytest.raises(
        TeacherError, match=r"output of the student.*which is meant of outputs.left \(B, 3\).*on='outputs.left'"
    ):
        logits_of(outputs, 'the student')
    with pytest.raises(TeacherError, match=r"output of the teacher 'x'.*forward=.*on=\(..., 'outputs.left'\)"):
        logits_of(outputs, "the teacher 'x'", BY_FORWARD)


@pytest.mark.parametrize(
    'outputs', [{'a': LOGITS, 'b': LOGITS}, {'a': torch.zeros(2)}, None, (torch.tensor(1.0),), 'text']
)
def test_says_where_there_are_no_logits(outputs):
    with pytest.raises(TeacherError, match="No logits in the output of the teacher 'x'"):
        logits_of(outputs, "the teacher 'x'")


@pytest.mark.parametrize(
    ('outputs', 'place'),
    [
        ({'head': {'logits': LOGITS}}, 'outputs.head.logits'),
        ({'heads': [LOGITS, LOGITS]}, 'outputs.heads[0]'),
        ([{'logits': LOGITS}, torch.zeros(())], "outputs[0]['logits']"),
        ({'2-way': {'a': Heads(LOGITS, LOGITS)}}, "outputs['2-way']['a']['left']"),
    ],
)
def test_names_what_lies_deeper_as_a_match_takes_it(outputs, place):
    with pytest.raises(TeacherError) as caught:
        logits_of(outputs, 'the student')
    assert f'which is meant of {place} (B, 3)' in str(caught.value)
    assert f'on={place!r}' in str(caught.value) or f"on='{place}'" in str(caught.value)
    assert LayerPath.parse(place).select(outputs, 'the student') is LOGITS


@pytest.mark.parametrize('outputs', [{'boxes': torch.zeros(2)}, [], None, 'text', ['text']])
def test_names_nothing_that_is_not_there(outputs):
    with pytest.raises(TeacherError, match=r'no tensor of two dimensions or more in it\. Compare layers: Match'):
        logits_of(outputs, 'the student')


def test_scalar_loss_is_what_composer_backpropagates():
    one, two = torch.tensor(1.0), torch.tensor([1.0, 3.0])
    assert scalar_loss(one) is one
    assert scalar_loss(two).item() == 2.0
    assert scalar_loss([one, two]).item() == 3.0
    assert scalar_loss(0).item() == 0.0
    assert scalar_loss({'a': one, 'b': two}).item() == 3.0
    assert scalar_loss({'total': one, 'b': two}).item() == 1.0
