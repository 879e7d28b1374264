"""The benchmark of stores writes a page with all formats and bounds."""

import json

from benchmarks.stores import FORMATS, KINDS, main


def test_the_page_has_all_formats_and_the_bounds_of_bytes_are_met(tmp_path, capsys):
    main(['--samples', '300', '1000', '--rounds', '2', '--classes', '256', '--rows', '8', '--out', str(tmp_path)])
    report = json.loads((tmp_path / 'stores.json').read_text())
    assert [one['format'] for one in report['formats']] == list(FORMATS)
    assert all(set(one['errors']) == set(KINDS) for one in report['formats'])
    assert all(one['bytes'] <= one['most'] for one in report['bounds'])
    assert [one['samples'] for one in report['reading']] == [300, 1000]
    page = (tmp_path / 'stores.md').read_text()
    assert '`python benchmarks/stores.py --samples 300 1000' in page
    assert 'top-50, 4.8 bits' in page
    assert 'Divergence from the teacher' in capsys.readouterr().out
