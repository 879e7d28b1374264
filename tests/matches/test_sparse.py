"""Matches against teachers that give a part of the classes, in real Trainers."""

import pytest
import torch

from composer_kd import Distillation, FrozenTeacher, KLDivergence, LossError, Match, Ramp
from composer_kd.losses import (
    DIST,
    AdaptiveKL,
    AlphaBetaDivergence,
    GeneralizedJSD,
    LogitStandardization,
    MultiTemperature,
    ReverseKL,
    SkewedKL,
    SkewedReverseKL,
    SoftCrossEntropy,
    TotalVariation,
    mse,
)
from composer_kd.losses.sparse import sample_logits, top_logits
from composer_kd.teachers import teacher_logits
from tests.distilling import cnn, distil, image_student, images, tokens
from tests.helpers import Recorder, TokenModel, named, train


class Top:
    """A frozen teacher of which the k most probable classes are told."""

    sparse = True

    def __init__(self, model, k, temperature, name='top'):
        self.live, self.k, self.temperature, self.name = FrozenTeacher(model), k, temperature, name

    def prepare(self, state):
        self.live.prepare(state)

    def outputs(self, batch, index=None):
        return self.say(teacher_logits(self.live, batch))

    def say(self, logits):
        return top_logits(logits, self.k, self.temperature)

    end_batch = FrozenTeacher.end_batch


class Draws(Top):
    def say(self, logits):
        uniform = torch.full((*logits.shape[:-1], self.k), 0.5, dtype=torch.float64)
        return sample_logits(logits, uniform, self.temperature)


def losses(matches, teachers, **options):
    return [batch['kd'] for batch in distil(matches, teachers, **options)[1].batches]


@pytest.mark.parametrize(
    'loss',
    [
        KLDivergence(2.0),
        ReverseKL(2.0),
        GeneralizedJSD(0.3, 2.0),
        SoftCrossEntropy(2.0),
        SkewedKL(0.1, 2.0),
        SkewedReverseKL(0.1, 2.0),
        TotalVariation(2.0),
    ],
    ids=repr,
)
def test_all_classes_known_trains_as_the_live_teacher_does(loss):
    assert losses(loss, Top(cnn(8, 2), 4, 2.0)) == pytest.approx(losses(loss, cnn(8, 2)), rel=1e-5)


def test_a_complete_target_takes_any_loss_and_temperature():
    for loss in (KLDivergence(3.0), LogitStandardization(KLDivergence(3.0)), DIST()):
        assert losses(loss, Top(cnn(8, 2), 4, 2.0)) == pytest.approx(losses(loss, cnn(8, 2)), rel=1e-4)


def test_the_first_value_is_that_of_the_joined_classes():
    recorder = distil(KLDivergence(2.0), Top(cnn(8, 2), 2, 2.0))[1]
    x = next(iter(images()))[0]
    p, q = (torch.softmax(net(x).double() / 2.0, -1) for net in (cnn(8, 2).eval(), image_student().module.train()))
    ids = p.topk(2).indices
    p, q = (torch.cat([z.gather(-1, ids), 1.0 - z.gather(-1, ids).sum(-1, keepdim=True)], -1) for z in (p, q))
    assert recorder.batches[0]['kd'] == pytest.approx((4.0 * (p * (p.log() - q.log())).sum(-1).mean()).item(), rel=1e-5)


@pytest.mark.parametrize('kind', [Top, Draws])
@pytest.mark.parametrize('microbatch', [2, 3, 8])
def test_tokens_of_any_microbatch_size_give_the_same_numbers(kind, microbatch):
    def run(size):
        recorder = Recorder()
        model, data = TokenModel(), torch.utils.data.DataLoader(tokens(attention=True), 8)
        algorithm = Distillation(kind(TokenModel(seed=5), 3, 2.0), KLDivergence(2.0))
        train(model, data, [algorithm], [recorder], device_train_microbatch_size=size)
        return [batch['kd'] for batch in recorder.batches]

    assert run(microbatch) == pytest.approx(run(8), rel=1e-5)


def test_several_teachers_are_compared_apart():
    """The mean of the losses, by the teachers' weights, because parts of the classes have no mean logits."""
    pair = [Top(cnn(8, 2), 2, 2.0, 'a'), FrozenTeacher(cnn(8, 3), name='b')]
    together = distil(KLDivergence(2.0), pair, teacher_weights=[1.0, 3.0])[1].batches
    apart = distil(
        [
            Match(KLDivergence(2.0), teacher='a', weight=0.25, name='on a'),
            Match(KLDivergence(2.0), teacher='b', weight=0.75, name='on b'),
        ],
        [Top(cnn(8, 2), 2, 2.0, 'a'), FrozenTeacher(cnn(8, 3), name='b')],
    )[1].batches
    assert [b['kd'] for b in together] == pytest.approx([b['kd'] for b in apart], rel=1e-5)


@pytest.mark.parametrize(
    ('loss', 'said'),
    [
        (KLDivergence(4.0), 'temperature 2'),
        (Match(KLDivergence(2.0), temperature=Ramp(2.0, 1.0)), 'temperature'),
        (mse, 'no temperature'),
        (LogitStandardization(KLDivergence(2.0)), 'all 4 classes'),
        (DIST(temperature=2.0), 'all 4 classes'),
        (AdaptiveKL(temperature=2.0), 'all 4 classes'),
        (AlphaBetaDivergence(temperature=2.0), 'all 4 classes'),
        (MultiTemperature(KLDivergence(2.0)), 'all 4 classes'),
    ],
    ids=named,
)
def test_what_a_part_of_the_classes_cannot_give_is_refused(loss, said):
    with pytest.raises(LossError, match=said):
        losses(loss, Top(cnn(8, 2), 2, 2.0), max_duration='2ep')


@pytest.mark.parametrize('loss', [SkewedKL(0.1, 2.0), SkewedReverseKL(0.1, 2.0), TotalVariation(2.0)], ids=repr)
def test_what_joins_classes_is_taken_of_the_joined_ones(loss):
    x = next(iter(images()))[0]
    p, q = (torch.softmax(net(x).double() / 2.0, -1) for net in (cnn(8, 2).eval(), image_student().module.train()))
    ids = p.topk(2).indices
    p, q = (torch.cat([z.gather(-1, ids), 1.0 - z.gather(-1, ids).sum(-1, keepdim=True)], -1) for z in (p, q))
    expected = loss(2.0 * q.log(), 2.0 * p.log()).item()
    assert losses(loss, Top(cnn(8, 2), 2, 2.0))[0] == pytest.approx(expected, rel=1e-4)


def test_draws_serve_losses_that_are_an_expectation():
    assert losses(SoftCrossEntropy(2.0), Draws(cnn(8, 2), 2, 2.0))
    with pytest.raises(LossError, match='no expectation'):
        losses(ReverseKL(2.0), Draws(cnn(8, 2), 2, 2.0))


def test_a_subclass_that_does_more_is_not_taken_for_its_base():
    class Scaled(KLDivergence):
        def forward(self, student, teacher, mask=None):
            return 100 * super().forward(student, teacher, mask)

    with pytest.raises(LossError, match='all 4 classes'):
        losses(Scaled(2.0), Top(cnn(8, 2), 2, 2.0))
    with pytest.raises(LossError, match='no expectation'):
        losses(Scaled(2.0), Draws(cnn(8, 2), 2, 2.0))
