"""Microbatches and padding, in a real Trainer."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader

from composer_kd import Distillation, Match
from composer_kd.losses import hint, rkd
from tests.distilling import LEARNERS, distil, image_student, images, tokens
from tests.helpers import (
    Recorder,
    TokenModel,
    mse,
    train,
    weights,
)


def per_sample(student, teacher):
    return (student - teacher).square().flatten(1).mean(1).mean()


@pytest.mark.parametrize('micro', [1, 3, 4])
@pytest.mark.parametrize('name', ['projector', 'VID', 'CRD'])
def test_the_size_of_microbatches_does_not_matter(name, micro):
    runs = [
        distil(
            LEARNERS[name](),
            model=image_student(indexed=True),
            data=images(indexed=True),
            device_train_microbatch_size=size,
        )
        for size in (8, micro)
    ]
    for whole, cut in zip(*(recorder.batches for _, recorder, _ in runs)):
        assert cut == pytest.approx(whole, rel=1e-4)
    torch.testing.assert_close(*(weights(run.state.model) for run, _, _ in runs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('loss', [per_sample, hint, torch.nn.MSELoss()])
def test_hidden_states_count_where_there_is_a_token(loss):
    data = tokens(attention=True)
    runs = []
    for micro in (8, 3):
        model, recorder = TokenModel(seed=1), Recorder()
        fresh = copy.deepcopy(model)
        algorithm = Distillation(TokenModel(seed=0), [Match(loss, on='embed', name='hidden')])
        train(model, DataLoader(data, batch_size=8), [algorithm], [recorder], device_train_microbatch_size=micro)
        runs.append(recorder.batches)
    batch = next(iter(DataLoader(data, batch_size=8)))
    kept = batch['attention_mask'].bool()
    by_hand = mse(*(net.embed(batch['input_ids'])[kept] for net in (fresh, TokenModel(seed=0)))).item()
    assert runs[0][0]['hidden'] == pytest.approx(by_hand, rel=1e-5)
    for whole, cut in zip(*runs):
        assert cut == pytest.approx(whole, rel=1e-4)


def test_relations_of_sentences_leave_padding_out():
    data = tokens(attention=True)
    recorder, model = Recorder(), TokenModel(seed=1)
    fresh = copy.deepcopy(model)
    train(
        model, DataLoader(data, batch_size=8), [Distillation(TokenModel(seed=0), [Match(rkd, on='embed')])], [recorder]
    )
    batch = next(iter(DataLoader(data, batch_size=8)))
    kept = batch['attention_mask'].unsqueeze(-1)
    means = [(net.embed(batch['input_ids']) * kept).sum(1) / kept.sum(1) for net in (fresh, TokenModel(seed=0))]
    assert recorder.batches[0]['rkd_embed'] == pytest.approx(rkd(*means).item(), rel=1e-5)
