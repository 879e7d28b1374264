"""A teacher and an algorithm as someone else's package would have them: the public bases alone."""

import torch
from composer.core import Event
from torch import nn

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.schedules import Window
from composer_kd.teachers import Teachers


class AverageTeacher:
    """The student's own moving average; keeps count of what it is asked and told."""

    name = 'average'

    def __init__(self, decay=0.5):
        self.decay = decay
        self.prepared, self.asked, self.told, self.indices = 0, 0, 0, []
        self.average = None

    def prepare(self, state):
        self.prepared += 1
        self.average = {name: value.clone() for name, value in state.model.state_dict().items()}
        self._student = state.model

    def outputs(self, batch, index=None):
        self.asked += 1
        self.indices.append(index)
        module = self._student.module
        prefix = 'module.'
        weights = {key.removeprefix(prefix): v for key, v in self.average.items() if key.startswith(prefix)}
        return torch.func.functional_call(module, weights, (batch[0],))

    def end_batch(self, state):
        self.told += 1
        for name, value in state.model.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - self.decay)


class LayeredTeacher(AverageTeacher):
    """One whose layers can be matched."""

    name = 'layered'

    def __init__(self, model):
        super().__init__()
        self.model = model

    def outputs(self, batch, index=None):
        return {'logits': self.model(batch[0])}


class MatchTeachers(DistillationAlgorithm):
    """Adds the squared distance to each teacher's logits."""

    def __init__(self, teachers: Teachers, scale: float = 1.0):
        self._teachers, self.scale, self.last = teachers, scale, float('nan')

    @property
    def teachers(self):
        return self._teachers

    @property
    def window(self):
        return Window(0.0, 1.0)

    def final_metrics(self):
        return {'metrics/mine/distance': self.last}

    def match(self, event, state):
        return event in (Event.INIT, Event.AFTER_LOSS, Event.BATCH_END)

    def apply(self, event, state, logger):
        for teacher in self.teachers:
            if event == Event.INIT:
                teacher.prepare(state)
            elif event == Event.BATCH_END:
                teacher.end_batch(state)
            else:
                with torch.no_grad():
                    answer = teacher.outputs(state.batch)
                distance = self.scale * nn.functional.mse_loss(state.outputs, answer)
                self.last = distance.item()
                state.loss = {'total': state.loss + distance, 'distance': distance}
