"""Algorithms for ``Trainer(algorithms=[...])``, one per file."""

from composer_kd.algorithms.distillation import Distillation

__all__ = ['Distillation']
