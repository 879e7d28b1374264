"""A student cut out of its teacher, taught by it in a Trainer, exported, and cut from a YAML."""

import torch
import transformers as hf
from composer.models import HuggingFaceModel
from torch.utils.data import DataLoader

from composer_kd import Distillation, Match, student_from_teacher
from composer_kd.losses import mse
from tests.helpers import Recorder, TokenDataset, train
from tests.students.teachers import answers, batch, teacher


def test_is_taught_by_the_teacher_it_was_cut_from(tmp_path):
    original = HuggingFaceModel(teacher('bert'), use_logits=True)
    inputs = {**batch(original.model), 'labels': torch.tensor([0, 1, 0])}
    student = student_from_teacher(original, 'odd')
    before = answers(original.model, inputs)
    whole = student_from_teacher(original, [0, 1, 2, 3])
    for model, untrained in ((student, False), (whole.eval(), True)):
        recorder = Recorder()
        layers = ('model.bert.encoder.layer.1', 'model.bert.encoder.layer.3') if model is student else None
        hint = [Match(mse, on=layers)] if layers else []
        kd = Distillation(original, kd_loss_fn=[Match('kl') if False else Match(mse), *hint])
        train(model, DataLoader(TokenDataset(**inputs), 3), [kd], [recorder], max_duration='3ba')
        assert (recorder.microbatches[0]['kd'] < 1e-3) or not untrained
        assert recorder.microbatches[-1]['total'] == recorder.microbatches[-1]['total']
    assert torch.equal(answers(original.model, inputs), before)
