"""The tokens that student and teachers share, where their heads are padded to different sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.calling import unwrapped
from composer_kd.losses.linear_logits import AnyLogits, DeferredLogits, LinearLogits
from composer_kd.losses.sparse import SparseLogits, SparseTarget, TeacherLogits
from composer_kd.teachers.base import module_of
from composer_kd.teachers.meanings import vocabulary_of

__all__ = ['LanguageHead', 'cut', 'cut_shape', 'head_of', 'shared_vocabulary']

Logits = TypeVar('Logits', Tensor, LinearLogits, TeacherLogits, AnyLogits)


@dataclass(frozen=True)
class LanguageHead:
    """What a language model says of its classes.

    Attributes:
        name: Its name in messages.
        classes: The size of its head; ``None`` if unknown.
        tokens: The number of tokens of its tokenizer; ``None`` without one.
    """

    name: str
    classes: int | None
    tokens: int | None


def head_of(model: nn.Module, name: str) -> LanguageHead:
    """The head of a language model: the size of its output embedding, and of its tokenizer.

    Example:
        >>> head_of(nn.Linear(2, 3), 'the student')
        LanguageHead(name='the student', classes=None, tokens=None)
    """
    ask: Any = getattr(unwrapped(model), 'get_output_embeddings', None)
    layer = ask() if callable(ask) else None
    classes = getattr(layer, 'out_features', None)
    vocabulary = vocabulary_of(getattr(model, 'tokenizer', None))
    tokens = None if not vocabulary else max(vocabulary.values()) + 1
    return LanguageHead(name, classes if isinstance(classes, int) else None, tokens)


def shared_vocabulary(
    student: nn.Module, teachers: Sequence[Any], vocabulary: int | None, role: str = 'teacher'
) -> int | None:
    """The number of classes that are compared: the first of each model's logits.

    Language models of one tokenizer may have heads that are padded to different sizes. If all of them have a tokenizer
    (``HuggingFaceModel(model, tokenizer)``), the number of tokens is known. That these mean the same to all is checked
    by :func:`.check_tokens`.

    Args:
        student: The student.
        teachers: The teachers, or peers, whose logits are compared with the student's.
        vocabulary: The number that the user gave; ``None`` to find it.
        role: What they are, for messages.

    Returns:
        The number; ``None`` for all classes, if the heads are of one size or unknown, or a model has no tokenizer.

    Raises:
        ConfigError: If it is no positive integer, leaves out tokens of a tokenizer, or exceeds a head.
    """
    ours = head_of(student, 'the student')
    heads = [ours, *(_head_of_teacher(teacher, student, ours, role) for teacher in teachers)]
    if vocabulary is None:
        if len({head.classes for head in heads if head.classes is not None}) < 2:
            return None
        counted = [head.tokens for head in heads if head.classes is not None]
        if None in counted:
            return None
        vocabulary = min(count for count in counted if count is not None)
        return vocabulary if all(head.classes is None or head.classes >= vocabulary for head in heads) else None
    if isinstance(vocabulary, bool) or not isinstance(vocabulary, int) or vocabulary < 1:
        raise ConfigError(f'vocabulary must be the number of tokens of the tokenizer, or None, got {vocabulary!r}')
    for head in heads:
        if head.classes is not None and head.classes < vocabulary:
            raise ConfigError(
                f'vocabulary={vocabulary}: {head.name} has a head of {head.classes} classes. Expected at most that many'
            )
    fewest = min((head.tokens for head in heads if head.tokens is not None), default=0)
    if fewest > vocabulary:
        raise ConfigError(
            f'vocabulary={vocabulary} leaves out {fewest - vocabulary} tokens: all tokenizers have {fewest}. '
            f'Give vocabulary={fewest}, or leave it out'
        )
    return vocabulary


def _head_of_teacher(teacher: Any, student: nn.Module, ours: LanguageHead, role: str) -> LanguageHead:
    name = f'the {role} {teacher.name!r}'
    stored: Any = getattr(teacher, 'stored_head', None)
    if stored is not None:
        classes, has_our_tokenizer = stored(student)
        return LanguageHead(name, classes, ours.tokens if has_our_tokenizer else None)
    if getattr(teacher, 'is_student', False):
        return LanguageHead(name, ours.classes, ours.tokens)
    module = module_of(teacher)
    if module is None or getattr(teacher, 'has_own_forward', False):
        return LanguageHead(name, None, None)  # what it answers is known when it runs
    return head_of(module, name)


def cut(logits: Logits, vocabulary: int | None, whose: str) -> Logits:
    """The first classes of logits; a view.

    Args:
        logits: Logits ``(..., V)``, what a stored teacher kept of them, or what they are computed of.
        vocabulary: The number of classes; ``None`` for all.
        whose: Whose they are, for messages.

    Raises:
        TeacherError: If there are fewer, the classes come elsewhere than last, or a part of them is known, of more.

    Example:
        >>> cut(torch.zeros(2, 3, 24), 20, 'the student').shape
        torch.Size([2, 3, 20])
    """
    if vocabulary is None:
        return logits
    shape = cut_shape(logits.shape, vocabulary, whose)
    if shape == logits.shape:
        return logits
    if isinstance(logits, DeferredLogits):
        return logits.classes(vocabulary)
    if isinstance(logits, SparseTarget):
        if isinstance(logits, SparseLogits) and logits.is_complete:
            return logits.dense()[..., :vocabulary]
        raise TeacherError(
            f'{whose} is stored as a part of {logits.classes} classes, and {vocabulary} are compared: how the '
            'probability of the others is divided cannot be known. Build the store with the vocabulary, '
            f'build_store(..., vocabulary={vocabulary}) or composer-kd cache with vocabulary: {vocabulary} in the '
            'YAML, or store the format dense.'
        )
    return logits[..., :vocabulary]


def cut_shape(shape: torch.Size, vocabulary: int | None, whose: str) -> torch.Size:
    """The shape of logits after :func:`cut`."""
    if vocabulary is None:
        return shape
    if not 2 <= len(shape) <= 3 or shape[-1] < vocabulary:
        raise TeacherError(
            f'vocabulary={vocabulary}: {whose} answers in the shape {tuple(shape)}; expected logits (B, V) or '
            f'(B, S, V) of at least {vocabulary} classes'
        )
    return torch.Size((*shape[:-1], vocabulary))
