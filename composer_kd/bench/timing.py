"""Times models in turns, in shuffled rounds; the device is synchronised at each reading of the clock."""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from composer_kd.bench.failures import reason
from composer_kd.bench.results import Latency
from composer_kd.bench.speed_up import SpeedUp

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

__all__ = [
    'Blocks',
    'Clock',
    'Failures',
    'Rounds',
    'Run',
    'as_latency',
    'ratio_of_rounds',
    'rounds_in',
    'speed_up',
    'spread',
    'take_turns',
    'time_blocks',
    'time_calls',
    'timer_class',
    'warm_up',
]

Clock = Callable[[], float]
"""Waits for the device, and returns the time in seconds."""
Run = Callable[[], Any]
Rounds = list[list[float]]
"""Seconds of single calls, one list for each round."""
Failures = dict[str, str]
"""Reasons of failures by name, as text: the traceback of an exception would keep the tensors of its call in memory."""
T = TypeVar('T')


@dataclass(frozen=True)
class Blocks:
    """The timing of one model whose calls were timed in blocks.

    Attributes:
        medians: The median seconds of a call, by round.
        spent: The seconds that the measurement took.
    """

    medians: list[float]
    spent: float


MOST_ROUNDS, FEWER_ROUNDS, FEWEST_ROUNDS = 9, 5, 3
MOST_CALLS = 1000
"""The largest number of calls in a round, enough for percentiles."""


def timer_class() -> type[Timer]:
    """Imports torch's ``Timer`` at first use: the import is slow, and warns about CUDA_HOME if there is no GPU."""
    with contextlib.redirect_stderr(io.StringIO()):
        from torch.utils.benchmark import Timer
    return Timer


def warm_up(run: Run, clock: Clock, seconds: float, calls: int = 3) -> float:
    """Repeats a call until caches are warm, graphs are optimised and the processor's clock rate is up.

    Args:
        run: The call.
        clock: Waits for the device and returns the time.
        seconds: The longest time, though one call is always made.
        calls: The smallest number of calls, if the time suffices.

    Returns:
        The seconds of the fastest call.
    """
    began, quickest, done = time.perf_counter(), float('inf'), 0
    while True:
        start = clock()
        run()
        quickest = min(quickest, clock() - start)
        done += 1
        spent = time.perf_counter() - began
        if spent >= seconds or (done >= calls and spent >= seconds / 2):
            return quickest


def time_calls(
    runs: Mapping[str, Run], clock: Clock, seconds: float, estimates: Mapping[str, float], rng: random.Random
) -> tuple[dict[str, Rounds], Failures]:
    """Times single calls; the device is synchronised before and after each.

    Args:
        runs: The call of each model, by name.
        clock: Waits for the device and returns the time.
        seconds: The time for each model, over all rounds.
        estimates: The estimated seconds of a call of each model.
        rng: Shuffles the order in which models take turns, so that drift of the machine affects all alike.

    Returns:
        The seconds of each model's calls, by round; and the failures.
    """
    rounds = rounds_in(seconds, max(estimates[name] for name in runs))
    turns = {
        name: functools.partial(_single_calls, run, clock, seconds / rounds, estimates[name])
        for name, run in runs.items()
    }
    return take_turns(turns, rounds, rng)


def _single_calls(run: Run, clock: Clock, seconds: float, estimate: float) -> list[float]:
    if 4 * estimate < seconds:
        run()  # refills the caches, which the previous model has evicted
    times: list[float] = []
    end = time.perf_counter() + seconds
    while True:
        start = clock()
        run()
        times.append(clock() - start)
        if start >= end - times[-1] or len(times) >= MOST_CALLS:
            return times


def time_blocks(
    runs: Mapping[str, Run], clock: Clock, seconds: float, estimates: Mapping[str, float], rng: random.Random
) -> tuple[dict[str, Blocks], Failures]:
    """Times blocks of calls without synchronisation in between, with ``Timer.blocked_autorange``.

    Args:
        runs: The call of each model, by name.
        clock: Waits for the device and returns the time.
        seconds: The time for each model, over all rounds.
        estimates: The estimated seconds of a call of each model.
        rng: Shuffles the order in which models take turns.

    Returns:
        The timing of each model; and the failures.
    """
    # Doubled, because each model also makes calls to determine the size of its blocks.
    rounds = min(FEWER_ROUNDS, rounds_in(seconds, 2 * max(estimates[name] for name in runs)))
    turns = {name: _Blocks(run, clock, seconds / rounds) for name, run in runs.items()}
    found, failed = take_turns(turns, rounds, rng)
    return {name: Blocks(medians, turns[name].spent) for name, medians in found.items()}, failed


class _Blocks:
    """Determines the calls of a block in its first turn, with ``blocked_autorange``; then times one block per turn."""

    def __init__(self, run: Run, clock: Clock, seconds: float) -> None:
        # The default of Timer is one thread.
        threads = torch.get_num_threads()
        self._timer = timer_class()('run()', globals={'run': run}, timer=clock, num_threads=threads)
        self._seconds = seconds
        self._calls = 0
        self.spent = 0.0

    def __call__(self) -> float:
        began = time.perf_counter()
        try:
            return self._measure()
        finally:
            self.spent += time.perf_counter() - began

    def _measure(self) -> float:
        if self._calls:
            return self._timer.timeit(self._calls).median
        measured = self._timer.blocked_autorange(min_run_time=self._seconds)
        self._calls = measured.number_per_run
        return measured.median


def take_turns(
    turns: Mapping[str, Callable[[], T]], rounds: int, rng: random.Random
) -> tuple[dict[str, list[T]], Failures]:
    """Measures in rounds, in each of which every model has one turn; the order is shuffled.

    Args:
        turns: What measures a model once, by name.
        rounds: The number of rounds.
        rng: Shuffles the order.

    Returns:
        What each model's turns returned, by round; and the failures, whose models have no results.
    """
    found: dict[str, list[T]] = {name: [] for name in turns}
    failed: Failures = {}
    order = list(turns)
    with _without_collector():
        for _ in range(rounds):
            rng.shuffle(order)
            for name in list(order):
                try:
                    found[name].append(turns[name]())
                except Exception as error:  # runtimes raise errors of any type; the other models continue
                    failed[name] = reason(error)
                    del found[name]
                    order.remove(name)
            gc.collect(0)
    return found, failed


def as_latency(rounds: Rounds) -> Latency:
    """Computes the latency of one model from its calls.

    Args:
        rounds: The seconds of its calls, by round, from ``time_calls``.

    Returns:
        Percentiles over all calls, and the interquartile range of the medians of the rounds.

    Example:
        >>> as_latency([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]).p50
        2.0
    """
    calls = torch.tensor([one for times in rounds for one in times], dtype=torch.float64)
    p50, p90, p99 = torch.quantile(calls, torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)).tolist()
    return Latency(p50, p90, p99, spread([statistics.median(times) for times in rounds])[1], len(calls))


def speed_up(against: str, theirs: Rounds, ours: Rounds) -> SpeedUp:
    """Computes the speed-up of a model over another one, from their calls in the same rounds.

    Args:
        against: The name of the other model.
        theirs: The seconds of the other model's calls, by round.
        ours: The seconds of the model's own calls, by round.

    Returns:
        The median and quartiles, over the rounds, of the ratio of the medians in a round.

    Example:
        >>> speed_up('teacher', [[2.0], [4.0], [2.0]], [[1.0], [1.0], [1.0]]).median
        2.0
    """
    return ratio_of_rounds(against, list(map(statistics.median, theirs)), list(map(statistics.median, ours)))


def ratio_of_rounds(against: str, theirs: Sequence[float], ours: Sequence[float]) -> SpeedUp:
    """Computes the speed-up of a model over another one, from one time for each of the same rounds.

    Args:
        against: The name of the other model.
        theirs: The seconds of the other model, by round.
        ours: The model's own seconds, by round.

    Returns:
        The median and quartiles, over the rounds, of the ratio.

    Example:
        >>> ratio_of_rounds('teacher', [2.0, 4.0, 2.0], [1.0, 1.0, 1.0]).high
        3.0
    """
    ratios = [their / our for their, our in zip(theirs, ours)]
    low, high = _quartiles(ratios)
    return SpeedUp(against, statistics.median(ratios), low, high)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Computes the median and the interquartile range.

    Args:
        values: One value per round, at least one.

    Returns:
        The median and the interquartile range.

    Example:
        >>> spread([1.0, 2.0, 3.0, 4.0, 9.0])
        (3.0, 2.0)
    """
    low, high = _quartiles(values)
    return statistics.median(values), high - low


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method='inclusive')
    return low, high


def rounds_in(seconds: float, longest: float) -> int:
    """The number of rounds for a time per model, where the longest turn takes ``longest`` seconds."""
    return max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(seconds / (2 * longest))))


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """A context without automatic garbage collection, which would disturb timings."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
