"""Exports the student of a run to the formats of other runtimes: ``composer-kd export``."""

from __future__ import annotations

import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

from composer.models import ComposerClassifier, HuggingFaceModel

from composer_kd.bench.results import BenchResults, Row
from composer_kd.config.construct import construct_or_say
from composer_kd.config.markers import Component
from composer_kd.deploy import Inference
from composer_kd.deploy.exporter import Exported, export, find_target
from composer_kd.deploy.targets import Student
from composer_kd.deploy.verification import in_pieces
from composer_kd.errors import Attempts, ConfigError
from composer_kd.models.adapters import merged
from composer_kd.runs.beside import joint_net, model_of_net, name_of_net, names_beside, require_name
from composer_kd.runs.build import build_model
from composer_kd.runs.files import make_folder
from composer_kd.runs.process import without_remarks
from composer_kd.runs.saved import SavedRun, open_run
from composer_kd.workflows.export.model_card import final_or_measured, model_card, preparation

__all__ = ['export_run', 'student_of']


def export_run(
    written: str | pathlib.Path,
    to: Sequence[str],
    out: str | pathlib.Path | None = None,
    bench: str | pathlib.Path | None = None,
    config: str | pathlib.Path | None = None,
    command: str = '',
    done: Callable[[Exported], None] = lambda exported: None,
    net: str | None = None,
    license: str | None = None,
) -> list[Exported]:
    """Writes the student of a run in one or several formats, each verified and with a model card.

    Nets that were trained beside the student (peers, the heads of exits) are left out, or exported in its place.

    Args:
        written: The run, as in ``open_run``: a run folder, a checkpoint or a YAML file. It needs a checkpoint.
        to: The names of the formats.
        out: The folder in which each format gets a subfolder; by default ``export`` beside the
            checkpoint; for a run behind a URI in a folder of the run's name in the working folder.
        bench: Results of ``composer-kd bench`` with this run: the file or its folder. The model card then has a table
            of latency and throughput.
        config: The run's YAML; by default the ``config.yaml`` beside the checkpoint or in a folder above it.
        command: The command line, for the model card.
        done: A function that is called with each exported format.
        net: The name of a net that was trained beside the student, to be exported in its place: ``'exit.layer2'``, or
            that of a peer.
        license: The licence for the model card, by its identifier on the Hugging Face Hub, such as ``'apache-2.0'``.

    Returns:
        The exported formats, in the order of ``to``.

    Raises:
        ComposerKDError: If the input is wrong (raised before anything is written), or if formats failed: one error at
            the end lists them all, and the other formats are written.

    Example:
        >>> export_run('yamls/digits/no_such.yaml', ['onnx'])
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: no configuration file 'yamls/digits/no_such.yaml'...
    """
    attempt = Attempts()
    targets = [attempt(find_target, name) for name in dict.fromkeys(to)]
    run = attempt(_open_trained, written, config)
    attempt.finish()
    assert run is not None
    assert run.checkpoint is not None
    if net is not None:
        require_name(run, net)
    title = run.name if net is None else name_of_net(run, net)
    rows = _rows(bench, title)
    home = run.checkpoint.parent if run.address is None else pathlib.Path(run.name)
    folder = pathlib.Path(out) if out is not None else home / 'export' / (net or '')
    make_folder(folder, '--out')
    with without_remarks():
        student = student_of(run) if net is None else net_of(run, net)
        measured = final_or_measured(run).of(net or '', names_beside(run))
    written_formats = []

    def describe(exported: Exported) -> str:
        return model_card(run, student, exported, measured, rows, command, net, license)

    for target in targets:
        assert target is not None
        exported = attempt(export, student, target, folder / target.name, describe)
        if exported is not None:
            written_formats.append(exported)
            done(exported)
    attempt.finish()
    return written_formats


def net_of(run: SavedRun, net: str) -> Student:
    """Builds a net that was trained beside the student of a run.

    Args:
        run: A run with a checkpoint and evaluation data.
        net: The name of the net.

    Returns:
        The net with its weights, and samples of the evaluation data for the verification.

    Raises:
        ComposerKDError: As for :func:`student_of`.
    """
    loader = run.loader()
    batch = next(iter(run.batches(loader)))
    built = joint_net(run, net)
    if built.input_adapter is not None:
        raise ConfigError(
            f'{net}: the peer was trained on inputs that an adapter changes, which cannot be exported with it'
        )
    inference, code = Inference(built.model, batch), _code(model_of_net(run, net))

    def fresh() -> Any:
        return Inference(joint_net(run, net).model, batch).model

    return Student(
        inference=inference,
        batch=batch,
        pieces=in_pieces(inference.inputs_of(one) for one in run.batches(loader)),
        fresh=fresh,
        code=None if code is None or built.code is None else f'{code}\n{built.code}',
        tokenizer=getattr(built.model, 'tokenizer', None),
        preparation=preparation(loader.dataset),
    )


def student_of(run: SavedRun) -> Student:
    """Builds the student of a run without auxiliary modules such as projectors.

    Args:
        run: A run with a checkpoint and evaluation data.

    Returns:
        The student with its weights, and samples of the evaluation data for the verification.

    Raises:
        ComposerKDError: If the checkpoint is damaged or does not fit, or the settings or the data are wrong.
    """
    loader = run.loader()
    classes = getattr(loader.dataset, 'num_classes', None)
    batch = next(iter(loader))
    component = _without_adapters(run.config.model)
    model = merged(run.model(classes))
    inference = Inference(model, batch)

    def fresh() -> Any:
        return Inference(build_model(component, classes), batch).model

    return Student(
        inference=inference,
        batch=batch,
        pieces=in_pieces(inference.inputs_of(one) for one in loader),
        fresh=fresh,
        code=_code(component),
        tokenizer=getattr(model, 'tokenizer', None),
        preparation=preparation(loader.dataset),
    )


def _without_adapters(component: Component) -> Component:
    """The model that adapters are merged into."""
    return component.with_options({key: value for key, value in component.options.items() if key != 'peft'})


def _open_trained(written: str | pathlib.Path, config: str | pathlib.Path | None) -> SavedRun:
    run = open_run(written, config)
    if not run.is_trained:
        raise ConfigError(
            f'{written}: nothing was trained with it yet, so there is nothing to export; first: '
            f'composer-kd train {written}'
        )
    return run


def _rows(bench: str | pathlib.Path | None, model: str) -> list[Row]:
    """Reads the benchmark results of a model."""
    if bench is None:
        return []
    rows = BenchResults.read(bench).rows
    found = [row for row in rows if row.model == model]
    if not found:
        names = ', '.join(sorted({row.model for row in rows})) or 'nothing'
        raise ConfigError(f'--bench: {bench} knows nothing of {model}; it is about {names}')
    return found


_WRAPPERS = {ComposerClassifier: '.module', HuggingFaceModel: '.model'}


def _code(component: Component) -> str | None:
    """Returns Python code that builds the bare module; ``None`` if the options are not all plain values."""
    target = component.target
    module, _, name = component.name.rpartition('.') if '.' in component.name else ('composer_kd.models', '', '')
    name = name or target.__name__
    if not _is_plain(component.options) or not _can_import(module, name):
        return None
    built = construct_or_say(component)
    bare = next((attribute for kind, attribute in _WRAPPERS.items() if isinstance(built, kind)), '')
    options = ', '.join(f'{key}={value!r}' for key, value in component.options.items())
    return f'from {module} import {name}\n\nmodel = {name}({options}){bare}\n'


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_plain(one) for one in value.values())
    if isinstance(value, list | tuple):
        return all(_is_plain(one) for one in value)
    return value is None or isinstance(value, str | int | float | bool)


def _can_import(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except ImportError:
        return False
