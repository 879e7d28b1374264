"""Measures stores of teacher outputs: bytes, error, and the time to read. Writes ``stores.md`` and ``.json``.

* bytes of a record by format and number of classes, against the bounds of G7;
* the error of each format against logits like those of language models: many classes, of which a few are probable. They
  are drawn at random, from flat to confident, as no model is at hand offline;
* seconds to open stores of a thousand to ten million samples and to read a batch of 128 at random, in shuffled turns;
* seconds to write and to read a position, by format.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.report import markdown_table, print_table
from benchmarks.timing import Spread, environment
from composer_kd.presentation.units import bytes_text, seconds_text
from composer_kd.stores import (
    Dense,
    Format,
    Manifest,
    Sampled,
    Store,
    StoreWriter,
    TopK,
    default_shard_samples,
    error,
)

__all__ = ['main', 'measure']

Table = tuple[str, list[str], list[list[str]]]
BATCH = 128
CLASSES_OF_IMAGES = 300
IMAGE, TOKEN, DRAWS = TopK(10, 4.0), TopK(50, 1.0, bits=4.8), Sampled(12, 1.0)
BOUNDS: list[tuple[str, Format, int, int]] = [
    ('image: top-10, digest of 2 bytes', IMAGE, 2**16, 44),
    *(('token: top-50', TOKEN, 2**power, most) for power, most in ((16, 110), (17, 116), (18, 120))),
    ('token: 12 draws', DRAWS, 2**18, 28),
]
FORMATS: dict[str, Format] = {
    'dense float16': Dense('float16'),
    'dense bfloat16': Dense('bfloat16'),
    'top-10': TopK(10, 1.0),
    'top-50': TopK(50, 1.0),
    **{f'top-50, {bits} bits': TopK(50, 1.0, bits=bits) for bits in (8, 6, 5, 4.8, 4)},
    '12 draws': DRAWS,
}
KINDS = {'flat': (1.0, 0.0), 'typical': (2.0, 3.0), 'sharp': (3.0, 4.0), 'confident': (2.0, 12.0)}
"""Spread of all logits, and the mean of what eight of them get besides."""


def logits(kind: str, rows: int, classes: int) -> Tensor:
    """Logits of one kind."""
    spread, besides = KINDS[kind]
    chance = torch.Generator().manual_seed(0)
    drawn = spread * torch.randn(rows, classes, generator=chance)
    places = torch.randint(classes, (rows, 8), generator=chance)
    return drawn.scatter_add(1, places, besides * torch.empty(rows, 8).exponential_(generator=chance))


def store_of(folder: pathlib.Path, samples: int) -> Store:
    """A store of top-10 records of images, of random logits that repeat."""
    manifest = Manifest(samples, 1, CLASSES_OF_IMAGES, 'samples', 1, format=IMAGE.settings())
    manifest = dataclasses.replace(manifest, shard_samples=default_shard_samples(manifest))
    said = torch.randn(2**14, CLASSES_OF_IMAGES, generator=torch.Generator().manual_seed(0))
    with StoreWriter(folder, manifest) as writer:
        while len(rows := writer.rows()[: len(said)]):
            writer.add(logits=said[: len(rows)], digests=np.zeros(len(rows), np.uint16))
        return writer.finish()


def seconds(call: Callable[[], Any]) -> float:
    before = time.perf_counter()
    call()
    return time.perf_counter() - before


def measure_reading(folder: pathlib.Path, sizes: list[int], rounds: int) -> list[dict[str, Any]]:
    """Opens and reads stores of several sizes in shuffled turns; each batch is of other samples.

    Returns:
        For each size the seconds to open, to read a batch whose shards were verified, and to verify all.
    """
    stores = {size: store_of(folder / str(size), size) for size in track(sizes, 'stores', transient=True)}
    verified = {size: seconds(store.verify) for size, store in stores.items()}
    opened: dict[int, list[float]] = {size: [] for size in sizes}
    read: dict[int, list[float]] = {size: [] for size in sizes}
    order, chance = list(sizes), random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for size in order:
            opened[size].append(seconds(lambda: Store(stores[size].folder)))  # noqa: B023
            batches = torch.randint(size, (20, BATCH)).unbind()
            turns = [seconds(lambda: stores[size].logits(0, batch)) for batch in batches]  # noqa: B023
            read[size].append(statistics.median(turns))
    return [
        {
            'samples': size, 'bytes': stores[size].nbytes, 'shards': stores[size].manifest.shard_count,
            'open': _spread(opened[size]), 'read': _spread(read[size]), 'verify all': verified[size],
        }
        for size in sizes
    ]  # fmt: skip


def measure_formats(classes: int, rows: int) -> list[dict[str, Any]]:
    """Errors of the formats by kind of logits, and seconds to write and to read a position of the typical kind."""
    found = []
    for name, form in track(FORMATS.items(), 'formats', transient=True):
        errors = {kind: dataclasses.asdict(error(form, logits(kind, rows, classes))) for kind in KINDS}
        said, numbers = logits('typical', rows, classes), np.arange(rows)
        records = form.encode(said, numbers)
        written = statistics.median(seconds(lambda: form.encode(said, numbers)) for _ in range(3))  # noqa: B023
        read = statistics.median(seconds(lambda: form.decode(records, classes)) for _ in range(9))  # noqa: B023
        found.append(
            {'format': name, 'bytes': form.nbytes(classes), 'errors': errors, 'write': written / rows,
             'read': read / rows}
        )  # fmt: skip
    return found


def measure(sizes: list[int], rounds: int, classes: int, rows: int) -> dict[str, Any]:
    """Measures everything.

    Args:
        sizes: Samples of the stores that are opened and read.
        rounds: How often each has its turn.
        classes: Classes of the logits of which errors are measured.
        rows: Positions of these.

    Returns:
        The report, as plain values.
    """
    bounds = [
        {'what': what, 'classes': count, 'bytes': form.nbytes(count) + 2 * (form is IMAGE), 'most': most}
        for what, form, count, most in BOUNDS
    ]
    with tempfile.TemporaryDirectory() as folder:
        reading = measure_reading(pathlib.Path(folder), sizes, rounds)
    return {'bounds': bounds, 'reading': reading, 'formats': measure_formats(classes, rows)}


def tables(report: dict[str, Any]) -> list[Table]:
    """The tables of a report: title, columns, rows."""
    reading, formats = report['reading'], report['formats']
    worst = max(one['read']['median'] for one in reading)
    targets = [
        [f'G7: {one["what"]}, {one["classes"]:,} classes', f'<= {one["most"]}', str(one['bytes']),
         _met(one['bytes'] <= one['most'])] for one in report['bounds']
    ]  # fmt: skip
    targets.append(
        [f'G6: {BATCH} samples x top-10, slowest store', '<= 60 µs', seconds_text(worst), _met(worst <= 60e-6)]
    )
    return [
        ('Targets', ['target', 'wanted', 'found', ''], targets),
        (
            f'Opening, and reading {BATCH} samples at random',
            ['samples', 'bytes', 'shards', 'open', 'read', 'verify all, once'],
            [[f'{one["samples"]:,}', bytes_text(one['bytes']), str(one['shards']), _show(one['open']),
              _show(one['read']), seconds_text(one['verify all'])] for one in reading],
        ),
        (
            'Divergence from the teacher, in nats, and how often the most probable class is the same',
            ['format', 'bytes', *KINDS],
            [[one['format'], f'{one["bytes"]:,}',
              *(f'{e["kl"]:.1e} ({100 * e["top1"]:.1f} %)' for e in one['errors'].values())] for one in formats],
        ),
        (
            'A position, written and read',
            ['format', 'write', 'read'],
            [[one['format'], seconds_text(one['write']), seconds_text(one['read'])] for one in formats],
        ),
    ]  # fmt: skip


def _met(is_met: bool) -> str:
    return 'met' if is_met else 'not met'


def _spread(values: list[float]) -> dict[str, float]:
    return dataclasses.asdict(Spread.of(values))


def _show(spread: dict[str, float]) -> str:
    return f'{seconds_text(spread["median"])} [{seconds_text(spread["low"])}, {seconds_text(spread["high"])}]'


def _markdown(report: dict[str, Any]) -> str:
    facts = ', '.join(f'{key} {value}' for key, value in report['environment'].items())
    method = (
        f'One process, {torch.get_num_threads()} thread, on a machine that others used at the same time: only orders '
        f'of magnitude and ratios count. Stores take turns in {report["rounds"]} shuffled rounds; in a turn the '
        'median of 20 batches counts; given are median and quartiles over the rounds. Reading is from the page cache, '
        'of shards whose checksum was verified, which happens once. Logits are drawn at random '
        f'({report["rows"]} positions, {report["classes"]:,} classes): flat ones, and such of which a few classes are '
        'probable. The divergence is KL(live || stored), of the k classes and all others together; of draws it is the '
        "estimate of the teacher's divergence from itself, whose expectation is 0."
    )
    parts = ['# Stores of teacher outputs', f'`{report["command"]}`', facts, method]
    for title, columns, rows in tables(report):
        parts += [f'## {title}', markdown_table(columns, rows)]
    return '\n\n'.join(parts) + '\n'


def main(arguments: list[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--samples', nargs='+', type=int, default=[10**3, 10**4, 10**5, 10**6, 10**7])
    parser.add_argument('--rounds', type=int, default=25)
    parser.add_argument('--classes', type=int, default=2**16)
    parser.add_argument('--rows', type=int, default=128)
    parser.add_argument('--out', type=pathlib.Path, default=pathlib.Path(__file__).parent / 'results')
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    report = {
        'command': shlex.join(['python', 'benchmarks/stores.py', *arguments]),
        'environment': environment(),
        'rounds': options.rounds, 'classes': options.classes, 'rows': options.rows,
        **measure(options.samples, options.rounds, options.classes, options.rows),
    }  # fmt: skip
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'stores.json').write_text(json.dumps(report, indent=1) + '\n', encoding='utf-8')
    (options.out / 'stores.md').write_text(_markdown(report), encoding='utf-8')
    console = Console()
    for title, columns, rows in tables(report):
        console.print(title, style='bold')
        print_table(columns, rows, console)


if __name__ == '__main__':
    main()
