"""Names for spans of a step."""

import time

import pytest
import torch

from composer_kd import Distillation, KLDivergence, Match, spans
from composer_kd.spans import DISTILLATION_LOSS, TEACHER_FORWARD, Span, labelled
from tests.helpers import EventSpy, loader, mlp, mse, pairs, student, train


def names(events):
    return [event.name for event in events if event.name.startswith('composer_kd/')]


def test_stretches_do_not_overlap_in_a_profile():
    with torch.profiler.profile() as seen, Span('outer'):
        time.sleep(0.01)
        with Span('inner'):
            time.sleep(0.02)
        time.sleep(0.01)
    spent = {event.key: event.cpu_time_total / 1e6 for event in seen.key_averages()}
    assert spent['composer_kd/outer'] == pytest.approx(0.02, abs=0.008)
    assert spent['composer_kd/inner'] == pytest.approx(0.02, abs=0.008)
    assert names(seen.events()) == ['composer_kd/outer', 'composer_kd/inner', 'composer_kd/outer']


def test_a_listener_hears_what_begins_and_that_nothing_follows():
    heard = []
    spans.listeners.append(heard.append)
    try:
        with Span('a'), pytest.raises(ZeroDivisionError), Span('b'):
            raise ZeroDivisionError
    finally:
        spans.listeners.clear()
    assert heard == ['a', 'b', 'a', None]


def test_a_function_is_itself_while_nobody_watches():
    assert labelled('x', len) is len
    with torch.profiler.profile() as seen:
        assert labelled('x', len)([1, 2]) == 2
    assert names(seen.events()) == ['composer_kd/x']


@pytest.mark.parametrize('kd_loss_fn', [KLDivergence(4.0), [KLDivergence(4.0), Match(mse, on='module.2')]])
def test_a_profiled_step_shows_teacher_and_distillation_loss(kd_loss_fn):
    profiler = torch.profiler.profile()
    callbacks = [
        EventSpy('before_forward', lambda state: profiler.start()),
        EventSpy('before_backward', lambda state: profiler.stop()),
    ]
    algorithm = Distillation(mlp(seed=5), kd_loss_fn)
    train(student(), loader(*pairs(8)), [algorithm], callbacks)
    found = names(profiler.events())
    loss, teacher = (f'composer_kd/{name}' for name in (DISTILLATION_LOSS, TEACHER_FORWARD))
    assert found == [loss, teacher, loss]
    # The linear layers of the teacher run inside its span, and nothing of the student does.
    spans = [event for event in profiler.events() if event.name == teacher]
    inside = [
        event
        for event in profiler.events()
        if event.name == 'aten::linear'
        and spans[0].time_range.start <= event.time_range.start <= spans[0].time_range.end
    ]
    assert len(inside) == 2
