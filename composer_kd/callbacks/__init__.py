"""Composer callbacks of a run: its cost, its history, its best checkpoint, and the phases of its steps."""

from composer_kd.callbacks.best import BestCheckpoint
from composer_kd.callbacks.cost import TrainingCost
from composer_kd.callbacks.history import HistoryLogger
from composer_kd.callbacks.phases import PhaseLabels, StepClock

__all__ = ['BestCheckpoint', 'HistoryLogger', 'PhaseLabels', 'StepClock', 'TrainingCost']
