"""Computes the contents of a report from its evidence."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from composer_kd.presentation.paths import portable
from composer_kd.presentation.plots import Drawing
from composer_kd.presentation.roles import ALONE
from composer_kd.presentation.tables import Table
from composer_kd.presentation.units import seconds_text
from composer_kd.reports import sections
from composer_kd.reports.evidence import Evidence
from composer_kd.reports.figures.calibration import draw_calibration
from composer_kd.reports.figures.classes import draw_classes
from composer_kd.reports.figures.confusions import draw_confusions
from composer_kd.reports.figures.curves import draw_curves
from composer_kd.reports.figures.pareto import draw_pareto
from composer_kd.reports.figures.speedups import draw_speedups
from composer_kd.reports.figures.texts import draw_texts
from composer_kd.reports.figures.throughput import draw_throughput
from composer_kd.reports.groups import Group, counterpart, group, taught_by
from composer_kd.reports.speed import FAITHFUL, Speed
from composer_kd.reports.texts import reading_tables, writing_tables
from composer_kd.reports.verdict import Tile, chosen, tiles, verdict

__all__ = ['Report']


class Report:
    """The contents of a report; most parts are computed at their first use and cached.

    Args:
        evidence: The data about the models.

    Attributes:
        evidence: The same; without predictions if those of some model are missing.
        groups: The models; runs that differ only in their seed form one group.
        speed: Their timings.
    """

    def __init__(self, evidence: Evidence) -> None:
        if evidence.evaluation.left_out is not None:  # one model's are missing: compare none
            models = tuple(dataclasses.replace(one, answers=None) for one in evidence.models)
            evidence = dataclasses.replace(evidence, models=models)
        self.evidence = evidence
        self.groups = group(evidence.models)
        self.speed = Speed(self.groups, evidence.bench)

    @property
    def title(self) -> str:
        """The title of the page."""
        student = self.distilled
        return f'What {student.name} gained' if student is not None else 'Comparison of runs'

    @functools.cached_property
    def distilled(self) -> Group | None:
        """The distilled student that the verdict and the plots describe: the most accurate one."""
        return chosen(self.groups, self.evidence.evaluation)

    @functools.cached_property
    def alone(self) -> Group | None:
        """The student alone that it is compared with; without a distilled student, the first student alone."""
        if self.distilled is not None:
            return counterpart(self.distilled, self.groups)
        return next((one for one in self.groups if one.role == ALONE), None)

    @functools.cached_property
    def teacher(self) -> Group | None:
        """The teacher that the students are compared with."""
        student = self.distilled or self.alone
        return None if student is None else taught_by(student, self.groups)

    @property
    def _other_teacher(self) -> Group | None:
        """The teacher, unless it is the student alone, as where a model teaches one of its own architecture."""
        return None if self.teacher is self.alone else self.teacher

    @functools.cached_property
    def verdict(self) -> list[str]:
        """The result of the distillation, in sentences."""
        return verdict(self.groups, self.evidence.evaluation, self.speed)

    @functools.cached_property
    def tiles(self) -> list[Tile]:
        """The result of the distillation, as large numbers."""
        return tiles(self.groups, self.evidence.evaluation, self.speed)

    @property
    def evaluated(self) -> str:
        """A description of the evaluation data, in sentences."""
        evaluation = self.evidence.evaluation
        if evaluation.left_out is not None:
            return f'Evaluated on {evaluation.description}.'
        unlabelled = (
            f' ({evaluation.unlabelled:,} more have no label and are left out)' if evaluation.unlabelled else ''
        )
        return (
            f'Evaluated on {evaluation.description}: {len(evaluation.labels):,} samples in {len(evaluation.classes):,} '
            f"classes{unlabelled}, with the weights of each run's latest checkpoint unless a note says otherwise."
        )

    @functools.cached_property
    def models(self) -> Table:
        """The table of the models at the top of the page."""
        return sections.models(self.groups, self.evidence.evaluation, self.speed)

    @functools.cached_property
    def costs(self) -> Table | None:
        """The table of training costs; None if no run logged them."""
        return sections.costs(self.groups)

    @functools.cached_property
    def benchmark(self) -> dict[str, Table]:
        """The tables of timings, one for each device."""
        return sections.benchmark(self.speed)

    @functools.cached_property
    def texts(self) -> dict[str, Table]:
        """The tables of reading and writing texts, by title."""
        return {**reading_tables(self.speed), **writing_tables(self.speed)}

    @property
    def about_timings(self) -> str:
        """Explains how to read the tables of timings."""
        bench = self.evidence.bench
        took = '' if bench is None or not bench.seconds else f' Measured in {seconds_text(bench.seconds)}.'
        several = (
            'Of several runs: medians; of memory, energy and accuracy the mean; the lowest output match. '
            if any(len(one.rows) > 1 for one in self.speed.timings)
            else ''
        )
        return (
            'Latency of a batch of one. Speed-up: over the teacher, eager in fp32, on the same device; in brackets '
            'where the difference is within the noise. Output match with eager: how much of the evaluation data is put '
            'into the same class as by the model run eagerly in fp32. \N{WARNING SIGN} marks what failed or has an '
            f'output match below {100 * FAITHFUL:.0f} %. {several}'
            f'{portable(self.evidence.bench_source)}{took}'
        )

    @functools.cached_property
    def differences(self) -> Table | None:
        """The table of the settings in which the runs differ; None without any."""
        return sections.differences(self.groups)

    @functools.cached_property
    def drawings(self) -> dict[str, Drawing]:
        """The plots that have data, by name, in the order of the page."""
        evaluation, three = self.evidence.evaluation, (self._other_teacher, self.alone, self.distilled)
        # Without roles to compare, the first models are shown.
        for_calibration: Sequence[Group | None] = three if any(three) else self.groups[:3]
        draw: list[Callable[[], Drawing | None]] = [
            lambda: draw_pareto(self.groups, evaluation, self.speed),
            lambda: draw_speedups(self.groups, self.speed),
            lambda: draw_throughput(self.groups, self.speed),
            lambda: draw_texts(self.groups, self.speed),
            lambda: draw_curves(self.groups, evaluation),
            lambda: draw_classes(*three, evaluation),
            lambda: draw_calibration(for_calibration, evaluation),
            lambda: draw_confusions(self._pairs(), evaluation),
        ]
        found = (one() for one in draw)
        return {one.name: one for one in found if one is not None}

    def _pairs(self) -> list[tuple[Group, Group]]:
        student = self.distilled or self.alone
        pairs = [(self.distilled, self.alone), (self._other_teacher, student)]
        return [(more, less) for more, less in pairs if more is not None and less is not None and more is not less]

    @functools.cached_property
    def notes(self) -> list[str]:
        """What is missing from the report and why, and reasons to doubt its numbers."""
        found = [*map(portable, self.evidence.notes), *self._about_numbers()]
        if self.evidence.evaluation.left_out is not None:
            found.append(
                f'Accuracy by class, calibration and confusion are left out: {self.evidence.evaluation.left_out}.'
            )
        elif len(self.groups) == 1:
            found.append('There is a single model, so nothing is compared: give a teacher and a student alone too.')
        elif self.distilled is None:
            found.append('No run was distilled, so the sections on what distillation changed are left out.')
        elif self.alone is None:
            found.append('No student alone of the same model is given, so “before” is missing in the plots.')
        found += self._about_speed()
        if not any('kd' in one.curves or 'task' in one.curves for one in self.evidence.models):
            found.append('Training curves are left out: no run left a history.jsonl.')
        return found

    def _about_numbers(self) -> list[str]:
        broken = {
            one.name: int(np.sum(~np.isfinite(one.answers.confidence)))
            for one in self.evidence.models
            if one.answers is not None
        }
        return [
            f'{name} gives probabilities that are not finite for {count:,} of '
            f'{len(self.evidence.evaluation.labels):,} samples: it diverged, or its weights are damaged.'
            for name, count in broken.items()
            if count
        ]

    def _about_speed(self) -> list[str]:
        bench = self.evidence.bench
        if bench is None:
            return ['Speed was not measured. `composer-kd bench` with the same runs does.']
        found = []
        if self.speed.stale:
            found.append(
                f'Timings of {", ".join(self.speed.stale)} are left out: they are of models with another number of '
                'parameters.'
            )
        if self.speed.missing:
            found.append(f'Not timed: {", ".join(one.name for one in self.speed.missing)}.')
        timed = {row.model for timing in self.speed.timings for row in timing.rows}
        for each in self.groups:
            mine = [one.name for one in each.members if one.name in timed]
            if 0 < len(mine) < each.n:
                found.append(f'Of the {each.n} runs of {each.name}, {", ".join(mine)} was timed.')
        return found

    @property
    def warnings(self) -> list[str]:
        """The warnings of the benchmark."""
        return list(self.evidence.bench.warnings) if self.evidence.bench is not None and self.speed else []

    def rows(self) -> list[dict[str, object]]:
        """The numbers of the models, one row for each, for further processing."""
        return sections.rows_of_models(self.groups, self.evidence.evaluation, self.speed)

    def commands(self) -> list[str]:
        """The commands that reproduce the training, the timings and the report."""
        trained = [one.command for one in self.evidence.models if one.command is not None]
        timed = [self.evidence.bench.command] if self.evidence.bench is not None and self.evidence.bench.command else []
        made = [self.evidence.command] if self.evidence.command else []
        return [portable(command) for command in dict.fromkeys([*trained, *timed, *made])]

    def environments(self) -> list[tuple[str, dict[str, Any]]]:
        """The machine and versions of this report and, if they differ, those of the timings."""
        here = self.evidence.environment
        bench = self.evidence.bench.environment if self.evidence.bench is not None and self.speed else {}
        if not bench or _lasting(bench) == _lasting(here):
            return [('This report and its timings', bench)] if bench else [('This report', here)] if here else []
        return [('This report', here), ('Timings', bench)] if here else [('Timings', bench)]


def _lasting(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the entries that describe the moment of the measurement."""
    return {key: value for key, value in environment.items() if not key.endswith('at start')}
