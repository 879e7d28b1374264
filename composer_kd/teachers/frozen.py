"""A frozen model that teaches: how it is called, kept in eval mode, and brought onto the student's device."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from composer.devices import Device
from composer.models import ComposerModel, HuggingFaceModel
from torch import Tensor, nn

from composer_kd.errors import TeacherError
from composer_kd.observation import logits_of, without_labels
from composer_kd.teachers.checkpoints import load_weights

__all__ = ['FrozenTeacher']


class FrozenTeacher:
    """A model that answers for a batch and never changes.

    Its parameters need no gradient, it stays in eval mode whatever happens to the student, and it is part of nobody's
    ``state_dict``. How it is called follows from what it is:

    * a ``ComposerModel`` gets the batch (a ``HuggingFaceModel`` without the labels, to spare it its loss);
    * a Hugging Face model, or any module whose ``forward`` names keys of a mapping, gets those keys;
    * a module whose ``forward`` has ``batch`` as its first parameter gets the batch;
    * any other module (torchvision, timm, your own) gets the inputs: the first of an ``(inputs, labels)`` pair, or the
      only tensor of a mapping beside its labels.

    Args:
        model: The module. It is not copied.
        checkpoint: Where its weights come from: a Composer checkpoint or a state dict, a path or URI
            (:func:`composer_kd.teachers.load_weights`).
        input_adapter: Changes the inputs for this teacher alone, e.g. a :class:`NormalizationAdapter`: any callable
            of the inputs (the tensor of a pair; for mappings a dict without the labels) that returns a new object.
        forward: Says how to call the model where the rules above don't fit: ``forward(model, batch)`` returns logits.
        name: Names it in messages; else its class or checkpoint does.

    Raises:
        TeacherError: If ``model`` is not a module, or no logits can be found in its output.
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
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TeacherError(
                f'A teacher must be a torch.nn.Module, got {type(model).__name__}. '
                'Give a module, a list of modules, or {checkpoint: module}.'
            )
        if input_adapter is not None and not callable(input_adapter):
            raise TeacherError(f'input_adapter must be a callable of the inputs, got {type(input_adapter).__name__}')
        self.model = model
        self.input_adapter = input_adapter
        self.name = name or (os.fspath(checkpoint) if checkpoint is not None else type(model).__name__)
        self._forward = forward
        self._call: Callable[[Any], Any] | None = None
        if checkpoint is not None:
            load_weights(model, checkpoint)
        self.model.eval()
        self._parts = list(model.modules())

    def prepare(self, device: Device) -> None:
        """Brings the teacher and its adapter onto a device, in eval mode and frozen."""
        for module in (self.model, self.input_adapter):
            if isinstance(module, nn.Module):
                device.module_to_device(module)
                module.eval()
                for parameter in module.parameters():  # a ScriptModule has no requires_grad_
                    parameter.requires_grad_(False)

    def __call__(self, batch: Any) -> Tensor:
        """The teacher's logits for a batch, which is left as it is.

        Gradients and precision are the caller's: :class:`composer_kd.Distillation` turns the former off and enters
        the trainer's precision context.
        """
        if any(part.training for part in self._parts):  # someone called train() on it, or on a part of it
            self.model.eval()
        inputs = _tensors(batch)
        versions = [tensor._version for tensor in inputs]
        outputs = self._first_call(batch) if self._call is None else self._call(batch)
        if versions != [tensor._version for tensor in inputs]:
            raise TeacherError(
                f'The teacher {self.name!r} or its input_adapter changes the batch in place, which others need. '
                'Give it a copy: FrozenTeacher(model, input_adapter=torch.clone), or an adapter that makes new tensors.'
            )
        return logits_of(outputs, f'the teacher {self.name!r}')

    def _first_call(self, batch: Any) -> Any:
        """Finds out how the model is called, and says whose fault it is when it cannot be."""
        try:
            call = self._choose_call(batch)
            outputs = call(batch)
        except TeacherError:
            raise
        except Exception as error:
            # Composer looks for some of these, to try again with smaller microbatches.
            if any(sign in str(error).lower() for sign in ('out of memory', 'cuda', 'cudnn', 'c10')):
                raise
            raise TeacherError(
                f'The teacher {self.name!r} cannot answer for this batch of {_described(batch)}: '
                f'{type(error).__name__}: {error}. Does it need other inputs or another dtype '
                '(FrozenTeacher(model, input_adapter=...)), or to be called otherwise '
                '(FrozenTeacher(model, forward=lambda model, batch: ...))?'
            ) from error
        self._call = call
        return outputs

    def forget_call(self) -> None:
        """Makes the next batch decide anew how the model is called: for another kind of batch, or after a copy."""
        self._call = None
        self._parts = list(self.model.modules())

    def _choose_call(self, batch: Any) -> Callable[[Any], Any]:
        """How this model takes batches of this kind; decided once."""
        model, adapt = self.model, self.input_adapter or _as_it_is
        if self._forward is not None:
            forward = self._forward
            return lambda batch: forward(model, _with_inputs(batch, adapt))
        of_keys = isinstance(model, HuggingFaceModel) and isinstance(batch, Mapping)
        if isinstance(model, ComposerModel) and not of_keys:
            return lambda batch: model(_with_inputs(batch, adapt))
        parameters = inspect.signature(_plain_forward(model)).parameters
        if isinstance(batch, Mapping):
            return self._choose_keys(batch, model, parameters, adapt)
        if next(iter(parameters), None) == 'batch':
            return lambda batch: model(_with_inputs(batch, adapt))
        if isinstance(batch, Sequence):
            return lambda batch: model(adapt(batch[0]))
        return lambda batch: model(adapt(batch))

    def _choose_keys(
        self, batch: Mapping[str, Any], model: nn.Module, parameters: Mapping[str, Any], adapt: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        """The same for a mapping: by names, as a whole, or its only tensor."""
        module, names = model, set(parameters)
        if isinstance(model, HuggingFaceModel):
            module, names = model.model, set(model.model_forward_args)
        needs_labels = bool(getattr(getattr(model, 'config', None), 'is_encoder_decoder', False))
        keys = set(without_labels(batch))
        # Hugging Face models name all their inputs: their **kwargs are for settings.
        named = hasattr(model, 'config') or isinstance(model, HuggingFaceModel)
        if not named and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
            names |= keys
        if not keys & names:
            if next(iter(parameters), None) == 'batch':
                return lambda batch: model(_with_inputs(batch, adapt))
            tensors = [key for key in keys - {'attention_mask'} if isinstance(batch[key], Tensor)]
            if len(tensors) == 1:
                return lambda batch: module(adapt(without_labels(batch))[tensors[0]])
            raise TeacherError(
                f'The teacher {self.name!r} takes {", ".join(parameters) or "nothing"}, of which the batch with the '
                f'keys {sorted(batch)} has none. Say how to call it: '
                'FrozenTeacher(model, forward=lambda model, batch: ...).'
            )
        # A cache of keys and values is of use in generation alone.
        fixed = {'use_cache': False} if 'use_cache' in names and 'use_cache' not in batch else {}
        return lambda batch: module(
            **{key: value for key, value in adapt(without_labels(batch, needs_labels)).items() if key in names}, **fixed
        )

    def __repr__(self) -> str:
        return f'FrozenTeacher({self.name})'


def _as_it_is(inputs: Any) -> Any:
    return inputs


def _plain_forward(model: nn.Module) -> Callable[..., Any]:
    """The forward that names its parameters: torch.compile hides it behind ``(*args, **kwargs)``."""
    return getattr(model, '_orig_mod', model).forward


def _tensors(batch: Any) -> list[Tensor]:
    """The tensors of a batch that keep count of changes."""
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


def _with_inputs(batch: Any, adapt: Callable[[Any], Any]) -> Any:
    """The batch with adapted inputs, in a container of its own."""
    if isinstance(batch, Mapping):
        return dict(batch) if adapt is _as_it_is else {**batch, **adapt(without_labels(batch))}
    if isinstance(batch, Sequence):
        return (adapt(batch[0]), *batch[1:])
    return adapt(batch)
