"""A model as it is deployed: tensors in, logits out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from composer.models import ComposerClassifier, ComposerModel, HuggingFaceModel
from torch import Tensor, nn

from composer_kd.batches.contents import without_labels
from composer_kd.errors import ConfigError
from composer_kd.features.outputs import logits_of

__all__ = ['Inference']


class Inference(nn.Module):
    """Takes a model out of its training wrapper and calls it with tensors alone.

    What compilers, exporters and timers need: a module without batches, labels, losses or metrics, whose inputs are
    tensors and whose output is the tensor of logits. It shares the model's parameters, and puts it in eval mode.

    Args:
        model: A ComposerModel, a Hugging Face, torchvision or timm model, any module.
        batch: One batch as the model's DataLoader makes them; which keys of a mapping the model takes follows from it.
        adapt: Changes the inputs first, as a teacher's ``input_adapter``.

    Raises:
        ConfigError: If nothing in the batch is an input that the model takes.

    Example:
        >>> import torch
        >>> model = ComposerClassifier(nn.Linear(4, 3), num_classes=3)
        >>> batch = torch.zeros(2, 4), torch.tensor([0, 1])
        >>> inference = Inference(model, batch)
        >>> inference(*inference.inputs_of(batch)).shape
        torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module, batch: Any, adapt: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.model = _unwrapped(model)
        self.adapt = adapt
        parameters = list(inspect.signature(self.model.forward).parameters)
        self.takes_batch = isinstance(self.model, ComposerModel) or parameters[:1] == ['batch']
        self.names = _names(batch, None if self.takes_batch else parameters) if isinstance(batch, Mapping) else []
        # A mapping's tensor that the model takes by position.
        self.key = _only_tensor(batch, parameters) if isinstance(batch, Mapping) and not self.names else None
        # A cache of keys and values is of use in generation alone.
        self.fixed = {'use_cache': False} if 'use_cache' in parameters else {}
        self.eval()

    @property
    def input_names(self) -> list[str]:
        """A name for each tensor of ``inputs_of``."""
        return self.names or ['inputs']

    def inputs_of(self, batch: Any) -> tuple[Tensor, ...]:
        """The tensors that the model is called with.

        Args:
            batch: A batch of the kind that was given first.

        Returns:
            One tensor for each of ``input_names``, the samples along the first dimension.
        """
        if self.names:
            return tuple(batch[name] for name in self.names)
        if self.key is not None:
            return (batch[self.key],)
        return (batch if isinstance(batch, Tensor) else batch[0],)

    def forward(self, *tensors: Tensor) -> Tensor:
        """Answers.

        Args:
            tensors: As ``inputs_of`` gives them.

        Returns:
            The logits, as the model computes them.
        """
        return logits_of(self.call(*tensors), 'the model')

    def call(self, *tensors: Tensor) -> Any:
        """Answers with all that the model returns.

        Args:
            tensors: As ``inputs_of`` gives them.

        Returns:
            A tensor, or something that holds the logits.
        """
        inputs: Any = dict(zip(self.names, tensors)) if self.names else tensors[0]
        if self.adapt is not None:
            inputs = self.adapt(inputs)
        if self.takes_batch:
            return self.model(inputs if self.names else (inputs, None))
        return self.model(**inputs, **self.fixed) if self.names else self.model(inputs)


def _unwrapped(model: nn.Module) -> nn.Module:
    if isinstance(model, ComposerClassifier):
        return model.module
    return model.model if isinstance(model, HuggingFaceModel) else model


def _names(batch: Mapping[str, Any], parameters: Sequence[str] | None) -> list[str]:
    tensors = [key for key in without_labels(batch) if isinstance(batch[key], Tensor)]
    return tensors if parameters is None else [key for key in tensors if key in parameters]


def _only_tensor(batch: Mapping[str, Any], parameters: Sequence[str]) -> str:
    taken = [key for key in without_labels(batch) if key not in ('attention_mask', 'index')]
    tensors = [key for key in taken if isinstance(batch[key], Tensor)]
    if len(tensors) != 1:
        raise ConfigError(
            f'the model takes {", ".join(parameters) or "nothing"}, of which the batch with the keys {sorted(batch)} '
            'has none'
        )
    return tensors[0]
