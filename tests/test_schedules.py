from types import SimpleNamespace

import pytest
from composer.core import Time, Timestamp

from composer_kd import ConfigError, Distillation
from composer_kd.schedules import Ramp, Window, value_at
from tests.helpers import EventSpy, loader, mlp, pairs, student, trainer


def opened_at(start, end, max_duration, fits=(None,), batches_per_epoch=10, **data):
    """The numbers of the batches that distil in a real run."""
    distilled = []

    def look(state):
        if isinstance(state.loss, dict):
            distilled.append(state.timestamp.batch.value)

    def loss(student, teacher):
        return (student - teacher).square().mean()

    model = student()
    algorithm = Distillation(mlp(), loss, start_dur=start, end_dur=end)
    run = trainer(
        model,
        data.get('data', loader(*pairs(2 * batches_per_epoch), batch_size=2)),
        [algorithm],
        [EventSpy('after_loss', look)],
        max_duration=max_duration,
    )
    for duration in fits:
        run.fit(**({} if duration is None else {'duration': duration}))
    run.close()
    return distilled


@pytest.mark.parametrize(
    ('start', 'end', 'max_duration', 'expected'),
    [
        (0.0, 1.0, '1ep', range(10)),
        (0.3, 0.7, '1ep', range(3, 7)),  # 0.3 * 10 and 0.7 * 10 are no integers in floating point
        ('0.25dur', '0.75dur', '1ep', range(3, 8)),  # begins at batch 2.5: batch 3 is the first to start inside
        (0.5, 1.0, '2ep', range(10, 20)),
        (0.0, 0.25, '2ep', range(5)),
        ('1ep', '2ep', '3ep', range(10, 20)),
        ('3ba', '5ba', '1ep', range(3, 5)),
        ('4sp', '8sp', '1ep', range(2, 4)),
        (0.2, 0.4, '20ba', range(4, 8)),
        (0.5, 1.0, '20sp', range(5, 10)),
        ('3ba', 1.0, '8ba', range(3, 8)),
    ],
)
def test_opens_and_closes_at_the_right_batch(start, end, max_duration, expected):
    assert opened_at(start, end, max_duration) == list(expected)


def test_tokens():
    from composer.core import DataSpec

    data = DataSpec(loader(*pairs(20), batch_size=2), get_num_tokens_in_batch=lambda batch: 6)
    assert opened_at(0.5, 1.0, '60tok', data=data) == [5, 6, 7, 8, 9]


def test_tokens_as_times():
    from composer.core import DataSpec

    data = DataSpec(loader(*pairs(20), batch_size=2), get_num_tokens_in_batch=lambda batch: 6)
    assert opened_at('12tok', '24tok', '1ep', data=data) == [2, 3]


def test_fractions_refer_to_the_total_as_it_stands():
    # the first fit ends at batch 10: its second half distils; the second ends at 20: everything after 10 does
    assert opened_at(0.5, 1.0, None, fits=('1ep', '1ep')) == [*range(5, 10), *range(10, 20)]
    assert opened_at(0.0, 0.5, None, fits=('10ba', '10ba')) == [*range(5)]


def test_a_total_that_changes_during_the_run():
    """Another callback prolongs the run at batch 6: its half then lies at batch 10, no longer at 5."""
    distilled = []

    def look(state):
        if isinstance(state.loss, dict):
            distilled.append(state.timestamp.batch.value)

    def prolong(state):
        if state.timestamp.batch.value == 6:
            state.max_duration = '20ba'

    algorithm = Distillation(mlp(), lambda student, teacher: (student - teacher).square().mean(), start_dur=0.5)
    spies = [EventSpy('after_loss', look), EventSpy('before_dataloader', prolong)]
    run = trainer(student(), loader(*pairs(20), batch_size=2), [algorithm], spies, max_duration='10ba')
    run.fit()
    run.close()
    assert distilled == [5, *range(10, 20)]


def test_epochs_of_unknown_length():
    state = SimpleNamespace(max_duration=Time(2, 'ep'), dataloader_len=None, timestamp=Timestamp())
    with pytest.raises(ConfigError, match='epochs whose length is unknown'):
        Window(0.5, 1.0).is_open(state)
    assert Window(0.0, '1ep').is_open(state)


def test_warns_when_it_never_opens():
    for start, run in (('5ep', '1ep'), ('10ba', '1ep'), (1.0, '1ep'), ('99sp', '20sp')):
        with pytest.warns(UserWarning, match='Distillation never starts: start_dur is'):
            opened_at(start, '9ep' if start == 1.0 else 1.0, run)


@pytest.mark.parametrize(('start', 'end', 'run'), [(0.9, 1.0, '5ba'), (0.51, 0.55, '1ep'), ('8ba', 0.25, '2ep')])
def test_warns_when_a_short_run_has_no_batch_in_it(start, end, run):
    with pytest.warns(UserWarning, match='Distillation never starts: from start_dur=.* there is no batch in a run of'):
        assert opened_at(start, end, run) == []
    assert opened_at(start, end, '10ep')


@pytest.mark.parametrize('value', [-0.1, 1.5, 2, 'soon', '3sec', '1h', None, float('nan'), True, '-1ep'])
def test_refuses_what_is_no_time(value):
    with pytest.raises(ConfigError, match='start_dur: expected a fraction in'):
        Window(value, 1.0)


@pytest.mark.parametrize(
    ('start', 'end', 'batches'),
    [(0.5, '1ep', '10 and batch 10'), ('1ep', '4ba', '10 and batch 4')],
)
def test_ends_in_different_units_are_compared_when_the_run_starts(start, end, batches):
    with pytest.raises(ConfigError, match=f'start_dur must come before end_dur.*batch {batches}'):
        opened_at(start, end, '2ep')


@pytest.mark.parametrize(
    ('start', 'end'), [(0.0, '0ba'), (0.5, 0.5), (0.9, 0.1), ('10ep', '10ep'), ('500ba', '5ba'), (1.0, 1.0)]
)
def test_start_must_come_before_end(start, end):
    with pytest.raises(ConfigError, match='start_dur must come before end_dur'):
        Window(start, end)


def test_times_are_taken_as_objects():
    assert repr(Window(Time(2, 'ep'), Time(0.5, 'dur'))) == "Window(start='2ep', end='0.5dur')"


def test_seconds_cannot_be_divided():
    state = SimpleNamespace(max_duration=Time(10, 'sec'), dataloader_len=None, timestamp=Timestamp())
    with pytest.raises(ConfigError, match="a run measured in 'sec'"):
        Window(0.5, 1.0).is_open(state)
    assert Window(0.0, 1.0).is_open(state)


def values_of(ramp, max_duration='2ep', batches_per_epoch=4):
    seen = []
    spy = EventSpy('batch_start', lambda state: seen.append(value_at(ramp, state)))
    data = loader(*pairs(2 * batches_per_epoch), batch_size=2)
    run = trainer(student(), data, [], [spy], max_duration=max_duration)
    run.fit()
    run.close()
    return seen


@pytest.mark.parametrize(
    ('ramp', 'expected'),
    [
        (Ramp(0.0, 1.0), [0, 1 / 8, 2 / 8, 3 / 8, 4 / 8, 5 / 8, 6 / 8, 7 / 8]),
        (Ramp(0.0, 1.0, '1ep'), [0, 1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1]),
        (Ramp(1.0, 0.0, '4ba', start='2ba'), [1, 1, 1, 0.5, 0, 0, 0, 0]),
        (Ramp(2.0, 4.0, '8sp'), [2, 2.5, 3, 3.5, 4, 4, 4, 4]),
        (Ramp(1.0, 0.0, '0.5dur', start=0.25), [1, 1, 1, 0.5, 0, 0, 0, 0]),
        (Ramp(3.0, 3.0), [3] * 8),
    ],
)
def test_a_ramp_is_a_straight_line_with_flat_ends(ramp, expected):
    assert values_of(ramp) == pytest.approx(expected)


def test_a_ramp_over_a_run_measured_in_batches():
    assert values_of(Ramp(0.0, 1.0), max_duration='4ba') == pytest.approx([0, 0.25, 0.5, 0.75])


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ((float('nan'), 1.0), 'initial must be a finite number'),
        ((0.0, '1'), 'final must be a finite number'),
        ((0.0, 1.0, '20 epochs'), 'end: expected a fraction'),
        ((0.0, 1.0, '2ep', '3ep'), 'start must come before end'),
        ((0.0, 1.0, '20ba', '1ep'), 'in the same unit'),
        ((0.0, 1.0, 0.0), 'end must be later than 0'),
    ],
)
def test_a_ramp_refuses_what_makes_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        Ramp(*settings)
