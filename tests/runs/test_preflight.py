"""What is looked at before a run starts."""

from __future__ import annotations

import pathlib
import shutil

import pytest
import torch

from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError
from composer_kd.runs.build import build_trainer
from composer_kd.runs.preflight import check_load_path


@pytest.mark.parametrize('place', ['{}', 's3://bucket/{}'])
def test_weights_alone_are_no_checkpoint_to_go_on_from_wherever_they_are(place, tmp_path, monkeypatch):
    fetched = []

    def fetch(uri, destination, **options):
        fetched.append(uri)
        shutil.copy(tmp_path / uri.removeprefix('s3://bucket/'), destination)

    monkeypatch.setattr('composer_kd.teachers.fetching.get_file', fetch)
    monkeypatch.chdir(tmp_path)
    weights = {'weight': torch.ones(2)}
    torch.save({'state': {'model': weights}}, 'ep1-rank0.pt')
    torch.save({'state_dict': weights}, 'weights.pt')
    check_load_path(place.format('ep1-rank{rank}.pt'))
    with pytest.raises(ConfigError, match=r'^load_path: expected .* holds weights alone'):
        check_load_path(place.format('weights.pt'))
    assert len(fetched) == (0 if place == '{}' else 2)  # each once


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return pathlib.Path.touch, (self.mark,)


def test_autoresume_runs_no_code_in_a_checkpoint(tmp_path):
    run = tmp_path / 'run'
    run.mkdir()
    torch.save({'state': {'model': {}}, 'bomb': Bomb(tmp_path / 'ran')}, run / 'latest-rank0.pt')
    config = load_config('yamls/digits/student.yaml', [f'save_folder={run}', 'autoresume=true', 'max_duration=1ba'])
    with pytest.raises(ConfigError, match=r'autoresume: .*latest-rank0\.pt'):
        build_trainer(config)
    assert not (tmp_path / 'ran').exists()
