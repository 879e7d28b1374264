"""What a benchmark left on disk."""

import json

import pytest

from composer_kd.bench import BenchResults, Latency, Setting
from composer_kd.errors import ConfigError

FORMER_ROW = {
    'model': 'small',
    'role': 'student distilled',
    'setting': {'device': 'cpu', 'threads': 1, 'backend': 'int8-dynamic', 'precision': 'int8'},
    'parameters': 92,
    'flops': 160.0,
    'file_bytes': 2_000,
    'load_seconds': 0.01,
    'latency': {'p50': 1e-4, 'p90': 2e-4, 'p99': 3e-4, 'iqr': 1e-6, 'calls': 100},
    'throughput': [{'batch': 1, 'samples_per_second': 1e4, 'iqr': 10.0, 'failed': None}],
    'peak_memory_bytes': None,
    'energy_joules': None,
    'accuracy': 0.9,
    'agreement': 0.8,
    'fidelity': 0.75,
    'failed': None,
    'notes': [],
    'speed_up': None,
}
"""As it was written when the output match was called fidelity."""


def test_a_file_that_calls_the_output_match_fidelity_is_read(tmp_path):
    (tmp_path / 'bench.json').write_text(json.dumps({'rows': [FORMER_ROW], 'command': 'me'}))
    found = BenchResults.read(tmp_path)
    (row,) = found.rows
    assert (row.output_match, row.agreement, row.accuracy) == (0.75, 0.8, 0.9)
    assert row.setting == Setting('cpu', 1, 'int8-dynamic', 'int8')
    assert row.latency == Latency(1e-4, 2e-4, 3e-4, 1e-6, 100)
    (tmp_path / 'bench.json').write_text(json.dumps(found.as_mapping()))
    assert BenchResults.read(tmp_path) == found


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / 'bench.json').write_text(json.dumps({'rows': [{**FORMER_ROW, 'colour': 'blue'}]}))
    with pytest.raises(ConfigError, match='no file that `composer-kd bench` wrote'):
        BenchResults.read(tmp_path)
