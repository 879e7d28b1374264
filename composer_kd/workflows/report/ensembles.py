"""What a report says of the ensembles of chains of stages, which have no checkpoint of their own."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

from composer_kd.presentation.units import value_text
from composer_kd.runs.evaluate import heading_of
from composer_kd.runs.files import STAGES_FILE

__all__ = ['ensemble_notes']


def ensemble_notes(written: Sequence[str | pathlib.Path]) -> list[str]:
    """Describes the ensembles that were evaluated at the end of chains.

    Args:
        written: What the report compares, among it the folders of chains.

    Returns:
        A sentence for each ensemble.
    """
    found = []
    for file in (pathlib.Path(one) / STAGES_FILE for one in written):
        content = json.loads(file.read_text(encoding='utf-8')) if file.is_file() else {}
        for one in content.get('ensembles', []):
            values = ', '.join(
                f'{heading_of(name)} {value_text(name, value)}' for name, value in one['metrics'].items()
            )
            found.append(f'Together, by the mean of their {one["mean_of"]}, {_listed(one["of"])} reach {values}.')
    return found


def _listed(names: Sequence[str]) -> str:
    *first, last = names
    return f'{", ".join(first)} and {last}' if first else last
