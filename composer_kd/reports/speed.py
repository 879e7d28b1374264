"""Collects the timings of ``composer-kd bench`` by group and setting, and compares them with the teacher's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from composer_kd.bench.doubts import BUSY
from composer_kd.bench.results import BenchResults, Row, Setting
from composer_kd.bench.speed_up import SpeedUp
from composer_kd.bench.tables import FAITHFUL
from composer_kd.bench.text_results import GenerationSpeed
from composer_kd.reports.evidence import EvaluationSet
from composer_kd.reports.groups import Group, taught_by

__all__ = ['FAITHFUL', 'Speed', 'Timing', 'device_text']

_TRAINED = ('eager', 'fp32')
_DEVICES = {'cpu': 'CPU', 'cuda': 'GPU', 'mps': 'Apple GPU', 'xla': 'TPU'}


def device_text(setting: Setting) -> str:
    """Names the device of a setting, with its threads.

    Example:
        >>> device_text(Setting('cpu', 1, 'eager', 'fp32'))
        'CPU, 1 thread'
    """
    name = _DEVICES.get(setting.device, setting.device)
    return name if setting.threads is None else f'{name}, {setting.threads} thread{"s" * (setting.threads > 1)}'


@dataclass(frozen=True)
class Timing:
    """The timing of one group in one setting, summarised over the members that were timed.

    Args:
        group: The group.
        setting: The setting: device, threads, backend and precision.
        rows: The rows of the benchmark, one for each member that was timed; at least one.
    """

    group: Group
    setting: Setting
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def latency(self) -> float | None:
        """The median latency of one sample, in seconds; None if it was not measured."""
        return self._median(lambda row: row.latency.p50 if row.latency else None)

    @property
    def noise(self) -> float:
        """The largest interquartile range of the latencies, in seconds; smaller differences are noise."""
        return max((row.latency.iqr for row in self.rows if row.latency is not None), default=0.0)

    @property
    def accuracy(self) -> float | None:
        """The mean accuracy on the samples of the benchmark, from 0 to 1; None if unknown."""
        return self.mean(lambda row: row.accuracy)

    @property
    def output_match(self) -> float | None:
        """The lowest output match of the members with eager fp32, from 0 to 1; None if unknown."""
        return min((row.output_match for row in self.rows if row.output_match is not None), default=None)

    @property
    def is_faithful(self) -> bool:
        """Whether the output match is at least ``FAITHFUL``, or unknown."""
        return self.output_match is None or self.output_match >= FAITHFUL

    @property
    def failed(self) -> str | None:
        """The reason why there is no latency; None if there is one."""
        return (
            None if self.latency is not None else next((row.failed for row in self.rows if row.failed), 'not measured')
        )

    @property
    def throughput(self) -> list[tuple[int, float]]:
        """Each batch size that succeeded with its samples per second, the median over the members."""
        found: dict[int, list[float]] = {}
        for row in self.rows:
            for one in row.throughput:
                if one.samples_per_second is not None:
                    found.setdefault(one.batch, []).append(one.samples_per_second)
        return [(batch, statistics.median(values)) for batch, values in sorted(found.items())]

    def mean(self, value: Callable[[Row], float | None]) -> float | None:
        """Returns the mean of a value over the rows that have it; None if none has it."""
        found = [number for number in map(value, self.rows) if number is not None]
        return statistics.fmean(found) if found else None

    def median(self, value: Callable[[Row], float | None]) -> float | None:
        """Returns the median of a value over the rows that have it; None if none has it."""
        return self._median(value)

    def _median(self, value: Callable[[Row], float | None]) -> float | None:
        found = [number for number in map(value, self.rows) if number is not None]
        return statistics.median(found) if found else None


class Speed:
    """All timings of a report's groups.

    Args:
        groups: The groups.
        results: The results of the benchmark; None without any. Rows of models that are not in the groups, or whose
            number of parameters differs from that of the model in the groups, are ignored.

    Attributes:
        timings: The timings, in the order of the groups, then of the results.
        devices: For each device and number of threads, the setting eager, fp32; in the order of the results.
        missing: The groups without any timing.
        doubt: Why all timings are in doubt; empty if they are not.
        stale: The names of models whose timings belong to a different model with the same name.
    """

    def __init__(self, groups: Sequence[Group], results: BenchResults | None) -> None:
        self.groups = groups
        warnings = results.warnings if results is not None else []
        self.doubt = 'the machine was busy' if any(one.startswith(BUSY) for one in warnings) else ''
        rows = results.rows if results is not None else []
        parameters = {one.name: one.parameters for each in groups for one in each.members}
        stale = [
            row
            for row in rows
            if row.parameters is not None and row.parameters != parameters.get(row.model, row.parameters)
        ]
        self.stale = sorted({row.model for row in stale})
        rows = [row for row in rows if row.model in parameters and row.model not in self.stale]
        settings = list(dict.fromkeys(row.setting for row in rows))
        self.timings = [timing for each in groups for timing in _timings(each, settings, rows)]
        self.missing = [each for each in groups if all(timing.group is not each for timing in self.timings)]
        self.devices = list(dict.fromkeys(Setting(one.device, one.threads, *_TRAINED) for one in settings))

    def __bool__(self) -> bool:
        return bool(self.timings)

    def find(self, group: Group, setting: Setting) -> Timing | None:
        """Returns the timing of a group in a setting; None if it was not timed."""
        return next((one for one in self.timings if one.group is group and one.setting == setting), None)

    def on(self, device: Setting) -> list[Timing]:
        """Returns all timings on a device with its number of threads."""
        return [
            one for one in self.timings if (one.setting.device, one.setting.threads) == (device.device, device.threads)
        ]

    def reference(self, timing: Timing) -> Timing | None:
        """Returns the timing that a speed-up refers to.

        Args:
            timing: The timing that is compared.

        Returns:
            The teacher's timing, or without a teacher the group's own, in eager fp32 on the same device; None if it was
            not measured.
        """
        teacher = taught_by(timing.group, self.groups) or timing.group
        found = self.find(teacher, Setting(timing.setting.device, timing.setting.threads, *_TRAINED))
        return found if found is not None and found.latency is not None else None

    def accuracy(self, timing: Timing, evaluation: EvaluationSet) -> float | None:
        """Estimates the accuracy of a group in a setting.

        Args:
            timing: The group and the setting.
            evaluation: The data on which the group was evaluated.

        Returns:
            The mean accuracy of all runs of the group, plus the change from eager fp32 to this setting in the runs that
            were timed; from 0 to 1. A faithful setting without a measured accuracy counts as unchanged. None if the
            accuracy of the runs or the change is unknown.
        """
        known = timing.group.accuracy(evaluation)
        trained = self.find(timing.group, Setting(timing.setting.device, timing.setting.threads, *_TRAINED))
        before = trained.accuracy if trained is not None else None
        if known is None or timing.accuracy is None:
            return None if known is None or not timing.is_faithful else known.mean
        return timing.accuracy if before is None else known.mean + timing.accuracy - before

    def speed_up(self, timing: Timing) -> float | None:
        """Returns the speed-up over the reference; None if one of the two was not timed."""
        reference = self.reference(timing)
        if reference is None or reference.latency is None or not timing.latency:
            return None
        paired = self._paired(timing, reference)
        return statistics.median(one.median for one in paired) if paired else reference.latency / timing.latency

    def is_clear(self, timing: Timing) -> bool:
        """Whether its difference from the reference is larger than the noise."""
        reference = self.reference(timing)
        if reference is None or reference.latency is None or timing.latency is None:
            return False
        paired = self._paired(timing, reference)
        if paired:
            return all(one.low > 1 for one in paired) or all(one.high < 1 for one in paired)
        return abs(reference.latency - timing.latency) > max(reference.noise, timing.noise)

    def is_rough(self, timing: Timing) -> bool:
        """Whether the noise leaves the size of a clear difference uncertain by more than a factor of two."""
        reference = self.reference(timing)
        if reference is None or reference.latency is None or timing.latency is None:
            return True
        paired = self._paired(timing, reference)
        if paired:
            return any(one.high > 2 * one.low for one in paired)
        return any(one.noise > 0.5 * (one.latency or 0.0) for one in (timing, reference))

    def quartiles(self, timing: Timing) -> tuple[float, float] | None:
        """Returns the quartiles of its speed-up over the rounds; None if the two were not timed in the same rounds."""
        reference = self.reference(timing)
        paired = [] if reference is None else self._paired(timing, reference)
        return (min(one.low for one in paired), max(one.high for one in paired)) if paired else None

    def writing(self, timing: Timing) -> tuple[GenerationSpeed, SpeedUp | None] | None:
        """Returns how fast a group writes in a setting: in the smallest batch, after the longest prompt that was timed.

        Only prompts that were timed with all models of the setting count, if there are any.

        Args:
            timing: The group and the setting.

        Returns:
            The speed of its first member that was timed so, and the speed-up of later tokens over the teacher in the
            same rounds, None if it was not timed with it; None if the group was not timed while it wrote.
        """
        done = _written(timing)
        if not done:
            return None
        others = [_written(one) for one in self.timings if one.setting == timing.setting]
        common = set.intersection(*(set(one) for one in others if one)) or set(done)
        found = done[min(common, key=lambda cell: (cell[1], -cell[0]))]
        reference = self.reference(timing)
        names = set() if reference is None else {row.model for row in reference.rows}
        ratio = found.speed_up
        return found, ratio if ratio is not None and ratio.against in names else None

    def shown_quartiles(self, timing: Timing) -> tuple[float, float] | None:
        """Returns the quartiles as they stand beside the speed-up: of "so many times slower" where it is below 1."""
        found, factor = self.quartiles(timing), self.speed_up(timing)
        return (1 / found[1], 1 / found[0]) if found and factor is not None and factor < 0.95 else found

    def _paired(self, timing: Timing, reference: Timing) -> list[SpeedUp]:
        """Returns the speed-ups measured in the same rounds as the reference, where common noise cancels out."""
        names = {row.model for row in reference.rows}
        same = timing.setting == reference.setting
        return [
            row.speed_up for row in timing.rows if same and row.speed_up is not None and row.speed_up.against in names
        ]


def _timings(group: Group, settings: Iterable[Setting], rows: Sequence[Row]) -> list[Timing]:
    names = {one.name for one in group.members}
    found = []
    for setting in settings:
        mine = tuple(row for row in rows if row.model in names and row.setting == setting)
        if mine:
            found.append(Timing(group, setting, mine))
    return found


def _written(timing: Timing) -> dict[tuple[int, int], GenerationSpeed]:
    """The speeds of writing of a timing's first member, by length of the prompt and batch size."""
    return {
        (one.prompt, one.batch): one
        for row in timing.rows[:1]
        for one in row.generation
        if one.token_seconds is not None
    }
