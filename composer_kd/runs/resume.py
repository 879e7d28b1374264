"""Checks before a resume that the settings match those of the saved run."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from composer_kd.config.effects import differing
from composer_kd.config.load import as_mapping
from composer_kd.config.markers import Effect
from composer_kd.config.schema import RunConfig
from composer_kd.errors import ConfigError
from composer_kd.presentation.settings import leaves
from composer_kd.runs.files import CONFIG_FILE

__all__ = ['check_resumable']

MAY_CHANGE = (Effect.MICROBATCH, Effect.LENGTH, Effect.START, Effect.EVALUATION, Effect.CALLBACKS)
"""Effects of the keys that may change on a resume: the run may become longer, and starts from its own checkpoint."""


def check_resumable(config: RunConfig) -> None:
    """Checks before a resume that the settings match those of the saved run.

    With other settings, ``config.yaml`` in the run folder would not describe how the checkpoint was trained.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: If settings differ from ``config.yaml`` in the run folder; lists them.
    """
    folder = config.folder
    if not config.autoresume or folder is None or not (folder / CONFIG_FILE).is_file():
        return
    if not any(folder.glob('latest-rank*')):
        return  # no checkpoint: the run starts from the beginning
    before: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))
    old, new = leaves(before), leaves(as_mapping(config))
    changed = differing(old, new, *MAY_CHANGE)
    if changed:
        lines = [f'  {key}: {old.get(key, "(nothing)")!r} → {new.get(key, "(nothing)")!r}' for key in changed]
        raise ConfigError(
            f'autoresume: {folder} holds a run with other settings, and going on would make its record false:\n'
            + '\n'.join(lines)
            + '\nTake another run_name (or save_folder), or start anew with autoresume=false.'
        )
