"""Prompts in batches of texts, on any side of the padding, and the batch of other continuations."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from composer_kd import ConfigError
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.prompts import extended, prompts_of

FORM = BatchFormat(shift_labels=True)


def batch_of(texts, side):
    """Texts as pairs of a prompt and an answer, padded on a side."""
    most = max(len(prompt) + len(answer) for prompt, answer in texts)
    rows = {'input_ids': [], 'attention_mask': [], 'labels': []}
    for prompt, answer in texts:
        fill = most - len(prompt) - len(answer)
        for name, row, pad in (
            ('input_ids', [*prompt, *answer], 0),
            ('attention_mask', [1] * (len(prompt) + len(answer)), 0),
            ('labels', [-100] * len(prompt) + list(answer), -100),
        ):
            rows[name].append([pad] * fill + row if side == 'left' else row + [pad] * fill)
    return {name: torch.tensor(row) for name, row in rows.items()}


words = st.lists(st.integers(2, 30), min_size=1, max_size=5)
texts = st.lists(st.tuples(words, st.lists(st.integers(2, 30), max_size=4)), min_size=1, max_size=4)


@given(texts, st.sampled_from(['left', 'right']))
def test_prompts_are_the_same_on_any_side_of_the_padding(texts, side):
    prompts, mask = prompts_of(batch_of(texts, side), FORM, None)
    assert [row[keep].tolist() for row, keep in zip(prompts, mask)] == [prompt for prompt, _ in texts]
    assert mask[:, -1].all()


@given(texts, st.lists(words, min_size=4, max_size=4))
def test_continuations_follow_their_prompts_and_alone_have_labels(texts, answers):
    batch = batch_of(texts, 'left')
    prompts, mask = prompts_of(batch, FORM, None)
    answers = answers[: len(texts)]
    made = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in answers], batch_first=True, padding_value=-1)
    found = extended({**batch, 'index': 7}, prompts, mask, made.clamp_min(0), made >= 0, pad=9)
    expected = batch_of([(prompt, answer) for (prompt, _), answer in zip(texts, answers)], 'right')
    expected['input_ids'][expected['attention_mask'] == 0] = 9
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert found['index'] == 7


def test_a_number_of_tokens_is_a_prompt_whatever_the_labels_say():
    batch = batch_of([([], [2, 3, 4]), ([5], [6])], 'left')
    prompts, mask = prompts_of(batch, FORM, 2)
    assert [row[keep].tolist() for row, keep in zip(prompts, mask)] == [[2, 3], [5, 6]]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'labels': torch.tensor([[4, 5, 6]])}, 'prompt_length'),
        ({'labels': torch.tensor([1])}, 'where its prompts end'),
        ({'position_ids': torch.tensor([[0, 1, 0]])}, "'position_ids' of each token"),
        ({'input_ids': torch.zeros(1, 3, 2)}, 'input_ids'),
    ],
)
def test_batches_without_a_prompt_are_refused(change, message):
    batch = {'input_ids': torch.tensor([[4, 5, 6]]), 'labels': torch.tensor([[-100, 5, 6]]), **change}
    with pytest.raises(ConfigError, match=message):
        prompts_of(batch, FORM, None)
