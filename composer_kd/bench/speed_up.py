"""How many times faster one model is than another."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ['SpeedUp']


@dataclass(frozen=True)
class SpeedUp:
    """The speed-up over another model, from interleaved rounds.

    In each round it is the other model's median time divided by this model's; above 1, this model is faster.

    Args:
        against: The name of the other model.
        median: The median over the rounds.
        low: The lower quartile.
        high: The upper quartile.
    """

    against: str
    median: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the difference exceeds the noise: both quartiles lie on the same side of 1."""
        return self.low > 1 or self.high < 1
