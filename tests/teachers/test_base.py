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
