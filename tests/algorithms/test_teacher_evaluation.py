import re
import warnings

import pytest
import torch
from composer import Evaluator
from composer.core import DataSpec
from composer.loggers import InMemoryLogger
from composer.models import ComposerClassifier
from torchmetrics import SumMetric
from torchmetrics.classification import MulticlassAccuracy

from composer_kd import Distillation, KLDivergence, Match, TeacherError
from composer_kd.losses import mse
from tests.helpers import EventSpy, TokenDataset, TokenModel, loader, mlp, pairs, sgd, student, trainer

METRICS = ['MulticlassAccuracy']


def evaluator(label, seed, n=20, **options):
    return Evaluator(label=label, dataloader=loader(*pairs(n, seed=seed, **options)), metric_names=METRICS)


def logged(run):
    (memory,) = [logger for logger in run.logger.destinations if isinstance(logger, InMemoryLogger)]
    return {key: float(values[-1][1]) for key, values in memory.data.items() if key.startswith('metrics/')}


def test_logs_the_teachers_metrics_and_the_agreement_for_each_evaluator():
    teachers = [mlp(seed=3), mlp(seed=4)]
    model = student()
    run = trainer(
        model,
        loader(*pairs()),
        [Distillation(teachers, KLDivergence(), run_teacher_on_eval=True)],
        eval_dataloader=[evaluator('near', 5), evaluator('far', 6)],
        loggers=[InMemoryLogger()],
    )
    run.fit()
    run.close()
    values = logged(run)
    (algorithm,) = run.state.algorithms
    assert algorithm.evaluation.latest == {k: v for k, v in values.items() if 'teacher' in k or 'agreement' in k}
    model.eval()
    for label, seed in (('near', 5), ('far', 6)):
        x, y = pairs(20, seed=seed)
        with torch.no_grad():
            ours, theirs = model.module(x), (teachers[0](x) + teachers[1](x)) / 2
        p, q = theirs.softmax(-1), ours.softmax(-1)
        assert values[f'metrics/{label}/teacher/MulticlassAccuracy'] == pytest.approx(
            (theirs.argmax(-1) == y).float().mean().item()
        )
        assert values[f'metrics/{label}/MulticlassAccuracy'] == pytest.approx(
            (ours.argmax(-1) == y).float().mean().item()
        )
        assert values[f'metrics/{label}/agreement/top1'] == pytest.approx(
            (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
        )
        assert values[f'metrics/{label}/agreement/kl'] == pytest.approx(
            (p * (p / q).log()).sum(-1).mean().item(), rel=1e-4
        )


def test_a_student_that_is_its_teachers_copy_agrees():
    model = student(mlp(seed=1))
    run = trainer(
        model,
        loader(*pairs()),
        [Distillation(mlp(seed=1), KLDivergence(), run_teacher_on_eval=True)],
        eval_dataloader=evaluator('eval', 5),
        loggers=[InMemoryLogger()],
    )
    run.eval()  # never fires FIT_START
    values = logged(run)
    run.close()
    assert values['metrics/eval/agreement/top1'] == 1.0
    assert values['metrics/eval/agreement/kl'] == pytest.approx(0.0, abs=1e-6)
    assert values['metrics/eval/teacher/MulticlassAccuracy'] == values['metrics/eval/MulticlassAccuracy']


def test_off_by_default_and_the_students_metrics_stay_the_same():
    results = []
    for options in ({}, {'run_teacher_on_eval': True}):
        run = trainer(
            student(),
            loader(*pairs()),
            [Distillation(mlp(), KLDivergence(), **options)],
            eval_dataloader=evaluator('eval', 5),
            loggers=[InMemoryLogger()],
        )
        run.fit()
        run.close()
        results.append(logged(run))
    assert not any('teacher' in key or 'agreement' in key for key in results[0])
    assert results[0].items() <= results[1].items()


def test_token_models_agree_over_valid_positions():
    class Evaluated(TokenModel):
        def get_metrics(self, is_train=False):
            return {} if is_train else {'Accuracy': self.accuracy}

        def update_metric(self, batch, outputs, metric):
            metric.update(outputs.flatten(0, 1), batch['labels'].flatten())

        accuracy = MulticlassAccuracy(11, average='micro', ignore_index=-100)

    ids = torch.randint(11, (6, 5))
    data = TokenDataset(input_ids=ids, labels=torch.where(torch.rand(6, 5) < 0.5, ids, -100))
    batches = torch.utils.data.DataLoader(data, batch_size=2)
    model, teacher = Evaluated(seed=1), TokenModel(seed=0)
    run = trainer(
        model,
        batches,
        [Distillation(teacher, KLDivergence(), run_teacher_on_eval=True)],
        eval_dataloader=batches,
        loggers=[InMemoryLogger()],
        optimizer=sgd(model, lr=0.0),
    )
    run.eval()
    values = logged(run)
    run.close()
    valid = data.columns['labels'] != -100
    ours, theirs = (m(data.columns)[valid] for m in (model, teacher))
    assert values['metrics/eval/agreement/top1'] == pytest.approx(
        (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
    )
    assert values['metrics/eval/agreement/kl'] == pytest.approx(KLDivergence(1.0)(ours, theirs).item(), rel=1e-4)
    assert values['metrics/eval/teacher/Accuracy'] == pytest.approx(
        (theirs.argmax(-1) == ids[valid]).float().mean().item()
    )


@pytest.mark.parametrize('use_logits', [True, False])
@pytest.mark.parametrize('shift', [False, True], ids=['masked', 'next token'])
def test_hugging_face_models(shift, use_logits):
    """With use_logits their eval_forward takes the labels out of the batch, and shifts them for the next token."""
    transformers = pytest.importorskip('transformers')
    from composer.models import HuggingFaceModel

    def build(seed):
        torch.manual_seed(seed)
        if shift:
            config = transformers.GPT2Config(
                vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0
            )
            net = transformers.GPT2LMHeadModel(config)
        else:
            net = transformers.BertForMaskedLM(
                transformers.BertConfig(
                    vocab_size=11,
                    hidden_size=8,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=8,
                    max_position_embeddings=16,
                )
            )
        return HuggingFaceModel(net, tokenizer=None, metrics=[], use_logits=use_logits)

    ids = torch.randint(11, (4, 6))
    labels = torch.where(torch.rand(4, 6) < 0.5, ids, -100)
    batches = torch.utils.data.DataLoader(TokenDataset(input_ids=ids, labels=labels), batch_size=2)
    model, teacher = build(1), build(0)
    run = trainer(
        model,
        batches,
        [Distillation(teacher, KLDivergence(), run_teacher_on_eval=True)],
        eval_dataloader=batches,
        loggers=[InMemoryLogger()],
    )
    run.eval()
    values = logged(run)
    run.close()
    target = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100) if shift else labels
    with torch.no_grad():
        ours, theirs = (m.eval()({'input_ids': ids})['logits'][target != -100] for m in (model, teacher))
    assert values['metrics/eval/agreement/kl'] == pytest.approx(KLDivergence(1.0)(ours, theirs).item(), rel=1e-4)


def test_a_single_output_has_nothing_to_agree_on():
    transformers = pytest.importorskip('transformers')
    from composer.models import HuggingFaceModel

    def build():
        config = transformers.BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
                                         intermediate_size=8, max_position_embeddings=16, num_labels=1)  # fmt: skip
        return HuggingFaceModel(transformers.BertForSequenceClassification(config), None, metrics=[], use_logits=True)

    data = TokenDataset(input_ids=torch.randint(11, (4, 6)), labels=torch.rand(4))
    batches = torch.utils.data.DataLoader(data, batch_size=2)
    algorithm = Distillation(build(), torch.nn.MSELoss(), run_teacher_on_eval=True)
    run = trainer(build(), batches, [algorithm], eval_dataloader=batches, loggers=[InMemoryLogger()])
    run.eval()
    run.close()
    assert not any('agreement' in key for key in logged(run))


def test_metrics_that_are_no_scalars():
    model = student()
    model.val_metrics = MulticlassAccuracy(4, average=None)
    run = trainer(model, loader(*pairs()), [Distillation(mlp(), KLDivergence(), run_teacher_on_eval=True)],
                  eval_dataloader=loader(*pairs(20)))  # fmt: skip
    run.eval()
    run.close()
    assert set(run.state.algorithms[0].evaluation.latest) == {
        'metrics/eval/agreement/top1',
        'metrics/eval/agreement/kl',
    }


def test_a_teacher_of_another_shape_is_named():
    run = trainer(student(), None, [Distillation(mlp(classes=7), KLDivergence(), run_teacher_on_eval=True)],
                  eval_dataloader=evaluator('eval', 5))  # fmt: skip
    with pytest.raises(TeacherError, match=r'answer in the shape \(8, 7\), the student in \(8, 4\)'):
        run.eval()
    run.close()


def evaluated(model, teacher, loss, data, *evaluators, **options):
    """Trains for one batch, evaluates, and returns what was logged."""
    algorithm = Distillation(teacher, loss, run_teacher_on_eval=True)
    run = trainer(model, data, [algorithm], eval_dataloader=list(evaluators), loggers=[InMemoryLogger()],
                  max_duration='1ba', **options)  # fmt: skip
    run.fit()
    run.eval()  # what was said before is not said again
    run.close()
    return logged(run)


def once(record, pattern):
    (message,) = [str(one.message) for one in record if 'run_teacher_on_eval' in str(one.message)]
    assert re.search(pattern, message), message


class Words(SumMetric):
    """Of what was generated: a list of strings."""

    def update(self, outputs, labels):
        super().update(float(sum(len(text.split()) for text in outputs)))


class Writes(ComposerClassifier):
    """A classifier that generates text in one of its evaluators."""

    def eval_forward(self, batch, outputs=None):
        return ['two words'] * len(batch['ask']) if isinstance(batch, dict) else super().eval_forward(batch, outputs)

    def get_metrics(self, is_train=False):
        return {} if is_train else {'MulticlassAccuracy': MulticlassAccuracy(4, average='micro'), 'Words': Words()}

    def update_metric(self, batch, outputs, metric):
        if isinstance(metric, Words):
            metric.update(outputs, None)
        else:
            metric.update(outputs, batch[1])


@pytest.mark.parametrize('order', [1, -1])
def test_an_evaluator_without_logits_is_left_alone(order):
    spec = DataSpec(torch.utils.data.DataLoader(list(pairs(8)[0]), batch_size=4, collate_fn=lambda rows: {'ask': rows}),
                    get_num_samples_in_batch=lambda batch: len(batch['ask']))  # fmt: skip
    written = Evaluator(label='written', dataloader=spec, metric_names=['Words'])
    model = Writes(mlp(seed=1), num_classes=4)
    evaluators = [evaluator('classes', 5), written][::order]
    with pytest.warns(UserWarning, match='run_teacher_on_eval') as record:
        values = evaluated(model, mlp(seed=3), KLDivergence(), loader(*pairs()), *evaluators)
    once(record, "evaluator 'written': the teachers are left out: No logits in the output of the student")
    assert values['metrics/written/Words'] == 16.0
    assert {key for key in values if 'teacher' in key or 'agreement' in key} == {
        'metrics/classes/teacher/MulticlassAccuracy', 'metrics/classes/agreement/top1', 'metrics/classes/agreement/kl',
    }  # fmt: skip
    alone = evaluated(Writes(mlp(seed=1), num_classes=4), mlp(seed=3), KLDivergence(), loader(*pairs()),
                      evaluator('classes', 5))  # fmt: skip
    assert alone.items() <= values.items()


def test_a_metric_that_takes_more_than_logits_is_left_out():
    class Whole(Writes):
        def forward(self, batch):
            return {'logits': self.module(batch[0])}

        def loss(self, outputs, batch):
            return torch.nn.functional.cross_entropy(outputs['logits'], batch[1])

        def eval_forward(self, batch, outputs=None):
            return self.forward(batch)

        def update_metric(self, batch, outputs, metric):
            metric.update(outputs['logits'], batch[1])

    with pytest.warns(UserWarning, match='run_teacher_on_eval') as record:
        values = evaluated(Whole(mlp(seed=1), num_classes=4), mlp(seed=3), KLDivergence(), loader(*pairs()),
                           evaluator('eval', 5))  # fmt: skip
    once(record, "evaluator 'eval': MulticlassAccuracy of the teachers is left out")
    assert {'metrics/eval/MulticlassAccuracy', 'metrics/eval/agreement/top1'} <= values.keys()
    assert not any('teacher' in key for key in values)


def test_teachers_of_features_alone_may_have_other_classes():
    """Said at the first batch, not only when the first evaluation comes."""
    said = []
    algorithm = Distillation(mlp(classes=9), Match(mse, on='0'), run_teacher_on_eval=True)
    look = EventSpy('batch_end', lambda state: said.append(len(record)))
    run = trainer(student(), loader(*pairs()), [algorithm], [look], eval_dataloader=evaluator('eval', 5),
                  loggers=[InMemoryLogger()])  # fmt: skip
    with pytest.warns(UserWarning, match='run_teacher_on_eval') as record:
        run.fit()
    run.close()
    assert said[0]
    first, second = [str(one.message) for one in record if 'run_teacher_on_eval' in str(one.message)]
    assert re.search(r'all evaluators: .*the shape \(8, 9\), the student in \(8, 4\).*run_teacher_on_eval=False', first)
    assert "evaluator 'eval': the teachers are left out" in second
    assert [key for key in logged(run) if 'eval' in key] == ['metrics/eval/MulticlassAccuracy']


def test_nothing_is_said_of_several_outputs_that_no_match_takes_for_logits():
    """A second head in training alone, which is named; in evaluation there is one."""

    class TwoHeads(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.second = mlp(seed=1), torch.nn.Linear(6, 4)

        def forward(self, x):
            return (self.net(x), self.second(x)) if self.training else self.net(x)

    class Model(ComposerClassifier):
        def loss(self, outputs, batch):
            return torch.nn.functional.cross_entropy(outputs[0], batch[1])

        def get_metrics(self, is_train=False):
            return {} if is_train else super().get_metrics(is_train)

    match = Match(KLDivergence(2.0), on=('outputs[1]', 'outputs'))
    run = trainer(Model(TwoHeads(), num_classes=4), loader(*pairs()),
                  [Distillation(mlp(seed=3), match, run_teacher_on_eval=True)], eval_dataloader=evaluator('eval', 5),
                  loggers=[InMemoryLogger()])  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='The output of the student has several tensors')
        run.fit()
    run.close()
    assert 'metrics/eval/agreement/top1' in logged(run)


def test_an_error_of_the_device_is_raised():
    class Full(torch.nn.Module):
        def forward(self, x):
            raise torch.OutOfMemoryError('CUDA out of memory')

    run = trainer(student(), loader(*pairs()), [Distillation(Full(), KLDivergence(), run_teacher_on_eval=True)],
                  eval_dataloader=evaluator('eval', 5))  # fmt: skip
    with pytest.raises(torch.OutOfMemoryError):
        run.eval()
