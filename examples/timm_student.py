"""A timm model teaches another one: fine-tuned first, on the same images.

python examples/timm_student.py --teacher resnet18 --student mobilenetv3_small_100 --data ~/data --download
"""

import argparse

import timm
import torch
from composer import Trainer
from composer.models import ComposerClassifier
from torch.utils.data import DataLoader

from composer_kd import Distillation, KLDivergence
from composer_kd.data import cifar10, digits


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Fine-tunes the teacher, trains the student with it, and returns the accuracy of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--teacher', default='resnet18', help='a name of timm, pretrained')
    parser.add_argument('--student', default='mobilenetv3_small_100', help='a name of timm, from random weights')
    parser.add_argument('--images', choices=['cifar10', 'digits'], default='cifar10')
    parser.add_argument('--data', help='the folder of the data')
    parser.add_argument('--download', action='store_true', help='fetch CIFAR-10 into it')
    parser.add_argument('--duration', default='5ep')
    options = parser.parse_args(arguments)

    if options.images == 'digits':
        train, test, channels = digits('train', size=32), digits('test', size=32), 1
    else:
        train, test = (cifar10(split, root=options.data, download=options.download) for split in ('train', 'test'))
        channels = 3

    def fit(net: torch.nn.Module, lr: float, *algorithms: Distillation) -> tuple[ComposerClassifier, float]:
        model = ComposerClassifier(net, num_classes=10)
        trainer = Trainer(
            model=model,
            train_dataloader=DataLoader(train, batch_size=128, shuffle=True),
            eval_dataloader=DataLoader(test, batch_size=500),
            max_duration=options.duration,
            eval_interval=options.duration,
            optimizers=torch.optim.AdamW(model.parameters(), lr=lr),
            algorithms=list(algorithms),
            seed=17,
        )
        trainer.fit()
        return model, float(trainer.state.eval_metric_values['MulticlassAccuracy'])

    shape = {'num_classes': 10, 'in_chans': channels}
    teacher, of_teacher = fit(timm.create_model(options.teacher, pretrained=True, **shape), 1e-4)
    student = timm.create_model(options.student, **shape)
    _, of_student = fit(student, 1e-3, Distillation(teacher, KLDivergence(temperature=4.0)))
    print(f'{options.teacher} {of_teacher:.1%}, {options.student} {of_student:.1%}')
    return {'teacher': of_teacher, 'student': of_student}


if __name__ == '__main__':
    main()
