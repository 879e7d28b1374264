"""What is trained beside the student, in a real Trainer."""

import copy
import gc
import weakref

import pytest
import torch
from composer.optim import CosineAnnealingScheduler, DecoupledAdamW, LinearScheduler
from torch import nn

from composer_kd import Distillation, Match
from composer_kd.losses import RKD, VID, hint, rkd
from tests.distilling import LEARNERS, cnn, distil, image_student, images
from tests.helpers import (
    EventSpy,
    Recorder,
    sgd,
    train,
    trainer,
    weights,
)


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
    assert [group['lr'] for group in groups] == pytest.approx([now, 5 * now])
    assert [len(group['params']) for group in groups] == [6 + 4, 2]


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


def test_going_on_with_and_without_what_was_learned(tmp_path):
    """As the README says."""
    projected = [Match(hint, on='4', project='auto')]
    taught, _, _ = distil(projected, save_folder=str(tmp_path / 'taught'))
    alone = image_student()
    train(alone, images(), [], save_folder=str(tmp_path / 'alone'))

    plain = image_student()
    path = str(tmp_path / 'taught' / 'latest-rank0.pt')
    ignore = ['state/model/composer_kd*']
    trainer(plain, images(), load_path=path, load_weights_only=True, load_ignore_keys=ignore).close()
    assert torch.equal(weights(plain), weights(taught.state.model.module))

    extended = image_student()
    path = str(tmp_path / 'alone' / 'latest-rank0.pt')
    algorithm = Distillation(cnn(8, 2), [Match(hint, on='4', project='auto')])
    load = {'load_path': path, 'load_weights_only': True, 'load_strict_model_weights': False}
    trainer(extended, images(), [algorithm], **load).close()
    assert torch.equal(weights(extended.module), weights(alone))
