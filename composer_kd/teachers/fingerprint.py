"""What tells one teacher from another: its class, the hash of its weights, its input adapter, and its settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from composer_kd.features.calling import unwrapped
from composer_kd.teachers.base import Teacher, module_of
from composer_kd.teachers.fitting import plain_name
from composer_kd.teachers.frozen import FrozenTeacher
from composer_kd.teachers.placement import is_managed
from composer_kd.teachers.pool import moves

__all__ = ['differences', 'teacher_fingerprint', 'weights_hash']

_COMPARED = ('class', 'weights', 'input_adapter')
_SETTINGS = 'settings'


def teacher_fingerprint(teacher: Teacher) -> dict[str, Any]:
    """Says which teacher one is, in words and numbers that are the same in every process and on every device.

    The hash reads all weights: about 0.2 seconds for 25 million.

    Args:
        teacher: A teacher. One with a method ``fingerprint()`` says it itself, as a stored one does, which was made by
            another.

    Returns:
        ``name``; ``class``, that of the module without wrappers, or of the teacher if it has no module or is of a kind
        of its own; ``weights``, a hash, ``None`` for teachers that change during training, that have no module, or no
        weights that can be read; ``input_adapter``, ``None`` without one; and ``settings`` if it has a method of this
        name, which says what else its answers depend on.

    Example:
        >>> teacher_fingerprint(FrozenTeacher(nn.Linear(2, 3).requires_grad_(False), name='large'))['class']
        'Linear'
    """
    said: Callable[[], Mapping[str, Any]] | None = getattr(teacher, 'fingerprint', None)
    if said is not None:
        return dict(said())
    module, adapter = module_of(teacher), getattr(teacher, 'input_adapter', None)
    of_its_own = type(teacher) is not FrozenTeacher and not isinstance(teacher, nn.Module)
    changes = moves(teacher) or getattr(teacher, 'is_student', False)
    names = [type(teacher).__qualname__] if of_its_own or changes else []
    if module is not None and not changes:
        names.append(_class_of(_bare(module)).__qualname__)
    found = {
        'name': teacher.name,
        'class': ' of '.join(names),
        'weights': None if module is None or changes else weights_hash(module),
        'input_adapter': None if adapter is None else _described(adapter),
    }
    settings: Callable[[], Mapping[str, Any]] | None = getattr(teacher, 'settings', None)
    return found if settings is None else {**found, _SETTINGS: dict(settings())}


def weights_hash(module: nn.Module) -> str | None:
    """A hash of a module's weights and buffers with their names.

    It is the same on every machine and device; with weights in half precision or the same in float32; for the module
    alone and inside DistributedDataParallel, ``torch.compile``, a sharding, or the wrapper of a Composer model. Of
    sharded weights, all processes must compute it together.

    Returns:
        32 hexadecimal digits; ``None`` if weights cannot be read, as on the meta device, or if accelerate or
        bitsandbytes looks after them.

    Example:
        >>> one, other = nn.Linear(2, 3), nn.Linear(2, 3)
        >>> weights_hash(one) == weights_hash(other)
        False
        >>> _ = other.load_state_dict(one.state_dict())
        >>> weights_hash(one) == weights_hash(torch.compile(other))
        True
    """
    if is_managed(module):
        return None
    named = [(plain_name(key), value) for key, value in _bare(module).state_dict().items() if isinstance(value, Tensor)]
    state = hashlib.blake2b(digest_size=16)
    try:
        for name, value in sorted(named, key=lambda one: one[0]):
            flat = _flat(value)
            state.update(f'{name} {flat.dtype} {tuple(value.shape)}'.encode())
            state.update(flat.view(torch.uint8).numpy().data if flat.numel() else b'')
    except (RuntimeError, TypeError, ValueError):  # a kind of tensor whose memory cannot be read
        return None
    return state.hexdigest()


def _flat(value: Tensor) -> Tensor:
    value = value.full_tensor() if isinstance(value, DTensor) else value
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat


def differences(saved: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Compares two lists of teachers by their fingerprints; names are labels, and may differ.

    Args:
        saved: The fingerprints in a checkpoint.
        now: Those of a run.

    Yields:
        A line for each teacher that is another one, with what both sides say of it; nothing if all are the same.

    Example:
        >>> one = {'name': 'large', 'class': 'Linear', 'weights': 'a' * 32, 'input_adapter': None}
        >>> list(differences([one], [{**one, 'weights': 'b' * 32}]))
        ["teacher 0 ('large'): weights saved aaaaaaaa, now bbbbbbbb"]
        >>> list(differences([one], []))
        ["1 teacher saved ('large'), now 0 (none)"]
    """
    if len(saved) != len(now):
        yield f'{_counted(saved)} saved ({_names(saved)}), now {len(now)} ({_names(now)})'
        return
    pairs = [list(_unequal(before, after)) for before, after in zip(saved, now)]
    if any(pairs) and _sorted(saved) == _sorted(now):
        yield f'the same teachers in another order: saved {_names(saved)}, now {_names(now)}'
        return
    for number, lines in enumerate(pairs):
        if lines:
            yield f'teacher {number} ({now[number].get("name")!r}): {"; ".join(lines)}'


def _unequal(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for key in _COMPARED:
        old, new = before.get(key), now.get(key)
        if old == new or (key == 'weights' and None in (old, new)):  # one side cannot tell
            continue
        if key == 'weights':
            old, new = str(old)[:8], str(new)[:8]
        yield f'{key} saved {old or "none"}, now {new or "none"}'
    if (
        before.get('class') == now.get('class') and _SETTINGS in before and _SETTINGS in now
    ):  # earlier versions say none
        old, new = before[_SETTINGS], now[_SETTINGS]
        for key in sorted({**old, **new}):
            if old.get(key) != new.get(key):
                yield f'{key} saved {old.get(key)!r}, now {new.get(key)!r}'


def _sorted(teachers: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted(repr([one.get(key) for key in (*_COMPARED, _SETTINGS)]) for one in teachers)


def _names(teachers: Sequence[Mapping[str, Any]]) -> str:
    return ', '.join(repr(one.get('name')) for one in teachers) or 'none'


def _counted(teachers: Sequence[Any]) -> str:
    return f'{len(teachers)} teacher{"" if len(teachers) == 1 else "s"}'


def _bare(module: nn.Module) -> nn.Module:
    """The net without what is around it: compilation, parallel training, a Composer model."""
    inner = getattr(module, '_orig_mod', module)
    inner = inner.module if isinstance(inner, DistributedDataParallel) else inner
    return unwrapped(getattr(inner, '_orig_mod', inner))


def _class_of(module: nn.Module) -> type:
    """The class of a module; ``fully_shard`` puts one of its own before it."""
    return next(kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))


def _described(adapter: Any) -> str:
    """An adapter as text, without memory addresses: modules by their settings and buffers."""
    if isinstance(adapter, nn.Module):
        text = ' '.join(re.sub(r' at 0x[0-9a-f]+', '', repr(adapter)).split())
        return f'{text} {weights_hash(adapter)}'
    return getattr(adapter, '__qualname__', type(adapter).__qualname__)
