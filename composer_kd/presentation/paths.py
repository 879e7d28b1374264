"""Shortens paths for display, without folders and user names of this machine."""

from __future__ import annotations

import pathlib
import re

from composer_kd.presentation.addresses import without_credentials

__all__ = ['below_home', 'last_parts', 'portable']

# An absolute path with at least two parts; not inside a relative path or a URL.
_ABSOLUTE = re.compile(r"""(?<![\w./~…:-])/[^\s'"/:;,]+(?:/[^\s'"/:;,]+)+""")


def portable(text: str) -> str:
    """Shortens the absolute paths in a text, so that it contains no folders and no user names of this machine.

    Args:
        text: A path, a command, or a sentence.

    Returns:
        The text. Paths in the current folder become relative to it, paths in the user's home folder begin with ``~``,
        and all others become ``…/`` and their last two parts.

    Example:
        >>> portable('composer-kd train /somewhere/of/somebody/runs/kd/config.yaml')
        'composer-kd train …/kd/config.yaml'
    """
    return _ABSOLUTE.sub(lambda found: _shown(pathlib.Path(found[0])), without_credentials(text))


def _shown(path: pathlib.Path) -> str:
    here = pathlib.Path.cwd()
    if path.is_relative_to(here) and here.parent != here:
        return str(path.relative_to(here))
    text = below_home(str(path))
    return text if text.startswith('~') else f'…/{"/".join(path.parts[-2:])}'


def below_home(text: str) -> str:
    """Replaces the user's home folder by ``~`` in all paths of a text, so that it does not contain the user's name.

    Args:
        text: A path, or a text with paths in it.

    Returns:
        The text; paths outside the home folder are unchanged.

    Example:
        >>> below_home(f'{pathlib.Path.home()}/runs/kd'), below_home('/data/digits')
        ('~/runs/kd', '/data/digits')
    """
    home = pathlib.Path.home()
    whole = rf'(?<![\w.-]){re.escape(str(home))}(?![\w.-])'  # not /home/me-too
    return text if home.parent == home else re.sub(whole, '~', text)


def last_parts(text: str) -> str:
    """Shortens the absolute paths in a text to their last folder and file name, so that it fits every machine.

    Args:
        text: A path, a command, or settings.

    Returns:
        The text; relative paths are unchanged.

    Example:
        >>> last_parts('teacher: /somewhere/of/somebody/runs/kd/latest-rank0.pt')
        'teacher: kd/latest-rank0.pt'
    """
    return re.sub(r'(?<![\w.:/~])~?/(?:[\w.+\-]+/)*([\w.+\-]+/[\w.+\-]+)', r'\1', text)
