"""The tables of ``findings.py``: the verdicts first, then what they come from."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import composer
import torch

from benchmarks.findings_bar import BATCH, VIEWS, EpochCost, ResNetBar
from benchmarks.findings_claims import CHANCE, CLAIMS, Cell, Claim, Comparison, Difference, cells_of, verdict
from benchmarks.findings_plot import plot
from benchmarks.findings_study import EXTENSIONS, TUNING_SHARE, Study
from benchmarks.jobs import Runner
from benchmarks.report import markdown_table

__all__ = ['STUDY', 'accuracies', 'bar_table', 'judge', 'write']

# What the study reports: the student alone, after distillation, and its teacher, in %.
STUDY = {'bar': (69.0, 72.0, 75.0), 'resnet': (78.0, 89.0, 89.0)}
BARS = {'bar': 'A shallow CNN, in the study taught by a deep CNN', 'resnet': 'ResNet-18, in the study from ResNet-34'}

_ABOUT = """\
Accuracy on the 10,000 test images after the last batch, mean ± standard error over the seeds, which choose initial
weights and the order of the images; one teacher for all seeds. A claim is judged by differences that are paired seed by
seed: it **holds** if in all the comparisons that decide it the 95 % interval of Student's t lies above zero, **does not
hold** if in none, else for those where it does. With so few seeds the interval is wide: small effects stay unclear,
and no correction is made for the number of comparisons. A run that diverged counts as guessing (10 %).

Claims: {claim_seeds}; ShallowCNN and ImageRNN on images of 16x16 pixels, {batches:,} batches of 64 ({epochs:.1f} times
the 45,000 images that are trained on), cosine schedule with 5 % warm-up, torch's defaults for all of an optimizer but
its rate (SGD: momentum 0.9). The learning rate is chosen for each cell alike, on 5,000 held-out training images, by
runs of {tuning:,} batches with another seed: the best of three rates a factor of three apart, and of the next
where the best was at an end ({extensions} at most). Rates "by default" are torch's. So short a schedule tells
what a method gains soon, not where it ends; the study's runs were longer, and its rates are not known.

Every image comes in {views} crops and mirrorings that were drawn once (of which a run of the claims sees each at most
once), and a teacher's logits for each of them were computed once, by the frozen teacher in eval mode: the student
learns from the same numbers as with a live teacher. The public weights and the DeepCNN come from all 50,000 training
images, so the held-out ones are new to the students, not to these teachers. Where the weight of distillation is w,
cross-entropy has 1 - w, and KL carries T². Rates that are chosen by short runs tend to be high for longer ones."""


def write(options: argparse.Namespace, found: dict[str, Study]) -> None:
    """Writes ``findings.md``, ``findings.json`` and the plots.

    Args:
        options: The command line's.
        found: The studies, with the results that are there.
    """
    claims, out = found['claims'], pathlib.Path(options.out)
    command = _command(options)
    environment = f'torch {torch.__version__}, composer {composer.__version__}, {_device()}'
    judged = [judge(claim, claims, options.seeds) for claim in CLAIMS]
    text = ['# Findings: what of a known study holds', f'`{command}`', f'{environment}; {_cost(found)}',
            _about(options, claims), '## The claims', _claims_table(judged)]  # fmt: skip
    for claim, result in zip(CLAIMS, judged):
        text += [f'## {claim.title}', f'{claim.says} **{_first_upper(result["verdict"])}.**',
                 _cells_table(claim, claims), _comparisons_table(result)]  # fmt: skip
    trained = ', '.join(f'{kind} {result["batches"]:,}' for kind, result in claims.trained.items())
    text += [
        '## Teachers of the claims',
        _teachers_table(claims),
        f'Trained or fine-tuned here, so many batches of 64: {trained}.' if trained else '',
        '## The bar',
        *_bars(options, found),
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / 'findings.md').write_text('\n\n'.join(part for part in text if part) + '\n', encoding='utf-8')
    told = {'command': command, 'environment': environment, 'claims': judged,
            'parts': {name: _plain(study) for name, study in found.items() if study.tuned}}  # fmt: skip
    (out / 'findings.json').write_text(json.dumps(told, indent=1) + '\n', encoding='utf-8')
    plot(claims, found['bar'], STUDY['bar'], out)


def judge(claim: Claim, study: Study, seeds: Sequence[int]) -> dict[str, Any]:
    """The verdict on a claim, and all that it was compared by."""

    def accuracy(cell: Cell, seed: int) -> float | None:
        result = study.runs.get((cell, seed))
        return None if result is None else CHANCE if 'failed' in result else float(result['accuracy'])

    def differences(comparisons: Sequence[Comparison]) -> list[tuple[str, Difference]]:
        return [(each.name, Difference(each.differences(accuracy, seeds))) for each in comparisons]

    decisive, beside = differences(claim.decisive), differences(claim.beside)
    return {
        'title': claim.title,
        'says': claim.says,
        'verdict': verdict(decisive),
        'decisive': [_told(*each) for each in decisive],
        'beside': [_told(*each) for each in beside],
    }


def _told(name: str, difference: Difference) -> dict[str, Any]:
    told: dict[str, Any] = {'name': name, 'shown': str(difference), 'points': list(difference.values)}
    if len(difference.values) > 1:
        told |= {'mean': difference.mean, 'error': difference.error, 'half_width_95': difference.half_width,
                 'sign': difference.sign}  # fmt: skip
    return told


def accuracies(study: Study, cell: Any) -> list[float]:
    """In %, one for each seed that was run; guessing where it diverged."""
    results = [result for (other, _), result in study.runs.items() if other == cell]
    return [100 * (CHANCE if 'failed' in result else result['accuracy']) for result in results]


def shown(values: Sequence[float]) -> str:
    """Mean and standard error."""
    if not values:
        return ''
    error = f' ± {statistics.stdev(values) / len(values) ** 0.5:.1f}' if len(values) > 1 else ''
    return f'{statistics.fmean(values):.1f}{error}'


def _claims_table(judged: list[dict[str, Any]]) -> str:
    rows = []
    for result in judged:
        figures = '; '.join(f'{each["name"]}: {each["shown"]}' for each in result['decisive'])
        rows.append([result['title'], f'**{result["verdict"]}**', figures])
    return markdown_table(['claim', 'verdict', 'differences in points'], rows, left=3)


def _cells_table(claim: Claim, study: Study) -> str:
    rows = []
    for cell in cells_of(claim):
        values = accuracies(study, cell)
        diverged = sum('failed' in result for (other, _), result in study.runs.items() if other == cell)
        note = f', {diverged} diverged' if diverged else ''
        rate = f'{study.rates[cell]:g}' if cell in study.rates else ''
        rows.append([cell.title, shown(values) + note, ', '.join(f'{value:.1f}' for value in values), rate])
    return markdown_table(['run', 'accuracy, %', 'by seed', 'learning rate'], rows)


def _comparisons_table(result: dict[str, Any]) -> str:
    rows = [[f'**{each["name"]}**', each['shown']] for each in result['decisive']]
    rows += [[each['name'], each['shown']] for each in result['beside']]
    return markdown_table(['comparison (in bold: decides)', 'points'], rows)


def _teachers_table(study: Study) -> str:
    rows = [[name, f'{100 * result["accuracy"]:.1f}'] for name, result in study.teachers.items()]
    return markdown_table(['teacher', 'accuracy on the test images of that size, %'], rows)


def bar_table(study: Study, reported: tuple[float, float, float]) -> str:
    """The study's figures beside those of the runs, and the differences in points."""
    alone = next((accuracies(study, cell) for cell in study.rates if cell.teacher is None), [])
    rows = [['the study', *(f'{value:.0f}' for value in reported), f'{reported[1] - reported[0]:+.0f}', '']]
    for cell in study.rates:
        values = accuracies(study, cell)
        if cell.teacher is None or not values or not alone:
            continue
        gains = Difference([taught - own for taught, own in zip(values, alone)])
        above = statistics.fmean(values) - reported[1]
        gained = f'{gains.mean:+.1f}' + (f' ± {gains.error:.1f}' if len(values) > 1 else '')
        teacher = f'{100 * study.teachers[cell.teacher]["accuracy"]:.1f}'
        rows.append([cell.title, shown(alone), shown(values), teacher, gained, f'{above:+.1f}'])
    if alone and len(rows) == 1:
        rows.append(['alone', shown(alone), '', '', '', ''])
    return markdown_table(['', 'student alone', 'after distillation', 'teacher', 'gained', 'above the study'], rows)


def _bars(options: argparse.Namespace, found: dict[str, Study]) -> list[str]:
    text = [
        f'Student alone, after distillation, and teacher, in %: the study beside the same students here, at 32x32, '
        f'last batch, all 50,000 training images in {VIEWS} fixed crops and mirrorings each. Teachers compute in '
        f'bfloat16 here, students in float32; the ResNet has public weights. Rates and losses were '
        f'chosen by runs of {options.pilot_epochs:g} epoch(s) on held-out images; batches of {BATCH}.'
    ]
    for name, title in BARS.items():
        study = found[name]
        text.append(f'### {title}')
        if not study.runs:
            text.append('Not run yet.' if name == 'bar' else _not_run(options))
            continue
        seeds = sorted({seed for _, seed in study.runs})
        batches = next(iter(study.runs.values()))['batches']
        text.append(f'{batches:,} batches ({batches * BATCH / 50_000:.1f} epochs), seeds {_listed(seeds)}.')
        told = [f'{kind}: {result["batches"]:,} batches' for kind, result in study.trained.items()]
        text += [f'Teachers that were trained here, with batches of 64: {", ".join(told)}.'] if told else []
        text += [bar_table(study, STUDY[name]), 'The pilot, on held-out images:', _pilot_table(study)]
    return text


def _not_run(options: argparse.Namespace) -> str:
    cost, epochs = EpochCost(str(options.work)), ResNetBar.epochs
    text = 'Not tried. '
    for seconds in Runner(0, dry=True)([cost], '').values():
        alone, teacher = seconds['student learns'], seconds['teacher learns']
        taught = alone + seconds['teacher answers']
        hours = epochs * (3 * (alone + taught) + teacher) / 3600
        text += (
            f'On one thread of this CPU an epoch takes {alone:.0f} s of processor time alone, {taught:.0f} s taught, '
            f'and {teacher:.0f} s for the teacher: one teacher and three seeds of {epochs} epochs, {hours:.0f} hours '
            'without the tuning. '
        )
    return text + (
        'On a GPU, this trains ResNet-34, tunes, and runs ResNet-18 alone and distilled with three seeds:\n\n'
        f'`python benchmarks/findings.py --data ROOT --work DIR --parts resnet --epochs {epochs} --workers 1`'
    )


def _pilot_table(study: Study) -> str:
    cells = list(dict.fromkeys(cell for cell, _ in study.tuned))
    rates = sorted({rate for _, rate in study.tuned})
    rows = [[cell.title, *(_percent(study.tuned.get((cell, rate))) for rate in rates)] for cell in cells]
    return markdown_table(['learning rate', *(f'{rate:g}' for rate in rates)], rows)


def _percent(result: dict[str, Any] | None) -> str:
    return '' if result is None else 'diverged' if 'failed' in result else f'{100 * result["accuracy"]:.1f}'


def _about(options: argparse.Namespace, claims: Study) -> str:
    done = [seed for seed in options.seeds if any(other == seed for _, other in claims.runs)]
    return _ABOUT.format(
        claim_seeds=f'seeds {_listed(done)}', batches=options.batches, epochs=64 * options.batches / 45_000,
        tuning=options.batches // TUNING_SHARE, views=VIEWS, extensions={0: 'never', 1: 'once', 2: 'twice'}[EXTENSIONS],
    )  # fmt: skip


def _cost(found: dict[str, Study]) -> str:
    seconds = sum(
        result.get('cpu', 0)
        for study in found.values()
        for results in (study.trained, study.teachers, study.tuned, study.runs)
        for result in results.values()
    )
    return f'{seconds / 60:.0f} minutes of processor time in all, on a machine shared with other work'


def _command(options: argparse.Namespace) -> str:
    command = 'python benchmarks/findings.py --data ROOT --work DIR'
    for name in ('parts', 'seeds', 'bar_seeds', 'bar_teachers'):
        command += f' --{name.replace("_", "-")} {" ".join(map(str, getattr(options, name)))}'
    command += f' --workers {options.workers} --batches {options.batches} --pilot-epochs {options.pilot_epochs:g}'
    for name in ('epochs', 'teacher_batches'):
        value = getattr(options, name)
        command += f' --{name.replace("_", "-")} {value:g}' if value else ''
    return command


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f'{os.cpu_count()} CPUs, 1 thread a run'


def _plain(study: Study) -> dict[str, Any]:
    def told(cell: Any, result: dict[str, Any], **more: Any) -> dict[str, Any]:
        kept = {key: value for key, value in result.items() if key != 'name'}
        return {**dataclasses.asdict(cell), **more, **kept}

    return {
        'trained': study.trained,
        'teachers': study.teachers,
        'tuning': [told(cell, result, rate=rate) for (cell, rate), result in study.tuned.items()],
        'runs': [told(cell, result, rate=study.rates[cell], seed=seed) for (cell, seed), result in study.runs.items()],
    }


def _listed(values: Sequence[int]) -> str:
    return ', '.join(map(str, values)) or 'none'


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]
