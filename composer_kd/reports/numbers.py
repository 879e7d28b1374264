"""Collects all numbers of a report in one mapping, the content of ``report.json``."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from composer_kd.presentation.paths import portable
from composer_kd.reports.differences import differing
from composer_kd.reports.figures.calibration import pooled
from composer_kd.reports.groups import Group, accuracy_of, gain
from composer_kd.reports.metrics import class_accuracies, confusion
from composer_kd.reports.report import Report

__all__ = ['as_mapping']

_MOST_CLASSES = 100  # a larger confusion matrix would make the file too large


def as_mapping(report: Report) -> dict[str, Any]:
    """Collects all numbers of a report.

    Args:
        report: The report.

    Returns:
        Mappings, lists, strings, finite numbers and None, ready for JSON; in shares from 0 to 1, seconds, bytes and
        joules. Numbers that are not finite become None.
    """
    evidence, evaluation = report.evidence, report.evidence.evaluation
    having = [one for one in report.groups if one.first.settings]
    settings = differing([[member.settings for member in one.members] for one in having])
    difference = gain(report.distilled, report.alone, evaluation) if report.distilled and report.alone else None
    return _plain(
        {
            'title': report.title,
            'verdict': report.verdict,
            'created': evidence.created,
            'evaluation': {
                'data': evaluation.description,
                'samples': len(evaluation.labels),
                'without_label': evaluation.unlabelled,
                'classes': list(evaluation.classes),
            },
            'gain': None if difference is None else dataclasses.asdict(difference),
            'models': [{**row, **_details(report, each)} for row, each in zip(report.rows(), report.groups)],
            'timings': [] if evidence.bench is None else [
                {**dataclasses.asdict(row), 'group': one.group.name, 'times_as_fast': report.speed.speed_up(one)}
                for one in report.speed.timings for row in one.rows
            ],
            'settings': {key: dict(zip([one.name for one in having], values)) for key, values in settings},
            'commands': report.commands(),
            'environments': dict(report.environments()),
            'notes': report.notes,
            'warnings': report.warnings,
        }
    )  # fmt: skip


def _details(report: Report, each: Group) -> dict[str, Any]:
    evaluation = report.evidence.evaluation
    number = len(evaluation.classes)
    members = [
        {
            'name': one.name,
            'seed': one.seed,
            'accuracy': accuracy_of(one, evaluation),
            'checkpoint': None if one.checkpoint is None else portable(one.checkpoint),
            'metrics': one.metrics,
        }
        for one in each.members
    ]
    found = pooled(each, evaluation)
    return {
        'members': members,
        'class_accuracies': each.mean(lambda predicted: class_accuracies(evaluation.labels, predicted, number)),
        'confusion': each.mean(lambda predicted: confusion(evaluation.labels, predicted, number))
        if number <= _MOST_CLASSES
        else None,
        'reliability': None if found is None else dataclasses.asdict(found),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
