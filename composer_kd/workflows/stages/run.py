"""Trains the stages of a chain in order; started again, goes on where it stopped."""

from __future__ import annotations

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

from composer.utils import dist, get_device

from composer_kd.config.stages import Chain, Stage
from composer_kd.errors import ComposerKDError, ConfigError, stopped_by
from composer_kd.runs.ending import full_disk_said
from composer_kd.runs.files import checkpoints, make_folder
from composer_kd.runs.folder import alone_in
from composer_kd.runs.process import say, without_remarks
from composer_kd.runs.rehearsal import check_place
from composer_kd.runs.stages import (
    check_folder,
    check_last_checkpoint,
    check_stages,
    clear_chain,
    finished_metrics,
    left_behind,
    note_teachers,
)
from composer_kd.runs.train import train
from composer_kd.workflows.stages.ensemble import evaluate_together
from composer_kd.workflows.stages.rehearsal import rehearse
from composer_kd.workflows.stages.results import as_table, write_results

__all__ = ['rehearse_stages', 'train_stages']


def train_stages(chain: Chain, quiet: bool = False) -> dict[str, dict[str, float]]:
    """Trains the stages of a chain, each as an ordinary run in a folder of its own below that of the chain.

    All stages are checked before the first trains. Stages that have finished are left as they are; one that was
    interrupted goes on inside its epoch. ``stages.json`` in the folder of the chain has the results.

    Args:
        chain: The chain, from ``load_chain``.
        quiet: Whether to omit the table at the end, and where the chain stands if a signal ends it.

    Returns:
        The final metrics of each stage by its name; and of each ensemble, by the name of the repeated stage.

    Raises:
        ComposerKDError: If a setting, data or a checkpoint is wrong, or a stage in the folder has other settings or was
            taught by other weights. Raised before the first batch.
    """
    if dist.get_world_size() > 1:
        dist.initialize_dist(get_device(None))
    make_folder(chain.folder, 'save_folder')
    rank = dist.get_global_rank()
    with without_remarks(), alone_in(chain.folder if rank == 0 else None), full_disk_said(chain.folder):
        finished = _finished(chain)
        left = [stage for stage in chain.stages if stage.name not in finished]
        for folder in left_behind(chain) if rank == 0 else ():
            say(f'{folder} is no stage of this YAML any more: it stays as it is, and is left out of the results')
        rehearse(chain, left)
        if chain.starts_anew:  # only now, when nothing is wrong with what takes its place
            _clear(chain)
        _write(chain, finished, {})
        for stage in chain.stages:
            if stage.name in finished:
                say(f'{stage.name} has finished')
                continue
            with contextlib.nullcontext() if quiet else _standing(chain, stage):
                finished[stage.name] = _train(chain, stage)
            _write(chain, finished, {})
        ensembles = {
            name: evaluate_together([chain[member] for member in members]) for name, members in chain.ensembles.items()
        }
        ensembles = {name: metrics for name, metrics in ensembles.items() if metrics}
        _write(chain, finished, ensembles)
    if not quiet:
        say(as_table(chain, finished, ensembles))
        say(f'each stage is a run of its own below {chain.folder}: composer-kd report {chain.folder}')
    return {**finished, **ensembles}


def rehearse_stages(chain: Chain) -> list[str]:
    """Checks all stages up to their first batches, without training or writing anything, and says what they are.

    Args:
        chain: The chain, from ``load_chain``.

    Returns:
        A line for each stage.

    Raises:
        ComposerKDError: As :func:`train_stages`; also if the folder of the chain cannot be made.
    """
    if dist.get_world_size() > 1:
        dist.initialize_dist(get_device(None))
    check_place(chain.folder)
    with without_remarks(), _aside() as folder:
        finished = _finished(chain)
        left = [stage for stage in chain.stages if stage.name not in finished]
        plans = [f'{name} has finished' for name in finished] + rehearse(chain, left, folder)
    for line in (*plans, 'dry run: all of it fits together; nothing was trained or written'):
        say(line)
    return plans


@contextlib.contextmanager
def _aside() -> Iterator[pathlib.Path]:
    """A temporary folder, the same for all processes of this machine, which is removed."""
    made = [tempfile.mkdtemp(prefix='composer_kd_') if dist.get_global_rank() == 0 else '']
    dist.broadcast_object_list(made)
    try:
        yield pathlib.Path(made[0])
    finally:
        if dist.get_global_rank() == 0:
            shutil.rmtree(made[0], ignore_errors=True)


def _finished(chain: Chain) -> dict[str, dict[str, float]]:
    """The final metrics of the stages that have finished, by name; as rank 0 finds them, which has the folder."""
    found: list[dict[str, dict[str, float]] | str] = [{}]
    if dist.get_global_rank() == 0:
        try:
            check_folder(chain)
            if not chain.starts_anew:
                check_stages(chain)
                metrics = {stage.name: finished_metrics(stage.folder) for stage in chain.stages}
                found = [{name: noted for name, noted in metrics.items() if noted is not None}]
        except ComposerKDError as error:
            found = [str(error)]
    dist.broadcast_object_list(found)
    if isinstance(found[0], str):
        raise ConfigError(found[0])
    return found[0]


def _clear(chain: Chain) -> None:
    if dist.get_global_rank() == 0:
        clear_chain(chain)
    dist.barrier()


def _train(chain: Chain, stage: Stage) -> dict[str, float]:
    number = chain.stages.index(stage) + 1
    teachers = ', '.join(dict.fromkeys(stage.taught_by.values()))
    say(f'{stage.name} ({number} of {len(chain.stages)})' + (f', taught by {teachers}' if teachers else ''))
    if dist.get_global_rank() == 0:
        note_teachers(stage, chain)
    metrics = train(stage.config, quiet=True)
    check_last_checkpoint(stage, metrics)
    return metrics


def _write(chain: Chain, stages: dict[str, dict[str, float]], ensembles: dict[str, dict[str, float]]) -> None:
    if dist.get_global_rank() == 0:
        write_results(chain, stages, ensembles)


@contextlib.contextmanager
def _standing(chain: Chain, stage: Stage) -> Iterator[None]:
    """Says where a chain stands and how to go on with it, if Ctrl-C or SIGTERM ends the block."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if stopped_by(error) is not None:
            without = ' without save_overwrite=true' if chain.starts_anew else ''
            whence = 'its latest checkpoint' if checkpoints(stage.folder) else 'its start: no checkpoint is saved yet'
            say(
                f'Stopped in {stage.name} ({chain.stages.index(stage) + 1} of {len(chain.stages)}): the same command'
                f'{without} goes on from {whence}.'
            )
        raise
