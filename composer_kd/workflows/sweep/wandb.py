"""Runs a sweep with Weights & Biases: its server draws the values and its agents run the command."""

from __future__ import annotations

import copy
import importlib.util
import multiprocessing
import os
import pathlib
from typing import Any

from composer_kd.errors import ConfigError
from composer_kd.presentation.console import terminal
from composer_kd.workflows.sweep.plan import QUIET, Plan, is_of_the_agent, make_plan
from composer_kd.workflows.sweep.sweep_file import ARGUMENTS, read_sweep

__all__ = ['as_wandb', 'run_wandb_sweep']

WITHOUT = 'leave --wandb out to search on this machine'
LOGGER = 'loggers={wandb: {}}'


def run_wandb_sweep(
    path: str | pathlib.Path, trials: int | None = None, agents: int = 1, use_eval_loader: bool = False
) -> None:
    """Creates a sweep on W&B's server and runs agents on this machine until the sweep ends.

    Args:
        path: The sweep's YAML.
        trials: The total number of runs; by default the file's ``run_cap``.
        agents: The number of agents that run in parallel on this machine.
        use_eval_loader: Whether runs are evaluated on their own ``eval_loader``, even if it is a test set.

    Raises:
        ConfigError: If W&B is not installed, offline or not logged in, or the file has faults.
    """
    _require_server()
    import wandb

    sweep = read_sweep(path, offline=False)
    if (sweep.early_terminate or {}).get('type') == 'median':
        raise ConfigError(f'{path}: early_terminate.type: W&B has hyperband alone, got median; {WITHOUT}')
    written = as_wandb(make_plan(sweep, use_eval_loader), trials)
    try:
        sweep_id = wandb.sweep(written, entity=written.get('entity'), project=written.get('project'))
    except wandb.errors.Error as error:
        reason = ' '.join(str(error).split())
        raise ConfigError(
            f"W&B's server did not take the sweep: {reason}; log in with `wandb login`, or {WITHOUT}"
        ) from error
    terminal(soft_wrap=True).print(
        f'{agents} agents; more of them, here or elsewhere:  wandb agent {sweep_id}', highlight=False
    )
    _run_agents(sweep_id, written, agents)


def as_wandb(plan: Plan, trials: int | None = None) -> dict[str, Any]:
    """Makes the sweep that is sent to W&B: the file, with the overrides of a sweep on this machine in its command.

    Args:
        plan: The checked sweep.
        trials: The total number of runs; by default the file's ``run_cap``.

    Returns:
        A sweep in W&B's format; its runs are evaluated on the same samples and log to W&B.
    """
    sweep = plan.sweep
    written = copy.deepcopy(sweep.written)
    if trials is not None:
        written['run_cap'] = trials
    command = [str(word) for word in written['command']]
    start = command.index('train') + 2
    own = [word for word in command[start:] if is_of_the_agent(word)]
    judged = [word for word in plan.overrides if word not in QUIET]
    if 'wandb' not in plan.run.loggers and not any('wandb' in word for word in own):
        own.append(LOGGER)  # W&B needs the logged metric to choose the next values
    written['command'] = [*command[:start], *judged, *own, ARGUMENTS]
    return written


def _require_server() -> None:
    if importlib.util.find_spec('wandb') is None:
        raise ConfigError(f"--wandb needs W&B: pip install 'composer_kd[wandb]'; or {WITHOUT}")
    mode = os.environ.get('WANDB_MODE', 'online')
    if mode != 'online':
        raise ConfigError(
            f"--wandb needs W&B's server, which draws the values, and WANDB_MODE is {mode!r}: unset it, or {WITHOUT}"
        )


def _run_agents(sweep_id: str, written: dict[str, Any], agents: int) -> None:
    places = (written.get('entity'), written.get('project'))
    if agents == 1:
        _agent(sweep_id, *places)
        return
    context = multiprocessing.get_context('spawn')
    processes = [context.Process(target=_agent, args=(sweep_id, *places)) for _ in range(agents)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _agent(sweep_id: str, entity: str | None, project: str | None) -> None:
    import wandb

    wandb.agent(sweep_id, entity=entity, project=project)  # until the sweep has run_cap runs
