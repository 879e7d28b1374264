"""Benchmarks models on each device, backend and precision: latency, throughput, memory, energy and accuracy."""

from composer_kd.bench.backends import BACKENDS, Backend
from composer_kd.bench.candidate import Candidate
from composer_kd.bench.devices import DEVICES, Device
from composer_kd.bench.environment import environment
from composer_kd.bench.files import write
from composer_kd.bench.plan import plan
from composer_kd.bench.results import BenchResults, Latency, Row, Setting, SpeedUp, Throughput
from composer_kd.bench.setting_run import Limits
from composer_kd.bench.suite import Watcher, bench
from composer_kd.bench.tables import block, summary

__all__ = [
    'BACKENDS',
    'DEVICES',
    'Backend',
    'BenchResults',
    'Candidate',
    'Device',
    'Latency',
    'Limits',
    'Row',
    'Setting',
    'SpeedUp',
    'Throughput',
    'Watcher',
    'bench',
    'block',
    'environment',
    'plan',
    'summary',
    'write',
]
