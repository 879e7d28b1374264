"""The error for a file that is not whole."""

from __future__ import annotations

from composer_kd.errors import CheckpointError

__all__ = ['damaged', 'first_line', 'not_a_file']


def damaged(name: str, reason: Exception | str) -> CheckpointError:
    """Returns the error for a file that is truncated, altered, or of no known format.

    Args:
        name: How messages call the file.
        reason: What was found.

    Example:
        >>> print(damaged('w.pt', 'data/0 is shorter than its tensors'))
        w.pt is truncated or not a checkpoint: expected a file of Composer, torch.save or safetensors. Copy or write it again.
        data/0 is shorter than its tensors
    """  # noqa: E501
    said = reason if isinstance(reason, str) else f'{type(reason).__name__}: {first_line(reason)}'
    return CheckpointError(
        f'{name} is truncated or not a checkpoint: expected a file of Composer, torch.save or safetensors. '
        f'Copy or write it again.\n{said}'
    )


def not_a_file(name: str) -> CheckpointError:
    """Returns the error for what would block, or never end, when it is read."""
    return CheckpointError(f'{name} is a pipe, a socket or a device: expected a file. Copy it into a file first.')


def first_line(error: Exception) -> str:
    """The first line of an error's message, cut at 300 characters."""
    return str(error).strip().split('\n')[0][:300]
