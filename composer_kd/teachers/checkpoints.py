"""Loads weights from checkpoints without executing code in them."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from composer_kd.errors import CheckpointError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.students import EXTRAS
from composer_kd.teachers.entries import Entries, listed, names_extras
from composer_kd.teachers.fetching import fetch
from composer_kd.teachers.fitting import choose
from composer_kd.teachers.readers import read_content

__all__ = ['Checkpoint', 'holds_extras', 'load_weights', 'read_checkpoint', 'read_weights']


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint.

    Args:
        weights: The model's weights on the CPU, by their names in the file; they may be mapped from it.
        from_composer: Whether the file has Composer's layout, so that a Trainer can resume from it.
    """

    weights: dict[str, Tensor]
    from_composer: bool


def load_weights(module: nn.Module, checkpoint: str | os.PathLike[str], entry: str | None = None) -> None:
    """Loads a checkpoint's model weights into a module; every weight of the module must be in it.

    It takes Composer checkpoints (full or weights-only), files of ``torch.save`` with a state dict at any depth
    (``{'model': ...}``, ``{'net': ...}``), safetensors, and folders of ``save_pretrained``, sharded ones too. The
    weights are found by the module's names and shapes: what precedes the names in the file, such as the key of the
    state dict or a wrapper's ``module.``, need not be given, unless several weights fit. A part of the file that the
    module has no place for (another head) is left out with a warning, unless the module would then compute something
    else.

    Args:
        module: The module, which gets the weights in place; it stays unchanged if they do not fit.
        checkpoint: A local path, or the URI of a file that Composer's ``get_file`` reads (``s3://``, ``https://``), or
            of a folder of ``save_pretrained``, which ends in a slash. Keys in it are shown nowhere.
        entry: The dotted path of the weights in the file, such as ``'ema'`` or ``'state_dict.teacher'``; ``''`` for
            the outermost names. ``'composer_kd.peer_NAME.net'`` for a peer that was trained beside a student. ``None``
            to find it.

    Raises:
        CheckpointNotFoundError: If the file does not exist.
        CheckpointError: If the file is truncated, contains more than tensors and plain data (none of it is executed),
            or the weights do not fit; the message lists the keys. If several weights fit; the message lists them.

    Example:
        >>> import tempfile, torch
        >>> path = tempfile.mkdtemp() + '/weights.pt'
        >>> ones, twos = ({'module.weight': torch.ones(1, 2) * n, 'module.bias': torch.zeros(1)} for n in (1, 2))
        >>> torch.save({'model': ones, 'ema': twos}, path)
        >>> linear = torch.nn.Linear(2, 1)
        >>> load_weights(linear, path, entry='ema')
        >>> linear.weight.tolist()
        [[2.0, 2.0]]
    """
    name = without_credentials(os.fspath(checkpoint))
    with _opened(os.fspath(checkpoint), entry) as entries:
        fit = choose(entries, module, entry, name)
        weights = {key: entries.tensors[path] for key, path in fit.paths.items()}
        try:
            module.load_state_dict(weights, strict=False)  # missing keys were checked above
        except RuntimeError as error:
            raise CheckpointError(f'The weights in {name} do not fit {type(module).__name__}: {error}') from error
    if fit.unused:
        warnings.warn(
            f'{name}: {type(module).__name__} has no place for {listed(fit.unused)}; they are left out. If this is not '
            'another head or a counter, build the module as it was when the checkpoint was written.',
            stacklevel=3,
        )


def read_weights(checkpoint: str | os.PathLike[str], entry: str | None = None) -> dict[str, Tensor]:
    """Reads the model's state dict from a checkpoint; see :func:`load_weights`.

    Args:
        checkpoint: A local path or a URI.
        entry: The dotted path of the state dict, or of a part of it; ``None`` if there is only one.

    Returns:
        The weights on the CPU, by their names in the file, with their strides and shared storages.

    Raises:
        CheckpointNotFoundError: If the file does not exist.
        CheckpointError: If it is truncated or unsafe, contains no weights, or several sets of weights.
    """
    weights = read_checkpoint(checkpoint, entry).weights
    # Copied, because the file may be overwritten; in this form, because torch copies neither the conjugate bit nor the
    # shared storage of a Parameter.
    try:
        return copy.deepcopy({key: tensor.detach().resolve_conj().resolve_neg() for key, tensor in weights.items()})
    except RuntimeError as error:
        kinds = ', '.join(sorted({_odd(tensor) for tensor in weights.values()} - {''})) or type(error).__name__
        name = without_credentials(os.fspath(checkpoint))
        raise CheckpointError(f'{name} holds tensors that cannot be copied ({kinds}). Save plain ones.') from error


def read_checkpoint(checkpoint: str | os.PathLike[str], entry: str | None = None) -> Checkpoint:
    """Reads a checkpoint safely; see :func:`load_weights`.

    Args:
        checkpoint: A local path or a URI.
        entry: The dotted path of the state dict, or of a part of it; ``None`` if there is only one.

    Returns:
        Its weights, and whether it has Composer's layout.

    Raises:
        CheckpointNotFoundError: If the file does not exist.
        CheckpointError: If it is truncated or unsafe, contains no weights, or several sets of weights.

    Example:
        >>> import tempfile, torch
        >>> path = tempfile.mkdtemp() + '/weights.pt'
        >>> torch.save({'state': {'model': {'weight': torch.ones(2)}}}, path)
        >>> read_checkpoint(path)
        Checkpoint(weights={'weight': tensor([1., 1.])}, from_composer=True)
    """
    name = without_credentials(os.fspath(checkpoint))
    with _opened(os.fspath(checkpoint), entry) as entries:
        return Checkpoint(entries.state_dict(entry, name), entries.from_composer)


def holds_extras(checkpoint: str | os.PathLike[str]) -> bool:
    """Whether a checkpoint holds anything that was trained beside its student.

    Args:
        checkpoint: A local path or a URI.

    Raises:
        CheckpointNotFoundError: If the file does not exist.
        CheckpointError: If it is truncated or unsafe, or contains no weights.

    Example:
        >>> import tempfile, torch
        >>> path = tempfile.mkdtemp() + '/weights.pt'
        >>> torch.save({'weight': torch.ones(2), 'composer_kd.hint_0.weight': torch.ones(2)}, path)
        >>> holds_extras(path)
        True
    """
    with _opened(os.fspath(checkpoint), EXTRAS) as entries:
        return any(names_extras(path) for path in entries.tensors)


def _odd(tensor: Tensor) -> str:
    return 'nested' if tensor.is_nested else '' if type(tensor) in (Tensor, nn.Parameter) else type(tensor).__name__


@contextlib.contextmanager
def _opened(name: str, entry: str | None) -> Iterator[Entries]:
    with contextlib.ExitStack() as stack:
        path = name if '://' not in name else fetch(name, stack.enter_context(tempfile.TemporaryDirectory()))
        shown = without_credentials(name)
        yield Entries.of(read_content(path, shown), shown, entry)
