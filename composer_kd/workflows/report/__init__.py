"""The workflow of ``composer-kd report``: evaluates the models of runs and writes a report that compares them."""

from composer_kd.workflows.report.gather import ReportOptions, gather, report

__all__ = ['ReportOptions', 'gather', 'report']
