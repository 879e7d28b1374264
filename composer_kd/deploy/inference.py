"""A model prepared for deployment: it takes tensors and returns logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from composer.models import ComposerModel
from torch import Tensor, nn

from composer_kd.batches.contents import labels_of, without_labels
from composer_kd.batches.format import BatchFormat
from composer_kd.features.calling import as_it_is, calling_of, unwrapped
from composer_kd.features.outputs import output_of

__all__ = ['Inference']


class Inference(nn.Module):
    """Removes the training wrapper of a model, and calls the model with tensors only.

    This is the interface that compilers, exporters and timers need: a module without batches, labels, losses or
    metrics, whose inputs are tensors in a fixed order and whose output is the tensor of logits. It shares the model's
    parameters, and sets it to eval mode. The model is called in the same way as a teacher
    (:mod:`composer_kd.features.calling`), but without labels.

    Args:
        model: A ComposerModel, a Hugging Face, torchvision or timm model, or any other module.
        batch: One batch of the model's DataLoader. It determines which entries of a mapping the model takes. Where an
            encoder-decoder makes the inputs of its decoder from the labels, these inputs are an entry as well.
        adapt: Applied to the inputs first, like a teacher's ``input_adapter``. For a mapping it gets all tensors except
            the labels.

    Attributes:
        form: The format of its batches: which label belongs to each position, and which is ignored.

    Raises:
        ConfigError: If the batch contains no input of the model.

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
        self.form = BatchFormat.of(model)
        self.adapt = adapt or as_it_is
        batch = self.completed(batch)
        self.calling = calling_of(self.model, batch)
        # A ComposerModel takes pairs, also where the data has no labels.
        self.is_bare = isinstance(batch, Tensor) and not isinstance(self.model, ComposerModel)
        self.keys: list[str] = []
        if isinstance(batch, Mapping):
            wide = adapt is not None and self.calling.by_name  # an adapter may use entries that the model does not take
            tensors = [key for key, value in without_labels(batch).items() if isinstance(value, Tensor)]
            self.keys = [key for key in tensors if wide or self.calling.takes(key)]
        self.eval()

    @property
    def predicts_next_token(self) -> bool:
        """Whether position ``i`` predicts label ``i + 1``, as in causal language models."""
        return self.form.shift_labels

    @property
    def names(self) -> list[str]:
        """The names of the entries that the model takes as keyword arguments; empty for other models."""
        return self.keys if self.calling.by_name else []

    @property
    def input_names(self) -> list[str]:
        """The names of the tensors that ``inputs_of`` returns."""
        return self.names or ['inputs']

    @property
    def arguments(self) -> str:
        """The arguments of a call of the unwrapped model, as Python code with variables named like ``input_names``.

        Example:
            >>> import torch
            >>> Inference(nn.Linear(4, 3), torch.zeros(2, 4)).arguments
            'inputs'
        """
        names = self.input_names
        if self.keys:
            batch = f'{{{", ".join(f"{key!r}: {name}" for key, name in zip(self.keys, names))}}}'
        else:
            batch = names[0] if self.is_bare else f'({names[0]}, None)'
        return self.calling.arguments(batch, names)

    def inputs_of(self, batch: Any) -> tuple[Tensor, ...]:
        """Selects the model's inputs from a batch.

        Args:
            batch: A batch of the same structure as the one passed to the constructor.

        Returns:
            One tensor for each of ``input_names``, with the samples along the first dimension.
        """
        if self.keys:
            completed = self.completed(batch)
            return tuple(completed[key] for key in self.keys)
        return (batch if isinstance(batch, Tensor) else batch[0],)

    def completed(self, batch: Any) -> Any:
        """Adds the inputs of the decoder that an encoder-decoder of transformers makes from the labels.

        Args:
            batch: A batch; stays unchanged.

        Returns:
            A copy with ``decoder_input_ids``; the batch itself if it has some or no labels, or for other models.
        """
        make: Any = getattr(self.model, 'prepare_decoder_input_ids_from_labels', None)
        if make is None or not isinstance(batch, Mapping) or 'decoder_input_ids' in batch:
            return batch
        labels = labels_of(batch)
        return batch if labels is None else {**batch, 'decoder_input_ids': make(labels=labels)}

    def forward(self, *tensors: Tensor) -> Tensor:
        """Computes the logits.

        Args:
            tensors: The inputs, as ``inputs_of`` returns them.

        Returns:
            The logits, in the model's dtype.
        """
        return output_of(self.call(*tensors), 'the model', 'Let its forward return the logits alone')

    def call(self, *tensors: Tensor) -> Any:
        """Computes the model's complete output.

        Args:
            tensors: The inputs, as ``inputs_of`` returns them.

        Returns:
            The logits, or an object that contains them.
        """
        return self.calling(self.model, self._batch_of(tensors), self.adapt)

    def _batch_of(self, tensors: tuple[Tensor, ...]) -> Any:
        """Rebuilds a batch without labels, of the same structure as the one passed to the constructor."""
        if self.keys:
            return dict(zip(self.keys, tensors))
        return tensors[0] if self.is_bare else (tensors[0], None)
