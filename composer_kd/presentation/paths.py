"""Paths as they are shown to people, who may send them on."""

from __future__ import annotations

import pathlib
import re

__all__ = ['below_home', 'last_parts', 'portable']

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
    here = pathlib.Path.cwd()
    if path.is_relative_to(here) and here.parent != here:
        return str(path.relative_to(here))
    text = below_home(str(path))
    return text if text.startswith('~') else f'…/{"/".join(path.parts[-2:])}'


def below_home(text: str) -> str:
    """Text in which paths below the user's folder begin with ``~``, so that they do not tell the user's name.

    Args:
        text: A path, or words with paths in them.

    Returns:
        The text, with paths elsewhere as they are.

    Example:
        >>> below_home(f'{pathlib.Path.home()}/runs/kd'), below_home('/data/digits')
        ('~/runs/kd', '/data/digits')
    """
    home = pathlib.Path.home()
    whole = rf'(?<![\w.-]){re.escape(str(home))}(?![\w.-])'  # not /home/me-too
    return text if home.parent == home else re.sub(whole, '~', text)


def last_parts(text: str) -> str:
    """Text in which absolute paths are their last folder and name: the others are of one machine.

    Args:
        text: A path, a command, or settings.

    Returns:
        The text.

    Example:
        >>> last_parts('teacher: /somewhere/of/somebody/runs/kd/latest-rank0.pt')
        'teacher: kd/latest-rank0.pt'
    """
    return re.sub(r'(?<![\w.:/~])~?/(?:[\w.+\-]+/)*([\w.+\-]+/[\w.+\-]+)', r'\1', text)
