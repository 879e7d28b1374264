"""Distils a deep CNN into a shallow one on handwritten digits, and writes a page that compares them.

python examples/digits.py --epochs 10
"""

import argparse

import torch
from composer import Trainer
from composer.models import ComposerClassifier
from torch.utils.data import DataLoader

from composer_kd import Distillation, KLDivergence
from composer_kd.callbacks import HistoryLogger
from composer_kd.data import digits
from composer_kd.models import DeepCNN, ShallowCNN
from composer_kd.trained import report


def main(arguments: list[str] | None = None) -> None:
    """Trains a teacher, a student alone and a student that it teaches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--temperature', type=float, default=4.0)
    parser.add_argument('--out', default='runs/example')
    options = parser.parse_args(arguments)

    train_data = DataLoader(digits('train'), batch_size=64, shuffle=True)
    test_data = DataLoader(digits('test'), batch_size=250)
    shape = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}

    def fit(name: str, net: torch.nn.Module, *algorithms: Distillation) -> ComposerClassifier:
        model = ComposerClassifier(net)
        Trainer(
            model=model,
            train_dataloader=train_data,
            eval_dataloader=test_data,
            max_duration=f'{options.epochs}ep',
            seed=17,
            optimizers=torch.optim.Adam(model.parameters(), lr=2e-3),
            algorithms=list(algorithms),
            loggers=[HistoryLogger(f'{options.out}/{name}')],
            progress_bar=False,
        ).fit()
        return model

    teacher = fit('teacher', DeepCNN(**shape))
    alone = fit('alone', ShallowCNN(**shape))
    distillation = Distillation(teacher, KLDivergence(temperature=options.temperature), run_teacher_on_eval=True)
    student = fit('student', ShallowCNN(**shape), distillation)

    models = {'teacher': teacher, 'alone': alone, 'student': student}
    histories = {name: f'{options.out}/{name}' for name in models}
    page = report(models, test_data, taught_by={'student': 'teacher'}, histories=histories, out=f'{options.out}/report')
    print(*page.verdict)


if __name__ == '__main__':
    main()
