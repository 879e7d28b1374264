"""Whatever ends a fit leaves the models as they were: without hooks, to be saved, copied and trained again."""

import copy
import io
import os
import signal

import pytest
import torch
from composer.core.engine import sigterm_handler
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import ConfigError, Distillation, KLDivergence, Match, TeacherError
from composer_kd.losses import hint, rkd
from tests.distilling import cnn, image_student, images
from tests.helpers import EventSpy, Recorder, train, trainer, weights


def raising(error):
    def stop(*args):
        raise error

    return stop


class FailsOnce(nn.Module):
    """A layer that ends the run from inside a forward pass of its first batch."""

    def __init__(self, error):
        super().__init__()
        self.error, self.armed = error, False

    def arm(self, state):
        self.armed = True

    def forward(self, x):
        if self.error is not None and self.armed:
            error, self.error = self.error, None
            raise error
        return x


def hooks_of(*models):
    return [hook for model in models for part in model.modules()
            for hook in (*part._forward_hooks.values(), *part._forward_pre_hooks.values())]  # fmt: skip


def works_alone(model):
    torch.save(model, io.BytesIO())
    copy.deepcopy(model)
    with torch.no_grad():
        return model(next(iter(images())))


EVENTS = ('before_forward', 'after_forward', 'after_loss', 'after_backward', 'batch_end', 'epoch_end', 'eval_start')


@pytest.mark.parametrize('error', [RuntimeError('broken'), KeyboardInterrupt(), SystemExit(143)], ids=repr)
@pytest.mark.parametrize('event', EVENTS)
def test_an_error_at_any_event(event, error):
    model, teacher = image_student(), cnn(8, 2)
    run = trainer(model, images(), [Distillation(teacher, [Match(rkd, on='4')])], [EventSpy(event, raising(error))],
                  eval_dataloader=images())  # fmt: skip
    with pytest.raises(type(error)):
        run.fit()
    works_alone(model)
    assert not hooks_of(model, teacher)
    works_alone(model)
    assert list(model.state_dict()) == list(image_student().state_dict())
    recorder = Recorder()
    train(model, images(), [Distillation(teacher, [Match(rkd, on='2')])], [recorder])
    assert 'rkd_2' in recorder.batches[-1]


@pytest.mark.parametrize('error', [RuntimeError('broken'), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize('whose', ['student', 'teacher'])
def test_an_error_inside_a_forward_pass(whose, error):
    models = {'student': image_student(), 'teacher': cnn(8, 2)}
    layer = FailsOnce(error)
    net = models[whose].module if whose == 'student' else models[whose]
    net[6] = nn.Sequential(layer, nn.Flatten())
    wrapped = whose == 'teacher' and isinstance(error, Exception)
    algorithm = Distillation(models['teacher'], [Match(rkd, on='4')])
    with pytest.raises(ValueError if wrapped else type(error)):
        train(models['student'], images(), [algorithm], [EventSpy('batch_start', layer.arm)])
    if isinstance(error, Exception) or whose == 'teacher':
        assert not hooks_of(models['student'])
    assert not hooks_of(models['teacher'])
    works_alone(models['student'])
    assert not hooks_of(models['student'])
    torch.save(models['teacher'], io.BytesIO())


def test_an_interrupted_pass_is_not_seen_by_those_that_follow():
    layer = FailsOnce(KeyboardInterrupt())
    model = ComposerClassifier(nn.Sequential(cnn(4, 1), layer), num_classes=4)
    algorithm = Distillation(nn.Sequential(cnn(8, 2), nn.Identity()), [Match(rkd, on='0.4')])
    run = trainer(model, images(), [algorithm], [Recorder(), EventSpy('batch_start', layer.arm)])
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    copied = copy.deepcopy(model)
    copied(next(iter(images())))
    run.fit()  # goes on where it was
    recorder = next(callback for callback in run.state.callbacks if isinstance(callback, Recorder))
    assert len(recorder.batches) == 3
    assert not hooks_of(model)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_of_the_system(number):
    """Composer makes an exit of both."""
    model = image_student()
    send = EventSpy('after_loss', lambda state: os.kill(os.getpid(), number))
    before = signal.signal(number, sigterm_handler)
    try:
        with pytest.raises(SystemExit) as ended:
            train(model, images(), [Distillation(cnn(8, 2), [Match(rkd, on='4')])], [send])
    finally:
        signal.signal(number, before)
    assert ended.value.code == 128 + number
    assert not hooks_of(model)
    works_alone(model)


def test_a_mistaken_match_and_its_correction():
    """The model itself does not fail of a path that it does not have."""
    model = image_student()
    with pytest.raises(ValueError, match="'outputs' is a tensor of the shape"):
        train(model, images(), [Distillation(cnn(8, 2), [Match(rkd, on='outputs.attentions[-1]')])])
    assert not hooks_of(model)
    works_alone(model)
    train(model, images(), [Distillation(cnn(8, 2), KLDivergence())])


def test_hooks_are_on_the_models_only_while_they_run():
    model, teacher, seen = image_student(), cnn(8, 2), []
    spies = [EventSpy(event, lambda state: seen.append(len(hooks_of(model, teacher)))) for event in EVENTS[1:]]
    train(model, images(), [Distillation(teacher, [Match(rkd, on='4')])], spies, eval_dataloader=images())
    assert seen
    assert not any(seen)


def test_what_an_interrupted_run_learned_is_taken_out_by_the_next():
    """Also out of an optimizer of all of the student's parameters; the next run is what it would have been."""

    def taught(model, **options):
        recorder = Recorder()
        algorithm = Distillation(cnn(8, 2), [Match(hint, on='4', project='auto')])
        run = train(model, images(), [algorithm], [recorder, *options.pop('callbacks', ())], **options)
        return run, recorder.batches

    model = image_student()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        taught(model, callbacks=[EventSpy('batch_end', raising(KeyboardInterrupt()))])
    works_alone(model)
    missing = model.load_state_dict(before, strict=False).missing_keys
    assert [key.split('.')[0] for key in missing] == ['composer_kd'] * 2
    with pytest.warns(UserWarning, match=r'earlier run \(hint_4_0\)'):
        run, losses = taught(model)
    expected, alone = taught(image_student())
    assert losses == alone
    assert torch.equal(weights(model), weights(expected.state.model))
    assert len(run.state.optimizers[0].param_groups[0]['params']) == len(list(model.parameters()))


def test_a_run_that_is_refused_leaves_nothing():
    model = image_student()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    keys, count = list(model.state_dict()), len(list(model.parameters()))
    matches = [Match(hint, on='4', project='auto', lr=0.5), Match(hint, on=('2', '4'), project=nn.Conv2d(3, 16, 1))]
    with pytest.raises(ValueError, match='hint_2'):
        trainer(model, images(), [Distillation(cnn(8, 2), matches)], optimizer=optimizer)
    assert list(model.state_dict()) == keys
    assert [len(group['params']) for group in optimizer.param_groups] == [count]


def test_an_object_that_is_used_again_looks_at_its_new_student_anew():
    algorithm = Distillation(cnn(8, 2), [KLDivergence(2.0), Match(rkd, on='4')], start_dur=0.5)
    train(image_student(), images(), [algorithm], max_duration='2ep')
    frozen = image_student()
    for parameter in frozen.module[:5].parameters():
        parameter.requires_grad_(False)
    with pytest.raises(ConfigError, match="layer '4' of the student has no gradient"):
        train(frozen, images(), [algorithm], max_duration='2ep')
    other, batches = ComposerClassifier(nn.Sequential(cnn(4, 1), nn.Linear(4, 5)), num_classes=5), []
    algorithm = Distillation(cnn(8, 2), KLDivergence(2.0), start_dur=0.5)
    train(image_student(), images(), [algorithm], max_duration='2ep')
    with pytest.raises(TeacherError, match='the student in'):
        train(other, images(), [algorithm], [EventSpy('batch_end', batches.append)], max_duration='2ep')
    assert not batches
