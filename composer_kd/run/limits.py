"""What values of a configuration must be, beyond their type."""

from __future__ import annotations

from typing import Annotated, Any

from composer.core import Time
from composer.utils import dist

from composer_kd.run.parts import Must

__all__ = [
    'ConsoleInterval',
    'Folder',
    'Interval',
    'Length',
    'NotNegative',
    'Positive',
    'PositiveOrAll',
    'PositiveTime',
    'Regularly',
    'RunLength',
    'RunName',
    'Seed',
    'Share',
]

Positive = Must('positive', lambda value: isinstance(value, str) or value > 0)
NotNegative = Must('zero or more', lambda value: value >= 0)
PositiveOrAll = Must('positive, or -1 for all', lambda value: value == -1 or value > 0)
Share = Must('between 0 and 1', lambda value: 0 < value < 1)
Seed = Must('from 0 to 2**32 - 1', lambda value: value >= 0 and value + dist.get_world_size() <= 2**32)
PositiveTime = Must('more than zero', lambda value: Time.from_input(value, 'ep').value > 0)
# Tokens are not counted here, iterations need a length, and Composer takes neither fractions nor seconds for a run: a
# run that is as long as that would never end.
Length = Must('in ep, ba or sp', lambda value: _unit(value) in ('ep', 'ba', 'sp'))
Interval = Must('in ep, ba, sp or dur', lambda value: _unit(value) in ('ep', 'ba', 'sp', 'dur'))
ConsoleInterval = Must('in ep or ba', lambda value: _unit(value) in ('ep', 'ba'))  # Composer prints at these alone
RunLength = Annotated[Time | str | int, PositiveTime, Length]
Regularly = Annotated[Time | str | int, PositiveTime, Interval]
RunName = Must('not empty and without braces', lambda value: value.strip() and not set(value) & set('{}'))
Folder = Must('without braces but {run_name}', lambda value: not set(value.replace('{run_name}', '')) & set('{}'))


def _unit(value: Any) -> str:
    return Time.from_input(value, 'ep').unit.value
