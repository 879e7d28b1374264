"""Tokenized texts, kept in memory as flat arrays."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from composer_kd.data.collating import PaddedBatches
from composer_kd.errors import ConfigError
from composer_kd.pretrained import load_tokenizer

__all__ = ['Tokenized', 'as_tokenizer', 'check_padding', 'tokenize']

_AT_ONCE = 4096  # texts tokenized in one call
_WITH_TOKENS = ('token_type_ids', 'special_tokens_mask')


class Tokenized(Dataset[dict[str, Any]]):
    """Tokenized samples: mappings with lists ``input_ids`` and ``attention_mask``, and ``labels``.

    Args:
        columns: Sequences of numbers for each sample, all of the length of its ``input_ids``.
        labels: The label of each sample: a class, a number or a list of floats; None for none.
        tokenizer: The tokenizer, which pads batches.
        settings: What made the samples, for messages and for comparisons of data sets.
        classes: The names of the classes in the order of their numbers; None if labels are no classes.
        texts: The names of the texts of a sample, such as ``('premise', 'hypothesis')``; None if they have none.
        max_length: The number of tokens that longer samples are cut to; None if they are not cut.

    Attributes:
        targets: The labels.
        num_classes: The number of classes, if labels are classes.
        classes: Their names.
        texts: The names of the texts of a sample, if they have any.
        max_length: The number of tokens that longer samples are cut to.
        tokenizer: The tokenizer.
        longest: The number of tokens of the longest sample.
        collate_fn: Makes a batch of samples, padded to the longest of them.
    """

    def __init__(
        self,
        columns: Mapping[str, Sequence[Sequence[int]]],
        labels: Sequence[Any] | None,
        tokenizer: Any,
        settings: str = '',
        classes: Sequence[str] | None = None,
        texts: Sequence[str] | None = None,
        max_length: int | None = None,
    ) -> None:
        lengths = [len(one) for one in columns['input_ids']]
        self._ends = np.cumsum([0, *lengths])
        self._columns = {
            name: np.fromiter(itertools.chain.from_iterable(column), np.int32, int(self._ends[-1]))
            for name, column in columns.items()
        }
        self.longest = max(lengths, default=0)
        self.tokenizer = tokenizer
        self.collate_fn = PaddedBatches(tokenizer)
        self._settings = settings
        self.texts = None if texts is None else tuple(texts)
        self.max_length = max_length
        if labels is not None:
            self.targets = list(labels)
        if classes is not None:
            self.classes = list(classes)
            self.num_classes = len(classes)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = range(len(self))[index]
        start, end = self._ends[position], self._ends[position + 1]
        item: dict[str, Any] = {name: column[start:end].tolist() for name, column in self._columns.items()}
        item['attention_mask'] = [1] * int(end - start)
        if hasattr(self, 'targets'):
            item['labels'] = self.targets[position]
        return item

    def extra_repr(self) -> str:
        """What made the samples."""
        return self._settings


def as_tokenizer(given: Any) -> Any:
    """A tokenizer from what an option ``tokenizer`` may be.

    Args:
        given: A folder, a name on the Hub, or a tokenizer of transformers.

    Raises:
        ConfigError: If it is none of these, or cannot be loaded.
    """
    if isinstance(given, (str, PathLike)):
        return load_tokenizer(str(given))
    if not callable(given) or not hasattr(given, 'get_vocab'):
        raise ConfigError(
            'tokenizer: expected a folder, a name on the Hugging Face Hub, or a tokenizer of transformers, got '
            f'{given!r}'
        )
    return given


def check_padding(tokenizer: Any, option: str = 'tokenizer') -> None:
    """Checks that a tokenizer can pad.

    Args:
        tokenizer: A tokenizer of transformers.
        option: The option that says it, for messages.

    Raises:
        ConfigError: If it has no token for padding.
    """
    if tokenizer.pad_token_id is None:
        raise ConfigError(
            f'{option}: {type(tokenizer).__name__} has no token for padding; save one with it: '
            "tokenizer.pad_token = ...; tokenizer.save_pretrained('FOLDER')"
        )


def tokenize(tokenizer: Any, texts: Sequence[Sequence[str]], max_length: int, what: str) -> dict[str, list[list[int]]]:
    """Tokenizes texts, or pairs of them, and cuts those that are too long; says once how many these are.

    Args:
        tokenizer: A tokenizer of transformers.
        texts: For each sample, one text or two.
        max_length: The largest number of tokens, with special ones.
        what: The data set, for messages.

    Returns:
        ``input_ids``, and ``token_type_ids`` if the tokenizer has them.

    Raises:
        ConfigError: If ``max_length`` is no length that the tokenizer is made for, or it cannot pad.
    """
    least = tokenizer.num_special_tokens_to_add(pair=len(texts[0]) == 2 if texts else False) + 1
    if not least <= max_length <= tokenizer.model_max_length:
        raise ConfigError(
            f'max_length: expected from {least} to {tokenizer.model_max_length} tokens, which the tokenizer '
            f'{type(tokenizer).__name__} is made for, got {max_length}'
        )
    check_padding(tokenizer)
    found: dict[str, list[list[int]]] = {}
    cut = 0
    for start in range(0, len(texts), _AT_ONCE):
        some = texts[start : start + _AT_ONCE]
        coded = _called(tokenizer, some, truncation=True, max_length=max_length)
        for name in ('input_ids', *(name for name in _WITH_TOKENS[:1] if name in coded)):
            found.setdefault(name, []).extend(coded[name])
        full = [text for text, ids in zip(some, coded['input_ids']) if len(ids) == max_length]
        cut += sum(len(ids) > max_length for ids in _called(tokenizer, full)['input_ids']) if full else 0
    if cut:
        warnings.warn(
            f'{what}: {cut} of {len(texts)} samples have more than max_length={max_length} tokens, and are cut there.',
            stacklevel=3,
        )
    return found or {'input_ids': []}


def _called(tokenizer: Any, texts: Sequence[Sequence[str]], **settings: Any) -> Any:
    columns = [list(column) for column in zip(*texts)]
    return tokenizer(*columns, return_attention_mask=False, verbose=False, **settings)
