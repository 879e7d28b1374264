"""Several models that answer together: the mean of their probabilities."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from composer.models import ComposerModel
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import layout_of
from composer_kd.errors import ConfigError
from composer_kd.features.outputs import logits_of
from composer_kd.teachers.meanings import class_names

__all__ = ['Ensemble']


class Ensemble(ComposerModel):
    r"""Averages the predictions of several models of the same task, as those of born-again generations.

    Its logits are :math:`\log \frac{1}{k} \sum_{i=1}^k \mathrm{softmax}(z_i)`, whose softmax is the mean of the
    probabilities; the paper averages the predictions of the generations (Furlanello et al., arXiv 1805.04770). Its
    metrics and its loss are those of the first model.

    Args:
        members: The models, for Composer.

    Raises:
        ConfigError: If there are none, or their classes are named in other orders (``config.id2label``); when it is
            called, if the models have one output or several labels per sample, whose predictions are no distribution
            over classes.

    Example:
        >>> from composer.models import ComposerClassifier
        >>> one, other = (nn.Linear(1, 2, bias=False) for _ in range(2))
        >>> _ = one.weight.data.copy_(torch.tensor([[0.9], [0.1]]).log())
        >>> _ = other.weight.data.copy_(torch.tensor([[0.3], [0.7]]).log())
        >>> both = Ensemble([ComposerClassifier(net, num_classes=2) for net in (one, other)])
        >>> both((torch.ones(1, 1), torch.zeros(1, dtype=torch.long))).softmax(1)
        tensor([[0.6000, 0.4000]], grad_fn=<SoftmaxBackward0>)
    """

    def __init__(self, members: Sequence[ComposerModel]) -> None:
        super().__init__()
        if not members:
            raise ConfigError('Ensemble: expected at least one model, got none')
        _check_classes(members)
        self.members = nn.ModuleList(members)  # in the module tree, for devices and modes
        self.models: Sequence[ComposerModel] = tuple(members)
        self.form = BatchFormat.of(members[0])
        self.takes_index = self.form.takes_index

    @override
    def forward(self, batch: Any) -> Tensor:
        """The logits of the ensemble, in the shape of those of one model, float32."""
        return self._mean([logits_of(member(batch), 'a member of the ensemble') for member in self.models], batch)

    @override
    def eval_forward(self, batch: Any, outputs: Any = None) -> Tensor:
        first, *others = self.models
        answers = [logits_of(member(copy.copy(batch)), 'a member of the ensemble') for member in others]
        # The first one evaluates, and does so last: models of transformers shift the labels in place.
        told = first.eval_forward(copy.copy(batch))
        if not isinstance(told, Tensor):
            raise ConfigError(
                f'{type(first).__name__}: the ensemble needs a model that evaluates by its logits, got '
                f'{type(told).__name__}; HuggingFaceModel(model, use_logits=True) does'
            )
        return self._mean([told, *answers], batch)

    @override
    def loss(self, outputs: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        return self.models[0].loss(outputs, batch, *args, **kwargs)

    @override
    def get_metrics(self, is_train: bool = False) -> dict[str, Metric]:
        return self.models[0].get_metrics(is_train)

    @override
    def update_metric(self, batch: Any, outputs: Any, metric: Metric) -> None:
        self.models[0].update_metric(batch, outputs, metric)

    def _mean(self, logits: list[Tensor], batch: Any) -> Tensor:
        layout = layout_of(logits[0], batch, self.form)
        if layout.dim is None or layout.classes < 2 or self.form.several_labels:
            raise ConfigError(
                f'an ensemble averages probabilities over classes, and logits {tuple(logits[0].shape)} have none: the '
                'model has one output, or several labels per sample'
            )
        each = torch.stack([one.float().log_softmax(layout.dim) for one in logits])
        return each.logsumexp(0) - math.log(len(logits))


def _check_classes(members: Sequence[nn.Module]) -> None:
    named = [names for names in map(class_names, members) if names]
    for names in named[1:]:
        if list(names) != list(named[0]) and sorted(names) == sorted(named[0]):
            raise ConfigError(
                f'Ensemble: the models have their classes in other orders, {list(named[0])} and {list(names)}: the '
                'mean would be of different classes. Give all of them the same config.id2label'
            )
