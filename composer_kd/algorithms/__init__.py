"""Algorithms for ``Trainer(algorithms=[...])``, one per file."""

from composer_kd.algorithms.distillation import Distillation
from composer_kd.algorithms.mutual_learning import MutualLearning
from composer_kd.algorithms.peers import Peer

__all__ = ['Distillation', 'MutualLearning', 'Peer']
