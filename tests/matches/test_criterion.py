"""Matches in a real Trainer: what is compared, of whom, when."""

import copy

import pytest
import torch
from composer.models import ComposerClassifier
from composer.optim import LinearScheduler
from torch import nn
from torch.utils.checkpoint import checkpoint

from composer_kd import ConfigError, FrozenTeacher, KLDivergence, Match, Ramp, kl_divergence
from composer_kd.losses import DKD, attention_transfer, fsp, hint, rkd, similarity_preserving
from tests.distilling import cnn, distil, image_student, images
from tests.helpers import (
    EventSpy,
    Recorder,
    mse,
    train,
    weights,
)


def test_the_loss_is_that_of_the_named_layers():
    """By hand: the features of both nets before the first step, through the projector as it was made."""
    project = nn.Conv2d(8, 16, 1)
    before, data = copy.deepcopy(project), images()
    model = image_student()
    fresh, teacher = copy.deepcopy(model.module), cnn(8, 2)
    _, recorder, _ = distil(
        [Match(hint, on=('4', 'module.4'), project=project, weight=3.0), Match(rkd, on='3', name='relation')],
        teacher,
        model,
        data,
    )
    x = next(iter(data))[0]
    expected_hint = mse(before(fresh[:5](x)), teacher[:5](x)).item()
    expected_relation = rkd(fresh[:4](x), teacher[:4](x)).item()
    logged = recorder.batches[0]
    assert logged['hint_4'] == pytest.approx(expected_hint, rel=1e-5)
    assert logged['relation'] == pytest.approx(expected_relation, rel=1e-5)
    assert logged['kd'] == pytest.approx(3 * expected_hint + expected_relation, rel=1e-5)
    assert logged['total'] == pytest.approx(0.1 * logged['task'] + 0.9 * logged['kd'], rel=1e-6)


def test_a_bare_loss_is_logged_as_before():
    _, recorder, _ = distil(KLDivergence())
    assert set(recorder.batches[0]) == {'total', 'task', 'kd'}


def test_a_match_on_logits_does_what_the_bare_loss_does():
    (bare, one, _), (matched, two, _) = distil(KLDivergence()), distil([Match(KLDivergence())])
    assert torch.equal(weights(bare.state.model), weights(matched.state.model))
    assert [batch['KLDivergence'] for batch in two.batches] == [batch['kd'] for batch in one.batches]


def test_several_layers_at_once():
    data, model, teacher = images(), image_student(), cnn(4, 2)
    fresh = copy.deepcopy(model.module)
    _, recorder, _ = distil([Match(fsp, on=(['0', '3'], ['0', '3']), name='flow')], teacher, model, data)
    x = next(iter(data))[0]
    expected = fsp([fresh[:1](x), fresh[:4](x)], [teacher[:1](x), teacher[:4](x)]).item()
    assert recorder.batches[0]['flow'] == pytest.approx(expected, rel=1e-5)


def test_one_layer_is_the_target_of_another():
    data, model, teacher = images(), image_student(), cnn(8, 2)
    fresh = copy.deepcopy(model.module)
    _, recorder, _ = distil([Match(attention_transfer, on=('4', '2'))], teacher, model, data)  # 4x4 learns from 8x8
    x = next(iter(data))[0]
    expected = attention_transfer(fresh[:5](x), teacher[:3](x)).item()
    assert recorder.batches[0]['attention_transfer_4'] == pytest.approx(expected, rel=1e-4)


def test_labels_reach_a_loss_that_asks_for_them():
    data, model, teacher = images(), image_student(), cnn(8, 2)
    fresh = copy.deepcopy(model.module)
    _, recorder, _ = distil([Match(DKD(beta=2.0), name='dkd')], teacher, model, data)
    x, y = next(iter(data))
    assert recorder.batches[0]['dkd'] == pytest.approx(DKD(beta=2.0)(fresh(x), teacher(x), y).item(), rel=1e-5)


def test_features_alone_need_no_matching_logits():
    """A teacher of other classes, or without any logits, teaches by its features."""
    with torch.random.fork_rng():
        other = nn.Sequential(*list(cnn(8, 2))[:6])
    distil([Match(similarity_preserving, on='4')], other)


def test_every_feature_of_the_right_size_learns():
    run, recorder, _ = distil([Match(hint, on='4', project='auto', weight=5.0)], max_duration='6ep', optimizer=None)
    assert recorder.batches[-1]['hint_4'] < 0.7 * recorder.batches[0]['hint_4']
    assert run.state.model.composer_kd.hint_4_0.projector.layer.weight.shape == (16, 8, 1, 1)


def test_each_teacher_has_its_own_projector_and_the_losses_are_averaged():
    data, model, teachers = images(), image_student(), [cnn(8, 2), cnn(6, 3)]
    fresh = copy.deepcopy(model.module)
    kept = {}
    spy = EventSpy('fit_start', lambda state: kept.update(copy.deepcopy(dict(state.model.composer_kd.items()))))
    _, recorder, _ = distil(
        [Match(hint, on='4', project='auto')], teachers, model, data, callbacks=[spy], teacher_weights=[3.0, 1.0]
    )
    x = next(iter(data))[0]
    values = [
        mse(kept[f'hint_4_{i}']['projector'].layer(fresh[:5](x)), t[:5](x)).item() for i, t in enumerate(teachers)
    ]
    assert values[0] != pytest.approx(values[1])
    assert recorder.batches[0]['hint_4'] == pytest.approx(0.75 * values[0] + 0.25 * values[1], rel=1e-5)


def test_a_match_is_bound_to_a_teacher_by_name():
    data, model = images(), image_student()
    fresh, big, small = copy.deepcopy(model.module), cnn(8, 2), cnn(6, 3)
    teachers = [FrozenTeacher(big, name='big'), FrozenTeacher(small, name='small')]
    matches = [
        Match(similarity_preserving, on='4', teacher='small', name='sp'),
        Match(mse, teacher='big'),
        KLDivergence(),
    ]
    _, recorder, _ = distil(matches, teachers, model, data)
    x = next(iter(data))[0]
    logged = recorder.batches[0]
    assert logged['sp'] == pytest.approx(similarity_preserving(fresh[:5](x), small[:5](x)).item(), rel=1e-4)
    assert logged['mse'] == pytest.approx(mse(fresh(x), big(x)).item(), rel=1e-5)
    mean = (big(x) + small(x)) / 2
    assert logged['KLDivergence'] == pytest.approx(kl_divergence(fresh(x), mean).item(), rel=1e-4)


def test_a_match_rests_while_its_teacher_is_not_drawn():
    teachers = [FrozenTeacher(cnn(8, 2), name='big'), FrozenTeacher(cnn(6, 3), name='small')]
    _, recorder, algorithm = distil(
        [Match(mse, teacher='big'), Match(hint, on='4', project='auto')],
        teachers,
        data=images(64),
        n_teachers_to_sample=1,
    )
    drawn = [algorithm.pool.draw(17, number) for number in range(8)]
    assert ['mse' in batch for batch in recorder.batches] == [teacher == (0,) for teacher in drawn]
    assert {len(set(drawn))} == {2}


def test_weights_and_temperatures_follow_their_schedules():
    rising = Match(mse, weight=Ramp(0.0, 1.0, '4ba', start='2ba'))
    falling = Match(hint, on='6', project='auto', weight=LinearScheduler(1.0, 0.0))
    _, recorder, _ = distil([rising, falling], data=images(64))
    for number, batch in enumerate(recorder.batches):
        up, down = min(1.0, max(0.0, (number - 2) / 2)), 1 - number / 8
        assert batch['kd'] == pytest.approx(up * batch['mse'] + down * batch['hint_6'], rel=1e-5)


@pytest.mark.parametrize('loss', [KLDivergence(), kl_divergence], ids=['module', 'function'])
def test_a_temperature_is_scheduled(loss):
    data, model, teacher = images(), image_student(), cnn(8, 2)
    fresh = copy.deepcopy(model.module)
    rising = Match(loss, temperature=lambda state: 1.0 + state.timestamp.batch.value, name='kl')
    _, recorder, _ = distil([rising], teacher, model, data)
    x = next(iter(data))[0]
    assert recorder.batches[0]['kl'] == pytest.approx(kl_divergence(fresh(x), teacher(x), 1.0).item(), rel=1e-5)
    _, constant, _ = distil([Match(KLDivergence(3.0), name='kl')], teacher, data=data)
    assert recorder.batches[2]['kl'] != pytest.approx(constant.batches[2]['kl'])


def test_outside_the_window_the_loss_is_the_models_own():
    """And hooks see nothing."""
    _, recorder, algorithm = distil(
        [Match(hint, on='4', project='auto')], data=images(64), start_dur='2ba', end_dur='5ba'
    )
    assert ['kd' in batch for batch in recorder.batches] == [False] * 2 + [True] * 3 + [False] * 3
    plain = Recorder()
    train(image_student(), images(64), [], [plain])
    assert recorder.batches[:2] == plain.batches[:2]
    assert not algorithm.criterion.hooks._found


class Blocks(nn.Module):
    """A net whose first half may be checkpointed."""

    def __init__(self, reentrant=None):
        super().__init__()
        net = cnn(4, 1)
        self.body, self.head, self.reentrant = net[:5], net[5:], reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.head(self.body(x))
        return self.head(checkpoint(self.body, x.requires_grad_(self.reentrant), use_reentrant=self.reentrant))


MATCHES = (('body.4', '4'), ('body.2', '2'))


def in_blocks(reentrant=None, **options):
    matches = [Match(hint, on=on, project='auto', name=on[1]) for on in MATCHES]
    run, recorder, _ = distil(matches, model=ComposerClassifier(Blocks(reentrant), num_classes=4), **options)
    return recorder.batches, weights(run.state.model)


def test_activation_checkpointing_changes_nothing():
    (plain, theirs), (checkpointed, ours) = in_blocks(), in_blocks(reentrant=False)
    assert checkpointed == plain
    assert torch.equal(ours, theirs)


def test_a_layer_inside_a_reentrant_checkpoint_is_refused():
    with pytest.raises(ConfigError, match=r"'body.2' of the student has no gradient.*use_reentrant=False"):
        in_blocks(reentrant=True)


def test_a_compiled_student_is_seen_too():
    plain, theirs = in_blocks(data=images(64), start_dur='2ba', end_dur='6ba')
    compiled, ours = in_blocks(data=images(64), start_dur='2ba', end_dur='6ba', compile_config={'backend': 'eager'})
    torch._dynamo.reset()
    assert compiled == plain
    assert torch.equal(ours, theirs)
