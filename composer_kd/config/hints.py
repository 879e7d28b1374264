"""Annotations for options that are objects in a script and mappings in a YAML file, such as teachers and losses."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import typing
from typing import Annotated, Any, Literal

from composer_kd.algorithms.on_policy import OnPolicy
from composer_kd.algorithms.peers import Peers
from composer_kd.config.markers import Component, Either, MayBeEmpty, Must, Part
from composer_kd.config.registry import known_names, resolve
from composer_kd.config.schema import MeasuredConfig, PeerConfig, SourceConfig, TeacherConfig
from composer_kd.config.stage_teachers import StageSourceConfig, StageTeacherConfig, is_of_stage
from composer_kd.config.stored import StoredTeacherConfig, is_stored
from composer_kd.config.typecheck import Parameter, parameters
from composer_kd.errors import ConfigError, nearest
from composer_kd.matches.loss_signature import Loss as LossObject
from composer_kd.matches.match import Losses, Match
from composer_kd.matches.projector import PROJECTORS
from composer_kd.students.from_teacher import Source
from composer_kd.students.measuring import Batches
from composer_kd.teachers import Teachers
from composer_kd.teachers.routing import RouteBy

__all__ = ['nested_hints', 'of_a_match']

Loss = Annotated[Component, Part('loss')]
OneMatch = Annotated[Component, Part('match')]
Schedule = Annotated[Component, Part('schedule')]
Projector = Annotated[Component, Part('projector')]
NotNegative = Must('zero or more', lambda value: value >= 0, {'minimum': 0})
Positive = Must('positive', lambda value: value > 0, {'exclusiveMinimum': 0})

_A_LOSS = 'a distillation loss: {name: ..., its options}, or a match: {loss: ..., on: ..., weight: ...}'


def nested_hints(scope: str, target: Any, known: dict[str, Parameter]) -> dict[str, Any]:
    """Returns annotations for options that are objects in a script and mappings in a YAML file.

    Args:
        scope: A key of ``SCOPES``.
        target: The class or function that takes the options.
        known: Its parameters by name.

    Returns:
        The annotation with marks for each of these options, by name.

    Example:
        >>> from composer_kd import Distillation
        >>> sorted(nested_hints('algorithm', Distillation, parameters(Distillation)[0]))
        ['kd_loss_fn', 'on_policy', 'route', 'teachers']
        >>> nested_hints('optimizer', object, {})
        {}
    """
    if target is Match:
        return {'loss': Loss, 'weight': Weight, 'temperature': Temperature, 'project': AnyProjector}
    if scope == 'loss':  # a loss that wraps another loss
        return {name: Loss for name, parameter in known.items() if name == 'loss' or _is_callable(parameter.annotation)}
    read = {name: _written_as(parameter.annotation) or _inherited(target, name) for name, parameter in known.items()}
    return {name: hint for name, hint in read.items() if hint is not None}


def _written_as(annotation: Any) -> Any:
    """Returns the annotation for the YAML form of an annotation for objects; None for other annotations."""
    kinds = typing.get_args(annotation)
    for objects, written in _WRITTEN:
        if annotation == objects:
            return written
        if objects in kinds and type(None) in kinds:
            which = functools.partial(_or_null, written=written)
            return Annotated[Any, Either('null, or the same as without it', which)]
    return None


def _or_null(value: Any, written: Any) -> Any:
    return None if value is None else written


def _inherited(target: Any, name: str) -> Any:
    """The YAML form of a parameter of the same name in a base class, for subclasses that repeat it unannotated."""
    for base in target.__mro__[1:] if isinstance(target, type) else ():
        if '__init__' in vars(base):
            parameter = parameters(base)[0].get(name)
            written = None if parameter is None else _written_as(parameter.annotation)
            if written is not None:
                return written
    return None


def of_a_match(value: Any) -> list[str]:
    """Finds settings of a match among the options of a loss.

    Args:
        value: The value written for a loss.

    Returns:
        The keys that are settings of a match and not options of this loss.

    Example:
        >>> of_a_match({'name': 'KLDivergence', 'temperature': 2.0, 'on': 'layer2'})
        ['on']
    """
    if not isinstance(value, dict):
        return []
    return [key for key in value if key in ('on', 'weight', 'project', 'teacher') and key not in _options_of(value)]


def _is_match(value: Any) -> bool:
    """Whether a mapping is a match: it has no name, or contains a loss without being a loss that wraps another."""
    if not isinstance(value, dict) or not value:
        return False
    if 'name' not in value or 'loss' not in value or of_a_match(value):
        return 'name' not in value or 'loss' in value
    if 'loss' in _options_of(value):
        return False
    # A mistyped name of such a loss must not be taken for the name of a match.
    wrapping = [name for name, thing in known_names('loss').items() if 'loss' in parameters(thing)[0]]
    return '.' not in str(value['name']) and 'did you mean' not in nearest(str(value['name']), wrapping)


def _options_of(value: dict[str, Any]) -> frozenset[str]:
    try:
        return frozenset(parameters(resolve('loss', str(value.get('name'))))[0])
    except ConfigError:
        return frozenset()


def _is_callable(annotation: Any) -> bool:
    kinds = (annotation, *typing.get_args(annotation))
    return any((typing.get_origin(kind) or kind) is collections.abc.Callable for kind in kinds)


def _is_kind_of_teacher(value: Any) -> bool:
    """Whether a mapping names a class of teachers; with a key `model` it is a frozen teacher, and `name` is a label."""
    if not isinstance(value, dict) or 'model' in value or not isinstance(value.get('name'), str):
        return False
    parts, known = value['name'].split('.'), known_names('teacher')
    if len(parts) > 1 and all(map(str.isidentifier, parts)):
        return True
    is_mistyped = 'did you mean' in nearest(value['name'], known) and not value.keys() & {'cache', 'checkpoint'}
    return value['name'] in known or is_mistyped


def _kind_of_entry(value: Any) -> Any:
    if _is_kind_of_teacher(value):
        return Teacher
    if is_of_stage(value):
        return StageTeacherConfig
    return StoredTeacherConfig if is_stored(value) else TeacherConfig


def _kind_of_source(value: Any) -> Any:
    if is_of_stage(value) and 'name' not in value:
        return StageSourceConfig
    return SourceConfig if isinstance(value, dict) and 'model' in value else Annotated[Component, Part('model')]


def _is_made_to_measure(value: Any) -> bool:
    return isinstance(value, str) and bool(difflib.get_close_matches(value, PROJECTORS))


def _or_schedule(number: Any) -> Any:
    which = Either('a number, or a schedule: {name: ..., its options}', lambda v: _number_or_schedule(v, number))
    return Annotated[Any, which]


def _number_or_schedule(value: Any, number: Any) -> Any:
    return Schedule if isinstance(value, (dict, str)) else number


def _written_route(value: Any) -> Any:
    is_function = isinstance(value, dict) or (isinstance(value, str) and '.' in value)
    return Annotated[Component, Part('route')] if is_function else str


Weight = _or_schedule(Annotated[float, NotNegative])
Temperature = _or_schedule(Annotated[float | None, Positive])
AnyProjector = Annotated[
    Any,
    Either(
        f'{", ".join(map(repr, PROJECTORS))}, or a projector: {{name: torch.nn.Conv2d, its options}}',
        lambda value: Literal[tuple(PROJECTORS)] | None if value is None or _is_made_to_measure(value) else Projector,
    ),
]
LossOrMatch = Annotated[Any, Either(_A_LOSS, lambda value: OneMatch if _is_match(value) else Loss)]
LossesAndMatches = Annotated[
    Any,
    Either(
        f'{_A_LOSS}, or a list of these', lambda value: list[LossOrMatch] if isinstance(value, list) else LossOrMatch
    ),
]
Teacher = Annotated[Component, Part('teacher')]
OneTeacher = Annotated[
    Any,
    Either(
        f'a mapping with the keys {", ".join(field.name for field in dataclasses.fields(TeacherConfig))}, a stored '
        'teacher: {cache: its folder}, an earlier stage: {stage: its name}, or a kind of teacher: '
        '{name: my_package.MyTeacher, its options}',
        _kind_of_entry,
    ),
]
OneSource = Annotated[
    Any,
    Either(
        'a trained model: {name: ..., its options}; one with its weights: {model: ..., checkpoint: ...}; or an earlier '
        'stage: {stage: its name}',
        _kind_of_source,
    ),
]
WrittenRoute = Annotated[
    Any,
    Either(
        'the name of a column of the batch, or a function (batch, index): its dotted path, or {name: ..., its options}',
        _written_route,
    ),
]
# Annotations of algorithms' parameters, each with the annotation for its YAML form.
_WRITTEN = (
    (Teachers, Annotated[list[OneTeacher], MayBeEmpty()]),
    (Losses, LossesAndMatches),
    (LossObject, Loss),
    (RouteBy, WrittenRoute),
    (Peers, list[PeerConfig]),
    (Source, OneSource),
    (Batches, MeasuredConfig),
    (OnPolicy, Annotated[Component, Part('on_policy')]),
)
