"""Tasks of every kind: the losses are those of the samples alone, however a batch is cut, whichever labels it has."""

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from composer_kd import Distillation
from tests.helpers import Recorder, train
from tests.tasks import LENGTH, SIZE, TASKS, make_task

LABELS = st.lists(st.booleans(), min_size=SIZE * LENGTH, max_size=SIZE * LENGTH)


@pytest.mark.filterwarnings('ignore:The batch has no attention mask')
@pytest.mark.parametrize('name', TASKS)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(micro=st.integers(1, SIZE), known=LABELS, seed=st.integers(0, 9))
def test_losses_are_those_of_samples_alone(name, micro, known, seed):
    task, recorder = make_task(name, torch.tensor(known).reshape(SIZE, LENGTH), seed), Recorder()
    student = task.student()
    train(
        student,
        DataLoader(task.data(), batch_size=SIZE),
        [Distillation(task.teacher, task.loss, **task.settings)],
        [recorder],
        optimizer=torch.optim.SGD(student.parameters(), lr=0.0),
        device_train_microbatch_size=micro,
    )
    (found,) = recorder.batches
    for key, value in task.expected().items():
        assert found[key] == pytest.approx(value, rel=2e-3, abs=1e-5), key
