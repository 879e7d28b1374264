"""Layers of the student that teach others of its layers in the same forward pass, in real Trainers."""

import copy

import pytest
import torch
import torch.nn.functional as F
from composer.algorithms import BlurPool
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import ConfigError, Distillation, EMATeacher, FrozenTeacher, KLDivergence, Match
from composer_kd.losses import VID, attention_transfer, hint, pkt, sad
from tests.helpers import EventSpy, Recorder, TokenDataset, TokenModel, loader, mlp, mse, pairs, train, weights
from tests.helpers import student as of_pairs


def maps_net(dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*first, nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4))


def student(net=None):
    return ComposerClassifier(net or maps_net(), num_classes=4)


def images(n=24):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(n, 1, 7, 7, generator=generator), torch.randint(4, (n,), generator=generator)


def run(matches, model=None, teachers=(), data=None, seen=(), **options):
    algorithm = Distillation(list(teachers), matches)
    return train(model or student(), data or loader(*images()), [algorithm], seen, **options), algorithm


OWN = {'on': ('1', '4'), 'teacher': 'student'}


def test_training_is_that_of_a_plain_loop():
    done, _ = run(Match(attention_transfer, weight=50.0, **OWN), max_duration='2ep')
    net, (x, y) = maps_net(), images()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for start in [0, 8, 16] * 2:
        early = net[1](net[0](x[start : start + 8]))
        late = net[4](net[3](early))
        ours = F.adaptive_avg_pool2d(early.square().mean(1), 2)
        theirs = late.detach().square().mean(1)
        ours, theirs = (F.normalize(one.flatten(1)) for one in (ours, theirs))
        task = F.cross_entropy(net[6](net[5](late)), y[start : start + 8])
        optimizer.zero_grad()
        (0.1 * task + 0.9 * 50.0 * (ours - theirs).square().mean()).backward()
        optimizer.step()
    torch.testing.assert_close(weights(done.state.model), weights(net), rtol=1e-5, atol=1e-6)


def test_the_student_runs_once_and_no_gradient_reaches_the_layer_that_teaches():
    calls, model = [], student()
    model.module[0].register_forward_hook(lambda *_: calls.append(1))
    moved = {}
    spy = EventSpy(
        'after_backward', lambda state: moved.update({n: p.grad.abs().sum() for n, p in model.named_parameters()})
    )
    algorithm = Distillation([], Match(hint, project='auto', **OWN), org_loss_weight=0.0)
    train(model, loader(*images(8)), [algorithm], [spy], max_duration='1ba')
    assert len(calls) == 1
    assert moved['module.0.weight'] > 0
    assert moved['module.3.weight'] == 0


def test_the_gradient_ends_at_the_layer_that_teaches():
    """Also for a function of a user's own, which does not detach."""
    model, moved = student(), {}
    spy = EventSpy(
        'after_backward', lambda state: moved.update({n: p.grad.abs().sum() for n, p in model.named_parameters()})
    )
    own = Match(lambda ours, theirs: (ours.mean((1, 2, 3)) - theirs.mean((1, 2, 3))).square().mean(), name='own', **OWN)
    train(model, loader(*images(8)), [Distillation([], own, org_loss_weight=0.0)], [spy], max_duration='1ba')
    assert moved['module.0.weight'] > 0
    assert moved['module.3.weight'] == 0


@pytest.mark.parametrize(
    ('loss', 'options'),
    [
        (attention_transfer, {}),
        (sad, {}),
        (pkt, {}),
        (hint, {'project': 'auto'}),
        (VID(), {'name': 'VID'}),
    ],
)
def test_it_equals_a_frozen_copy_at_the_first_batch(loss, options):
    """Of a student without dropout, and for losses on maps, on pooled features, with projectors, and learned ones."""
    own, other = Recorder(), Recorder()
    settings = {'on': ('1', '4'), **options, 'name': 'one'}
    run(Match(copy.deepcopy(loss), teacher='student', **settings), seen=[own])
    run(Match(copy.deepcopy(loss), **settings), teachers=[FrozenTeacher(maps_net())], seen=[other])
    assert own.batches[0]['one'] > 0
    assert own.batches[0]['one'] == pytest.approx(other.batches[0]['one'], rel=1e-5)


@pytest.mark.parametrize('loss', [attention_transfer, pkt])
def test_tokens_with_padding_in_microbatches(loss):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (16, 6), generator=generator)
    mask = (torch.arange(6) < torch.tensor([2, 6]).repeat(8).unsqueeze(-1)).long()
    data = TokenDataset(input_ids=ids, labels=ids, attention_mask=mask)
    seen = []
    for teachers, teacher in (([], 'student'), ([FrozenTeacher(TokenModel(seed=1))], None)):
        seen.append(Recorder())
        match = Match(loss, on=('embed', 'head'), teacher=teacher, name='one')
        loaded = torch.utils.data.DataLoader(data, 8)
        run(match, TokenModel(seed=1), teachers, loaded, [seen[-1]], device_train_microbatch_size=2)
    assert seen[0].batches[0]['one'] > 0
    assert seen[0].batches[0]['one'] == pytest.approx(seen[1].batches[0]['one'], rel=1e-5)


def test_the_microbatch_size_changes_nothing_and_a_resume_goes_on_bit_for_bit(tmp_path):
    def go(**options):
        match = Match(hint, project='auto', **OWN)
        return weights(run([match], **options)[0].state.model)

    whole, parts = go(), go(device_train_microbatch_size=2)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)
    go(max_duration='2ba', save_folder=str(tmp_path), save_interval='1ba')
    assert torch.equal(go(load_path=str(tmp_path / 'latest-rank0.pt')), whole)


def test_it_goes_with_other_teachers_matches_and_sampling():
    seen, alone = Recorder(), Recorder()
    others = [KLDivergence(2.0), Match(hint, on='4', name='hint')]
    teachers = [maps_net(), EMATeacher('2ba'), maps_net()]
    model = student(maps_net())
    own = Match(attention_transfer, name='own', weight=2.0, **OWN)
    algorithm = Distillation(teachers, [*others, own], n_teachers_to_sample=1, run_teacher_on_eval=True)
    train(model, loader(*images()), [algorithm], [seen], eval_dataloader=loader(*images(8)))
    run(Match(attention_transfer, name='own', **OWN), seen=[alone])
    assert seen.batches[0]['own'] == pytest.approx(alone.batches[0]['own'], rel=1e-5)
    first = seen.batches[0]
    assert first['kd'] == pytest.approx(first['KLDivergence'] + first['hint'] + 2.0 * first['own'], rel=1e-5)
    assert 'metrics/eval/agreement/top1' in algorithm.final_metrics()


def test_outside_the_window_nothing_is_compared():
    seen = Recorder()
    algorithm = Distillation([], Match(attention_transfer, name='own', **OWN), start_dur='1ba', end_dur='2ba')
    train(student(), loader(*images()), [algorithm], [seen])
    assert ['own' in batch for batch in seen.batches] == [False, True, False]


@pytest.mark.parametrize('order', [1, -1])
def test_surgery_before_or_after_it_reaches_both_layers(order):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)]
        net = nn.Sequential(nn.Conv2d(1, 16, 3, stride=2), nn.Conv2d(16, 16, 2), *head)
    seen = Recorder()
    own = Distillation([], Match(attention_transfer, on=('0', '1'), teacher='student', name='own'))
    train(student(net), loader(*images()), [own, BlurPool(min_channels=1)][::order], [seen])
    assert type(net[0]).__name__ == 'BlurConv2d'
    assert seen.batches[0]['own'] > 0


def test_a_layer_that_cannot_learn_is_refused_and_one_that_teaches_may_be_frozen():
    net = maps_net()
    for parameter in net[0].parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="The layer '0' of the student has no gradient"):
        run(Match(attention_transfer, on=('0', '4'), teacher='student'), student(net))
    seen = Recorder()
    run(Match(attention_transfer, on=('4', '0'), teacher='student', name='own'), student(net), seen=[seen])
    assert seen.batches[0]['own'] > 0


@pytest.mark.parametrize(
    ('match', 'message'),
    [
        (lambda: Match(mse, teacher='student'), r"compares logits of the student with itself, .*on=\('layer1'"),
        (lambda: Match(mse, on='2', teacher='student'), "compares '2' of the student with itself"),
        (lambda: Match(mse, on='2'), 'No teachers'),
        (lambda: Match(mse, teacher='big'), 'No teachers'),
    ],
)
def test_what_would_compare_nothing_is_refused(match, message):
    with pytest.raises(ConfigError, match=message):
        Distillation([], match())


def test_other_refusals():
    named = FrozenTeacher(mlp(), name='student')
    with pytest.raises(ConfigError, match="'student' is the student itself, and a teacher has that name too"):
        Distillation(named, Match(mse, on=('0', '2'), teacher='student'))
    with pytest.raises(ConfigError, match='run_teacher_on_eval: there is no teacher'):
        Distillation([], Match(mse, on=('0', '2'), teacher='student'), run_teacher_on_eval=True)
    with pytest.raises(ConfigError, match="no layer '9'"):
        train(of_pairs(), loader(*pairs()), [Distillation([], Match(mse, on=('0', '9'), teacher='student'))])
