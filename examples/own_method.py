"""A loss and a teacher of one's own: a committee that answers with its surest member, and a loss where it is sure.

python examples/own_method.py --duration 5ep
"""

import argparse
from typing import Any

import torch
from composer import Trainer
from composer.core import State
from composer.models import ComposerClassifier
from torch import Tensor, nn
from torch.utils.data import DataLoader

from composer_kd import Distillation
from composer_kd.data import digits
from composer_kd.models import DeepCNN, ShallowCNN


class Surest:
    """For each sample, the logits of the model that is surest of it."""

    name = 'surest'

    def __init__(self, models: list[nn.Module]) -> None:
        self.models = models

    def prepare(self, state: State) -> None:
        """Moves the models to the student's device."""
        self.models = [state.device.module_to_device(model).eval().requires_grad_(False) for model in self.models]

    def outputs(self, batch: tuple[Tensor, Tensor], index: Tensor | None = None) -> Tensor:
        """Logits ``(B, C)``."""
        said = torch.stack([model(batch[0]) for model in self.models])
        surest = said.softmax(-1).amax(-1).argmax(0)
        return said[surest, torch.arange(len(surest), device=surest.device)]

    def end_batch(self, state: State) -> None:
        """Nothing changes."""


def sure_cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the teacher's probabilities, each sample weighed by the largest of them."""
    probabilities = teacher.softmax(-1)
    return (probabilities.amax(-1) * nn.functional.cross_entropy(student, probabilities, reduction='none')).mean()


def main(arguments: list[str] | None = None) -> Any:
    """Trains two teachers and a student, and returns its metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--duration', default='5ep')
    options = parser.parse_args(arguments)
    shape = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}

    def fit(net: nn.Module, seed: int, *algorithms: Distillation) -> Trainer:
        model = ComposerClassifier(net)
        trainer = Trainer(
            model=model,
            train_dataloader=DataLoader(digits('train'), batch_size=64, shuffle=True),
            eval_dataloader=DataLoader(digits('test'), batch_size=250),
            max_duration=options.duration,
            optimizers=torch.optim.Adam(model.parameters(), lr=2e-3),
            algorithms=list(algorithms),
            seed=seed,
            progress_bar=False,
        )
        trainer.fit()
        return trainer

    committee = [fit(DeepCNN(**shape), seed).state.model.module for seed in (1, 2)]
    trainer = fit(ShallowCNN(**shape), 3, Distillation(Surest(committee), sure_cross_entropy))
    print(trainer.state.eval_metric_values)
    return trainer.state.eval_metric_values


if __name__ == '__main__':
    main()
