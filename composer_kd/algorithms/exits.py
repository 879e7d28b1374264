"""Early exits: classifiers on inner layers of a net."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from composer.models import ComposerModel, HuggingFaceModel
from torch import Tensor, nn

from composer_kd.algorithms.trimming import TrimmedExit, emptied, up_to
from composer_kd.batches.contents import labels_of
from composer_kd.batches.masks import tokens_of
from composer_kd.errors import ConfigError
from composer_kd.features.calling import choose_call, unwrapped
from composer_kd.features.hooks import FeatureHooks
from composer_kd.features.meta import as_in_evaluation, to_device, without_draws
from composer_kd.losses._common import pooled
from composer_kd.teachers import feature_shapes

__all__ = ['EarlyExit', 'Exit', 'ExitHead', 'exit_loss', 'exit_shapes']


class ExitHead(nn.Module):
    """A bottleneck and a classifier on the output of an inner layer.

    The bottleneck brings the layer's output to the width of the net's last features: maps by depthwise separable
    convolutions of stride 2, as in *Be Your Own Teacher* (arXiv 1905.08094), down to 4x4 positions at most, and a mean
    over positions; tokens by a mean over tokens; then a linear layer with a ReLU.

    Args:
        shape: The shape of the layer's output, the batch first: maps ``(B, C, H, W)``, tokens ``(B, S, D)``, or vectors
            ``(B, D)``.
        width: The number of the net's last features.
        classes: The number of classes.

    Raises:
        ConfigError: If the output has another number of dimensions.

    Example:
        >>> import torch
        >>> head = ExitHead((8, 16, 16, 16), width=64, classes=10)
        >>> logits, features = head(torch.zeros(2, 16, 16, 16))
        >>> logits.shape, features.shape
        (torch.Size([2, 10]), torch.Size([2, 64]))
    """

    def __init__(self, shape: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.made_for = (tuple(shape), width, classes)
        if not 2 <= len(shape) <= 4:
            raise ConfigError(f'an exit stands on maps (B, C, H, W), tokens (B, S, D) or vectors (B, D), got {shape}')
        layers, channels = [], shape[1] if len(shape) == 4 else shape[-1]
        for _ in range(math.ceil(math.log2(max(1.0, max(shape[2:]) / 4))) if len(shape) == 4 else 0):
            wider = min(2 * channels, max(width, channels))
            layers += _separable(channels, wider)
            channels = wider
        self.bottleneck = nn.Sequential(*layers)
        self.widen = nn.Sequential(nn.Linear(channels, width), nn.ReLU())
        self.classifier = nn.Linear(width, classes)

    def forward(self, feature: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Classifies the output of the layer.

        Args:
            feature: The output of the layer.
            mask: For tokens, ``(B, S)`` booleans: which are in the mean; ``None`` for all.

        Returns:
            The logits ``(B, classes)``, and the features behind them ``(B, width)``.
        """
        mask = mask if feature.ndim == 3 else None
        features = self.widen(pooled(self.bottleneck(feature), mask))
        return self.classifier(features), features


def _separable(channels: int, wider: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, wider, 1, bias=False),
        nn.BatchNorm2d(wider),
        nn.ReLU(),
    ]


class Exit:
    """One exit of :class:`.SelfDistillation`, and its head once the shapes are known.

    Args:
        layer: The path of the layer on which it stands.

    Attributes:
        name: Its name in the log: ``exit.<layer>``.
        head: The head; ``None`` before the run is built.
    """

    lr: float | None = None
    number: int | None = None
    remembers = False

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.name = f'exit.{layer}'
        self.head: nn.Module | None = None

    @property
    def owner(self) -> Exit:
        """Itself."""
        return self

    @property
    def slot(self) -> str:
        """Its key among the auxiliary modules."""
        return f'exit_{"".join(letter if letter.isalnum() else "_" for letter in self.layer)}'

    def learned(self) -> dict[str, nn.Module]:
        """The head."""
        return {} if self.head is None else {'head': self.head}

    def use(self, parts: Mapping[str, nn.Module]) -> None:
        """Takes another head in its place."""
        self.head = parts['head']

    def __repr__(self) -> str:
        return f'Exit({self.layer!r})'


def exit_shapes(model: nn.Module, batch: Any, wanted: Sequence[str], layers: Sequence[str]) -> dict[str, torch.Size]:
    """Measures the outputs of layers for a batch.

    Args:
        model: The student.
        batch: A batch as models take it.
        wanted: The paths of the layers.
        layers: Those of them on which exits stand.

    Returns:
        The shapes by path.

    Raises:
        ConfigError: If a layer does not exist, or one with an exit runs several times: the net could not end at it.

    Example:
        >>> exit_shapes(nn.Sequential(nn.Linear(2, 8), nn.ReLU()), torch.zeros(4, 2), ['1'], ['1'])
        {'1': torch.Size([4, 8])}
    """
    found = feature_shapes(model, batch, [(layer, None) for layer in wanted], 'the student')
    for layer, runs in _runs(model, batch, layers).items():
        if runs > 1:
            raise ConfigError(
                f'the layer {layer!r} runs {runs} times in the student, so that the net cannot end there: name one '
                'that runs once, such as the block around it'
            )
    return {layer: shape for (layer, _), shape in found.items()}


def _runs(model: nn.Module, batch: Any, layers: Sequence[str]) -> Counter[str]:
    """Counts how often each layer runs in a forward pass."""
    runs: Counter[str] = Counter()
    parts = FeatureHooks(model, [(layer, None) for layer in layers], 'the student').module_names()
    call = model if isinstance(model, ComposerModel) else choose_call(model, batch)
    with contextlib.ExitStack() as stack, torch.no_grad(), without_draws(), as_in_evaluation(model) as device:
        for layer, name in parts.items():
            hook = model.get_submodule(name).register_forward_hook(partial(_count, runs, layer))
            stack.callback(hook.remove)
        call(to_device(batch, device))
    return runs


def _count(runs: Counter[str], layer: str, *_: Any) -> None:
    runs[layer] += 1


def exit_loss(student: ComposerModel, logits: Tensor, batch: Any) -> Any:
    """The loss of an exit's logits: that of the student.

    The loss of a ``HuggingFaceModel`` is part of the outputs of the model itself; for an exit it is computed as
    transformers does for the model's ``config.problem_type``.

    Args:
        student: The student.
        logits: ``(B, classes)`` The exit's logits.
        batch: The microbatch.

    Raises:
        ConfigError: If the problem type of a Hugging Face model is unknown.
    """
    if not isinstance(student, HuggingFaceModel):
        return student.loss(logits, batch)
    kind = getattr(student.model.config, 'problem_type', None)
    labels = labels_of(batch)
    if kind not in _LOSSES or labels is None:
        raise ConfigError(
            f'SelfDistillation: the loss of an exit of {type(student.model).__name__} is unknown: expected labels, and '
            f'config.problem_type as one of {", ".join(_LOSSES)}, got {kind!r}. Set it before training.'
        )
    return _LOSSES[kind](logits, labels)


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'single_label_classification': lambda logits, labels: F.cross_entropy(logits, labels.reshape(-1)),
    'multi_label_classification': F.binary_cross_entropy_with_logits,
    'regression': lambda logits, labels: F.mse_loss(logits.reshape(labels.shape), labels),
}


class _Reached(Exception):
    """Ends the forward pass of a net at an exit."""


class EarlyExit(nn.Module):
    """A net that ends at an exit: the layers behind it do not run.

    Args:
        model: The net.
        layer: The path of the layer on which the exit stands.
        head: Its head.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> EarlyExit(net, '1', ExitHead((4, 8), 8, 3))(torch.zeros(4, 2)).shape
        torch.Size([4, 3])
    """

    def __init__(self, model: nn.Module, layer: str, head: nn.Module) -> None:
        super().__init__()
        self.model, self.head = unwrapped(model), head
        self.layer = layer
        FeatureHooks(self.model, [(layer, None)], 'the net')  # refuses a layer that does not exist

    def forward(self, batch: Any) -> Tensor:
        """Returns the logits of the exit.

        Args:
            batch: The inputs, or a batch as models take it.
        """
        hooks = FeatureHooks(self.model, [(self.layer, None)], 'the net')
        with hooks.recording():
            (module,) = (self.model.get_submodule(name) for name in hooks.module_names().values())
            stop = module.register_forward_hook(_stop)
            try:
                choose_call(self.model, batch, None, 'The net')(batch)
            except _Reached:
                pass
            finally:
                stop.remove()
            (feature,) = hooks.take().values()
        logits: Tensor = self.head(feature, _mask(batch))[0]
        return logits

    @torch.no_grad()
    def trimmed(self, batch: Any) -> nn.Module:
        """A net of its own that ends at the exit and has none of the layers behind it, for timing and export.

        Args:
            batch: The inputs, or a batch as models take it.

        Returns:
            A :class:`.TrimmedExit`, which takes the inputs; in eval mode, with its own weights. For a net that cannot
            be cut (see :func:`.up_to`), a copy of this one, which compilers and exporters of graphs may refuse.
        """
        self.eval()
        body, wanted = up_to(self.model, self.layer, batch), self(batch)
        if body is not None:
            own = TrimmedExit(body, self.head).eval()
            if torch.equal(own(batch if isinstance(batch, Tensor) else batch[0]), wanted):
                return own
        return emptied(self, batch)

    def code(self, batch: Any) -> str | None:
        """Python that makes a module of this structure of ``model``, the net.

        Args:
            batch: The inputs, or a batch as models take it.

        Returns:
            Code that makes what :meth:`trimmed` returns for the batch, with other weights; ``None`` for a head of
            another class, and for a batch that is a mapping.
        """
        inputs = batch if isinstance(batch, Tensor) else batch[0] if isinstance(batch, Sequence) else None
        if not isinstance(self.head, ExitHead) or not isinstance(inputs, Tensor):
            return None
        shape, width, classes = self.head.made_for
        return (
            'from composer_kd.algorithms.exits import EarlyExit, ExitHead\n\n'
            f'head = ExitHead({(1, *shape[1:])}, width={width}, classes={classes})\n'
            f'model = EarlyExit(model, {self.layer!r}, head).trimmed(torch.zeros{(1, *inputs.shape[1:])})\n'
        )


def _mask(batch: Any) -> Tensor | None:
    tokens = tokens_of(batch)
    return None if tokens is None else tokens.mask


def _stop(*_: Any) -> None:
    raise _Reached
