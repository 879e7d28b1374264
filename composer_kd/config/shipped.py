"""The YAMLs that come with the package: ``@digits/kd`` in the place of a path."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterator

from composer_kd.errors import ConfigError, nearest

__all__ = ['FOLDERS', 'START', 'about', 'copied', 'is_shipped', 'located', 'named', 'names']

START = 'start'
"""The folder of the YAMLs to begin with, whose names stand alone: ``@digits``."""

FOLDERS = (START, 'digits', 'cifar10', 'text', 'sweeps')
"""The folders of ``yamls/`` that are part of the package; the others belong to studies in the repository."""

_PACKAGE = pathlib.Path(__file__).parents[1]


def names() -> list[str]:
    """Lists the YAMLs of the package, those to begin with first.

    Example:
        >>> 'digits' in names(), 'digits/kd' in names(), 'start/digits' in names()
        (True, True, False)
    """
    return [_name(file) for file in _files()]


def is_shipped(written: object) -> bool:
    """Whether something is written like the name of a YAML of the package, not like a path.

    Example:
        >>> is_shipped('@digits/kd'), is_shipped('@digits/kd.yaml'), is_shipped(3)
        (True, False, False)
    """
    text = str(written) if isinstance(written, (str, pathlib.PurePath)) else ''
    return text.startswith('@') and not text.endswith(('.yaml', '.yml'))


def located(written: str | pathlib.Path) -> pathlib.Path:
    """Finds the file that is meant.

    Args:
        written: A path; or ``@`` and the name of a YAML of the package.

    Returns:
        The path as it is; or the file in the package.

    Raises:
        ConfigError: If the package has no such YAML; names the nearest ones.

    Example:
        >>> located('runs/mine.yaml').as_posix(), located('@digits/kd').name, located('@digits').parent.name
        ('runs/mine.yaml', 'kd.yaml', 'start')
        >>> located('@digits/kdd')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: no YAML '@digits/kdd' comes with composer_kd; did you mean '@digits/kd' or ...
    """
    return named(str(written)[1:], '@') if is_shipped(written) else pathlib.Path(written)


def named(name: str, prefix: str = '') -> pathlib.Path:
    """Finds a YAML of the package by its name.

    Args:
        name: The name, with or without ``.yaml``.
        prefix: What stands before names in messages.

    Returns:
        The file.

    Raises:
        ConfigError: If there is none; names the nearest ones.

    Example:
        >>> named('digits/kd').name
        'kd.yaml'
    """
    found = {_name(file): file for file in _files()}
    wanted = name.removesuffix('.yaml').removeprefix(f'{START}/')
    if wanted not in found:
        known = [prefix + one for one in found]
        raise ConfigError(f'no YAML {prefix + name!r} comes with composer_kd{nearest(prefix + wanted, known)}')
    return found[wanted]


def about(file: pathlib.Path) -> str:
    """The first sentence of the comment that a YAML begins with.

    Example:
        >>> about(located('@digits/kd'))
        'The student of student.yaml, taught by the deep CNN of teacher.yaml, on all labels.'
    """
    lines: list[str] = []
    for line in file.read_text(encoding='utf-8').splitlines():
        if not line.startswith('#') or not line.strip('# '):
            break
        lines.append(line.strip('# '))
    sentence, dot, _ = ' '.join(lines).partition('. ')
    return sentence + dot.strip()


def copied(source: pathlib.Path, target: pathlib.Path) -> str:
    """The text of a YAML of the package for a file elsewhere: its comments name that file, and others by ``@``.

    Args:
        source: The YAML of the package.
        target: The file that the text is for.

    Example:
        >>> text = copied(located('@digits/kd'), pathlib.Path('mine.yaml'))
        >>> 'composer-kd train mine.yaml' in text, 'composer-kd train @digits/teacher' in text, 'yamls/' in text
        (True, True, False)
    """
    text = source.read_text(encoding='utf-8')
    text = text.replace(f'yamls/{source.parent.name}/{source.name}', target.as_posix())
    return re.sub(rf'yamls/(?:{START}/)?([\w/]+)\.yaml', r'@\1', text)


def _files() -> Iterator[pathlib.Path]:
    inside = _PACKAGE / 'yamls'  # in a wheel; the repository has the folder beside the package
    root = inside if inside.is_dir() else _PACKAGE.parent / 'yamls'
    for folder in FOLDERS:
        yield from sorted((root / folder).glob('*.yaml'))


def _name(file: pathlib.Path) -> str:
    return file.stem if file.parent.name == START else f'{file.parent.name}/{file.stem}'
