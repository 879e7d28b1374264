import pytest
import torch

from composer_kd import ConfigError, Match
from composer_kd.losses import RKD, FirstToken, cosine, mse, normalized_mse
from composer_kd.losses.first_token import first_token
from composer_kd.matches.loss_signature import attribute_of, parameters_of


def test_the_first_that_counts_is_taken():
    states = torch.arange(24.0).reshape(3, 4, 2)
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])  # padding on the left
    expected = torch.stack([states[0, 0], states[1, 1], states[2, 3]])
    assert torch.equal(first_token(states, mask), expected)
    assert torch.equal(first_token(states, mask.reshape(-1).bool()), expected)
    assert torch.equal(first_token(expected), expected)


def test_other_tokens_have_no_gradient():
    student = torch.randn(2, 3, 4, requires_grad=True)
    FirstToken(mse)(student, torch.randn(2, 3, 4)).backward()
    assert student.grad[:, 0].abs().min() > 0
    assert not student.grad[:, 1:].any()


def test_it_is_as_the_loss_that_it_wraps():
    loss = FirstToken(RKD(angle=0.0))
    student, teacher = torch.randn(3, 2, 4), torch.randn(3, 5, 6)
    assert torch.equal(loss(student, teacher), RKD(angle=0.0)(student[:, 0], teacher[:, 0]))
    assert attribute_of(loss, 'relates_samples', False)
    assert attribute_of(loss, 'summary', None) is first_token  # rather than that of the wrapped loss
    assert 'labels' in parameters_of(FirstToken(lambda student, teacher, labels: student.sum()))


@pytest.mark.parametrize('given', ['normalized_mse', RKD])
def test_bad_losses(given):
    with pytest.raises(ValueError, match='expected a callable'):
        FirstToken(given)


def test_features_without_tokens_are_refused():
    with pytest.raises(ValueError, match=r'expected hidden states \(B, S, D\), got one tensor \(2, 3, 4, 4\)'):
        FirstToken(cosine)(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))


def test_logits_have_no_first_token():
    with pytest.raises(ConfigError, match='FirstToken compares hidden states; name a layer'):
        Match(FirstToken(normalized_mse))
