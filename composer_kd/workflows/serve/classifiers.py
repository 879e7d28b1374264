"""Classifiers that answer one input side by side, and are timed in turns."""

from __future__ import annotations

import functools
import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from composer_kd.deploy import Inference
from composer_kd.errors import ConfigError
from composer_kd.workflows.serve.answers import Answer, Described
from composer_kd.workflows.serve.labels import labels_of
from composer_kd.workflows.serve.models import ServedModel, fastest_device
from composer_kd.workflows.serve.timing import Measured, measured

__all__ = ['Classifiers']


class Classifiers:
    """Models that answer with logits of the same classes. They answer one request at a time, so that times are right.

    Args:
        models: The models.
        batches: For each of them, a batch of one sample.
        several: Whether several classes may apply to one input.

    Attributes:
        models: The models.
        labels: The classes.

    Raises:
        ConfigError: If a model does not answer, or the classes of the models differ.
    """

    def __init__(self, models: Sequence[ServedModel], batches: Sequence[Any], several: bool = False) -> None:
        self.models = list(models)
        self._device = fastest_device()
        self._one_at_a_time = threading.Lock()
        self._inferences = [
            Inference(model.model, batch, model.adapt).to(self._device.torch_device)
            for model, batch in zip(models, batches)
        ]
        logits = [self._logits(inference, *self._placed(inference, one)) for inference, one in self._with(batches)]
        for model, found in zip(models, logits):
            if found.ndim != 2 or len(found) != 1 or found.shape[1] < 2:
                raise ConfigError(
                    f'{model.name}: expected logits (1, classes) of one sample, got {tuple(found.shape)}; models of '
                    'one score, or of a class for each position, have no page'
                )
        counts = {model.name: found.shape[1] for model, found in zip(models, logits)}
        self.labels = labels_of(models, counts, several)

    def answers(self, batches: Sequence[Any], notes: Sequence[Sequence[str]] | None = None) -> list[Answer]:
        """Answers of all models to one input.

        Args:
            batches: The input as a batch of one sample, as each model takes it.
            notes: What readers should know of each model's input.

        Returns:
            One answer for each model, in their order.
        """
        with self._one_at_a_time:
            runs = {
                model.name: functools.partial(self._logits, inference, *self._placed(inference, batch))
                for model, (inference, batch) in zip(self.models, self._with(batches))
            }
            found = measured(runs, self._device.clock)
        said = notes or [()] * len(self.models)
        return [self._answer(model, found[model.name], own) for model, own in zip(self.models, said)]

    def _with(self, batches: Sequence[Any]) -> list[tuple[Inference, Any]]:
        return list(zip(self._inferences, batches))

    def _placed(self, inference: Inference, batch: Any) -> list[Tensor]:
        return [one.to(self._device.torch_device) for one in inference.inputs_of(batch)]

    @torch.inference_mode()
    def _logits(self, inference: Inference, *tensors: Tensor) -> Tensor:
        logits: Tensor = inference(*tensors)
        return logits

    def _answer(self, model: ServedModel, found: Measured[Tensor], notes: Sequence[str]) -> Answer:
        of = Described.of(model)
        if found.result is None:
            return Answer(of, error=found.error)
        try:
            label, confidences = self.labels.read(found.result[0])
        except ConfigError as error:
            return Answer(of, error=str(error))
        return Answer(of, label, confidences, found.seconds, notes)
