"""The virtual teacher made of the labels, in real Trainers and beside plain loops of torch."""

import math

import pytest
import torch
import torch.nn.functional as F
from composer.algorithms import LabelSmoothing, MixUp
from composer.models import ComposerModel
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from composer_kd import ConfigError, Distillation, KLDivergence, Match, TeacherError, VirtualTeacher
from composer_kd.teachers.virtual import virtual_logits
from tests.helpers import CLASSES, Recorder, TokenDataset, TokenModel, loader, mlp, mse, pairs, student, train, weights


def run(loss=None, data=None, model=None, algorithms=(), seen=(), teacher=None, own=0.0, **options):
    algorithm = Distillation(
        teacher or VirtualTeacher(0.9), loss or KLDivergence(2.0), kd_loss_weight=1.0, org_loss_weight=own
    )
    return train(model or student(), data or loader(*pairs()), [*algorithms, algorithm], seen, **options)


def by_hand(loss, x, y, batch=8, epochs=1):
    """A plain loop of torch; the weights after it."""
    net = mlp(seed=1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for start in list(range(0, len(x), batch)) * epochs:
        optimizer.zero_grad()
        loss(net(x[start : start + batch]), y[start : start + batch]).backward()
        optimizer.step()
    return weights(net)


def softened(logits, labels, correct, temperature):
    """The distillation term as the paper writes it, each sample and class by itself."""
    total = 0.0
    for row, label in zip(logits, labels):
        given = [correct if k == label else (1 - correct) / (len(row) - 1) for k in range(len(row))]
        powers = [p ** (1 / temperature) for p in given]
        log_q = F.log_softmax(row / temperature, -1)
        for k, power in enumerate(powers):
            p = power / sum(powers)
            total = total + p * (math.log(p) - log_q[k])
    return temperature**2 * total / len(logits)


def test_at_temperature_1_training_is_that_with_smoothed_labels():
    smoothing, (x, y) = 0.2, pairs()
    correct = 1 - smoothing * (CLASSES - 1) / CLASSES
    done = run(KLDivergence(1.0), teacher=VirtualTeacher(correct))
    expected = by_hand(nn.CrossEntropyLoss(label_smoothing=smoothing), x, y)
    torch.testing.assert_close(weights(done.state.model), expected, rtol=1e-5, atol=1e-7)


def test_at_other_temperatures_training_is_that_of_the_paper():
    x, y = pairs()
    done = run(KLDivergence(5.0))
    expected = by_hand(lambda logits, labels: softened(logits, labels, 0.9, 5.0), x, y)
    torch.testing.assert_close(weights(done.state.model), expected, rtol=1e-5, atol=1e-7)


@given(st.integers(2, 9), st.floats(0.01, 0.99), st.data())
def test_the_logits_are_those_of_the_mixture(classes, correct, data):
    label = data.draw(st.integers(0, classes - 1))
    one_hot = F.one_hot(torch.tensor([label]), classes)
    logits = virtual_logits(torch.tensor([label]), classes, correct)
    assert logits.exp().sum().item() == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(virtual_logits(one_hot.float(), classes, correct), logits, rtol=1e-4, atol=1e-5)


def test_the_microbatch_size_changes_nothing_and_a_resume_goes_on_bit_for_bit(tmp_path):
    whole, parts = (run(device_train_microbatch_size=size) for size in (8, 2))
    torch.testing.assert_close(weights(parts.state.model), weights(whole.state.model), rtol=1e-5, atol=1e-7)
    run(max_duration='1ba', save_folder=str(tmp_path), save_interval='1ba')
    resumed = run(max_duration='1ep', load_path=str(tmp_path / 'latest-rank0.pt'))
    assert torch.equal(weights(resumed.state.model), weights(whole.state.model))


def test_a_sample_without_a_label_is_not_taught():
    """Its gradient is 0, and the mean still runs over it."""
    x, y = pairs(unlabelled=range(0, 24, 2))
    done = run(KLDivergence(5.0), loader(x, y))

    def loss(logits, labels):
        has = labels >= 0
        return softened(logits[has], labels[has], 0.9, 5.0) * has.float().mean()

    torch.testing.assert_close(weights(done.state.model), by_hand(loss, x, y), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('order', [1, -1])
def test_beside_label_smoothing_the_labels_of_before_count(order):
    alone, beside = Recorder(), Recorder()
    run(seen=[alone])
    distillation = Distillation(VirtualTeacher(0.9), KLDivergence(2.0), kd_loss_weight=1.0, org_loss_weight=0.0)
    train(student(), loader(*pairs()), [LabelSmoothing(0.3), distillation][::order], [beside])
    assert beside.batches[0]['kd'] == pytest.approx(alone.batches[0]['kd'], rel=1e-6)


def test_mixed_labels_are_taught_by_the_mixture():
    seen, model = Recorder(), student()
    run(KLDivergence(2.0), model=model, algorithms=[MixUp(alpha=1.0, interpolate_loss=False)], seen=[seen], own=1.0)
    x, y = seen.seen[0]
    assert y.shape == (8, CLASSES)
    assert ((y > 0).sum(1) == 2).any()
    net = mlp(seed=1)
    p = F.softmax((y * 0.9 + (1 - y) * 0.1 / (CLASSES - 1)).log() / 2.0, -1)
    expected = 4.0 * F.kl_div(F.log_softmax(net(x) / 2.0, -1), p, reduction='batchmean')
    assert seen.batches[0]['kd'] == pytest.approx(expected.item(), rel=1e-5)


class NextToken(TokenModel):
    shift_labels = True

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs[:, :-1].transpose(1, 2), batch['labels'][:, 1:])


@pytest.mark.parametrize('microbatch', [8, 2])
@pytest.mark.parametrize(('kind', 'moved'), [(TokenModel, 0), (NextToken, 1)])
def test_tokens_with_ignored_positions(kind, moved, microbatch):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (8, 6), generator=generator)
    labels = torch.where(torch.rand(8, 6, generator=generator) < 0.5, ids, -100)
    seen, model = Recorder(), kind(seed=1)
    with torch.no_grad():
        logits = model({'input_ids': ids})[:, : 6 - moved]
    has = labels[:, moved:] >= 0
    expected = softened(logits[has], labels[:, moved:][has], 0.9, 2.0)
    data = torch.utils.data.DataLoader(TokenDataset(input_ids=ids, labels=labels), 8)
    run(data=data, model=model, seen=[seen], device_train_microbatch_size=microbatch)
    assert seen.batches[0]['kd'] == pytest.approx(expected.item(), rel=1e-5)


class Pixels(ComposerModel):
    def __init__(self, channels=4):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.net = nn.Conv2d(2, channels, 1)

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch[1], ignore_index=255)

    ignore_index = 255


def test_maps_with_an_ignored_class_of_the_models_own():
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(8, 2, 3, 5, generator=generator), torch.randint(4, (8, 3, 5), generator=generator)
    y[torch.rand(8, 3, 5, generator=generator) < 0.5] = 255
    seen, model = Recorder(), Pixels()
    has = y != 255
    with torch.no_grad():
        expected = softened(model.net(x).movedim(1, -1)[has], y[has], 0.9, 2.0)
    run(data=loader(x, y), model=model, seen=[seen], device_train_microbatch_size=2)
    assert seen.batches[0]['kd'] == pytest.approx(expected.item(), rel=1e-5)


def test_it_stands_beside_other_teachers():
    seen, (x, y) = Recorder(), pairs()
    matches = [Match(mse, name='both'), Match(KLDivergence(2.0), teacher='virtual', name='labels', weight=0.5)]
    run(matches, teacher=[mlp(seed=7), VirtualTeacher(0.9)], seen=[seen])
    ours, theirs = mlp(seed=1)(x[:8]), mlp(seed=7)(x[:8])
    mean = (theirs + virtual_logits(y[:8], CLASSES, 0.9)) / 2
    assert seen.batches[0]['both'] == pytest.approx(mse(ours, mean).item(), rel=1e-5)
    assert seen.batches[0]['labels'] == pytest.approx(softened(ours, y[:8], 0.9, 2.0).item(), rel=1e-5)


@pytest.mark.parametrize('correct', [0.0, 1.0, -0.5, 2, True, 'most', float('nan')])
def test_no_probability_is_refused(correct):
    with pytest.raises(ConfigError, match='correct must be a probability between 0 and 1'):
        VirtualTeacher(correct)


def several(model=None):
    generator = torch.Generator().manual_seed(3)
    return loader(pairs()[0], torch.randint(2, (24, CLASSES), generator=generator).float())


@pytest.mark.parametrize(
    ('data', 'model', 'part'),
    [
        (several, lambda: student(loss_fn=F.binary_cross_entropy_with_logits), 'may be several at once'),
        (several, lambda: student(loss_fn=nn.MultiLabelSoftMarginLoss()), 'may be several at once'),
        (lambda: loader(pairs()[0], torch.rand(24)), lambda: student(mlp(1), F.mse_loss), 'has one output'),
        (lambda: loader(pairs()[0], torch.rand(24)), lambda: student(loss_fn=F.mse_loss), 'are numbers, no classes'),
        (
            lambda: loader(torch.randn(24, 2, 3, 5), torch.randint(4, (24,))),
            lambda: Pixels(),
            'not of the positions',
        ),
        (
            lambda: torch.utils.data.DataLoader(TokenDataset(input_ids=torch.randint(11, (8, 6))), 8),
            TokenModel,
            'are not there',
        ),
    ],
)
def test_labels_that_are_not_one_class_each_are_refused_before_training(data, model, part):
    with pytest.raises(TeacherError, match=part):
        run(data=data(), model=model(), max_duration='0ba')


def test_other_refusals():
    with pytest.raises(TeacherError, match=r'no more than chance \(1/4\)'):
        run(teacher=VirtualTeacher(0.25), max_duration='0ba')
    with pytest.raises(TeacherError, match='has not run yet'):
        VirtualTeacher().outputs(pairs())
    x, y = pairs()
    y[0] = 7
    with pytest.raises(TeacherError, match='hold 7, and the logits have 4 classes'):
        run(data=loader(x, y), model=student(loss_fn=lambda outputs, labels: outputs.sum() * 0.0))


def test_it_is_refused_beside_a_route():
    with pytest.raises(ConfigError, match='answers for whole microbatches'):
        Distillation([VirtualTeacher(0.9), mlp()], KLDivergence(2.0), route='teacher_id')
