"""What the plots of a report show: ticks, texts, points that are seen, and colours that can be read."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from composer_kd.bench.results import BenchResults, Latency, Setting
from composer_kd.presentation.units import TIMES
from composer_kd.reports import Report
from tests.reports.building import EAGER, evidence, row, timings

QUICK = Setting('cpu', 1, 'onnxruntime', 'fp32')


@pytest.fixture(scope='module')
def drawings():
    return Report(evidence(bench=timings())).drawings


def drawn(name, *rows, **changes):
    return Report(evidence(bench=BenchResults(list(rows), {}, ''), **changes)).drawings[name]


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize('factor', [1 / 330, 1 / 64, 0.3, 1.0, 7.0, 5000.0])
def test_speedups_have_few_ticks_and_say_how_much_slower(factor):
    drawing = drawn('speedups', row('teacher', p50=1e-3), row('kd-0', QUICK, p50=1e-3 / factor))
    (axes,) = drawing.figure.axes
    ticks = [axes.xaxis.get_major_formatter()(value, 0) for value in axes.get_xticks()]
    assert len(ticks) <= 5
    assert f'1{TIMES}' in ticks
    assert all(re.fullmatch(rf'(1/)?\d+{TIMES}', tick) for tick in ticks)
    assert not any(re.search(rf'\b0\.0\d*{TIMES}', text) for text in texts(drawing.figure))
    if factor < 0.01:
        assert f'330{TIMES} slower' in texts(drawing.figure)


def test_series_of_throughput_can_be_told_apart():
    ways = [Setting('cpu', threads, 'eager', precision) for threads in (1, 2) for precision in ('fp32', 'bf16')]
    ways += [Setting('cpu', 2, 'torchscript', 'bf16')]
    rows = [row(name, way, p50=1e-3 / (place + 1)) for name in ('teacher', 'kd-0') for place, way in enumerate(ways)]
    figure = drawn('throughput', *rows).figure
    lines = [line for axes in figure.axes for line in axes.get_lines()]
    looks = {line.get_label(): (line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}
    assert len(looks) == len(figure.legends[0].get_texts()) >= 4
    assert len(set(looks.values())) == len(looks)


def test_fewer_mistakes_are_as_good_as_more_right_answers(drawings):
    drawing = drawings['confusions']
    mesh = drawing.figure.axes[0].collections[0]
    change = mesh.get_array().reshape(5, 5)
    assert all(value > 0 for value in change.diagonal())  # the distilled student is right more often
    assert change.sum() > 0
    assert change[~np.eye(5, dtype=bool)].mean() > 0  # and makes fewer mistakes
    assert 'Blue is better' in drawing.caption


def test_the_front_has_no_point_that_leads_within_the_noise_alone():
    noisy = {'latency': Latency(1.00e-3, 2e-3, 3e-3, 3e-4, 100)}
    rows = [row('teacher', p50=4e-3), row('kd-0', p50=1.01e-3, iqr=3e-4), row('alone-0', **noisy)]
    drawing = drawn('pareto', *rows)
    (front,) = [line for line in drawing.figure.axes[0].get_lines() if len(line.get_xdata()) > 1]
    assert list(front.get_xdata()) == [1.01e-3, 4e-3]  # of alone, the lead of 1 % is noise, and 20 points are lost


def test_the_winners_are_labelled_and_no_label_hides_another(drawings):
    figure = drawings['pareto'].figure
    figure.draw_without_rendering()
    notes = [note for note in figure.axes[0].texts if note.get_text()]
    assert [note.get_text() for note in notes] == ['onnxruntime', 'onnxruntime']
    boxes = [note.get_window_extent() for note in notes]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(figure.bbox.contains(*corner) for box in boxes for corner in box.corners())


def test_points_on_the_edge_of_a_curve_are_whole(drawings):
    lines = [line for axes in drawings['curves'].figure.axes for line in axes.get_lines() if line.get_marker() == 'o']
    assert lines
    assert not any(line.get_clip_on() for line in lines)


def test_classes_that_are_answered_alike_hide_no_point():
    given = evidence()
    same = given.models[0].answers
    models = tuple(dataclasses.replace(one, answers=same) for one in given.models)
    axes = Report(dataclasses.replace(given, models=models)).drawings['classes'].figure.axes[0]
    places = [tuple(place) for points in axes.collections if len(points.get_offsets()) == 5
              for place in np.asarray(points.get_offsets()).round(6)]  # fmt: skip
    assert len(places) == len(set(places)) == 15


def test_texts_of_an_svg_are_texts_and_it_has_a_name(drawings):
    for drawing in drawings.values():
        markup = drawing.svg()
        assert f'<title id="{drawing.name}-name">' in markup
        assert f'aria-labelledby="{drawing.name}-name"' in markup
        assert f'aria-describedby="{drawing.name}-told"' in markup
    assert '>latency of one sample</text>' in drawings['pareto'].svg()
    assert '>class 3</text>' in drawings['classes'].svg()


def contrast(one, other):
    def light(colour):
        parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
        return np.dot(parts, (0.2126, 0.7152, 0.0722)) + 0.05

    return max(light(one), light(other)) / min(light(one), light(other))


def test_numbers_in_the_cells_can_be_read(drawings):
    axes = drawings['confusions'].figure.axes[0]
    mesh = axes.collections[0]
    cells = mesh.to_rgba(mesh.get_array().reshape(5, 5))
    for text in axes.texts:
        column, line = (int(place) for place in text.get_position())
        assert contrast(text.get_color(), cells[line, column]) > 4.5, text.get_text()


def test_a_headline_of_doubtful_timings_says_so_beside_itself():
    busy = Report(evidence(bench=timings(warnings=['the machine was busy at the start (load 9.0 on 2 cores)'])))
    assert 'timings in doubt: the machine was busy' in busy.verdict[0]
    assert any('In doubt' in tile.detail for tile in busy.tiles)
    quiet = Report(evidence(bench=timings()))
    assert not any('doubt' in text for text in [*quiet.verdict, *(tile.detail for tile in quiet.tiles)])


def test_a_slower_student_is_so_many_times_slower():
    report = Report(evidence(bench=BenchResults([row('teacher', p50=1e-3, iqr=1e-6), row('kd-0', QUICK, p50=0.33),
                                                 row('kd-0', EAGER, p50=0.33)], {}, '')))  # fmt: skip
    assert any(tile.value == f'330{TIMES}' and tile.label.startswith('slower') for tile in report.tiles)
    (kd,) = [line for line in report.models.rows if line[0].text == 'kd']
    assert kd[-1].note == f'330{TIMES} slower'
