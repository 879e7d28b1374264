"""Teachers that an earlier stage of the same YAML trains: ``{stage: NAME}`` in the place of a model and checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any

from composer_kd.config.markers import Component, Part
from composer_kd.config.schema import INPUT_ADAPTERS, RunConfig, SourceConfig, TeacherConfig
from composer_kd.errors import nearest

__all__ = ['PREVIOUS', 'StageSourceConfig', 'StageTeacherConfig', 'after', 'is_of_stage', 'with_teachers']

PREVIOUS = 'previous'
"""The name of the run just before, which a generation's teacher is."""

_earlier: ContextVar[tuple[str, ...] | None] = ContextVar('earlier stages', default=None)


@dataclass
class StageTeacherConfig:
    """The model and the last weights of an earlier stage; the rest as of any teacher."""

    stage: str
    input_adapter: Annotated[Any, INPUT_ADAPTERS] = None
    forward: Annotated[Component | None, Part('call')] = None
    name: str | None = None  # None: as the stage is written

    def conflicts(self) -> Iterator[str]:
        """Yields why there is no such stage before the one that is being checked."""
        earlier = _earlier.get()
        if earlier is None:
            yield f'stage: names a stage, and this YAML has none; got {self.stage!r}. Give model and checkpoint'
        elif not earlier:
            yield f'stage: the first stage has none before it, got {self.stage!r}; `algorithms: null` trains it alone'
        elif self.stage not in earlier:
            yield f'stage: there is no {self.stage!r} before this stage{nearest(self.stage, earlier)}'


@dataclass
class StageSourceConfig:
    """The model and the last weights of an earlier stage, which a student is cut out of."""

    stage: str

    def conflicts(self) -> Iterator[str]:
        """Yields why there is no such stage before the one that is being checked."""
        yield from StageTeacherConfig(self.stage).conflicts()


@contextlib.contextmanager
def after(stages: Sequence[str]) -> Iterator[None]:
    """Lets teachers be earlier stages while the settings of a stage are checked.

    Args:
        stages: The names that such a teacher may have.
    """
    token = _earlier.set((*stages, PREVIOUS) if stages else ())
    try:
        yield
    finally:
        _earlier.reset(token)


def is_of_stage(written: Any) -> bool:
    """Whether the mapping of a teacher is that of an earlier stage; also with a typing error in ``stage``.

    Example:
        >>> is_of_stage({'stage': 'assistant'}), is_of_stage({'stgae': 'assistant'}), is_of_stage({'model': 'Net'})
        (True, True, False)
    """
    if not isinstance(written, dict) or 'model' in written or 'cache' in written:
        return False
    return any(difflib.get_close_matches(str(key), ['stage'], cutoff=0.7) for key in written)


def with_teachers(config: RunConfig, resolve: Callable[[StageTeacherConfig, str], Any]) -> RunConfig:
    """Puts other settings in the place of teachers that are stages.

    Args:
        config: The settings of a run.
        resolve: Returns the settings of a teacher; gets what is written and its dotted key.

    Returns:
        The settings, in which no teacher is a stage.
    """
    found = {key: _resolved(algorithm, resolve) for key, algorithm in config.algorithms.items()}
    model = _resolved(config.model, lambda written, key: _source(resolve(written, key)))
    return dataclasses.replace(config, algorithms=found, model=model)


def _resolved(part: Component, resolve: Callable[[StageTeacherConfig, str], Any]) -> Component:
    def one(value: Any, key: str) -> Any:
        if isinstance(value, list):
            return [one(item, f'{key}.{number}') for number, item in enumerate(value)]
        if isinstance(value, StageSourceConfig):
            value = StageTeacherConfig(value.stage)
        return resolve(value, key) if isinstance(value, StageTeacherConfig) else value

    options = {option: one(value, f'{part.path}.{option}') for option, value in part.options.items()}
    return part.with_options(options)


def _source(teacher: TeacherConfig) -> SourceConfig:
    return SourceConfig(teacher.model, teacher.checkpoint, teacher.entry)
