"""SST-2 and the matched pairs of MNLI's validation set, each cut into parts of which none knows another's texts."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from composer_kd.data import Tokenized, glue
from composer_kd.data.partly_labelled import balanced_order
from composer_kd.errors import ConfigError
from composer_kd.pretrained import load_tokenizer

__all__ = ['PARTS', 'SIZES', 'Part', 'texts']

PARTS = ('train', 'held_out', 'test')
SIZES = {'sst2': {'test': 1128, 'held_out': 1000}, 'mnli': {'test': 2000, 'held_out': 800}}
"""How many samples are set apart; SST-2's validation set of 872 is tested on beside them."""

SEED = 12
RUN = 5  # of tokens that no two parts of SST-2 share
SENTENCE = 12  # tokens that a sample of SST-2 has at least, to be tested on: most are fragments of sentences


class Part(Tokenized):
    """Some samples of a task.

    Args:
        items: The samples.
        whole: The data set that they are taken from.
        settings: What was chosen.
        groups: For each sample a number, which samples of the same premise share.
    """

    def __init__(self, items: Sequence[dict[str, Any]], whole: Tokenized, settings: str, groups: Sequence[int]) -> None:
        made = ('attention_mask', 'labels')
        columns = {name: [item[name] for item in items] for name in whole[0] if name not in made}
        labels = [item['labels'] for item in items]
        super().__init__(columns, labels, whole.tokenizer, settings, whole.classes, whole.texts, whole.max_length)
        self.groups = list(groups)


def texts(
    task: str,
    part: str = 'train',
    *,
    tokenizer: str,
    max_length: int = 64,
    subset: int | None = None,
    root: str | None = None,
) -> Part:
    """A part of the samples of a task.

    The training set of SST-2 has sentences and fragments of them. A sample of 12 tokens or more is tested on
    (``'test'``) or used to choose learning rates (``'held_out'``) if it shares no run of five tokens with the
    validation set or another of these; the training part is what shares none with any of them. ``'test'`` is the
    validation set of SST-2 and 1,128 of these. Of MNLI all pairs of a premise are in the same part.

    Args:
        task: ``'sst2'`` or ``'mnli'``.
        part: ``'train'``, ``'held_out'`` or ``'test'``; the last two are sorted by length, so that batches need
            little padding, with the validation set of SST-2 first.
        tokenizer: A folder, as in :func:`composer_kd.data.glue`, and so are the others.
        max_length: The largest number of tokens.
        subset: Of the training part.
        root: The folder of the data.
    """
    if task not in SIZES or part not in PARTS:
        raise ConfigError(f'expected a task of {list(SIZES)} and a part of {list(PARTS)}, got {task!r} and {part!r}')
    whole, first, parts, groups = _parts(task, tokenizer, max_length, root)
    chosen = parts[part]
    if part == 'train':
        chosen = [chosen[place] for place in balanced_order([whole.targets[index] for index in chosen], seed=0)]
        chosen = chosen[:subset]
    else:
        chosen = sorted(chosen, key=lambda index: len(whole[index]['input_ids']))
    if part == 'test':
        chosen = [*first, *chosen]
    settings = f'task={task}, part={part}, max_length={max_length}, subset={subset}'
    return Part([whole[index] for index in chosen], whole, settings, [groups[index] for index in chosen])


@functools.lru_cache(maxsize=2)
def _parts(
    task: str, tokenizer: str, max_length: int, root: str | None
) -> tuple[Tokenized, list[int], dict[str, list[int]], list[int]]:
    """All samples, those that are tested on first, the parts of the others, and the group of each sample."""
    same: dict[str, Any] = {'tokenizer': tokenizer, 'max_length': max_length, 'root': root}
    if task == 'mnli':
        uncut = {
            **same,
            'max_length': load_tokenizer(tokenizer).model_max_length,
        }  # where pairs are cut, premises differ
        premises = _premises(glue('mnli', 'validation', **uncut))
        return glue('mnli', 'validation', **same), [], _by_premise(premises), premises
    train, dev = glue('sst2', 'train', **same), glue('sst2', 'validation', **same)
    parts = _without_shared_runs(_runs(train), _runs(dev), [len(one['input_ids']) for one in _items(train)])
    whole = Part([*_items(train), *_items(dev)], train, '', [])
    first = sorted(range(len(train), len(whole)), key=lambda index: len(whole[index]['input_ids']))
    return whole, first, parts, list(range(len(whole)))


def _by_premise(premises: Sequence[int]) -> dict[str, list[int]]:
    members: dict[int, list[int]] = {}
    for index, premise in enumerate(premises):
        members.setdefault(premise, []).append(index)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for premise in _shuffled(sorted(members)):
        part = next((one for one in ('test', 'held_out') if len(parts[one]) < SIZES['mnli'][one]), 'train')
        parts[part] += members[premise]
    return {part: sorted(indices) for part, indices in parts.items()}


def _without_shared_runs(
    train: Sequence[set[bytes]], dev: Iterable[set[bytes]], lengths: Sequence[int]
) -> dict[str, list[int]]:
    used = set().union(*dev)
    parts: dict[str, list[int]] = {part: [] for part in PARTS}
    for index in _shuffled(index for index, length in enumerate(lengths) if length >= SENTENCE):
        part = next((one for one in ('test', 'held_out') if len(parts[one]) < SIZES['sst2'][one]), None)
        if part is None:
            break
        if not train[index] & used:
            parts[part].append(index)
            used |= train[index]
    apart = {*parts['test'], *parts['held_out']}
    parts['train'] = [index for index, runs in enumerate(train) if index not in apart and not runs & used]
    return parts


def _runs(samples: Tokenized) -> list[set[bytes]]:
    return [_runs_of(np.array(item['input_ids'][1:-1], np.int32)) for item in _items(samples)]


def _runs_of(tokens: NDArray[np.int32]) -> set[bytes]:
    return {tokens[start : start + RUN].tobytes() for start in range(len(tokens) - RUN + 1)}


def _premises(pairs: Tokenized) -> list[int]:
    """Numbers the first texts of pairs."""
    numbers: dict[tuple[int, ...], int] = {}
    firsts = (tuple(item['input_ids'][: item['token_type_ids'].index(1)]) for item in _items(pairs))
    return [numbers.setdefault(first, len(numbers)) for first in firsts]


def _items(samples: Tokenized) -> Iterator[dict[str, Any]]:
    return (samples[index] for index in range(len(samples)))


def _shuffled(indices: Iterable[int]) -> list[int]:
    found = list(indices)
    return [found[place] for place in np.random.RandomState(SEED).permutation(len(found))]
