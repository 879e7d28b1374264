"""How much a command says."""

from __future__ import annotations

import logging
import sys

import pytest

from composer_kd.presentation.speech import is_quiet, is_watched, loading, speaking


def on_a_terminal(monkeypatch):
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, 'isatty', lambda: True, raising=False)


def test_a_terminal_shows_that_a_package_is_loading(monkeypatch, capsys):
    on_a_terminal(monkeypatch)
    with loading('not_loaded_yet'):
        assert capsys.readouterr().err == 'loading Not_loaded_yet ...'
    assert capsys.readouterr().err == '\r\033[K'


@pytest.mark.parametrize('package', ['sys', 'not_loaded_yet'])
def test_nothing_is_said_of_what_is_loaded_and_where_nobody_watches(package, capsys):
    with loading(package):
        pass
    assert capsys.readouterr().err == ''


def test_quiet_holds_for_the_block(monkeypatch, capsys):
    on_a_terminal(monkeypatch)
    assert is_watched()
    with speaking(quiet=True), loading('not_loaded_yet'):
        assert is_quiet()
        assert not is_watched()
    assert not is_quiet()
    assert capsys.readouterr().err == ''


def test_verbose_shows_what_is_logged_and_leaves_logging_as_it_was(capsys):
    logger = logging.getLogger('composer_kd')
    before = logger.level, list(logger.handlers)
    with speaking(verbose=True):
        logging.getLogger('composer_kd.runs').info('told')
    assert 'composer_kd.runs: told' in capsys.readouterr().err
    assert (logger.level, list(logger.handlers)) == before
