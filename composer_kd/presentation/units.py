"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = [
    'MINUS',
    'TIMES',
    'bytes_text',
    'count_text',
    'duration_text',
    'number_text',
    'percent',
    'points',
    'quartiles_text',
    'seconds_text',
    'time_unit',
    'times',
]

MINUS, TIMES = '\N{MINUS SIGN}', '\N{MULTIPLICATION SIGN}'

_SI = ((1e12, 'T'), (1e9, 'G'), (1e6, 'M'), (1e3, 'k'))


def _scaled(value: float, unit: str) -> str:
    # One more digit may round up into the next unit, as 999,999 does.
    factor, prefix = next(((f, p) for f, p in _SI if abs(value) >= 0.9995 * f), (1.0, ''))
    return f'{_three_digits(value / factor)} {prefix}{unit}'.strip()


def _three_digits(value: float) -> str:
    if value == 0 or not math.isfinite(value):
        return f'{value:.0f}' if value == 0 else str(value)
    digits = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-9))
    return f'{value:,.{min(digits, 4)}f}'


def bytes_text(value: float | None) -> str:
    """Bytes in decimal units; ``''`` for None.

    Example:
        >>> bytes_text(87_480), bytes_text(999), bytes_text(None)
        ('87.5 kB', '999 B', '')
    """
    return '' if value is None else _scaled(value, 'B')


def count_text(value: float | None, unit: str = '') -> str:
    """A number of things with three digits; ``''`` for None.

    Example:
        >>> count_text(21_690), count_text(1_234_000, 'FLOP')
        ('21.7 k', '1.23 MFLOP')
    """
    return '' if value is None else _scaled(value, unit)


def seconds_text(value: float | None) -> str:
    """A short time with a fitting unit; ``''`` for None.

    Example:
        >>> seconds_text(0.000412), seconds_text(0.0123), seconds_text(2.5)
        ('0.412 ms', '12.3 ms', '2.50 s')
    """
    if value is None:
        return ''
    if value >= 0.9995:
        return f'{_three_digits(value)} s'
    return f'{_three_digits(1e3 * value)} ms' if value >= 1e-4 else f'{_three_digits(1e6 * value)} µs'


def time_unit(values: Iterable[float | None]) -> tuple[str, float]:
    """One unit for short times that are compared, by the smallest of them: its name, and how many make a second.

    Example:
        >>> time_unit([0.0003, 0.00008, None]), time_unit([0.002, 0.3]), time_unit([])
        (('µs', 1000000.0), ('ms', 1000.0), ('ms', 1000.0))
    """
    least = min((value for value in values if value is not None), default=0.001)
    return ('s', 1.0) if least >= 1.0 else ('ms', 1e3) if least >= 1e-3 else ('µs', 1e6)


def number_text(value: float | None) -> str:
    """A number with three digits; ``''`` for None.

    Example:
        >>> number_text(0.0471), number_text(8640.2)
        ('0.0471', '8,640')
    """
    return '' if value is None else _three_digits(value)


def duration_text(value: float | None) -> str:
    """How long something took; ``''`` for None.

    Example:
        >>> duration_text(7.13), duration_text(754), duration_text(9000)
        ('7.1 s', '12 min 34 s', '2 h 30 min')
    """
    if value is None:
        return ''
    if value < 59.95:
        return f'{value:.1f} s'
    seconds = round(value)
    if seconds < 3600:
        return f'{seconds // 60} min {seconds % 60:02d} s'
    minutes = round(value / 60)
    return f'{minutes // 60} h {minutes % 60:02d} min'


def percent(value: float | None, error: float | None = None) -> str:
    """A share in percent, with its standard error; ``''`` for None.

    Example:
        >>> percent(0.9861), percent(0.8012, 0.0129)
        ('98.6', '80.1 ± 1.3')
    """
    if value is None or not math.isfinite(value):
        return ''
    return f'{100 * value:.1f}' + ('' if error is None else f' ± {100 * error:.1f}')


def points(value: float) -> str:
    """A difference of shares in points of percent, with its sign.

    Example:
        >>> points(0.0171), points(-0.002), points(-0.0001)
        ('+1.7', '−0.2', '±0.0')
    """
    text = f'{100 * value:+.1f}'
    return '±0.0' if text in ('+0.0', '-0.0') else text.replace('-', MINUS)


def times(value: float | None) -> str:
    """A factor; ``''`` for None.

    Example:
        >>> times(2.117), times(13.24), times(120.0)
        ('2.1×', '13×', '120×')
    """
    if value is None or not math.isfinite(value):
        return ''
    digits = 0 if value >= 9.95 else 1 if value >= 0.95 else 2
    return f'{value:.{digits}f}{TIMES}'


def quartiles_text(between: tuple[float, float] | None) -> str:
    """Between which factors; ``''`` for None.

    Example:
        >>> quartiles_text((3.71, 4.2)), quartiles_text(None)
        ('3.7 to 4.2', '')
    """
    return '' if between is None else ' to '.join(times(one).removesuffix(TIMES) for one in between)
