"""Who takes part: the bounds, composer_kd, a naive plug-in and the torchdistill package, on the same work."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from composer import Trainer
from composer.core import Algorithm, Callback, Event, State
from composer.loggers import Logger
from composer.models import ComposerModel
from torch import Tensor, nn

from benchmarks.timing import Mark, Run
from benchmarks.workloads import Batches, Workload
from composer_kd import Distillation, KLDivergence, kl_divergence

__all__ = ['build', 'check_agreement']


class DisagreementError(AssertionError):
    """Two variants did not compute the same."""


def check_agreement(losses: dict[str, list[float]], tolerance: float = 1e-4) -> None:
    """Raises unless all variants had the same loss in each of their first steps.

    Args:
        losses: The losses by variant.
        tolerance: The relative difference that is allowed.

    Raises:
        DisagreementError: If they differ, naming the first step and the variants.
    """
    (first, expected), *others = losses.items()
    for name, values in others:
        for step, (a, b) in enumerate(zip(expected, values, strict=True)):
            if not abs(a - b) <= tolerance * abs(a):
                raise DisagreementError(
                    f'{first} and {name} do not do the same work: their losses at step {step} are {a:.8g} and {b:.8g}'
                )


def _now() -> Mark:
    return time.perf_counter(), time.process_time()


# In Composer ----------------------------------------------------------------------------------------------------------


class _Clock(Callback):
    """Marks the start of training and the end of each batch; in between lies a step with all of its events."""

    def __init__(self) -> None:
        self.marks: list[Mark] = []
        self.losses: list[float] = []

    def fit_start(self, state: State, logger: Logger) -> None:
        self.marks = [_now()]

    def batch_end(self, state: State, logger: Logger) -> None:
        self.losses.append(state.total_loss_dict['loss/train/total'])
        self.marks.append(_now())


class ComposerRun:
    """Steps of a Composer trainer, with an algorithm or none."""

    def __init__(self, workload: Workload, algorithm: Algorithm | None = None) -> None:
        module = workload.seeded(workload.student)
        self._lead = workload.lead
        self._clock = _Clock()
        self._trainer = Trainer(
            model=self.model(workload, module),
            train_dataloader=self.batches(workload),
            optimizers=workload.optimize(module),
            algorithms=algorithm,
            callbacks=self._clock,
            device='cpu',
            seed=1,
            progress_bar=False,
            log_to_console=False,
            spin_dataloaders=False,
        )

    def model(self, workload: Workload, module: nn.Module) -> ComposerModel:
        """The student as Composer gets it."""
        return workload.in_composer(module)

    def batches(self, workload: Workload) -> Batches:
        """The batches as Composer gets them."""
        return Batches(workload.seeded(workload.batches), workload.batch_size)

    @property
    def losses(self) -> list[float]:
        return self._clock.losses

    def steps(self, count: int) -> list[Mark]:
        self._trainer.fit(duration=f'{self._lead + count}ba')
        return self._clock.marks[self._lead :]

    def close(self) -> None:
        self._trainer.close()


class NaiveDistillation(Algorithm):
    """What a first attempt looks like: teachers called with the batch, their answers cloned, stacked and averaged.

    It is right, in that its teachers are frozen and its loss is the one that composer_kd computes.
    """

    def __init__(self, teachers: list[nn.Module], temperature: float, kd_weight: float, task_weight: float) -> None:
        self.teachers = [teacher.eval().requires_grad_(False) for teacher in teachers]
        self.temperature, self.kd_weight, self.task_weight = temperature, kd_weight, task_weight

    def match(self, event: Event, state: State) -> bool:
        if event != Event.AFTER_LOSS:
            return False
        elapsed = state.get_elapsed_duration()
        return elapsed is not None and 0.0 <= elapsed.value < 1.0

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        with torch.no_grad():
            answers = [_rows(teacher(state.batch)).clone() for teacher in self.teachers]
        answer = torch.stack(answers).mean(dim=0)
        student, t = _rows(state.outputs), self.temperature
        soft = F.softmax(answer / t, dim=-1)
        kd = F.kl_div(F.log_softmax(student / t, dim=-1), soft, reduction='batchmean') * t**2
        task = state.loss
        state.loss = {'total': self.task_weight * task + self.kd_weight * kd, 'task': task, 'kd': kd}


class BareDistillation(NaiveDistillation):
    """The shortest algorithm that computes what composer_kd does: no checks, one teacher, one kind of batch."""

    def match(self, event: Event, state: State) -> bool:
        return event is Event.AFTER_LOSS

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        with torch.no_grad():
            answer = self.teachers[0](state.batch)
        kd, task = kl_divergence(state.outputs, answer, self.temperature), state.loss
        state.loss = {'total': torch.add(task * self.task_weight, kd, alpha=self.kd_weight), 'task': task, 'kd': kd}


class ThreeLosses(Algorithm):
    """Does nothing but what no algorithm that reports three losses can avoid: the floor of the plug-in's own cost."""

    def match(self, event: Event, state: State) -> bool:
        return event is Event.AFTER_LOSS

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        loss = state.loss
        state.loss = {'total': loss * 1.0, 'task': loss, 'kd': loss}


def _rows(outputs: Any) -> Tensor:
    logits = outputs if isinstance(outputs, Tensor) else outputs.logits
    return logits.flatten(0, -2)


# Without Composer -----------------------------------------------------------------------------------------------------


class LoopRun:
    """Steps of a plain loop over the batches; ``step(inputs, labels)`` returns the loss."""

    def __init__(self, workload: Workload, step: Callable[[Any, Tensor], Tensor]) -> None:
        self._batches = Batches([workload.inputs_and_labels(batch) for batch in workload.seeded(workload.batches)])
        self._step, self._lead = step, workload.lead
        self.losses: list[float] = []

    def steps(self, count: int) -> list[Mark]:
        marks = [_now()]
        for _ in range(self._lead + count):
            inputs, labels = next(self._batches)
            # Composer reads the loss at each step too.
            self.losses.append(self._step(inputs, labels).item())
            marks.append(_now())
        return marks[self._lead :]

    def close(self) -> None:
        pass


def _teacher_alone(workload: Workload) -> LoopRun:
    teacher = _teacher(workload)

    def step(inputs: Any, labels: Tensor) -> Tensor:
        with torch.no_grad():
            return teacher(inputs)[0, 0]

    return LoopRun(workload, step)


def _plain_loop(workload: Workload, distil: bool) -> LoopRun:
    """The student in a hand-written loop, without or with a teacher: what the same work costs where nobody helps."""
    student, teacher = workload.seeded(workload.student).train(), _teacher(workload)
    optimizer, (kd_weight, task_weight) = workload.optimize(student), workload.weights

    def step(inputs: Any, labels: Tensor) -> Tensor:
        optimizer.zero_grad()
        logits = student(inputs)
        loss = F.cross_entropy(logits, labels)
        if distil:
            with torch.no_grad():
                answer = teacher(inputs)
            kd = kl_divergence(logits, answer, workload.temperature)
            loss = torch.add(loss * task_weight, kd, alpha=kd_weight)
        loss.backward()
        optimizer.step()
        return loss

    return LoopRun(workload, step)


def _torchdistill(workload: Workload) -> LoopRun:
    """One stage of torchdistill's DistillationBox with its KDLoss, driven as its example scripts do."""
    from torchdistill.core.distillation import get_distillation_box

    kd_weight, task_weight = workload.weights
    key, options = workload.optimizer
    logits = {'student_module_path': '.', 'student_module_io': 'output',
              'teacher_module_path': '.', 'teacher_module_io': 'output'}  # fmt: skip
    loss = {'key': 'KDLoss', 'kwargs': {
        **logits, 'temperature': workload.temperature, 'alpha': task_weight, 'beta': kd_weight,
        'reduction': 'batchmean',
    }}  # fmt: skip
    config = {
        'num_epochs': 1,
        'teacher': {'forward_proc': 'forward_batch_only', 'requires_grad': False},
        'student': {'forward_proc': 'forward_batch_only'},
        'optimizer': {'key': key, 'kwargs': dict(options)},
        'criterion': {'key': 'WeightedSumLoss', 'kwargs': {'sub_terms': {'kd': {'criterion': loss, 'weight': 1.0}}}},
    }
    box = get_distillation_box(
        _teacher(workload), workload.seeded(workload.student), {}, config, torch.device('cpu'), None, False, 1.0
    )
    box.pre_epoch_process(epoch=0)

    def step(inputs: Any, labels: Tensor) -> Tensor:
        total = box.forward_process(inputs, labels, None)
        box.post_forward_process(loss=total)
        return total

    return LoopRun(workload, step)


def _teacher(workload: Workload) -> nn.Module:
    # Another seed than the student's: equal models would make the divergence 0.
    with torch.random.fork_rng():
        torch.manual_seed(5)
        teacher = workload.teacher()
    # A fresh model answers so flatly that a wrong distillation loss would hardly show in the total.
    last = [module for module in teacher.modules() if isinstance(module, nn.Linear)][-1]
    last.weight.data.mul_(8.0)
    return teacher.eval().requires_grad_(False)


# All of them ----------------------------------------------------------------------------------------------------------


def build(workload: Workload) -> dict[str, Run]:
    """The variants of one workload, all from the same weights.

    Args:
        workload: What to run.

    Returns:
        The variants by name: ``student``, ``teacher``, ``composer_kd``, ``composer_kd outside``, ``naive``, ``loop``,
        ``torchdistill`` (if it is installed); for workloads in microseconds also ``student again`` (a control that
        shows the noise), ``loop distilling``, ``bare`` and ``three losses``.
    """
    kd_weight, task_weight = workload.weights
    wrapped = workload.in_composer(_teacher(workload))
    once = {'kd_loss_weight': kd_weight, 'org_loss_weight': task_weight}

    def distillation(**window: str) -> Distillation:
        return Distillation(copy.deepcopy(wrapped), KLDivergence(workload.temperature), **once, **window)

    runs: dict[str, Run] = {
        'student': ComposerRun(workload),
        'teacher': _teacher_alone(workload),
        'composer_kd': ComposerRun(workload, distillation()),
        'composer_kd outside': ComposerRun(workload, distillation(start_dur='1000000000ba')),
        'naive': ComposerRun(workload, NaiveDistillation([wrapped], workload.temperature, kd_weight, task_weight)),
        'loop': _plain_loop(workload, distil=False),
    }
    try:
        runs['torchdistill'] = _torchdistill(workload)
    except ImportError:
        warnings.warn("torchdistill is not installed (pip install 'composer_kd[bench]'): left out", stacklevel=2)
    if workload.microseconds:
        runs['student again'] = ComposerRun(workload)
        runs['loop distilling'] = _plain_loop(workload, distil=True)
        runs['bare'] = ComposerRun(workload, BareDistillation([wrapped], workload.temperature, kd_weight, task_weight))
        runs['three losses'] = ComposerRun(workload, ThreeLosses())
    return runs
