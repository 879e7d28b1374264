"""The features of the student in one forward pass, and whether anything can be learned there."""

from __future__ import annotations

import warnings
from collections.abc import Collection

from torch import Tensor

from composer_kd.errors import ConfigError
from composer_kd.features.hooks import FeatureHooks
from composer_kd.matches.term import Key

__all__ = ['StudentFeatures']


class StudentFeatures:
    """Takes the student's features from its hooks, and notices layers without a gradient.

    Args:
        learning: The layers at which something is learned; the others are read as targets.

    Example:
        >>> StudentFeatures({'layer1'}).take(None)
        {}
    """

    def __init__(self, learning: Collection[str]) -> None:
        self._learning = learning
        self._taught: set[str] = set()  # layers that have had a gradient
        self._frozen: set[str] = set()  # those that have lost it

    def clear(self) -> None:
        """Forgets which layers had a gradient, for another student."""
        self._taught.clear()
        self._frozen.clear()

    def take(self, hooks: FeatureHooks | None) -> dict[Key, Tensor]:
        """The features of the last forward pass.

        Args:
            hooks: The hooks on the student; ``None`` if no features are compared.

        Raises:
            ConfigError: If a layer has never had a gradient.

        Warns:
            UserWarning: Once for each layer that has lost it.
        """
        features = hooks.take() if hooks is not None else {}
        for (text, _), feature in features.items():
            if text not in self._learning:
                continue
            if feature.requires_grad:
                self._taught.add(text)
            elif text not in self._taught:
                raise ConfigError(
                    f'The layer {text!r} of the student has no gradient, so nothing could be learned there: it is '
                    'frozen, or inside an activation checkpoint, which must then be one with use_reentrant=False'
                )
            elif text not in self._frozen:
                self._frozen.add(text)
                warnings.warn(
                    f'The layer {text!r} of the student was frozen during training: nothing is learned there any more.',
                    stacklevel=2,
                )
        return features
