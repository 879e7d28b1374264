import torch

from composer_kd.batches.contents import labels_of, without_labels

LOGITS = torch.randn(2, 3)


def test_finds_labels():
    labels = torch.tensor([1])
    assert labels_of((LOGITS, labels)) is labels
    assert labels_of({'input_ids': LOGITS, 'labels': labels}) is labels
    assert labels_of({'x': LOGITS, 'targets': labels}) is labels
    assert labels_of(LOGITS) is None
    assert labels_of((LOGITS, labels, LOGITS)) is None
    assert labels_of({'input_ids': LOGITS}) is None


def test_without_labels_leaves_the_batch_alone():
    batch = {'input_ids': 1, 'labels': 2}
    assert without_labels(batch) == {'input_ids': 1}
    assert without_labels(batch, keep=True) == batch
    assert without_labels({**batch, 'decoder_input_ids': 3}, keep=True) == {'input_ids': 1, 'decoder_input_ids': 3}
    assert batch == {'input_ids': 1, 'labels': 2}
