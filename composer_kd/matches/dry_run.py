"""The dry run: measures shapes on the first samples of the data, and tries every match on random values of them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from composer.core import State
from torch import Tensor

from composer_kd.batches.contents import with_labels
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.masks import source_of, tokens_of, valid_of
from composer_kd.batches.microbatch import Microbatch
from composer_kd.data.view_index import first_items
from composer_kd.errors import TeacherError
from composer_kd.matches.term import Key, LossTerm
from composer_kd.teachers import FrozenTeacher, NotMeasured, Shapes, Teacher, TeacherPool, measured

__all__ = ['Samples', 'measure', 'dry_run', 'first_samples', 'runs_anywhere']

_MOST = 2**24
"""The most logits that are made for a try: a large vocabulary times long sequences would fill the memory."""

_NOTHING = 1e-12
"""The largest loss of random features that is a zero with the rounding of float32."""


@dataclass(frozen=True)
class Samples:
    """The first samples of the training data, and the shapes of the models' features and logits on them.

    Attributes:
        batch: Up to four samples as a batch, as models take it.
        index: ``(B,)`` The samples' numbers in the data set; ``None`` if the batch has none.
        shapes: The shapes of features, the batch first: the student's under ``None``, each teacher's under its number.
        logits: The shapes of logits under the same keys, as far as they are compared and could be measured.
    """

    batch: Any
    index: Tensor | None
    shapes: dict[int | None, dict[Key, torch.Size]]
    logits: dict[int | None, torch.Size]


def measure(state: State, pool: TeacherPool, terms: Sequence[LossTerm], form: BatchFormat) -> Samples:
    """Measures the shapes of all features and logits that the loss terms compare.

    The run stays unchanged: copies of the models run on torch's meta device where possible, else the models themselves,
    the student in train mode and the teachers in eval mode; the dataloader is not started.

    Args:
        state: The state of the run.
        pool: The teachers.
        terms: The loss terms.
        form: The format of the batches.

    Raises:
        NotMeasured: If the data set gives no samples, or a model cannot take them.
        ConfigError: If a layer path names nothing that could be compared.
        TeacherError: If logits are compared, and there are none in what a model returns.
    """
    whole = first_samples(state)
    batch, index = form.split(whole)
    own = [key for term in terms for key in (*term.student_keys, *(term.teacher_keys if term.is_own else ()))]
    ours = measured(state.model, whole, own, 'the student')
    looks: dict[int | None, Shapes] = {None: ours}
    on_logits = {term.teacher for term in terms if term.match.on_logits}
    answering = {*range(len(pool.teachers))} if None in on_logits else on_logits
    for number, teacher in enumerate(pool.teachers):
        keys = [key for term in terms if term.teacher == number for key in term.teacher_keys]
        if keys:
            looks[number] = measured(teacher, batch, keys, _name(teacher), index)
        elif _is_plain(teacher) and number in answering:  # others may notice that they run
            with contextlib.suppress(NotMeasured):
                looks[number] = measured(teacher, batch, (), _name(teacher), index)
    logits = {who: _shape(look) for who, look in looks.items() if (on_logits if who is None else who in answering)}
    return Samples(batch, index, {who: look.features for who, look in looks.items()}, logits)


def dry_run(state: State, terms: Sequence[LossTerm], samples: Samples, form: BatchFormat) -> None:
    """Computes every loss term on random values of the measured shapes, so that errors show before training starts.

    Args:
        state: The state of the run.
        terms: The loss terms. Of logits, those losses alone are called that take any numbers: functions of the user's
            own may count their calls or keep something of them, and some of torch's losses want probabilities.
        samples: The first samples, measured.
        form: The format of the batches.

    Raises:
        TeacherError: If the logits of a teacher and the student differ in shape.
        LossError: If a loss cannot compare what it gets, or needs labels or an index that the data does not have.

    Warns:
        UserWarning: If features of these shapes have a loss of 0, whatever they are.
    """
    to_device = state.device.tensor_to_device
    index = None if samples.index is None else to_device(samples.index)
    batch = state.device.batch_to_device(samples.batch)
    micro = Microbatch(batch, state.timestamp.batch.value, index=index, form=form)
    micro.tokens, micro.source = tokens_of(batch, form), source_of(batch, form)
    # What labels hold may change until training (transforms, other algorithms): of logits, shapes alone are tried.
    known = Microbatch(with_labels(batch, torch.zeros_like), micro.number, index=index, form=form)
    known.valid = valid_of(known.batch, form)
    with torch.random.fork_rng(devices=[]):
        for term in terms:
            if term.student_keys:  # numbers between 0 and 1, which losses of probabilities take too
                ours = {k: to_device(torch.rand(samples.shapes[None][k])).requires_grad_() for k in term.student_keys}
                theirs = {k: to_device(torch.rand(samples.shapes[term.teacher][k])) for k in term.teacher_keys}
                _warn_of_nothing(term, term.detached_copy().of_features(state, ours, theirs, micro), samples)
            elif None in samples.logits:
                _try_logits(state, term, samples.logits, known)


def runs_anywhere(state: State) -> bool:
    """Whether one rank alone may run the student, on samples of any number: it is neither sharded nor compiled."""
    compiled = any(hasattr(module, '_orig_mod') for module in state.model.modules())
    return state.fsdp_config is None and state.tp_config is None and not compiled


def _try_logits(state: State, term: LossTerm, shapes: Mapping[int | None, torch.Size], micro: Microbatch) -> None:
    """Compares the shapes of logits, and computes a loss on random ones: once for each shape of the teachers'."""
    ours = shapes[None]
    teachers = [number for number in shapes if number is not None and term.teacher in (None, number)]
    for number in teachers:
        term.check_fit(ours, shapes[number], [number])
    micro.layout(torch.empty(ours, device='meta'), term.adapter.classes_dim)  # refuses a contradiction
    if ours.numel() > _MOST or not term.adapter.is_known:
        return
    for theirs in {shapes[number] for number in teachers} or {ours}:
        student, teacher = (state.device.tensor_to_device(torch.randn(shape)) for shape in (ours, theirs))
        term.detached_copy().of_logits(state, student.requires_grad_(), teacher, micro, teachers)


def _warn_of_nothing(term: LossTerm, value: Tensor, samples: Samples) -> None:
    """Warns of a loss that is 0 on random features: that of the positions of a map which has one alone, for example."""
    if value.detach().abs() > _NOTHING:
        return
    ours = ', '.join(str(tuple(samples.shapes[None][key])) for key in term.student_keys)
    theirs = ', '.join(str(tuple(samples.shapes[term.teacher][key])) for key in term.teacher_keys)
    warnings.warn(
        f'Match {term.match.name!r}: {term.adapter.name} is 0 on random features of the shapes that it compares, '
        f'student {ours} and teacher {theirs}, as if it taught nothing. If it compares the positions of a map, as '
        'attention_transfer does, match a layer with more than one position, before the pooling; or compare channels: '
        'hint, cosine.',
        stacklevel=2,
    )


def _shape(look: Shapes) -> torch.Size:
    if isinstance(look.logits, TeacherError):
        raise look.logits
    return look.logits


def _is_plain(teacher: Teacher) -> bool:
    return isinstance(teacher, FrozenTeacher) and not teacher.has_own_forward


def _name(teacher: Teacher) -> str:
    return f'the teacher {teacher.name!r}'


def first_samples(state: State) -> Any:
    """Up to four samples of the training data as a batch.

    Raises:
        NotMeasured: If the data set gives none.
    """
    loader = state.train_dataloader
    try:
        return loader.collate_fn(first_items(loader.dataset, 4))
    except Exception as error:
        raise NotMeasured(
            "For project='auto', and for losses without sizes, shapes are measured on the first samples of the "
            f"train_dataloader's data set, which cannot be had: {type(error).__name__}: {error}. "
            'Give modules, and losses their sizes.'
        ) from error
