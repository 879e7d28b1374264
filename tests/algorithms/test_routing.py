"""Each sample is taught by its own teachers: the loss is that of a loop over the samples, however a batch is cut."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from composer.algorithms import MixUp
from composer.core import DataSpec
from composer.models import ComposerModel
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from composer_kd import (
    ConfigError,
    Distillation,
    EMATeacher,
    KLDivergence,
    LossError,
    Match,
    TeacherError,
    VirtualTeacher,
    build_store,
)
from composer_kd.data.indexed import Indexed
from composer_kd.losses import (
    CRD,
    DIST,
    DKD,
    NKD,
    RKD,
    VID,
    GeneralizedJSD,
    LogitStandardization,
    ReverseKL,
    SoftCrossEntropy,
    UniversalLogit,
    cosine,
    dist,
    hard_label,
    hint,
    mse,
    similarity_preserving,
)
from composer_kd.models.classifier import IndexedClassifier
from composer_kd.stores import Sampled, TopK
from composer_kd.teachers import CachedTeacher, FrozenTeacher
from tests.helpers import Recorder, TokenDataset, loader, mlp, pairs, sgd, student, train, weights
from tests.tasks import SIZE, TASKS, make_task

QUICK = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
N, ROUTE = 8, torch.tensor([2, 0, -1, 1, 0, 0, 2, -1])


class Named(ComposerModel):
    """A classifier of mappings."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch):
        return self.net(batch['x'])

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch['labels'])


class WithoutLoss(Named):
    def loss(self, outputs, batch):
        return 0.0


class Counting(FrozenTeacher):
    def __init__(self, model, **options):
        super().__init__(model, **options)
        self.sizes = []

    def outputs(self, batch, index=None):
        self.sizes.append(len(batch['labels'] if isinstance(batch, dict) else batch[1]))
        assert not isinstance(batch, dict) or 'teacher_id' not in batch
        return super().outputs(batch, index)


def nets(count=3):
    return [mlp(seed=10 + number) for number in range(count)]


def columns(route=ROUTE, **options):
    x, y = pairs(N, **options)
    return {'x': x, 'labels': y, 'teacher_id': route}


def fit(algorithm, data=None, micro=N, model=None, lr=0.0, **options):
    model, recorder = model or Named(mlp(seed=1)), Recorder()
    data = DataLoader(TokenDataset(**columns()), batch_size=N) if data is None else data
    settings = {'optimizer': sgd(model, lr, momentum=0.0), 'device_train_microbatch_size': micro, **options}
    train(model, data, [algorithm], [recorder], **settings)
    return recorder.batches[0], model


def kd(*args, **options):
    return fit(*args, **options)[0]['kd']


# The numbers


@pytest.mark.filterwarnings('ignore:The batch has no attention mask')
@pytest.mark.parametrize('name', TASKS)
@QUICK
@given(
    micro=st.integers(1, SIZE),
    seed=st.integers(0, 9),
    route=st.lists(st.integers(-1, 1), min_size=SIZE, max_size=SIZE),
)
def test_tasks_of_every_kind(name, micro, seed, route):
    """Language models, speech, packed samples: the mean is over the valid positions of the samples that are taught."""
    task = make_task(name, seed=seed)
    other = copy.deepcopy(task.teacher)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.3)
    both = [task.teacher, other]
    data = TokenDataset(**task.columns, teacher_id=torch.tensor(route))
    algorithm = Distillation(both, task.loss, route='teacher_id', **task.settings)
    found, _ = fit(algorithm, DataLoader(data, batch_size=SIZE), micro, task.student())
    ours, theirs = [], []
    with torch.no_grad():
        for number, teacher in enumerate(route):
            sample = {key: value[number : number + 1] for key, value in task.columns.items()}
            if teacher >= 0:
                ours.append(task.rows(task.net.eval(), sample))
                theirs.append(task.rows(both[teacher].eval(), sample))
        rows = sum(len(one) for one in ours)
        expected = float(task.loss(torch.cat(ours), torch.cat(theirs))) if rows else 0.0
    assert found['kd'] == pytest.approx(expected, rel=2e-3, abs=1e-5)
    assert found['task'] == pytest.approx(task.expected()['task'], rel=2e-3, abs=1e-5)


LOSSES = [
    *(KLDivergence(2.0), ReverseKL(2.0), GeneralizedJSD(), SoftCrossEntropy(2.0), DKD(), NKD(), mse, cosine),
    *(hard_label, UniversalLogit(), LogitStandardization(KLDivergence(2.0)), nn.L1Loss()),
]


@pytest.mark.parametrize('loss', LOSSES, ids=lambda loss: getattr(loss, '__name__', type(loss).__name__))
@pytest.mark.parametrize('micro', [N, 3])
def test_losses_of_logits(loss, micro):
    teachers = nets()
    found = kd(Distillation(teachers, loss, route='teacher_id'), micro=micro)
    x, y = pairs(N)
    ours = mlp(seed=1)(x)
    call = loss.forward if isinstance(loss, nn.Module) else loss
    given = {'labels': y} if 'labels' in inspect.signature(call).parameters else {}
    each = [
        loss(ours[i : i + 1], teachers[t](x)[i : i + 1], **{key: value[i : i + 1] for key, value in given.items()})
        for i, t in enumerate(ROUTE.tolist())
        if t >= 0
    ]
    assert found == pytest.approx(torch.stack(each).mean().item(), rel=1e-4, abs=1e-6)


@QUICK
@given(
    micro=st.integers(1, N),
    taught=st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=N, max_size=N),
    unlabelled=st.sets(st.integers(0, N - 1)),
)
def test_several_teachers_of_a_sample_by_a_function(micro, taught, unlabelled):
    """Their weighted mean teaches it; samples without a label count in the distillation alone. One step is compared."""
    teachers, relative, taught = nets(), [1.0, 2.0, 5.0], torch.tensor(taught)
    x, y = pairs(N, unlabelled=sorted(unlabelled))
    model = IndexedClassifier(mlp(seed=1), num_classes=4)
    algorithm = Distillation(
        teachers, mse, 0.6, 0.4, teacher_weights=relative, route=lambda batch, index: taught[index]
    )
    data = DataLoader(Indexed(torch.utils.data.TensorDataset(x, y)), batch_size=N)
    found, model = fit(algorithm, data, micro, model, lr=0.5)

    net = mlp(seed=1)
    ours, losses = net(x), []
    for number in range(N):
        chosen = [i for i in range(3) if taught[number, i]]
        if chosen:
            total = sum(relative[i] for i in chosen)
            target = sum(teachers[i](x[number]) * relative[i] / total for i in chosen).detach()
            losses.append((ours[number] - target).square().mean())
    expected = torch.stack(losses).mean() if losses else ours.sum() * 0.0
    task = F.cross_entropy(ours, y, ignore_index=-100) if len(unlabelled) < N else ours.sum() * 0.0
    (0.6 * expected + 0.4 * task).backward()
    assert found['kd'] == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    stepped = torch.cat([(p - 0.5 * p.grad).flatten() for p in net.parameters()])
    torch.testing.assert_close(weights(model), stepped.detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('micro', [N, 3, 1])
def test_matches_of_features_and_of_one_teacher(micro):
    """Features of each sample's own teacher; a match of one teacher is on its samples, and 0 on the others."""
    teachers = [FrozenTeacher(net, name=f't{number}') for number, net in enumerate(nets())]
    chosen = [Match(mse, on=('net.0', '0'), name='inner', weight=3.0), Match(mse, teacher='t0', name='first')]
    found, _ = fit(Distillation(teachers, chosen, route='teacher_id'), micro=micro, model=None)
    x, _ = pairs(N)
    net, taught = mlp(seed=1), [i for i in range(N) if ROUTE[i] >= 0]
    inner = [(net[0](x[i]) - teachers[ROUTE[i]].model[0](x[i])).square().mean() for i in taught]
    first = [(net(x[i]) - teachers[0].model(x[i])).square().mean() for i in taught if ROUTE[i] == 0]
    expected = {'inner': sum(inner).item() / len(taught), 'first': sum(first).item() / len(taught)}
    expected['kd'] = 3.0 * expected['inner'] + expected['first']
    assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('dtype', [torch.uint8, torch.int8, torch.int32])
def test_integers_of_any_kind(dtype):
    route = torch.tensor([2, 0, 1, 1, 0, 0, 2, 1])
    data = (DataLoader(TokenDataset(**columns(route.to(kind))), batch_size=N) for kind in (dtype, torch.int64))
    ours, expected = (kd(Distillation(nets(), mse, route='teacher_id'), one) for one in data)
    assert ours == expected


class Positions(WithoutLoss):
    """Says itself which positions are valid, in a way that needs a sample."""

    def valid_positions(self, batch):
        longest = max(batch['x'].shape[1], int(batch['lengths'].max()))
        return torch.arange(longest) < batch['lengths'].unsqueeze(1)


@pytest.mark.parametrize('micro', [N, 3])
@pytest.mark.parametrize('route', [ROUTE, torch.full((N,), -1)])
def test_positions_that_the_model_says(route, micro):
    """It is asked about samples that there are, also where none of a batch is taught."""
    x = torch.randn(N, 5, 6, generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([5, 2, 1, 4, 3, 5, 1, 2])
    data = DataLoader(TokenDataset(x=x, lengths=lengths, teacher_id=route), batch_size=N)
    teachers = [FrozenTeacher(net, forward=lambda model, batch: model(batch['x'])) for net in nets()]
    found = kd(Distillation(teachers, mse, 1.0, 0.0, route='teacher_id'), data, micro, Positions(mlp(seed=1)))
    taught = [i for i in range(N) if route[i] >= 0]
    each = [(mlp(seed=1)(x[i]) - teachers[route[i]].model(x[i]))[: lengths[i]].square().mean(1) for i in taught]
    assert found == pytest.approx(torch.cat(each).mean().item() if each else 0.0, rel=1e-4)


class Pixels(ComposerModel):
    """Segmentation: logits (B, 4, H, W)."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Conv2d(2, 4, 1)

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs, batch[1][:, 0])


@pytest.mark.parametrize('loss', [ReverseKL(), mse])
@pytest.mark.parametrize('micro', [N, 3, 1])
def test_segmentation(loss, micro):
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(N, 2, 3, 5, generator=generator), torch.randint(4, (N, 1, 3, 5), generator=generator)
    y[torch.rand(y.shape, generator=generator) < 0.6] = -100
    first = x[:, 0, 0, 0].tolist()

    def route(batch, index):
        return torch.tensor([int(ROUTE[first.index(value)]) for value in batch[0][:, 0, 0, 0].tolist()])

    teachers = [Pixels(seed).net for seed in (2, 3, 4)]
    model = Pixels(1)
    found = kd(Distillation(teachers, loss, route=route), loader(x, y), micro, model)
    ours, theirs = [], []
    for number, teacher in enumerate(ROUTE.tolist()):
        if teacher >= 0:
            for rows, net in ((ours, model.net), (theirs, teachers[teacher])):
                rows.append(net(x[number : number + 1])[0].permute(1, 2, 0)[y[number, 0] >= 0])
    assert found == pytest.approx(loss(torch.cat(ours), torch.cat(theirs)).item(), rel=1e-4)


def test_a_route_to_one_teacher_is_an_ordinary_run():
    x, y = pairs(24)
    matches = [KLDivergence(2.0), Match(hint, on='0', project='auto', name='hint')]
    runs = []
    for route in (None, lambda batch, index: torch.zeros(len(batch[0]), dtype=torch.int64)):
        recorder, model = Recorder(), student()
        train(model, loader(x, y), [Distillation(mlp(seed=3), matches, route=route)], [recorder])
        runs.append((recorder.batches, weights(model)))
    for one, other in zip(*(found for found, _ in runs)):
        assert one == pytest.approx(other, rel=1e-5)
    torch.testing.assert_close(runs[0][1], runs[1][1])


def test_each_teacher_runs_on_its_own_samples_alone():
    teachers = [Counting(net, name=str(number)) for number, net in enumerate(nets())]
    fit(Distillation(teachers, mse, route='teacher_id'))
    assert [teacher.sizes[-1] for teacher in teachers] == [3, 1, 2]
    assert [len(teacher.sizes) for teacher in teachers] == [2, 2, 2]  # a try on the first samples before training


def test_what_learns_for_a_teacher_without_samples_rests():
    """Its projector keeps its weights without momentum, and what is logged has the same names in every microbatch."""
    on = ('net.0', '0')
    chosen = [Match(VID(), on=on, name='vid'), Match(hint, on=on, project='auto', name='hint')]
    route = torch.tensor([0, 0, 0, 1, -1, -1, -1, -1])
    algorithm = Distillation(nets(), chosen, route='teacher_id')
    data = DataLoader(TokenDataset(**columns(route)), batch_size=N)
    found, model = fit(algorithm, data, 2, lr=0.1)
    assert {'vid', 'hint', 'kd'} <= set(found)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


def test_microbatches_without_a_taught_sample_and_without_a_loss_of_their_own():
    """The graph of the student is kept where nothing is to be learned."""
    route = torch.tensor([-1, -1, -1, -1, 0, 1, 2, 0])
    data = DataLoader(TokenDataset(**columns(route)), batch_size=N)

    def run(data, micro):
        algorithm = Distillation(nets(), mse, 1.0, 0.0, route='teacher_id')
        return fit(algorithm, data, micro, WithoutLoss(mlp(seed=1)), lr=0.5)

    whole, cut = (run(data, micro) for micro in (N, 2))
    assert whole[0]['kd'] == pytest.approx(cut[0]['kd'], rel=1e-5)
    torch.testing.assert_close(weights(whole[1]), weights(cut[1]), rtol=1e-4, atol=1e-6)
    nobody = DataLoader(TokenDataset(**columns(torch.full((N,), -1))), batch_size=N)
    assert run(nobody, 2)[0]['kd'] == 0.0


# Teachers of other kinds


@pytest.mark.parametrize('form', [None, TopK(2, temperature=2.0), Sampled(40, temperature=2.0)])
@pytest.mark.parametrize('micro', [N, 3])
def test_stored_teachers_beside_a_live_one(tmp_path, form, micro):
    data = torch.utils.data.TensorDataset(*pairs(N))
    teachers = nets()
    options = {} if form is None else {'format': form}
    stores = [
        build_store(tmp_path / str(n), net, IndexedClassifier(mlp(), num_classes=4), data, **options)
        for n, net in enumerate(teachers[:2])
    ]
    stored = [CachedTeacher(store.folder, name=str(n)) for n, store in enumerate(stores)]

    def run(pool, route):
        algorithm = Distillation(pool, KLDivergence(2.0), route=route)
        model = IndexedClassifier(mlp(seed=1), num_classes=4)
        return kd(algorithm, DataLoader(Indexed(data), batch_size=N), micro, model)

    found = run([*stored, teachers[2]], lambda batch, index: ROUTE[index])
    # The same as each teacher's own samples in a run of its own.
    alone = [
        run(one, lambda batch, index, n=n: torch.where(ROUTE[index] == n, 0, -1)) * int((n == ROUTE).sum())
        for n, one in enumerate([*stored, teachers[2]])
    ]
    assert found == pytest.approx(sum(alone) / int((ROUTE >= 0).sum()), rel=1e-4)
    if form is None:
        live = run(teachers, lambda batch, index: ROUTE[index])
        assert found == pytest.approx(live, rel=1e-2)


def test_a_teacher_that_follows_the_student_resumes_bit_for_bit(tmp_path):
    x, y = pairs(24)
    data = DataLoader(TokenDataset(x=x, labels=y, teacher_id=torch.arange(24) % 3 - 1), batch_size=8)

    def run(until, **options):
        model = Named(mlp(seed=1))
        algorithm = Distillation([EMATeacher('2ba'), mlp(seed=3)], mse, route='teacher_id')
        train(model, data, [algorithm], max_duration=until, device_train_microbatch_size=3, **options)
        return weights(model)

    straight = run('2ep')
    run('4ba', save_folder=str(tmp_path), save_interval='1ba')
    for name in ('ep0-ba2', 'ep1-ba4'):
        assert torch.equal(straight, run('2ep', load_path=str(tmp_path / f'{name}-rank0.pt')))


# What is refused

INTEGERS = r'expected integers \(\d+,\) from 0 to 2, -1 for no teacher, or booleans \(\d+, 3\); got '


@pytest.mark.parametrize(
    ('route', 'said'),
    [
        (lambda batch, index: torch.zeros(len(batch['x'])), INTEGERS + r'float32 \('),
        (lambda batch, index: torch.full((len(batch['x']),), 3), INTEGERS + '3 for sample 0'),
        (lambda batch, index: torch.full((len(batch['x']),), -2), INTEGERS + '-2 for sample 0'),
        (lambda batch, index: torch.zeros(1, dtype=torch.int64), INTEGERS + '1 for a batch of'),
        (lambda batch, index: torch.ones(len(batch['x']), 2, dtype=torch.bool), INTEGERS + r'bool \('),
        (lambda batch, index: torch.ones(len(batch['x']), dtype=torch.bool), INTEGERS + r'bool \('),
        (lambda batch, index: None, INTEGERS + 'a NoneType'),
        (lambda batch, index: ROUTE[index.long()], 'fails: AttributeError.*the numbers of samples are None'),
        ('teacher_ids', "the batch has no such column; did you mean 'teacher_id'"),
    ],
)
def test_a_wrong_route_is_an_error_before_training(route, said):
    with pytest.raises(ConfigError, match=said):
        fit(Distillation(nets(), mse, route=route))


def test_a_wrong_number_later_in_the_data_stops_there():
    route = torch.tensor([0, 1, 2, 0, 1, 2, 7, 0])
    data = DataLoader(TokenDataset(**columns(route)), batch_size=N)
    with pytest.raises(ConfigError, match=INTEGERS + '7 for sample 6 of a batch'):
        fit(Distillation(nets(), mse, route='teacher_id'), data)


def test_weights_of_teachers_of_which_each_sample_has_one():
    with pytest.raises(ConfigError, match=r'teacher_weights weigh .* they have no effect'):
        fit(Distillation(nets(), mse, route='teacher_id', teacher_weights=[1.0, 2.0, 1.0]))


def test_a_teacher_that_answers_for_whole_batches():
    teacher = FrozenTeacher(mlp(), name='all')
    teacher.whole_batches = True
    for one in (teacher, VirtualTeacher(name='all')):
        with pytest.raises(ConfigError, match="The teacher 'all' answers for whole microbatches"):
            Distillation([one, mlp()], mse, route='teacher_id')


def test_a_column_needs_batches_with_names():
    with pytest.raises(ConfigError, match=r'a batch is a (list|tuple), without names. Give a function'):
        fit(Distillation(nets(), mse, route='teacher_id'), loader(*pairs(N)), model=student())


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'n_teachers_to_sample': 1}, 'n_teachers_to_sample=1 would draw some of them at random'),
        ({'run_teacher_on_eval': True}, 'run_teacher_on_eval=True.*Leave one of the two out'),
        ({'route': 3}, 'route must be the name of a column or a function'),
    ],
)
def test_settings_that_exclude_one_another(options, said):
    with pytest.raises(ConfigError, match=said):
        Distillation(nets(), mse, **{'route': 'teacher_id', **options})


def test_layers_of_the_student_that_no_teacher_teaches():
    own = Match(mse, on=('0', '1'), teacher='student')
    with pytest.raises(ConfigError, match='let two Distillation take turns'):
        Distillation(nets(), [mse, own], route='teacher_id')


@pytest.mark.parametrize(
    'loss', [DIST(), dist, RKD(), similarity_preserving, LogitStandardization(DIST())], ids=lambda one: str(one)[:20]
)
def test_losses_that_compare_samples_with_one_another(loss):
    with pytest.raises(ConfigError, match='compares the samples of a batch with one another'):
        Distillation(nets(), loss, route='teacher_id')
    with pytest.raises(ConfigError, match='compares the samples'):
        Distillation(nets(), Match(CRD(8), on='0'), route='teacher_id')


def test_algorithms_that_make_other_samples():
    route = lambda batch, index: torch.zeros(len(batch[0]), dtype=torch.int64)  # noqa: E731
    with pytest.raises(ConfigError, match=r'MixUp and Match .mse.: each sample has teachers of its own'):
        train(student(), loader(*pairs()), [MixUp(), Distillation(nets(), mse, route=route)])


def test_batches_that_cannot_be_taken_apart():
    def collate(samples):
        return {**torch.utils.data.default_collate(samples), 'starts': torch.tensor([0, 3, 5])}

    data = DataLoader(TokenDataset(**columns()), batch_size=N, collate_fn=collate)
    with pytest.raises(TeacherError, match="of the batch 'starts' cannot be taken apart into"):
        fit(Distillation(nets(), mse, route='teacher_id'), data)


class Listed(WithoutLoss):
    def forward(self, batch):
        return self.net(batch[0])


def test_batches_in_lists_that_cannot_be_taken_apart():
    def collate(samples):
        x = torch.stack([sample[0] for sample in samples])
        return [x, torch.tensor([0, 3, 5]), x]

    data = DataSpec(
        DataLoader(torch.utils.data.TensorDataset(pairs(N)[0]), batch_size=N, collate_fn=collate),
        get_num_samples_in_batch=lambda batch: len(batch[0]),
        split_batch=lambda batch, size: [batch],  # Composer's own makes tuples
    )
    teachers = [FrozenTeacher(net, forward=lambda model, batch: model(batch[0])) for net in nets()]
    algorithm = Distillation(teachers, mse, route=lambda batch, index: torch.arange(len(batch[0])) % 3)
    with pytest.raises(TeacherError, match="of the batch '1' cannot be taken apart into"):
        fit(algorithm, data, model=Listed(mlp(seed=1)))


def test_a_teacher_of_other_classes_is_found_before_it_has_a_sample():
    route = torch.zeros(N, dtype=torch.int64)
    data = DataLoader(TokenDataset(**columns(route)), batch_size=N)
    with pytest.raises(TeacherError, match=r'answers in the shape \(\d, 5\)'):
        fit(Distillation([mlp(seed=3), mlp(classes=5)], mse, route='teacher_id'), data)


def test_a_sparse_teacher_has_no_loss_on_other_temperatures(tmp_path):
    data = torch.utils.data.TensorDataset(*pairs(N))
    student_net = IndexedClassifier(mlp(), num_classes=4)
    store = build_store(tmp_path, mlp(seed=3), student_net, data, format=TopK(2, temperature=2.0))
    algorithm = Distillation([mlp(), CachedTeacher(store.folder)], KLDivergence(4.0), route=lambda b, i: ROUTE[i] % 2)
    with pytest.raises(LossError, match='the temperature'):
        fit(algorithm, DataLoader(Indexed(data), batch_size=N), model=student_net)
