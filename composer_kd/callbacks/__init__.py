"""Composer callbacks that measure the cost of a run, log its history, and time the phases of its steps."""

from composer_kd.callbacks.cost import TrainingCost
from composer_kd.callbacks.history import HistoryLogger
from composer_kd.callbacks.phases import PhaseLabels, StepClock

__all__ = ['HistoryLogger', 'PhaseLabels', 'StepClock', 'TrainingCost']
