"""Knowledge distillation for MosaicML Composer: one object in ``Trainer(algorithms=[...])``.

The names below are imported when they are first used, so that ``composer-kd --help`` need not wait for torch.
"""

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from composer_kd import (
        algorithms,
        batches,
        bench,
        callbacks,
        data,
        deploy,
        features,
        losses,
        matches,
        models,
        reports,
        schedules,
        stores,
        students,
        teachers,
        testing,
        trained,
    )
    from composer_kd.algorithms import CoDistillation, Distillation, MutualLearning, OnPolicy, Peer, SelfDistillation
    from composer_kd.errors import (
        CheckpointError,
        CheckpointNotFoundError,
        ComposerKDError,
        ConfigError,
        LossError,
        TeacherError,
    )
    from composer_kd.features.observe import observe
    from composer_kd.features.outputs import Observation
    from composer_kd.losses import KLDivergence, kl_divergence
    from composer_kd.matches.match import Match
    from composer_kd.runs.ensemble import Ensemble
    from composer_kd.schedules import Ramp
    from composer_kd.students import student_from_teacher, student_state_dict
    from composer_kd.teachers import (
        BaseModelTeacher,
        CachedTeacher,
        EMATeacher,
        FrozenTeacher,
        NormalizationAdapter,
        ResizeAdapter,
        SnapshotTeacher,
        VirtualTeacher,
        build_store,
    )

__version__ = '0.1.0'

__all__ = [
    'BaseModelTeacher',
    'CachedTeacher',
    'CheckpointError',
    'CheckpointNotFoundError',
    'CoDistillation',
    'ComposerKDError',
    'ConfigError',
    'Distillation',
    'EMATeacher',
    'Ensemble',
    'FrozenTeacher',
    'KLDivergence',
    'LossError',
    'Match',
    'MutualLearning',
    'NormalizationAdapter',
    'Observation',
    'OnPolicy',
    'Peer',
    'Ramp',
    'ResizeAdapter',
    'SelfDistillation',
    'SnapshotTeacher',
    'TeacherError',
    'VirtualTeacher',
    'build_store',
    'kl_divergence',
    'observe',
    'student_from_teacher',
    'student_state_dict',
]

_HOMES = (
    'errors',
    'losses',
    'schedules',
    'students',
    'features.outputs',
    'features.observe',
    'matches.match',
    'teachers',
    'algorithms',
    'runs.ensemble',
)

_ROOMS = frozenset(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith('_'))


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in _HOMES:
            module = import_module(f'{__name__}.{home}')
            if name in module.__all__:
                return getattr(module, name)
    if name in _ROOMS:  # so that `import composer_kd` is enough for `composer_kd.losses.hint`
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
