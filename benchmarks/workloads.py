"""What is measured: three pairs of a student and a teacher, with their batches held in memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from composer.models import ComposerClassifier, ComposerModel, HuggingFaceModel
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchvision.models.resnet import BasicBlock

__all__ = ['WORKLOADS', 'Batches', 'Workload']

SEED, BATCHES = 17, 8


class Batches:
    """A dataloader without end over batches in memory; goes on where it stopped, so ``fit`` calls follow each other.

    Args:
        batches: The batches, in the order in which they come round.
        batch_size: Samples in each; Composer asks for it.
    """

    def __init__(self, batches: list[Any], batch_size: int | None = None) -> None:
        self.batch_size = batch_size
        self._cycle = itertools.cycle(batches)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self._cycle)


@dataclass(frozen=True)
class Workload:
    """One student, one teacher, and how often to step in a round.

    Attributes:
        name: What it is called on the command line.
        about: What it is, for the report.
        student: Makes the student, a module of the inputs whose logits are ``(N, classes)`` rows.
        teacher: Makes the teacher, likewise.
        in_composer: Wraps such a module as Composer users would; both share the weights.
        batches: Makes the batches as Composer sees them.
        batch_size: Samples in a batch.
        classes: Number of logits.
        inputs_and_labels: What of a batch the bare modules get: inputs and ``(N,)`` labels.
        optimizer: A key of ``torch.optim`` and its arguments.
        steps: Measured steps in a turn.
        rounds: How many rounds, at least nine.
        lead: Steps before the measured ones: short steps feel that another variant's code and data fill the caches.
        microseconds: Whether fixed costs in microseconds are of interest, not ratios.
        temperature: Of the distillation loss.
        weights: Of the distillation loss and of the labels' loss.
    """

    name: str
    about: str
    student: Callable[[], nn.Module]
    teacher: Callable[[], nn.Module]
    in_composer: Callable[[nn.Module], ComposerModel]
    batches: Callable[[], list[Any]]
    batch_size: int
    classes: int
    inputs_and_labels: Callable[[Any], tuple[Any, Tensor]]
    optimizer: tuple[str, dict[str, float]]
    steps: int = 2
    rounds: int = 9
    lead: int = 0
    microseconds: bool = False
    temperature: float = 4.0
    weights: tuple[float, float] = (0.9, 0.1)

    def seeded(self, make: Callable[[], Any]) -> Any:
        """What ``make`` makes, the same at each call."""
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            return make()

    def optimize(self, module: nn.Module) -> torch.optim.Optimizer:
        """The optimizer of a student."""
        key, options = self.optimizer
        return getattr(torch.optim, key)(module.parameters(), **options)


# Images and vectors ---------------------------------------------------------------------------------------------------


def _half_width_resnet18() -> nn.Module:
    """ResNet-18 with a CIFAR stem (3x3 convolution, no pooling) and half the channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)]
    channels = 32
    for width, stride in ((32, 1), (64, 2), (128, 2), (256, 2)):
        for step in (stride, 1):
            same = step == 1 and channels == width
            shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, step, bias=False), nn.BatchNorm2d(width))
            layers.append(BasicBlock(channels, width, step, None if same else shortcut))
            channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 100))


def _three_convolutions() -> nn.Module:
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 100))


def _classifier(module: nn.Module) -> ComposerModel:
    # Without train metrics, which would only make every step longer and thus every ratio better.
    return ComposerClassifier(module, train_metrics=MetricCollection([]), val_metrics=MetricCollection([]))


def _pairs(size: int, shape: tuple[int, ...], classes: int) -> list[Any]:
    return [(torch.randn(size, *shape), torch.randint(classes, (size,))) for _ in range(BATCHES)]


# Tokens ---------------------------------------------------------------------------------------------------------------

VOCABULARY, LENGTH = 8192, 128


class TokenRows(nn.Module):
    """A Hugging Face language model whose logits are ``(N, V)`` rows, as losses outside of composer_kd want them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """The logits of ``input_ids`` and ``attention_mask``, one row for each position."""
        return self.model(**inputs).logits.flatten(0, 1)


def _bert(layers: int) -> nn.Module:
    from transformers import BertConfig, BertForMaskedLM

    return TokenRows(BertForMaskedLM(BertConfig(
        vocab_size=VOCABULARY, hidden_size=256, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=1024,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )))  # fmt: skip


def _token_batches() -> list[Any]:
    shape = (16, LENGTH)
    return [
        {
            'input_ids': torch.randint(VOCABULARY, shape),
            'attention_mask': torch.ones(shape, dtype=torch.long),
            'labels': torch.randint(VOCABULARY, shape),
        }
        for _ in range(BATCHES)
    ]


def _tokens_and_labels(batch: Any) -> tuple[Any, Tensor]:
    return {key: value for key, value in batch.items() if key != 'labels'}, batch['labels'].flatten()


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            'cnn',
            'half-width ResNet-18 (CIFAR stem) teaching three convolutions; 128 x 3 x 32 x 32, 100 classes',
            student=_three_convolutions,
            teacher=_half_width_resnet18,
            in_composer=_classifier,
            batches=lambda: _pairs(128, (3, 32, 32), 100),
            batch_size=128,
            classes=100,
            inputs_and_labels=lambda batch: batch,
            optimizer=('SGD', {'lr': 1e-3, 'momentum': 0.9}),
        ),
        Workload(
            'bert',
            'BERT of 6 layers teaching one of 3; hidden size 256, vocabulary 8192, 16 x 128 tokens, all labelled',
            student=lambda: _bert(3),
            teacher=lambda: _bert(6),
            in_composer=lambda rows: HuggingFaceModel(rows.model, use_logits=True),
            batches=_token_batches,
            batch_size=16,
            classes=VOCABULARY,
            inputs_and_labels=_tokens_and_labels,
            optimizer=('SGD', {'lr': 1e-3, 'momentum': 0.9}),
        ),
        Workload(
            'tiny',
            'Linear(32, 10) teaching Linear(32, 10), batch 32: what remains is the fixed cost of a step',
            student=lambda: nn.Linear(32, 10),
            teacher=lambda: nn.Linear(32, 10),
            in_composer=_classifier,
            batches=lambda: _pairs(32, (32,), 10),
            batch_size=32,
            classes=10,
            inputs_and_labels=lambda batch: batch,
            optimizer=('SGD', {'lr': 1e-3, 'momentum': 0.9}),
            steps=20,
            rounds=150,
            lead=1,
            microseconds=True,
        ),
    )
}
