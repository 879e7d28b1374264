"""The results of a benchmark: one row for each model and setting, and a description of the machine."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from dataclasses import dataclass, field
from typing import Any

from composer_kd.bench.speed_up import SpeedUp
from composer_kd.bench.text_results import GenerationSpeed, TextSpeed, read_generation, read_texts
from composer_kd.errors import ConfigError

__all__ = ['BenchResults', 'Latency', 'Row', 'Setting', 'SpeedUp', 'Throughput']


@dataclass(frozen=True)
class Setting:
    """A way of running a model: device, threads, backend and precision.

    Args:
        device: ``'cpu'``, ``'cuda'``, ``'mps'`` or ``'xla'``.
        threads: The number of CPU threads of an operator; ``None`` on other devices.
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
    """The time of a forward pass with one sample, in seconds, over many calls.

    Args:
        p50: The median.
        p90: The 90th percentile.
        p99: The 99th percentile.
        iqr: The interquartile range of the medians of the interleaved rounds: the noise of ``p50``.
        calls: The number of timed calls.
    """

    p50: float
    p90: float
    p99: float
    iqr: float
    calls: int


@dataclass(frozen=True)
class Throughput:
    """The throughput of a model at one batch size.

    Args:
        batch: The batch size.
        samples_per_second: The median over the rounds; ``None`` after a failure.
        iqr: The interquartile range over the rounds; ``None`` after a failure.
        failed: The reason of a failure, such as ``'out of memory'``; otherwise ``None``.
        tokens: For texts, the attended tokens of a sample of this batch, the mean.
        positions: For texts, the positions of a sample, padding included.
    """

    batch: int
    samples_per_second: float | None
    iqr: float | None = None
    failed: str | None = None
    tokens: float | None = None
    positions: int | None = None

    @property
    def tokens_per_second(self) -> float | None:
        """The attended tokens per second; ``None`` after a failure, and for other data than texts."""
        return None if self.samples_per_second is None or self.tokens is None else self.samples_per_second * self.tokens


@dataclass
class Row:
    """The results of one model in one setting. A value that was not measured is ``None``.

    Args:
        model: The model's name.
        role: ``'teacher'``, ``'student distilled'`` or ``'student alone'``.
        setting: The setting.
        parameters: The number of parameters.
        flops: Floating-point operations for one sample.
        file_bytes: The size of the files that the backend loads, in bytes.
        load_seconds: The time to load them and run the first forward pass.
        latency: The latency at batch size 1.
        throughput: The throughput at each batch size that was tried, in rising order.
        peak_memory_bytes: The peak memory of a forward pass beyond the weights, at the batch size of the best
            throughput.
        energy_joules: The energy for one sample, at the batch size of the best throughput.
        accuracy: The accuracy on the evaluation data, from 0 to 1; ``None`` for random weights or without labels.
        agreement: The share of the evaluation data for which the model predicts the same class as its teachers in
            eager fp32 (the mean of their logits); for a teacher, as itself in eager fp32. ``None`` without a teacher.
        output_match: The share of the evaluation data for which the model predicts the same class as itself in eager
            fp32; below 1, this setting changes predictions.
        failed: The reason of a failure in this setting; otherwise ``None``.
        notes: Remarks on this row.
        speed_up: The speed-up over its teacher in the same setting; ``None`` for a teacher, or if either failed.
        texts: For models of texts, the speed at each length and batch size, without padding.
        generation: For models that write, the speed of writing after prompts of each length and batch size.
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
    texts: list[TextSpeed] = field(default_factory=list)
    generation: list[GenerationSpeed] = field(default_factory=list)

    @property
    def fidelity(self) -> float | None:
        """The former name of ``output_match``."""
        return self.output_match

    @property
    def best_throughput(self) -> Throughput | None:
        """The throughput at the batch size with the most samples per second; ``None`` if there is none."""
        done = [one for one in self.throughput if one.samples_per_second is not None]
        return max(done, key=lambda one: one.samples_per_second or 0.0, default=None)


@dataclass
class BenchResults:
    """The results of a benchmark.

    Args:
        rows: One row for each model and setting.
        environment: The machine and the versions, from :func:`composer_kd.bench.environment`.
        command: The command that started the benchmark.
        data: A description of the evaluation data.
        samples: The number of evaluated samples.
        warnings: Doubts about the numbers, such as noise larger than a difference.
        seconds: The duration of the benchmark.
    """

    rows: list[Row] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    command: str = ''
    data: str = ''
    samples: int = 0
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_mapping(self) -> dict[str, Any]:
        """All values as plain mappings and lists, for a JSON file."""
        return dataclasses.asdict(self)

    @classmethod
    def read(cls, file: str | pathlib.Path) -> BenchResults:
        """Reads the results from a file.

        Args:
            file: A ``bench.json``, or the folder that contains it.

        Returns:
            The results.

        Raises:
            ConfigError: If the file does not exist or was not written by a benchmark.
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
"""Keys of rows in files of earlier versions, and their present names."""


def _row(written: dict[str, Any]) -> Row:
    content = {_FORMER_NAMES.get(key, key): value for key, value in written.items()}
    latency, speed_up = content.pop('latency'), content.pop('speed_up', None)
    return Row(
        setting=Setting(**content.pop('setting')),
        latency=Latency(**latency) if latency is not None else None,
        speed_up=SpeedUp(**speed_up) if speed_up is not None else None,
        throughput=[Throughput(**one) for one in content.pop('throughput')],
        texts=read_texts(content.pop('texts', [])),
        generation=read_generation(content.pop('generation', [])),
        **content,
    )
