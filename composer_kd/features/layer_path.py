"""How a layer of a model is written, and the feature that this names in what the layer returns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from composer_kd.errors import ConfigError

__all__ = ['LayerPath']

_LAYER_PATH = re.compile(r"""(?P<path>[^:\[\]\s]*)(?P<side>:input|:output)?(?P<keys>(?:\[[^\[\]]+\])*)""")


@dataclass(frozen=True)
class LayerPath:
    """The path of a feature in a model.

    It is a module's name as in ``named_modules()``; then optionally ``':input'``, for the module's input instead of its
    output; then optionally ``[i]`` or ``['key']``, for an entry of a tuple or mapping: ``'layer2'``,
    ``'bert.encoder.layer.3[0]'``, ``'layer4:input'``. ``'outputs'`` names the outputs of the model itself:
    ``'outputs.hidden_states[3]'``.

    Attributes:
        text: The path as written.
        path: The module's name; empty for the model itself.
        of_input: Whether it is the module's input.
        keys: The keys of the entry in the module's input or output, from the outermost to the innermost.

    Example:
        >>> LayerPath.parse('rnn[0]')
        LayerPath(text='rnn[0]', path='rnn', of_input=False, keys=(0,))
        >>> LayerPath.parse('outputs.attentions[-1]')
        LayerPath(text='outputs.attentions[-1]', path='', of_input=False, keys=('attentions', -1))
    """

    text: str
    path: str
    of_input: bool
    keys: tuple[int | str, ...]

    @classmethod
    def parse(cls, text: str) -> LayerPath:
        """Parses a path.

        Raises:
            ConfigError: If it is not written as described above.
        """
        match = _LAYER_PATH.fullmatch(text) if isinstance(text, str) and text else None
        if match is None:
            raise ConfigError(
                f"A layer is named by its path, as 'layer2', 'layer2:input', 'rnn[0]' or 'outputs.hidden_states[3]', "
                f'got {text!r}'
            )
        path, keys = match['path'], tuple(_key(key) for key in re.findall(r'\[([^\]]+)\]', match['keys']))
        if path == 'outputs' or path.startswith('outputs.'):
            path, keys = '', (*path.split('.')[1:], *keys)
        return cls(text, path, match['side'] == ':input', keys)

    def select(self, value: Any, whose: str, samples: int | None = None) -> Tensor:
        """Returns the tensor that the keys name in a module's input or output.

        Args:
            value: The module's input or output.
            whose: The model's name, for the error.
            samples: The number of samples in the batch; ``None`` if unknown.

        Raises:
            ConfigError: If a key does not exist, its value is not a tensor, or it would take one sample of the batch
                from a tensor. An entry of a tensor is had where another dimension comes first, as in the last states
                of an RNN, ``(layers, B, D)``.
        """
        for number, key in enumerate(self.keys):
            if isinstance(value, Tensor) and (isinstance(key, str) or _is_of_samples(value, samples)):
                raise self._of_tensor(value, number, whose)
            entry = self._entry(value, key, whose)
            if entry is None:  # a Hugging Face output that was not asked for
                raise self._missing(value, key, whose)
            value = entry
        if self.of_input and not self.keys and isinstance(value, tuple) and len(value) == 1:
            value = value[0]
        if isinstance(value, Tensor):
            return value
        raise ConfigError(
            f'{self.text!r} of {whose} is no tensor but {_described(value)}: name an entry of it, '
            f'as {self.text + _first_key(value)!r}'
        )

    def _entry(self, value: Any, key: int | str, whose: str) -> Any:
        try:
            if isinstance(value, Mapping) and key in value:
                return value[key]
            return getattr(value, key) if isinstance(key, str) and hasattr(value, key) else value[key]
        except (KeyError, IndexError, TypeError) as error:
            raise self._missing(value, key, whose) from error

    def _of_tensor(self, value: Tensor, number: int, whose: str) -> ConfigError:
        whole = self.text
        for _ in self.keys[number:]:
            whole = re.sub(r'(\[[^\[\]]+\]|\.[^.\[\]]+)$', '', whole)
        return ConfigError(
            f'{self.text!r} of {whose}: {whole!r} is a tensor of the shape {tuple(value.shape)} already, of which '
            f'[{self.keys[number]!r}] would be a single sample of the batch or no feature at all. Name {whole!r}'
        )

    def _missing(self, value: Any, key: int | str, whose: str) -> ConfigError:
        hint = ''
        if key in ('hidden_states', 'attentions'):
            hint = f'; set config.output_{key}=True (attentions need attn_implementation="eager")'
        return ConfigError(f'{self.text!r} of {whose}: no {key!r} in {_described(value)}{hint}')


def _is_of_samples(value: Tensor, samples: int | None) -> bool:
    """Whether the batch comes first; of equal sizes ``(n, n, D)`` a later batch of another size decides."""
    if samples is None or value.ndim < 2:
        return True
    return value.shape[0] == samples and not (value.ndim == 3 and value.shape[1] == samples)


def _key(text: str) -> int | str:
    return int(text) if re.fullmatch(r'-?\d+', text) else text.strip('\'"')


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f'a mapping with the keys {sorted(map(str, value))}'
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f'a {type(value).__name__} of {len(value)}'
    return f'a {type(value).__name__}'


def _first_key(value: Any) -> str:
    if isinstance(value, Mapping):
        return f'[{next(iter(value), "key")}]'
    return '[0]'
