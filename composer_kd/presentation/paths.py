"""Paths in a page that is meant to be sent."""

from __future__ import annotations

import pathlib
import re

__all__ = ['portable']

# At least two parts, from the root; neither within a relative path nor in a URL.
_ABSOLUTE = re.compile(r"""(?<![\w./~…:-])/[^\s'"/:;,]+(?:/[^\s'"/:;,]+)+""")


def portable(text: str) -> str:
    """Text without the folders of this machine and the names of its users.

    Args:
        text: A path, a command, or a sentence.

    Returns:
        The text. Absolute paths in it are relative where they are below the current folder, begin with ``~`` below that
        of the user, and are their last two parts elsewhere.

    Example:
        >>> portable('composer-kd train /somewhere/of/somebody/runs/kd/config.yaml')
        'composer-kd train …/kd/config.yaml'
    """
    return _ABSOLUTE.sub(lambda found: _shown(pathlib.Path(found[0])), text)


def _shown(path: pathlib.Path) -> str:
    here, home = pathlib.Path.cwd(), pathlib.Path.home()
    for base, sign in ((here, ''), (home, '~/')):
        if path.is_relative_to(base) and base.parent != base:
            return f'{sign}{path.relative_to(base)}'
    return f'…/{"/".join(path.parts[-2:])}'
