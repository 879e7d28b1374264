"""``composer-kd init``, and YAMLs of the package by name."""

from __future__ import annotations

import pytest

from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.config.shipped import about, copied, named, names
from composer_kd.config.stages import has_stages, load_chain


def test_without_a_name_it_lists_one_line_each(capsys):
    assert main(['init']) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = {line.split()[0]: line for line in lines if line.startswith('  ')}
    assert list(listed) == names()
    assert {'digits', 'cifar10', 'text', 'huggingface', 'timm'} <= listed.keys()
    assert all(line.rstrip().endswith('.') for line in listed.values())


@pytest.mark.parametrize('name', names())
def test_each_says_in_a_sentence_what_it_is(name):
    assert 20 < len(about(named(name))) < 250
    assert '- ' not in about(named(name))[:2]


@pytest.mark.parametrize('name', ['digits', '@digits', 'digits.yaml', 'start/digits'])
def test_it_writes_a_commented_yaml_that_names_itself(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['init', name]) == 0
    text = (tmp_path / 'digits.yaml').read_text(encoding='utf-8')
    assert 'composer-kd train digits.yaml --dry-run' in text
    assert 'yamls/' not in text
    assert has_stages('digits.yaml')
    assert 'next: composer-kd train digits.yaml --dry-run' in capsys.readouterr().out


def test_a_file_is_replaced_when_asked_to(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'digits.yaml').write_text('mine: 1')
    assert main(['init', 'digits']) == 2
    assert 'digits.yaml is there already' in capsys.readouterr().err
    assert (tmp_path / 'digits.yaml').read_text() == 'mine: 1'
    assert main(['init', 'digits', '--out', 'new/mine.yaml']) == 0
    assert 'composer-kd train new/mine.yaml' in (tmp_path / 'new/mine.yaml').read_text(encoding='utf-8')
    assert main(['init', 'digits', '--force']) == 0
    assert (tmp_path / 'digits.yaml').read_text(encoding='utf-8') != 'mine: 1'


def test_slips_are_answered_with_the_nearest_names(capsys):
    assert main(['init', 'huggingfase']) == 2
    assert "no YAML 'huggingfase' comes with composer_kd; did you mean 'huggingface'?" in capsys.readouterr().err
    for command in ('train', 'cache', 'layers', 'profile', 'sweep', 'bench', 'report', 'evaluate'):
        assert main([command, '@digits/kdd']) == 2
        assert "did you mean '@digits/kd'" in capsys.readouterr().err
    assert main(['export', '@digits/kdd', '--to', 'onnx']) == 2


@pytest.mark.parametrize('name', [name for name in names() if not name.startswith('sweeps/')])
def test_what_is_written_says_the_same_as_what_it_was_copied_from(name, tmp_path):
    source, target = named(name), tmp_path / 'copy.yaml'
    target.write_text(copied(source, target), encoding='utf-8')
    load = load_chain if has_stages(source) else load_config
    assert load(target, ['run_name=same']) == load(source, ['run_name=same'])


def test_a_run_of_the_package_runs_by_name(tmp_path, capsys):
    overrides = [f'save_folder={tmp_path}', 'max_duration=1ba', 'progress_bar=false', 'train_loader.dataset.subset=128']
    assert main(['train', '@digits/student', *overrides]) == 0
    assert main(['layers', '@digits/student']) == 0
    assert 'ShallowCNN' in capsys.readouterr().out
