"""Distillation losses: pure functions of ``(student, teacher)`` with thin module twins."""

from composer_kd.losses.response import KLDivergence, kl_divergence

__all__ = ['KLDivergence', 'kl_divergence']
