"""Gathers the evidence for a report from runs, and writes the report."""

from __future__ import annotations

import dataclasses
import datetime
import pathlib
import shlex
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console

from composer_kd.bench import BenchResults, environment
from composer_kd.callbacks.history import HISTORY_FILE, curve, read_history
from composer_kd.config.effects import changes_result
from composer_kd.config.load import as_mapping
from composer_kd.config.markers import Effect
from composer_kd.config.schema import elsewhere
from composer_kd.config.secrets import hidden
from composer_kd.errors import Attempts, CheckpointNotFoundError, ConfigError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.presentation.console import terminal
from composer_kd.presentation.settings import leaves
from composer_kd.reports import Curve, Evidence, ModelEvidence, Report, write_report
from composer_kd.runs.beside import names_beside, written_model
from composer_kd.runs.compared import ComparedModel, compared_models, evaluation_run, teacher_weights
from composer_kd.runs.evaluate import evaluate_run, metrics_of
from composer_kd.runs.files import CONFIG_FILE, METRICS_FILE, latest_in, make_folder
from composer_kd.runs.saved import SavedRun, open_runs
from composer_kd.workflows.report.ensembles import ensemble_notes
from composer_kd.workflows.report.predict import Answering
from composer_kd.workflows.report.timings import found_beside, given, measured_now
from composer_kd.workflows.report.wandb import destination, send

__all__ = ['ReportOptions', 'curves_in', 'gather', 'report']

SET_ASIDE = (Effect.MICROBATCH, Effect.SEED, Effect.EVALUATION)
"""The settings in which the runs of one row may differ; a row is a mean over runs with different seeds."""


@dataclasses.dataclass(frozen=True)
class ReportOptions:
    """The options of a report.

    Args:
        runs: Run folders, checkpoints or YAML files of runs.
        out: The folder for the report's files.
        bench: Results of ``composer-kd bench``: the file or its folder. For ``None``, the folder ``bench`` beside
            ``out`` is used if it has these models; else the models are timed briefly.
        with_bench: Whether the report includes speed.
        config: The YAML of all runs; ``None`` for each run's own.
        wandb: The W&B project to log to; ``''`` for the project in a run's YAML. For ``None``, the report is logged if
            the YAML of a run has a W&B logger.
        with_wandb: Whether the report may be logged to W&B.
    """

    runs: Sequence[str | pathlib.Path]
    out: pathlib.Path = pathlib.Path('runs/report')
    bench: str | pathlib.Path | None = None
    with_bench: bool = True
    config: str | pathlib.Path | None = None
    wandb: str | None = None
    with_wandb: bool = True


def report(options: ReportOptions, console: Console | None = None) -> Report:
    """Compares runs: writes an HTML page, Markdown, JSON, CSV and plots, and logs them to W&B if requested.

    Args:
        options: The runs, the folder for the files, and further options.
        console: The console to print on; by default the terminal.

    Returns:
        The report.

    Raises:
        ComposerKDError: If a run cannot be opened, has no checkpoint, or is evaluated on different data; or if
            ``options.bench`` has no results of these models. Raised before any model is evaluated.
    """
    console = console or terminal()
    make_folder(options.out, '--out')
    runs = open_runs(options.runs, options.config)
    project = destination(runs, options.wandb) if options.with_wandb else None
    found = Report(gather(runs, options, console))
    files = write_report(found, options.out)
    for sentence in found.verdict:
        console.print(sentence, style='bold', highlight=False, markup=False)
    for note in found.notes:
        console.print(f'Note: {note}', style='dim', highlight=False, markup=False)
    console.print(
        f'Report: {files[0]} (also .md, .json, .csv and {len(files) - 4} plots)', highlight=False, markup=False
    )
    if project is not None:
        send(found, files, project, console)
    return found


def gather(runs: Sequence[SavedRun], options: ReportOptions, console: Console) -> Evidence:
    """Evaluates all models on the evaluation data, and reads the settings, metrics and histories of their runs.

    Args:
        runs: The runs, under different names.
        options: The options of the report.
        console: The console for progress messages.

    Returns:
        The evidence from which a report is made.

    Raises:
        ComposerKDError: As in ``report``.
    """
    _require_checkpoints(runs)
    _require_metrics(runs)
    evaluated = evaluation_run(runs)
    answering = Answering.of_run(evaluated)
    listed, left_out = _compared_models(runs, answering.num_classes)
    timings = _timings(options, listed)
    models = []
    for number, compared in enumerate(listed, 1):
        console.print(
            f'evaluating {compared.name} ({number} of {len(listed)})', style='dim', highlight=False, markup=False
        )
        models.append(_with_records(answering(compared), compared))
    if timings is None:
        console.print('timing the models for a moment', style='dim', highlight=False)
        timings = measured_now(models, answering.batches())
    bench, source = timings
    notes = ensemble_notes(options.runs) + left_out
    notes += [note for compared in listed if compared.run is not None for note in _missing(compared.run)]
    return Evidence(
        models=tuple(models),
        evaluation=answering.evaluation_set(),
        bench=bench,
        bench_source=source,
        environment=environment([answering.device.type]),
        command=_command_of(options),
        notes=tuple(dict.fromkeys(notes)),
        created=datetime.datetime.now().astimezone().strftime('%Y-%m-%d %H:%M %Z'),
    )


def _compared_models(runs: Sequence[SavedRun], num_classes: int | None) -> tuple[list[ComparedModel], list[str]]:
    """Lists the models; also returns notes about models that are left out."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        listed = compared_models(runs, num_classes)
    said = (str(warning.message) for warning in caught)
    # A report compares what models answer; the answers of a random head mean nothing.
    kept = [one for one in listed if one.run is not None or one.trained]
    return kept, [f'{text[:1].upper()}{text[1:]}.' for text in said]


def _command_of(options: ReportOptions) -> str:
    words = [
        'composer-kd',
        'report',
        *(without_credentials(str(one)) for one in options.runs),
        '--out',
        str(options.out),
    ]
    for name, value in (('--config', options.config), ('--bench', options.bench)):
        words += [] if value is None else [name, str(value)]
    return shlex.join([*words, *([] if options.with_bench else ['--no-bench'])])


def _timings(options: ReportOptions, listed: Sequence[ComparedModel]) -> tuple[BenchResults | None, str] | None:
    """Returns existing timings, or no results if speed is not requested; ``None`` if the models need to be timed."""
    if not options.with_bench:
        return None, ''
    return given(options.bench, listed) if options.bench is not None else found_beside(options.out, listed)


def _require_checkpoints(runs: Sequence[SavedRun]) -> None:
    def check(run: SavedRun) -> None:
        if not run.is_trained:
            raise CheckpointNotFoundError(
                f'{run.name} has no checkpoint, and a report compares trained models; train it first with '
                '`composer-kd train`'
            )

    attempt = Attempts()
    for run in runs:
        attempt(check, run)
    attempt.finish()


def _require_metrics(runs: Sequence[SavedRun]) -> None:
    """Reads the final metrics of all runs before any model is evaluated; raises one error for all that are damaged."""
    attempt = Attempts()
    for run in runs:
        attempt(lambda run: run.metrics, run)
    attempt.finish()


def _with_records(found: ModelEvidence, compared: ComparedModel) -> ModelEvidence:
    """Adds the settings, metrics, curves and checkpoint of the model's run."""
    found = dataclasses.replace(found, checkpoint=_checkpoint(compared))
    run = compared.run
    if run is not None and compared.net is not None:
        found = dataclasses.replace(
            found,
            settings={**run.written, 'model': written_model(run, compared.net), 'net': compared.net},
            distilled_by=tuple(run.config.distilling),
            metrics=metrics_of(run.metrics, compared.net, names_beside(run)),
        )
    elif run is not None:
        found = dataclasses.replace(
            found,
            settings=run.written,
            distilled_by=tuple(run.config.distilling),
            metrics=_metrics(run),
            curves=curves_in(run.folder),
            command=_command(run),
        )
    elif compared.teacher is not None:
        found = dataclasses.replace(found, settings={'model': as_mapping(compared.teacher.model)})
    free = frozenset(key for key in leaves(found.settings) if not changes_result(key, *SET_ASIDE))
    return dataclasses.replace(found, without_effect=free)


def _metrics(run: SavedRun) -> dict[str, float]:
    """The final metrics of a run; of another checkpoint than the latest, what an evaluation measures now."""
    assert run.checkpoint is not None
    latest = None if run.folder is None else latest_in(run.folder)
    if not run.metrics or latest is None or latest.resolve() == run.checkpoint.resolve():
        return run.metrics
    noted = {name: value for name, value in run.metrics.items() if not name.startswith('metrics/')}
    return {**noted, **evaluate_run(run).metrics}


def _checkpoint(compared: ComparedModel) -> str | None:
    if compared.run is not None:
        return compared.run.address or str(compared.run.checkpoint)
    written = compared.teacher.checkpoint if compared.teacher is not None else None
    return hidden(written) if written is None or '://' in written else str(teacher_weights(written))


def _command(run: SavedRun) -> str | None:
    """The command that trains a run once more, beside it."""
    if run.folder is None or run.address is not None:
        return None
    written = run.written.get('save_folder')
    follows = isinstance(written, str) and '{run_name}' in written
    settings = elsewhere(written if follows else str(run.folder), str(run.written.get('run_name')), 'again')
    return shlex.join(['composer-kd', 'train', str(run.folder / CONFIG_FILE), *map('='.join, settings.items())])


def curves_in(folder: pathlib.Path | None) -> dict[str, Curve]:
    """Reads the training curves of a run.

    Args:
        folder: The folder with its ``history.jsonl``; None for none.

    Returns:
        The curves by name, as in :class:`.ModelEvidence`; empty without a history, or with one that is damaged.
    """
    if folder is None or not (folder / HISTORY_FILE).is_file():
        return {}
    try:
        history = _history(folder)
    except ConfigError:
        return {}  # _missing makes a note of it
    names = {key for record in history for key in record}
    accuracy = sorted(
        name
        for name in names
        if name.startswith('metrics/eval/') and name.endswith('Accuracy') and name.count('/') == 2
    )
    task = 'loss/train/task' if 'loss/train/task' in names else 'loss/train/total'
    wanted = {'task': task, 'kd': 'loss/train/kd', **({'accuracy': accuracy[0]} if accuracy else {})}
    found = {name: curve(history, key) for name, key in wanted.items()}
    return {
        name: Curve(np.asarray(batches), np.asarray(values)) for name, (batches, values) in found.items() if batches
    }


def _history(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Reads a history of which all values are numbers; raises ``ConfigError`` for any other file."""
    try:
        history = read_history(folder)
    except (OSError, OverflowError, RecursionError) as error:
        raise ConfigError(f'{folder / HISTORY_FILE} cannot be read: {error}') from error
    for record in history:
        for key, value in record.items():
            if key != 'run_id' and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ConfigError(
                    f'{folder / HISTORY_FILE}, batch {record["batch"]}: {key} is no number, {value!r:.80}'
                )
    return history


def _missing(run: SavedRun) -> list[str]:
    """Notes which records of a run are missing, and what the report lacks for this reason."""
    found = []
    latest = None if run.folder is None else latest_in(run.folder)
    if run.checkpoint is not None and latest is not None and run.checkpoint.resolve() != latest.resolve():
        found.append(
            f'Of {run.name} the checkpoint {run.checkpoint.name} answers, not the latest; its training curves and what '
            'it cost are those of the whole run.'
        )
    if not run.metrics:
        found.append(
            f'{run.name} did not come to its end (no {METRICS_FILE}): its latest checkpoint counts, and what its '
            'training cost is not known.'
        )
    elif not any(name.startswith('cost/') for name in run.metrics):
        found.append(f'{run.name} did not note what its training cost: an older version trained it.')
    if run.folder is not None:
        try:
            _history(run.folder)
        except ConfigError as error:
            found.append(f'{run.name} has no training curves: {error}.')
    return found
