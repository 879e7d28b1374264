import pytest
import torch
from torch import nn

from composer_kd.batches.format import BatchFormat
from composer_kd.bench.predictions import accuracy, answer, same

CPU = torch.device('cpu')


def answers(logits, labels):
    batches = [(logits, labels)]
    return answer(lambda x: x, [(logits,)], batches, CPU), batches


@pytest.mark.parametrize('labels', [[[1.0, 1, 0], [0, 1, 1], [0, 0, 0]], [[1, 1, 0], [0, 1, 1], [1, 0, 0]]])
def test_several_labels_at_once_have_no_accuracy_and_no_agreement(labels):
    found, batches = answers(torch.randn(3, 3), torch.tensor(labels))
    assert accuracy(found, batches) is None
    assert same(found, found, batches) is None


def test_probabilities_as_labels_have_both():
    logits = torch.tensor([[2.0, 1, 0], [0, 1, 2]])
    found, batches = answers(logits, torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.3, 0.3]]))
    assert accuracy(found, batches) == 0.5
    assert same(found, found, batches) == 1.0


@pytest.mark.parametrize('one', [False, True])
@pytest.mark.parametrize('dim', [1, 3])
def test_pixels_without_a_label_do_not_count(dim, one):
    logits, labels = torch.randn(2, 4, 5, 3), torch.randint(3, (2, 4, 5))
    labels[:, 0] = -100
    expected = (logits.argmax(-1) == labels)[labels != -100].float().mean().item()
    marks = labels[:, None] if one else labels
    found, batches = answers(logits.movedim(-1, dim), marks)
    others, _ = answers(torch.where((labels == -100)[..., None], -logits, logits).movedim(-1, dim), marks)
    assert accuracy(found, batches) == pytest.approx(expected)
    assert same(found, others, batches) == 1.0


def test_labels_in_a_column_and_in_bytes_are_those_of_samples():
    logits = nn.functional.one_hot(torch.tensor([200, 156]), 201).float()
    found, batches = answers(logits, torch.tensor([[200], [156]], dtype=torch.uint8))
    assert accuracy(found, batches) == 1.0


def test_labels_of_whole_sequences_have_no_accuracy():
    """Of CTC, also where there are as many of them as frames."""
    found, batches = answers(torch.randn(2, 5, 4), torch.randint(4, (2, 5)))
    assert accuracy(found, batches, BatchFormat(ctc=True)) is None
    assert accuracy(found, batches) is not None


def test_one_output_for_each_token_has_no_accuracy():
    logits = torch.randn(2, 5)
    batch = {'x': logits, 'attention_mask': torch.ones(2, 5).long(), 'labels': torch.randint(2, (2, 5))}
    found = answer(lambda x: x, [(logits,)], [batch], CPU)
    assert found.classes == 1
    assert accuracy(found, [batch]) is None
    assert same(found, found, [batch]) is None
