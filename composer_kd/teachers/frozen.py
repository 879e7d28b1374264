"""A frozen teacher: a model in eval mode, without gradients, on the student's device."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, cast

from composer.core import State
from torch import Tensor, nn

from composer_kd.batches.contents import without_labels
from composer_kd.errors import TeacherError, is_of_device
from composer_kd.features.calling import as_it_is, choose_call, settings_of, unwrapped, with_inputs
from composer_kd.features.meta import to_evaluation
from composer_kd.presentation.addresses import without_credentials
from composer_kd.teachers.base import teacher_logits
from composer_kd.teachers.checkpoints import load_weights
from composer_kd.teachers.placement import place
from composer_kd.teachers.recorded import answer_of_recorded, is_recorded

__all__ = ['FrozenTeacher']


class FrozenTeacher:
    """A model whose weights never change, as a teacher.

    Its parameters require no gradient, it stays in eval mode when the student is in train mode, and no other module's
    ``state_dict`` contains it. Modules that accelerate, bitsandbytes or a sharding placed stay where they are. What the
    student's config says of a cache (``use_cache``) is what the teacher is told. The kind of model decides how it is
    called:

    * a ``ComposerModel`` gets the batch (a ``HuggingFaceModel`` without the labels, to save the computation of its
      loss);
    * a Hugging Face model, or any module whose ``forward`` names keys of a mapping, gets those keys;
    * a module whose ``forward`` has ``batch`` as its first parameter gets the batch;
    * any other module (torchvision, timm, your own) gets the inputs: the first element of an ``(inputs, labels)`` pair,
      or the only tensor of a mapping besides its labels.

    Args:
        model: The module. It is not copied.
        checkpoint: The source of its weights: the path or URI of a Composer checkpoint, a file of ``torch.save`` or
            safetensors, or a folder of ``save_pretrained`` (:func:`composer_kd.teachers.load_weights`).
        input_adapter: Changes the inputs for this teacher only, e.g. a :class:`NormalizationAdapter`. Any callable that
            takes the inputs (the tensor of a pair; for mappings a dict without the labels) and returns a new object.
        forward: A function ``forward(model, batch)`` that returns logits, for models that the rules above do not fit.
            It gets the batch that the student gets: with :class:`composer_kd.models.IndexedClassifier` the triple
            ``(inputs, labels, index)``. If it has a parameter ``index``, this gets ``(B,)`` the samples' numbers in the
            training set instead, by which stored answers are found. In evaluation there are no such numbers: a pair,
            and ``None``.
        name: Its name in messages; ``None`` for the checkpoint's path or, without a checkpoint, the model's class.
        entry: Which weights of the checkpoint, if several fit: their dotted path, such as ``'ema'``.

    Raises:
        TeacherError: If ``model`` is not a module, its outputs contain no logits, or there is an ``entry`` of no
            checkpoint.
        CheckpointError: If the weights cannot be loaded.

    Example:
        >>> import torch
        >>> teacher = FrozenTeacher(torch.nn.Linear(2, 3), name='big')
        >>> teacher((torch.zeros(4, 2), torch.zeros(4))).shape
        torch.Size([4, 3])
        >>> teacher.model.training
        False
    """

    def __init__(
        self,
        model: nn.Module,
        checkpoint: str | os.PathLike[str] | None = None,
        input_adapter: Callable[[Any], Any] | None = None,
        forward: Callable[[nn.Module, Any], Any] | None = None,
        name: str | None = None,
        entry: str | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TeacherError(
                f'A teacher must be a torch.nn.Module, got {type(model).__name__}. '
                'Give a module, a list of modules, or {checkpoint: module}.'
            )
        if input_adapter is not None and not callable(input_adapter):
            raise TeacherError(f'input_adapter must be a callable of the inputs, got {type(input_adapter).__name__}')
        if entry is not None and checkpoint is None:
            raise TeacherError(f'entry={entry!r} names weights in a checkpoint: give FrozenTeacher its checkpoint too')
        self.model = model
        self.input_adapter = input_adapter
        self.checkpoint = None if checkpoint is None else without_credentials(os.fspath(checkpoint))
        self.name = name or self.checkpoint or type(model).__name__
        self._forward = forward
        self._by_index = forward is not None and _has_index(forward)
        self._settings: dict[str, Any] | None = None
        self._student_takes: Collection[str] = ()
        self._call: Callable[[Any, Tensor | None], Any] | None = None
        self._takes: type | None = None  # the kind of batch that this call takes
        if checkpoint is not None:
            load_weights(model, checkpoint, entry)
        to_evaluation(model)
        self._parts = list(model.modules())

    @property
    def has_own_forward(self) -> bool:
        """Whether a function of the user's calls the model."""
        return self._forward is not None

    @property
    def own_tokens(self) -> bool:
        """Whether its classes are tokens of another tokenizer than the student's."""
        forward: Any = getattr(self._forward, 'func', self._forward)  # with options of a YAML
        return bool(getattr(forward, 'own_tokens', False))

    def prepare(self, state: State) -> None:
        """Moves the teacher and its adapter to the run's device, in eval mode and frozen.

        How the model is called is decided again at the next batch. A model that accelerate, bitsandbytes or a sharding
        has placed stays where it is.
        """
        if not hasattr(state, 'device'):
            raise TeacherError(f"prepare expects the run's State, got {type(state).__name__}")
        self.forget_call()
        self._settings = settings_of(unwrapped(state.model)) or None
        self._student_takes = getattr(state.model, 'model_forward_args', ())  # of a HuggingFaceModel
        for module in (self.model, self.input_adapter):
            if isinstance(module, nn.Module):
                place(module, state.device, self.name)

    def __call__(self, batch: Any) -> Tensor:
        """Returns the teacher's logits for a batch, which stays unchanged.

        The caller decides about gradients and precision: :class:`composer_kd.Distillation` disables gradients and
        enters the trainer's precision context.
        """
        return cast(Tensor, teacher_logits(self, batch))

    def outputs(self, batch: Any, index: Tensor | None = None) -> Any:
        """Returns the outputs of the teacher's model for a batch; they need not contain logits.

        Args:
            batch: A microbatch as models take it; stays unchanged.
            index: ``(B,)`` The samples' numbers in the data set, for a ``forward`` that takes them.

        Raises:
            TeacherError: If the model cannot take the batch, or changes it in place.
        """
        if any(part.training for part in self._parts):  # train() was called on it or on a submodule
            to_evaluation(self.model)
        inputs = _tensors(batch)
        versions = [tensor._version for tensor in inputs]
        outputs = self._answer(batch, index)
        if versions != [tensor._version for tensor in inputs]:
            raise TeacherError(
                f'The teacher {self.name!r} or its input_adapter changes the batch in place, which others need. '
                'Give it a copy: FrozenTeacher(model, input_adapter=torch.clone), or an adapter that makes new tensors.'
            )
        return outputs

    def _answer(self, batch: Any, index: Tensor | None) -> Any:
        """Calls the model; how is decided at the first batch of a kind: evaluators may have others than training.

        If a call fails, the error says what to change.
        """
        try:
            known = self._call if type(batch) is self._takes else None
            call = known or self._choose_call(batch)
            if known is None and is_recorded(self.model):
                outputs = answer_of_recorded(self.model, partial(call, batch, index), self.name)
            else:
                outputs = call(batch, index)
        except TeacherError:
            raise
        except Exception as error:
            if is_of_device(error):
                raise
            raise TeacherError(
                f'The teacher {self.name!r} cannot answer for this batch of {_described(batch)}: '
                f'{type(error).__name__}: {error}. Does it need other inputs or another dtype '
                f'(FrozenTeacher(model, input_adapter=...)), or to be called otherwise {self._otherwise()}?'
            ) from error
        self._call, self._takes = call, type(batch)
        return outputs

    def _otherwise(self) -> str:
        if self._forward is None or self._by_index:
            return '(FrozenTeacher(model, forward=lambda model, batch: ...))'
        return "(its forward gets the batch as the student gets it; a parameter named index gets the samples' numbers)"

    def forget_call(self) -> None:
        """Makes the next batch decide again how the model is called, after a copy or for another form of batch."""
        self._call = None
        self._parts = list(self.model.modules())

    def end_batch(self, state: State) -> None:
        """Does nothing, because a frozen teacher never changes."""

    def _choose_call(self, batch: Any) -> Callable[[Any, Tensor | None], Any]:
        # Partial functions, because a copy of them refers to the copy of the model.
        if self._forward is None:
            call = choose_call(self.model, batch, self.input_adapter, f'The teacher {self.name!r}', self._settings)
            if isinstance(batch, Mapping) and self.input_adapter is None:
                self._say_unseen(batch, call.func)
            return partial(_without_index, call)
        way = _with_index if self._by_index else _as_the_student
        return partial(way, partial(_of_inputs, partial(self._forward, self.model), self.input_adapter or as_it_is))

    def _say_unseen(self, batch: Mapping[str, Any], calling: Any) -> None:
        """Warns of inputs that the student gets and the teacher does not."""
        unseen = [key for key in without_labels(batch) if key in self._student_takes and not calling.takes(key)]
        if unseen:
            warnings.warn(
                f'The teacher {self.name!r} does not take {", ".join(map(repr, unseen))} of the batch, which the '
                'student takes: it may answer for other inputs. If that is right, say how to call it: '
                'FrozenTeacher(model, forward=lambda model, batch: ...).',
                stacklevel=2,
            )

    def __repr__(self) -> str:
        return f'FrozenTeacher({self.name})'


def _without_index(call: Callable[..., Any], batch: Any, index: Tensor | None) -> Any:
    return call(batch)


def _as_the_student(call: Callable[..., Any], batch: Any, index: Tensor | None) -> Any:
    """Calls with the batch that the student gets: a triple, if its third part was the index."""
    is_triple = index is not None and not isinstance(batch, Mapping)
    return call((*batch, index) if is_triple else batch)


def _with_index(call: Callable[..., Any], batch: Any, index: Tensor | None) -> Any:
    return call(batch, index=index)


def _of_inputs(forward: Callable[..., Any], adapt: Callable[[Any], Any], batch: Any, **index: Any) -> Any:
    return forward(with_inputs(batch, adapt), **index)


def _has_index(forward: Callable[..., Any]) -> bool:
    """Whether a function has a parameter ``index``."""
    try:
        return 'index' in inspect.signature(forward).parameters
    except (TypeError, ValueError):  # functions written in C tell nothing
        return False


def _tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch that have a version counter, which counts changes in place."""
    parts = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, Sequence) else (batch,)
    return [part for part in parts if isinstance(part, Tensor) and not part.is_inference()]


def _described(batch: Any) -> str:
    named = (
        batch.items() if isinstance(batch, Mapping) else enumerate(batch if isinstance(batch, Sequence) else (batch,))
    )
    return ', '.join(
        f'{name}: {tuple(part.shape)} {str(part.dtype).removeprefix("torch.")}' if isinstance(part, Tensor)
        else f'{name}: {type(part).__name__}'
        for name, part in named
    )  # fmt: skip
