"""Checks that a token and a class mean the same to the student and to its teachers, where both say what they mean."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from composer_kd.errors import TeacherError
from composer_kd.features.calling import unwrapped
from composer_kd.models.hugging_face_build import untrained
from composer_kd.teachers.base import Teacher, module_of
from composer_kd.teachers.frozen import FrozenTeacher

__all__ = [
    'check_classes',
    'check_tokens',
    'check_trained',
    'class_names',
    'moved_tokens',
    'vocabulary_of',
    'written_class_names',
]

_DEFAULT_NAME = re.compile(r'label_\d+')  # what transformers calls classes that nobody has named


def check_tokens(student: nn.Module, teacher: Teacher, vocabulary: int | None = None) -> None:
    """Checks that a teacher's tokenizer gives each token the number that the student's gives it.

    Compared are the tokenizers of two ``HuggingFaceModel``; without them, the sizes of the vocabularies in the configs.
    A teacher with an ``input_adapter`` or a ``forward`` of its own may translate, and is not checked. Numbers that one
    of the two calls by a name of its own, as reserved tokens, give a warning.

    Args:
        student: The student.
        teacher: One of its teachers.
        vocabulary: The number of tokens that the user says both have, whatever the sizes in the configs.

    Raises:
        TeacherError: If a number means one token to the student and another to the teacher.
    """
    module = module_of(teacher)
    if module is None or _translates(teacher):
        return
    ours, theirs = (vocabulary_of(getattr(model, 'tokenizer', None)) for model in (student, module))
    if ours is None or theirs is None:
        if vocabulary is None:
            _compare_sizes(student, module, teacher.name)
        return
    named = {number: token for token, number in theirs.items()}
    moved = moved_tokens(ours, theirs)
    renamed = [token for token, number in ours.items() if token not in theirs and number in named]
    if not moved and not renamed:
        return
    token = min(moved or renamed, key=ours.__getitem__)
    said = f'number {ours[token]} is {token!r} to the student and {named.get(ours[token])!r} to the teacher'
    if not moved:
        warnings.warn(
            f'{len(renamed)} tokens have another name in the tokenizer of the teacher {teacher.name!r}: {said}.',
            stacklevel=2,
        )
        return
    raise TeacherError(
        f'The teacher {teacher.name!r} has another tokenizer than the student: {len(moved)} of {len(ours)} tokens have '
        f'other numbers; {said}. It would read other words than the student. Take a teacher with the tokenizer of the '
        "student, give the student the teacher's, or translate the inputs: FrozenTeacher(model, input_adapter=...)."
    )


def check_classes(student: nn.Module, teacher: Teacher) -> None:
    """Checks that the classes of a student and a teacher, named in ``config.id2label``, are in the same order.

    Names are compared without regard to case; those that transformers makes up (``LABEL_0``) say nothing. A teacher
    with a ``forward`` of its own is not checked, because that may reorder them.

    Args:
        student: The student.
        teacher: One of its teachers, whose logits are compared with the student's.

    Raises:
        TeacherError: If a class that both have stands at other places; the message holds the order.
    """
    module = module_of(teacher)
    if module is None or getattr(teacher, 'has_own_forward', False):
        return
    ours, theirs = class_names(student), class_names(module)
    if not ours or not theirs or ours == theirs:
        return
    shared = set(ours) & set(theirs)
    moved = [name for name in ours if name in shared and ours.index(name) != theirs.index(name)]
    if moved:
        order = [theirs.index(name) for name in ours] if shared == set(ours) else '[...]'
        raise TeacherError(
            f'The teacher {teacher.name!r} has its classes in another order than the student: config.id2label names '
            f'{theirs} there and {ours} here. Reorder its logits: FrozenTeacher(model, forward=lambda model, batch: '
            f'...logits[..., {order}]); or correct the config that is wrong.'
        )
    if len(ours) == len(theirs):
        warnings.warn(
            f'The classes of the teacher {teacher.name!r} are called {theirs}, those of the student {ours}: they are '
            'taken for the same, in this order. Give both the same config.id2label to say so.',
            stacklevel=2,
        )


def check_trained(teacher: Teacher) -> None:
    """Checks that a teacher whose logits are compared does not make them with weights that nobody trained.

    A pretrained body without the head of the task gets a random one (:func:`.hf_classifier`), and such a teacher
    answers at random.

    Args:
        teacher: One of the teachers.

    Raises:
        TeacherError: If weights of its model are as they were drawn.
    """
    module = module_of(teacher)
    names = [] if module is None else untrained(module)
    if names:
        raise TeacherError(
            f'The teacher {teacher.name!r} has random weights, which its pretrained folder does not have: '
            f'{", ".join(sorted(names)[:4])}. Fine-tune it first, and give its checkpoint: FrozenTeacher(model, '
            'checkpoint=...), in a YAML the key checkpoint; or compare its layers alone: Match(loss, on=...).'
        )


def _translates(teacher: Teacher) -> bool:
    return isinstance(teacher, FrozenTeacher) and (teacher.input_adapter is not None or teacher.has_own_forward)


def vocabulary_of(tokenizer: Any) -> Mapping[str, int] | None:
    """The number of each token; ``None`` without a tokenizer that says so."""
    found = getattr(tokenizer, 'get_vocab', None)
    return found() if callable(found) else None


def moved_tokens(one: Mapping[str, int], other: Mapping[str, int]) -> list[str]:
    """The tokens of a vocabulary that have other numbers in another.

    Example:
        >>> moved_tokens({'a': 0, 'b': 1, 'c': 2}, {'a': 0, 'b': 2})
        ['b']
    """
    return [token for token, number in one.items() if other.get(token, number) != number]


def _compare_sizes(student: nn.Module, module: nn.Module, name: str) -> None:
    """Warns of vocabularies of other sizes, where no tokenizers are there to be compared."""
    ours, theirs = (getattr(_config(model, 'vocab_size'), 'vocab_size', None) for model in (student, module))
    if isinstance(ours, int) and isinstance(theirs, int) and ours != theirs:
        warnings.warn(
            f'The student has a vocabulary of {ours} tokens and the teacher {name!r} one of {theirs}: it cannot be '
            'known whether the same numbers mean the same tokens to both. Give both their tokenizers, '
            'HuggingFaceModel(model, tokenizer), and they are compared; or say that the first N do: vocabulary=N.',
            stacklevel=2,
        )


def class_names(model: nn.Module) -> Sequence[str]:
    """The names of the classes in their order, to be compared: without regard to case; empty if they have none."""
    return [name.strip().casefold() for name in written_class_names(model)]


def written_class_names(model: nn.Module) -> list[str]:
    """The names of the classes in their order, as ``config.id2label`` has them; empty if nobody has named them."""
    labels = getattr(_config(model, 'id2label'), 'id2label', None)
    if not isinstance(labels, Mapping):
        return []
    try:
        names = [str(labels[number]) for number in sorted(labels)]
    except TypeError:
        return []
    plain = [name.strip().casefold() for name in names]
    known = len(set(plain)) == len(plain) and not any(_DEFAULT_NAME.fullmatch(name) for name in plain)
    return names if known else []


def _config(model: nn.Module, key: str) -> Any:
    """The config of the outermost part that says something of the key."""
    configs = (getattr(part, 'config', None) for part in unwrapped(model).modules())
    return next((config for config in configs if getattr(config, key, None) is not None), None)
