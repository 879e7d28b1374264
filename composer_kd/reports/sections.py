"""Builds the tables of a report."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from composer_kd.bench.results import Setting
from composer_kd.presentation.roles import DISTILLED
from composer_kd.presentation.tables import Cell, Column, Table
from composer_kd.presentation.units import (
    bytes_text,
    count_text,
    metric_text,
    number_text,
    percent,
    quartiles_text,
    seconds_text,
    speed_text,
    time_unit,
    times,
)
from composer_kd.reports.differences import ABSENT, differing
from composer_kd.reports.evidence import EvaluationSet, ModelEvidence
from composer_kd.reports.groups import Group, agreement_with_teachers, counterpart, taught_by
from composer_kd.reports.metrics import calibration
from composer_kd.reports.speed import Speed, Timing, device_text
from composer_kd.reports.statistics import Estimate
from composer_kd.reports.texts import next_token, unit_of_writing
from composer_kd.reports.token_losses import cross_entropy, perplexity, predicts_tokens

__all__ = ['benchmark', 'costs', 'differences', 'models', 'rows_of_models']

_COSTS = {
    'seconds': 'cost/train_seconds',
    'eval_seconds': 'cost/eval_seconds',
    'samples_per_second': 'cost/samples_per_second',
    'peak_memory_bytes': 'cost/peak_memory_bytes',
    'memory_growth_bytes': 'cost/memory_growth_bytes',
    'energy_joules': 'cost/energy_joules',
}


def _named(group: Group) -> Cell:
    return Cell(group.name, group.role + (f', {group.n} runs' if group.n > 1 else ''), group.role)


def models(groups: Sequence[Group], evaluation: EvaluationSet, speed: Speed) -> Table:
    """Builds the table at the top: quality, size and latency of each model."""
    units = {
        device: time_unit(one.latency for one in speed.on(device) if one.setting == device) for device in speed.devices
    }
    of_tokens = {device: unit_of_writing(groups, device, speed) for device in speed.devices}
    noted = [*([] if evaluation.left_out is None else _noted(groups)), *_further(groups)]
    columns = [
        Column('model', numeric=False),
        Column('accuracy', unit='%'),
        Column('agreement', unit='with the teacher, %'),
        Column('loss', unit='nats'),
        Column('calibration error', unit='%'),
        Column('cross-entropy', unit='nats per token'),
        Column('perplexity'),
        *(Column(_heading(name), unit='%' if _is_share(name) else '') for name in noted),
        Column('parameters'),
        Column('on disk'),
        Column('operations', unit='one sample'),
        *(Column('latency', unit=f'{device_text(device)}, {units[device][0]}') for device in speed.devices),
        *(Column('next token', unit=f'{device_text(device)}, {of_tokens[device][0]}') for device in speed.devices),
    ]
    rows = []
    for each in groups:
        quality = _quality(each, groups, evaluation)
        row = [_named(each), *(_estimated(quality[key]) for key in ('accuracy', 'agreement'))]
        row.append(_plain(quality['loss']))
        row.append(_estimated(quality['calibration_error']))
        losses = cross_entropy(each)
        row += [_plain(losses), Cell(number_text(perplexity(each)))]
        row += [_noted_value(each, name) for name in noted]
        row += _sizes(each, groups)
        row += [_latency(each, device, speed, units[device][1]) for device in speed.devices]
        row += [next_token(each, device, speed, of_tokens[device][1]) for device in speed.devices]
        rows.append(row)
    return Table(columns, rows, _caption_of_models(groups, speed)).without_empty()


def _noted(groups: Sequence[Group]) -> list[str]:
    """Returns the names of up to four final metrics of the runs, without the accuracy, which has its own column."""
    names = dict.fromkeys(name for each in groups for one in each.members for name in one.metrics)
    computed = ('LanguageCrossEntropy', 'LanguagePerplexity') if predicts_tokens(groups) else ()
    left_out = ('Accuracy', *computed)
    return [name for name in names if re.fullmatch(r'metrics/eval/\w+', name) and not name.endswith(left_out)][:4]


def _further(groups: Sequence[Group]) -> list[str]:
    """Returns the names of up to six final metrics on the data of further evaluators, whose labels are not ``eval``."""
    names = dict.fromkeys(name for each in groups for one in each.members for name in one.metrics)
    return [name for name in names if re.fullmatch(r'metrics/(?!eval/)[\w.-]+/\w+', name)][:6]


def _is_share(name: str) -> bool:
    return name.endswith('Accuracy')


def _noted_value(each: Group, name: str) -> Cell:
    """The mean of a final metric over the runs of a group; an accuracy in percent, as in the other columns."""
    found = each.estimate(lambda one: one.metrics.get(name))
    return _estimated(found) if _is_share(name) else _plain(found)


def _heading(name: str) -> str:
    """Turns ``metrics/eval/LanguagePerplexity`` into ``language perplexity``; another label than eval stays."""
    _, label, metric = name.split('/', 2)
    words = re.sub(r'(?<=[a-z])(?=[A-Z])', ' ', metric.replace('MulticlassAccuracy', 'Accuracy')).lower()
    return words if label == 'eval' else f'{label}: {words}'


def _plain(estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell('')
    return Cell(metric_text(estimate.mean, estimate.error))


def _estimated(estimate: Estimate | None) -> Cell:
    return Cell('' if estimate is None else percent(estimate.mean, estimate.error))


def _quality(each: Group, groups: Sequence[Group], evaluation: EvaluationSet) -> dict[str, Estimate | None]:
    def error(one: ModelEvidence) -> float | None:
        if one.answers is None:
            return None
        return calibration(one.answers.confidence, one.answers.predicted == evaluation.labels).error

    return {
        'accuracy': each.accuracy(evaluation),
        'cross_entropy': cross_entropy(each),
        'agreement': each.estimate(lambda one: agreement_with_teachers(one, each, groups)),
        'loss': each.estimate(lambda one: None if one.answers is None else float(one.answers.nll.mean())),
        'calibration_error': each.estimate(error),
    }


def _sizes(each: Group, groups: Sequence[Group]) -> list[Cell]:
    one, teacher = each.first, taught_by(each, groups)

    def less(mine: float | None, theirs: float | None, word: str = 'fewer') -> str:
        return f'{times(theirs / mine)} {word}' if mine and theirs and mine < theirs else ''

    other = teacher.first if teacher is not None else one
    return [
        Cell(f'{one.parameters:,}', less(one.parameters, other.parameters)),
        Cell(bytes_text(one.file_bytes), less(one.file_bytes, other.file_bytes, 'smaller')),
        Cell(count_text(one.flops, 'FLOP'), less(one.flops, other.flops)),
    ]


def _latency(each: Group, device: Setting, speed: Speed, per_second: float) -> Cell:
    timing = speed.find(each, device)
    if timing is None:
        return Cell('')
    if timing.latency is None:
        return Cell('failed', timing.failed or '', wrong=True)
    factor = speed.speed_up(timing) if speed.reference(timing) is not timing else None
    note = '' if factor is None else _as_fast(factor) if speed.is_clear(timing) else 'no clear difference'
    between = '' if factor is None or not speed.is_clear(timing) else quartiles_text(speed.shown_quartiles(timing))
    return Cell(number_text(timing.latency * per_second), ', '.join(filter(None, (note, between))))


def _as_fast(factor: float) -> str:
    text = speed_text(factor)
    return text if text.endswith('slower') else f'{text} as fast'


def _caption_of_models(groups: Sequence[Group], speed: Speed) -> str:
    several = [one.n for one in groups if one.n > 1]
    found = ['± is the standard error of the mean over runs that differ in their seed alone.'] if several else []
    found.append('On disk: the state dict.')
    if any(one.first.flops is not None for one in groups):
        found.append('Operations: floating-point, of one forward; a multiplication and an addition count as two.')
    if speed:
        found.append('Latency: median for a batch of one, eager, fp32.')
    if predicts_tokens(groups):
        found.append('Cross-entropy: of the labelled tokens of the evaluation data; the perplexity is exp of it.')
    if any(speed.writing(one) for one in speed.timings):
        found.append('Next token: in the smallest batch, after the longest prompt that was timed with all.')
    if any(speed.quartiles(one) for one in speed.timings):
        found.append('As fast: as the teacher in the same rounds; the median, and between which quartiles.')
    return ' '.join(found)


def costs(groups: Sequence[Group]) -> Table | None:
    """Builds the table of training costs, with and without a teacher; None if no run logged them."""
    columns = [
        Column('model', numeric=False),
        Column('batches'),
        Column('training'),
        Column('samples per second'),
        Column('evaluation', unit='during training'),
        Column('peak memory'),
        Column('energy'),
    ]
    rows = [_cost_row(each, groups) for each in groups if any(_costs(each).values())]
    caption = (
        'As the runs noted it while they trained; means over them. Compared are samples per second, with the same '
        'student without a teacher. Energy: where the machine tells it.'
    )
    return Table(columns, rows, caption).without_empty() if rows else None


def _cost_row(each: Group, groups: Sequence[Group]) -> list[Cell]:
    noted = _costs(each)
    rate, batches = noted['samples_per_second'], each.estimate(lambda one: one.metrics.get('time/batch'))
    alone = counterpart(each, groups) if each.role == DISTILLED else None
    base = _costs(alone)['samples_per_second'] if alone is not None else None
    longer = '' if base is None or rate is None else f'{times(base.mean / rate.mean)} as long per sample'
    return [
        _named(each),
        Cell('' if batches is None else f'{batches.mean:,.0f}'),
        Cell(_mean(noted['seconds'], seconds_text)),
        Cell('' if rate is None else number_text(rate.mean, rate.error), longer),
        Cell(_mean(noted['eval_seconds'], seconds_text)),
        Cell(
            _mean(noted['peak_memory_bytes'], bytes_text),
            _mean(noted['memory_growth_bytes'], lambda value: f'+{bytes_text(value)} while it ran'),
        ),
        Cell(_mean(noted['energy_joules'], lambda value: count_text(value, 'J'))),
    ]


def _mean(estimate: Estimate | None, text: Any) -> str:
    return '' if estimate is None else text(estimate.mean)


def _costs(each: Group) -> dict[str, Estimate | None]:
    return {name: each.estimate(lambda one, key=key: one.metrics.get(key)) for name, key in _COSTS.items()}  # type: ignore[misc]


def benchmark(speed: Speed) -> dict[str, Table]:
    """Builds the tables of timings: one for each device, with a row for each model, backend and precision."""
    return {device_text(device): _on(device, speed) for device in speed.devices}


def _on(device: Setting, speed: Speed) -> Table:
    timings = speed.on(device)
    ways = list(dict.fromkeys((one.setting.backend, one.setting.precision) for one in timings))
    timings.sort(key=lambda one: ways.index((one.setting.backend, one.setting.precision)))
    unit, per_second = time_unit(one.latency for one in timings)
    columns = [
        Column('backend', numeric=False),
        Column('precision', numeric=False),
        Column('model', numeric=False),
        Column('latency', unit=f'p50, {unit}'),
        Column('', unit=f'p90, {unit}'),
        Column('', unit=f'p99, {unit}'),
        Column('speed-up'),
        Column('best throughput', unit='samples/s'),
        Column('peak memory', unit='beyond weights'),
        Column('energy', unit='one sample'),
        Column('loading'),
        Column('file'),
        Column('accuracy', unit='%'),
        Column('output match', unit='% with eager fp32'),
    ]
    notes = list(dict.fromkeys(note for one in timings for row in one.rows for note in row.notes))
    rows = [_benchmark_row(one, speed, per_second, notes) for one in timings]
    return Table(columns, rows, ' '.join(f'Note {i}: {note}.' for i, note in enumerate(notes, 1))).without_empty()


def _benchmark_row(timing: Timing, speed: Speed, per_second: float, notes: Sequence[str]) -> list[Cell]:
    setting = timing.setting
    mine = sorted({notes.index(note) + 1 for row in timing.rows for note in row.notes})
    note = f'note {", ".join(map(str, mine))}' if mine else ''
    start = [Cell(setting.backend), Cell(setting.precision), Cell(timing.group.name, note, timing.group.role)]
    if timing.latency is None:
        return [*start, Cell(f'failed: {timing.failed}', wrong=True, span=11)]
    latencies = (
        timing.latency,
        timing.median(lambda row: row.latency.p90 if row.latency else None),
        timing.median(lambda row: row.latency.p99 if row.latency else None),
    )
    factor, reference = speed_text(speed.speed_up(timing)), speed.reference(timing)
    batch, rate = max(timing.throughput, key=lambda one: one[1], default=(0, None))
    return [
        *start,
        *(Cell('' if one is None else number_text(one * per_second)) for one in latencies),
        Cell(factor if not factor or speed.is_clear(timing) or reference is timing else f'({factor})'),
        Cell(number_text(rate), f'batch {batch}' if batch else ''),
        Cell(bytes_text(timing.mean(lambda row: row.peak_memory_bytes))),
        Cell(count_text(timing.mean(lambda row: row.energy_joules), 'J')),
        Cell(seconds_text(timing.median(lambda row: row.load_seconds))),
        Cell(bytes_text(timing.median(lambda row: row.file_bytes))),
        Cell(percent(timing.accuracy)),
        Cell(percent(timing.output_match), wrong=not timing.is_faithful),
    ]


def differences(groups: Sequence[Group]) -> Table | None:
    """Builds the table of the settings in which the runs differ; None if there are none or only one run."""
    having = [one for one in groups if one.first.settings]
    found = differing([[member.settings for member in one.members] for one in having])
    if not found or sum(one.n for one in having) < 2:
        return None
    rows = [[Cell(key), *(Cell(value) for value in values)] for key, values in found]
    columns = [Column('setting', numeric=False), *(Column(one.name, numeric=False) for one in having)]
    caption = f'Only settings that are not the same in all runs; {ABSENT} where a run has no such setting.'
    return Table(columns, rows, caption)


def rows_of_models(groups: Sequence[Group], evaluation: EvaluationSet, speed: Speed) -> list[dict[str, object]]:
    """Returns the numbers of the models, one row for each: shares from 0 to 1, seconds, bytes, joules."""
    found = []
    for each in groups:
        one, teacher = each.first, taught_by(each, groups)
        row: dict[str, object] = {'model': each.name, 'role': each.role, 'runs': each.n}
        row['seeds'] = ' '.join(str(member.seed) for member in each.members if member.seed is not None)
        row.update(_numbers(_quality(each, groups, evaluation)))
        row.update({'parameters': one.parameters, 'file_bytes': one.file_bytes, 'flops': one.flops})
        row['size_reduction'] = None if teacher is None else teacher.first.file_bytes / max(1, one.file_bytes)
        row.update(_numbers({f'training_{key}': value for key, value in _costs(each).items()}))
        for device in speed.devices:
            timing = speed.find(each, device)
            where = device.device if device.threads is None else f'{device.device}_{device.threads}_threads'
            row[f'latency_seconds_{where}'] = None if timing is None else timing.latency
            row[f'speed_up_{where}'] = None if timing is None else speed.speed_up(timing)
            quartiles = None if timing is None else speed.quartiles(timing)
            writing = None if timing is None else speed.writing(timing)
            row[f'next_token_seconds_{where}'] = None if writing is None else writing[0].token_seconds
            row[f'speed_up_{where}_low'], row[f'speed_up_{where}_high'] = quartiles or (None, None)
        found.append(row)
    return found


def _numbers(estimates: Mapping[str, Estimate | None]) -> dict[str, object]:
    row: dict[str, object] = {}
    for key, estimate in estimates.items():
        row[key] = None if estimate is None else estimate.mean
        row[f'{key}_standard_error'] = None if estimate is None else estimate.error
    return row
