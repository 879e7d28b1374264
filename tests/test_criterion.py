"""Matches in a real Trainer."""

import copy
import gc
import weakref

import pytest
import torch
from composer.models import ComposerClassifier
from composer.optim import CosineAnnealingScheduler, DecoupledAdamW, LinearScheduler
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import ConfigError, Distillation, FrozenTeacher, KLDivergence, LossError, Match, Ramp, kl_divergence
from composer_kd.data.indexed import Indexed
from composer_kd.losses import CRD, DKD, RKD, VID, ReviewKD, attention_transfer, fsp, hint, rkd, similarity_preserving
from composer_kd.models.classifier import IndexedClassifier
from composer_kd.observation import Observation
from composer_kd.observing import observe
from tests.helpers import (
    EventSpy,
    Recorder,
    TokenDataset,
    TokenModel,
    loader,
    mse,
    pairs,
    sgd,
    student,
    train,
    trainer,
    weights,
)


def cnn(width, seed, norm=False):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1),
            nn.BatchNorm2d(width) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(2 * width, 4),
        )


def images(n=24, batch_size=8, indexed=False):
    generator = torch.Generator().manual_seed(5)
    dataset = TensorDataset(torch.randn(n, 3, 8, 8, generator=generator), torch.arange(n) % 4)
    return DataLoader(Indexed(dataset) if indexed else dataset, batch_size=batch_size)


def image_student(indexed=False, **options):
    make = IndexedClassifier if indexed else ComposerClassifier
    return make(cnn(4, 1, **options), num_classes=4)


def distil(matches, teachers=None, model=None, data=None, **options):
    model, recorder = model or image_student(), Recorder()
    settings = {
        key: options.pop(key)
        for key in ('start_dur', 'end_dur', 'n_teachers_to_sample', 'teacher_weights')
        if key in options
    }
    algorithm = Distillation(teachers or cnn(8, 2), matches, **settings)
    run = train(model, data or images(), [algorithm], [recorder, *options.pop('callbacks', ())], **options)
    return run, recorder, algorithm


# What is compared -----------------------------------------------------------------------------------------------------


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


# Several teachers -----------------------------------------------------------------------------------------------------


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


# Over time ------------------------------------------------------------------------------------------------------------


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
    assert not algorithm.criterion.taps._found


# What is learned ------------------------------------------------------------------------------------------------------

LEARNERS = {
    'projector': lambda: [Match(hint, on='4', project='auto')],
    'own projector': lambda: [Match(hint, on='4', project=nn.Conv2d(8, 16, 1))],
    'VID': lambda: [Match(VID(), on='4')],
    'ReviewKD': lambda: [Match(ReviewKD(), on=(['2', '4'], ['2', '4']))],
    'CRD': lambda: [Match(CRD(24, negatives=8), on='4')],
}


@pytest.mark.parametrize('name', LEARNERS)
def test_what_is_learned_is_trained_saved_and_resumed_bit_by_bit(name, tmp_path):
    def run(folder, duration, **options):
        torch.manual_seed(7)  # a user's own projector
        model = image_student(indexed=True, norm=True)
        optimizer = DecoupledAdamW(model.parameters(), lr=1e-2)
        run, recorder, _ = distil(
            LEARNERS[name](), model=model, data=images(indexed=True), max_duration=duration, optimizer=optimizer,
            schedulers=CosineAnnealingScheduler(), save_folder=str(folder), **options,
        )  # fmt: skip
        return run.state.model.state_dict(), recorder.batches

    straight, losses = run(tmp_path / 'a', '4ep')
    resumed, rest = run(tmp_path / 'b', '4ep', load_path=str(tmp_path / 'a' / 'ep2-ba6-rank0.pt'))
    assert losses[6:] == rest
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)
    start, _ = run(tmp_path / 'c', '1ba')
    extras = [key for key in straight if key.startswith('composer_kd.') and 'num_batches' not in key]
    assert extras
    assert all(not torch.equal(straight[key], start[key]) for key in extras)


def test_a_learning_rate_of_its_own_follows_the_schedule_too():
    model = image_student()
    run, _, _ = distil(
        [Match(hint, on='4', project='auto', lr=0.5), Match(VID(), on='2')], model=model, optimizer=sgd(model, 0.1),
        schedulers=LinearScheduler(1.0, 0.0, t_max='2dur'),
    )  # fmt: skip
    groups = run.state.optimizers[0].param_groups
    now = groups[0]['lr']
    assert now < 0.1
    assert [group['lr'] for group in groups] == pytest.approx([now, 5 * now, now])
    assert [len(group['params']) for group in groups] == [6, 2, 4]


def test_projectors_begin_alike_whatever_came_before():
    def projector():
        torch.rand(torch.randint(1, 99, ()).item())
        model = image_student()
        trainer(model, images(), [Distillation(cnn(8, 2), [Match(hint, on='4', project='auto')])]).close()
        return model.composer_kd.hint_4_0.projector.layer.weight

    assert torch.equal(projector(), projector())


def test_measuring_shapes_changes_nothing():
    """Not the student, its mode and statistics, nor the order of the data."""
    model = image_student(norm=True)
    before = copy.deepcopy(model.state_dict())
    run = trainer(model, images(), [Distillation(cnn(8, 2, norm=True), [Match(hint, on='4', project='auto')])])
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert model.training
    assert not any(part._forward_hooks for part in model.modules())
    run.close()


def test_a_model_that_looks_at_its_inputs_is_measured_for_real():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = cnn(8, 2)

        def forward(self, x):
            return self.net(x if x.sum().item() < 1e9 else -x)

    run, _, _ = distil([Match(hint, on=('4', 'net.4'), project='auto')], Looks())
    assert run.state.model.composer_kd.hint_4_0.projector.layer.out_channels == 16


def test_close_leaves_the_student_as_it_was():
    model = image_student()
    keys = list(model.state_dict())
    _, _, algorithm = distil([Match(hint, on='4', project='auto'), Match(VID(), on='2')], model=model)
    assert list(model.state_dict()) != keys
    algorithm.close()
    assert list(model.state_dict()) == keys
    assert not hasattr(model, 'composer_kd')
    train(model, images(), [Distillation(cnn(8, 2), [Match(hint, on='4', project='auto')])])


def test_hooks_come_off_when_training_ends_and_on_again_when_it_goes_on():
    model, recorder = image_student(), Recorder()
    run = trainer(model, images(), [Distillation(cnn(8, 2), [Match(rkd, on='4')])], [recorder])
    run.fit()
    assert not any(part._forward_hooks for part in model.modules())
    run.fit(duration='1ep')
    assert len(recorder.batches) == 6
    assert 'rkd_4' in recorder.batches[-1]
    run.close()


def test_nothing_of_a_batch_is_kept():
    model, seen = image_student(), []
    hook = model.module[4].register_forward_hook(lambda module, args, output: seen.append(weakref.ref(output)))
    alive = []

    def look(state):
        state.outputs = None  # Composer's own
        gc.collect()
        alive.append([reference() is not None for reference in seen])

    distil(
        [Match(RKD(), on='4'), Match(hint, on='4', project='auto')],
        model=model,
        callbacks=[EventSpy('batch_end', look)],
    )
    hook.remove()
    assert alive
    assert not any(alive[-1])


# Microbatches ---------------------------------------------------------------------------------------------------------


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


def tokens(attention):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (16, 6), generator=generator)
    labels = torch.where(torch.rand(16, 6, generator=generator) < 0.3, ids, -100)
    labels[:, 0] = ids[:, 0]
    lengths = torch.randint(2, 7, (16, 1), generator=generator)
    mask = (torch.arange(6) < lengths).long() if attention else torch.ones(16, 6, dtype=torch.long)
    return TokenDataset(input_ids=ids, labels=torch.where(mask == 1, labels, -100), attention_mask=mask)


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


# Errors ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('match', 'error', 'message'),
    [
        (lambda: Match(hint, on='44'), ConfigError, "the student has no layer '44'; did you mean '4'"),
        (lambda: Match(hint, on=('4', 'layer4')), ConfigError, "the teacher 'Sequential' has no layer 'layer4'"),
        (lambda: Match(hint, on='4'), LossError, r"'hint_4' fails.*\(8, 8, 4, 4\).*\(8, 16, 4, 4\).*project='auto'"),
        (lambda: Match(CRD(24), on='4'), LossError, "'CRD_4' needs the samples' indices.*Indexed"),
        (lambda: Match(CRD(10, negatives=4), on='4'), LossError, "needs the samples' indices"),
        (lambda: Match(hint, on=('4', '4'), project=nn.Conv2d(8, 9, 1)), LossError, r'\(8, 9, 4, 4\)'),
    ],
)
def test_errors_come_before_the_first_step(match, error, message):
    model = image_student()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        distil([match()], model=model)
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in before)


def test_names_the_match_of_a_nan():
    def broken(student, teacher):
        return (student.mean() - teacher.mean()) * float('nan')

    with pytest.raises(LossError, match='culprit is not finite at batch 0'):
        distil([Match(rkd, on='4'), Match(broken, on='4', name='culprit')])


def test_relations_of_a_single_sample():
    with pytest.raises(LossError, match=r"'rkd_4' fails at batch 3.*at least 2, got 1. Use drop_last=True"):
        distil([Match(rkd, on='4')], data=images(25))


def test_labels_where_there_are_none():
    data = DataLoader(TokenDataset(input_ids=torch.randint(11, (8, 6))), batch_size=4)
    with pytest.raises(LossError, match=r'DKD. needs labels, one class per row'):
        train(TokenModel(seed=1), data, [Distillation(TokenModel(seed=0), [Match(DKD())])])


def test_shapes_that_nothing_joins():
    class Tokens(nn.Module):
        def __init__(self, length):
            super().__init__()
            self.cut, self.head = nn.Unflatten(1, (length, 6 // length)), nn.Linear(6, 4)

        def forward(self, x):
            return self.head(self.cut(x).flatten(1))

    with pytest.raises(ConfigError, match=r"student's \(2, 3, 2\) and the teacher's \(2, 2, 3\)"):
        train(student(Tokens(3)), loader(*pairs()), [Distillation(Tokens(2), [Match(hint, on='cut', project='auto')])])


def test_auto_needs_the_dataloader_to_train_but_not_to_evaluate():
    model = image_student()
    run = trainer(
        model, None, [Distillation(cnn(8, 2), [Match(hint, on='4', project='auto')])], eval_dataloader=images()
    )
    run.eval()
    with pytest.raises(ConfigError, match='shapes are measured on the first samples of the train_dataloader'):
        run.fit(train_dataloader=images(), duration='1ba')
    run.close()


def test_a_frozen_layer_cannot_learn():
    model = image_student()
    for parameter in model.module[0].parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match=r"'0' of the student has no gradient.*use_reentrant=False"):
        distil([Match(hint, on='0', project='auto')], model=model)


def test_a_shared_loss_keeps_its_own_temperature():
    loss, data, model, teacher = KLDivergence(4.0), images(), image_student(), cnn(8, 2)
    fresh = copy.deepcopy(model.module)
    _, recorder, _ = distil([Match(loss, name='one', temperature=1.0), Match(loss, name='four')], teacher, model, data)
    x = next(iter(data))[0]
    for name, temperature in (('one', 1.0), ('four', 4.0)):
        expected = kl_divergence(fresh(x), teacher(x), temperature).item()
        assert recorder.batches[0][name] == pytest.approx(expected, rel=1e-5)
    assert loss.temperature == 4.0


def test_what_is_in_the_optimizer_already_is_not_stepped_twice():
    project, model = nn.Conv2d(8, 16, 1), image_student()
    optimizer = torch.optim.SGD([*model.parameters(), *project.parameters()], lr=0.1)
    with pytest.raises(ConfigError, match="What Match 'hint_4' learns is in the optimizer already"):
        distil([Match(hint, on='4', project=project)], model=model, optimizer=optimizer)


def test_an_unbuilt_loss_is_not_shared_either():
    loss = VID()
    with pytest.raises(ConfigError, match="'VID_2' and 'VID_4' share a module that learns"):
        Distillation(cnn(8, 2), [Match(loss, on='2'), Match(loss, on='4')])


def test_what_was_learned_in_one_run_is_not_carried_into_the_next():
    algorithm = Distillation(cnn(8, 2), [Match(hint, on='4', project='auto')])
    train(image_student(), images(), [algorithm])
    with pytest.raises(ConfigError, match='make a new one for a new run'):
        train(image_student(), images(), [algorithm])
    plain = Distillation(cnn(8, 2), [Match(rkd, on='4')])
    for _ in range(2):  # nothing learned, nothing carried over
        train(image_student(), images(), [plain])


def test_features_are_not_spread_over_one_another():
    def my_mse(student, teacher):
        return (student - teacher).square().mean()

    with pytest.raises(LossError, match=r"'my_mse_4' compares \(8, 8, 4, 4\).*\(8, 8, 1, 1\).*any_shape = True"):
        distil([Match(my_mse, on=('4', '5'))], cnn(4, 2))


@pytest.mark.parametrize('loss', [nn.MSELoss(), mse])
def test_torch_losses_say_both_shapes_too(loss):
    with pytest.raises(
        LossError, match=r"'own' fails.*\(8, 8, 4, 4\) of the student and \(8, 16, 4, 4\).*project='auto'"
    ):
        distil([Match(loss, on='4', name='own')])


def test_lists_of_hidden_states_leave_padding_out():
    def both(student, teacher):
        return sum(mse(ours, theirs) for ours, theirs in zip(student, teacher))

    data, recorder = DataLoader(tokens(attention=True), batch_size=8), Recorder()
    matches = [Match(both, on=(['embed'], ['embed']), name='list'), Match(hint, on='embed', name='single')]
    train(
        TokenModel(seed=1),
        data,
        [Distillation(TokenModel(seed=0), matches)],
        [recorder],
        device_train_microbatch_size=3,
    )
    for batch in recorder.batches:
        assert batch['list'] == pytest.approx(batch['single'], rel=1e-5)


def test_a_triple_of_another_kind_stays_a_triple():
    class Lengths(TokenModel):
        """Batches of inputs, lengths, and labels."""

        def forward(self, batch):
            ids, lengths, _ = batch
            return self.head(self.embed(ids)).mean(1) * lengths.unsqueeze(1)

        def loss(self, outputs, batch):
            return nn.functional.cross_entropy(outputs, batch[2])

    dataset = TensorDataset(torch.randint(11, (8, 6)), torch.arange(8), torch.randint(11, (8,)))
    train(Lengths(seed=1), DataLoader(dataset, batch_size=4), [Distillation(Lengths(seed=0), KLDivergence())])


@pytest.mark.parametrize(
    'make',
    [
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=9),
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 5),
    ],
    ids=['LambdaLR', 'OneCycleLR', 'StepLR', 'CosineAnnealingWarmRestarts'],
)
def test_torch_schedulers_take_the_new_group_along(make):
    model = image_student()
    optimizer = sgd(model)
    matches = [Match(hint, on='4', project='auto')]
    run, _, _ = distil(matches, model=model, optimizer=optimizer, schedulers=make(optimizer), max_duration='2ep')
    ours, theirs = (group['lr'] for group in run.state.optimizers[0].param_groups)
    assert theirs == pytest.approx(ours)
    assert ours != 0.1


def test_close_leaves_the_optimizer_as_it_was(tmp_path):
    model = image_student()
    optimizer = sgd(model)
    _, _, algorithm = distil([Match(hint, on='4', project='auto')], model=model, optimizer=optimizer)
    algorithm.close()
    assert len(optimizer.param_groups) == 1
    assert len(optimizer.state) == 6
    train(model, images(), [], optimizer=optimizer, save_folder=str(tmp_path))


def test_building_behind_a_projector_does_not_change_its_statistics():
    project = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))
    before = copy.deepcopy(project.state_dict())
    run = trainer(image_student(), images(), [Distillation(cnn(8, 2), [Match(VID(), on='4', project=project)])])
    assert all(torch.equal(before[key], value) for key, value in project.state_dict().items())
    run.close()


# Outside a Trainer ----------------------------------------------------------------------------------------------------


def test_observe_in_a_plain_loop_does_what_a_trainer_does():
    project = nn.Conv2d(8, 16, 1)
    own, net, teacher = copy.deepcopy(project), cnn(4, 1), cnn(8, 2).eval()
    optimizer = torch.optim.SGD([*net.parameters(), *own.parameters()], lr=0.1, momentum=0.9)
    for x, y in images():
        seen = observe(net, x, ['4'])
        with torch.no_grad():
            shown = observe(teacher, (x, y), ['4'])
        kd = KLDivergence()(seen.logits, shown.logits) + 2.0 * hint(own(seen.features['4']), shown.features['4'])
        optimizer.zero_grad()
        (0.1 * nn.functional.cross_entropy(seen.logits, y) + 0.9 * kd).backward()
        optimizer.step()
    run, _, _ = distil([KLDivergence(), Match(hint, on='4', project=project, weight=2.0)], teacher)
    torch.testing.assert_close(weights(net), weights(run.state.model.module), rtol=1e-4, atol=1e-6)
    assert not any(part._forward_hooks for part in net.modules())


def test_observe_without_logits():
    seen = observe(nn.Sequential(nn.Flatten(0)), torch.zeros(2, 3), ['0'])
    assert isinstance(seen, Observation)
    assert seen.features['0'].shape == (6,)
