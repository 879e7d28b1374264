"""Marks for the annotations of the configuration, and the class of checked components."""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from composer.core import Time
from composer.utils import dist

from composer_kd.config.registry import resolve

__all__ = [
    'Component',
    'ConsoleInterval',
    'Effect',
    'Either',
    'Folder',
    'Interval',
    'Length',
    'MayBeEmpty',
    'Must',
    'NoSlash',
    'NotNegative',
    'OptionsOf',
    'PackageNames',
    'Part',
    'Place',
    'CheckpointName',
    'Label',
    'LatestName',
    'Positive',
    'PositiveOrAll',
    'PositiveTime',
    'Regularly',
    'RunLength',
    'RunName',
    'Seed',
    'Share',
]

T = TypeVar('T')


@dataclass(frozen=True)
class Part:
    """Marks a component, whose name is looked up in this scope of ``composer_kd.config.registry``."""

    scope: str


@dataclass(frozen=True)
class OptionsOf:
    """Marks a mapping whose keys are the settings of a class that accepts any keyword without a check."""

    what: str


@dataclass(frozen=True)
class MayBeEmpty:
    """Marks a list of components that may have no entry."""


@dataclass(frozen=True)
class Must:
    """Marks a value that must meet a condition, in addition to its type.

    Args:
        words: The condition, for messages: ``'positive'``.
        test: Returns whether a value of the right type meets the condition.
        limits: The condition in JSON schema, as far as that can say it.
    """

    words: str
    test: Callable[[Any], bool]
    limits: dict[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Either:
    """Marks a value that can be written in several forms.

    Args:
        words: The forms, for messages.
        which: Returns the annotation with which a given value is read.
    """

    words: str
    which: Callable[[Any], Any]


class Effect(enum.Enum):
    """Marks a key by what it affects in a run. A key without this mark changes what is learned.

    ``OUTPUT``, ``EXECUTION`` and ``REFERENCE`` never change the result. The other effects change it, but some
    comparisons ignore them: see ``composer_kd.config.effects.changes_result``.
    """

    OUTPUT = 'what a run is called, logs, prints and keeps'
    MICROBATCH = 'the size of the parts of a batch, on which BatchNorm and relations between samples depend'
    EXECUTION = 'how the work is done: workers that load samples, batch sizes in evaluation'
    REFERENCE = 'values that other keys refer to, and that count there'
    SEED = 'the random numbers: runs that differ in it alone are repetitions'
    LENGTH = 'how long a run trains'
    START = 'which weights a run starts from'
    EVALUATION = 'when a run is evaluated'
    CALLBACKS = 'who watches a run; a callback may also stop it, or change what is learned'


@dataclass(frozen=True)
class Component:
    """A checked ``{name: ..., **options}``: everything needed to construct the object, which is not constructed yet.

    Args:
        scope: A key of ``composer_kd.config.registry.SCOPES``.
        name: The name, as written in the YAML.
        options: Keyword arguments; nested losses, schedules and so on are components themselves.
        path: The dotted key in the YAML, for messages.

    Example:
        >>> Component('optimizer', 'sgd').target.__name__
        'SGD'
    """

    scope: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    path: str = ''

    @functools.cached_property
    def target(self) -> Callable[..., Any]:
        """The class or function that the name refers to, looked up once.

        Raises:
            ConfigError: If the name is unknown.
        """
        return resolve(self.scope, self.name)

    def with_options(self, options: dict[str, Any]) -> Component:
        """Returns a copy of the component with other options.

        Args:
            options: All options of the copy.

        Returns:
            The copy, which keeps the target if it was already looked up.

        Example:
            >>> Component('optimizer', 'SGD', {'lr': 0.1}).with_options({'lr': 0.2})
            Component(scope='optimizer', name='SGD', options={'lr': 0.2}, path='')
        """
        other = dataclasses.replace(self, options=options)
        if 'target' in vars(self):
            vars(other)['target'] = self.target
        return other

    def holding(self, kind: type[T]) -> list[T]:
        """Returns the values of one type among the options and the lists in them, in order.

        Example:
            >>> sgd = Component('optimizer', 'SGD', {'lr': 0.1})
            >>> Component('algorithm', 'Mine', {'inner': [sgd], 'rate': 2}).holding(Component) == [sgd]
            True
        """
        listed = (value if isinstance(value, list) else [value] for value in self.options.values())
        return [one for values in listed for one in values if isinstance(one, kind)]


Positive = Must('positive', lambda value: isinstance(value, str) or value > 0, {'exclusiveMinimum': 0})


NoSlash = Must("without '/'", lambda value: '/' not in value)

NotNegative = Must('zero or more', lambda value: value >= 0, {'minimum': 0})


PositiveOrAll = Must(
    'positive, or -1 for all', lambda value: value == -1 or value > 0, {'minimum': -1, 'not': {'const': 0}}
)


Share = Must('between 0 and 1', lambda value: 0 < value < 1, {'exclusiveMinimum': 0, 'exclusiveMaximum': 1})


Seed = Must('from 0 to 2**32 - 1', lambda value: value >= 0 and value + dist.get_world_size() <= 2**32)


PositiveTime = Must('more than zero', lambda value: Time.from_input(value, 'ep').value > 0)


# A run would never end with other units: tokens are not counted here, iterations need a length, and Composer does not
# support fractions and seconds as the length of a run.
Length = Must('in ep, ba or sp', lambda value: _unit(value) in ('ep', 'ba', 'sp'))


Interval = Must('in ep, ba, sp or dur', lambda value: _unit(value) in ('ep', 'ba', 'sp', 'dur'))


ConsoleInterval = Must('in ep or ba', lambda value: _unit(value) in ('ep', 'ba'))  # Composer prints in these units only


RunLength = Annotated[Time | str | int, PositiveTime, Length]


Regularly = Annotated[Time | str | int, PositiveTime, Interval]


RunName = Must('not empty, without braces, and the name of a folder', lambda value: _is_name(value))


Folder = Must(
    'without braces but {run_name}',
    lambda value: bool(value.strip()) and not set(value.replace('{run_name}', '')) & set('{}'),
)


PackageNames = Must('of names of packages, without dots', lambda value: all(map(str.isidentifier, value)))


# Names by which the commands know a checkpoint again, without being told.
CheckpointName = Must(
    'a file name with ep{epoch}-ba{batch} in it that ends in -rank{rank}.pt',
    lambda value: '-ep{epoch}-ba{batch}-' in f'-{value}' and _is_file_name(value, '{run_name}', '{epoch}', '{batch}'),
)


# What every logger takes as a part of a name, and no other part of a name is called.
Label = Must(
    "made of letters, digits, '.', '_' and '-', and not 'eval' or 'train'",
    lambda value: bool(re.fullmatch(r'[\w.-]+', value)) and value not in ('eval', 'train'),
)


LatestName = Must(
    'a file name with latest in it that ends in -rank{rank}.pt, such as {run_name}-latest-rank{rank}.pt',
    lambda value: 'latest' in value and _is_file_name(value, '{run_name}'),
)


# A name of more bytes than this is no file in any of the usual file systems.
Place = Must(
    'a path that can exist', lambda value: '://' in value or all(len(p.encode()) < 256 for p in value.split('/'))
)


def _is_name(value: str) -> bool:
    parts = value.replace('\\', '/').split('/')
    tame = value.isprintable() and not set(value) & set('{}') and not value.startswith('/')
    return bool(tame and value.strip() and '..' not in parts and all(len(part.encode()) < 200 for part in parts))


def _is_file_name(value: str, *fields: str) -> bool:
    """Whether a name ends in ``-rank{rank}.pt``, and has no other fields than these."""
    left = value.removesuffix('-rank{rank}.pt')
    for name in fields:
        left = left.replace(name, '')
    return left != value and value.isprintable() and not set(left) & set('{}/\\#?;:') and not value.startswith('.')


def _unit(value: Any) -> str:
    return Time.from_input(value, 'ep').unit.value
