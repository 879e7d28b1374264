"""The key ``profiler:`` of a run: traces batches during training with Composer's and torch's profilers."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from composer.profiler import JSONTraceHandler, Profiler, cyclic_schedule

from composer_kd.config.markers import Must, NotNegative, Positive
from composer_kd.errors import ConfigError
from composer_kd.spans import quiet_profiler

__all__ = ['ProfilerConfig', 'build_profiler']

TraceFolder = Must(
    'a folder of this machine, with no braces but {save_folder}',
    lambda value: '://' not in value and not set(value.replace('{save_folder}', '')) & set('{}'),
)


@dataclass
class ProfilerConfig:
    """Selects which batches of each epoch are traced, and what is recorded.

    After ``skip_first`` batches, each cycle skips ``wait`` batches, profiles ``warmup`` batches without keeping the
    results, and records ``active`` batches. An epoch has ``repeat`` cycles; 0 means as many as fit.
    """

    skip_first: Annotated[int, NotNegative] = 0
    wait: Annotated[int, NotNegative] = 0
    warmup: Annotated[int, NotNegative] = 1
    active: Annotated[int, Positive] = 4
    repeat: Annotated[int, NotNegative] = 1
    folder: Annotated[str, TraceFolder] = '{save_folder}/profile'
    record_shapes: bool = False
    profile_memory: bool = False
    with_stack: bool = False

    @property
    def batches(self) -> int:
        """The number of batches in an epoch up to the end of the first trace."""
        return self.skip_first + self.wait + self.warmup + self.active

    def conflicts(self) -> Iterator[str]:
        """Yields conflicts between settings that are valid on their own."""
        if self.skip_first + self.wait + self.warmup == 0:
            yield 'warmup: the very first batch cannot be recorded; give warmup (or skip_first) of 1 or more'


def build_profiler(config: ProfilerConfig, save_folder: pathlib.Path | None, batches: int | None) -> Profiler:
    """Builds Composer's profiler.

    Args:
        config: The checked settings.
        save_folder: The run folder, which replaces ``{save_folder}``.
        batches: The number of batches per epoch; None if it is unknown.

    Returns:
        The profiler. It writes the trace of each cycle and rank, and ``merged_trace.json`` with all of them, which
        Perfetto and ``chrome://tracing`` open.

    Raises:
        ConfigError: If an epoch is too short to record a trace.
    """
    if batches is not None and batches < config.batches:
        raise ConfigError(
            f'profiler: skip_first, wait, warmup and active take {config.batches} batches, and an epoch has {batches}: '
            'nothing would be recorded. Lower them.'
        )
    quiet_profiler()
    folder = config.folder.replace('{save_folder}', str(save_folder))
    return Profiler(
        schedule=cyclic_schedule(
            skip_first=config.skip_first,
            wait=config.wait,
            warmup=config.warmup,
            active=config.active,
            repeat=config.repeat,
        ),
        trace_handlers=[
            JSONTraceHandler(folder=folder, overwrite=True, remote_file_name=None, merged_trace_remote_file_name=None)
        ],
        sys_prof_cpu=False,
        torch_prof_folder=f'{folder}/torch',
        torch_prof_remote_file_name=None,
        torch_prof_memory_remote_file_name=None,
        torch_prof_overwrite=True,
        torch_prof_record_shapes=config.record_shapes,
        torch_prof_profile_memory=config.profile_memory,
        torch_prof_with_stack=config.with_stack,
        torch_prof_with_flops=True,  # Composer uses torch's profiler only if one of these is on
    )
