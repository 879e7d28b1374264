"""The settings of a build, and the format that they choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from composer_kd.errors import ConfigError, LossError, nearest
from composer_kd.matches.match import Match
from composer_kd.matches.sparse import against
from composer_kd.runs.process import say
from composer_kd.runs.stored import temperature_at
from composer_kd.stores import Dense, Format, Hidden, Sampled, TopK
from composer_kd.stores.formats.floats import check_dtype
from composer_kd.teachers.store_reading import POOLED, WHOLE

__all__ = ['CacheSettings', 'check_losses', 'format_for', 'temperature_of_losses']

_K, _DRAWS, _DTYPE, _HIDDEN_DTYPE = 10, 12, 'float16', 'bfloat16'


@dataclass(frozen=True)
class CacheSettings:
    """How teachers are stored; None for the default of each.

    Args:
        format: ``'dense'``, ``'topk'``, ``'sampled'`` or ``'hidden'``.
        k: Of ``topk``: the number of classes; 10.
        bits: Of ``topk``: the bits of a probability; 16.
        draws: Of ``sampled``: the number of draws; 12.
        dtype: The floating dtype: of ``dense`` float16, of ``hidden`` bfloat16.
        head: Of ``hidden``: the teacher's last layer; that which is found.
        temperature: Of ``topk`` and ``sampled``: that of the softmax; that of the run's losses on logits.
        features: The layers that are stored, each as ``'LAYER'`` or ``'LAYER:pooled'``.
        feature_dtype: The floating dtype of stored features; float16.
        batch_size: Samples that a teacher is given at once, in one process.
        resume: Whether to go on with a build that was ended.

    Raises:
        ConfigError: If a setting is unknown, or is one of another format.

    Example:
        >>> CacheSettings('topk', k=4).layers, CacheSettings(features=('layer4:pooled', 'layer2')).layers
        ({}, {'layer4': 'pooled', 'layer2': 'whole'})
    """

    format: str = 'dense'
    k: int | None = None
    bits: float | None = None
    draws: int | None = None
    dtype: str | None = None
    head: str | None = None
    temperature: float | None = None
    features: Sequence[str] = ()
    feature_dtype: str = 'float16'
    batch_size: int | None = None
    resume: bool = False

    def __post_init__(self) -> None:
        if self.format not in _FORMATS:
            raise ConfigError(f'--format: {self.format!r} is unknown{nearest(self.format, _FORMATS)}')
        for name, of in _OF.items():
            if getattr(self, name) is not None and self.format not in of:
                raise ConfigError(f'--{name}: is for --format {" and ".join(of)}, got --format {self.format}')
        self.form(lambda: 1.0, lambda: 1)  # refuses values that no format takes
        check_dtype('--feature-dtype', self.feature_dtype)
        _ = self.layers

    @property
    def layers(self) -> dict[str, str]:
        """How the features of each layer are stored, by its path."""
        found: dict[str, str] = {}
        for written in self.features:
            path, colon, how = written.partition(':')
            how = how if colon else WHOLE
            if how not in (WHOLE, POOLED):
                raise ConfigError(
                    f'--features: {written}: {how!r} is unknown{nearest(how, (WHOLE, POOLED))}. The inputs and '
                    'parts of a layer are not stored'
                )
            if not path or path in found:
                raise ConfigError(f'--features: {written}: expected each layer once, as LAYER or LAYER:{POOLED}')
            found[path] = how
        return found

    def form(self, temperature: Callable[[], float], width: Callable[[], int]) -> Format:
        """Makes the format.

        Args:
            temperature: Returns the temperature of the run's losses, called only if it is needed and not set.
            width: Returns the size of the teacher's hidden state, called only if it is needed.

        Raises:
            ConfigError: If a setting is out of bounds.
        """
        return _FORMATS[self.format](self, temperature, width)


def _softened(settings: CacheSettings, temperature: Callable[[], float]) -> float:
    return temperature() if settings.temperature is None else settings.temperature


_FORMATS: dict[str, Callable[[CacheSettings, Callable[[], float], Callable[[], int]], Format]] = {
    'dense': lambda settings, *_: Dense(settings.dtype or _DTYPE),
    'topk': lambda settings, temperature, _: TopK(
        _K if settings.k is None else settings.k,
        _softened(settings, temperature),
        **({} if settings.bits is None else {'bits': settings.bits}),
    ),
    'sampled': lambda settings, temperature, _: Sampled(
        _DRAWS if settings.draws is None else settings.draws, _softened(settings, temperature)
    ),
    'hidden': lambda settings, _, width: Hidden(width(), settings.dtype or _HIDDEN_DTYPE),
}
_OF = {
    'k': ('topk',),
    'bits': ('topk',),
    'draws': ('sampled',),
    'dtype': ('dense', 'hidden'),
    'head': ('hidden',),
    'temperature': ('topk', 'sampled'),
}


def temperature_of_losses(matches: Sequence[Match]) -> float:
    """The temperature at which the losses on logits compare.

    Args:
        matches: The matches of a teacher.

    Raises:
        ConfigError: If there is none, it changes in training, or there are several.

    Example:
        >>> from composer_kd import KLDivergence
        >>> temperature_of_losses([Match(KLDivergence(2.0)), Match(KLDivergence(2.0), weight=0.5)])
        2.0
    """
    found: dict[float, str] = {}
    for match in matches:
        temperature: Any = temperature_at(match) if match.on_logits else None
        if callable(temperature):
            raise ConfigError(
                f'--temperature: that of {match.name!r} changes in training, and this format keeps what is needed at '
                'one. Give the loss a number, or store --format dense'
            )
        if temperature is not None:
            found.setdefault(float(temperature), match.name)
    if len(found) != 1:
        listed = ', '.join(f'{name!r} {temperature:g}' for temperature, name in found.items())
        said = f'the losses on logits have several ({listed})' if found else 'no loss on logits of the run has one'
        raise ConfigError(
            f'--temperature: {said}, and this format keeps what is needed at one. '
            + ('Store --format dense' if found else 'Give it, or store --format dense')
        )
    return next(iter(found))


def check_losses(form: Format, matches: Sequence[Match], classes: int | None) -> None:
    """Refuses a format that a loss of the run could not take, before the teacher runs.

    Args:
        form: The format.
        matches: The matches of the teacher.
        classes: The number of classes, if known.

    Raises:
        ConfigError: If a loss needs more of the logits, or another temperature.

    Example:
        >>> from composer_kd.losses import DKD
        >>> check_losses(Dense(), [Match(DKD())], 10)
        >>> check_losses(TopK(2, 4.0), [Match(DKD())], 10)
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: --format: The loss 'DKD' needs the logits of all 10 classes...
    """
    if form.temperature is None:
        return
    width = classes or getattr(form, 'k', 1) + 1
    outputs = torch.randn(2, width, generator=torch.Generator().manual_seed(0))
    target: Any = form.decode(form.encode(outputs, np.arange(2)), width)
    for match in (one for one in matches if one.on_logits):
        temperature: Any = temperature_at(match)
        if callable(temperature):
            temperature_of_losses([match])
        try:
            against(match.loss, match.name, temperature, outputs, target, lambda student, teacher: student.sum())
        except LossError as error:
            raise ConfigError(f'--format: {error}') from error


def format_for(settings: CacheSettings, matches: Sequence[Match], classes: int | None, width: int | None) -> Format:
    """Makes the format, and checks it with the losses of the run.

    Args:
        settings: The settings of the build.
        matches: The matches of the teacher.
        classes: The number of classes, if known.
        width: The size of the teacher's hidden state; None if logits are stored.

    Raises:
        ConfigError: If a loss cannot take it, unless another temperature than that of the losses was asked for.
    """
    form = settings.form(lambda: temperature_of_losses(matches), lambda: width or 1)
    try:
        check_losses(form, matches, classes)
    except ConfigError as error:
        if settings.temperature is None:
            raise
        say(f'for a run with other losses than those of this YAML: {error}')
    return form
