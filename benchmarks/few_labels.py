"""CIFAR-10 with 2,000 labels: the shallow CNN alone, and taught by the pretrained ResNet-56 on all 50,000 images.

Both from their YAMLs, over the same number of batches, with the same labels and initial weights for each seed; the test
accuracy is that of the last batch. Needs CIFAR-10 and the checkpoint below ``COMPOSER_KD_DATA``.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.report import markdown_table
from composer_kd.config.load import load_config
from composer_kd.runs.train import train

ROOT = pathlib.Path(__file__).resolve().parent.parent
LABELS = ['train_loader.dataset.n_labels={n}', 'train_loader.dataset.seed=${{seed}}']
SAME = [
    'max_duration={batches}ba',
    'eval_interval={batches}ba',
    'progress_bar=false',
    'save_folder=null',
    'seed={seed}',
]
RUNS = {
    'student alone': ('student.yaml', [*LABELS, 'train_loader.dataset.keep_unlabelled=false']),
    'student taught by ResNet-56': ('kd_resnet56.yaml', LABELS),
}


def run(name: str, seed: int, batches: int, n_labels: int) -> dict[str, float]:
    """One training run; its final metrics and seconds."""
    yaml, overrides = RUNS[name]
    filled = [text.format(n=n_labels, batches=batches, seed=seed) for text in [*overrides, *SAME]]
    start = time.perf_counter()
    metrics = train(load_config(ROOT / 'yamls' / 'cifar10' / yaml, filled))
    return {'accuracy': metrics['metrics/eval/MulticlassAccuracy'], 'seconds': time.perf_counter() - start}


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """A Markdown table: mean and standard error over the seeds."""
    rows = []
    for name, runs in results.items():
        accuracies = [100 * result['accuracy'] for result in runs]
        error = statistics.stdev(accuracies) / len(accuracies) ** 0.5 if len(accuracies) > 1 else float('nan')
        seconds = statistics.mean(result['seconds'] for result in runs)
        by_seed = ', '.join(f'{accuracy:.1f}' for accuracy in accuracies)
        rows.append([name, f'{statistics.mean(accuracies):.1f} ± {error:.1f}', by_seed, f'{seconds:.0f}'])
    return markdown_table(['', 'test accuracy, %', 'by seed', 'seconds a run'], rows)


def main() -> None:
    """Runs all, and writes ``few_labels.md`` and ``few_labels.json`` after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batches', type=int, default=1950, help='of 128 images (default: 1950, five epochs)')
    parser.add_argument('--labels', type=int, default=2000)
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--out', type=pathlib.Path, default=ROOT / 'benchmarks' / 'results')
    options = parser.parse_args()
    command = (
        f'python benchmarks/few_labels.py --batches {options.batches} --labels {options.labels} --seeds '
        + ' '.join(map(str, options.seeds))
    )
    results: dict[str, list[dict[str, float]]] = {name: [] for name in RUNS}
    for seed in options.seeds:
        for name in RUNS:
            results[name].append(run(name, seed, options.batches, options.labels))
            write(options, command, {name: runs for name, runs in results.items() if runs})


def write(options: argparse.Namespace, command: str, results: dict[str, list[dict[str, float]]]) -> None:
    """Writes what has been measured so far."""
    about = (
        f'{options.batches:,} batches of 128 augmented images for each run, {torch.get_num_threads()} CPU threads, '
        f'torch {torch.__version__}. Alone, the student sees the labelled images only; with the teacher (93.4 % on the '
        'test set) it sees all 50,000, of which the others have no label. Mean ± standard error over the seeds, which '
        'choose labels, order and initial weights; accuracy after the last batch.'
    )
    text = [f'# CIFAR-10 with {options.labels:,} labels', f'`{command}`', about, table(results)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / 'few_labels.md').write_text('\n\n'.join(text) + '\n', encoding='utf-8')
    (options.out / 'few_labels.json').write_text(json.dumps({'command': command, **results}, indent=1) + '\n')


if __name__ == '__main__':
    main()
