"""The temperature of a stored softmax."""

from __future__ import annotations

import math
from typing import Any

from composer_kd.errors import ConfigError

__all__ = ['check_temperature']


def check_temperature(what: str, temperature: Any) -> None:
    """Checks a temperature.

    Raises:
        ConfigError: If it is not a positive finite number.
    """
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not number or not 0 < temperature < math.inf:
        raise ConfigError(f'{what}: temperature: expected a positive finite number, got {temperature!r}')
