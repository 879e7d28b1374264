"""The trials of a sweep, stored by Optuna in a SQLite file, so that an interrupted sweep can continue."""

from __future__ import annotations

import json
import pathlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy
import optuna
from optuna.trial import FrozenTrial, TrialState

from composer_kd.config.effects import differing
from composer_kd.config.load import as_mapping
from composer_kd.config.markers import Effect
from composer_kd.errors import ConfigError
from composer_kd.presentation.settings import label
from composer_kd.workflows.sweep.plan import Plan
from composer_kd.workflows.sweep.sweep_file import Sweep

__all__ = ['DATABASE', 'Record', 'Study', 'grid_size']

DATABASE = 'sweep.db'
SEED = 17


@dataclass(frozen=True)
class Record:
    """The current state of a trial.

    Args:
        number: The trial's number, from 0.
        state: ``complete``, ``pruned``, ``failed`` or ``running``.
        settings: The value of each parameter, by dotted key.
        value: The metric after the last batch; for a pruned trial, the metric of its last evaluation.
        steps: The metric of each evaluation, by its number.
        reason: Why the trial failed or was pruned.
        seconds: The duration of the trial.
        same_as: The number of an earlier trial with the same settings, whose result was copied.
    """

    number: int
    state: str
    settings: dict[str, Any] = field(default_factory=dict)
    value: float | None = None
    steps: dict[int, float] = field(default_factory=dict)
    reason: str | None = None
    seconds: float | None = None
    same_as: int | None = None


class Study:
    """The trials of a sweep, stored in a folder.

    Args:
        plan: The checked sweep.
        folder: The folder of ``sweep.db``, which is created if it is missing.
        workers: The number of trials that run in parallel.
        pruning: Whether bad trials are stopped early.

    Raises:
        ConfigError: If the folder has the trials of a different search.
    """

    def __init__(self, plan: Plan, folder: pathlib.Path, workers: int = 1, pruning: bool = True) -> None:
        self.plan = plan
        self.sweep = plan.sweep
        self.workers = workers
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=f'sqlite:///{(folder / DATABASE).absolute()}',
            study_name='sweep',
            direction=self.sweep.goal,
            pruner=_pruner(self.sweep) if pruning else optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        self._check_identity(folder)

    @property
    def handle(self) -> optuna.study.Study:
        """The Optuna study, for Optuna's own functions."""
        return self._study

    def records(self) -> list[Record]:
        """Returns all trials so far, ordered by number."""
        return [self._record(trial) for trial in self._study.get_trials(deepcopy=False)]

    def best(self) -> Record | None:
        """Returns the best complete trial, the earlier one in a tie; ``None`` if no trial is complete."""
        complete = [record for record in self.records() if record.state == 'complete' and record.value is not None]
        return max(complete, key=lambda record: self.sweep.sign * record.value, default=None)  # type: ignore[operator]

    def interrupted(self) -> list[optuna.trial.Trial]:
        """Returns the trials that were running when the sweep was stopped; they are run again from the start."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [self._attach(trial.number) for trial in running]

    def ask(self) -> optuna.trial.Trial:
        """Returns a new trial; it depends on the earlier trials only, so that interruptions do not change it."""
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = _sampler(self.sweep, number, self.workers)
        return self._study.ask()

    def settings(self, trial: Any) -> dict[str, Any]:
        """Returns the values of a trial's parameters; draws those that the trial does not have yet."""
        return {parameter.key: parameter.suggest(trial) for parameter in self.sweep.parameters}

    def twin(self, trial: optuna.trial.Trial, settings: dict[str, Any]) -> Record | None:
        """Returns a complete trial with the same settings, whose result can be reused; ``None`` if there is none."""
        for record in self.records():
            if record.number != trial.number and record.state == 'complete' and record.settings == settings:
                return record
        return None

    def report(self, trial: optuna.trial.Trial, step: int, value: float) -> bool:
        """Records the metric of an evaluation; returns whether to stop the trial."""
        last = max(self._study.get_trials(deepcopy=False)[trial.number].intermediate_values, default=0)
        if step > last:
            trial.report(value, step)
        # A trial that is run again repeats its first values, and has passed the check at all but the last of them.
        return step >= last and trial.should_prune()

    def tell(self, trial: optuna.trial.Trial, outcome: dict[str, Any]) -> Record:
        """Records the result of a trial.

        Args:
            trial: The trial.
            outcome: ``state``, ``value``, ``reason``, ``seconds``, ``same_as``, and ``of_settings``: whether a failure
                is due to the settings, so that the search avoids similar ones.

        Returns:
            The finished trial.
        """
        # At the last point, GridSampler would stop Optuna's own optimisation loop, which does not run here.
        self._study.sampler = optuna.samplers.RandomSampler()
        trial.set_user_attr('outcome', {key: outcome.get(key) for key in ('state', 'reason', 'seconds', 'same_as')})
        if outcome['state'] == 'complete':
            self._study.tell(trial, outcome['value'])
        elif outcome['state'] == 'pruned' or outcome.get('of_settings'):
            # Optuna's samplers treat a pruned trial as a bad one, and ignore a failed one.
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, state=TrialState.FAIL)
        return self._record(self._study.get_trials(deepcopy=False)[trial.number])

    def _record(self, trial: FrozenTrial) -> Record:
        known = trial.user_attrs.get('outcome', {}) if trial.state.is_finished() else {}
        state = known.get('state', 'running')
        steps = dict(sorted(trial.intermediate_values.items()))
        ended = trial.value if trial.state == TrialState.COMPLETE else None
        last = list(steps.values())[-1] if steps and state == 'pruned' else None
        complete = all(parameter.key in trial.params for parameter in self.sweep.parameters)
        return Record(
            number=trial.number,
            state=state,
            settings=self.settings(optuna.trial.FixedTrial(trial.params)) if complete else {},
            value=ended if ended is not None else last,
            steps=steps,
            reason=known.get('reason'),
            seconds=known.get('seconds'),
            same_as=known.get('same_as'),
        )

    def _attach(self, number: int) -> optuna.trial.Trial:
        self._study.sampler = _sampler(self.sweep, number, self.workers)
        storage = self._study._storage  # Optuna has no public method to reopen a running trial
        study_id = storage.get_study_id_from_name(self._study.study_name)
        return optuna.trial.Trial(self._study, storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _check_identity(self, folder: pathlib.Path) -> None:
        now = json.loads(json.dumps(dict(_identity(self.plan)), default=str))
        before = self._study.user_attrs.get('identity')
        if before is None:
            self._study.set_user_attr('identity', now)
            return
        lines = [
            f'  {key}: {label(before.get(key, "(nothing)"))} → {label(now.get(key, "(nothing)"))}'
            for key in differing(before, now, Effect.CALLBACKS)
        ]
        if lines:
            raise ConfigError(
                f'{folder} holds the trials of another search, and one search cannot go on as another:\n'
                + '\n'.join(lines)
                + '\nTake another --out, or remove that folder; --trials and --workers may change.'
            )


def grid_size(sweep: Sweep) -> int | None:
    """Counts the trials of a grid search; returns ``None`` for other methods."""
    if sweep.method != 'grid':
        return None
    size = 1
    for parameter in sweep.parameters:
        size *= len(parameter.grid() or [])
    return size


def _sampler(sweep: Sweep, number: int, workers: int) -> optuna.samplers.BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', optuna.exceptions.ExperimentalWarning)
        return _SAMPLERS[sweep.method](sweep, number, workers)


# Each trial has its own seed, so that a continued sweep does not draw its first trials again.
_SAMPLERS: dict[str, Any] = {
    # Multivariate, because parameters depend on one another, such as the learning rate on the optimizer.
    'bayes': lambda sweep, number, workers: optuna.samplers.TPESampler(
        seed=_seed(number), multivariate=True, constant_liar=workers > 1
    ),
    'random': lambda sweep, number, workers: optuna.samplers.RandomSampler(seed=_seed(number)),
    'grid': lambda sweep, number, workers: optuna.samplers.GridSampler(
        {parameter.key: parameter.grid() or [] for parameter in sweep.parameters}, seed=SEED
    ),
}


def _seed(number: int) -> int:
    return int(numpy.random.SeedSequence([SEED, number]).generate_state(1)[0])


def _pruner(sweep: Sweep) -> optuna.pruners.BasePruner:
    stopping = sweep.early_terminate or {'type': 'median'}
    return _PRUNERS[stopping['type']](stopping)


def _halving(stopping: dict[str, Any]) -> optuna.pruners.BasePruner:
    """Successive halving, for W&B's hyperband: at each bracket, a trial must be among the best so far to continue."""
    eta = int(stopping.get('eta', 3))
    first = stopping.get('min_iter') or max(1, stopping['max_iter'] // eta ** stopping['s'])
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=eta)


_PRUNERS: dict[str, Any] = {
    'median': lambda stopping: optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    'hyperband': _halving,
}


def _identity(plan: Plan) -> Iterator[tuple[str, Any]]:
    """Yields the settings that identify a search, with dotted keys."""
    sweep = plan.sweep
    yield from (('method', sweep.method), ('metric', sweep.metric), ('goal', sweep.goal))
    yield 'early_terminate', sweep.early_terminate
    for key, spec in sweep.written['parameters'].items():
        yield f'parameters.{key}', spec
    yield from _leaves(as_mapping(plan.run), '')


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yields dotted keys and values; lists stay whole, as they are in the databases of earlier sweeps."""
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from _leaves(value, f'{prefix}.{key}' if prefix else str(key))
    else:
        yield prefix, node
