"""A script as a user writes it: it must pass ``mypy --strict``, and run."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from composer import Callback, Event, Logger, State, Trainer
from composer.models import ComposerClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader

import composer_kd
from composer_kd import (
    CheckpointError,
    ComposerKDError,
    ConfigError,
    Distillation,
    FrozenTeacher,
    KLDivergence,
    Match,
    NormalizationAdapter,
    Observation,
    Ramp,
    ResizeAdapter,
    __version__,
    kl_divergence,
    observe,
    student_state_dict,
)
from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.bench import BenchResults, Candidate, bench
from composer_kd.callbacks.cost import TrainingCost
from composer_kd.callbacks.history import HistoryLogger, curve, read_history
from composer_kd.config.load import load_config
from composer_kd.config.schema import RunConfig
from composer_kd.data import HeldOut, Indexed, digits
from composer_kd.losses import CRD, DIST, RKD, LogitStandardization, attention_transfer, hint
from composer_kd.models import DeepCNN, IndexedClassifier, ShallowCNN, resnet20
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.train import train
from composer_kd.schedules import Window
from composer_kd.teachers import Teacher, load_weights
from composer_kd.testing import check_loss
from composer_kd.workflows.profile.run import profile


def centred_mse(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = (logits - logits.mean(-1, keepdim=True) for logits in (student, teacher.detach()))
    return (student - teacher).square().mean()


def of_valid_positions(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    squares = (student - teacher).square().mean(-1)
    return squares.mean() if mask is None else squares[mask].mean()


class Centred(nn.Module):
    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return centred_mse(student, teacher)


class Constant:
    """A teacher of one's own."""

    def __init__(self, logits: Tensor) -> None:
        self.name = 'constant'
        self.logits = logits

    def prepare(self, state: State) -> None:
        self.logits = state.device.tensor_to_device(self.logits)

    def outputs(self, batch: Any, index: Tensor | None = None) -> Tensor:
        return self.logits.expand(len(batch[0]), -1)

    def end_batch(self, state: State) -> None: ...


class Confident(DistillationAlgorithm):
    """An algorithm of one's own: less of the loss where the student is sure already."""

    def __init__(self, least: float) -> None:
        self.least = least

    @property
    def window(self) -> Window | None:
        return Window(0.0, '0.5dur')

    def final_metrics(self) -> Mapping[str, float]:
        return {'confidence/least': self.least}

    def match(self, event: Event, state: State) -> bool:
        return event == Event.AFTER_LOSS

    def apply(self, event: Event, state: State, logger: Logger) -> None:
        state.loss = state.loss


class LastLoss(Callback):
    def __init__(self) -> None:
        self.value = float('nan')

    def batch_end(self, state: State, logger: Logger) -> None:
        self.value = float(state.total_loss_dict['loss/train/total'])


def halve(inputs: Tensor) -> Tensor:
    return inputs / 2


def call(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    logits: Tensor = model(batch[0])
    return logits


def large() -> DeepCNN:
    return DeepCNN(in_channels=1, image_size=8, num_classes=10)


def distil(folder: pathlib.Path) -> dict[str, Tensor]:
    constant: Teacher = Constant(torch.zeros(1, 10))
    teachers: list[nn.Module | Teacher] = [
        large(),
        FrozenTeacher(large(), name='other', input_adapter=NormalizationAdapter([0.3], [0.4], [0.5], [0.5])),
        FrozenTeacher(large(), input_adapter=halve, forward=call),
        FrozenTeacher(large(), input_adapter=ResizeAdapter(8)),
    ]
    matches: list[Match | Callable[..., Tensor]] = [
        Match(hint, on=('features.2', 'features.5'), project='auto', weight=Ramp(10.0, 0.0, end='0.5dur')),
        Match(RKD(), on='features.2', weight=0.1, teacher='other', name='relations'),
        Match(attention_transfer, on='features.2'),
        Match(KLDivergence(), temperature=Ramp(8.0, 1.0)),
        LogitStandardization(KLDivergence(2.0)),
        Centred(),
        of_valid_positions,
    ]
    algorithm = Distillation(teachers, matches, n_teachers_to_sample=2, teacher_weights=[2.0, 1.0, 1.0, 1.0])
    simple = Distillation(
        teachers=constant, kd_loss_fn=KLDivergence(temperature=4.0), kd_loss_weight=0.9, org_loss_weight=0.1
    )
    assert isinstance(algorithm.window, Window)
    student = ComposerClassifier(ShallowCNN(in_channels=1, image_size=8, num_classes=10), num_classes=10)
    last = LastLoss()
    trainer = Trainer(
        model=student,
        train_dataloader=DataLoader(digits('train'), batch_size=64),
        optimizers=torch.optim.Adam(student.parameters(), lr=1e-3),
        algorithms=[algorithm],
        callbacks=[TrainingCost(), last],
        loggers=[HistoryLogger(folder)],
        max_duration='2ba',
        progress_bar=False,
    )
    trainer.fit()
    algorithm.close()
    batches, losses = curve(read_history(folder), 'loss/train/kd')
    first: int = batches[0]
    largest: float = max(losses)
    print(first, largest, last.value, simple.window, __version__)
    return student_state_dict(student)


def other_ways(folder: pathlib.Path) -> Sequence[Distillation]:
    file = folder / 'teacher.pt'
    torch.save(large().state_dict(), file)
    module: nn.Module = large()
    load_weights(module, file)
    return [
        Distillation({str(file): large()}, nn.MSELoss(), start_dur=0.0, end_dur='0.8dur', run_teacher_on_eval=True),
        Distillation([large(), resnet20(in_channels=1)], [KLDivergence(), of_valid_positions]),
        Distillation([large(), large()], KLDivergence(), route='teacher_id'),
        Distillation([large(), large()], KLDivergence(), route=lambda batch, index: batch[1] % 2),
        Distillation(large(), [Match(CRD(64)), Match(DIST(), lr=1e-3)]),
    ]


def plain_loop(small: nn.Module, teacher: nn.Module) -> Tensor:
    images = torch.rand(4, 1, 8, 8)
    with torch.no_grad():
        shown = observe(teacher, images, ['features.5'])
    seen: Observation = observe(small, images, ['features.2'])
    features: dict[str, Tensor] = seen.features
    assert seen.logits is not None  # of a model that answers with something else
    assert shown.logits is not None
    loss: Tensor = KLDivergence(4.0)(seen.logits, shown.logits)
    loss = loss + kl_divergence(seen.logits, shown.logits, temperature=2.0) + DIST()(seen.logits, shown.logits)
    return loss + composer_kd.losses.hint(features['features.2'], features['features.2'].detach())


def from_yaml(file: str, folder: pathlib.Path) -> float:
    try:
        config: RunConfig = load_config(file, ['max_duration=1ba', 'progress_bar=false', f'save_folder={folder}'])
        metrics = train(config, callbacks=[LastLoss()], quiet=True)
    except (ConfigError, CheckpointError) as error:
        raise SystemExit(str(error)) from error
    except ComposerKDError:
        raise
    return metrics['loss/train/total']


def indexed() -> tuple[IndexedClassifier, DataLoader[Any]]:
    model = IndexedClassifier(ShallowCNN(1, 8, 10), num_classes=10)
    return model, DataLoader(Indexed(HeldOut(digits('train'), 0.1, seed=1)), batch_size=8)


def measured(config: RunConfig) -> tuple[BenchResults, float]:
    times = profile(config, batches=2)
    batches = DataLoader(digits('test'), batch_size=100)
    results = bench([Candidate('teacher', large), Candidate('student', lambda: ShallowCNN(1, 8, 10))], batches)
    return results, sum(times.steps[0].values())


def main(folder: pathlib.Path) -> None:
    check_loss(centred_mse)
    check_loss(Centred())
    distil(folder)
    print(len(other_ways(folder)), len(indexed()), Confident(0.1).final_metrics())
    print(plain_loop(ShallowCNN(1, 8, 10), large()).item())
    print(from_yaml('yamls/digits/student.yaml', folder / 'run'))
    print(evaluate(folder / 'run').metrics)


if __name__ == '__main__':
    main(pathlib.Path(sys.argv[1]))
