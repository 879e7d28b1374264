"""Writes files atomically."""

from __future__ import annotations

import os
import pathlib

__all__ = ['write_file']


def write_file(file: str | pathlib.Path, content: str | bytes) -> None:
    """Writes a file atomically: if it is interrupted, the file has its old content or the new one, never a part.

    Args:
        file: The file, in an existing folder. The content is first written to ``<name>.part`` in the same folder.
        content: Bytes; or text, which is written as UTF-8 with its line ends unchanged.

    Example:
        >>> import tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp(), 'a.txt')
        >>> write_file(file, 'new'), file.read_text()
        (None, 'new')
    """
    file = pathlib.Path(file)
    part = file.with_name(f'{file.name}.part')
    part.write_bytes(content if isinstance(content, bytes) else content.encode('utf-8'))
    os.replace(part, file)
