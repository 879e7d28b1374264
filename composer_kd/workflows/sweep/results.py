"""What a sweep leaves: a table of its trials, its best settings as a YAML that trains, and a summary."""

from __future__ import annotations

import csv
import json
import math
import os
import pathlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import yaml

from composer_kd.config.load import as_mapping, load_config
from composer_kd.presentation.settings import label, short_names
from composer_kd.workflows.sweep.plan import RESERVED, Plan, is_of_the_agent, override
from composer_kd.workflows.sweep.plots import FEW, importances, plot_history, plot_importances, plot_parallel
from composer_kd.workflows.sweep.study import Record, Study

__all__ = ['write_plots', 'write_results']

BEST_FILE = 'best.yaml'
STATES = ('complete', 'pruned', 'failed', 'running')
SHOWN = 10  # trials in the summary


def write_results(study: Study, out: pathlib.Path) -> None:
    """Writes ``trials.csv``, ``trials.json``, ``best.yaml`` and ``summary.md``.

    Args:
        study: The trials.
        out: The folder.
    """
    records = study.records()
    _write(out / 'trials.json', json.dumps(_as_json(study, records), indent=2) + '\n')
    _write_csv(study, records, out / 'trials.csv')
    best = study.best()
    if best is not None:
        _write(out / BEST_FILE, _best_yaml(study.plan, best, len(records)))
    _write(out / 'summary.md', _summary(study, records, best, out))


def write_plots(study: Study, out: pathlib.Path) -> None:
    """Writes ``history.png``, ``parallel_coordinates.png`` and ``importance.png``, those that there are trials for.

    Args:
        study: The trials.
        out: The folder.
    """
    records = study.records()
    if any(record.value is not None for record in records):
        plot_history(records, study.sweep, out / 'history.png')
        plot_parallel(records, study.sweep, out / 'parallel_coordinates.png')
    shares = importances(study)
    if shares:
        complete = sum(record.state == 'complete' for record in records)
        plot_importances(shares, complete, study.sweep, out / 'importance.png')
        write_results(study, out)  # the summary shows the plots that there are


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


def _write_csv(study: Study, records: Sequence[Record], file: pathlib.Path) -> None:
    keys = [parameter.key for parameter in study.sweep.parameters]
    part = file.with_suffix('.part')
    with open(part, 'w', newline='', encoding='utf-8') as handle:
        writer = csv.writer(handle)
        writer.writerow(['trial', 'state', study.sweep.metric, 'evaluations', 'seconds', 'same_as', *keys, 'reason'])
        for record in records:
            values = [_cell(record.settings.get(key)) for key in keys]
            seconds = '' if record.seconds is None else f'{record.seconds:.2f}'
            start = [
                record.number,
                record.state,
                _cell(record.value),
                len(record.steps),
                seconds,
                _cell(record.same_as),
            ]
            writer.writerow([*start, *values, record.reason or ''])
    os.replace(part, file)


def _cell(value: Any) -> Any:
    return '' if value is None else json.dumps(value) if isinstance(value, (dict, list)) else value


def _best_yaml(plan: Plan, best: Record, count: int) -> str:
    """The run with the best settings, on all its training data and with its own evaluation data."""
    sweep = plan.sweep
    own = [text for text in sweep.fixed if not is_of_the_agent(text) and not RESERVED.match(text.partition('=')[0])]
    settings = [override(key, value) for key, value in best.settings.items()]
    config = load_config(sweep.base, [*own, *settings])
    more = [override('run_name', f'{config.run_name}-best')]
    if config.eval_loader is None or config.eval_loader.hold_out is None:  # of the run's own YAML
        more.append('train_loader.hold_out=null')
    mapping = as_mapping(load_config(sweep.base, [*own, *settings, *more]))
    lines = [
        f'# The best of {count} trials of the sweep {sweep.name}: trial {best.number}, {sweep.metric} {best.value:.4f}',
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
        lines += [*_best_lines(plan, best, out), '', *_table(study, records), '']
    failures = [record for record in records if record.state == 'failed']
    if failures:
        lines += ['## Failed', '', *(f'- trial {record.number}: {record.reason}' for record in failures), '']
    shown = [name for name in ('history', 'parallel_coordinates', 'importance') if (out / f'{name}.png').is_file()]
    lines += [f'![{name.replace("_", " ")}]({name}.png)\n' for name in shown]
    if 'importance' in shown and counts['complete'] < FEW * len(sweep.parameters):
        few = f'{counts["complete"]} complete trials are few for {len(sweep.parameters)} parameters'
        lines.append(f'{few}: the importances are rough.\n')
    return '\n'.join(lines)


def _best_lines(plan: Plan, best: Record, out: pathlib.Path) -> list[str]:
    value = best.value or 0.0
    error = ''
    if plan.sweep.metric.endswith('Accuracy') and 0 < value < 1 and plan.samples:
        spread = math.sqrt(value * (1 - value) / plan.samples)
        error = f' ± {spread:.4f} (one standard error of so many samples: smaller differences say little)'
    return [
        f'Best: trial {best.number}, {value:.4f}{error}. As the best of several it flatters itself; what it is worth, '
        'its evaluation data say, with several seeds:',
        '',
        '```bash',
        f'composer-kd train {(out / BEST_FILE).as_posix()}',
        '```',
    ]


def _table(study: Study, records: Sequence[Record]) -> list[str]:
    keys = [parameter.key for parameter in study.sweep.parameters]
    complete = [record for record in records if record.state == 'complete' and record.value is not None]
    first = sorted(complete, key=lambda record: -study.sweep.sign * (record.value or 0.0))[:SHOWN]
    rows = [
        f'| {record.number} | {record.value:.4f} | '
        + ' | '.join(label(record.settings.get(key)) for key in keys)
        + ' |'
        for record in first
    ]
    names = ' | '.join(short_names(keys).values())
    head = f'| trial | {study.sweep.metric.rpartition("/")[2]} | {names} |'
    return [head, '|---:|---:|' + '---|' * len(keys), *rows]


def _write(file: pathlib.Path, text: str) -> None:
    part = file.with_suffix('.part')
    part.write_text(text, encoding='utf-8')
    os.replace(part, file)
