"""Matches the tensors of a checkpoint with the names and shapes of a module's state dict."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from composer_kd.errors import CheckpointError
from composer_kd.teachers.entries import Entries, is_within, listed, shortened
from composer_kd.teachers.leftovers import Leftovers
from composer_kd.teachers.translation import is_translated

__all__ = ['Fit', 'choose', 'plain_name']

# What DistributedDataParallel, torch.compile, FSDP and activation checkpoints put into names, at any depth.
_WRAPPERS = ('module', '_orig_mod', '_fsdp_wrapped_module', '_checkpoint_wrapped_module')


@dataclass(frozen=True)
class Fit:
    """Weights that a checkpoint has for a module, whether they suffice or not.

    Args:
        prefix: The path in the checkpoint below which they are.
        paths: For each name of the module that was found, the path of its tensor.
        problems: The reasons why they do not fit, one line each.
        unused: The paths of tensors beside them that the module has no place for.
    """

    prefix: str
    paths: dict[str, str]
    problems: list[str]
    unused: list[str]


def choose(entries: Entries, module: nn.Module, entry: str | None, name: str) -> Fit:
    """Finds the weights of a module in a checkpoint.

    A path in the file fits if what follows after some prefix are the module's names, with equal shapes. The prefix may
    be the key of a state dict, a wrapper's, or that of a part of a larger model, and the module's own names may begin
    with one that the file lacks.

    Args:
        entries: The tensors of the checkpoint.
        module: The module.
        entry: The prefix, or where to look for it; ``None`` if there is only one.
        name: How messages call the checkpoint.

    Returns:
        The only one that fits.

    Raises:
        CheckpointError: If none fits, or several do and hold different values.

    Example:
        >>> entries = Entries.of({'net': {'fc.weight': torch.ones(3, 2), 'fc.bias': torch.zeros(3)}}, 'w.pt')
        >>> choose(entries, torch.nn.Linear(2, 3), None, 'w.pt').prefix
        'net.fc'
    """
    target = module.state_dict()
    scope = entries.scope(entry, name)
    names = {**target, **_unsaved(module, target)}
    found = {tuple(sorted(paths.items())): (prefix, paths) for prefix, paths in _candidates(entries, names, scope)}
    fits = [_fit(entries, module, target, prefix, paths, scope) for prefix, paths in found.values()]
    fitting = [fit for fit in fits if not fit.problems] or _translated(entries, module, target, fits)
    fitting = [fit for fit in fitting if fit.prefix == entry] or fitting
    if not fitting:
        best = max(fits, key=lambda fit: (len(fit.paths), -len(fit.problems), -len(fit.unused)), default=None)
        raise _misfit(best or _fit(entries, module, target, scope, {}, scope), module, name)
    if any(not _same(entries, target, fitting[0], other) for other in fitting[1:]):
        prefixes = [fit.prefix for fit in fitting]
        raise CheckpointError(
            f'{name} holds several weights that fit {type(module).__name__}, under {listed(prefixes)}: choose one, '
            f'FrozenTeacher(model, checkpoint=..., entry={prefixes[0]!r}), or entry: {prefixes[0]!r} in a YAML.'
        )
    return fitting[0]


def _candidates(entries: Entries, target: Mapping[str, Any], scope: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields each prefix in the file with the names of the module that follow after it."""
    start = len(scope.split('.')) if scope else 0
    for names in _spellings(target):
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for path in (path for path in entries.tensors if is_within(path, scope)):
            parts = path.split('.')
            for cut in range(start, len(parts)):
                key = names.get(plain_name('.'.join(parts[cut:])))
                prefix = '.'.join(parts[:cut])
                if key is not None and len(found[prefix].get(key, path)) >= len(path):  # the one with fewer wrappers
                    found[prefix][key] = path
        yield from ((prefix, paths) for prefix, paths in found.items() if paths)


def _spellings(target: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yields the module's names as a file may spell them: without wrappers, then without what most begin with."""
    names = {plain_name(key): key for key in target}
    if len(names) < len(target):
        names = {key: key for key in target}
    while names:
        yield names
        ((first, count),) = Counter(key.partition('.')[0] for key in names).most_common(1)
        shorter = {key.removeprefix(f'{first}.'): original for key, original in names.items()}
        if first.isdigit() or 2 * count <= len(names) or len(shorter) < len(names) or shorter.keys() == names.keys():
            return
        names = shorter


def plain_name(name: str) -> str:
    """The name of a tensor of a module without what is around it: compilation, parallel training.

    Example:
        >>> plain_name('_orig_mod.layer1._fsdp_wrapped_module.weight')
        'layer1.weight'
    """
    return '.'.join(part for part in name.split('.') if part not in _WRAPPERS)


def _fit(
    entries: Entries, module: nn.Module, target: Mapping[str, Any], prefix: str, paths: dict[str, str], scope: str
) -> Fit:
    leftovers = Leftovers.beside(entries, prefix, paths.values(), scope, _ignored_by(module))
    paths = {key: path for key, path in paths.items() if key in target}
    weights = {key: entries.tensors[path] for key, path in paths.items()}
    problems = {what: names for what, names in _misfits(weights, target) if names}
    unexpected = leftovers.paths if problems else leftovers.of_another_architecture()
    if unexpected:
        problems['unexpected'] = unexpected
    return Fit(prefix, paths, [f'  {what}: {_some(names)}' for what, names in problems.items()], leftovers.paths)


def _translated(entries: Entries, module: nn.Module, target: Mapping[str, Any], fits: list[Fit]) -> list[Fit]:
    """The weights that fit under the names of an older version, among those of which the most names are known."""
    most = max((len(fit.paths) for fit in fits), default=0)
    optional = frozenset(key for key, value in target.items() if _may_be_missing(key, value))
    found = []
    for fit in (fit for fit in fits if 0 < len(fit.paths) == most):
        places = {entries.places[path] for path in fit.paths.values()}
        beside = (path for path in entries.tensors if is_within(path, fit.prefix) and entries.places[path] in places)
        paths = {plain_name(path[len(fit.prefix) + 1 :] if fit.prefix else path): path for path in beside}
        weights = {key: entries.tensors[path] for key, path in paths.items()}
        known = {key: tensor for key, tensor in weights.items() if key in target}
        sound = not any(names for what, names in _misfits(known, target) if what != 'missing')
        if len(known) < len(weights) and sound and is_translated(module, weights, optional):
            found.append(Fit(fit.prefix, paths, [], []))
    return found


def _misfits(weights: Mapping[str, Tensor], target: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Yields what is wrong, and the names of which it is so."""
    given: dict[Any, Tensor] = {_place(target[key]) or key: tensor for key, tensor in weights.items()}
    yield (
        'missing',
        [
            key
            for key, value in target.items()
            if key not in weights and not _may_be_missing(key, value) and (_place(value) or key) not in given
        ],
    )
    of_kind = {key: tensor for key, tensor in weights.items() if _kind(tensor, key) == _kind(target[key], key)}
    yield (
        'of another kind',
        [
            f'{key} (checkpoint {_kind(tensor, key)}, module {_kind(target[key], key)})'
            for key, tensor in weights.items()
            if key not in of_kind
        ],
    )
    yield 'on the meta device, without values', [key for key in of_kind if target[key].is_meta]
    yield (
        'of another shape',
        [
            f'{key} (checkpoint {tuple(tensor.shape)}, module {tuple(target[key].shape)})'
            for key, tensor in of_kind.items()
            if not is_lazy(target[key]) and tensor.shape != target[key].shape
        ],
    )
    yield (
        'one tensor in the module, several in the checkpoint',
        [
            key
            for key, tensor in of_kind.items()
            if (one := given[_place(target[key]) or key]) is not tensor
            and one.shape == tensor.shape
            and target[key].numel() == tensor.numel()
            and not torch.equal(one, tensor)
        ],
    )


def _kind(value: Any, key: str) -> str:
    """What a tensor can be copied from and into: its layout, and whether it holds fractions."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    if value.is_nested or value.is_meta:
        return 'nested' if value.is_nested else 'meta'
    if value.is_quantized:
        return 'quantized'
    layout = '' if value.layout is torch.strided else f'{str(value.layout).removeprefix("torch.")} '
    if key.endswith('num_batches_tracked'):  # averages of weights make it a fraction
        return layout + 'number'
    return layout + ('complex' if value.is_complex() else 'floating' if value.is_floating_point() else 'integer')


def _place(value: Any) -> int | None:
    """The memory address of a tensor, by which tied weights are recognised: a file may contain them once."""
    if not isinstance(value, Tensor) or value.is_nested or value.layout is not torch.strided or is_lazy(value):
        return None
    return value.data_ptr() or None


def _may_be_missing(key: str, value: Any) -> bool:
    """Whether it is BatchNorm's counter, missing in old files and unused in eval mode, or extra state, not a tensor."""
    return key.endswith('num_batches_tracked') or not isinstance(value, Tensor)


def _unsaved(module: nn.Module, target: Mapping[str, Any]) -> dict[str, Tensor]:
    """Buffers that a module computes itself; older versions saved them (masks, positions, frequencies)."""
    return {key: buffer for key, buffer in module.named_buffers(remove_duplicate=False) if key not in target}


def _ignored_by(module: nn.Module) -> list[str]:
    """Patterns of names that a model's class knows to be left over in older files (transformers)."""
    found = (getattr(part, '_keys_to_ignore_on_load_unexpected', None) for part in module.modules())
    return [pattern for patterns in found if isinstance(patterns, (list, tuple, set)) for pattern in patterns]


def _same(entries: Entries, target: Mapping[str, Any], one: Fit, other: Fit) -> bool:
    """Whether two fits give the same values, so that either may be taken; one may hold a tied weight once."""
    ours, theirs = (
        {_place(target.get(key)) or key: entries.tensors[path] for key, path in fit.paths.items()}
        for fit in (one, other)
    )
    pairs = [(ours[key], theirs[key]) for key in ours.keys() & theirs.keys()]
    return ours.keys() == theirs.keys() and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


def _some(names: list[str], most: int = 20) -> str:
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return ', '.join(shortened(name) for name in names[:most]) + more


def _misfit(fit: Fit, module: nn.Module, name: str) -> CheckpointError:
    where = f', under {fit.prefix!r},' if fit.prefix else ''
    return CheckpointError(
        f'The weights in {name}{where} do not fit {type(module).__name__}:\n'
        + '\n'.join(fit.problems)
        + '\nBuild the module as it was when the checkpoint was written. To leave tensors out on purpose, load them '
        'yourself: module.load_state_dict(composer_kd.teachers.read_weights(checkpoint), strict=False).'
    )
