"""How it is timed: models take turns in shuffled rounds, and the device is waited for at each reading of the clock."""

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
from composer_kd.bench.results import Latency, SpeedUp

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

__all__ = [
    'Blocks',
    'Clock',
    'Failures',
    'Rounds',
    'Run',
    'as_latency',
    'speed_up',
    'spread',
    'time_blocks',
    'time_calls',
    'timer_class',
    'warm_up',
]

Clock = Callable[[], float]
"""Waits for the device, and tells the time in seconds."""
Run = Callable[[], Any]
Rounds = list[list[float]]
"""Seconds of single calls, one list for each round."""
Failures = dict[str, str]
"""Reasons by name. Not the errors: their tracebacks would hold what filled the memory while the others go on."""
T = TypeVar('T')


@dataclass(frozen=True)
class Blocks:
    """What the rounds showed of one model whose calls were timed in blocks.

    Attributes:
        medians: The median seconds of a call, by round.
        spent: Seconds that it all took.
    """

    medians: list[float]
    spent: float


MOST_ROUNDS, FEWER_ROUNDS, FEWEST_ROUNDS = 9, 5, 3
MOST_CALLS = 1000
"""In a round: more than enough for a percentile."""


def timer_class() -> type[Timer]:
    """torch's ``Timer``, imported late: that takes a while, and remarks on CUDA_HOME where there is no GPU."""
    with contextlib.redirect_stderr(io.StringIO()):
        from torch.utils.benchmark import Timer
    return Timer


def warm_up(run: Run, clock: Clock, seconds: float, calls: int = 3) -> float:
    """Calls until caches are warm, graphs optimised and clocks up.

    Args:
        run: What to call.
        clock: Waits for the device.
        seconds: How long at most, though it is called once in any case.
        calls: How often at least, within that time.

    Returns:
        Seconds of the quickest call.
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
    """Times single calls, each from the question to the answer: the device is waited for before and after.

    Args:
        runs: What to call, by name.
        clock: Waits for the device.
        seconds: For each of them, all rounds together.
        estimates: About how long a call of each takes.
        rng: Shuffles the order in which they take turns: what drifts in the machine hits all alike within a round.

    Returns:
        For each the seconds of its calls, by round; and what went wrong.
    """
    rounds = _rounds(seconds, max(estimates[name] for name in runs))
    turns = {
        name: functools.partial(_single_calls, run, clock, seconds / rounds, estimates[name])
        for name, run in runs.items()
    }
    return _take_turns(turns, rounds, rng)


def _single_calls(run: Run, clock: Clock, seconds: float, estimate: float) -> list[float]:
    if 4 * estimate < seconds:
        run()  # brings back to the caches what the one before drove out of them
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
    """Times calls one after another without waiting in between, by ``Timer.blocked_autorange``.

    Args:
        runs: What to call, by name.
        clock: Waits for the device.
        seconds: For each of them, all rounds together.
        estimates: About how long a call of each takes.
        rng: As for ``time_calls``.

    Returns:
        For each what its rounds showed; and what went wrong.
    """
    # Each takes more than the calls that it is about: it finds out how many make a block.
    rounds = min(FEWER_ROUNDS, _rounds(seconds, 2 * max(estimates[name] for name in runs)))
    turns = {name: _Blocks(run, clock, seconds / rounds) for name, run in runs.items()}
    found, failed = _take_turns(turns, rounds, rng)
    return {name: Blocks(medians, turns[name].spent) for name, medians in found.items()}, failed


class _Blocks:
    """Finds out in its first turn how many calls make a block, by ``blocked_autorange``; then times a block a turn."""

    def __init__(self, run: Run, clock: Clock, seconds: float) -> None:
        # Timer sets one thread unless it is told.
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


def _take_turns(
    turns: Mapping[str, Callable[[], T]], rounds: int, rng: random.Random
) -> tuple[dict[str, list[T]], Failures]:
    found: dict[str, list[T]] = {name: [] for name in turns}
    failed: Failures = {}
    order = list(turns)
    with _without_collector():
        for _ in range(rounds):
            rng.shuffle(order)
            for name in list(order):
                try:
                    found[name].append(turns[name]())
                except Exception as error:  # of any runtime; the others go on
                    failed[name] = reason(error)
                    del found[name]
                    order.remove(name)
            gc.collect(0)
    return found, failed


def as_latency(rounds: Rounds) -> Latency:
    """Sums up the calls of one model.

    Args:
        rounds: As ``time_calls`` gives them.

    Returns:
        Percentiles over all calls, and the distance of the quartiles of the rounds' medians.

    Example:
        >>> as_latency([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]).p50
        2.0
    """
    calls = torch.tensor([one for times in rounds for one in times], dtype=torch.float64)
    p50, p90, p99 = torch.quantile(calls, torch.tensor([0.5, 0.9, 0.99], dtype=torch.float64)).tolist()
    return Latency(p50, p90, p99, spread([statistics.median(times) for times in rounds])[1], len(calls))


def speed_up(against: str, theirs: Rounds, ours: Rounds) -> SpeedUp:
    """How many times as quick one model is as another, from what each round showed of both.

    Args:
        against: The other's name.
        theirs: Its calls.
        ours: Those of the model in question, in the same rounds.

    Returns:
        Median and quartiles of the ratio of the rounds' medians.

    Example:
        >>> speed_up('teacher', [[2.0], [4.0], [2.0]], [[1.0], [1.0], [1.0]]).median
        2.0
    """
    ratios = [statistics.median(their) / statistics.median(our) for their, our in zip(theirs, ours)]
    low, high = _quartiles(ratios)
    return SpeedUp(against, statistics.median(ratios), low, high)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Sums up one number per round.

    Args:
        values: At least one.

    Returns:
        The median, and the distance of the quartiles.

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


def _rounds(seconds: float, longest: float) -> int:
    return max(FEWEST_ROUNDS, min(MOST_ROUNDS, int(seconds / (2 * longest))))


@contextlib.contextmanager
def _without_collector() -> Iterator[None]:
    """Python looks for garbage when it pleases; it does not in here."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
