"""Distillation losses: pure functions of ``(student, teacher)``, and modules that hold settings or parameters."""

from composer_kd.losses.adaptive import AdaptiveKL, adaptive_kl
from composer_kd.losses.alpha_beta import AlphaBetaDivergence, alpha_beta_divergence
from composer_kd.losses.congruence import KernelCongruence, kernel_congruence
from composer_kd.losses.contrastive import CRD
from composer_kd.losses.decoupled import DKD, NKD, dkd, nkd
from composer_kd.losses.divergences import (
    GeneralizedJSD,
    ReverseKL,
    SoftCrossEntropy,
    generalized_jsd,
    reverse_kl,
    soft_cross_entropy,
)
from composer_kd.losses.feature_maps import (
    ChannelWiseKL,
    attention_transfer,
    channel_wise_kl,
    hint,
    normalized_mse,
    nst,
)
from composer_kd.losses.first_token import FirstToken
from composer_kd.losses.flow import fsp
from composer_kd.losses.kl import KLDivergence, kl_divergence
from composer_kd.losses.pearson import DIST, dist
from composer_kd.losses.pointwise import UniversalLogit, cosine, hard_label, mse, universal_logit
from composer_kd.losses.relation import RKD, correlation_congruence, pkt, rkd, similarity_preserving
from composer_kd.losses.review import ReviewKD
from composer_kd.losses.skewed import SkewedKL, SkewedReverseKL, skewed_kl, skewed_reverse_kl
from composer_kd.losses.spatial_attention import sad
from composer_kd.losses.standardization import LogitStandardization, standardize
from composer_kd.losses.temperatures import MultiTemperature
from composer_kd.losses.transformer import ValueRelationKL, attention_kl, attention_mse, value_relation_kl
from composer_kd.losses.variation import TotalVariation, total_variation
from composer_kd.losses.variational import VID

__all__ = [
    'AdaptiveKL',
    'AlphaBetaDivergence',
    'CRD',
    'ChannelWiseKL',
    'DIST',
    'DKD',
    'FirstToken',
    'GeneralizedJSD',
    'KLDivergence',
    'KernelCongruence',
    'LogitStandardization',
    'MultiTemperature',
    'NKD',
    'RKD',
    'ReverseKL',
    'ReviewKD',
    'SkewedKL',
    'SkewedReverseKL',
    'SoftCrossEntropy',
    'TotalVariation',
    'UniversalLogit',
    'VID',
    'ValueRelationKL',
    'adaptive_kl',
    'alpha_beta_divergence',
    'attention_kl',
    'attention_mse',
    'attention_transfer',
    'channel_wise_kl',
    'correlation_congruence',
    'cosine',
    'dist',
    'dkd',
    'fsp',
    'generalized_jsd',
    'hard_label',
    'hint',
    'kernel_congruence',
    'kl_divergence',
    'mse',
    'nkd',
    'normalized_mse',
    'nst',
    'pkt',
    'reverse_kl',
    'rkd',
    'sad',
    'similarity_preserving',
    'skewed_kl',
    'skewed_reverse_kl',
    'soft_cross_entropy',
    'standardize',
    'total_variation',
    'universal_logit',
    'value_relation_kl',
]
