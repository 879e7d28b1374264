"""Builds a report with tables and plots that compares a distilled student with its teacher and the student alone."""

from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.reports.evidence import Curve, EvaluationSet, Evidence, ModelEvidence, Predictions
from composer_kd.reports.page import write_report
from composer_kd.reports.report import Report

__all__ = [
    'ALONE',
    'DISTILLED',
    'TEACHER',
    'Predictions',
    'Curve',
    'EvaluationSet',
    'Evidence',
    'Report',
    'ModelEvidence',
    'write_report',
]
