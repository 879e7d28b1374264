"""Lists the layers of a model by the paths that a match takes, with the shapes of their features."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.features.calling import choose_call, unwrapped
from composer_kd.features.meta import (
    Mode,
    as_in_evaluation,
    as_in_training,
    on_meta,
    runs_original,
    to_device,
    to_evaluation,
    without_draws,
)

__all__ = ['Layer', 'layer_shapes']


@dataclass(frozen=True)
class Layer:
    """A layer that a match can name.

    Args:
        path: Its path, as in ``Match(on=...)``: ``'layer2'``, ``'rnn[0]'``, ``'outputs.hidden_states[3]'``.
        kind: The class of the module.
        shape: The shape of its feature, the batch first.
        parameters: The number of parameters of the module and its submodules; 0 for all but the first entry of one
            output.
        in_place: Whether a later layer changes the feature in place, so that a match cannot use it.
    """

    path: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    in_place: bool = False


def layer_shapes(
    model: nn.Module, batch: Any, adapt: Callable[[Any], Any] | None = None, training: bool = False
) -> list[Layer]:
    """Finds the shapes of the features of all layers of a model.

    The model is copied to torch's meta device, where shapes are propagated without computation. A model that cannot run
    there is run itself, without gradients, and is then as it was before.

    Args:
        model: Any model: a ComposerModel, a Hugging Face, torchvision or timm model, or your own.
        batch: A batch as its DataLoader makes them.
        adapt: A function that changes the inputs first, such as a teacher's ``input_adapter``.
        training: Whether it is run in train mode, as a student is: some outputs and layers exist in training alone. A
            model that refuses the batch there (a BatchNorm that gets a single sample) is run in eval mode.

    Returns:
        A layer for each tensor that a module returns, in the order of ``named_modules()``, then ``outputs`` for those
        that the model itself returns. Modules that do not run are left out; for one that runs several times, the last
        run is reported.

    Raises:
        ConfigError: If the model cannot take the batch.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.GRU(3, 4)))
        >>> for layer in layer_shapes(net, torch.zeros(5, 2)):
        ...     print(layer.path, layer.kind, layer.shape, layer.parameters)
        0 Linear (5, 3) 9
        1[0] Sequential (5, 4) 108
        1[1] Sequential (1, 4) 0
        1.0[0] GRU (5, 4) 108
        1.0[1] GRU (1, 4) 0
        outputs[0] Sequential (5, 4) 117
        outputs[1] Sequential (1, 4) 0
    """
    with torch.no_grad(), without_draws():
        if not runs_original(model):
            try:
                adapter = on_meta(adapt) if isinstance(adapt, nn.Module) else adapt
                return _look(_in_mode(on_meta(model), training), to_device(batch, 'meta'), adapter)
            except Exception:  # models written without the meta device in mind fail in many ways
                pass
        if training:
            with contextlib.suppress(ConfigError):
                return _look_for_real(model, batch, adapt, as_in_training)
        return _look_for_real(model, batch, adapt, as_in_evaluation)


def _look_for_real(model: nn.Module, batch: Any, adapt: Callable[[Any], Any] | None, mode: Mode) -> list[Layer]:
    try:
        with mode(model) as device:
            return _look(model, to_device(batch, device), adapt)
    except Exception as error:  # a model may raise anything
        reason = ' '.join(str(error).split()) or type(error).__name__
        raise ConfigError(f'{type(model).__name__} cannot take {_described(batch)}: {reason}') from error


def _in_mode(model: nn.Module, training: bool) -> nn.Module:
    if training:
        return model.train()
    to_evaluation(model)
    return model


def _look(model: nn.Module, batch: Any, adapt: Callable[[Any], Any] | None) -> list[Layer]:
    net = _net(model)
    seen: dict[str, tuple[nn.Module, list[tuple[str, Tensor, int]]]] = {}

    def note(path: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            seen[path] = module, [(place, value, value._version) for place, value in _tensors(output, path)]

        return hook

    paths = {path or 'outputs': module for path, module in net.named_modules()}
    handles = [module.register_forward_hook(note(path)) for path, module in paths.items()]
    try:
        choose_call(model, batch, adapt)(batch)
    finally:
        for handle in handles:
            handle.remove()
    ordered = [path for path in (*list(paths)[1:], 'outputs') if path in seen]
    return [layer for path in ordered for layer in _layers(*seen[path])]


def _layers(module: nn.Module, found: list[tuple[str, Tensor, int]]) -> Iterator[Layer]:
    parameters = sum(parameter.numel() for parameter in module.parameters())
    for number, (place, value, version) in enumerate(found):
        changed = value._version != version
        yield Layer(place, type(module).__name__, tuple(value.shape), 0 if number else parameters, changed)


def _net(model: nn.Module) -> nn.Module:
    """The net inside Composer's wrappers, whose layers have shorter paths."""
    return unwrapped(getattr(model, '_orig_mod', model))


def _tensors(value: Any, path: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a module's output, with their paths."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        of_outputs = path.split('.')[0] == 'outputs' and '[' not in path
        for key, entry in value.items():
            yield from _tensors(
                entry, f'{path}.{key}' if of_outputs and str(key).isidentifier() else f'{path}[{key!r}]'
            )
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for number, entry in enumerate(value):
            yield from _tensors(entry, f'{path}[{number}]')


def _described(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f'an input of the shape {tuple(batch.shape)}'
    parts = batch.items() if isinstance(batch, Mapping) else enumerate(batch)
    return 'a batch of ' + ', '.join(f'{key}: {tuple(getattr(part, "shape", ()))}' for key, part in parts)
