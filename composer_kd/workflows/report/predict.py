"""Computes the predictions of models on evaluation data, one model after the other."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from composer_kd.batches.contents import IGNORE, labels_of
from composer_kd.batches.masks import aligned_labels
from composer_kd.bench import Candidate
from composer_kd.bench.size import count_flops, size_in_bytes
from composer_kd.deploy import Inference
from composer_kd.errors import ConfigError
from composer_kd.reports import EvaluationSet, ModelEvidence, Predictions
from composer_kd.runs.compared import data_in_words
from composer_kd.runs.evaluate import count_parameters
from composer_kd.runs.saved import SavedRun
from composer_kd.workflows.report.token_losses import has_token_labels, token_losses

__all__ = ['Answering', 'why_not']


class Answering:
    """Computes the predictions of several models on one set of evaluation data.

    Args:
        loader: The data: each iteration gives the same batches.
        batches: Goes through the loader, and yields its batches in the form that models take.
        description: The data, in words.
    """

    def __init__(self, loader: Iterable[Any], batches: Callable[[], Iterator[Any]], description: str) -> None:
        self.dataset = getattr(loader, 'dataset', None)
        self.batches = batches
        self.description = description
        self.num_classes: int | None = getattr(self.dataset, 'num_classes', None)
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        self.first = next(self.batches())
        self.left_out: str | None = None
        self.labels: np.ndarray | None = None
        self.unlabelled = 0
        self.classes = 0
        self.of_tokens = False

    @classmethod
    def of_run(cls, run: SavedRun) -> Answering:
        """On the evaluation data of a run, up to its ``eval_subset_num_batches``.

        Args:
            run: The run with the evaluation data.

        Raises:
            ConfigError: If the run has no evaluation data, or the data cannot be found.
        """
        loader, most = run.loader(), run.config.eval_subset_num_batches
        part = '' if most == -1 else f', the first {most} batches'

        def batches() -> Iterator[Any]:
            return itertools.islice(run.batches(loader), None if most == -1 else most)

        return cls(loader, batches, f'{data_in_words(run)}{part}')

    def __call__(self, candidate: Candidate) -> ModelEvidence:
        """Evaluates one model.

        Args:
            candidate: The model.

        Returns:
            The model's predictions, parameters, size and FLOPs, without the records of its run.

        Raises:
            CheckpointError: If the weights are damaged or do not fit the model.
            ConfigError: If the order of the samples or their labels differ from those for the previous model.
        """
        inference = candidate.inference(self.first)
        parameters, size = count_parameters(inference.model), size_in_bytes(inference.model)
        inference.to(self.device)
        answers = self._answers(inference) if self.left_out is None else None
        losses = token_losses(inference, self.batches(), self.device) if self.of_tokens else None
        return ModelEvidence(candidate, parameters, size, self._flops(inference), answers, token_losses=losses)

    def evaluation_set(self) -> EvaluationSet:
        """Returns the labels and classes, or why predictions are left out; call it after evaluating all models."""
        labels = self.labels if self.labels is not None and self.left_out is None else np.zeros(0, dtype=np.int64)
        names = tuple(_class_names(self.dataset, self.classes)) if self.left_out is None else ()
        return EvaluationSet(self.description, labels, names, self.unlabelled, self.left_out)

    def _answers(self, inference: Inference) -> Predictions | None:
        parts: list[tuple[np.ndarray, ...]] = []
        unlabelled = 0
        for batch in self.batches():
            labels = labels_of(batch)
            with torch.no_grad():
                logits = inference(*(tensor.to(self.device) for tensor in inference.inputs_of(batch))).float().cpu()
            self.left_out = why_not(logits, labels)
            if self.left_out is not None:
                self.of_tokens = has_token_labels(logits, labels)
                return None
            labels = aligned_labels(batch, inference.form)
            assert labels is not None
            labels = labels.reshape(-1)
            known = labels != IGNORE
            unlabelled += int((~known).sum())
            parts.append(_read(logits[known], labels[known]))
            self.classes = max(self.classes, logits.shape[1])
        labels_seen, predicted, confidence, nll = (np.concatenate(column) for column in zip(*parts))
        if not len(labels_seen):
            self.left_out = 'no sample of the evaluation data has a label'
            return None
        self._remember(labels_seen, unlabelled)
        return Predictions(predicted, confidence, nll)

    def _remember(self, labels: np.ndarray, unlabelled: int) -> None:
        if self.labels is not None and not np.array_equal(self.labels, labels):
            raise ConfigError(
                'the evaluation data comes in another order, or with other labels, each time that it is read, so '
                'answers cannot be compared sample by sample; give an eval_loader without randomness'
            )
        self.labels, self.unlabelled = labels, unlabelled

    def _flops(self, inference: Inference) -> float | None:
        """Counts the FLOPs for one sample; ``None`` if the counter cannot handle the model."""
        one = tuple(tensor[:1].to(self.device) for tensor in inference.inputs_of(self.first))
        with (
            contextlib.suppress(Exception),
            contextlib.redirect_stdout(io.StringIO()),
        ):  # the counter may print
            return count_flops(inference, one)
        return None


def why_not(logits: Tensor, labels: Tensor | None) -> str | None:
    """Explains why the output of a model is not one class per sample; returns ``None`` if it is.

    Args:
        logits: The output of the model for a batch.
        labels: The labels of the batch; ``None`` for unlabelled data.

    Example:
        >>> why_not(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)) is None
        True
    """
    if labels is None:
        return 'the evaluation data has no labels'
    if logits.ndim > 2:
        return 'the models answer for tokens or pixels, and these sections are about one class for each sample'
    if logits.ndim < 2 or logits.shape[1] < 2:
        return 'the models answer with a number, and these sections are about classes'
    if labels.is_floating_point() or labels.shape not in (logits.shape[:1], (len(logits), 1)):
        return 'the labels are no class numbers (several labels at once, or soft ones)'
    return None


def _read(logits: Tensor, labels: Tensor) -> tuple[np.ndarray, ...]:
    logarithms = logits.double().log_softmax(dim=1)
    confidence, predicted = logarithms.exp().max(dim=1)
    nll = -logarithms.gather(1, labels[:, None].long())[:, 0]
    return labels.long().numpy(), predicted.numpy(), confidence.numpy(), nll.numpy()


def _class_names(dataset: Any, number: int) -> list[str]:
    """Returns the class names of a data set; if it has none, the class numbers as text."""
    while dataset is not None:
        features = getattr(dataset, 'features', None)
        label = features.get('label') if isinstance(features, dict) else None
        for names in (getattr(dataset, 'classes', None), getattr(label, 'names', None)):
            if isinstance(names, (list, tuple)) and len(names) == number:
                return [str(name) for name in names]
        dataset = getattr(dataset, 'dataset', None)
    return [str(index) for index in range(number)]
