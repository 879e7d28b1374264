"""A student cut out of its teacher is taught by it in a Trainer, and exported."""

import torch
from composer.models import HuggingFaceModel
from torch.utils.data import DataLoader

from composer_kd import Distillation, KLDivergence, Match, student_from_teacher
from composer_kd.deploy import Inference
from composer_kd.deploy.exporter import export, find_target
from composer_kd.deploy.targets import Student
from composer_kd.deploy.verification import in_pieces
from composer_kd.losses import mse
from tests.helpers import Recorder, TokenDataset, train
from tests.students.teachers import answers, batch, teacher


def taught(student, original, inputs, *matches):
    recorder = Recorder()
    kd = Distillation(original, kd_loss_fn=[Match(KLDivergence(1.0)), *matches], kd_loss_weight=1.0)
    train(student, DataLoader(TokenDataset(**inputs), 3), [kd], [recorder], max_duration='4ep')
    return [float(losses['kd']) for losses in recorder.microbatches]


def test_is_taught_by_the_teacher_it_was_cut_from(tmp_path):
    original = HuggingFaceModel(teacher('llama').train(), use_logits=True)
    plain = batch(original.model)
    inputs = {**plain, 'labels': plain['input_ids'].masked_fill(plain['attention_mask'] == 0, -100)}
    before = answers(original.model, plain)
    whole = student_from_teacher(original, [0, 1, 2, 3])
    assert taught(whole, original, inputs)[0] < 1e-6
    student = student_from_teacher(original, 'odd')
    hint = Match(mse, on=('model.model.layers.1[0]', 'model.model.layers.3[0]'))  # the last of each: they start alike
    losses = taught(student, original, inputs, hint)
    assert losses[-1] < 0.7 * losses[0]
    assert torch.equal(answers(original.model, plain), before)

    inference = Inference(student, plain)
    made = Student(
        inference, plain, in_pieces([inference.inputs_of(plain)]), lambda: type(student.model)(student.config)
    )
    assert export(made, find_target('huggingface'), tmp_path).verification.passed
    loaded = type(student.model).from_pretrained(tmp_path)
    torch.testing.assert_close(answers(loaded, plain), answers(student.model.eval(), plain))
    assert loaded.config.cut_from['layers'] == [1, 3]
