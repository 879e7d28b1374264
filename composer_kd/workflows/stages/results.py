"""What the stages of a chain found, as JSON and as a table."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Mapping

from rich.table import Table

from composer_kd.callbacks.cost import PREFIX as COST
from composer_kd.config.stages import Chain
from composer_kd.presentation.files import write_file
from composer_kd.presentation.units import cost_text, value_text
from composer_kd.runs.evaluate import heading_of
from composer_kd.runs.files import STAGES_FILE

__all__ = ['as_table', 'write_results']

_SECONDS = f'{COST}train_seconds'
_EVALUATED = 'metrics/'


def write_results(
    chain: Chain, stages: Mapping[str, Mapping[str, float]], ensembles: Mapping[str, Mapping[str, float]]
) -> pathlib.Path:
    """Writes ``stages.json``: the stages in order with their teachers and final metrics, and the ensembles.

    Args:
        chain: The chain.
        stages: The final metrics of the stages that have finished, by name.
        ensembles: The metrics of each ensemble, by the name of its stage.

    Returns:
        The file.
    """
    content = {
        'name': chain.name,
        'stages': [
            {'stage': one.name, 'taught_by': [*one.taught_by.values()], 'metrics': dict(stages.get(one.name, {}))}
            for one in chain.stages
        ],
        'ensembles': [
            {'stage': name, 'of': [*chain.ensembles[name]], 'mean_of': 'probabilities', 'metrics': dict(metrics)}
            for name, metrics in ensembles.items()
        ],
    }
    file = chain.folder / STAGES_FILE
    write_file(file, json.dumps(content, indent=2) + '\n')
    return file


def as_table(
    chain: Chain, stages: Mapping[str, Mapping[str, float]], ensembles: Mapping[str, Mapping[str, float]]
) -> Table:
    """Formats the results for the terminal: what teaches each stage, its evaluation, and the seconds of its training.

    Args:
        chain: The chain.
        stages: As in :func:`write_results`.
        ensembles: As in :func:`write_results`.

    Returns:
        A ``rich`` table, with a row for each stage and each ensemble.
    """
    rows: list[tuple[str, str, Mapping[str, float]]] = [
        (one.name, ', '.join(dict.fromkeys(one.taught_by.values())), stages.get(one.name, {})) for one in chain.stages
    ]
    rows += [(f'{name}, ensemble of {len(chain.ensembles[name])}', '', metrics) for name, metrics in ensembles.items()]
    names = list(dict.fromkeys(name for _, _, found in rows for name in found if name.startswith(_EVALUATED)))
    table = Table(title=chain.name, title_justify='left')
    table.add_column('stage', no_wrap=True)
    table.add_column('taught by')
    for heading in [*map(heading_of, names), 'trained for']:
        table.add_column(heading, justify='right')
    for row, teachers, found in rows:
        seconds = found.get(_SECONDS)
        values = [value_text(name, found.get(name)) for name in names]
        table.add_row(row, teachers or '-', *values, '-' if seconds is None else cost_text(_SECONDS, seconds))
    return table
