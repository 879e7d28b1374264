"""From runs to a report: their models answer, their records are read, the files are written and logged."""

from composer_kd.run.reporting.gathering import Wishes, gather, report

__all__ = ['Wishes', 'gather', 'report']
