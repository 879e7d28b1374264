"""Formats numbers, times, sizes and counts for display: three significant digits, decimal units."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable

__all__ = [
    'MINUS',
    'TIMES',
    'bytes_text',
    'cost_text',
    'count_text',
    'metric_text',
    'number_text',
    'percent',
    'points',
    'ratio_text',
    'quartiles_text',
    'rate_text',
    'seconds_text',
    'speed_text',
    'time_unit',
    'times',
    'value_text',
]

MINUS, TIMES = '\N{MINUS SIGN}', '\N{MULTIPLICATION SIGN}'

_PREFIXES = {4: 'T', 3: 'G', 2: 'M', 1: 'k', 0: '', -1: 'm', -2: 'µ', -3: 'n'}
"""The prefix of each power of a thousand."""
_MINUTE = 59.95  # seconds; three digits round it up to 60.0
MOST_DECIMALS = 6  # of a number with a small error
_SMALLEST = -6  # the lowest power of ten that is written without an exponent


def number_text(value: float | None, error: float | None = None) -> str:
    """Formats a number with three significant digits, and its error with as many decimals; ``''`` for None.

    All digits before the decimal point are kept. Integers have no decimals. A small error adds decimals to both, up to
    its first digit.

    Example:
        >>> number_text(0.0471), number_text(8640.2), number_text(3), number_text(98.7654, 0.5)
        ('0.0471', '8,640', '3', '98.8 ± 0.5')
        >>> number_text(12.34, 0.0004)
        '12.3400 ± 0.0004'
    """
    if value is None:
        return ''
    if not math.isfinite(value):
        return str(value)
    power = 2 if isinstance(value, numbers.Integral) or value == 0 else _power(value)
    decimals = max(0, 2 - power)
    if error and math.isfinite(error):
        decimals = max(decimals, min(-_power(error), MOST_DECIMALS))
    form = f',.{decimals}f' if power >= _SMALLEST else '.2e'
    return f'{value:{form}}' + ('' if error is None else f' ± {error:{form}}')


def _power(value: float) -> int:
    """Returns the power of ten of a number rounded to three digits; 3 for 999.9."""
    return int(f'{value:.2e}'.partition('e')[2])


def _scaled(value: float, unit: str, least: int, most: int = 4) -> str:
    if not math.isfinite(value):
        return f'{value} {unit}'.strip()
    thousands = min(max(_power(value) // 3, least), most)
    scaled = value if thousands == 0 else value / 1000.0**thousands
    return f'{number_text(scaled)} {_PREFIXES[thousands]}{unit}'.strip()


def bytes_text(value: float | None) -> str:
    """Formats a number of bytes in decimal units; ``''`` for None.

    Example:
        >>> bytes_text(87_480), bytes_text(999), bytes_text(None)
        ('87.5 kB', '999 B', '')
    """
    return '' if value is None else _scaled(value, 'B', least=0)


def count_text(value: float | None, unit: str = '') -> str:
    """Formats a count, or a quantity in a unit, with a decimal prefix; ``''`` for None.

    Example:
        >>> count_text(21_690), count_text(1_234_000, 'FLOP'), count_text(0.0123, 'J'), count_text(12)
        ('21.7 k', '1.23 MFLOP', '12.3 mJ', '12')
    """
    return '' if value is None else _scaled(value, unit, least=-3 if unit else 0)


def rate_text(value: float | None) -> str:
    """Formats a rate per second; ``''`` for None.

    Example:
        >>> rate_text(12345.6), rate_text(7.25)
        ('12,346 /s', '7.25 /s')
    """
    return '' if value is None else f'{number_text(value)} /s'


def seconds_text(value: float | None) -> str:
    """Formats a duration in a suitable unit, from nanoseconds to hours; ``''`` for None.

    Example:
        >>> seconds_text(0.000349), seconds_text(0.0123), seconds_text(2.5), seconds_text(754), seconds_text(9000)
        ('349 µs', '12.3 ms', '2.50 s', '12 min 34 s', '2 h 30 min')
    """
    if value is None:
        return ''
    if not math.isfinite(value) or value < _MINUTE:
        return _scaled(value, 's', least=-3, most=0)
    seconds = round(value)
    if seconds < 3600:
        return f'{seconds // 60} min {seconds % 60:02d} s'
    minutes = round(value / 60)
    return f'{minutes // 60} h {minutes % 60:02d} min'


def time_unit(values: Iterable[float | None]) -> tuple[str, float]:
    """Chooses one unit for durations that are compared, by the smallest of them.

    Args:
        values: Durations in seconds; None for unknown ones.

    Returns:
        The name of the unit, and the number of units per second.

    Example:
        >>> time_unit([0.0003, 0.00008, None]), time_unit([0.002, 0.3]), time_unit([])
        (('µs', 1000000.0), ('ms', 1000.0), ('ms', 1000.0))
    """
    least = min((value for value in values if value is not None), default=0.001)
    return ('s', 1.0) if least >= 1.0 else ('ms', 1e3) if least >= 1e-3 else ('µs', 1e6)


def metric_text(value: float | None, error: float | None = None) -> str:
    """Formats a loss or metric, and its standard error, with four decimals; ``''`` for None.

    Example:
        >>> metric_text(0.98), metric_text(2.30259, 0.01)
        ('0.9800', '2.3026 ± 0.0100')
    """
    if value is None:
        return ''
    return f'{value:.4f}' + ('' if error is None else f' ± {error:.4f}')


def value_text(name: str, value: float | None) -> str:
    """Formats a metric by its name: an accuracy in percent, any other with four decimals; ``''`` for None.

    Example:
        >>> value_text('metrics/eval/MulticlassAccuracy', 0.98), value_text('metrics/eval/CrossEntropy', 0.98)
        ('98.00 %', '0.9800')
    """
    is_share = value is not None and math.isfinite(value) and name.endswith(('Accuracy', '/top1'))
    return f'{100 * value:.2f} %' if is_share and value is not None else metric_text(value)


def percent(value: float | None, error: float | None = None) -> str:
    """Formats a fraction from 0 to 1, and its standard error, in percent; ``''`` for None.

    Example:
        >>> percent(0.9861), percent(0.8012, 0.0129)
        ('98.6', '80.1 ± 1.3')
    """
    if value is None or not math.isfinite(value):
        return ''
    return f'{100 * value:.1f}' + ('' if error is None else f' ± {100 * error:.1f}')


def points(value: float) -> str:
    """Formats a difference of two fractions in percentage points, with its sign.

    Example:
        >>> points(0.0171), points(-0.002), points(-0.0001)
        ('+1.7', '−0.2', '±0.0')
    """
    text = f'{100 * value:+.1f}'
    return '±0.0' if text in ('+0.0', '-0.0') else text.replace('-', MINUS)


def times(value: float | None) -> str:
    """Formats a factor; ``''`` for None.

    Example:
        >>> times(2.117), times(13.24), times(120.0)
        ('2.1×', '13×', '120×')
    """
    if value is None or not math.isfinite(value):
        return ''
    digits = 0 if value >= 9.95 else 1 if value >= 0.95 else 2
    return f'{value:.{digits}f}{TIMES}'


def speed_text(value: float | None) -> str:
    """Formats a factor between two speeds, so that a slow one is as exact as a fast one; ``''`` for None.

    Example:
        >>> speed_text(4.42), speed_text(0.99), speed_text(0.75), speed_text(0.003)
        ('4.4×', '1.0×', '1.3× slower', '333× slower')
    """
    if value is None or not math.isfinite(value):
        return ''
    return times(value) if value >= 0.95 or value <= 0 else f'{times(1 / value)} slower'


def ratio_text(value: float) -> str:
    """Formats a power of two as a factor for the tick of an axis: those below 1 as fractions.

    Example:
        >>> ratio_text(4.0), ratio_text(1.0), ratio_text(1 / 64)
        ('4×', '1×', '1/64×')
    """
    return f'{value:g}{TIMES}' if value >= 1 else f'1/{1 / value:g}{TIMES}'


def quartiles_text(between: tuple[float, float] | None) -> str:
    """Formats the lower and upper quartile of a factor; ``''`` for None.

    Example:
        >>> quartiles_text((3.71, 4.2)), quartiles_text(None)
        ('3.7 to 4.2', '')
    """
    return '' if between is None else ' to '.join(times(one).removesuffix(TIMES) for one in between)


def cost_text(name: str, value: float) -> str:
    """Formats a value of :class:`~composer_kd.callbacks.cost.TrainingCost` in the unit at the end of its name.

    Args:
        name: The name of the value.
        value: The value.

    Returns:
        The number and its unit; a value with another name is formatted as a metric.

    Example:
        >>> cost_text('cost/train_seconds', 3725.0), cost_text('cost/peak_memory_bytes', 1.5e9)
        ('1 h 02 min', '1.50 GB')
    """
    write = next((write for ending, write in _COSTS.items() if name.endswith(ending)), metric_text)
    return write(value)


_COSTS: dict[str, Callable[[float], str]] = {
    '_per_second': rate_text,
    '_seconds': seconds_text,
    '_bytes': bytes_text,
    '_joules': lambda value: count_text(value, 'J'),
}
