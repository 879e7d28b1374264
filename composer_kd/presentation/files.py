"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
import pathlib

__all__ = ['write_file']


def write_file(file: str | pathlib.Path, content: str | bytes) -> None:
    """Writes a file so that whatever stops it leaves the file from before or the new one, never a part.

    Args:
        file: The file; its folder must be there. It is first written beside, as ``<name>.part``.
        content: Bytes, or a text that is written as UTF-8 with its line ends as they are.

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
