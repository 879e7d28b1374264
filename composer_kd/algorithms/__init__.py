"""What goes into ``Trainer(algorithms=[...])``, one file each."""

from composer_kd.algorithms.distillation import Distillation

__all__ = ['Distillation']
