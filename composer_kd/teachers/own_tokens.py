"""How a language model with a tokenizer of its own answers at the student's positions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from composer_kd.batches.contents import OWN_ATTENTION, OWN_INPUTS, PARTNERS
from composer_kd.data.collating import chain_of
from composer_kd.errors import TeacherError
from composer_kd.features.calling import calling_of
from composer_kd.features.outputs import logits_of
from composer_kd.teachers.base import Teacher, module_of
from composer_kd.teachers.meanings import moved_tokens, vocabulary_of

__all__ = ['check_own_tokenizer', 'own_token_names', 'read_own_tokens']


def read_own_tokens(model: nn.Module, batch: Any) -> Tensor:
    """Lets a causal language model read a text in its own tokens, and answer where the student has read the same text.

    For ``FrozenTeacher(model, forward=read_own_tokens)``, with batches of :class:`composer_kd.data.AlignedTexts`. At
    positions without such an answer nothing is compared; and losses that compare class by class are refused, because
    the numbers of the two vocabularies mean other tokens.

    Args:
        model: The teacher's model.
        batch: A mapping with ``teacher_input_ids`` and ``teacher_attention_mask``, ``(B, S_t)``, and
            ``teacher_positions``, ``(B, S)``: for each of the student's positions that of the teacher, or -1.

    Returns:
        The teacher's logits ``(B, S, V_t)``; where there is no answer, those of its first position.

    Raises:
        TeacherError: If the batch has no such keys.
    """
    if not isinstance(batch, Mapping) or PARTNERS not in batch:
        raise TeacherError(
            f'read_own_tokens: expected a batch with {OWN_INPUTS!r}, {OWN_ATTENTION!r} and {PARTNERS!r}, as '
            'composer_kd.data.AlignedTexts makes them (in a YAML the data set aligned_text)'
        )
    own = {'input_ids': batch[OWN_INPUTS], 'attention_mask': batch[OWN_ATTENTION]}
    logits = logits_of(calling_of(model, own)(model, own), 'the teacher')
    partners = batch[PARTNERS].clamp(min=0).unsqueeze(-1)
    return logits.gather(1, partners.expand(-1, -1, logits.shape[-1]))


read_own_tokens.own_tokens = True  # type: ignore[attr-defined]


def check_own_tokenizer(teacher: Teacher, dataset: Any) -> None:
    """Checks that the tokens which a data set has for a teacher are those of its tokenizer.

    Args:
        teacher: A teacher that reads its own tokens.
        dataset: The data set of the training loader; one without an attribute ``teacher_tokenizer`` is not checked.

    Raises:
        TeacherError: If they are of another tokenizer.
    """
    given = next((one.teacher_tokenizer for one in chain_of(dataset) if hasattr(one, 'teacher_tokenizer')), None)
    theirs = vocabulary_of(given)
    own = vocabulary_of(getattr(module_of(teacher), 'tokenizer', None))
    if theirs is None or own is None:
        return
    moved = moved_tokens(theirs, own)
    if moved:
        raise TeacherError(
            f'The data set has tokens of another tokenizer than that of the teacher {teacher.name!r}: {moved[0]!r} has '
            f'the number {theirs[moved[0]]} there and {own[moved[0]]} here. Give teacher_tokenizer the folder of the '
            'teacher.'
        )


def own_token_names(teachers: Iterable[Any]) -> list[str]:
    """The names of the teachers whose classes are not the student's, which a true attribute ``own_tokens`` says."""
    return [teacher.name for teacher in teachers if getattr(teacher, 'own_tokens', False)]
