"""Uploads to the Hugging Face Hub, against a hub of the same protocol on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from composer_kd.cli.main import main
from composer_kd.deploy.card import Card
from composer_kd.deploy.hub import check_access, push_to_hub
from composer_kd.errors import ConfigError
from tests.hub_server import TOKEN

client = pytest.importorskip('huggingface_hub')


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'README.md').write_text(Card('kd', 'Small.', 'onnx', license='mit').markdown())
    (tmp_path / 'model.onnx').write_bytes(b'weights')
    return tmp_path


def test_an_export_is_uploaded_with_its_card(hub, folder):
    address = push_to_hub(folder, 'me/kd', token=TOKEN, endpoint=hub.address)
    assert address == f'{hub.address}/me/kd/commit/abc'
    model = hub.models['me/kd']
    assert model['private'] is None  # the Hub's own default
    assert model['files'].keys() == {'README.md', 'model.onnx'}
    assert model['files']['model.onnx'] == b'weights'
    assert client.ModelCard(model['files']['README.md'].decode()).data.license == 'mit'
    (folder / 'model.onnx').write_bytes(b'better')
    push_to_hub(folder, 'kd', private=True, token=TOKEN, endpoint=hub.address)  # the same one, by its short name
    assert model['files']['model.onnx'] == b'better'
    assert model['private'] is None


def test_a_private_model(hub, folder):
    push_to_hub(folder, 'me/kd', private=True, token=TOKEN, endpoint=hub.address)
    assert hub.models['me/kd']['private'] is True


def test_errors_say_what_to_do(hub, folder, tmp_path):
    at = {'endpoint': hub.address}
    for token in (None, 'hf_wrong'):
        with pytest.raises(ConfigError, match='the token is missing or unknown to the Hub: log in with'):
            push_to_hub(folder, 'me/kd', token=token, **at)
        with pytest.raises(ConfigError, match=r'the token is missing or unknown|wants to know who uploads') as caught:
            check_access('me/kd', token=token, **at)
        assert 'HF_TOKEN' in str(caught.value)
        assert 'hf_wrong' not in str(caught.value)
    with pytest.raises(ConfigError, match=r"the token may not write there\. Give a name that is yours, 'user/name'"):
        push_to_hub(folder, 'others/kd', token=TOKEN, **at)
    with pytest.raises(ConfigError, match="'a/b/c' is no name of a model on the Hub: expected 'user/name'"):
        check_access('a/b/c', token=TOKEN, **at)
    with pytest.raises(ConfigError, match=r'README.md: expected a folder of `composer-kd export`'):
        push_to_hub(tmp_path / 'nothing', 'me/kd', token=TOKEN, **at)
    with pytest.raises(ConfigError, match=r'the Hub cannot be reached .*push it later'):
        push_to_hub(folder, 'me/kd', token=TOKEN, endpoint='http://127.0.0.1:9')
    assert not hub.models


def test_offline_is_said(folder, monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    client.utils.reset_sessions()
    with pytest.raises(ConfigError, match='HF_HUB_OFFLINE is set; unset it to upload'):
        push_to_hub(folder, 'me/kd', token=TOKEN)


def test_the_command_line_refuses_what_cannot_be_before_anything_runs(hub, capsys):
    for words, said in (
        (['--to', 'onnx', 'state-dict', '--push-to-hub', 'me/kd'], 'one format goes to one model'),
        (['--to', 'onnx', '--private'], '--private: says how --push-to-hub NAME makes a model'),
        (['--to', 'onnx', '--push-to-hub', 'me/kd'], 'log in with `huggingface-cli login`'),
    ):
        assert main(['export', 'runs/none', *words]) != 0
        assert said in ' '.join(capsys.readouterr().err.split())


def test_the_page_about_it(hub, folder, tmp_path, monkeypatch, capsys):
    text = (Path(__file__).parents[2] / 'docs/how_to/share_on_the_hub.md').read_text(encoding='utf-8')
    (block,) = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    place = tmp_path / 'runs/digits-kd/export/onnx'
    place.mkdir(parents=True)
    for name in ('README.md', 'model.onnx'):
        (folder / name).rename(place / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HF_TOKEN', TOKEN)
    exec(block.replace('user/', 'me/'), {})
    assert capsys.readouterr().out == f'{hub.address}/me/digits-kd/commit/abc\n'
    for option in re.findall(r'--(?:push-to-hub|private|license)', text):
        assert option in Path(__file__).parents[2].joinpath('composer_kd/cli/export.py').read_text(encoding='utf-8')
