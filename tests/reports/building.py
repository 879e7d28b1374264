"""Evidence made by hand: a teacher, and a student alone and distilled, each from several seeds."""

from __future__ import annotations

import dataclasses

import numpy as np
from torch.nn import Identity

from composer_kd.bench import Candidate
from composer_kd.bench.results import BenchResults, Latency, Row, Setting, Throughput
from composer_kd.reports import ALONE, DISTILLED, TEACHER, Curve, EvaluationSet, Evidence, ModelEvidence, Predictions

EAGER = Setting('cpu', 1, 'eager', 'fp32')
CLASSES = 5


def answers(labels, accuracy, seed, classes=CLASSES):
    """Right for about that share of the samples."""
    rng = np.random.default_rng(seed)
    wrong = (labels + rng.integers(1, classes, len(labels))) % classes
    predicted = np.where(rng.random(len(labels)) < accuracy, labels, wrong)
    confidence = rng.uniform(1 / classes, 1, len(labels))
    return Predictions(predicted, confidence, -np.log(np.where(predicted == labels, confidence, (1 - confidence) / 2)))


def settings(seed, role, **more):
    teachers = {'algorithms': {'distillation': {'teachers': [{'checkpoint': 'runs/teacher.pt'}]}}}
    return {
        'model': {'name': 'DeepCNN' if role == TEACHER else 'ShallowCNN'},
        'seed': seed,
        'run_name': f'{role}-{seed}',
        'train_loader': {'dataset': {'name': 'digits', 'seed': seed}},
        'optimizer': {'lr': 0.1},
        **(teachers if role == DISTILLED else {}),
        **more,
    }


def subject(role, seed, labels, accuracy, classes=CLASSES, name=None, **changes):
    small = role != TEACHER
    batches = np.arange(0, 40)
    curves = {
        'task': Curve(batches, np.exp(-batches / 10)),
        'accuracy': Curve(batches[9::10], np.linspace(0.2, accuracy, 4)),
    }
    if role == DISTILLED:
        curves['kd'] = Curve(batches, 2 * np.exp(-batches / 10))
    name = name or {TEACHER: 'teacher', ALONE: f'alone-{seed}', DISTILLED: f'kd-{seed}'}[role]
    given = {
        'candidate': Candidate(name, Identity, role, taught_by=('teacher',) if role == DISTILLED else ()),
        'parameters': 1_000 if small else 10_000,
        'file_bytes': 5_000 if small else 42_000,
        'flops': 2_000.0 if small else 90_000.0,
        'answers': answers(labels, accuracy, seed + 10 * len(role), classes),
        'settings': settings(seed, role),
        'without_effect': frozenset({'run_name', 'seed', 'save_folder'}),
        'distilled_by': ('distillation',) if role == DISTILLED else (),
        'metrics': {'time/batch': 40, 'cost/train_seconds': 10.0 + seed, 'cost/samples_per_second': 100.0 - seed},
        'curves': curves,
        'command': f'composer-kd train runs/{role.split()[-1]}-{seed}/config.yaml',
    }
    return ModelEvidence(**{**given, **changes})


def called(one, name, **changes):
    """The same model under another name."""
    return dataclasses.replace(one, candidate=dataclasses.replace(one.candidate, name=name, **changes))


def evidence(seeds=(0, 1, 2), samples=400, classes=CLASSES, bench=None, **changes):
    labels = np.random.default_rng(5).integers(0, classes, samples)
    models = [subject(TEACHER, 0, labels, 0.95, classes)]
    models += [subject(ALONE, seed, labels, 0.7, classes) for seed in seeds]
    models += [subject(DISTILLED, seed, labels, 0.9, classes) for seed in seeds]
    names = tuple(f'class {index}' for index in range(classes))
    given = {
        'models': tuple(models),
        'evaluation': EvaluationSet('digits (split=test)', labels, names),
        'bench': bench,
        'environment': {'torch': '2.7', 'processor': 'a <fast> one'},
        'command': 'composer-kd report runs/a runs/b',
        'created': '2026-01-01 12:00',
    }
    return Evidence(**{**given, **changes})


def row(model, setting=EAGER, p50=1e-3, iqr=1e-5, parameters=None, **changes):
    if parameters is None:
        parameters = 10_000 if model == 'teacher' else 1_000
    sweep = [Throughput(1, 1 / p50, 1.0), Throughput(8, 4 / p50, 1.0), Throughput(64, None, None, 'out of memory')]
    given = {
        'latency': Latency(p50, 1.1 * p50, 1.3 * p50, iqr, 100),
        'throughput': sweep,
        'accuracy': 0.9,
        'output_match': 1.0,
        'file_bytes': 4_000,
        'load_seconds': 0.01,
    }
    return Row(model, TEACHER if model == 'teacher' else DISTILLED, setting, parameters, **{**given, **changes})


def timings(**changes):
    quick = Setting('cpu', 1, 'onnxruntime', 'fp32')
    wrong = Setting('cpu', 1, 'int8-dynamic', 'int8')
    rows = [
        row('teacher', p50=4e-3),
        row('kd-0', p50=1e-3),
        row('teacher', quick, p50=2e-3),
        row('kd-0', quick, p50=2e-4),
        row(
            'teacher',
            wrong,
            failed='no int8 kernels here',
            latency=None,
            throughput=[],
            accuracy=None,
            output_match=None,
        ),
        row('kd-0', wrong, p50=1e-4, accuracy=0.4, output_match=0.43),
        row('a stranger', p50=1e-9),
    ]
    return BenchResults(rows, {'torch': '2.7', 'processor': 'of the benchmark'}, 'composer-kd bench runs/a', **changes)
