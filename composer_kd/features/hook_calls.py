"""What hooks on a module call, so that the module can be saved and copied while it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from typing_extensions import override

__all__ = ['InputHook', 'OutputHook', 'is_compiled']


class _Hook:
    """A hook that is copied and pickled as one that does nothing, so that a model can be saved while it has hooks."""

    def __init__(self, keep: Callable[[Any], None]) -> None:
        self.keep = keep

    def __call__(self, *shown: Any) -> None:
        """Called by torch with the module and what the hook is shown."""
        raise NotImplementedError

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (_ignore,)


class InputHook(_Hook):
    """A forward pre-hook that shows the inputs of a module.

    Args:
        keep: Takes the tuple of inputs.
    """

    @override
    def __call__(self, *shown: Any) -> None:
        _, args, kwargs = shown
        self.keep(args or tuple(kwargs.values()))


class OutputHook(_Hook):
    """A forward hook that shows the output of a module.

    Args:
        keep: Takes the output.

    Example:
        >>> import pickle
        >>> import torch
        >>> net = nn.Linear(2, 3)
        >>> _ = net.register_forward_hook(OutputHook(lambda output: print(tuple(output.shape))))
        >>> _ = net(torch.zeros(4, 2))
        (4, 3)
        >>> _ = pickle.loads(pickle.dumps(net))(torch.zeros(4, 2))
    """

    @override
    def __call__(self, *shown: Any) -> None:
        self.keep(shown[-1])


def _ignore(value: Any) -> None:
    """Does nothing with what a hook is shown."""


def is_compiled(model: nn.Module) -> bool:
    """Whether a model, or a part of it, runs code that ``torch.compile`` made."""
    return any(
        hasattr(part, '_orig_mod')
        or getattr(part, '_compiled_call_impl', None) is not None
        or hasattr(vars(part).get('forward'), '_torchdynamo_orig_callable')
        for part in model.modules()
    )
