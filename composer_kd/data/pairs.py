"""Pairs of texts: what is given, and what a language model answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from torch.utils.data import Dataset

from composer_kd.data.collating import PaddedColumns
from composer_kd.data.partly_labelled import UNLABELLED
from composer_kd.data.table import column_texts, read_table
from composer_kd.data.text import frame_of
from composer_kd.data.tokens import as_tokenizer, check_padding
from composer_kd.errors import ConfigError

__all__ = ['TextPairs', 'text_pairs']


class TextPairs(Dataset[dict[str, list[int]]]):
    """Tokenized pairs of texts: mappings with lists ``input_ids``, ``attention_mask`` and ``labels``.

    For ``'seq2seq'`` the inputs are the source and the labels the target, each with its special tokens. For
    ``'causal'`` the inputs are both, one after the other, and the labels are -100 at the source.

    Args:
        inputs: The tokens of each sample.
        labels: Its labels.
        tokenizer: The tokenizer.
        objective: ``'seq2seq'`` or ``'causal'``.
        settings: What made the samples, for comparisons of data sets.

    Attributes:
        tokenizer: The tokenizer.
        longest: The number of tokens of the longest sample, of either side.
        objective: ``'seq2seq'`` or ``'causal'``.
        collate_fn: Makes a batch of samples, padded to the longest of them: for ``'causal'`` on the right, where it
            moves no token, whatever the tokenizer says; sources for ``'seq2seq'`` on the side of the tokenizer.
    """

    def __init__(
        self, inputs: list[list[int]], labels: list[list[int]], tokenizer: Any, objective: str, settings: str = ''
    ) -> None:
        self._inputs, self._labels, self._settings = inputs, labels, settings
        self.tokenizer, self.objective = tokenizer, objective
        self.longest = max(map(len, [*inputs, *labels]))
        self.targets = [0] * len(inputs)  # no classes; so that samples are held out without loading them
        left = objective == 'seq2seq' and tokenizer.padding_side == 'left'
        self.collate_fn = PaddedColumns(
            input_ids=(tokenizer.pad_token_id, left),
            attention_mask=(0, left),
            labels=(UNLABELLED, False),
        )

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        inputs = self._inputs[index]
        return {'input_ids': inputs, 'attention_mask': [1] * len(inputs), 'labels': self._labels[index]}

    def extra_repr(self) -> str:
        """What made the samples."""
        return self._settings


def text_pairs(
    path: str | Path | Sequence[str | Path] | None = None,
    *,
    source: str,
    target: str,
    tokenizer: str | Path | Callable[..., Any],
    objective: Literal['seq2seq', 'causal'] = 'seq2seq',
    max_source_length: int = 128,
    max_target_length: int = 128,
    hub: str | None = None,
    split: str = 'train',
    root: str | Path | None = None,
    subset: int | None = None,
) -> TextPairs:
    r"""Loads pairs of texts from a table: for an encoder-decoder, or as instructions with answers for a causal model.

    For ``'seq2seq'`` both texts have the special tokens of the tokenizer. For ``'causal'`` they follow one another as
    they are, with the tokenizer's tokens for the beginning before and the end after them; only the target has labels.
    Write what is to stand between them into the source: ``'Question: {question}\nAnswer: '``.

    Args:
        path: A file of JSON lines, CSV, TSV or Parquet, or several of one kind; those that do not exist are looked for
            below the root.
        source: The column of what is given, or a text with names of columns in braces.
        target: The column of the answer, likewise.
        tokenizer: A folder or a name on the Hub, the same as the model's; in Python also a tokenizer.
        objective: ``'seq2seq'`` for an encoder-decoder; ``'causal'`` for a model of the next token.
        max_source_length: The largest number of tokens of a source; longer ones are cut at their end.
        max_target_length: The same of a target.
        hub: In the place of ``path``: a data set on the Hub, ``'owner/name'`` or ``'owner/name:configuration'``.
        split: The split of the data set on the Hub.
        root: The folder of the data sets; None for the environment variable ``COMPOSER_KD_DATA``, or ``./data``.
        subset: The number of samples to take, from the beginning; None for all.

    Returns:
        A data set of mappings with ``input_ids``, ``attention_mask`` and ``labels``.

    Raises:
        ConfigError: If files or columns are missing, the Hub cannot be reached, or a number is out of range.

    Example:
        >>> text_pairs('pairs.txt', source='question', target='answer', tokenizer='anything')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: path: expected a file of .jsonl, .json, .csv, .tsv, .parquet, got 'pairs.txt'
    """
    if objective not in _TOKENIZED:
        raise ConfigError(f'objective: expected one of {list(_TOKENIZED)}, got {objective!r}')
    rows = read_table(path, hub, split, root, subset)
    words = as_tokenizer(tokenizer)
    check_padding(words)
    given, answers = column_texts(rows, source, 'source'), column_texts(rows, target, 'target')
    for name, most in (('max_source_length', max_source_length), ('max_target_length', max_target_length)):
        if isinstance(most, bool) or not isinstance(most, int) or not 2 <= most <= words.model_max_length:
            raise ConfigError(f'{name}: expected from 2 to {words.model_max_length} tokens, got {most!r}')
    inputs, labels = _TOKENIZED[objective](words, given, answers, max_source_length, max_target_length)
    settings = (
        f'source={source!r}, target={target!r}, objective={objective}, '
        f'max_source_length={max_source_length}, max_target_length={max_target_length}'
    )
    return TextPairs(inputs, labels, words, objective, settings)


Lists = tuple[list[list[int]], list[list[int]]]


def _sides(words: Any, given: list[str], answers: list[str], most: int, most_target: int) -> Lists:
    """A source for the encoder, and a target for the decoder."""
    sources = words(given, return_attention_mask=False, verbose=False)['input_ids']
    targets = words(text_target=answers, return_attention_mask=False, verbose=False)['input_ids']
    _, after = frame_of(words)
    return (
        _cut(sources, most, after, 'max_source_length'),
        _cut(targets, most_target, after, 'max_target_length'),
    )


def _joined(words: Any, given: list[str], answers: list[str], most: int, most_target: int) -> Lists:
    """A prompt and its answer, one after the other."""
    plain = {'add_special_tokens': False, 'return_attention_mask': False, 'verbose': False}
    before, after = frame_of(words)
    end = after if words.eos_token_id is None else [words.eos_token_id]
    prompts = [before + ids for ids in words(given, **plain)['input_ids']]
    prompts = _cut(prompts, most, [], 'max_source_length')
    if not all(prompts):
        raise ConfigError('source: a row has no tokens, and a prompt must have one; write a text around the column')
    answers_ = _cut([ids + end for ids in words(answers, **plain)['input_ids']], most_target, end, 'max_target_length')
    inputs = [prompt + answer for prompt, answer in zip(prompts, answers_)]
    return inputs, [[UNLABELLED] * len(prompt) + answer for prompt, answer in zip(prompts, answers_)]


def _cut(rows: list[list[int]], most: int, end: list[int], option: str) -> list[list[int]]:
    """Cuts what is too long, before the tokens of the end; says once how many these are."""
    long = sum(len(row) > most for row in rows)
    if not long:
        return rows
    warnings.warn(
        f'text_pairs: {long} of {len(rows)} samples have more than {option}={most} tokens, and are cut there.',
        stacklevel=4,
    )
    kept = most - len(end)
    return [row if len(row) <= most else [*row[:kept], *(row[len(row) - len(end) :])] for row in rows]


_TOKENIZED: dict[str, Callable[[Any, list[str], list[str], int, int], Lists]] = {'seq2seq': _sides, 'causal': _joined}
