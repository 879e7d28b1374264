"""What a benchmark found: one row for each way of running each model, and the machine it was found on."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from dataclasses import dataclass, field
from typing import Any

from composer_kd.errors import ConfigError

__all__ = ['BenchResults', 'Latency', 'Row', 'Setting', 'SpeedUp', 'Throughput']


@dataclass(frozen=True)
class Setting:
    """A way of running a model.

    Args:
        device: ``'cpu'``, ``'cuda'``, ``'mps'`` or ``'xla'``.
        threads: CPU threads of an operator; None where the device is no CPU.
        backend: Name of the backend: ``'eager'``, ``'compile'``, ``'torchscript'``, ``'export'``, ``'onnxruntime'``,
            ``'int8-dynamic'``.
        precision: ``'fp32'``, ``'bf16'``, ``'fp16'`` or ``'int8'``.
    """

    device: str
    threads: int | None
    backend: str
    precision: str

    def __str__(self) -> str:
        threads = '' if self.threads is None else f', {self.threads} thread{"s" * (self.threads > 1)}'
        return f'{self.device}{threads}, {self.backend}, {self.precision}'


@dataclass(frozen=True)
class Latency:
    """Seconds for a batch of one sample, over many calls.

    Args:
        p50: The median.
        p90: 90 % of the calls took less.
        p99: 99 % of the calls took less.
        iqr: The distance of the quartiles of the medians of the interleaved rounds: the noise of ``p50``.
        calls: How many calls were timed.
    """

    p50: float
    p90: float
    p99: float
    iqr: float
    calls: int


@dataclass(frozen=True)
class Throughput:
    """Samples per second at one batch size.

    Args:
        batch: Samples of a batch.
        samples_per_second: The median; None where it failed.
        iqr: The distance of the quartiles; None where it failed.
        failed: Why there is no number, such as ``'out of memory'``.
    """

    batch: int
    samples_per_second: float | None
    iqr: float | None = None
    failed: str | None = None


@dataclass(frozen=True)
class SpeedUp:
    """How many times as quick as another model, at batch one, from interleaved rounds.

    Args:
        against: The other model.
        median: The median over the rounds of the ratio of the medians of one round; above 1 where this one is quicker.
        low: The lower quartile.
        high: The upper quartile.
    """

    against: str
    median: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the noise is smaller than the difference."""
        return self.low > 1 or self.high < 1


@dataclass
class Row:
    """One model, run in one way.

    Args:
        model: The model's name.
        role: ``'teacher'``, ``'student distilled'`` or ``'student alone'``.
        setting: How it was run.
        parameters: How many parameters the model has.
        flops: Floating-point operations for one sample; None where they cannot be counted.
        file_bytes: Bytes on disk in the form that this backend loads.
        load_seconds: From that file to a model that has answered once.
        latency: At batch one.
        throughput: At each batch size that was tried, in rising order.
        peak_memory_bytes: The most memory that answering took beyond the weights, at the batch size of the best
            throughput; None where it cannot be measured.
        energy_joules: For one sample, at the batch size of the best throughput; None where the device does not tell.
        accuracy: On the evaluation data, from 0 to 1; None for a model with random weights, or without labels.
        agreement: Share of the evaluation data for which it puts the same class first as its teacher run as it was
            trained (eager, fp32); of a teacher, as itself run so. None without a teacher.
        output_match: The same with the model itself run as it was trained: below 1, this backend answers otherwise.
        failed: Why this row has no numbers; None where it has.
        notes: What a reader must know of this row.
        speed_up: Against its teacher run in the same way; None of a teacher, and where either failed.
    """

    model: str
    role: str
    setting: Setting
    parameters: int | None = None
    flops: float | None = None
    file_bytes: int | None = None
    load_seconds: float | None = None
    latency: Latency | None = None
    throughput: list[Throughput] = field(default_factory=list)
    peak_memory_bytes: int | None = None
    energy_joules: float | None = None
    accuracy: float | None = None
    agreement: float | None = None
    output_match: float | None = None
    failed: str | None = None
    notes: list[str] = field(default_factory=list)
    speed_up: SpeedUp | None = None

    @property
    def best_throughput(self) -> Throughput | None:
        """The batch size with the most samples per second."""
        done = [one for one in self.throughput if one.samples_per_second is not None]
        return max(done, key=lambda one: one.samples_per_second or 0.0, default=None)


@dataclass
class BenchResults:
    """All rows, and what they were measured with.

    Args:
        rows: One for each model and setting.
        environment: The machine and the versions, as ``composer_kd.bench.environment`` tells them.
        command: The command that measured them.
        data: What the accuracy was measured on, in words.
        samples: How many samples of it.
        warnings: What puts the numbers in doubt, such as noise larger than a difference.
        seconds: How long it all took.
    """

    rows: list[Row] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ''
    data: str = ''
    samples: int = 0
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_mapping(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, file: str | pathlib.Path) -> BenchResults:
        """Reads what a benchmark wrote.

        Args:
            file: ``bench.json``, or the folder that it lies in.

        Returns:
            The results.

        Raises:
            ConfigError: If there is no such file, or it is something else.
        """
        path = pathlib.Path(file)
        path = path / 'bench.json' if path.is_dir() else path
        if not path.is_file():
            raise ConfigError(f'no results of `composer-kd bench` in {path}')
        try:
            content = json.loads(path.read_text(encoding='utf-8'))
            rows = [_row(row) for row in content.pop('rows')]
            return cls(rows=rows, **content)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ConfigError(f'{path} is no file that `composer-kd bench` wrote: {error}') from error


_FORMER_NAMES = {'fidelity': 'output_match'}
"""Keys of rows in files of earlier versions, and what they are called now."""


def _row(written: dict[str, Any]) -> Row:
    content = {_FORMER_NAMES.get(key, key): value for key, value in written.items()}
    latency, speed_up = content.pop('latency'), content.pop('speed_up', None)
    return Row(
        setting=Setting(**content.pop('setting')),
        latency=Latency(**latency) if latency is not None else None,
        speed_up=SpeedUp(**speed_up) if speed_up is not None else None,
        throughput=[Throughput(**one) for one in content.pop('throughput')],
        **content,
    )
