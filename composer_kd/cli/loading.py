"""What commands do before their work: tell slips that need no Composer, then load it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from composer_kd.presentation.speech import loading

__all__ = ['load_composer']


def load_composer(yaml: str | None = None, overrides: Sequence[str] = ()) -> None:
    """Checks what a YAML says plainly, then loads Composer, which takes some seconds: a terminal shows that it does.

    Args:
        yaml: The YAML of a run, or of stages; None if there is none to check.
        overrides: ``key.sub=value`` strings.

    Raises:
        ConfigError: If the file is missing, or there are slips that can be told without Composer. Where Composer is
            loaded already, the command itself tells these beside all others.
    """
    if 'composer' in sys.modules:
        return
    if yaml is not None:
        from composer_kd.config.early import check_early

        check_early(yaml, overrides)
    with loading():
        importlib.import_module('composer_kd.config.load')
