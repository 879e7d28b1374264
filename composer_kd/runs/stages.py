"""The folders of a chain of stages: which of them have finished, and whether they still belong together."""

from __future__ import annotations

import hashlib
import json
import pathlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from composer_kd.config.effects import differing
from composer_kd.config.load import as_mapping
from composer_kd.config.markers import Effect
from composer_kd.config.stages import Chain, Stage
from composer_kd.config.yaml_source import read_source
from composer_kd.errors import ComposerKDError, ConfigError
from composer_kd.presentation.files import write_file
from composer_kd.presentation.settings import leaves
from composer_kd.runs.files import (
    CONFIG_FILE,
    METRICS_FILE,
    STAGE_FILE,
    STAGES_FILE,
    checkpoints,
    latest_in,
    trained_stages,
)
from composer_kd.runs.folder import clear, holds_run
from composer_kd.runs.resume import MAY_CHANGE, saved_settings
from composer_kd.teachers.checkpoints import read_checkpoint

__all__ = [
    'check_folder',
    'check_last_checkpoint',
    'check_stages',
    'clear_chain',
    'finished_metrics',
    'left_behind',
    'note_teachers',
    'stage_folders',
    'weights_digest',
]


def finished_metrics(folder: pathlib.Path) -> dict[str, float] | None:
    """Reads the final metrics of a run, which it writes when nothing is left to train.

    Args:
        folder: The run folder.

    Returns:
        The metrics; None if the run has not finished, or its checkpoint is gone.
    """
    file = folder / METRICS_FILE
    if not latest_in(folder).exists() or not file.is_file():
        return None
    try:
        noted = json.loads(file.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    return noted if isinstance(noted, dict) and 'time/batch' in noted else None


def check_folder(chain: Chain) -> None:
    """Checks that the folder of a chain is not that of a run, which commands would no longer see there.

    Args:
        chain: The chain that is about to start.

    Raises:
        ConfigError: If it holds a run.
    """
    if holds_run(chain.folder):
        raise ConfigError(
            f'save_folder: {chain.folder} holds a run that is no stage; give the stages another run_name=... or '
            'save_folder=...'
        )


def check_stages(chain: Chain) -> None:
    """Checks that what lies in the folder of a chain was trained with its settings, by the teachers that lie there.

    Args:
        chain: The chain that is about to go on.

    Raises:
        ConfigError: If a stage has other settings, or was taught by other weights; lists all of them.
    """
    faults: list[str] = []
    begun = [stage for stage in chain.stages if holds_run(stage.folder)]
    digests: dict[str, str | None] = {}
    wrong: dict[str, Stage] = {}  # by name; and with each the stages that it taught
    for stage in begun:
        finished = finished_metrics(stage.folder) is not None
        found = [*_other_settings(stage, finished), *_other_teachers(stage, chain, digests)]
        faults += found
        if found or wrong.keys() & stage.taught_by.values():
            wrong[stage.name] = stage
    if not faults:
        return
    folders = shlex.join(str(stage.folder) for stage in wrong.values())
    raise ConfigError(
        f'{chain.folder} holds stages that do not belong to these settings:\n'
        + '\n'.join(f'  {fault}' for fault in faults)
        + f'\nUndo the changes; or train these stages anew: rm -r {folders}; or all of them: save_overwrite=true; or '
        'keep them, and give another run_name=...'
    )


def _other_settings(stage: Stage, finished: bool) -> Iterator[str]:
    before = saved_settings(stage.folder)
    if before is None:
        return
    old, new = leaves(before), leaves(as_mapping(stage.config))
    changed = differing(old, new, *((Effect.EVALUATION,) if finished else MAY_CHANGE))
    if changed:
        said = '; '.join(f'{key}: {old.get(key, "(nothing)")!r} → {new.get(key, "(nothing)")!r}' for key in changed)
        yield f'{stage.name}: {"has finished" if finished else "was begun"} with other settings: {said}'


def _other_teachers(stage: Stage, chain: Chain, digests: dict[str, str | None]) -> Iterator[str]:
    """Yields which teachers have other weights than those that taught a stage."""
    noted = _noted_teachers(stage.folder)
    for name in dict.fromkeys(stage.taught_by.values()):
        if name not in digests:
            digests[name] = weights_digest(chain[name].folder)
        if digests[name] is None or finished_metrics(chain[name].folder) is None:
            yield f'{stage.name}: was taught by {name}, which has not finished'
        elif noted.get(name) != digests[name]:
            yield f'{stage.name}: was taught by {name} with other weights than those in {chain[name].folder}'


def _noted_teachers(folder: pathlib.Path) -> Mapping[str, Any]:
    try:
        noted = json.loads((folder / STAGE_FILE).read_text(encoding='utf-8'))['taught_by']
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return noted if isinstance(noted, dict) else {}


def note_teachers(stage: Stage, chain: Chain) -> None:
    """Notes in the folder of a stage which weights teach it, before it begins.

    Args:
        stage: The stage.
        chain: The chain, of which the stages that teach it have finished.
    """
    stage.folder.mkdir(parents=True, exist_ok=True)
    taught_by = {name: weights_digest(chain[name].folder) for name in dict.fromkeys(stage.taught_by.values())}
    write_file(stage.folder / STAGE_FILE, json.dumps({'stage': stage.name, 'taught_by': taught_by}, indent=2) + '\n')


def check_last_checkpoint(stage: Stage, metrics: Mapping[str, float]) -> None:
    """Checks that the checkpoint of a stage that has just ended holds its last weights, which may teach the next one.

    Args:
        stage: The stage.
        metrics: Its final metrics.

    Raises:
        ConfigError: If it was saved earlier: a callback ended the run at a batch at which nothing is saved.
    """
    saved = next(iter(checkpoints(stage.folder)), None)
    name = None if saved is None else saved.name
    if name is not None and f'-ba{int(metrics["time/batch"])}-' not in name:
        raise ConfigError(
            f'{stage.name}: ended after {int(metrics["time/batch"]):,} batches, and its latest checkpoint is {name}: '
            f'its last weights are not saved. Save more often (save_interval, now {stage.config.save_interval})'
        )


def weights_digest(folder: pathlib.Path) -> str | None:
    """Hashes the weights in the latest checkpoint of a run, with their names, dtypes and shapes.

    Args:
        folder: The run folder.

    Returns:
        The hash; None if there is no checkpoint.

    Raises:
        CheckpointError: If it is damaged or unsafe.
    """
    file = latest_in(folder)
    if not file.exists():
        return None
    state = hashlib.blake2b(digest_size=16)
    for name, value in sorted(read_checkpoint(file).weights.items()):
        state.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        state.update(_bytes(value))
    return state.hexdigest()


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy()) if flat.numel() else b''


def clear_chain(chain: Chain) -> None:
    """Removes what an earlier chain left in the folders of the stages, before it is replaced.

    Args:
        chain: The chain.
    """
    for stage in chain.stages:
        clear(stage.folder)
        (stage.folder / STAGE_FILE).unlink(missing_ok=True)
    (chain.folder / STAGES_FILE).unlink(missing_ok=True)


def stage_folders(written: Sequence[str | pathlib.Path]) -> list[str | pathlib.Path]:
    """Puts the folders of the trained stages in the place of the folder of a chain.

    Args:
        written: Run folders, checkpoints, YAML files, and folders of chains.

    Returns:
        The same without folders of chains; of these each stage that has a checkpoint, in order, but those that measure
        nothing, if there are others: stages without evaluation data, whose answers have no meaning yet.

    Raises:
        ConfigError: If no stage of a chain has a checkpoint.

    Example:
        >>> stage_folders(['runs/digits-kd'])
        ['runs/digits-kd']
    """
    found: list[str | pathlib.Path] = []
    for one in written:
        stages = trained_stages(pathlib.Path(one))
        found += [one] if stages is None else ([stage for stage in stages if _is_measured(stage)] or stages)
    return found


def _is_measured(folder: pathlib.Path) -> bool:
    """Whether a run has evaluation data, as far as its settings can be read."""
    try:
        settings = read_source(folder / CONFIG_FILE).data
    except ComposerKDError:
        return True  # said where the run is opened
    trained = settings.get('train_loader')
    return bool(settings.get('eval_loader') or (isinstance(trained, dict) and trained.get('hold_out')))


def left_behind(chain: Chain) -> list[pathlib.Path]:
    """The folders of runs below that of a chain that were stages of it once, as with more generations.

    Args:
        chain: The chain.
    """
    names = {stage.name for stage in chain.stages}
    folders = sorted(file.parent for file in chain.folder.glob(f'*/{STAGE_FILE}'))
    return [folder for folder in folders if folder.name not in names and holds_run(folder)]
