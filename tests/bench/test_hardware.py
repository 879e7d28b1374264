"""The script of the same, which uses the public API alone."""

import pytest

from benchmarks.hardware import main
from composer_kd.bench import BenchResults
from composer_kd.errors import ConfigError


def test_models_of_this_package_are_compared(tmp_path, capsys):
    shape = ['--in-channels', '1', '--image-size', '8']
    how = ['--devices', 'cpu', '--threads', '1', '--backends', 'eager', '--precisions', 'fp32']
    found = main(
        ['DeepCNN', 'ShallowCNN', *shape, *how, '--budget', '0.02', '--max-batch', '1', '--out', str(tmp_path)]
    )
    assert [(row.model, row.role, row.accuracy, row.output_match) for row in found.rows] == [
        ('DeepCNN', 'teacher', None, 1),
        ('ShallowCNN', 'student alone', None, 1),
    ]
    assert found.rows[1].speed_up.against == 'DeepCNN'
    assert BenchResults.read(tmp_path) == found
    assert 'ShallowCNN' in capsys.readouterr().out
    assert found.command.startswith('python benchmarks/hardware.py DeepCNN ShallowCNN --in-channels 1')


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'resnet56'"):
        main(['resnet57', '--out', str(tmp_path)])
