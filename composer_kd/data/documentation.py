"""The documentation that installed Python packages carry in their source: real prose that needs no download."""

from __future__ import annotations

import ast
import functools
import inspect
import warnings
from collections.abc import Iterator
from pathlib import Path

from composer_kd.errors import ConfigError
from composer_kd.pretrained import folder_of

__all__ = ['documentation']

_ASIDE = ('test', 'tests', 'testing', 'externals', 'vendor')


def documentation(place: str) -> tuple[tuple[str, str], ...]:
    """Reads the docstrings of a package from its source; nothing of it is imported or run.

    Folders whose name begins with an underscore are left out, and so are tests and copies of other packages.

    Args:
        place: ``package:NAME``, or ``package:NAME/FOLDER`` for a part of it.

    Returns:
        For each docstring of a module, class or function the path of its file, from the folder of ``place``, and its
        text without indentation; in the order of the paths, and of the lines in a file.

    Raises:
        ConfigError: If the package is not installed, or has no docstrings.

    Example:
        >>> path, text = documentation('package:composer_kd/presentation')[0]
        >>> path, text.split()[0]
        ('__init__.py', 'Formats')
    """
    folder = folder_of(place)
    if not folder.is_dir():
        raise ConfigError(f'{place}: expected a folder of an installed package, got {folder}, which is none')
    return _read(folder, place)


@functools.lru_cache(maxsize=32)  # a run reads the documentation once for its training, and again for its evaluation
def _read(folder: Path, place: str) -> tuple[tuple[str, str], ...]:
    files = sorted(folder.rglob('*.py'), key=lambda file: file.relative_to(folder).as_posix())
    found = [
        (path, text)
        for file in files
        if _is_public(path := file.relative_to(folder).as_posix())
        for text in _docstrings(file)
    ]
    if not found:
        raise ConfigError(f'{place}: no module in {folder} has a docstring; expected a package with its source')
    return tuple(found)


def _is_public(path: str) -> bool:
    *folders, name = path.removesuffix('.py').split('/')
    return not any(one.startswith('_') or one in _ASIDE for one in folders) and not name.startswith(
        ('test_', 'conftest')
    )


def _docstrings(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of escapes in others' strings
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # a template, or a file for another version of Python
        return
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node, clean=False)
            if text is not None and text.strip():
                yield inspect.cleandoc(text)
