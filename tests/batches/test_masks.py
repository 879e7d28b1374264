import pytest
import torch
from torch import nn

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import layout_of
from composer_kd.batches.masks import aligned_labels, all_valid, tokens_of, valid_of

LOGITS = torch.randn(2, 3)
NEXT = BatchFormat(shift_labels=True)


def answers_per_position(batch, logits):
    return layout_of(logits, batch).per_position


def test_labels_say_what_counts_before_attention_does():
    batch = {'labels': torch.tensor([[1, -100, 2]]), 'attention_mask': torch.tensor([[1, 1, 0]])}
    assert valid_of(batch).mask.tolist() == [[True, False, True]]
    del batch['labels']
    valid = valid_of(batch)
    assert valid.mask.tolist() == [[True, True, False]]
    assert not valid.from_labels


def test_a_model_of_the_next_token_answers_for_the_next_label():
    # prompt, prompt, answer, end: position 1 predicts the answer, position 2 the end, position 3 nothing
    batch = {'labels': torch.tensor([[-100, -100, 7, 2]])}
    assert valid_of(batch, NEXT).mask.tolist() == [[False, True, True, False]]


def test_padding_before_a_token_answers_for_nothing():
    assert valid_of({'attention_mask': torch.tensor([[0, 0, 1, 1]])}, NEXT).mask.tolist() == [
        [False, False, True, False]
    ]


@pytest.mark.parametrize(
    ('batch', 'expected'),
    [
        ((LOGITS, torch.tensor([1, 0])), True),
        ((LOGITS, torch.tensor([1, -100])), False),
        ({'attention_mask': torch.tensor([[1, 1]])}, True),
        ({'attention_mask': torch.tensor([[1, 0]])}, False),
        ((LOGITS, torch.rand(2, 3)), False),
        (LOGITS, True),
        ((LOGITS, torch.tensor([1, 0], device='meta')), False),  # to look would make the host wait
    ],
)
def test_what_is_known_to_count_as_a_whole(batch, expected):
    assert all_valid(batch) is expected


def test_the_last_position_of_a_model_of_the_next_token_never_counts():
    assert not all_valid({'labels': torch.tensor([[5, 7]])}, NEXT)
    assert all_valid((LOGITS, torch.tensor([1, 0])), NEXT)


def test_dense_labels_count_their_probability():
    valid = valid_of((LOGITS, torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]])))
    assert (valid.mask, valid.count.item(), valid.size) == (None, 1.0, 2)


@pytest.mark.parametrize('dtype', [torch.int64, torch.int16, torch.uint8])
def test_a_class_is_not_taken_for_no_label_in_any_dtype(dtype):
    labels = torch.tensor([[7, 156], [100, 3]], dtype=dtype)
    assert valid_of((None, labels)).mask.all()
    assert valid_of((None, labels.flatten())).mask.all()
    assert aligned_labels((None, labels)).tolist() == [[7, 156], [100, 3]]


def test_labels_per_sample_in_a_column_mask_no_token():
    assert tokens_of((LOGITS, torch.tensor([[1], [-100]]))) is None


@pytest.mark.parametrize(
    ('logits', 'labels', 'dim', 'per_position'),
    [
        ((4, 3), (4,), 1, False),
        ((4, 3), (4, 1), 1, False),
        ((4, 1), (4, 1), 1, False),
        ((4, 5, 9), (4, 5), 2, True),
        ((4, 9, 5), (4, 5), 1, True),
        ((4, 1, 9), (4, 1), 2, True),
        ((20, 9), (4, 5), 1, True),
        ((4, 7, 5, 6), (4, 5, 6), 1, True),
        ((4, 5, 6, 7), (4, 5, 6), 3, True),
        ((4, 7, 5, 6), (4, 1, 5, 6), 1, True),
        ((4, 1, 5, 6), (4, 1, 5, 6), 1, True),
        ((4, 6, 6, 6), (4, 6, 6), 1, True),
        ((4, 7, 2, 5, 6), (4, 2, 5, 6), 1, True),
        ((4, 5, 6), (4, 1, 5, 6), None, True),
        ((4, 5, 6), (4, 5, 6), 2, False),
        ((4, 7, 5, 6), (4,), 1, False),
        ((4, 7, 5, 6), None, 1, False),
    ],
)
@pytest.mark.filterwarnings('ignore:The logits')
def test_shapes_of_labels_and_logits_tell_the_classes(logits, labels, dim, per_position):
    batch = None if labels is None else (None, torch.zeros(labels, dtype=torch.long))
    layout = layout_of(torch.zeros(logits), batch)
    assert (layout.dim, layout.per_position) == (dim, per_position)


def test_a_causal_model_as_decoder_does_not_shift():
    transformers = pytest.importorskip('transformers')
    sizes = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 1, 'intermediate_size': 8}
    config = transformers.BertConfig(vocab_size=9, **sizes)
    both = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(config, config)
    form = BatchFormat.of(nn.Sequential(transformers.EncoderDecoderModel(both)))
    assert (form.encoder_decoder, form.shift_labels) == (True, False)
    bart = transformers.BartConfig(9, 8, 1, 8, 1, 1, 8, 1, d_model=8)
    assert BatchFormat.of(transformers.BartModel(bart)).encoder_decoder
    assert not BatchFormat.of(transformers.BartModel(bart).encoder).encoder_decoder


def test_share_is_one_for_the_whole_batch():
    valid = valid_of((LOGITS, torch.tensor([3, -100])))
    assert valid.share(valid.count / valid.size).item() == 1.0


def test_labels_per_sample_do_not_mask_positions():
    assert not answers_per_position((LOGITS, torch.tensor([1, -100])), LOGITS)
    tokens = torch.zeros(2, 4, 9)
    assert answers_per_position({'labels': torch.zeros(2, 4, dtype=torch.long)}, tokens)
    assert answers_per_position({'labels': torch.zeros(2, 4, dtype=torch.long)}, tokens.flatten(0, 1))
    assert answers_per_position({'labels': torch.zeros(2, 7, 7, dtype=torch.long)}, torch.zeros(2, 5, 7, 7))
    assert not answers_per_position(LOGITS, LOGITS)
