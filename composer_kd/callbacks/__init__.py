"""Composer callbacks of a run: its cost, history, progress and best checkpoint, and the phases of its steps."""

from composer_kd.callbacks.best import BestCheckpoint
from composer_kd.callbacks.cost import TrainingCost
from composer_kd.callbacks.history import HistoryLogger
from composer_kd.callbacks.phases import PhaseLabels, StepClock
from composer_kd.callbacks.progress import RunProgress

__all__ = ['BestCheckpoint', 'HistoryLogger', 'PhaseLabels', 'RunProgress', 'StepClock', 'TrainingCost']
