"""The algorithm in a real Trainer: one step, its loss, its teachers, its checks."""

import copy
import inspect
import warnings

import pytest
import torch
import torch.nn.functional as F
from composer.algorithms import CutMix, LabelSmoothing, MixUp
from composer.core import Precision
from composer.loggers import InMemoryLogger
from torch import nn

from composer_kd import ConfigError, Distillation, FrozenTeacher, KLDivergence, LossError, TeacherError
from tests.helpers import EventSpy, Recorder, loader, mlp, mse, pairs, sgd, student, train, trainer, weights


class Counting(nn.Module):
    """A teacher that keeps what it was shown and in which mode."""

    def __init__(self, seed=0, **options):
        super().__init__()
        self.net = mlp(seed=seed, **options)
        self.inputs, self.modes, self.grads = [], [], []

    def forward(self, x):
        self.inputs.append(x.clone())
        self.modes.append(any(m.training for m in self.modules()))
        self.grads.append(torch.is_grad_enabled())
        return self.net(x)


def test_signature_is_fixed():
    parameters = inspect.signature(Distillation).parameters
    assert list(parameters)[:7] == [
        'teachers',
        'kd_loss_fn',
        'kd_loss_weight',
        'org_loss_weight',
        'start_dur',
        'end_dur',
        'n_teachers_to_sample',
    ]
    assert [parameters[name].default for name in list(parameters)[2:7]] == [0.9, 0.1, 0.0, 1.0, None]
    assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[7:])


# The loss ------------------------------------------------------------------------------------------------------------


def test_loss_and_gradient_of_one_step_agree_with_plain_torch():
    x, y = pairs(8)
    model, teacher, recorder = student(), mlp(seed=0), Recorder()
    reference = copy.deepcopy(model.module)
    task = F.cross_entropy(reference(x), y)
    kd = 16 * F.kl_div(
        F.log_softmax(reference(x) / 4, -1), F.softmax(teacher(x).detach() / 4, -1), reduction='batchmean'
    )
    (0.3 * task + 0.7 * kd).backward()
    for parameter in reference.parameters():
        parameter.data -= 0.1 * parameter.grad

    train(
        model,
        loader(x, y),
        [Distillation(teacher, KLDivergence(4.0), 0.7, 0.3)],
        [recorder],
        optimizer=sgd(model, momentum=0.0),
        max_duration='1ba',
    )

    (loss,) = recorder.microbatches
    assert set(loss) == {'total', 'task', 'kd'}
    assert loss['task'] == pytest.approx(task.item(), rel=1e-5)
    assert loss['kd'] == pytest.approx(kd.item(), rel=1e-5)
    assert loss['total'] == pytest.approx(0.3 * task.item() + 0.7 * kd.item(), rel=1e-5)
    torch.testing.assert_close(weights(model.module), weights(reference))


@pytest.mark.parametrize(
    'loss_fn', [nn.MSELoss(), nn.SmoothL1Loss(), mse, lambda s, t: F.cosine_embedding_loss(s, t, torch.ones(len(s)))]
)
def test_any_callable_is_a_loss(loss_fn):
    x, y = pairs(8)
    model, teacher, recorder = student(), mlp(), Recorder()
    expected = loss_fn(model.module(x), teacher(x)).item()
    train(model, loader(x, y), [Distillation(teacher, loss_fn)], [recorder], max_duration='1ba')
    assert recorder.microbatches[0]['kd'] == pytest.approx(expected, rel=1e-5)


def test_composer_logs_all_three():
    memory = InMemoryLogger()
    train(student(), loader(*pairs()), [Distillation(mlp(), KLDivergence())], loggers=[memory])
    for key in ('total', 'task', 'kd'):
        values = [float(value) for _, value in memory.data[f'loss/train/{key}']]
        assert len(values) == 3
        assert all(value > 0 for value in values)


TASKS = {
    'tensor': (lambda o, y: F.cross_entropy(o, y), 1),
    'not a scalar': (lambda o, y: F.cross_entropy(o, y, reduction='none'), 1),
    'tuple': (lambda o, y: (F.cross_entropy(o, y), 2 * F.cross_entropy(o, y)), 3),
    'dict': (lambda o, y: {'a': F.cross_entropy(o, y), 'b': 3 * F.cross_entropy(o, y)}, 4),
    'dict with a total': (lambda o, y: {'total': F.cross_entropy(o, y), 'b': 3 * F.cross_entropy(o, y).detach()}, 1),
}


@pytest.mark.parametrize('form', TASKS)
def test_task_losses_of_every_form(form):
    x, y = pairs(8)
    loss_fn, factor = TASKS[form]
    model, recorder = student(loss_fn=loss_fn), Recorder()
    expected = factor * F.cross_entropy(model.module(x), y).item()
    train(model, loader(x, y), [Distillation(mlp(), mse)], [recorder], max_duration='1ba')
    (loss,) = recorder.microbatches
    assert loss['task'] == pytest.approx(expected, rel=1e-5)
    assert loss['total'] == pytest.approx(0.1 * expected + 0.9 * loss['kd'], rel=1e-5)


def test_several_teachers_are_averaged_and_weighed():
    x, y = pairs(8)
    a, b = mlp(seed=3), mlp(seed=4)
    for given, mean in ((None, (a(x) + b(x)) / 2), ([1.0, 3.0], (a(x) + 3 * b(x)) / 4)):
        model, recorder = student(), Recorder()
        expected = mse(model.module(x), mean).item()
        train(model, loader(x, y), [Distillation([a, b], mse, teacher_weights=given)], [recorder], max_duration='1ba')
        assert recorder.microbatches[0]['kd'] == pytest.approx(expected, rel=1e-5)


def test_a_sampled_teacher_is_the_same_in_every_microbatch():
    """Each batch draws anew; the microbatches of one batch share the draw."""
    teachers = [Counting(seed) for seed in range(4)]
    drawn = []

    def look(state):
        asked = tuple(len(teacher.inputs) for teacher in teachers)
        drawn.append((state.timestamp.batch.value, asked))

    algorithm = Distillation(teachers, mse, n_teachers_to_sample=1)
    train(
        student(),
        loader(*pairs(32)),
        [algorithm],
        [EventSpy('after_loss', look)],
        max_duration='3ep',
        device_train_microbatch_size=2,
    )
    by_batch, before = {}, (0, 0, 0, 0)
    for batch, asked in drawn:
        (index,) = [i for i in range(4) if asked[i] > before[i]]
        by_batch.setdefault(batch, []).append(index)
        before = asked
    assert all(len(indices) == 4 and len(set(indices)) == 1 for indices in by_batch.values())
    assert len({indices[0] for indices in by_batch.values()}) > 1


# The teachers --------------------------------------------------------------------------------------------------------


def test_teachers_stay_frozen():
    teacher = Counting(norm=True, dropout=0.5)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    model, seen = student(), []

    def look(state):
        optimized = {id(p) for group in state.optimizers[0].param_groups for p in group['params']}
        seen.append(optimized & {id(p) for p in teacher.parameters()})
        state.model.train()

    def wake(state):
        (teacher if state.timestamp.batch.value % 2 else teacher.net[1]).train()  # all of it, or its BatchNorm alone
        teacher.net[3].train()

    run = train(
        model,
        loader(*pairs()),
        [Distillation(teacher, KLDivergence())],
        [EventSpy('after_loss', look), EventSpy('batch_start', wake)],
        max_duration='2ep',
    )
    assert len(teacher.inputs) == 6
    assert not any(teacher.modes)
    assert not any(teacher.grads)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(seen)
    assert model.training
    assert set(run.state.model.state_dict()) == set(student().state_dict())


def test_teachers_are_in_no_checkpoint(tmp_path):
    teacher = mlp(seed=3)
    train(
        student(),
        loader(*pairs()),
        [Distillation(teacher, KLDivergence())],
        save_folder=str(tmp_path),
        save_filename='c.pt',
    )
    checkpoint = torch.load(tmp_path / 'c.pt', weights_only=False)

    def tensors(node):
        if isinstance(node, torch.Tensor):
            yield node
        elif isinstance(node, dict):
            for value in node.values():
                yield from tensors(value)
        elif isinstance(node, (list, tuple)):
            for value in node:
                yield from tensors(value)

    saved = list(tensors(checkpoint))
    assert saved
    for parameter in teacher.parameters():
        assert not any(parameter.shape == tensor.shape and torch.equal(parameter, tensor) for tensor in saved)


@pytest.mark.parametrize('mixer', [MixUp(alpha=1.0), CutMix(alpha=1.0)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize('last', [True, False])
def test_the_teacher_sees_what_the_student_saw(mixer, last):
    """Also with algorithms that change the inputs, whichever comes first in the list."""
    images = torch.randn(16, 3, 8, 8)
    labels = torch.randint(4, (16,))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.inputs = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), []

        def forward(self, x):
            self.inputs.append(x.clone())
            return self.net(x)

    net, teacher = Net(), Net()
    algorithm = Distillation(teacher, KLDivergence())
    train(
        student(net),
        loader(images, labels),
        [mixer, algorithm] if last else [algorithm, mixer],
        device_train_microbatch_size=4,
    )
    assert len(teacher.inputs) == len(net.inputs) == 4
    for theirs, ours in zip(teacher.inputs, net.inputs):
        assert torch.equal(theirs, ours)
    assert not torch.equal(torch.cat(net.inputs), images)


def test_the_batch_is_never_changed():
    x, y = pairs(8)
    seen = []

    def look(state):
        seen.append((state.batch[0].clone(), state.batch[1].clone()))

    teacher = FrozenTeacher(mlp(), input_adapter=lambda inputs: inputs.mul(0.0))
    spies = [EventSpy(event, look) for event in ('after_forward', 'before_backward', 'batch_end')]
    run = train(student(), loader(x, y), [Distillation(teacher, KLDivergence())], spies, max_duration='1ba')
    assert len(seen) == 3
    for inputs, labels in seen:
        assert torch.equal(inputs, x)
        assert torch.equal(labels, y)
    assert run.state.train_metrics['MulticlassAccuracy'].compute() >= 0


@pytest.mark.parametrize('teacher', [
    FrozenTeacher(nn.Sequential(nn.ReLU(inplace=True), mlp()), name='rude'),
    FrozenTeacher(mlp(), input_adapter=lambda inputs: inputs.mul_(0.0), name='rude'),
])  # fmt: skip
def test_a_teacher_that_writes_into_the_batch_is_named(teacher):
    with pytest.raises(TeacherError, match="'rude' or its input_adapter changes the batch in place"):
        train(student(), loader(*pairs()), [Distillation(teacher, KLDivergence())])


def test_labels_reach_other_algorithms_and_metrics():
    x, y = pairs(8)
    alone, together = [
        train(student(), loader(x, y), [*algorithms, LabelSmoothing(0.1)], max_duration='1ba')
        for algorithms in ([], [Distillation(mlp(), KLDivergence(), 0.0, 1.0)])
    ]
    metric = 'MulticlassAccuracy'
    assert alone.state.train_metrics[metric].compute() == together.state.train_metrics[metric].compute()
    torch.testing.assert_close(weights(alone.state.model), weights(together.state.model))


def test_runs_in_the_trainers_precision_context(monkeypatch):
    import contextlib

    entered, active = [], []

    @contextlib.contextmanager
    def context(precision, precision_config=None):
        entered.append((precision, precision_config))
        active.append(True)
        yield
        active.pop()

    monkeypatch.setattr('composer_kd.algorithms.distillation.get_precision_context', context)
    inside = []
    teacher = FrozenTeacher(mlp(), forward=lambda model, batch: (inside.append(bool(active)), model(batch[0]))[1])

    def loss(student, teacher):
        inside.append(not active)
        return mse(student, teacher)

    run = trainer(student(), loader(*pairs(8)), [Distillation(teacher, loss)])
    inside.clear()  # the teacher's shape was looked at before training
    run.fit()
    run.close()
    assert entered == [(Precision.FP32, None)]
    assert inside == [True, True]


# The window ----------------------------------------------------------------------------------------------------------


def test_outside_the_window_nothing_happens():
    plain, late = student(), student()
    teacher, recorder = Counting(), Recorder()
    train(plain, loader(*pairs()))
    train(late, loader(*pairs()), [Distillation(teacher, KLDivergence(), start_dur='5ep')], [recorder])
    assert teacher.inputs == []
    assert all(isinstance(loss, float) for loss in recorder.microbatches)
    assert torch.equal(weights(plain), weights(late))


def test_a_window_inside_an_epoch():
    teacher, recorder = Counting(), Recorder()
    train(
        student(),
        loader(*pairs(40), batch_size=4),
        [Distillation(teacher, KLDivergence(), start_dur=0.2, end_dur=0.5)],
        [recorder],
    )
    assert [isinstance(loss, dict) for loss in recorder.microbatches] == [False] * 2 + [True] * 3 + [False] * 5
    assert len(teacher.inputs) == 3


# Faults --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'kd_loss_weight': -0.1}, 'kd_loss_weight must be a finite number of 0 or more, got -0.1'),
        ({'org_loss_weight': float('nan')}, 'org_loss_weight must be a finite number'),
        ({'kd_loss_weight': float('inf')}, 'kd_loss_weight must be a finite number'),
        ({'kd_loss_weight': '0.9'}, 'kd_loss_weight must be a finite number'),
        ({'start_dur': 0.6, 'end_dur': 0.5}, 'start_dur must come before end_dur'),
        ({'n_teachers_to_sample': 2}, 'n_teachers_to_sample must be an int from 1 to'),
        ({'teachers': [mlp(), mlp()], 'n_teachers_to_sample': 1, 'teacher_weights': [2, 1]}, 'they have no effect'),
        ({'teacher_weights': 1.0}, 'teacher_weights must be 1 positive finite numbers'),
        ({'teachers': []}, 'No teachers'),
        ({'kd_loss_fn': None}, 'kd_loss_fn must be a callable'),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        Distillation(**{'teachers': mlp(), 'kd_loss_fn': KLDivergence(), **settings})


@pytest.mark.parametrize('start', [0.0, 0.5])
def test_names_both_shapes_before_the_first_step(start):
    """Also where the window opens later."""
    model, teacher = student(), FrozenTeacher(mlp(classes=7), name='big')
    before = weights(model)
    with pytest.raises(TeacherError, match=r"teacher 'big' answers in the shape \(4, 7\), the student in \(4, 4\)"):
        train(model, loader(*pairs()), [Distillation(teacher, KLDivergence(), start_dur=start)])
    assert torch.equal(weights(model), before)


def test_every_teacher_is_checked_before_the_first_step():
    """Also those that the first batch does not draw."""
    model = student()
    before = weights(model)
    teachers = [mlp(), mlp(), FrozenTeacher(mlp(classes=7), name='big')]
    algorithm = Distillation(teachers, KLDivergence(), n_teachers_to_sample=1)
    assert algorithm.pool.draw(17, 0) != (2,)
    with pytest.raises(TeacherError, match=r"'big' answers in the shape \(4, 7\)"):
        train(model, loader(*pairs()), [algorithm])
    assert torch.equal(weights(model), before)


def test_two_at_once_are_refused_and_one_after_the_other_work():
    def two(end, start):
        return [Distillation(mlp(seed=0), mse, end_dur=end), Distillation(mlp(seed=3), mse, start_dur=start)]

    with pytest.raises(ConfigError, match='Two Distillation objects are active'):
        train(student(), loader(*pairs()), two('2ba', '1ba'))
    recorder = Recorder()
    train(student(), loader(*pairs()), two('2ba', '2ba'), [recorder])
    assert all(set(loss) == {'total', 'task', 'kd'} for loss in recorder.microbatches)


@pytest.mark.parametrize('mixer', [MixUp, CutMix])
@pytest.mark.parametrize('order', [1, -1])
def test_refuses_interpolated_losses(mixer, order):
    algorithms = [mixer(interpolate_loss=True), Distillation(mlp(), KLDivergence())][::order]
    with pytest.raises(ConfigError, match=rf'{mixer.__name__}\(interpolate_loss=True\)'):
        trainer(student(), loader(*pairs()), algorithms)


def test_refuses_a_teacher_that_is_the_student():
    model = student()
    with pytest.raises(TeacherError, match='shares parameters with the student'):
        trainer(model, loader(*pairs()), [Distillation(model.module, KLDivergence())])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_refuses_a_teacher_in_the_optimizer():
    model, teacher = student(), mlp()
    optimizer = torch.optim.SGD([*model.parameters(), *teacher.parameters()], lr=0.1)
    with pytest.raises(TeacherError, match='shares parameters with the optimizer'):
        train(model, loader(*pairs()), [Distillation(teacher, KLDivergence())], optimizer=optimizer)


def test_names_the_loss_that_returns_no_scalar_or_nan():
    with pytest.raises(LossError, match=r'MSELoss must return a scalar.*shape \(4, 4\) at batch 0'):
        train(student(), loader(*pairs()), [Distillation(mlp(), nn.MSELoss(reduction='none'))])

    seen = []

    def breaks(student, teacher):
        seen.append(1)
        return mse(student, teacher) * (float('nan') if len(seen) == 3 else 1.0)

    with pytest.raises(LossError, match='breaks is not finite at batch 2'):
        train(student(), loader(*pairs()), [Distillation(mlp(), breaks)])


def test_does_nothing_but_compare_integers_when_idle():
    """match() costs next to nothing: it builds no Time, reads no tensor."""
    from composer.core import Event, Time

    algorithm = Distillation(mlp(), KLDivergence(), start_dur=0.5)
    calls = []

    def look(state):
        original = Time.__init__
        Time.__init__ = lambda self, *args, **kwargs: calls.append(1)
        try:
            for event in Event:
                algorithm.match(event, state)
        finally:
            Time.__init__ = original

    train(student(), loader(*pairs()), [algorithm], [EventSpy('batch_end', look)])
    assert calls == []


def test_repr_names_what_matters_and_no_address():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        text = repr(Distillation({}.get('x') or mlp(), KLDivergence()))
    assert text == (
        "Distillation([Sequential], KLDivergence, 0.9, 0.1, Window(start='0.0dur', end='1.0dur'), "
        'n_teachers_to_sample=1)'
    )
