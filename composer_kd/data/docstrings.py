"""A small text task that every machine has: of which installed package is a sentence of documentation?"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from composer_kd.data.documentation import documentation
from composer_kd.data.location import check_split
from composer_kd.data.partly_labelled import check_count, restricted
from composer_kd.data.tokens import Tokenized, as_tokenizer, tokenize
from composer_kd.errors import ConfigError

__all__ = ['docstrings']

PACKAGES = ('matplotlib', 'networkx', 'scipy', 'sklearn', 'torch')
_OTHER_NAMES = {'sklearn': ('scikit',), 'torch': ('pytorch',), 'numpy': ('np',), 'matplotlib': ('pyplot', 'mpl')}
_WORDS = range(5, 31)  # fewer say nothing, more are mostly lists
_VALIDATION = 5  # every fifth file


def docstrings(
    split: str = 'train',
    *,
    tokenizer: str | Path | Callable[..., Any],
    max_length: int = 32,
    packages: Sequence[str] = PACKAGES,
    subset: int | None = None,
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
) -> Tokenized:
    """Loads sentences from the documentation of installed packages, each with the package as its class.

    The texts are the first paragraphs of the docstrings of modules, classes and functions, of 5 to 30 words. A
    paragraph is left out if it names one of the packages, or is found in several of them. Files, rather than texts, are
    divided between the splits, because the docstrings of a file resemble one another: every fifth (by a hash of its
    path) is for validation. The texts are read from the source of the packages, so their number depends on the
    versions that are installed; nothing is downloaded.

    Args:
        split: ``'train'`` or ``'validation'``.
        tokenizer: A folder or a name on the Hub, the same as the model's; in Python also a tokenizer.
        max_length: The largest number of tokens of a sample, with special ones; longer samples are cut.
        packages: Installed packages, the classes in their order. Those of the default come with this package.
        subset: The number of samples to select first, by a fixed class-balanced choice; None for all.
        n_labels: The number of samples that keep their label, class-balanced; None for all.
        keep_unlabelled: Whether the other samples stay, with the label -100, or are dropped.
        seed: Seed of the choice of labelled samples.

    Returns:
        A data set of mappings with ``input_ids``, ``attention_mask``, ``labels``, and ``token_type_ids`` if the
        tokenizer has them. It has the attributes ``num_classes``, ``classes`` and ``targets``.

    Raises:
        ConfigError: If a package is not installed or has no such texts, or a number is out of range.

    Example:
        >>> docstrings('test', tokenizer='anything')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: split: expected one of ['train', 'validation'], got 'test'; \
valid: train, validation
    """
    check_split(split, ['train', 'validation'])
    names = _checked(packages)
    words = as_tokenizer(tokenizer)
    texts, targets = _texts(names, split == 'validation')
    texts, targets = restricted(texts, targets, True, subset, n_labels, keep_unlabelled, seed)
    columns = tokenize(words, texts, max_length, f'docstrings {split}')
    settings = f'packages={list(names)}, split={split}, max_length={max_length}'
    return Tokenized(columns, targets, words, settings, names, ('sentence',), max_length)


def _checked(packages: Sequence[str]) -> tuple[str, ...]:
    names = (packages,) if isinstance(packages, str) else tuple(packages)
    if len(set(names)) != len(names) or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ConfigError(f'packages: expected the names of different packages, as they are imported, got {packages!r}')
    check_count('the number of packages', len(names), 2, 1000)
    return names


def _texts(packages: Sequence[str], validation: bool) -> tuple[list[tuple[str, ...]], list[int]]:
    named = re.compile(
        rf'\b({"|".join(one for name in packages for one in (name, *_OTHER_NAMES.get(name, ())))})', re.I
    )
    of: dict[str, set[int]] = {}  # the packages that have a text
    chosen: dict[str, None] = {}  # those of the split, in order
    for number, name in enumerate(packages):
        for path, text in documentation(f'package:{name}'):
            first = ' '.join(re.split(r'\n\s*\n', text, maxsplit=1)[0].split())
            if len(first.split()) not in _WORDS or named.search(first):
                continue
            seen = of.setdefault(first, set())
            is_new, in_validation = not seen, zlib.crc32(f'{name}/{path}'.encode()) % _VALIDATION == 0
            seen.add(number)
            if is_new and in_validation == validation:
                chosen[first] = None
    kept = [(text, min(of[text])) for text in chosen if len(of[text]) == 1]
    targets = [target for _, target in kept]
    for number, name in enumerate(packages):
        if number not in targets:
            raise ConfigError(
                f'packages: {name!r} has no sentences of {_WORDS.start} to {_WORDS.stop - 1} words; leave it out'
            )
    return [(text,) for text, _ in kept], targets
