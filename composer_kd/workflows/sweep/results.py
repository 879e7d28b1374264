"""Writes the results of a sweep: a table of the trials, the YAML of the best run, a summary and plots."""

from __future__ import annotations

import json
import math
import pathlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import yaml

from composer_kd.config.load import as_mapping, load_config
from composer_kd.config.schema import elsewhere
from composer_kd.presentation.files import write_file
from composer_kd.presentation.plots import png
from composer_kd.presentation.settings import label, short_names
from composer_kd.presentation.tables import Cell, Column, Table, as_csv, as_markdown
from composer_kd.presentation.units import value_text
from composer_kd.workflows.sweep.plan import RESERVED, Plan, is_of_the_agent, override
from composer_kd.workflows.sweep.plots import (
    FEW,
    draw_history,
    draw_importances,
    draw_parallel_coordinates,
    importances,
)
from composer_kd.workflows.sweep.study import Record, Study

__all__ = ['write_plots', 'write_results']

BEST_FILE = 'best.yaml'
STATES = ('complete', 'pruned', 'failed', 'running')
SHOWN = 10  # best trials in the summary's table


def write_results(study: Study, out: pathlib.Path) -> None:
    """Writes ``trials.csv``, ``trials.json``, ``best.yaml`` and ``summary.md``.

    Args:
        study: The study with the trials.
        out: The folder for the files.
    """
    records = study.records()
    write_file(out / 'trials.json', json.dumps(_as_json(study, records), indent=2) + '\n')
    write_file(out / 'trials.csv', _as_csv(study, records))
    best = study.best()
    if best is not None:
        write_file(out / BEST_FILE, _best_yaml(study.plan, best, len(records)))
    write_file(out / 'summary.md', _summary(study, records, best, out))


def write_plots(study: Study, out: pathlib.Path) -> None:
    """Writes ``history.png``, ``parallel_coordinates.png`` and ``importance.png``, as far as there are enough trials.

    Args:
        study: The study with the trials.
        out: The folder for the files.
    """
    records = study.records()
    if any(record.value is not None for record in records):
        write_file(out / 'history.png', png(draw_history(records, study.sweep)))
        write_file(out / 'parallel_coordinates.png', png(draw_parallel_coordinates(records, study.sweep)))
    shares = importances(study)
    if shares:
        complete = sum(record.state == 'complete' for record in records)
        write_file(out / 'importance.png', png(draw_importances(shares, complete, study.sweep)))
        write_results(study, out)  # the summary links the plots that exist


def _as_json(study: Study, records: Sequence[Record]) -> dict[str, Any]:
    best = study.best()
    return {
        'sweep': study.sweep.name,
        'metric': study.sweep.metric,
        'goal': study.sweep.goal,
        'judged_on': study.plan.judged_on,
        'samples': study.plan.samples,
        'best': None if best is None else best.number,
        'trials': [asdict(record) for record in records],
    }


def _as_csv(study: Study, records: Sequence[Record]) -> str:
    keys = [parameter.key for parameter in study.sweep.parameters]
    metric = study.sweep.metric
    columns = ['trial', 'state', metric, 'evaluations', 'seconds', 'same_as', *keys, 'reason']
    rows = [
        {
            'trial': record.number,
            'state': record.state,
            metric: record.value,
            'evaluations': len(record.steps),
            'seconds': None if record.seconds is None else f'{record.seconds:.2f}',
            'same_as': record.same_as,
            'reason': record.reason,
            **{key: _cell(record.settings.get(key)) for key in keys},
        }
        for record in records
    ]
    return as_csv(rows, columns)


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (dict, list)) else value


def _best_yaml(plan: Plan, best: Record, count: int) -> str:
    """Returns the YAML of the run with the best settings, all its training data and its own evaluation data."""
    sweep = plan.sweep
    own = [text for text in sweep.fixed if not is_of_the_agent(text) and not RESERVED.match(text.partition('=')[0])]
    settings = [override(key, value) for key, value in best.settings.items()]
    config = load_config(sweep.base, [*own, *settings])
    beside = elsewhere(config.save_folder, str(config.run_name), 'best')
    more = [override(key, value) for key, value in beside.items()]
    if config.eval_loader is None or config.eval_loader.hold_out is None:  # undoes a hold_out in the run's own YAML
        more.append('train_loader.hold_out=null')
    mapping = as_mapping(load_config(sweep.base, [*own, *settings, *more]))
    found = value_text(sweep.metric, best.value)
    lines = [
        f'# The best of {count} trials of the sweep {sweep.name}: trial {best.number}, {sweep.metric} {found}',
        f'# on {plan.judged_on}. It was chosen by that number, so that the number flatters it.',
        '# Trains on all training data, evaluates on what eval_loader says:  composer-kd train best.yaml',
        *(f'#   {key}: {label(value)}' for key, value in best.settings.items()),
    ]
    return '\n'.join(lines) + '\n' + yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True)


def _summary(study: Study, records: Sequence[Record], best: Record | None, out: pathlib.Path) -> str:
    sweep, plan = study.sweep, study.plan
    counts = Counter(record.state for record in records)
    states = ', '.join(f'{counts[state]} {state}' for state in STATES if counts[state])
    aim = 'more' if sweep.sign > 0 else 'less'
    lines = [
        f'# Sweep {sweep.name}',
        '',
        f'{len(records)} trials ({states}) of `{sweep.base.as_posix()}`, method {sweep.method}; {sweep.metric} on '
        f'{plan.judged_on} ({plan.samples:,} samples), after the last batch; {aim} is better.',
        '',
    ]
    if best is not None:
        lines += [*_best_lines(plan, best, out), '', _table(study, records), '']
    failures = [record for record in records if record.state == 'failed']
    if failures:
        lines += ['## Failed', '', *(f'- trial {record.number}: {record.reason}' for record in failures), '']
    shown = [name for name in ('history', 'parallel_coordinates', 'importance') if (out / f'{name}.png').is_file()]
    lines += [f'![{name.replace("_", " ")}]({name}.png)\n' for name in shown]
    if 'importance' not in shown and counts['complete'] < FEW * len(sweep.parameters):
        few = f'{counts["complete"]} complete trials are few for {len(sweep.parameters)} parameters'
        lines.append(f'{few}: importances are estimated from {FEW} for each one that varied.\n')
    return '\n'.join(lines)


def _best_lines(plan: Plan, best: Record, out: pathlib.Path) -> list[str]:
    value, metric = best.value or 0.0, plan.sweep.metric
    error = ''
    if metric.endswith('Accuracy') and 0 < value < 1 and plan.samples:
        spread = math.sqrt(value * (1 - value) / plan.samples)
        error = (
            f' ± {value_text(metric, spread)} (one standard error of so many samples: smaller differences say little)'
        )
    return [
        f'Best: trial {best.number}, {value_text(metric, value)}{error}. As the best of several it flatters itself; '
        'what it is worth, its evaluation data say, with several seeds:',
        '',
        '```bash',
        f'composer-kd train {(out / BEST_FILE).as_posix()}',
        '```',
    ]


def _table(study: Study, records: Sequence[Record]) -> str:
    keys = [parameter.key for parameter in study.sweep.parameters]
    complete = [record for record in records if record.state == 'complete' and record.value is not None]
    first = sorted(complete, key=lambda record: -study.sweep.sign * (record.value or 0.0))[:SHOWN]
    names = short_names(keys)
    columns = [Column('trial'), Column(study.sweep.metric.rpartition('/')[2])]
    columns += [Column(names[key], numeric=False) for key in keys]
    rows = [
        [
            str(record.number),
            value_text(study.sweep.metric, record.value),
            *(label(record.settings.get(key)) for key in keys),
        ]
        for record in first
    ]
    return as_markdown(Table(columns, [[Cell(text) for text in row] for row in rows]))
