"""Paths that may be sent on."""

from __future__ import annotations

import pytest

from composer_kd.presentation.paths import below_home, portable


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('/home/me/runs/a', '~/runs/a'),
        ("x=/home/me/y '/home/me'", "x=~/y '~'"),
        ('/home/me-too/a', '/home/me-too/a'),
        ('/home/mention', '/home/mention'),
        ('/mnt/home/me/a', '/mnt/home/me/a'),
    ],
)
def test_the_name_of_the_user_is_not_told(text, expected, monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')
    assert below_home(text) == expected


def test_nothing_is_below_a_home_that_is_the_root(monkeypatch):
    monkeypatch.setenv('HOME', '/')
    assert below_home('/home/me/runs') == '/home/me/runs'


def test_a_page_names_the_home_folder_itself_as_that(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', '/home/me')
    assert portable('in /home/me and /home/me/runs/a') == 'in ~ and ~/runs/a'
