"""Writes a model in a format, checks what was written, and only then puts it where it belongs."""

from __future__ import annotations

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass

from composer_kd.deploy.formats import quiet
from composer_kd.deploy.targets import TARGETS, Student, Target
from composer_kd.deploy.verification import Verification, verify
from composer_kd.errors import ComposerKDError, ConfigError, nearest

__all__ = ['CARD_FILE', 'Exported', 'export', 'find_target']

CARD_FILE = 'README.md'


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        target: The format.
        folder: Where it lies.
        files: The names of the files that make up the model, and how many bytes each has.
        verification: How their answers compare with those of the model in PyTorch.
        usage: Python that loads them, run in that folder.
    """

    target: Target
    folder: pathlib.Path
    files: dict[str, int]
    verification: Verification
    usage: str

    @property
    def size(self) -> int:
        """Bytes of all these files."""
        return sum(self.files.values())


def find_target(name: str) -> Target:
    """Finds a format.

    Args:
        name: Its name.

    Returns:
        The format.

    Raises:
        ConfigError: If there is none of that name; names the nearest ones.

    Example:
        >>> find_target('onx')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: unknown format 'onx'; did you mean 'onnx'?
    """
    if name not in TARGETS:
        raise ConfigError(f'unknown format {name!r}{nearest(name, TARGETS)}')
    return TARGETS[name]


def export(
    student: Student, target: Target, folder: pathlib.Path, describe: Callable[[Exported], str] | None = None
) -> Exported:
    """Writes a model, loads what was written, and compares its answers with those of the model.

    Files of an earlier export are replaced when the new ones have passed; where they fail, the folder stays as it is.
    Other files in it are left alone.

    Args:
        student: The model.
        target: The format.
        folder: Where the files shall lie; made if it is not there.
        describe: Writes the model card; without it there is none.

    Returns:
        What was written.

    Raises:
        ConfigError: If the model has no such form, a package is missing, or the answers differ.
    """
    try:
        return _export(student, target, folder, describe)
    except Exception as error:  # exporters and libraries raise what they like, and other formats may do
        kind = '' if isinstance(error, ComposerKDError) else f'{type(error).__name__}: '
        raise ConfigError(f'{target.name}: {kind}{error}') from error


def _export(
    student: Student, target: Target, folder: pathlib.Path, describe: Callable[[Exported], str] | None
) -> Exported:
    target.check(student)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f'.{folder.name}-', dir=folder.parent) as name:
        aside = pathlib.Path(name)
        with quiet():
            target.write(student, aside)
            verification = verify(target.load(student, aside), student.inference, student.pieces)
        verification.require()
        files = {file.name: file.stat().st_size for file in sorted(aside.iterdir())}
        exported = Exported(target, folder, files, verification, target.usage(student, aside))
        if describe is not None:
            (aside / CARD_FILE).write_text(describe(exported), encoding='utf-8')
        folder.mkdir(exist_ok=True)
        for file in aside.iterdir():
            _replace(file, folder / file.name)
    return exported


def _replace(file: pathlib.Path, place: pathlib.Path) -> None:
    if place.is_dir():
        shutil.rmtree(place)
    os.replace(file, place)
