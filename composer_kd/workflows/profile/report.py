"""Reports a profile of training steps: a table, a bar chart and the numbers in JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from composer.core import State
from composer.utils import dist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from rich.table import Table as Shown

from composer_kd.bench.environment import environment as machine_of
from composer_kd.callbacks.phases import DATA, OTHER, PHASES
from composer_kd.presentation.files import write_file
from composer_kd.presentation.plots import BLUE, FAINT, GREY, INK, MUTED, ORANGE, TEAL, canvas, png, tidy
from composer_kd.presentation.tables import Table, as_markdown
from composer_kd.presentation.units import percent, seconds_text
from composer_kd.spans import DISTILLATION_LOSS, TEACHER_FORWARD

__all__ = ['PhaseTime', 'StepTimes', 'environment', 'figure', 'markdown', 'table', 'write_report']

_COLOURS = {TEACHER_FORWARD: GREY, DISTILLATION_LOSS: BLUE, OTHER: FAINT, DATA: TEAL}
_STUDENT = ORANGE
_IN_OTHER = 'moving the batch to the device, metrics, clipping, other algorithms, logging, Composer itself'


@dataclass(frozen=True)
class PhaseTime:
    """The time of one phase over all steps.

    Args:
        name: The phase.
        median: The median over the steps, in seconds.
        low: The first quartile, in seconds.
        high: The third quartile, in seconds.
        share: The median's share of the sum of all phases' medians, from 0 to 1.
    """

    name: str
    median: float
    low: float
    high: float
    share: float


@dataclass
class StepTimes:
    """The duration of each phase of each step.

    Args:
        run_name: The name of the run.
        steps: For each step, the seconds of each phase on the CPU's clock.
        device_steps: The same on the GPU's clock; empty without CUDA.
        warm_up: The number of warm-up steps, which are not measured.
        environment: The machine, versions and batch sizes, from ``environment``.
        notes: Remarks about the measurement, such as a run that ended early.
    """

    run_name: str
    steps: list[dict[str, float]]
    device_steps: list[dict[str, float]]
    warm_up: int
    environment: dict[str, str]
    notes: list[str] = field(default_factory=list)

    def phases(self, on_device: bool = False) -> list[PhaseTime]:
        """Summarises each phase, in the order of a step.

        Args:
            on_device: Whether to use the GPU's clock.
        """
        steps = self.device_steps if on_device else self.steps
        found = [_phase(name, [step[name] for step in steps]) for name in PHASES]
        whole = sum(phase.median for phase in found)
        return [dataclasses.replace(phase, share=phase.median / whole if whole else 0.0) for phase in found]

    def step(self, on_device: bool = False) -> PhaseTime:
        """Summarises the whole step.

        Args:
            on_device: Whether to use the GPU's clock.
        """
        sums = [sum(step.values()) for step in (self.device_steps if on_device else self.steps)]
        return _phase('step', sums)

    @property
    def clocks(self) -> dict[str, bool]:
        """The clocks that were read: for each name, whether it is the GPU's."""
        return {'CPU': False, 'GPU': True} if self.device_steps else {'CPU': False}


def environment(state: State) -> dict[str, str]:
    """Describes the machine and the settings of a measured run.

    Args:
        state: The state of the run.

    Returns:
        GPU, processor, threads, load, torch version, precision, processes and batch sizes, as text.
    """
    machine = machine_of()
    gpu = {'GPU': torch.cuda.get_device_name()} if state.device.name == 'gpu' else {}
    return {
        **gpu,
        'processor': f'{machine["processor"]}',
        'threads': str(torch.get_num_threads()),
        'load': f'{machine["load at start"]}',
        'torch': torch.__version__,
        'precision': str(state.precision.value),
        'processes': str(dist.get_world_size()),
        'batch of a process': str(state.train_dataloader.batch_size),
        'microbatch': str(state.device_train_microbatch_size),
    }


def write_report(times: StepTimes, folder: pathlib.Path) -> None:
    """Writes ``steps.json``, ``profile.md`` and ``profile.png``.

    Args:
        times: The measured times.
        folder: The folder for the files.
    """
    content = {
        'run_name': times.run_name,
        'unit': 'seconds',
        'warm_up_steps': times.warm_up,
        'environment': times.environment,
        'notes': times.notes,
        'steps': times.steps,
        'device_steps': times.device_steps,
    }
    write_file(folder / 'steps.json', json.dumps(content, indent=2) + '\n')
    write_file(folder / 'profile.md', markdown(times))
    write_file(folder / 'profile.png', png(figure(times)))


def table(times: StepTimes) -> Shown:
    """Makes a table of the phases for the terminal.

    Args:
        times: The measured times.
    """
    made = Shown(title=_title(times), title_justify='left')
    for name in _columns(times):
        made.add_column(name, justify='left' if name == 'phase' else 'right')
    *rows, last = _rows(times)
    for row in rows:
        made.add_row(*row)
    made.add_section()
    made.add_row(*last)
    return made


def markdown(times: StepTimes) -> str:
    """Writes a Markdown table of the phases, with the machine and the settings of the run.

    Args:
        times: The measured times.
    """
    lines = [f'# {_title(times)}', '', as_markdown(Table.of(_columns(times), _rows(times)))]
    lines += ['', f'Medians over {len(times.steps)} steps after {times.warm_up} that warm up, with their quartiles;']
    lines += [
        'shares are of the sum of the medians. `backward` has the gradients of both losses; `other` is',
        f'{_IN_OTHER}.',
        '',
    ]
    lines += [*(f'**{note}**' for note in times.notes), ''] if times.notes else []
    lines += [f'{_environment(times)}.']
    return '\n'.join([*lines, ''])


def figure(times: StepTimes) -> Figure:
    """Draws a bar chart of the phases of a step, with medians and quartiles.

    Args:
        times: The measured times.
    """
    clocks = times.clocks
    heights = [1, 7] * len(clocks)
    with canvas(9, 0.3 + 4.6 * len(clocks)) as made:
        axes = made.subplots(len(heights), 1, squeeze=False, gridspec_kw={'height_ratios': heights})[:, 0]
        for strip, bars, (clock, on_device) in zip(axes[::2], axes[1::2], clocks.items()):
            phases, step = times.phases(on_device), times.step(on_device)
            _strip(strip, phases)
            _bars(bars, phases)
            by = f' by the clock of the {clock}' if len(clocks) > 1 else ''
            strip.set_title(f'{times.run_name}: a step of {seconds_text(step.median)}{by}')
            strip.set_title(_teaching(phases), loc='right', size=10, weight='normal')
        axes[-1].set_xlabel(
            f'milliseconds: median and quartiles of {len(times.steps)} steps; share of the sum of the medians'
        )
        made.supxlabel(_environment(times), size=8, color=MUTED)
    return made


def _teaching(phases: Sequence[PhaseTime]) -> str:
    share = sum(phase.share for phase in phases if phase.name in (TEACHER_FORWARD, DISTILLATION_LOSS))
    return f'teacher and its loss: {percent(share)} %' if share else ''


def _strip(ax: Axes, phases: Sequence[PhaseTime]) -> None:
    """Draws the whole step as one bar, divided into phases, on an axis of its own: its shares."""
    left = 0.0
    for phase in phases:
        share = 100 * phase.share
        ax.barh(0, share, left=left, color=_COLOURS.get(phase.name, _STUDENT), edgecolor='white', linewidth=1.5)
        left += share
    ax.set_xlim(0, 100)
    ax.set_yticks([])
    ax.xaxis.set_major_formatter(PercentFormatter(decimals=0))
    tidy(ax, grid=None)
    ax.spines['left'].set_visible(False)


def _bars(ax: Axes, phases: Sequence[PhaseTime]) -> None:
    places = np.arange(len(phases))
    medians = np.array([phase.median for phase in phases]) * 1e3
    spread = np.array([[(p.median - p.low) * 1e3, (p.high - p.median) * 1e3] for p in phases]).T
    ax.barh(places, medians, color=[_COLOURS.get(phase.name, _STUDENT) for phase in phases], height=0.66)
    ax.errorbar(medians, places, xerr=spread, fmt='none', ecolor=INK, elinewidth=1, capsize=3)
    for place, phase in zip(places, phases):
        text = f'{seconds_text(phase.median)} · {percent(phase.share)} %' if phase.high else 'none'
        ax.annotate(text, (phase.high * 1e3, place), xytext=(8, 0), textcoords='offset points', va='center', size=9)
    ax.set_yticks(places, [phase.name for phase in phases])
    ax.invert_yaxis()
    ax.set_xlim(0, max(phase.high for phase in phases) * 1e3 * 1.22)
    tidy(ax, grid='x')
    ax.spines['left'].set_visible(False)
    ax.tick_params(axis='y', length=0)


def _phase(name: str, seconds: Sequence[float]) -> PhaseTime:
    low, median, high = (float(value) for value in np.percentile(seconds, [25, 50, 75]))
    return PhaseTime(name, median, low, high, 1.0)


def _title(times: StepTimes) -> str:
    return f'Where a training step of {times.run_name} spends its time'


def _columns(times: StepTimes) -> list[str]:
    return ['phase', *(column for clock in times.clocks for column in (clock, 'quartiles', 'share, %'))]


def _rows(times: StepTimes) -> list[list[str]]:
    columns = [[*times.phases(on_device), times.step(on_device)] for on_device in times.clocks.values()]
    return [[cells[0].name, *(text for cell in cells for text in _texts(cell))] for cells in zip(*columns)]


def _texts(phase: PhaseTime) -> tuple[str, str, str]:
    quartiles = f'{seconds_text(phase.low)} to {seconds_text(phase.high)}'
    return seconds_text(phase.median), quartiles, percent(phase.share)


def _environment(times: StepTimes) -> str:
    return ', '.join(
        value if name in ('GPU', 'processor') else f'{name} {value}' for name, value in times.environment.items()
    )
