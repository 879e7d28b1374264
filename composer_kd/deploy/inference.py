"""A model as it is deployed: tensors in, logits out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from composer_kd.batches.contents import without_labels
from composer_kd.features.calling import as_it_is, calling_of, unwrapped
from composer_kd.features.outputs import logits_of

__all__ = ['Inference']


class Inference(nn.Module):
    """Takes a model out of its training wrapper and calls it with tensors alone.

    What compilers, exporters and timers need: a module without batches, labels, losses or metrics, whose inputs are
    tensors in a fixed order and whose output is the tensor of logits. It shares the model's parameters, and puts it in
    eval mode. The model is called as a teacher is (:mod:`composer_kd.features.calling`), but for labels, which no
    deployed model has.

    Args:
        model: A ComposerModel, a Hugging Face, torchvision or timm model, any module.
        batch: One batch as the model's DataLoader makes them; which keys of a mapping the model takes follows from it.
        adapt: Changes the inputs first, as a teacher's ``input_adapter``. Of a mapping it is given all tensors beside
            the labels.

    Raises:
        ConfigError: If nothing in the batch is an input that the model takes.

    Example:
        >>> import torch
        >>> from composer.models import ComposerClassifier
        >>> model = ComposerClassifier(nn.Linear(4, 3), num_classes=3)
        >>> batch = torch.zeros(2, 4), torch.tensor([0, 1])
        >>> inference = Inference(model, batch)
        >>> inference(*inference.inputs_of(batch)).shape
        torch.Size([2, 3])
    """

    def __init__(self, model: nn.Module, batch: Any, adapt: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.model = unwrapped(model)
        self.adapt = adapt or as_it_is
        self.calling = calling_of(self.model, batch)
        self.of_tensors = isinstance(batch, Tensor)
        self.keys: list[str] = []
        if isinstance(batch, Mapping):
            wide = adapt is not None and self.calling.by_name  # an adapter may make inputs of what the model lacks
            tensors = [key for key, value in without_labels(batch).items() if isinstance(value, Tensor)]
            self.keys = [key for key in tensors if wide or self.calling.takes(key)]
        self.eval()

    @property
    def names(self) -> list[str]:
        """The names by which the model takes the entries of a mapping; empty where it takes one tensor."""
        return self.keys if self.calling.by_name else []

    @property
    def input_names(self) -> list[str]:
        """A name for each tensor of ``inputs_of``."""
        return self.names or ['inputs']

    @property
    def predicts_next_token(self) -> bool:
        """Whether it is a causal language model of the transformers library: position ``i`` answers for ``i + 1``."""
        if 'transformers' not in sys.modules:
            return False
        from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

        return type(self.model) in MODEL_FOR_CAUSAL_LM_MAPPING.values()

    @property
    def arguments(self) -> str:
        """Python that calls the bare model with variables called as ``input_names`` are: what stands in the brackets.

        Example:
            >>> import torch
            >>> Inference(nn.Linear(4, 3), torch.zeros(2, 4)).arguments
            'inputs'
        """
        names = self.input_names
        if self.keys:
            batch = f'{{{", ".join(f"{key!r}: {name}" for key, name in zip(self.keys, names))}}}'
        else:
            batch = names[0] if self.of_tensors else f'({names[0]}, None)'
        return self.calling.arguments(batch, names)

    def inputs_of(self, batch: Any) -> tuple[Tensor, ...]:
        """The tensors that the model is called with.

        Args:
            batch: A batch of the kind that was given first.

        Returns:
            One tensor for each of ``input_names``, the samples along the first dimension.
        """
        if self.keys:
            return tuple(batch[key] for key in self.keys)
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
        return self.calling(self.model, self._batch_of(tensors), self.adapt)

    def _batch_of(self, tensors: tuple[Tensor, ...]) -> Any:
        """A batch of the kind that was given first, without labels."""
        if self.keys:
            return dict(zip(self.keys, tensors))
        return tensors[0] if self.of_tensors else (tensors[0], None)
