"""Teachers: the models from whose outputs a student learns, their input adapters, and their checkpoints."""

from composer_kd.teachers.adapters import NormalizationAdapter, ResizeAdapter
from composer_kd.teachers.base import Teacher, Teachers, answered_logits, module_of, teacher_logits
from composer_kd.teachers.base_model import BaseModelTeacher
from composer_kd.teachers.cached import CachedTeacher
from composer_kd.teachers.checkpoints import load_weights, read_weights
from composer_kd.teachers.ema import EMATeacher
from composer_kd.teachers.fingerprint import differences, teacher_fingerprint
from composer_kd.teachers.frozen import FrozenTeacher
from composer_kd.teachers.meanings import check_classes, check_trained
from composer_kd.teachers.own_tokens import own_token_names, read_own_tokens
from composer_kd.teachers.pool import TeacherPool, moves
from composer_kd.teachers.shapes import NotMeasured, Shapes, feature_shapes, logits_shape, measured
from composer_kd.teachers.snapshot import SnapshotTeacher
from composer_kd.teachers.store_building import build_store
from composer_kd.teachers.virtual import VirtualTeacher
from composer_kd.teachers.vocabulary import cut, cut_shape, shared_vocabulary

__all__ = [
    'BaseModelTeacher',
    'CachedTeacher',
    'EMATeacher',
    'FrozenTeacher',
    'NormalizationAdapter',
    'NotMeasured',
    'Shapes',
    'ResizeAdapter',
    'SnapshotTeacher',
    'Teacher',
    'TeacherPool',
    'Teachers',
    'VirtualTeacher',
    'answered_logits',
    'build_store',
    'check_classes',
    'check_trained',
    'cut',
    'cut_shape',
    'differences',
    'feature_shapes',
    'load_weights',
    'logits_shape',
    'measured',
    'module_of',
    'moves',
    'own_token_names',
    'read_own_tokens',
    'read_weights',
    'shared_vocabulary',
    'teacher_fingerprint',
    'teacher_logits',
]
