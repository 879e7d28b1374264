"""Knowledge distillation for MosaicML Composer: one object in ``Trainer(algorithms=[...])``."""

from composer_kd.distillation import Distillation
from composer_kd.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    ComposerKDError,
    ConfigError,
    LossError,
    TeacherError,
)
from composer_kd.losses import KLDivergence, kl_divergence
from composer_kd.teachers import FrozenTeacher, NormalizationAdapter, ResizeAdapter

__version__ = '0.1.0'

__all__ = [
    'CheckpointError',
    'CheckpointNotFoundError',
    'ComposerKDError',
    'ConfigError',
    'Distillation',
    'FrozenTeacher',
    'KLDivergence',
    'LossError',
    'NormalizationAdapter',
    'ResizeAdapter',
    'TeacherError',
    'kl_divergence',
]
