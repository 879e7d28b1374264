"""Texts without labels, one a sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from composer_kd.data.table import column_texts, read_table
from composer_kd.data.tokens import Tokenized, as_tokenizer, tokenize

__all__ = ['sentences']


def sentences(
    path: str | Path | Sequence[str | Path] | None = None,
    *,
    text: str,
    tokenizer: str | Path | Callable[..., Any],
    max_length: int = 128,
    hub: str | None = None,
    split: str = 'train',
    root: str | Path | None = None,
    subset: int | None = None,
) -> Tokenized:
    """Loads texts of a table, one a sample, for encoders that learn from another's vectors.

    Args:
        path: A file of JSON lines, CSV, TSV or Parquet, or several of one kind; those that do not exist are looked for
            below the root.
        text: The column of the texts, or a text with names of columns in braces.
        tokenizer: A folder or a name on the Hub, the same as the model's; in Python also a tokenizer.
        max_length: The largest number of tokens of a text, with special ones; longer texts are cut.
        hub: In the place of ``path``: a data set on the Hub, ``'owner/name'`` or ``'owner/name:configuration'``.
        split: The split of the data set on the Hub.
        root: The folder of the data sets; None for the environment variable ``COMPOSER_KD_DATA``, or ``./data``.
        subset: The number of texts to take, from the beginning; None for all.

    Returns:
        A data set of mappings with ``input_ids``, ``attention_mask``, and ``token_type_ids`` if the tokenizer has them.

    Raises:
        ConfigError: If files or columns are missing, the Hub cannot be reached, or a number is out of range.

    Example:
        >>> sentences('texts.doc', text='sentence', tokenizer='anything')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: path: expected a file of .jsonl, .json, .csv, .tsv, .parquet, got 'texts.doc'
    """
    rows = read_table(path, hub, split, root, subset)
    words = as_tokenizer(tokenizer)
    columns: Any = tokenize(words, [(one,) for one in column_texts(rows, text, 'text')], max_length, 'sentences')
    return Tokenized(columns, None, words, f'text={text!r}, max_length={max_length}')
