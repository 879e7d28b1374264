import copy
import inspect
import math
import os
import warnings

import pytest
import torch
import torch.nn.functional as F

from composer_kd.losses import CRD, _memory_bank
from composer_kd.losses._memory_bank import others, scores
from tests.launching import on_ranks

N = 40


def crd(seed=0, **settings):
    settings = {'dim': 8, 'negatives': 12, 'temperature': 0.3, **settings}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CRD(N, 6, 5, **settings)


def batch(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(size, 6, generator=generator), torch.randn(size, 5, generator=generator)
    return student, teacher, torch.randperm(N, generator=generator)[:size]


def rows(which, seen):
    return [part[which] for part in seen]


def state(loss):
    return {name: value.clone() for name, value in loss.state_dict().items()}


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def step(loss, optimizer, seen, sizes=(8,)):
    """One batch in microbatches of these sizes, as Composer does it: the mean of the whole batch."""
    total, start = 0.0, 0
    for size in sizes:
        value = loss(*rows(slice(start, start + size), seen)) * size / len(seen[2])
        value.backward()
        total, start = total + value.item(), start + size
    optimizer.step()
    optimizer.zero_grad()
    loss.update()
    return total


def train(loss, first, last, sizes=(8,)):
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
    return [step(loss, optimizer, batch(seed=seed), sizes) for seed in range(first, last)]


def test_by_hand():
    """One negative, embeddings set by hand: n = 2, so the other sample is it."""
    loss = CRD(2, 2, 2, dim=2, negatives=1, temperature=1.0)
    for head in (loss.student_head, loss.teacher_head):
        head.weight.data, head.bias.data = torch.eye(2), torch.zeros(2)
    loss.teacher_memory.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    loss.student_memory.copy_(torch.tensor([[0.0, 1.0], [-1.0, 0.0]]))
    value = loss(torch.tensor([[5.0, 0.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([0]))

    def h(score):
        p = math.exp(score) / (2 * math.exp(1 / (2 * 2)))
        return p / (p + 1 / 2)

    # student (1, 0) against teacher memory: own 1, other 0; teacher (0, 1) against student memory: own 1, other 0
    by_hand = -2 * math.log(h(1.0)) - 2 * math.log(1 - h(0.0))
    assert value.item() == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize(('dim', 'temperature'), [(128, 0.07), (64, 0.1)])
def test_normaliser_is_what_the_initial_memory_gives(dim, temperature):
    loss = CRD(20000, dim=dim, temperature=temperature)
    anchors = F.normalize(torch.randn(200, dim, generator=torch.Generator().manual_seed(0)), dim=1)
    for memory in (loss.student_memory, loss.teacher_memory):
        assert memory.var().item() == pytest.approx(1 / dim, rel=0.01)
        estimate = (anchors @ memory.T / temperature).exp().mean().item()
        assert estimate == pytest.approx(math.exp(1 / (2 * dim * temperature**2)), rel=0.02)


def test_defaults_are_those_of_the_paper():
    defaults = {name: p.default for name, p in inspect.signature(CRD).parameters.items()}
    assert {'dim': 128, 'negatives': 16384, 'temperature': 0.07, 'momentum': 0.5}.items() <= defaults.items()


def test_draws_are_uniform_and_never_the_sample_itself():
    index = torch.arange(50)
    drawn = torch.stack([others(index, 400, 50, torch.tensor(time)) for time in range(4)])
    assert drawn.min() == 0
    assert drawn.max() == 49
    assert not (drawn == index.view(1, -1, 1)).any()
    counts = torch.zeros(50, 50)  # of each other sample, for each sample: 4 * 400 / 49 expected
    for i in range(50):
        counts[i] = torch.bincount(drawn[:, i].flatten(), minlength=50)
    expected = 4 * 400 / 49
    apart = (counts[~torch.eye(50, dtype=torch.bool)] - expected).square() / expected
    freedom = 50 * 48
    assert abs(apart.sum().item() - freedom) < 5 * math.sqrt(2 * freedom)  # neither too uneven nor too even


def test_draws_of_neighbours_and_of_successive_batches_are_independent():
    index = torch.arange(6)
    first, second = (others(index, 20000, 1000, torch.tensor(time)) for time in (0, 1))
    for one, other in (
        (first[0], first[1]),
        (first[0], second[0]),
        (first[0], second[1]),
        (first[0, 1:], first[0, :-1]),
    ):
        same = (one == other).float().mean().item()  # expected: 1 in 1000
        assert 0.0002 < same < 0.0025


def test_draws_leave_the_random_state_alone():
    before = torch.get_rng_state()
    loss = CRD(N, dim=8)
    others(torch.arange(3), 5, N, loss.batches)
    assert torch.equal(torch.get_rng_state(), before)


def test_memories_start_the_same_on_every_rank():
    torch.manual_seed(1)
    one = CRD(N, dim=8)
    torch.manual_seed(2)
    other = CRD(N, dim=8)
    assert torch.equal(one.student_memory, other.student_memory)
    assert torch.equal(one.teacher_memory, other.teacher_memory)
    assert not torch.equal(one.student_memory, one.teacher_memory)


def test_scores_by_both_ways_are_equal(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    anchors = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    memory = torch.randn(30, 7, generator=generator, dtype=torch.float64)
    index = torch.randint(30, (5, 11), generator=generator)
    found = {}
    for way, (all_up_to, gathered) in {'whole': (16, 1), 'at once': (0, 10**6), 'parts': (0, 5 * 7 * 3)}.items():
        monkeypatch.setattr(_memory_bank, 'ALL_UP_TO', all_up_to)
        monkeypatch.setattr(_memory_bank, 'GATHERED', gathered)
        value = scores(anchors, memory, index)
        assert ('_Gathered' in value.grad_fn.name()) == (way != 'whole')
        found[way] = value.detach(), torch.autograd.grad(value.square().sum(), anchors)[0]
        assert value[2, 3].item() == pytest.approx((anchors[2] @ memory[index[2, 3]]).item())
    for way in ('at once', 'parts'):
        for one, other in zip(found['whole'], found[way]):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_gathered_scores_gradcheck(monkeypatch):
    monkeypatch.setattr(_memory_bank, 'ALL_UP_TO', 0)
    monkeypatch.setattr(_memory_bank, 'GATHERED', 2 * 3 * 2)
    anchors = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    memory, index = torch.randn(9, 3, dtype=torch.float64), torch.randint(9, (2, 5))
    assert torch.autograd.gradcheck(lambda a: scores(a, memory, index), (anchors,))


def test_forward_changes_nothing_and_update_remembers():
    loss, seen = crd(momentum=0.25), batch()
    before = state(loss)
    loss(*seen)
    assert_same_state(state(loss), before)
    loss.update()
    ours = F.normalize(loss.student_head(seen[0]), dim=1).detach()
    theirs = F.normalize(loss.teacher_head(seen[1]), dim=1).detach()
    for name, fresh in (('student_memory', ours), ('teacher_memory', theirs)):
        expected = before[name].clone()
        expected[seen[2]] = F.normalize(0.25 * expected[seen[2]] + 0.75 * fresh, dim=1)
        torch.testing.assert_close(getattr(loss, name), expected)
    assert loss.batches.item() == 1
    assert loss._pending == []


def test_nothing_is_kept_in_evaluation_or_without_gradient():
    loss, seen = crd(), batch()
    with torch.no_grad():
        loss(*seen)
    loss.eval()
    loss(*seen)
    before = state(loss)
    loss.update()
    before['batches'] += 1
    assert_same_state(state(loss), before)


def test_negatives_change_with_the_batch_only():
    loss, seen = crd(), batch()
    first = loss(*seen).item()
    assert loss(*seen).item() == first
    loss._pending = []
    loss.update()  # nothing to remember, but another batch
    assert abs(loss(*seen).item() - first) > 1e-4


def test_gradient_reaches_both_layers_but_not_the_teachers_features():
    loss, (student, teacher, index) = crd(), batch()
    student.requires_grad_()
    teacher.requires_grad_()
    loss(student, teacher, index).backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    for head in (loss.student_head, loss.teacher_head):
        assert head.weight.grad.abs().sum() > 0
    assert not loss.student_memory.requires_grad
    assert {name for name, _ in loss.named_parameters()} == {
        f'{side}_head.{part}' for side in ('student', 'teacher') for part in ('weight', 'bias')
    }


@pytest.mark.parametrize('sizes', [(4, 4), (1,) * 8, (3, 5)])
def test_same_training_for_any_microbatches(sizes):
    one, other = crd().double(), crd().double()
    data = [tuple(x.double() if x.is_floating_point() else x for x in batch(seed=s)) for s in range(3)]
    for loss, split in ((one, (8,)), (other, sizes)):
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        loss.values = [step(loss, optimizer, seen, split) for seen in data]
    assert one.values == pytest.approx(other.values, rel=1e-12)
    for name, value in state(one).items():
        torch.testing.assert_close(value, state(other)[name], rtol=1e-10, atol=1e-12)


def test_same_value_in_any_order():
    loss, seen = crd(), batch()
    expected = loss(*seen).item()
    assert loss(*rows(torch.randperm(8), seen)).item() == pytest.approx(expected, rel=1e-6)
    each = [loss(*rows(slice(i, i + 1), seen)).item() for i in range(8)]
    assert sum(each) / 8 == pytest.approx(expected, rel=1e-6)


def test_resumes_bit_by_bit():
    straight = crd()
    train(straight, 0, 2)
    saved = copy.deepcopy(straight.state_dict())
    values = train(straight, 2, 5)
    resumed = crd(seed=99)
    resumed.load_state_dict(saved)
    assert train(resumed, 2, 5) == values
    assert_same_state(resumed.state_dict(), straight.state_dict())
    assert straight.batches.item() == 5


def test_copies_are_independent():
    loss, seen = crd(), batch()
    loss(*seen)
    twin = copy.deepcopy(loss)
    twin.update()
    assert loss.batches.item() == 0
    assert len(loss._pending) == 1
    loss.update()
    assert_same_state(state(loss), state(twin))


def test_a_microbatch_tried_again_replaces_the_first_attempt():
    once, again, seen = crd(), crd(), batch()
    student, teacher, index = seen
    again(student + 1, teacher, index)  # ran out of memory after this, say
    again(*rows(slice(0, 4), seen))
    again(*rows(slice(4, 8), seen))
    once(*seen)
    for loss in (once, again):
        loss.update()
    for name, value in state(once).items():
        torch.testing.assert_close(value, state(again)[name])


def test_of_a_sample_twice_in_a_batch_the_last_counts():
    twice, last = crd(), crd()
    student, teacher, index = batch()
    index[2] = index[6]
    twice(student, teacher, index)
    kept = torch.tensor([0, 1, 3, 4, 5, 6, 7])
    last(student[kept], teacher[kept], index[kept])
    for loss in (twice, last):
        loss.update()
    torch.testing.assert_close(twice.student_memory, last.student_memory)
    torch.testing.assert_close(twice.teacher_memory, last.teacher_memory)


def test_warns_of_a_loop_without_update_and_keeps_no_more():
    loss, seen = crd(), batch()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(20):  # 160 samples of 40: a batch that was tried again a few times
            loss(*seen)
    with pytest.warns(UserWarning, match=r'more than 160 samples.*call loss.update\(\)'):
        loss(*seen)
    assert len(loss._pending) == 1


def test_learns_to_tell_samples():
    loss = crd()
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(N, 6, generator=generator), torch.randn(N, 5, generator=generator), torch.arange(N)
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    values = [step(loss, optimizer, data) for _ in range(60)]
    assert sum(values[-5:]) < 0.8 * sum(values[:5])


def test_build():
    loss = CRD(N, dim=8)
    with pytest.raises(RuntimeError, match=r'layer for the student is missing.*build'):
        loss(*batch())
    loss.build(torch.Size([2, 6, 4, 4]), torch.Size([2, 9, 5]))  # channels of maps, width of tokens
    assert (loss.student_head.in_features, loss.teacher_head.in_features) == (6, 5)
    weight = loss.student_head.weight
    loss.build(torch.Size([2, 6]), torch.Size([2, 5]))
    assert loss.student_head.weight is weight
    with pytest.raises(ValueError, match=r'built for 5 channels of the teacher, got 7 in \(2, 7\)'):
        loss.build(torch.Size([2, 6]), torch.Size([2, 7]))
    half_given = CRD(N, teacher_dim=5, dim=8)
    half_given.build(torch.Size([2, 6]), torch.Size([2, 5]))
    half_given(*batch())


def test_pools_maps_and_tokens():
    loss, (student, teacher, index) = crd(), batch()
    noise = torch.randn(8, 6, 3, 3)
    maps = student[..., None, None] + noise - noise.mean((2, 3), keepdim=True)
    value = loss(maps, teacher.unsqueeze(1).expand(-1, 4, -1), index)
    assert value.item() == pytest.approx(loss(student, teacher, index).item(), rel=1e-5)
    assert torch.equal(loss.summary(student), student)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_whatever_the_dtype_of_features_and_parameters(dtype):
    student, teacher, index = batch()
    expected = crd()(student, teacher, index).item()
    features = crd()(student.to(dtype), teacher.to(dtype), index)
    assert features.item() == pytest.approx(expected, rel=2e-2)
    assert features.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    loss = crd().to(dtype)
    value = loss(student, teacher, index)
    assert value.item() == pytest.approx(expected, rel=2e-2)
    assert value.dtype == torch.float32
    loss.update()
    assert loss.student_memory.dtype == dtype


def test_autocast_does_not_lower_the_precision():
    loss, seen = crd(), batch()
    with torch.autocast('cpu', torch.bfloat16):
        value = loss(*seen)
    assert value.item() == pytest.approx(loss(*seen).item(), rel=1e-6)
    assert loss._pending[0][1].dtype == torch.float32


def test_more_negatives_than_samples_and_a_single_sample():
    loss = crd(negatives=500)
    value = loss(*rows(slice(0, 1), batch()))
    assert value.isfinite()
    tiny = CRD(2, 6, 5, dim=8, negatives=9)
    assert tiny(*batch(1)[:2], torch.tensor([1])).isfinite()


def test_bad_indices():
    loss, (student, teacher, index) = crd(), batch()
    with pytest.raises(ValueError, match=r'indices are missing, expected int64 \(8,\).*data\.Indexed'):
        loss(student, teacher)
    for wrong in (-1, N):
        spoiled = index.clone()
        spoiled[3] = wrong
        with pytest.raises(ValueError, match=rf'from 0 to {N - 1} .*got .*{wrong}.*len\(dataset\)'):
            loss(student, teacher, spoiled)
    with pytest.raises(ValueError, match=r'index \(7,\)'):
        loss(student, teacher, index[:7])
    with pytest.raises(ValueError, match=r'teacher \(7, 5\)'):
        loss(student, teacher[:7], index)
    with pytest.raises(ValueError, match=r'int64 indices, got torch\.float32'):
        loss(student, teacher, index.float())
    with pytest.raises(ValueError, match='built for 6 channels of the student, got 5'):
        loss(teacher, teacher, index)
    assert loss._pending == []


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'n_samples': 1}, 'n_samples must be an int of at least 2, got 1'),
        ({'n_samples': 10.0}, 'n_samples must be an int'),
        ({'dim': 0}, 'dim must be an int of at least 1, got 0'),
        ({'student_dim': 0}, 'student_dim must be'),
        ({'negatives': True}, 'negatives must be an int'),
        ({'temperature': 0.0}, 'temperature must be a positive finite number'),
        ({'momentum': -0.1}, 'momentum must be'),
        ({'momentum': 1.0}, 'momentum must be below 1'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=f'CRD: {message}'):
        CRD(**{'n_samples': 10, **settings})


def on_rank(folder):
    """Of 8 samples, rank 0 has 5 and rank 1 has 3; then rank 1 has none; then both have the same one."""
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    loss = crd()
    for part in (slice(0, 5), slice(5, 8))[rank], (slice(0, 8), None)[rank], slice(rank, rank + 1):
        if part is not None:
            student, teacher, index = rows(part, batch())
            loss(student, teacher, index if len(index) > 1 else torch.tensor([11]))
        loss.update()
    loss.update()  # nobody saw anything
    torch.save(loss.state_dict(), f'{folder}/rank{rank}')
    os._exit(0)  # the destructor of gloo's process group may wait for ever on a thread that waits for Python's lock


def test_ranks_keep_equal_memories(tmp_path):
    on_ranks(2, on_rank, str(tmp_path))
    one, other = (torch.load(tmp_path / f'rank{rank}') for rank in range(2))
    assert_same_state(one, other)
    alone, seen = crd(), batch()
    for _ in range(2):
        alone(*seen)
        alone.update()
    embedded = F.normalize(alone.student_head(seen[0][:2]), dim=1)
    larger = embedded[:, 0].argmax()  # of the one sample that both ranks saw
    alone(*rows(slice(larger, larger + 1), seen)[:2], torch.tensor([11]))
    alone.update()
    alone.update()
    for name, value in state(alone).items():
        torch.testing.assert_close(one[name], value)
