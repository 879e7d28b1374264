"""Teachers that are no FrozenTeacher: what the pool, the matches and a Trainer take of them."""

import pytest
import torch
from torch import nn

from composer_kd import ConfigError, Distillation, FrozenTeacher, KLDivergence, Match, TeacherError
from composer_kd.data import Indexed
from composer_kd.losses import hint
from composer_kd.models import IndexedClassifier
from composer_kd.teachers import Teacher, TeacherPool
from tests.helpers import Recorder, loader, mlp, mse, pairs, student, train
from tests.outside import AverageTeacher, LayeredTeacher


def test_a_frozen_model_is_a_teacher_and_so_is_a_plain_class():
    assert isinstance(FrozenTeacher(mlp()), Teacher)
    assert isinstance(AverageTeacher(), Teacher)
    assert not isinstance(mlp(), Teacher)


def test_it_is_prepared_asked_and_told_of_every_step():
    teacher, recorder = AverageTeacher(), Recorder()
    train(student(), loader(*pairs()), [Distillation(teacher, KLDivergence(2.0))], [recorder], max_duration='2ep')
    assert (teacher.prepared, teacher.asked, teacher.told) == (1, 6, 6)
    assert recorder.batches[0]['kd'] == pytest.approx(0, abs=1e-7)  # the average begins as the student
    assert recorder.batches[-1]['kd'] > 1e-6


def test_it_is_told_of_steps_outside_the_window_too():
    teacher = AverageTeacher()
    train(student(), loader(*pairs()), [Distillation(teacher, mse, start_dur='1ep')], max_duration='2ep')
    assert (teacher.asked, teacher.told) == (3, 6)


def test_the_moving_average_is_that_of_an_independent_computation():
    teacher, model, seen = AverageTeacher(decay=0.75), student(), []
    start = {name: value.clone() for name, value in model.state_dict().items()}

    class Keep(Recorder):
        def batch_end(self, state, logger):
            seen.append({name: value.clone() for name, value in state.model.state_dict().items()})

    train(model, loader(*pairs()), [Distillation(teacher, mse)], [Keep()])
    expected = start['module.0.weight']
    for weights in seen:
        expected = 0.75 * expected + 0.25 * weights['module.0.weight']
    torch.testing.assert_close(teacher.average['module.0.weight'], expected)


def test_microbatches_are_asked_one_by_one_and_a_step_is_told_once():
    teacher = AverageTeacher()
    train(student(), loader(*pairs()), [Distillation(teacher, mse)], device_train_microbatch_size=2)
    assert (teacher.asked, teacher.told) == (12, 3)


def test_the_numbers_of_the_samples_reach_it_where_they_are_known():
    teacher = AverageTeacher()
    model = IndexedClassifier(mlp(seed=1), num_classes=4)
    data = torch.utils.data.DataLoader(Indexed(torch.utils.data.TensorDataset(*pairs(8))), batch_size=4)
    train(model, data, [Distillation([teacher, mlp()], mse)])
    assert [index.tolist() for index in teacher.indices] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    other = AverageTeacher()
    train(student(), loader(*pairs(8)), [Distillation(other, mse)])
    assert other.indices == [None]


def test_it_stands_beside_frozen_models_with_weights_and_in_evaluation():
    teacher, frozen, recorder = AverageTeacher(), mlp(seed=7), Recorder()
    algorithm = Distillation([teacher, frozen], mse, teacher_weights=[3.0, 1.0], run_teacher_on_eval=True)
    x, y = pairs()
    run = train(student(), loader(x, y), [algorithm], [recorder], eval_dataloader=loader(x, y))
    before = student()((x[:8], y[:8]))
    mean = 0.75 * before + 0.25 * frozen(x[:8])
    assert recorder.batches[0]['kd'] == pytest.approx(mse(before, mean).item(), rel=1e-4)
    assert algorithm.final_metrics()['metrics/eval/agreement/kl'] >= 0
    assert algorithm.final_metrics().keys() == algorithm.evaluation.latest.keys()
    assert run.state.timestamp.batch == 3


def test_layers_of_one_with_a_module_can_be_matched():
    teacher, recorder = LayeredTeacher(mlp(seed=3)), Recorder()
    x, y = pairs()
    fresh = student()
    train(student(), loader(x, y), [Distillation(teacher, [Match(hint, on='0'), mse])], [recorder])
    ours, theirs = fresh.module[0](x[:8]), teacher.model[0](x[:8])
    assert recorder.batches[0]['hint_0'] == pytest.approx(mse(ours, theirs).item(), rel=1e-4)


def test_layers_of_one_without_a_module_are_refused_with_the_way_out():
    algorithm = Distillation([AverageTeacher(), mlp()], [Match(hint, on='0'), mse])
    with pytest.raises(ConfigError, match=r"'average' \(AverageTeacher\) has no layers to match.*bind the matches"):
        train(student(), loader(*pairs()), [algorithm])


class Half:
    name = 'half'

    def prepare(self, state): ...


@pytest.mark.parametrize('given', [Half(), [mlp(), Half()]])
def test_what_is_missing_of_a_teacher_is_named(given):
    with pytest.raises(TeacherError, match='Half is no teacher yet: it has prepare, and lacks outputs and end_batch'):
        TeacherPool(given)


def test_a_class_is_no_teacher():
    with pytest.raises(TeacherError, match=r'got the class AverageTeacher: make one, AverageTeacher\(\)'):
        TeacherPool(AverageTeacher)


def test_a_module_may_be_a_teacher_of_its_own_kind():
    class Both(nn.Module):
        name = 'both'

        def prepare(self, state): ...

        def outputs(self, batch, index=None):
            return torch.ones(len(batch[0]), 4)

        def end_batch(self, state): ...

    made = Both()
    assert TeacherPool(made).teachers == [made]
    assert TeacherPool([made])((torch.zeros(2, 6), None)).tolist() == torch.ones(2, 4).tolist()


def test_the_student_learns_nothing_of_it_in_a_checkpoint(tmp_path):
    train(student(), loader(*pairs()), [Distillation(AverageTeacher(), mse)], save_folder=str(tmp_path))
    saved = torch.load(tmp_path / 'latest-rank0.pt', weights_only=False)['state']['model']
    assert saved.keys() == student().state_dict().keys()


class Doubled(FrozenTeacher):
    """Moves, as a subclass of a frozen teacher."""

    def end_batch(self, state):
        with torch.no_grad():
            self.model[0].weight.mul_(2)


def test_a_subclass_of_a_frozen_teacher_may_move():
    teacher = Doubled(mlp())
    before = teacher.model[0].weight.clone()
    train(student(), loader(*pairs()), [Distillation(teacher, mse)])
    torch.testing.assert_close(teacher.model[0].weight, 8 * before)


def test_overrides_that_training_would_not_use_are_refused():
    class Scaled(FrozenTeacher):
        def __call__(self, batch):
            return super().__call__(batch) * 10

    class WithoutIndex(FrozenTeacher):
        def outputs(self, batch):
            return super().outputs(batch)

    with pytest.raises(TeacherError, match=r'Scaled overrides __call__.*Override outputs\(self, batch, index=None\)'):
        Distillation(Scaled(mlp()), mse)
    with pytest.raises(TeacherError, match=r'WithoutIndex.outputs must take the batch and the index'):
        Distillation([mlp(), WithoutIndex(mlp())], mse)


def test_a_module_that_lacks_the_name_alone_is_no_frozen_model():
    class Nameless(nn.Linear):
        def prepare(self, state): ...

        def outputs(self, batch, index=None): ...

        def end_batch(self, state): ...

    with pytest.raises(TeacherError, match=r'Nameless is no teacher yet: .* lacks name'):
        TeacherPool(Nameless(2, 3))


def test_a_checkpoint_may_be_loaded_into_the_module_of_a_teacher(tmp_path):
    torch.save(mlp(seed=9).state_dict(), tmp_path / 'weights.pt')
    teacher = LayeredTeacher(mlp(seed=3))
    assert TeacherPool({str(tmp_path / 'weights.pt'): teacher}).teachers == [teacher]
    torch.testing.assert_close(teacher.model[0].weight, mlp(seed=9)[0].weight)
    with pytest.raises(TeacherError, match="'average' has no module under the attribute `model`"):
        TeacherPool({str(tmp_path / 'weights.pt'): AverageTeacher()})


class Remembered(AverageTeacher):
    def state_dict(self):
        return {'average': self.average}

    def load_state_dict(self, state):
        self.average = state['average']


def test_one_with_a_state_is_resumed(tmp_path):
    def run(duration, teacher, **options):
        model = student()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        done = train(model, loader(*pairs()), [Distillation(teacher, mse)], max_duration=duration, optimizer=optimizer,
                     save_folder=str(tmp_path / duration), **options)  # fmt: skip
        return torch.cat([parameter.detach().flatten() for parameter in done.state.model.parameters()])

    straight, resumed = Remembered(), Remembered()
    run('1ep', Remembered())
    expected = run('2ep', straight)
    found = run('2ep', resumed, load_path=str(tmp_path / '1ep' / 'latest-rank0.pt'), save_overwrite=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(resumed.average['module.0.weight'], straight.average['module.0.weight'])


def test_those_of_two_algorithms_are_resumed_each_with_its_own_state(tmp_path):
    """Composer restores all algorithms of a class from the state of the last one."""

    def run(duration, **options):
        teachers = [Remembered(0.9), Remembered(0.2)]
        algorithms = [Distillation(teachers[0], mse, end_dur='4ba'), Distillation(teachers[1], mse, start_dur='4ba')]
        folder = str(tmp_path / duration)
        train(student(), loader(*pairs()), algorithms, max_duration=duration, save_folder=folder, **options)
        return [teacher.average['module.0.weight'] for teacher in teachers]

    run('1ep')
    straight = run('2ep')
    resumed = run('2ep', load_path=str(tmp_path / '1ep' / 'latest-rank0.pt'), save_overwrite=True)
    assert not torch.equal(*straight)
    for expected, found in zip(straight, resumed):
        torch.testing.assert_close(found, expected)


def test_one_without_a_state_begins_at_the_weights_loaded_and_a_resume_says_so(tmp_path):
    train(student(), loader(*pairs()), [Distillation(AverageTeacher(), mse)], save_folder=str(tmp_path))
    latest, recorder, teacher = str(tmp_path / 'latest-rank0.pt'), Recorder(), AverageTeacher()
    with pytest.warns(UserWarning, match="The teacher 'average' changes during training, and the checkpoint does not"):
        train(
            student(), loader(*pairs()), [Distillation(teacher, mse)], [recorder], max_duration='2ep', load_path=latest
        )
    assert recorder.batches[0]['kd'] == pytest.approx(0, abs=1e-7)
    assert teacher.prepared == 2


def test_weights_alone_are_loaded_before_it_copies_the_student(tmp_path):
    train(student(), loader(*pairs()), [], save_folder=str(tmp_path))
    recorder = Recorder()
    options = {'load_path': str(tmp_path / 'latest-rank0.pt'), 'load_weights_only': True}
    train(student(), loader(*pairs()), [Distillation(AverageTeacher(), mse)], [recorder], **options)
    assert recorder.batches[0]['kd'] == pytest.approx(0, abs=1e-7)


def test_one_that_moves_is_refused_in_two_algorithms_and_a_frozen_one_is_not():
    teacher, frozen = AverageTeacher(), FrozenTeacher(mlp())

    def both(teacher):
        return [Distillation(teacher, mse, end_dur=0.5), Distillation(teacher, mse, start_dur=0.5)]

    with pytest.raises(
        ConfigError, match="'average' changes with each step of the student, and two algorithms have it"
    ):
        train(student(), loader(*pairs()), both(teacher))
    train(student(), loader(*pairs()), both(frozen), max_duration='2ba')


def test_random_draws_of_its_preparation_leave_the_run_as_it_is():
    class Draws(AverageTeacher):
        def prepare(self, state):
            super().prepare(state)
            torch.rand(7)

    runs = []
    for teacher in (AverageTeacher(), Draws()):
        recorder = Recorder()
        data = loader(*pairs(), shuffle=True)
        train(student(mlp(seed=1, dropout=0.5)), data, [Distillation(teacher, mse)], [recorder])
        runs.append(recorder.batches)
    assert runs[0] == runs[1]


def test_the_numbers_of_evaluation_samples_are_not_taken_for_those_of_training():
    teacher = AverageTeacher()
    model = IndexedClassifier(mlp(seed=1), num_classes=4)
    data = torch.utils.data.DataLoader(Indexed(torch.utils.data.TensorDataset(*pairs(4))), batch_size=4)
    train(model, data, [Distillation(teacher, mse, run_teacher_on_eval=True)], eval_dataloader=data)
    assert [None if index is None else index.tolist() for index in teacher.indices] == [[0, 1, 2, 3], None]
