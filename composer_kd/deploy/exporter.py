"""Exports a model: writes it in a format, verifies the files, and then moves them to their folder."""

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
    """The result of an export.

    Args:
        target: The format.
        folder: The folder of the files.
        files: The size in bytes of each file of the model, by name.
        verification: The comparison of the loaded files with the model in PyTorch.
        usage: Python code that loads the files; it runs in the folder.
    """

    target: Target
    folder: pathlib.Path
    files: dict[str, int]
    verification: Verification
    usage: str

    @property
    def size(self) -> int:
        """The total size of the files in bytes."""
        return sum(self.files.values())


def find_target(name: str) -> Target:
    """Looks up a format.

    Args:
        name: The name of the format.

    Returns:
        The format.

    Raises:
        ConfigError: If the name is unknown; the message suggests similar names.

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
    """Writes a model, loads the files, and compares their logits with those of the model.

    Files of an earlier export are replaced once the new ones have passed the comparison; if they fail it, the folder
    stays unchanged. Other files in the folder are kept.

    Args:
        student: The model.
        target: The format.
        folder: The folder to write to, created if missing.
        describe: Returns the text of the model card; ``None`` for no model card.

    Returns:
        The written files and their verification.

    Raises:
        ConfigError: If the format does not support the model, a package is missing, or the logits differ.
    """
    try:
        return _export(student, target, folder, describe)
    except Exception as error:  # exporters raise errors of any type; the caller may continue with other formats
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
