"""Obtains the timings for a report: from an earlier benchmark, or from a short one that runs now."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from composer_kd.bench import BenchResults, Candidate, Limits, TextOptions, bench, plan
from composer_kd.errors import ConfigError
from composer_kd.reports.evidence import ModelEvidence
from composer_kd.reports.groups import group

__all__ = ['found_beside', 'given', 'measured_now']

BUDGET = 0.5
"""The seconds of timing for each model in each setting of the short benchmark."""
LARGEST_BATCH = 64
SAMPLES = 256
TEXTS = 16
"""The samples of language models, which answer for every token of a text: each setting runs all of them."""


def given(path: str | pathlib.Path, listed: Sequence[Candidate]) -> tuple[BenchResults, str]:
    """Reads the timings at a path that the user gave.

    Args:
        path: Results of ``composer-kd bench``: the file or its folder.
        listed: The models of the report.

    Returns:
        The results, and a sentence that names their source.

    Raises:
        ConfigError: If the results are missing, or include none of the models.
    """
    results = BenchResults.read(path)
    names, timed = {one.name for one in listed}, sorted({row.model for row in results.rows})
    if not names & set(timed):
        raise ConfigError(
            f'{path} has timings of {", ".join(timed) or "nothing"}, and none of the models of this report '
            f'({", ".join(sorted(names))}); run `composer-kd bench` with the same runs, or give --no-bench'
        )
    return results, f'Timings: {path}.'


def found_beside(out: pathlib.Path, listed: Sequence[Candidate]) -> tuple[BenchResults, str] | None:
    """Reads the timings in the folder ``bench`` beside a report.

    Args:
        out: The report's folder.
        listed: The models of the report.

    Returns:
        The same as ``given``; ``None`` if there are no timings, or a role among the models has no timed model.
    """
    try:
        results, source = given(out.parent / 'bench', listed)
    except ConfigError:
        return None
    timed = {row.model for row in results.rows}
    roles = [{one.role for one in listed if one.name in timed}, {one.role for one in listed}]
    return (results, source) if roles[0] == roles[1] else None


def measured_now(models: Sequence[ModelEvidence], batches: Iterable[Any]) -> tuple[BenchResults, str]:
    """Times the first run of each group in eager mode and fp32; takes at most about a minute for a few models.

    Args:
        models: The models of the report.
        batches: The evaluation data; only the first batches are read.

    Returns:
        The same as ``given``.
    """
    chosen = {each.first.name for each in group(models)}
    candidates = [
        dataclasses.replace(one.candidate, taught_by=tuple(name for name in one.taught_by if name in chosen))
        for one in models
        if one.name in chosen
    ]
    settings = plan(backends=['eager'], precisions=['fp32'])
    samples = SAMPLES if all(one.token_losses is None for one in models) else TEXTS
    few = list(itertools.islice(batches, samples))
    limits = Limits(BUDGET, LARGEST_BATCH)
    results = bench(candidates, few, settings, limits=limits, samples=samples, texts=TextOptions(None, (1,), 16))
    source = (
        f'Timings: a short measurement for this report ({BUDGET} s for each model and setting, the first run of each '
        'group, eager only). `composer-kd bench` measures longer, and more backends.'
    )
    return results, source
