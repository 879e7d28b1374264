"""Nets without the layers behind one of them: what runs up to an early exit, as a module of its own."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, fx, nn
from typing_extensions import override

from composer_kd.errors import ConfigError
from composer_kd.features.calling import WithInputs, calling_of
from composer_kd.features.layer_path import LayerPath

__all__ = ['Behind', 'TrimmedExit', 'emptied', 'up_to']


class TrimmedExit(nn.Module):
    """The layers of a net up to an exit, and the exit's head; it shares no tensor with them.

    Args:
        body: The layers up to the exit.
        head: The exit's head.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body, self.head = copy.deepcopy(body), copy.deepcopy(head)

    def forward(self, inputs: Tensor) -> Tensor:
        """Computes the logits of the exit from the net's inputs."""
        logits: Tensor = self.head(self.body(inputs))[0]
        return logits


class Behind(nn.Module):
    """Stands for a layer that an exit does not reach.

    Example:
        >>> import torch
        >>> Behind()(torch.zeros(4, 2))
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: a layer behind the exit ran, which did not run when the net was cut
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuses to run."""
        raise ConfigError('a layer behind the exit ran, which did not run when the net was cut')


def emptied(net: nn.Module, batch: Any) -> nn.Module:
    """Copies a net without the layers that do not run.

    Args:
        net: A net, in eval mode.
        batch: What it is called with.

    Returns:
        The copy, which shares no tensor with the net.

    Example:
        >>> import torch
        >>> class First(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 4)
        ...     def forward(self, x): return self.first(x)
        >>> emptied(First(), torch.zeros(4, 2))
        First(
          (first): Linear(in_features=2, out_features=3, bias=True)
          (second): Behind()
        )
    """
    own = copy.deepcopy(net)
    ran: set[int] = set()
    handles = [part.register_forward_pre_hook(lambda part, _: ran.add(id(part))) for part in own.modules()]
    try:
        own(batch)
    finally:
        for handle in handles:
            handle.remove()
    waiting = [own]
    while waiting:
        part = waiting.pop()
        for name, child in part.named_children():
            if any(id(one) in ran for one in child.modules()):
                waiting.append(child)
            else:
                setattr(part, name, Behind())
    return own


class _Tracer(fx.Tracer):
    """Traces a net with one layer as a unit."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self._layer = layer

    @override
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name == self._layer or super().is_leaf_module(m, module_qualified_name)


def up_to(net: nn.Module, layer: str, batch: Any) -> nn.Module | None:
    """Cuts a net behind one of its layers.

    Args:
        net: The net, in eval mode.
        layer: The path of the layer in the net.
        batch: A batch as models take it.

    Returns:
        A module of the net's inputs whose output is the layer's; it shares the weights, and has none of the layers
        behind. ``None`` for a net that ``torch.fx`` cannot trace, whose inputs are not one tensor, or whose layer is
        named by a part of its output.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> body = up_to(net, '1', torch.zeros(4, 2))
        >>> body(torch.zeros(4, 2)).shape, [name for name, _ in body.named_parameters()]
        (torch.Size([4, 8]), ['0.weight', '0.bias'])
    """
    place = LayerPath.parse(layer)
    if place.of_input or place.keys or not place.path or not isinstance(calling_of(net, batch), WithInputs):
        return None
    tracer = _Tracer(place.path)
    try:
        graph = tracer.trace(net)
        found = [node for node in graph.nodes if node.op == 'call_module' and node.target == place.path]
        if len(found) != 1 or len([node for node in graph.nodes if node.op == 'placeholder']) != 1:
            return None
        nodes = list(graph.nodes)
        for node in reversed(nodes[nodes.index(found[0]) + 1 :]):
            graph.erase_node(node)
        graph.output(found[0])
        body = fx.GraphModule(tracer.root, graph, type(net).__name__)
        graph.eliminate_dead_code()
        body.recompile()
        body.delete_all_unused_submodules()
        return body.eval()
    except Exception:  # tracing raises errors of any type: its control flow depends on values
        return None
