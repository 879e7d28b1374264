"""Does it hold? Five claims of a known study of distillation on CIFAR-10, and the accuracies that it reached.

The claims are re-examined at 16x16 pixels with a ShallowCNN (and an ImageRNN) as the student; the accuracies are those
to beat, with the same students at 32x32. All runs are those of ``yamls/findings``, nothing but overrides of them.

Everything is tuned alike: for each cell the learning rate, on 5,000 held-out training images, by runs of a quarter of
the length (of the bar: of one epoch) with a seed that is not reported. It begins with three rates, a factor of three
apart; while the best is the lowest or the highest, the next is tried as well, twice at most. Reported is the test
accuracy after the last batch. The claims never train on the held-out images; the bar does once its rates are chosen.

Teachers answer once for all runs: see ``findings_data``. Every run that ends leaves a file in the work folder: a study
that was stopped goes on where it was, and ``--report`` writes what is there and runs nothing. Results are known by
their settings, not by the code that made them: after a change of the code begin a new folder.

    python benchmarks/findings.py --data ROOT --work DIR
    python benchmarks/findings.py --data ROOT --work DIR --parts resnet --epochs 60 --workers 1     # wants a GPU
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks import findings_data, findings_report
from benchmarks.findings_bar import BAR_TEACHERS, EpochCost, ResNetBar, ShallowBar
from benchmarks.findings_study import ClaimStudy
from benchmarks.jobs import ROOT, Runner

PARTS = {'claims': ClaimStudy, 'bar': ShallowBar, 'resnet': ResNetBar}


def read_all() -> None:
    """Reads the data, for a worker to have it before its first run is timed."""
    for split in ('train', 'test'):
        findings_data.read(split, 16)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=pathlib.Path, help='the folder of CIFAR-10 and of weights/ (COMPOSER_KD_DATA)')
    parser.add_argument('--work', type=pathlib.Path, default=pathlib.Path('runs/findings'), help='for files of runs')
    parser.add_argument('--parts', nargs='+', choices=PARTS, default=['claims', 'bar'])
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--bar-seeds', type=int, nargs='+', help='of the bars (default: the same)')
    parser.add_argument('--workers', type=int, default=2, help='processes of one thread each; 0: none but this one')
    parser.add_argument('--batches', type=int, default=600, help='of 64 images, for each run of the claims')
    parser.add_argument('--epochs', type=float, help='of a run of a bar (default: 8; with resnet 60)')
    parser.add_argument('--pilot-epochs', type=float, default=1, help='of a run that tunes a bar')
    parser.add_argument('--bar-teachers', nargs='+', choices=BAR_TEACHERS, default=BAR_TEACHERS)
    parser.add_argument('--teacher-batches', type=int, help='for each teacher (default: as in the YAMLs of findings)')
    parser.add_argument('--report', action='store_true', help='write what has been run so far, and run nothing')
    parser.add_argument('--out', type=pathlib.Path, default=ROOT / 'benchmarks' / 'results')
    options = parser.parse_args(arguments)
    if options.data is not None:
        os.environ['COMPOSER_KD_DATA'] = str(options.data.absolute())
    options.work = options.work.absolute()
    options.bar_seeds = options.bar_seeds or options.seeds
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains the teachers, lets them answer, tunes, runs, and writes ``findings.md``, ``findings.json`` and plots."""
    options = parse(arguments)
    if torch.cuda.is_available():
        options.workers = min(options.workers, 1)
    elif options.workers < 2:
        torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    studies = {name: PARTS[name](options) for name in PARTS}

    def report() -> None:
        findings_report.write(options, {name: study.found() for name, study in studies.items()})

    if options.report:
        report()
        return
    runner = Runner(options.workers, read_all)
    if 'bar' in options.parts and not torch.cuda.is_available():
        runner([EpochCost(str(options.work))], 'what the other bar would cost')
    for name in options.parts:
        for _ in studies[name].run(runner):  # a table after each seed: of a study that is stopped, what was done
            report()


if __name__ == '__main__':
    main()
