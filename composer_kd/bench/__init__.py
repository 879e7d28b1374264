"""Benchmarks models on each device, backend and precision: latency, throughput, memory, energy and accuracy."""

from composer_kd.bench.backends import BACKENDS, Backend
from composer_kd.bench.candidate import Candidate
from composer_kd.bench.devices import DEVICES, Device
from composer_kd.bench.environment import environment
from composer_kd.bench.files import write
from composer_kd.bench.plan import plan
from composer_kd.bench.results import BenchResults, Latency, Row, Setting, Throughput
from composer_kd.bench.setting_run import Limits
from composer_kd.bench.speed_up import SpeedUp
from composer_kd.bench.suite import Watcher, bench
from composer_kd.bench.tables import block, summary
from composer_kd.bench.text_results import GenerationSpeed, TextSpeed
from composer_kd.bench.texts import TextOptions

__all__ = [
    'BACKENDS',
    'DEVICES',
    'Backend',
    'BenchResults',
    'Candidate',
    'Device',
    'GenerationSpeed',
    'Latency',
    'Limits',
    'Row',
    'Setting',
    'SpeedUp',
    'TextOptions',
    'TextSpeed',
    'Throughput',
    'Watcher',
    'bench',
    'block',
    'environment',
    'plan',
    'summary',
    'write',
]
