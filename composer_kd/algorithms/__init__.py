"""Algorithms for ``Trainer(algorithms=[...])``, one per file."""

from composer_kd.algorithms.co_distillation import CoDistillation
from composer_kd.algorithms.distillation import Distillation
from composer_kd.algorithms.mutual_learning import MutualLearning
from composer_kd.algorithms.on_policy import OnPolicy
from composer_kd.algorithms.peers import Peer
from composer_kd.algorithms.self_distillation import SelfDistillation

__all__ = ['CoDistillation', 'Distillation', 'MutualLearning', 'OnPolicy', 'Peer', 'SelfDistillation']
