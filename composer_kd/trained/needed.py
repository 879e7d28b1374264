"""Says what a call of these functions lacks."""

from __future__ import annotations

from composer_kd.errors import ConfigError
from composer_kd.runs.saved import SavedRun

__all__ = ['require_data']


def require_data(runs: list[SavedRun] | None) -> list[SavedRun]:
    """The runs, if all models are runs, which have evaluation data of their own.

    Raises:
        ConfigError: If a module is among the models.
    """
    if runs is None:
        raise ConfigError(
            'data: missing. A module has no evaluation data of its own: give a DataLoader, or one batch, after the '
            'models'
        )
    return runs
