"""What does not fit shows before the first step, and says what to do."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from composer import Callback
from composer.models import ComposerClassifier, ComposerModel
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import (
    ConfigError,
    Distillation,
    FrozenTeacher,
    KLDivergence,
    LossError,
    Match,
    Ramp,
    TeacherError,
    kl_divergence,
)
from composer_kd.losses import (
    CRD,
    DKD,
    VID,
    ReviewKD,
    attention_transfer,
    channel_wise_kl,
    hint,
    rkd,
    sad,
    similarity_preserving,
)
from tests.distilling import cnn, distil, image_student, images, tokens
from tests.helpers import (
    Recorder,
    TokenDataset,
    TokenModel,
    loader,
    mlp,
    mse,
    pairs,
    sgd,
    student,
    train,
    trainer,
)


@pytest.mark.parametrize(
    ('match', 'error', 'message'),
    [
        (lambda: Match(hint, on='44'), ConfigError, "the student has no layer '44'; did you mean '4'"),
        (lambda: Match(hint, on=('4', 'layer4')), ConfigError, "the teacher 'Sequential' has no layer 'layer4'"),
        (lambda: Match(hint, on='4'), LossError, r"'hint_4' fails.*\(4, 8, 4, 4\).*\(4, 16, 4, 4\).*project='auto'"),
        (lambda: Match(CRD(24), on='4'), LossError, "'CRD_4' needs the samples' indices.*Indexed"),
        (lambda: Match(CRD(10, negatives=4), on='4'), LossError, "needs the samples' indices"),
        (lambda: Match(hint, on=('4', '4'), project=nn.Conv2d(8, 9, 1)), LossError, r'\(4, 9, 4, 4\)'),
    ],
)
def test_errors_come_before_the_first_step(match, error, message):
    model = image_student()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=message):
        distil([match()], model=model)
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in before)


class TwoHeads(nn.Module):
    """As a distilled DeiT: two answers in training, their mean in evaluation."""

    def __init__(self, looks=False):
        super().__init__()
        self.norm, self.looks, self.calls = nn.BatchNorm1d(6), looks, 0
        self.drop = nn.Dropout(0.5)
        self.head, self.distilled = nn.Linear(6, 4), nn.Linear(6, 3)

    def forward(self, x):
        self.calls += 1
        if self.looks:  # cannot run without values
            x = x * (1.0 if float(x.sum()) < 1e9 else 2.0)
        x = self.drop(self.norm(x))
        noise = random.random() * 0 + float(np.random.rand()) * 0
        if self.training:
            return self.head(x) + noise, self.distilled(x)
        return self.head(x)


class TwoHeaded(ComposerModel):
    def __init__(self, looks=False):
        super().__init__()
        torch.manual_seed(5)
        self.net = TwoHeads(looks)

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return nn.functional.cross_entropy(outputs[0], batch[1])


@pytest.mark.parametrize('looks', [False, True], ids=['on meta', 'for real'])
@pytest.mark.parametrize('place', ['outputs[1]', 'net.distilled'])
def test_what_exists_in_training_alone_is_measured(looks, place):
    """The projector is made to measure of an output that the model has in train mode alone; nothing else moves."""
    seen = []

    class Look(Callback):
        def fit_start(self, state, logger):
            net = state.model.net
            states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1:3]
            seen.append(({k: v.clone() for k, v in net.state_dict().items()}, net.calls, states))

    def run(matches):
        model = TwoHeaded(looks)
        algorithms = [Distillation(mlp(), matches)] if matches else []
        train(model, loader(*pairs()), algorithms, [Look()], optimizer=sgd(model))
        return model

    trained = run([Match(mse, on=(place, '4'), project='auto')])
    run([])
    (ours, calls, states), (theirs, none, plain) = seen
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert calls == none == 0
    assert torch.equal(states[0], plain[0])
    assert states[1] == plain[1]
    assert (states[2][0] == plain[2][0]).all() and states[2][1] == plain[2][1]  # noqa: PT018
    assert not torch.equal(trained.net.distilled.weight, theirs['distilled.weight'])


def test_an_index_into_a_tensor_is_refused_before_the_first_step():
    model = image_student()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigError, match=r"'2\[0\]' of the student: '2' is a tensor of the shape \(4, 4, 8, 8\)"):
        trainer(model, images(), [Distillation(cnn(8, 2), [Match(mse, on='2[0]')])])
    assert all(torch.equal(before[key], model.state_dict()[key]) for key in before)


class Ssd(ComposerModel):
    """As SSD: offsets of boxes, and confidences of classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.offsets, self.classes = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, batch):
        return self.offsets(batch[0]), self.classes(batch[0])

    def loss(self, outputs, batch):
        return nn.functional.cross_entropy(outputs[1], batch[1])


def test_which_of_several_outputs_is_distilled_is_said_and_can_be_named():
    def moved(*on):
        model = Ssd()
        before = copy.deepcopy(model.state_dict())
        loss = Match(KLDivergence(2.0), *on)
        train(model, loader(*pairs()), [Distillation(mlp(), loss, 1.0, 0.0)])
        return {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}

    with pytest.warns(UserWarning, match=r"output of the student has several.*the first.*on='outputs\[1\]'"):
        assert moved() == {'offsets.weight', 'offsets.bias'}
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='The output of')
        assert moved(('outputs[1]', 'outputs')) == {'classes.weight', 'classes.bias'}


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

    with pytest.raises(ConfigError, match=r"student's \(4, 3, 2\) and the teacher's \(4, 2, 3\)"):
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


@pytest.mark.parametrize('loss', [attention_transfer, channel_wise_kl, sad], ids=lambda loss: loss.__name__)
def test_a_loss_of_positions_where_there_is_one_alone(loss):
    """It would be 0 in each batch, and nothing would say so."""

    def pooling():
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))

    one, more = (Distillation(pooling(), Match(loss, on=layer)) for layer in ('1', '0'))
    with pytest.warns(UserWarning, match=rf"Match '{loss.__name__}_1'.* is 0 .*\(4, 8, 1, 1\) .*before the pooling"):
        trainer(ComposerClassifier(pooling(), num_classes=4), images(), [one])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        trainer(ComposerClassifier(pooling(), num_classes=4), images(), [more])


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

    with pytest.raises(LossError, match=r"'my_mse_4' compares \(4, 8, 4, 4\).*\(4, 8, 1, 1\).*any_shape = True"):
        distil([Match(my_mse, on=('4', '5'))], cnn(4, 2))


@pytest.mark.parametrize('loss', [nn.MSELoss(), mse])
def test_torch_losses_say_both_shapes_too(loss):
    with pytest.raises(LossError, match=r"'own' fails.*\(4, 8, 4, 4\) of the student.*\(4, 16, 4, 4\).*project='auto'"):
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
    matches = [Match(hint, on='4', project='auto', lr=0.1)]
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


def test_what_does_not_fit_shows_before_training_though_its_window_opens_late():
    with pytest.raises(LossError, match='differ in shape'):
        trainer(image_student(), images(64), [Distillation(cnn(8, 2), Match(hint, on='4'), start_dur=0.9)])


def test_trying_matches_leaves_no_trace():
    crd, project = CRD(24, negatives=4), nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16))
    matches = [Match(crd, on='4'), Match(hint, on='4', project=project)]
    run = trainer(image_student(indexed=True), images(indexed=True), [Distillation(cnn(8, 2), matches)])
    assert project[1].num_batches_tracked == 0
    assert crd.batches == 0
    before = crd.student_memory.clone()
    crd.update()
    assert torch.equal(crd.student_memory, before)
    run.close()


@pytest.mark.parametrize(
    ('match', 'message'),
    [
        (
            lambda: Match(mse, weight=lambda state: -1.0),
            "weight of 'mse' must be a finite number of at least 0, got -1.0",
        ),
        (lambda: Match(mse, weight=lambda state: None), "weight of 'mse' must be a finite number"),
        (
            lambda: Match(KLDivergence(), temperature=Ramp(8.0, 0.0, '1ba')),
            "temperature of 'KLDivergence' must be .* above 0",
        ),
    ],
)
def test_schedules_that_leave_their_range(match, message):
    with pytest.raises(ConfigError, match=message):
        distil([match()])


@pytest.mark.parametrize(
    ('match', 'error', 'message'),
    [
        (
            lambda: Match(hint, on='4', project=nn.Conv2d(99, 16, 1)),
            ConfigError,
            r"'hint_4': the projector cannot take.*\(4, 8",
        ),
        (lambda: Match(hint, on=(['2', '4'], ['2', '4']), name='lists'), LossError, "'lists' fails"),
        (lambda: Match(ReviewKD(), on='4'), ConfigError, "Match 'ReviewKD_4', of the shapes"),
        (lambda: Match(mse, lr=0.1), ConfigError, 'learns nothing'),
        (lambda: Match(VID()), ConfigError, 'give the loss its sizes'),
    ],
)
def test_what_cannot_be_put_together_is_named(match, error, message):
    with pytest.raises(error, match=message):
        distil([match()])


def test_a_torch_metric_is_no_loss_with_a_memory():
    class Metric(nn.Module):
        """It has an update of its own, which takes what it measures."""

        def forward(self, student, teacher):
            return mse(student, teacher)

        def update(self, student, teacher):
            raise AssertionError

    distil([Match(Metric(), on='6', teacher='Sequential')], cnn(4, 2))


def test_a_teacher_of_features_need_not_answer_in_the_students_classes():
    other = FrozenTeacher(nn.Sequential(*list(cnn(8, 3))[:-1], nn.Linear(16, 7)), name='other')
    same = FrozenTeacher(cnn(8, 2), name='same')
    distil(
        [Match(KLDivergence(), teacher='same'), Match(similarity_preserving, on='4', teacher='other')], [same, other]
    )


# Logits ---------------------------------------------------------------------------------------------------------------


class Looking(nn.Module):
    """A net that cannot run without values, and counts its calls."""

    def __init__(self, net):
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x):
        self.calls += 1
        return self.net(x * (1.0 if float(x.sum()) < 1e9 else 2.0))


def own(student, teacher):
    raise AssertionError('a function of the user is not called before training')


@pytest.mark.parametrize('late', [0.0, 0.9])
@pytest.mark.parametrize('looks', [False, True], ids=['on meta', 'for real'])
@pytest.mark.parametrize(
    ('net', 'teacher', 'loss', 'error', 'message'),
    [
        (mlp(), mlp(7), KLDivergence(), TeacherError, r"'Sequential' answers in the shape \(4, 7\), the .* \(4, 4\)"),
        (mlp(), mlp(7), own, TeacherError, r'\(4, 7\), the student in \(4, 4\)'),
        (mlp(1), mlp(1), KLDivergence(), LossError, r'one output: use composer_kd\.losses\.mse'),
        (mlp(), mlp(), nn.MSELoss(reduction='none'), LossError, 'must return a scalar'),
        (mlp(), mlp(), CRD(24), ConfigError, 'give the loss its sizes'),
    ],
    ids=['other classes', 'a function', 'one output', 'no scalar', 'no sizes'],
)  # fmt: skip
def test_logits_that_do_not_fit_show_before_training(net, teacher, loss, error, message, looks, late):
    net, teacher = (Looking(copy.deepcopy(one)) if looks else copy.deepcopy(one) for one in (net, teacher))
    before = copy.deepcopy(net.state_dict())
    if looks and error is TeacherError:
        message = message.replace('Sequential', 'Looking')
    with pytest.raises(error, match=message):
        trainer(student(net), loader(*pairs()), [Distillation(teacher, loss, start_dur=late)])
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_logits_are_tried_without_a_trace():
    """The run is, number by number, the one whose data set says nothing before training."""

    class Secret(TensorDataset):
        hidden = False

        def __getitem__(self, index):
            if self.hidden:
                raise ValueError('not yet')
            return super().__getitem__(index)

    def run(hidden):
        torch.manual_seed(3)
        net, recorder, data = Looking(mlp(seed=1, norm=True, dropout=0.5)), Recorder(), Secret(*pairs())
        data.hidden = hidden
        run = trainer(
            student(net),
            DataLoader(data, batch_size=8),
            [Distillation(Looking(mlp(seed=4)), KLDivergence())],
            [recorder],
        )
        data.hidden, calls = False, net.calls
        run.fit()
        run.close()
        return recorder.batches, calls

    assert run(False) == run(True)
    assert run(False)[1] == 0


def test_a_large_vocabulary_is_compared_by_its_shape_alone():
    class Wide(nn.Module):
        def __init__(self, classes):
            super().__init__()
            self.head = nn.Linear(6, 1)
            self.classes = classes

        def forward(self, x):
            return self.head(x).expand(len(x), self.classes)

    seen = []

    class Counted(KLDivergence):
        def forward(self, student, teacher, mask=None):
            seen.append(len(student))
            return super().forward(student, teacher, mask)

    Counted.__module__ = 'composer_kd.losses'
    trainer(student(Wide(2**25)), loader(*pairs()), [Distillation(Wide(2**25), Counted())]).close()
    assert seen == []
    with pytest.raises(TeacherError, match='answers in the shape'):
        trainer(student(Wide(2**25)), loader(*pairs()), [Distillation(Wide(2**25 + 1), Counted())])


def test_a_teacher_of_ones_own_does_not_run_before_training():
    class Own:
        name, calls = 'own', 0

        def prepare(self, state): ...

        def end_batch(self, state): ...

        def outputs(self, batch, index=None):
            self.calls += 1
            return torch.zeros(len(batch[0]), 4)

    teacher = Own()
    run = trainer(student(), loader(*pairs()), [Distillation(teacher, KLDivergence())])
    assert teacher.calls == 0
    run.close()


def test_what_labels_hold_is_not_judged_before_training():
    """A transform of the data may still change them."""
    from composer.core import DataSpec

    x, y = pairs()
    data = DataSpec(loader(x, y + 200), batch_transforms=lambda batch: (batch[0], batch[1] - 200))
    _, recorder, _ = distil([Match(DKD())], mlp(), student(), data)
    assert len(recorder.batches) == 3


def test_batches_of_training_may_have_another_form():
    """A transform makes pairs of what the data set gives as mappings."""
    from composer.core import DataSpec

    x, y = pairs()
    teacher = FrozenTeacher(Looking(mlp(seed=3)))
    data = DataSpec(
        DataLoader(TokenDataset(x=x, labels=y), batch_size=8),
        batch_transforms=lambda batch: (batch['x'], batch['labels']),
    )

    class Either(ComposerModel):
        def __init__(self):
            super().__init__()
            self.net = Looking(mlp(seed=1))

        def forward(self, batch):
            return self.net(batch['x'] if isinstance(batch, dict) else batch[0])

        def loss(self, outputs, batch):
            return nn.functional.cross_entropy(outputs, batch[1])

    _, recorder, _ = distil([KLDivergence()], teacher, Either(), data)
    assert len(recorder.batches) == 3


class Probable(ComposerModel):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return nn.functional.binary_cross_entropy(outputs, batch[1])


@pytest.mark.parametrize('classes', [1, 3])
@pytest.mark.parametrize('loss', [nn.BCELoss(), nn.functional.binary_cross_entropy], ids=['module', 'function'])
def test_a_loss_of_probabilities_gets_no_random_values(loss, classes):
    def probabilities(seed):
        return nn.Sequential(mlp(classes, seed), nn.Sigmoid())

    x, _ = pairs()
    data = loader(x, (x[:, :classes] > 0).float())
    _, recorder, _ = distil([Match(loss)], probabilities(3), Probable(probabilities(1)), data)
    assert len(recorder.batches) == 3


def test_a_loss_of_probabilities_may_compare_layers():
    def probabilities(seed):
        net = mlp(seed=seed)
        net[2] = nn.Sigmoid()
        return net

    _, recorder, _ = distil(
        [Match(nn.BCELoss(), on='2')], probabilities(3), student(probabilities(1)), loader(*pairs())
    )
    assert len(recorder.batches) == 3


@pytest.mark.parametrize('on', ['logits', '4'])
def test_no_schedule_is_read_before_the_length_of_the_run_is_known(on):
    seen = []

    def later(state):
        seen.append(float(state.get_elapsed_duration()))
        return 1.0 + seen[-1]

    for temperature in (later, Ramp(1.0, 4.0)):
        match = Match(KLDivergence(), on=on, temperature=temperature)
        run = trainer(student(), loader(*pairs()), [Distillation(mlp(seed=3), match)], max_duration=None)
        run.fit(duration='3ba')
        run.close()
    assert seen == [0.0, pytest.approx(1 / 3), pytest.approx(2 / 3)]


@pytest.mark.parametrize('on', ['logits', '4'])
def test_a_forward_that_keeps_something_keeps_what_has_values(on):
    def taught(keeps):
        kept = {}

        def forward(model, batch):
            if not keeps or not kept:
                kept['weight'] = model[0].weight.t().contiguous()
            return model[1:](batch[0] @ kept['weight'] + model[0].bias)

        data, teacher = loader(*pairs()), FrozenTeacher(mlp(seed=3), forward=forward)
        _, recorder, _ = distil([Match(mse, on=on)], teacher, student(), data)
        return recorder.batches

    assert taught(True) == taught(False)
