"""Checks all stages before the first one trains: builds each, with stand-ins for the weights that are to come."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import shutil
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from composer.utils import dist

from composer_kd.config.markers import Component
from composer_kd.config.schema import RunConfig, SourceConfig, TeacherConfig
from composer_kd.config.stages import Chain, Stage
from composer_kd.errors import Attempts, ComposerKDError, ConfigError
from composer_kd.runs.build import build_trainer, check_components
from composer_kd.runs.ending import closing, release
from composer_kd.runs.folder import check_files
from composer_kd.runs.preflight import check_autoresume
from composer_kd.runs.rehearsal import ALONE, plan
from composer_kd.workflows.stages.ensemble import build_ensemble, evaluation_loader

__all__ = ['rehearse']

_FOLDER = '.rehearsal'


def rehearse(chain: Chain, left: list[Stage], folder: pathlib.Path | None = None) -> list[str]:
    """Builds everything that the stages need, and reports what is wrong with any of them.

    A stage that teaches a later one saves the weights that it starts from; the later one loads these as it will load
    those that it is taught by. So layers, shapes, data and checkpoints are checked as in a run of its own.

    Args:
        chain: The chain.
        left: The stages that have not finished.
        folder: Where the weights lie meanwhile; None for one in the folder of the chain.

    Returns:
        For each of these stages, what it would train.

    Raises:
        ConfigError: If stages cannot be built; lists the errors of all.
    """
    folder = folder or chain.folder / _FOLDER
    stand_ins: dict[str, str | None] = {str(stage.latest): None for stage in left}
    attempt = Attempts()
    plans: list[str] = []
    with _shared(folder):
        for stage in left:
            file = folder / f'{stage.name}.pt'
            built = _tried(attempt, chain, stage, stand_ins, file)
            if built is not None:
                plans.append(built[1])
            if built is not None and built[0]:
                stand_ins[str(stage.latest)] = str(file)
    attempt.finish()
    return plans


@contextlib.contextmanager
def _shared(folder: pathlib.Path) -> Iterator[None]:
    """A folder that rank 0 makes for all processes, and removes."""
    here = dist.get_global_rank() == 0
    if here:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    dist.barrier()
    try:
        yield
        dist.barrier()
    finally:
        if here:
            shutil.rmtree(folder, ignore_errors=True)


def _tried(attempt: Attempts, *arguments: Any) -> tuple[bool, str] | None:
    # Of several processes one alone may fail: the others would wait for it at the next stage.
    return attempt(_said, *arguments) if dist.get_world_size() == 1 else _said(*arguments)


def _said(chain: Chain, stage: Stage, *rest: Any) -> tuple[bool, str]:
    try:
        return _build(chain, stage, *rest)
    except ComposerKDError as error:
        raise ConfigError(f'{stage.name}: {error}') from error


def _build(chain: Chain, stage: Stage, stand_ins: Mapping[str, str | None], file: pathlib.Path) -> tuple[bool, str]:
    """Builds a stage; returns whether it saved the weights that it starts from, and what it would train."""
    config = stage.config
    check_files(config)
    if not chain.starts_anew:
        check_autoresume(config)
    check_components(config)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # said when the stage begins
        trainer = build_trainer(_taught_by(dataclasses.replace(config, **ALONE), stand_ins))
    with closing(trainer):
        told = plan(config, trainer)
        saves = _is_needed(stage, chain) and config.sharding is None  # a sharded one may not fit in one process
        if saves:
            trainer.save_checkpoint(str(file), weights_only=True)
            dist.barrier()
            _check_ensemble(chain, stage, file)
    release(trainer)
    return saves, told


def _is_needed(stage: Stage, chain: Chain) -> bool:
    teaches = any(stage.name in other.taught_by.values() for other in chain.stages)
    return teaches or any(stage.name in members for members in chain.ensembles.values())


def _check_ensemble(chain: Chain, stage: Stage, file: pathlib.Path) -> None:
    """Tries the ensemble of the generations on one batch, when the first of these is built."""
    name = next((name for name, members in chain.ensembles.items() if members[0] == stage.name), None)
    loader = evaluation_loader(stage.config) if name is not None else None
    if loader is None:
        return
    try:
        ensemble = build_ensemble([stage.config] * 2, [file] * 2, loader)
        with torch.no_grad():
            ensemble.eval().eval_forward(next(iter(loader)))
    except ComposerKDError as error:
        raise ConfigError(f'the ensemble of {name}: {error}. Leave it out: stages.{name}.ensemble=false') from error


def _taught_by(config: RunConfig, stand_ins: Mapping[str, str | None]) -> RunConfig:
    """The settings with the stand-ins for weights that are not there yet; None for the weights of a new model."""

    def one(value: Any) -> Any:
        if isinstance(value, list):
            return [one(item) for item in value]
        if isinstance(value, (SourceConfig, TeacherConfig)):
            value = dataclasses.replace(value, model=with_stand_ins(value.model))  # it may be cut out of a stage itself
            if value.checkpoint is not None and value.checkpoint in stand_ins:
                return dataclasses.replace(value, checkpoint=stand_ins[value.checkpoint])
        return value

    def with_stand_ins(part: Component) -> Component:
        return part.with_options({key: one(value) for key, value in part.options.items()})

    return dataclasses.replace(
        config,
        model=with_stand_ins(config.model),
        algorithms={key: with_stand_ins(each) for key, each in config.algorithms.items()},
    )
