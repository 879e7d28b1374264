"""Texts packed into blocks of one length: for language models, masked or not, and for encoders without labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from composer_kd.data.counter_random import sample_seeds
from composer_kd.data.documentation import documentation
from composer_kd.data.location import data_root, existing_file
from composer_kd.data.masking import mask_tokens
from composer_kd.data.partly_labelled import UNLABELLED, check_count
from composer_kd.data.tokens import as_tokenizer
from composer_kd.errors import ConfigError
from composer_kd.pretrained import folder_of, vocabulary_size

__all__ = ['TextBlocks', 'find_text', 'frame_of', 'name_of', 'pieces_of', 'text']

OBJECTIVES = ('causal', 'masked', 'unlabelled')
_PIECE = 20_000  # characters tokenized as one text, to the end of a line
_AT_ONCE = 64  # of these in one call, on several cores


class TextBlocks(Dataset[dict[str, Any]]):
    """Blocks of tokens of one length, without padding.

    A sample is a mapping of int64 tensors ``(length,)``: ``input_ids``, ``attention_mask`` and ``labels``. For
    ``'causal'`` the labels are the inputs, and the model shifts them. For ``'masked'`` they are -100 but where a token
    is to be predicted; which these are is a function of the seed and the sample's number. :class:`.SeededViews` around
    it draws them anew in each epoch, the same in every run. For ``'unlabelled'`` the label is -100, one for the sample:
    what a classifier takes for a text that its teacher alone speaks of.

    Args:
        blocks: ``(N, length)`` The tokens, with special ones.
        special: ``(length,)`` Which positions hold special tokens, which are never masked.
        tokenizer: The tokenizer.
        objective: ``'causal'``, ``'masked'`` or ``'unlabelled'``.
        mask_probability: The probability that a token is to be predicted.
        seed: Seed of the masks.
        settings: What made the samples, for comparisons of data sets.

    Attributes:
        tokenizer: The tokenizer.
        longest: The number of tokens of a block.
        objective: ``'causal'``, ``'masked'`` or ``'unlabelled'``.
        has_views: Whether epochs may have other views of a sample: other masks.
    """

    def __init__(
        self,
        blocks: NDArray[np.int32],
        special: NDArray[np.bool_],
        tokenizer: Any,
        objective: str,
        mask_probability: float,
        seed: int = 0,
        settings: str = '',
    ) -> None:
        self._blocks, self._maskable = blocks, ~special
        self._settings, self._probability, self._seed = settings, mask_probability, seed
        self.tokenizer, self.objective, self.longest = tokenizer, objective, blocks.shape[1]
        self.has_views = objective == 'masked'
        self.targets = [0] * len(blocks)  # none; so that samples are held out without loading them
        self._mask_token, self._vocabulary = tokenizer.mask_token_id, vocabulary_size(tokenizer)

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Loads the samples of a batch, those with masks in the first view; used by ``DataLoader``.

        Args:
            indices: Indices of the samples.

        Returns:
            The samples.
        """
        numbers = [int(index) for index in indices]
        return self.get_seeded(numbers, sample_seeds(self._seed, 0, numbers))

    def get_seeded(self, indices: Sequence[int], seeds: NDArray[np.uint64]) -> list[dict[str, Any]]:
        """Loads samples whose masks are a function of a seed for each sample; see :func:`.seeded_items`.

        Args:
            indices: Indices of the samples.
            seeds: uint64, one for each index.

        Returns:
            For each index, its sample.
        """
        ids = self._blocks[list(indices)].astype(np.int64)
        inputs, labels = ids, ids.copy()
        if self.objective == 'masked':
            inputs, labels = mask_tokens(
                ids, self._maskable, seeds, self._probability, self._mask_token, self._vocabulary
            )
        elif self.objective == 'unlabelled':
            labels = np.full(len(ids), UNLABELLED, np.int64)
        attention = torch.ones(self.longest, dtype=torch.long)
        return [
            {'input_ids': one, 'attention_mask': attention, 'labels': own}
            for one, own in zip(torch.from_numpy(inputs), torch.from_numpy(labels))
        ]

    def extra_repr(self) -> str:
        """What made the samples."""
        return self._settings


def text(
    path: str | Path | Sequence[str | Path],
    *,
    tokenizer: str | Path | Callable[..., Any],
    length: int = 128,
    objective: Literal['causal', 'masked', 'unlabelled'] = 'causal',
    mask_probability: float = 0.15,
    seed: int = 0,
    root: str | Path | None = None,
    subset: int | None = None,
) -> TextBlocks:
    """Loads texts for a language model, or for an encoder that learns from its teacher's layers.

    The files are tokenized one after the other, with the tokenizer's token for the end of a text between them, and cut
    into blocks, which follow one another without overlap. Each begins and ends with the special tokens of the
    tokenizer, if it has any. What is left at the end, shorter than a block, is not used.

    Args:
        path: A file, or several; those that do not exist are looked for below the root. ``package:NAME/FILE`` is a file
            in an installed package, and ``package:NAME`` or ``package:NAME/FOLDER`` the text of the docstrings there:
            real prose on every machine, whose amount depends on the installed version.
        tokenizer: A folder or a name on the Hub, the same as the model's; in Python also a tokenizer.
        length: The number of tokens of a block, with special ones.
        objective: ``'causal'``: the next token is predicted. ``'masked'``: masked tokens are. ``'unlabelled'``: none
            is; for classifiers and encoders, with ``org_loss_weight: 0``.
        mask_probability: The probability that a token is to be predicted, of ``'masked'``.
        seed: Seed of the masks where there are no views.
        root: The folder of the data sets; None for the environment variable ``COMPOSER_KD_DATA``, or ``./data``.
        subset: The number of blocks to take, from the beginning; None for all.

    Returns:
        A data set of blocks.

    Raises:
        ConfigError: If a file is missing or no UTF-8, its text makes no block, the tokenizer has no mask token that it
            would need, or a number is out of range.

    Example:
        >>> text('nowhere.txt', tokenizer='anything', root='data', length=1.5)
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: length: expected a number of tokens, got 1.5
    """
    if isinstance(length, bool) or not isinstance(length, int):
        raise ConfigError(f'length: expected a number of tokens, got {length!r}')
    if objective not in OBJECTIVES:
        raise ConfigError(f'objective: expected one of {list(OBJECTIVES)}, got {objective!r}')
    if not 0 < mask_probability < 1:
        raise ConfigError(f'mask_probability: expected a number between 0 and 1, got {mask_probability!r}')
    files = [find_text(one, root) for one in ([path] if isinstance(path, (str, Path)) else path)]
    words = as_tokenizer(tokenizer)
    if objective == 'masked' and words.mask_token_id is None:
        raise ConfigError(f"objective: {type(words).__name__} has no mask token; expected 'causal'")
    before, after = frame_of(words)
    body = length - len(before) - len(after)
    if body < 1 or length > words.model_max_length:
        least = 1 + len(before) + len(after)
        raise ConfigError(f'length: expected from {least} to {words.model_max_length} tokens, got {length}')
    tokens = _tokens(words, files)
    count = len(tokens) // body
    if count == 0:
        raise ConfigError(f'length: {", ".join(map(str, files))} has {len(tokens)} tokens, fewer than {body}')
    if subset is not None:
        check_count('subset', subset, 1, count)
        count = subset
    blocks = np.empty((count, length), np.int32)
    blocks[:, : len(before)], blocks[:, length - len(after) :] = before, after
    blocks[:, len(before) : length - len(after)] = tokens[: count * body].reshape(count, body)
    special = np.ones(length, bool)
    special[len(before) : length - len(after)] = False
    masks = f', mask_probability={mask_probability}, seed={seed}' if objective == 'masked' else ''
    settings = f'files={[name_of(file) for file in files]}, length={length}, objective={objective}{masks}'
    return TextBlocks(blocks, special, words, objective, mask_probability, seed, settings)


def find_text(written: str | Path, root: str | Path | None) -> Path | str:
    """Finds the file that is meant; of a folder in a package, whose documentation is read, the place as written."""
    if str(written).startswith('package:'):
        place = folder_of(str(written))
        return str(written) if place.is_dir() else existing_file([place])
    file = Path(written)
    return existing_file([file.expanduser(), data_root(root) / file])


def name_of(source: Path | str) -> str:
    """The name of what :func:`find_text` found, for settings."""
    return source if isinstance(source, str) else source.name


def frame_of(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before and after a text.

    Args:
        tokenizer: A tokenizer of transformers.

    Raises:
        ConfigError: If it reads a text in another way with special tokens.
    """
    plain = tokenizer('a', add_special_tokens=False)['input_ids']
    whole = tokenizer('a')['input_ids']
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start], whole[start + len(plain) :]
    raise ConfigError(f'tokenizer: {type(tokenizer).__name__} reads a text in another way with special tokens')


def _tokens(tokenizer: Any, sources: Sequence[Path | str]) -> NDArray[np.int32]:
    parts: list[list[int]] = []
    for number, source in enumerate(sources):
        if number and tokenizer.eos_token_id is not None:
            parts.append([tokenizer.eos_token_id])
        pieces = pieces_of(source)
        while some := list(itertools.islice(pieces, _AT_ONCE)):
            parts += tokenizer(some, add_special_tokens=False, return_attention_mask=False, verbose=False)['input_ids']
    return np.concatenate([np.asarray(part, np.int32) for part in parts or [[]]])


def _lines(file: Path) -> Iterator[str]:
    try:
        with file.open(encoding='utf-8') as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise ConfigError(f'path: {file} is no text in UTF-8: {error}') from error


def _documentation(place: str) -> Iterator[str]:
    return (f'{text}\n\n' for _, text in documentation(place))


def pieces_of(source: Path | str) -> Iterator[str]:
    """Reads a file, or the documentation of a package, in pieces of whole lines.

    Args:
        source: What :func:`find_text` found.
    """
    lines = _documentation(source) if isinstance(source, str) else _lines(source)
    held: list[str] = []
    size = 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= _PIECE:
            yield ''.join(held)
            held, size = [], 0
    yield ''.join(held)
