"""Benchmarks models of a script, and runs."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

from composer_kd.bench import BenchResults, Limits, TextOptions, plan, write
from composer_kd.bench import bench as bench_candidates
from composer_kd.runs.compared import data_in_words, evaluation_run
from composer_kd.runs.files import make_folder
from composer_kd.trained.data import Data
from composer_kd.trained.models import Models, TaughtBy, candidates_of, opened
from composer_kd.trained.needed import require_data

__all__ = ['bench']


def bench(
    models: Models,
    data: Any = None,
    *,
    taught_by: TaughtBy | None = None,
    devices: Sequence[str] | None = None,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    limits: Limits | None = None,
    samples: int | None = 1000,
    texts: TextOptions | None = None,
    out: str | os.PathLike[str] | None = None,
) -> BenchResults:
    """Measures latency, throughput, memory and accuracy of models, as ``composer-kd bench`` does.

    Args:
        models: Modules of a script and run folders: a list, or by name.
        data: A DataLoader, a list of batches, or one batch: for timing its first batch is repeated or cut to size.
            None if all models are runs, for the evaluation data of these.
        taught_by: The teachers of each distilled student, by name: ``{'student': 'teacher'}``. Speed-up and agreement
            are those with the teacher. Runs know their teachers.
        devices: As in :func:`composer_kd.bench.plan`; None for all of this machine.
        backends: As there: ``['eager', 'onnxruntime']``.
        precisions: As there.
        threads: Numbers of CPU threads.
        limits: The seconds for a model in a setting, and the largest batch.
        samples: The number of samples that accuracy is measured on; None for all.
        texts: For models of texts, the lengths, batch sizes and new tokens that are timed too; None for the usual ones.
        out: A folder for ``bench.json``, ``bench.csv`` and ``bench.md``; None writes nothing.

    Returns:
        The results; ``results.rows`` has each measurement, :func:`composer_kd.bench.summary` makes tables of them.

    Raises:
        ConfigError: If models, data or settings are missing or unknown. Raised before anything is timed.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> batch = torch.randn(8, 4), torch.randint(3, (8,))
        >>> models = {'large': nn.Sequential(nn.Linear(4, 64), nn.Linear(64, 3)), 'small': nn.Linear(4, 3)}
        >>> found = bench(models, batch, taught_by={'small': 'large'}, devices=['cpu'], backends=['eager'],
        ...               precisions=['fp32'], threads=[1], limits=Limits(0.05, 2))
        >>> [(row.model, row.role, row.parameters) for row in found.rows]
        [('large', 'teacher', 515), ('small', 'student distilled', 15)]
    """
    settings = plan(devices, backends, precisions, threads)
    runs = opened(models) if data is None else None
    if out is not None:
        make_folder(pathlib.Path(out), 'out')
    if data is None:
        run = evaluation_run(require_data(runs))
        loader = run.loader()
        batches, words = run.batches(loader), data_in_words(run)
        num_classes = getattr(loader.dataset, 'num_classes', None)
    else:
        read = Data(data)
        batches, words, num_classes = read.batches(), read.description, read.num_classes
    listed = candidates_of(models, taught_by, num_classes)
    results = bench_candidates(listed, batches, settings, limits=limits, samples=samples, data=words, texts=texts)
    if out is not None:
        write(results, pathlib.Path(out))
    return results
