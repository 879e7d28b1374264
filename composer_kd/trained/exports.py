"""Exports a student of a script, or that of a run."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from composer_kd.bench.precision import copied
from composer_kd.deploy import Inference
from composer_kd.deploy.card import Card
from composer_kd.deploy.exporter import Exported, find_target
from composer_kd.deploy.exporter import export as export_student
from composer_kd.deploy.targets import Student
from composer_kd.deploy.verification import in_pieces
from composer_kd.errors import Attempts, ConfigError
from composer_kd.models.adapters import merged
from composer_kd.presentation.markdown import fenced
from composer_kd.presentation.units import bytes_text, number_text
from composer_kd.runs.evaluate import count_parameters
from composer_kd.runs.files import make_folder
from composer_kd.runs.process import without_remarks
from composer_kd.trained.data import Data
from composer_kd.trained.models import Model, class_of, own_copy
from composer_kd.workflows.export.export import export_run
from composer_kd.workflows.export.model_card import preparation

__all__ = ['export']


def export(
    model: Model,
    data: Any = None,
    *,
    to: str | Sequence[str] = 'onnx',
    out: str | os.PathLike[str] | None = None,
    name: str | None = None,
    config: str | os.PathLike[str] | None = None,
    license: str | None = None,
) -> list[Exported]:
    """Writes a student for other runtimes, loads what was written, and compares its answers, as ``composer-kd export``.

    Projectors and other nets that were trained beside the student are left out; adapters (LoRA) are merged.

    Args:
        model: A module that a script trained; or a run folder, a checkpoint or the YAML of a run.
        data: For a module, a batch of at least two samples, or a DataLoader: what the files are checked with. None for
            a run.
        to: ``'onnx'``, ``'torch-export'``, ``'huggingface'``, ``'state-dict'``, or several of them.
        out: The folder in which each format gets a subfolder; by default ``export``, for a run ``export`` in it.
        name: The name in the model card of a module; by default its class.
        config: For a checkpoint that a script's Trainer wrote: the YAML that says its model and data.
        license: The licence for the model card, by its identifier on the Hugging Face Hub, such as ``'apache-2.0'``.

    Returns:
        The exported formats, with their folders, files and the result of the comparison.

    Raises:
        ConfigError: If a format is unknown, its packages are missing, or it does not answer as the module does: one
            error for all formats that failed; the others are written.

    Example:
        >>> import tempfile
        >>> (exported,) = export(nn.Linear(4, 3), torch.randn(8, 4), to='state-dict', out=tempfile.mkdtemp())
        >>> list(exported.files), exported.verification.samples
        (['student.pt'], 8)
    """
    formats = [to] if isinstance(to, str) else list(to)
    if not isinstance(model, nn.Module):
        if data is not None:
            raise ConfigError('data: a run is checked on its own evaluation data; leave data out')
        place = None if out is None else os.fspath(out)
        settings = None if config is None else os.fspath(config)
        return export_run(os.fspath(model), formats, place, config=settings, license=license)
    attempt = Attempts()
    targets = [attempt(find_target, one) for one in dict.fromkeys(formats)]
    attempt.finish()
    if data is None:
        raise ConfigError('data: missing. A module is checked on data that is given with it: export(model, batch)')
    student = _student(model, Data(data))
    folder = pathlib.Path('export' if out is None else out)
    make_folder(folder, 'out')
    written = []
    for target in targets:
        assert target is not None
        found = attempt(
            export_student,
            student,
            target,
            folder / target.name,
            lambda made: _card(student, made, name, license).markdown(),
        )
        written += [] if found is None else [found]
    attempt.finish()
    return written


def _student(model: nn.Module, data: Data) -> Student:
    with without_remarks():
        own = merged(own_copy(model))
    inference = Inference(own, data.first)
    pieces = in_pieces(inference.inputs_of(batch) for batch in data.batches())
    if max(len(piece[0]) for piece in pieces) < 2:
        raise ConfigError(
            'data: expected a batch of at least two samples, got one: an exporter would take the batch size for a '
            'constant'
        )
    kind = class_of(model)
    return Student(
        inference=inference,
        batch=data.first,
        pieces=pieces,
        fresh=lambda: _emptied(inference.model),
        code=f'model = ...  # {kind.__module__}.{kind.__name__}, built as in the script\n',
        tokenizer=getattr(model, 'tokenizer', None),
        preparation=preparation(data.dataset),
    )


def _emptied(model: nn.Module) -> nn.Module:
    """The same module without what its state dict holds, so that a check shows whether that is loaded."""
    empty = copied(model)
    with torch.no_grad():
        for tensor in empty.state_dict().values():
            tensor.zero_()
    return empty


def _card(student: Student, exported: Exported, name: str | None, license: str | None) -> Card:
    model = student.inference.model
    parameters = number_text(count_parameters(model))
    sizes = '\n'.join(f'* `{file}`: {bytes_text(size)}' for file, size in exported.files.items())
    return Card(
        title=name or type(model).__name__,
        summary=f'`{type(model).__name__}` with {parameters} parameters, trained with Composer.',
        library=exported.target.library,
        sections=[
            ('Use', f'{fenced(exported.usage, "python")}\n\n{student.preparation}'.strip()),
            ('Files', sizes),
            ('Check', f'Loaded again, and compared with the model in PyTorch on {exported.verification}.'),
        ],
        tags=('composer_kd',),
        license=license,
    )
