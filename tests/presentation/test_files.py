"""A file is there as a whole or not at all."""

from __future__ import annotations

import os

import pytest

from composer_kd.presentation.files import write_file


@pytest.mark.parametrize('content', ['one\r\ntwo\nµ', b'\x00\xff'])
def test_what_is_written_is_read(tmp_path, content):
    write_file(tmp_path / 'a.txt', content)
    expected = content if isinstance(content, bytes) else content.encode()
    assert (tmp_path / 'a.txt').read_bytes() == expected
    assert [file.name for file in tmp_path.iterdir()] == ['a.txt']


def test_a_stop_in_the_middle_leaves_the_file_from_before(tmp_path, monkeypatch):
    file = tmp_path / 'a.txt'
    write_file(str(file), 'before')

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', stop)
        with pytest.raises(KeyboardInterrupt):
            write_file(file, 'after')
    assert file.read_text() == 'before'
    write_file(file, 'after')
    assert file.read_text() == 'after'
