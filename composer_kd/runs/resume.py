"""A run that goes on must be the run that was begun."""

from __future__ import annotations

import re
from typing import Any

from omegaconf import OmegaConf

from composer_kd.config.load import as_mapping
from composer_kd.config.schema import RunConfig
from composer_kd.errors import ConfigError
from composer_kd.runs.files import CONFIG_FILE

__all__ = ['check_resumable']


# What may differ: how long, what is logged and kept, how samples are loaded and cut, which changes no numbers.
# `variables` count where they are used.
_FREE = re.compile(
    r'(max_duration|loggers|callbacks|variables|progress_bar|log_to_console|console_log_interval|eval_interval'
    r'|save_\w+|load_\w+|profiler|autoresume|run_name|device_train_microbatch_size|device_eval_batch_size|(train|eval)_loader\.(num_workers|pin_memory|persistent_workers|prefetch_factor))(\.|$)'
)


def check_resumable(config: RunConfig) -> None:
    """Refuses to go on from a checkpoint that other settings led to: its record would be false.

    Args:
        config: The run that is about to start.

    Raises:
        ConfigError: Lists the settings that differ from those of the folder's ``config.yaml``.
    """
    folder = config.folder
    if not config.autoresume or folder is None or not (folder / CONFIG_FILE).is_file():
        return
    if not any(folder.glob('latest-rank*')):
        return  # nothing to go on from: the run starts anew
    before: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG_FILE))
    now = as_mapping(config)
    # A key that only one of the two has is another version's.
    old, new = (_leaves({key: whole[key] for key in whole if key in before and key in now}) for whole in (before, now))
    differing = [
        f'  {key}: {old.get(key, "(nothing)")!r} → {new.get(key, "(nothing)")!r}'
        for key in dict.fromkeys((*old, *new))
        if old.get(key) != new.get(key) and not _FREE.match(key)
    ]
    if differing:
        raise ConfigError(
            f'autoresume: {folder} holds a run with other settings, and going on would make its record false:\n'
            + '\n'.join(differing)
            + '\nTake another run_name (or save_folder), or start anew with autoresume=false.'
        )


def _leaves(node: Any, prefix: str = '') -> dict[str, Any]:
    if not isinstance(node, (dict, list)) or not node:
        return {prefix.removesuffix('.'): node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return {key: value for name, inner in items for key, value in _leaves(inner, f'{prefix}{name}.').items()}
