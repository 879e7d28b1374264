"""Loads weights from checkpoints without executing code in them."""

from __future__ import annotations

import contextlib
import datetime
import os
import pickle
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from composer.utils import get_file
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from composer_kd.errors import CheckpointError, CheckpointNotFoundError
from composer_kd.students import without_extras

__all__ = ['Checkpoint', 'load_weights', 'read_checkpoint', 'read_weights']

# Composer checkpoints contain, besides tensors and plain containers, versions, times and numpy's random state.
_multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
_SAFE_GLOBALS: list[Any] = [
    TorchVersion,
    datetime.timedelta,
    np.ndarray,
    np.dtype,
    _multiarray._reconstruct,
    _multiarray.scalar,
    *{type(np.dtype(code)) for code in 'bBhHiIlLqQefd?'},
]

# The prefixes of wrappers: DistributedDataParallel and ComposerClassifier, HuggingFaceModel, torch.compile.
_PREFIXES = ('module.', 'model.', '_orig_mod.')


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Args:
        weights: The model's weights on the CPU, by their names in the file.
        from_composer: Whether the file has Composer's layout, so that a Trainer can resume from it.
    """

    weights: dict[str, Tensor]
    from_composer: bool


def load_weights(module: nn.Module, checkpoint: str | os.PathLike[str]) -> None:
    """Loads a checkpoint's model weights into a module, strictly.

    It takes Composer checkpoints (full or weights-only), a plain ``state_dict`` and ``{'state_dict': ...}``. Prefixes
    that wrappers leave on every key (``module.``, ``model.``, ``_orig_mod.``) are added or removed as the module needs
    it.

    Args:
        module: The module, which gets the weights in place; it stays unchanged if they do not fit.
        checkpoint: A local path, or any URI that Composer's ``get_file`` reads (``s3://``, ``https://``, ...).

    Raises:
        CheckpointNotFoundError: If the file does not exist.
        CheckpointError: If the file is truncated, contains more than tensors and plain data (none of it is executed),
            or the weights do not fit; the message lists the keys.

    Example:
        >>> import tempfile, torch
        >>> path = tempfile.mkdtemp() + '/weights.pt'
        >>> torch.save({'module.weight': torch.ones(1, 2), 'module.bias': torch.zeros(1)}, path)
        >>> linear = torch.nn.Linear(2, 1)
        >>> load_weights(linear, path)
        >>> linear.weight.tolist()
        [[1.0, 1.0]]
    """
    weights = read_weights(checkpoint)
    target = module.state_dict()
    fitting = _rename(weights, target)
    problems = _misfits(fitting, target)
    if problems:
        raise CheckpointError(
            f'The weights in {checkpoint} do not fit {type(module).__name__}:\n'
            + '\n'.join(problems)
            + '\nBuild the module as it was when the checkpoint was written.'
        )
    module.load_state_dict(fitting, strict=False)  # missing keys were checked above


def read_weights(checkpoint: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Reads the model's state dict from a checkpoint; see :func:`load_weights`.

    Args:
        checkpoint: A local path or a URI.

    Returns:
        The weights on the CPU, by their names in the file.

    Raises:
        CheckpointNotFoundError: If the file does not exist.
        CheckpointError: If it is truncated or unsafe, or contains no weights.
    """
    return read_checkpoint(checkpoint).weights


def read_checkpoint(checkpoint: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint safely; see :func:`load_weights`.

    Args:
        checkpoint: A local path or a URI.

    Returns:
        Its weights, and whether it has Composer's layout.

    Raises:
        CheckpointNotFoundError: If the file does not exist.
        CheckpointError: If it is truncated or unsafe, or contains no weights.

    Example:
        >>> import tempfile, torch
        >>> path = tempfile.mkdtemp() + '/weights.pt'
        >>> torch.save({'state': {'model': {'weight': torch.ones(2)}}}, path)
        >>> read_checkpoint(path)
        Checkpoint(weights={'weight': tensor([1., 1.])}, from_composer=True)
    """
    name = os.fspath(checkpoint)
    with contextlib.ExitStack() as stack:
        path = name if '://' not in name else _fetch(name, stack.enter_context(tempfile.TemporaryDirectory()))
        content = _load(path, name)
    state = content.get('state') if isinstance(content, Mapping) else None
    return Checkpoint(_weights_in(content, name), isinstance(state, Mapping) and 'model' in state)


def _fetch(uri: str, folder: str) -> str:
    destination = str(Path(folder) / 'checkpoint.pt')
    try:
        get_file(uri, destination)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f'No checkpoint at {uri}: {error}') from error
    except Exception as error:  # each object store has its own errors
        raise CheckpointError(f'Could not fetch the checkpoint {uri}: {type(error).__name__}: {error}') from error
    return destination


def _load(path: str, name: str) -> Any:
    if not os.path.exists(path):
        raise CheckpointNotFoundError(
            f'No checkpoint at {name} (looked in {os.path.abspath(path)}). Train that model first, or correct the path.'
        )
    if os.path.isdir(path):
        raise CheckpointError(
            f'{name} is a folder: expected one file. A sharded checkpoint has to be merged into one first '
            '(torch.distributed.checkpoint.format_utils.dcp_to_torch_save).'
        )
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            # with mmap, the optimizer state of a full checkpoint is not read
            return torch.load(path, map_location='cpu', weights_only=True, mmap=zipfile.is_zipfile(path) or None)
    except pickle.UnpicklingError as error:
        if not zipfile.is_zipfile(path) and 'unsupported' not in str(error).lower():
            raise _damaged(name, error) from error
        raise CheckpointError(
            f'Refused to load {name}: it holds more than tensors and plain data, and loading that could run code. '
            f'Nothing in it was run. Save the state_dict alone and pass that file.{_asked_for(error)}'
        ) from None  # torch's message recommends unsafe loading
    except (Exception, MemoryError) as error:  # a damaged pickle may raise anything
        raise _damaged(name, error) from error


def _damaged(name: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f'{name} is truncated or not a checkpoint: expected a file written by Composer or torch.save. '
        f'Copy or write it again.\n{type(error).__name__}: {_first_line(error)}'
    )


def _asked_for(error: Exception) -> str:
    """The line of the message that names what the refused file wanted to import."""
    line = next((line for line in str(error).split('\n') if 'unsupported' in line.lower()), '')
    return f'\n{line.strip()[:300]}' if line else ''


def _first_line(error: Exception) -> str:
    return str(error).strip().split('\n')[0][:300]


def _weights_in(content: Any, name: str) -> dict[str, Tensor]:
    """The state dict of a Composer checkpoint, of ``{'state_dict': ...}``, or the content itself."""
    state = content.get('state') if isinstance(content, Mapping) else None
    for candidate in (
        state.get('model') if isinstance(state, Mapping) else None,
        content.get('state_dict') if isinstance(content, Mapping) else None,
        content,
    ):
        if isinstance(candidate, Mapping) and candidate:
            # A distilled student may become a teacher, without its auxiliary modules.
            weights = without_extras({str(k): v for k, v in candidate.items() if isinstance(v, Tensor)})
            if weights:
                return weights
    found = f'the keys {sorted(map(str, content))[:10]}' if isinstance(content, Mapping) else type(content).__name__
    raise CheckpointError(
        f"{name} holds no weights: expected a Composer checkpoint ('state' with 'model'), 'state_dict', or a mapping "
        f'from names to tensors, got {found}.'
    )


def _rename(weights: dict[str, Tensor], target: Mapping[str, Any]) -> dict[str, Tensor]:
    """Adds or removes wrappers' prefixes; takes the variant that shares the most names with the module."""
    variants = [weights]
    for _ in range(2):  # a wrapper around a wrapper
        variants += [
            {key.removeprefix(prefix): value for key, value in variant.items()}
            for variant in variants
            for prefix in _PREFIXES
            if all(key.startswith(prefix) for key in variant)
        ]
    variants += [{prefix + key: value for key, value in weights.items()} for prefix in _PREFIXES]
    return max(variants, key=lambda variant: len(variant.keys() & target.keys()))


def _place(value: Any) -> int | None:
    """The memory address of a tensor, by which tied weights are recognised: a file may contain them once."""
    return value.data_ptr() or None if isinstance(value, Tensor) else None


def _may_be_missing(key: str, value: Any) -> bool:
    """Whether it is BatchNorm's counter, missing in old files and unused in eval mode, or extra state, not a tensor."""
    return key.endswith('num_batches_tracked') or not isinstance(value, Tensor)


def _misfits(weights: Mapping[str, Tensor], target: Mapping[str, Any]) -> list[str]:
    """The reasons why the weights do not fit, one line each."""
    problems = []
    given = {_place(target[key]) for key in weights if key in target}
    missing = [
        key
        for key, value in target.items()
        if key not in weights and not _may_be_missing(key, value) and (_place(value) or key) not in given
    ]
    unexpected = [key for key in weights if key not in target]
    shapes = [
        f'{key} (checkpoint {tuple(weights[key].shape)}, module {tuple(target[key].shape)})'
        for key in weights
        if key in target and weights[key].shape != target[key].shape
    ]
    for what, keys in (('missing', missing), ('unexpected', unexpected), ('of another shape', shapes)):
        if keys:
            more = f' and {len(keys) - 20} more' if len(keys) > 20 else ''
            problems.append(f'  {what}: {", ".join(keys[:20])}{more}')
    return problems
