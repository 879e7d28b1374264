"""The linear head of a language model, kept from making the logits of all positions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from composer_kd.errors import ConfigError
from composer_kd.features.calling import unwrapped
from composer_kd.features.head_probe import Tail, find_tail, linear_parts, refuse
from composer_kd.features.hook_calls import is_compiled
from composer_kd.losses.linear_logits import LinearLogits

__all__ = ['LinearHead']


@dataclass
class _Seen:
    """What a layer of the head was given in a forward pass."""

    hidden: Tensor
    layer: nn.Linear


class LinearHead:
    """The linear head of a language model of transformers, whose logits are left to be computed later, in chunks.

    In a forward pass after :meth:`open` hooks keep the hidden states ``(B, S, D)`` that the head gets, and give it no
    position of them: the model returns logits ``(B, 0, V)``. It gets no labels, of which it would compute its own loss.
    The hooks come off as soon as the model has run, so that evaluation and generation are as before.

    What the head does with hidden states is found out at once, on a few tokens: the layer that
    ``get_output_embeddings()`` names must be linear, and only the factor or soft-cap that the config states may follow.

    Args:
        model: The model, or a ``HuggingFaceModel`` of it.
        whose: The model's name, for messages.
        shifts: For a model whose own loss is left out too: whether position ``i`` has the label ``i + 1`` in it. That
            it is the mean cross-entropy of these labels is then checked too. ``None`` not to check.

    Attributes:
        classes: The size of the head, ``V``.

    Raises:
        ConfigError: If the model has no such head, or another loss; the message says why.

    Example:
        >>> import torch, transformers
        >>> config = transformers.GPT2Config(vocab_size=11, n_embd=4, n_layer=1, n_head=2, n_positions=8)
        >>> net = transformers.GPT2LMHeadModel(config)
        >>> head = LinearHead(net, 'the student')
        >>> with head.recording():
        ...     net(torch.arange(6).reshape(2, 3)).logits.shape
        torch.Size([2, 0, 11])
        >>> head.take().shape
        torch.Size([2, 3, 11])
    """

    def __init__(self, model: nn.Module, whose: str, shifts: bool | None = None) -> None:
        self.whose = whose
        if is_compiled(model):
            refuse(whose, 'is compiled, and its code sees no hooks')
        self._net: Any = unwrapped(model)
        self._tail: Tail = find_tail(self._net, whose, shifts)
        self.classes = self._tail.sizes[0]
        self._handles: list[RemovableHandle] = []
        self._seen: _Seen | None = None

    def open(self) -> None:
        """Registers the hooks for the next forward pass, which takes them off."""
        self.close()
        self._handles = [self._net.register_forward_pre_hook(_without_labels, with_kwargs=True)]
        # Looked up anew, because other algorithms may have replaced it; of a wrapper of several, one runs.
        layers = [layer for layer in linear_parts(self._net) if layer.weight.shape == self._tail.sizes]
        self._handles += [layer.register_forward_pre_hook(self._keep) for layer in layers]
        # The last hook of the model, because it removes itself while torch goes through them.
        self._handles.append(self._net.register_forward_hook(self._end, always_call=True))

    def close(self) -> None:
        """Removes the hooks, if a forward pass did not, and frees what they kept."""
        self._take_off()
        self._seen = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[LinearHead]:
        """Keeps the hidden states of one forward pass inside a ``with`` block."""
        self.open()
        try:
            yield self
        finally:
            self._take_off()

    def take(self) -> LinearLogits:
        """The logits of the forward pass since :meth:`open`, as hidden states with the head.

        Raises:
            ConfigError: If the head did not run, or got something other than ``(B, S, D)``.
        """
        seen, self._seen = self._seen, None
        if seen is None:
            raise ConfigError(
                f'fused_head: the head of {self.whose} did not run in this forward pass, or in compiled code, which '
                'sees no new hooks. Leave fused_head out, or the compilation (compile_config)'
            )
        if seen.hidden.ndim != 3 or not seen.hidden.shape[1]:
            raise ConfigError(
                f'fused_head: the head of {self.whose} takes {tuple(seen.hidden.shape)}, expected the hidden states '
                '(B, S, D) of all positions. Leave fused_head out'
            )
        return LinearLogits(seen.hidden, seen.layer.weight, seen.layer.bias, self._tail.scale, self._tail.softcap)

    def _keep(self, layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *others = args
        self._seen = _Seen(hidden, layer)
        return (hidden[:, :0] if hidden.ndim > 1 else hidden[:0], *others)

    def _end(self, net: Any, args: Any, output: Any) -> None:
        self._take_off()

    def _take_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _without_labels(net: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {name: value for name, value in kwargs.items() if name != 'labels'}
