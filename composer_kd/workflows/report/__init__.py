"""From runs to a report: their models answer, their records are read, the files are written and logged."""

from composer_kd.workflows.report.gather import ReportOptions, gather, report

__all__ = ['ReportOptions', 'gather', 'report']
