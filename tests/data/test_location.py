from __future__ import annotations

from pathlib import Path

import pytest

from composer_kd.data.location import check_split, data_root, open_torchvision
from composer_kd.errors import ConfigError


def test_a_root_comes_before_the_variable_and_that_before_the_default(monkeypatch, tmp_path):
    monkeypatch.setenv('COMPOSER_KD_DATA', str(tmp_path))
    assert data_root('/some/where') == Path('/some/where')
    assert data_root() == tmp_path
    monkeypatch.delenv('COMPOSER_KD_DATA')
    assert data_root() == Path.cwd() / 'data'


def test_the_home_folder_is_spelt_out():
    assert data_root('~/x') == Path.home() / 'x'


def test_an_unknown_split_is_refused():
    with pytest.raises(ConfigError, match=r"split: expected one of \['train', 'val'\], got 'vla'; did you mean 'val'"):
        check_split('vla', ('train', 'val'))


@pytest.mark.parametrize('error', [OSError('no network'), RuntimeError('not found'), ValueError('cut off')])
@pytest.mark.parametrize('download', [False, True])
def test_any_failure_says_where_what_and_how(tmp_path, error, download):
    def source(**arguments):
        assert arguments == {'root': str(tmp_path), 'train': True, 'download': download}
        raise error

    with pytest.raises(ConfigError) as got:
        open_torchvision(source, 'some-files', tmp_path, train=True, download=download)
    for part in (
        str(tmp_path / 'some-files'),
        str(error),
        'download=true',
        'COMPOSER_KD_DATA',
        f'={download}',
    ):
        assert part in str(got.value)
    assert got.value.__cause__ is error


def test_other_ranks_are_not_left_waiting_by_a_failed_download(monkeypatch, tmp_path):
    from contextlib import contextmanager

    from composer.utils import dist

    finished = []

    @contextmanager
    def turn():
        yield
        finished.append(True)

    def source(**_):
        raise OSError('no network')

    monkeypatch.setattr('torch.distributed.is_initialized', lambda: True)
    monkeypatch.setattr(dist, 'run_local_rank_zero_first', turn)
    with pytest.raises(ConfigError, match='no network'):
        open_torchvision(source, 'some-files', tmp_path, train=True, download=True)
    assert finished == [True]
