"""What ``composer-kd bench`` measured, brought together by group and way of running."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from composer_kd.bench.results import BenchResults, Row, Setting, SpeedUp
from composer_kd.bench.tables import FAITHFUL
from composer_kd.reports.evidence import EvaluationSet
from composer_kd.reports.groups import Group, taught_by

__all__ = ['FAITHFUL', 'Speed', 'Timing', 'device_text']

_TRAINED = ('eager', 'fp32')
_DEVICES = {'cpu': 'CPU', 'cuda': 'GPU', 'mps': 'Apple GPU', 'xla': 'TPU'}


def device_text(setting: Setting) -> str:
    """The device of a setting, as people call it.

    Example:
        >>> device_text(Setting('cpu', 1, 'eager', 'fp32'))
        'CPU, 1 thread'
    """
    name = _DEVICES.get(setting.device, setting.device)
    return name if setting.threads is None else f'{name}, {setting.threads} thread{"s" * (setting.threads > 1)}'


@dataclass(frozen=True)
class Timing:
    """One group, run in one way: the median over those of its members that were timed.

    Args:
        group: Whose.
        setting: How it was run.
        rows: What was measured, one for each member; at least one.
    """

    group: Group
    setting: Setting
    rows: tuple[Row, ...] = field(repr=False)

    @property
    def latency(self) -> float | None:
        """Median seconds for one sample."""
        return self._median(lambda row: row.latency.p50 if row.latency else None)

    @property
    def noise(self) -> float:
        """Seconds within which a difference of latencies means nothing."""
        return max((row.latency.iqr for row in self.rows if row.latency is not None), default=0.0)

    @property
    def accuracy(self) -> float | None:
        """On the samples of the benchmark, from 0 to 1: the mean."""
        found = [row.accuracy for row in self.rows if row.accuracy is not None]
        return statistics.fmean(found) if found else None

    @property
    def output_match(self) -> float | None:
        """How often the same class comes first as in eager fp32, from 0 to 1: the least of the members."""
        return min((row.output_match for row in self.rows if row.output_match is not None), default=None)

    @property
    def is_faithful(self) -> bool:
        """Whether it answers as the model did in training, as far as is known."""
        return self.output_match is None or self.output_match >= FAITHFUL

    @property
    def failed(self) -> str | None:
        """Why there are no numbers; None where a member has some."""
        return (
            None if self.latency is not None else next((row.failed for row in self.rows if row.failed), 'not measured')
        )

    def median(self, value: Callable[[Row], float | None]) -> float | None:
        """The median of anything that rows tell; None where none tells it."""
        return self._median(value)

    def _median(self, value: Callable[[Row], float | None]) -> float | None:
        found = [number for number in map(value, self.rows) if number is not None]
        return statistics.median(found) if found else None


class Speed:
    """All timings of a report's groups.

    Args:
        groups: The groups.
        results: What was measured; None where nothing was. Rows of models that are not among the groups, or that have
            another number of parameters than these, are ignored.

    Attributes:
        timings: In the order of the groups, then of the results.
        devices: What was run on, with the threads: a setting as the models were trained for each, in the order of the
            results.
        missing: The groups of which nothing was timed.
        stale: Names of models whose timings are of another model with that name.
    """

    def __init__(self, groups: Sequence[Group], results: BenchResults | None) -> None:
        self.groups = groups
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
        """The timing of a group in a setting."""
        return next((one for one in self.timings if one.group is group and one.setting == setting), None)

    def on(self, device: Setting) -> list[Timing]:
        """All timings on a device."""
        return [
            one for one in self.timings if (one.setting.device, one.setting.threads) == (device.device, device.threads)
        ]

    def reference(self, timing: Timing) -> Timing | None:
        """What a speed-up is measured by: the teacher as it was trained, on the same device; itself without one."""
        teacher = taught_by(timing.group, self.groups) or timing.group
        found = self.find(teacher, Setting(timing.setting.device, timing.setting.threads, *_TRAINED))
        return found if found is not None and found.latency is not None else None

    def accuracy(self, timing: Timing, evaluation: EvaluationSet) -> float | None:
        """The accuracy of a way of running a group: that of all its runs, and what this way changes in those timed.

        Args:
            timing: The way.
            evaluation: What the group answered for.

        Returns:
            From 0 to 1; None where it is not known, or where it is not known what this way changes.
        """
        known = timing.group.accuracy(evaluation)
        trained = self.find(timing.group, Setting(timing.setting.device, timing.setting.threads, *_TRAINED))
        before = trained.accuracy if trained is not None else None
        if known is None or timing.accuracy is None:
            return None if known is None or not timing.is_faithful else known.mean
        return timing.accuracy if before is None else known.mean + timing.accuracy - before

    def speed_up(self, timing: Timing) -> float | None:
        """How many times faster it answers than the reference; None where one of the two was not timed."""
        reference = self.reference(timing)
        if reference is None or reference.latency is None or not timing.latency:
            return None
        paired = self._paired(timing, reference)
        return statistics.median(one.median for one in paired) if paired else reference.latency / timing.latency

    def is_clear(self, timing: Timing) -> bool:
        """Whether its difference to the reference is larger than the noise of either."""
        reference = self.reference(timing)
        if reference is None or reference.latency is None or timing.latency is None:
            return False
        paired = self._paired(timing, reference)
        if paired:
            return all(one.low > 1 for one in paired) or all(one.high < 1 for one in paired)
        return abs(reference.latency - timing.latency) > max(reference.noise, timing.noise)

    def is_rough(self, timing: Timing) -> bool:
        """Whether the noise leaves open how large a clear difference is: more than to a factor of two."""
        reference = self.reference(timing)
        if reference is None or reference.latency is None or timing.latency is None:
            return True
        paired = self._paired(timing, reference)
        if paired:
            return any(one.high > 2 * one.low for one in paired)
        return any(one.noise > 0.5 * (one.latency or 0.0) for one in (timing, reference))

    def quartiles(self, timing: Timing) -> tuple[float, float] | None:
        """Between what its speed-up lies in half of the rounds; None where it was not timed in the same rounds."""
        reference = self.reference(timing)
        paired = [] if reference is None else self._paired(timing, reference)
        return (min(one.low for one in paired), max(one.high for one in paired)) if paired else None

    def _paired(self, timing: Timing, reference: Timing) -> list[SpeedUp]:
        """What was measured in the same rounds as the reference: there the noise of both cancels out."""
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
