"""The tasks of GLUE: sentences, or pairs of them, with a class or a score."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.data.location import ROOT_VARIABLE, check_split, data_root
from composer_kd.data.partly_labelled import UNLABELLED, restricted
from composer_kd.data.tokens import Tokenized, as_tokenizer, tokenize
from composer_kd.errors import ConfigError, nearest

__all__ = ['glue']

HUB = 'nyu-mll/glue'
Columns = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class _Task:
    """One task.

    Args:
        folder: The folder of its original files.
        classes: The names of its classes in the order of their numbers; empty for scores.
        texts: The columns of its texts: each entry is the names that a column has on the Hub and in the files.
        header: The names of the columns, if the files have no line that says them.
        validation: The names of its validation sets, each with the beginning of the names of their files.
    """

    folder: str
    classes: tuple[str, ...]
    texts: Columns
    header: tuple[str, ...] | None = None
    validation: tuple[tuple[str, str], ...] = (('validation', 'dev'),)

    @property
    def splits(self) -> dict[str, str]:
        """The beginning of the name of a file for each split."""
        return {'train': 'train', **dict(self.validation)}


_ENTAILMENT = ('entailment', 'not_entailment')
_PAIR: Columns = (('sentence1', '#1 String'), ('sentence2', '#2 String'))
_LABELS = ('label', 'gold_label', 'Quality', 'is_duplicate', 'score')
_MATCHED = (('validation', 'dev_matched'), ('validation_mismatched', 'dev_mismatched'))

TASKS: dict[str, _Task] = {
    'cola': _Task(
        'CoLA', ('unacceptable', 'acceptable'), (('sentence',),), header=('source', 'label', 'star', 'sentence')
    ),
    'sst2': _Task('SST-2', ('negative', 'positive'), (('sentence',),)),
    'mrpc': _Task('MRPC', ('not_equivalent', 'equivalent'), _PAIR),
    'stsb': _Task('STS-B', (), _PAIR),
    'qqp': _Task('QQP', ('not_duplicate', 'duplicate'), (('question1',), ('question2',))),
    'mnli': _Task(
        'MNLI',
        ('entailment', 'neutral', 'contradiction'),
        (('premise', 'sentence1'), ('hypothesis', 'sentence2')),
        validation=_MATCHED,
    ),
    'qnli': _Task('QNLI', _ENTAILMENT, (('question',), ('sentence',))),
    'rte': _Task('RTE', _ENTAILMENT, _PAIR),
    'wnli': _Task('WNLI', ('not_entailment', 'entailment'), _PAIR),
}


def glue(
    task: str,
    split: str = 'train',
    *,
    tokenizer: str | Path | Callable[..., Any],
    max_length: int = 128,
    root: str | Path | None = None,
    download: bool = False,
    labels: Sequence[str] | None = None,
    subset: int | None = None,
    n_labels: int | None = None,
    keep_unlabelled: bool = True,
    seed: int = 0,
) -> Tokenized:
    """Loads a task of GLUE (Wang et al., arXiv 1804.07461), tokenized.

    The files are ``<root>/glue/SST-2/train.tsv`` and so on, as GLUE publishes them, or ``.jsonl`` with the columns of
    the Hub. Batches are padded to the longest sample in them.

    Args:
        task: ``cola``, ``sst2``, ``mrpc``, ``stsb`` (scores from 0 to 5), ``qqp``, ``mnli``, ``qnli``, ``rte`` or
            ``wnli``.
        split: ``'train'`` or ``'validation'``; of ``mnli`` also ``'validation_mismatched'``.
        tokenizer: A folder or a name on the Hub, the same as the model's; in Python also a tokenizer.
        max_length: The largest number of tokens of a sample, with special ones; longer samples are cut.
        root: The folder that contains ``glue``; None for the environment variable ``COMPOSER_KD_DATA``, or ``./data``
            if it is not set.
        download: Whether to take the task from the Hub (``nyu-mll/glue``), through ``datasets``.
        labels: The names of the classes in the order of the model; None for that of GLUE.
        subset: The number of samples to select first, by a fixed class-balanced choice; None for all.
        n_labels: The number of samples that keep their label, class-balanced; None for all.
        keep_unlabelled: Whether the other samples stay, with the label -100, or are dropped.
        seed: Seed of the choice of labelled samples.

    Returns:
        A data set of mappings with ``input_ids``, ``attention_mask``, ``labels``, and ``token_type_ids`` if the
        tokenizer has them. It has the attributes ``num_classes``, ``classes`` and ``targets``.

    Raises:
        ConfigError: If files are missing or have other columns, the Hub cannot be reached, a name is unknown, or a
            number is out of range.

    Example:
        >>> glue('sst', tokenizer='anything')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: task: expected a task of GLUE, got 'sst'; did you mean 'sst2'?
    """
    if task not in TASKS:
        raise ConfigError(f'task: expected a task of GLUE, got {task!r}{nearest(str(task), TASKS)}')
    told = TASKS[task]
    check_split(split, list(told.splits))
    names = _order_of(told, labels)
    words = as_tokenizer(tokenizer)
    texts, targets = _read(told, task, split, root, download, names)
    texts, targets = restricted(texts, targets, bool(names), subset, n_labels, keep_unlabelled, seed)
    columns: Any = tokenize(words, texts, max_length, f'{task} {split}')
    settings = f'task={task}, split={split}, max_length={max_length}'
    inputs = [column[0] for column in told.texts]
    return Tokenized(columns, targets, words, settings, names or None, inputs, max_length)


def _order_of(task: _Task, labels: Sequence[str] | None) -> tuple[str, ...]:
    if labels is None:
        return task.classes
    if sorted(labels) != sorted(task.classes):
        raise ConfigError(f'labels: expected {list(task.classes)} in an order of your choice, got {list(labels)}')
    return tuple(labels)


def _read(
    task: _Task, name: str, split: str, root: str | Path | None, download: bool, classes: tuple[str, ...]
) -> tuple[list[tuple[str, ...]], list[Any]]:
    place, rows = _from_hub(task, name, split) if download else _from_file(task, split, root)
    number = {one: at for at, one in enumerate(classes)}
    texts: list[tuple[str, ...]] = []
    targets: list[Any] = []
    for line, row in enumerate(rows, 1):
        try:
            texts.append(tuple(str(_cell(row, names)) for names in task.texts))
            targets.append(_target(_cell(row, _LABELS), task, number))
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f'glue: row {line} of {place} is not one of {name}: {error}; it has {list(row)[:12]}'
            ) from error
    if not texts:
        raise ConfigError(f'glue: {place} has no samples')
    return texts, targets


def _from_file(task: _Task, split: str, root: str | Path | None) -> tuple[str, Iterator[Mapping[str, Any]]]:
    folder = data_root(root) / 'glue' / task.folder
    stem = task.splits[split]
    for file, read in ((folder / f'{stem}.tsv', _tsv), (folder / f'{stem}.jsonl', _jsonl)):
        if file.is_file():
            return str(file), read(file, task)
    raise ConfigError(
        f'glue: expected {folder / stem}.tsv or .jsonl. Put it there, take it from the Hugging Face Hub with '
        f'download=true, or choose another root by root=... or the environment variable {ROOT_VARIABLE}.'
    )


def _tsv(file: Path, task: _Task) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding='utf-8-sig', newline='') as lines:
        # Quotes are part of the texts, and fields that are too many belong to none.
        yield from csv.DictReader(lines, task.header, delimiter='\t', quoting=csv.QUOTE_NONE)


def _jsonl(file: Path, task: _Task) -> Iterator[Mapping[str, Any]]:
    with file.open(encoding='utf-8') as lines:
        yield from (json.loads(line) for line in lines if line.strip())


def _from_hub(task: _Task, name: str, split: str) -> tuple[str, Iterator[Mapping[str, Any]]]:
    try:
        import datasets
    except ImportError as error:
        raise ConfigError("glue: download=true needs the datasets library: pip install 'composer_kd[nlp]'") from error
    theirs = split.replace('validation', 'validation_matched') if name == 'mnli' and split == 'validation' else split
    try:
        return f'{HUB}, {name}', iter(datasets.load_dataset(HUB, name, split=theirs))
    except Exception as error:  # the Hub, the network and the files may fail in many ways
        raise ConfigError(
            f'glue: {HUB} cannot be had from the Hugging Face Hub: {type(error).__name__}: '
            f'{" ".join(str(error).split())[:200]}. Put the files into <root>/glue/{task.folder} and set download=false'
        ) from error


def _cell(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    found = next((row[name] for name in names if row.get(name) is not None), None)
    if found is None:
        raise KeyError(f'expected a column {" or ".join(names)}')
    return found


def _target(value: Any, task: _Task, number: Mapping[str, int]) -> Any:
    if not task.classes:
        return float(value)
    if value in number:
        return number[value]
    at = int(value)  # the numbers of GLUE
    if at == -1:
        return UNLABELLED
    if not 0 <= at < len(task.classes):
        raise ValueError(f'expected a label of {list(task.classes)}, got {value!r}')
    return number[task.classes[at]]
