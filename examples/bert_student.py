"""A fine-tuned BERT is cut in half, and the half is taught by the whole.

python examples/bert_student.py --teacher textattack/bert-base-uncased-SST-2 --task sst2
"""

import argparse

import torch
from composer import Trainer
from torch.utils.data import DataLoader

from composer_kd import Distillation, KLDivergence, student_from_teacher
from composer_kd.data import glue
from composer_kd.models import hf_classifier


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Trains the student and returns its metrics."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--teacher', default='textattack/bert-base-uncased-SST-2', help='a folder, or a name on the Hub'
    )
    parser.add_argument('--task', default='sst2', help='a task of GLUE')
    parser.add_argument('--layers', default='odd', help='which layers the student keeps')
    parser.add_argument('--num-layers', type=int, help='how many; default: what --layers says')
    parser.add_argument('--duration', default='1ep')
    parser.add_argument('--out', default='runs/half-bert', help='where the student is saved, for transformers')
    options = parser.parse_args(arguments)

    def data(split: str) -> DataLoader:
        texts = glue(options.task, split, tokenizer=options.teacher, max_length=128, download=True)
        return DataLoader(texts, batch_size=32, shuffle=split == 'train', collate_fn=texts.collate_fn)

    train_data, test_data = data('train'), data('validation')
    teacher = hf_classifier(options.teacher, labels=train_data.dataset.classes)
    student = student_from_teacher(teacher, layers=options.layers, num_layers=options.num_layers)
    trainer = Trainer(
        model=student,
        train_dataloader=train_data,
        eval_dataloader=test_data,
        optimizers=torch.optim.AdamW(student.parameters(), lr=5e-5),
        algorithms=[Distillation(teacher, KLDivergence(temperature=2.0), run_teacher_on_eval=True)],
        max_duration=options.duration,
        seed=17,
    )
    trainer.fit()
    student.model.save_pretrained(options.out)
    metrics = {name: float(value) for name, value in trainer.state.eval_metric_values.items()}
    print(metrics)
    return metrics


if __name__ == '__main__':
    main()
