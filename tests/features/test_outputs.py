from collections import namedtuple

import pytest
import torch

from composer_kd import TeacherError
from composer_kd.features.outputs import logits_of, scalar_loss

LOGITS = torch.randn(2, 3)


@pytest.mark.parametrize(
    'outputs',
    [
        LOGITS,
        {'loss': torch.tensor(1.0), 'logits': LOGITS},
        {'out': LOGITS, 'loss': torch.tensor(1.0)},
        (torch.tensor(1.0), LOGITS),
        [LOGITS, torch.zeros(2, 3)],
        namedtuple('Outputs', 'logits aux')(LOGITS, torch.zeros(2, 3)),
    ],
    ids=['tensor', 'logits', 'only', 'tuple', 'list', 'named'],
)
def test_finds_logits(outputs):
    assert logits_of(outputs, 'x') is LOGITS


@pytest.mark.parametrize('outputs', [{'a': LOGITS, 'b': LOGITS}, None, (torch.tensor(1.0),), 'text'])
def test_says_where_there_are_no_logits(outputs):
    with pytest.raises(TeacherError, match="No logits in the output of the teacher 'x'"):
        logits_of(outputs, "the teacher 'x'")


def test_scalar_loss_is_what_composer_backpropagates():
    one, two = torch.tensor(1.0), torch.tensor([1.0, 3.0])
    assert scalar_loss(one) is one
    assert scalar_loss(two).item() == 2.0
    assert scalar_loss([one, two]).item() == 3.0
    assert scalar_loss({'a': one, 'b': two}).item() == 3.0
    assert scalar_loss({'total': one, 'b': two}).item() == 1.0
