"""Texts in the tokens of two tokenizers, and the positions at which both have read the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from composer_kd.data.collating import PaddedColumns
from composer_kd.data.partly_labelled import UNLABELLED, check_count
from composer_kd.data.text import find_text, name_of, pieces_of
from composer_kd.data.tokens import as_tokenizer, check_padding
from composer_kd.errors import ConfigError

__all__ = ['AlignedTexts', 'aligned_text', 'same_prefixes']

Span = tuple[int, int]
OWN_INPUTS, OWN_ATTENTION, PARTNERS = 'teacher_input_ids', 'teacher_attention_mask', 'teacher_positions'
_ENORMOUS = 10**9
_AT_ONCE = 4096  # texts tokenized in one call


def same_prefixes(student: Sequence[Span], teacher: Sequence[Span]) -> list[int]:
    """Finds for each of the student's tokens the teacher's token that ends at the same character.

    At these two tokens both models have read the same text, and both predict what follows. Of several tokens that end
    at one character (the bytes of one), the last is meant; special tokens, which span no text, have no partner.

    Args:
        student: For each token the numbers of its first character and of the one after its last.
        teacher: The same of the teacher's tokens.

    Returns:
        For each of the student's tokens the position of the teacher's; -1 where it has none.

    Example:
        >>> student = [(0, 0), (0, 3), (3, 8)]  # <s>, 'the', ' cats'
        >>> teacher = [(0, 3), (4, 7), (7, 8)]  # 'the', 'cat', 's'
        >>> same_prefixes(student, teacher)
        [-1, 0, 2]
    """
    ends = {end: position for position, (start, end) in enumerate(teacher) if end > start}
    last = {end: position for position, (start, end) in enumerate(student) if end > start}
    return [
        ends.get(end, -1) if end > start and last[end] == position else -1
        for position, (start, end) in enumerate(student)
    ]


class _Located:
    """A tokenizer that says where its tokens lie in the text."""

    def __init__(self, tokenizer: Any, max_length: int | None, option: str) -> None:
        self.tokenizer = as_tokenizer(tokenizer)
        name = type(self.tokenizer).__name__
        if not getattr(self.tokenizer, 'is_fast', False):
            raise ConfigError(
                f'{option}: {name} does not say where its tokens lie in the text; take the fast one: '
                'AutoTokenizer.from_pretrained(..., use_fast=True)'
            )
        check_padding(self.tokenizer, option)
        self.max_length = _limit(self.tokenizer, max_length, option)

    def __call__(self, texts: list[str]) -> Iterator[tuple[list[int], list[Span]]]:
        """Tokenizes texts: of each its tokens, and for each of these its first character and the one after its last."""
        cut = self.max_length is not None
        found = self.tokenizer(
            texts, return_offsets_mapping=True, truncation=cut, max_length=self.max_length, verbose=False
        )
        return zip(found['input_ids'], found['offset_mapping'])


class AlignedTexts(Dataset[dict[str, list[int]]]):
    """Texts for a causal language model whose teacher has another tokenizer.

    Each sample has the text in both tokenizations, and says at which positions both have read the same
    (:func:`same_prefixes`). The teacher reads its own with :func:`composer_kd.teachers.read_own_tokens`.

    Args:
        texts: The texts, none of them empty.
        tokenizer: The student's tokenizer: a folder, a name on the Hub, or a fast one of transformers.
        teacher_tokenizer: The teacher's.
        max_length: The largest number of tokens of the student, with special ones; longer texts are cut.
        teacher_max_length: The same of the teacher; None for its own limit.
        settings: What made the samples, for comparisons of data sets.

    Attributes:
        tokenizer: The student's tokenizer.
        teacher_tokenizer: The teacher's.
        longest: The largest number of tokens.
        collate_fn: Makes a batch, padded to the longest of it.

    Raises:
        ConfigError: If a tokenizer cannot say where tokens lie, or has no token for padding.
    """

    def __init__(
        self,
        texts: Sequence[str],
        tokenizer: Any,
        teacher_tokenizer: Any,
        max_length: int = 128,
        teacher_max_length: int | None = None,
        settings: str = '',
    ) -> None:
        student = _Located(tokenizer, max_length, 'tokenizer')
        teacher = _Located(teacher_tokenizer, teacher_max_length, 'teacher_tokenizer')
        self._samples = [
            (ids, theirs, same_prefixes(spans, their_spans))
            for start in range(0, len(texts), _AT_ONCE)
            for (ids, spans), (theirs, their_spans) in zip(
                *(side(list(texts[start : start + _AT_ONCE])) for side in (student, teacher))
            )
        ]
        self.tokenizer, self.teacher_tokenizer, self._settings = student.tokenizer, teacher.tokenizer, settings
        self.longest, self.objective, self.targets = max_length, 'causal', [0] * len(self._samples)
        self.collate_fn = PaddedColumns(  # on the right, where padding moves no token
            input_ids=(self.tokenizer.pad_token_id, False),
            labels=(UNLABELLED, False),
            **{
                OWN_INPUTS: (self.teacher_tokenizer.pad_token_id, False),
                PARTNERS: (-1, False),
            },
        )

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        ids, theirs, partners = self._samples[index]
        return {
            'input_ids': ids,
            'attention_mask': [1] * len(ids),
            'labels': ids,
            OWN_INPUTS: theirs,
            OWN_ATTENTION: [1] * len(theirs),
            PARTNERS: partners,
        }

    def extra_repr(self) -> str:
        """What made the samples."""
        return self._settings


def aligned_text(
    path: str | Path | Sequence[str | Path],
    *,
    tokenizer: str | Path | Callable[..., Any],
    teacher_tokenizer: str | Path | Callable[..., Any],
    length: int = 128,
    teacher_length: int | None = None,
    root: str | Path | None = None,
    subset: int | None = None,
) -> AlignedTexts:
    """Loads text files for a causal language model whose teacher has another tokenizer.

    The files are cut into texts of at most ``length`` tokens of the student, which follow one another without overlap.

    Args:
        path: A file, or several; those that do not exist are looked for below the root.
        tokenizer: A folder or a name on the Hub, the same as the student's; in Python also a tokenizer.
        teacher_tokenizer: The same of the teacher.
        length: The largest number of the student's tokens in a text, with special ones.
        teacher_length: The same of the teacher's; None for what its tokenizer is made for. What is cut off has no
            answers.
        root: The folder of the data sets; None for the environment variable ``COMPOSER_KD_DATA``, or ``./data``.
        subset: The number of texts to take, from the beginning; None for all.

    Returns:
        A data set of texts in both tokenizations.

    Raises:
        ConfigError: If a file is missing or no UTF-8, there is no text, a tokenizer cannot say where its tokens lie or
            has no token for padding, or a number is out of range.
    """
    words = as_tokenizer(tokenizer)
    body = length - words.num_special_tokens_to_add()
    if isinstance(length, bool) or not isinstance(length, int) or body < 1:
        raise ConfigError(f'length: expected at least {length - body + 1} tokens, got {length!r}')
    files = [find_text(one, root) for one in ([path] if isinstance(path, (str, Path)) else path)]
    texts = [text for file in files for piece in pieces_of(file) for text in _cut(piece, words, body)]
    if not texts:
        raise ConfigError(f'path: there is no text in {", ".join(map(str, files))}')
    if subset is not None:
        check_count('subset', subset, 1, len(texts))
    settings = f'files={[name_of(file) for file in files]}, length={length}, teacher_length={teacher_length}'
    return AlignedTexts(texts[:subset], words, teacher_tokenizer, length, teacher_length, settings)


def _cut(text: str, tokenizer: Any, count: int) -> Iterator[str]:
    """Cuts a text after each ``count`` tokens."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)['offset_mapping']
    for first in range(0, len(spans), count):
        part = text[spans[first][0] : spans[min(first + count, len(spans)) - 1][1]]
        if part.strip():
            yield part


def _limit(tokenizer: Any, asked: int | None, option: str) -> int | None:
    """The largest number of tokens; ``None`` for tokenizers that are made for any, which say an enormous one."""
    made_for = tokenizer.model_max_length
    known = made_for if made_for < _ENORMOUS else None
    if asked is not None and (asked < 2 or (known is not None and asked > known)):
        name = type(tokenizer).__name__
        raise ConfigError(f'{option}: expected a length from 2 to {made_for}, which {name} is made for, got {asked}')
    return known if asked is None else asked
