"""Files of the safetensors library, which hold tensors and nothing else."""

from __future__ import annotations

from torch import Tensor

from composer_kd.errors import CheckpointError
from composer_kd.teachers.readers.damage import damaged

__all__ = ['read', 'starts']


def starts(first_bytes: bytes) -> bool:
    """Whether a file begins as safetensors do: the length of the header in 8 bytes, then a JSON object.

    Example:
        >>> starts(bytes([64, 0, 0, 0, 0, 0, 0, 0]) + b'{"weight'), starts(b'PK..archive/data')
        (True, False)
    """
    return first_bytes[8:9] == b'{' and int.from_bytes(first_bytes[:8], 'little') < 2**32


def read(path: str, name: str) -> dict[str, Tensor]:
    """Reads all tensors, on the CPU.

    Raises:
        CheckpointError: If the file is damaged, or the library is not installed.
    """
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            f'{name} is a file of safetensors, which needs its library: pip install safetensors'
        ) from error
    try:
        return load_file(path, device='cpu')
    except Exception as error:  # the library's own error, or one of torch for a type that it does not know
        raise damaged(name, error) from error
