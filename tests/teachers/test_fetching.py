"""Checkpoints behind addresses: whole folders too, and no key in an address is shown or written anywhere."""

from __future__ import annotations

import base64
import http.server
import json
import logging
import threading
import traceback

import pytest
import torch
from omegaconf import OmegaConf

from composer_kd import FrozenTeacher
from composer_kd.config.load import as_mapping, load_config
from composer_kd.errors import CheckpointError, CheckpointNotFoundError
from composer_kd.presentation.addresses import without_credentials
from composer_kd.runs.train import train
from composer_kd.teachers import load_weights

USER, PASSWORD, SIGNATURE = 'someone', 'hunter2hunter2', 'abc%2Fdef012345'
KEYS = (USER, PASSWORD, SIGNATURE, 'abc/def012345', base64.b64encode(f'{USER}:{PASSWORD}'.encode()).decode())


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder to those who have the key, in either way."""

    def do_GET(self):
        asked = self.headers.get('Authorization', '')
        if KEYS[-1] not in asked and SIGNATURE not in self.path:
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / 'served'
    folder.mkdir()
    server = http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0),
        lambda *a: Handler(*a, directory=str(folder)),  # type: ignore[arg-type]
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, f'127.0.0.1:{server.server_address[1]}'
    server.shutdown()
    server.server_close()


def linear(value=0.0):
    module = torch.nn.Linear(2, 3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(value)
    return module


def addresses(host, file):
    return [f'http://{USER}:{PASSWORD}@{host}/{file}', f'http://{host}/{file}?sig={SIGNATURE}&x=1']


def shows_no_key(text):
    assert not any(key in text for key in KEYS), text


@pytest.mark.parametrize('way', [0, 1])
def test_an_address_with_a_key_is_read_and_never_shown(way, place, caplog, capfd):
    folder, host = place
    caplog.set_level(logging.DEBUG, 'composer_kd')
    torch.save(linear(2.0).state_dict(), folder / 'w.pt')
    teacher = FrozenTeacher(linear(), addresses(host, 'w.pt')[way])
    assert teacher.model.weight[0, 0] == 2.0
    shows_no_key(teacher.name)
    for file, model, kind in [
        ('none.pt', linear(), CheckpointNotFoundError),
        ('w.pt', torch.nn.Linear(5, 5), CheckpointError),
    ]:
        with pytest.raises(kind) as error:
            load_weights(model, addresses(host, file)[way])
        shows_no_key(''.join(traceback.format_exception(error.value)))
    with pytest.raises(CheckpointError, match='Could not fetch') as error:
        load_weights(linear(), addresses('127.0.0.1:9', 'w.pt')[way])
    shows_no_key(''.join(traceback.format_exception(error.value)))
    shows_no_key(caplog.text + ''.join(capfd.readouterr()))


@pytest.mark.parametrize('way', [0, 1])
def test_no_file_of_a_run_holds_the_key_in_an_address(way, place, tmp_path, capfd):
    folder, host = place
    small = [
        'progress_bar=false',
        'train_loader.dataset.subset=64',
        'eval_loader.dataset.subset=64',
        'max_duration=1ba',
    ]
    train(load_config('yamls/digits/teacher.yaml', [*small, f'save_folder={tmp_path / "teacher"}']), quiet=True)
    (folder / 'w.pt').write_bytes((tmp_path / 'teacher' / 'latest-rank0.pt').read_bytes())
    run = tmp_path / 'run'
    config = load_config(
        'yamls/digits/kd.yaml', [*small, f'variables.teacher="{addresses(host, "w.pt")[way]}"', f'save_folder={run}']
    )
    train(config)
    for file in run.rglob('*'):
        if file.is_file():
            content = file.read_bytes()
            assert not any(key.encode() in content for key in KEYS), file
    shows_no_key(''.join(capfd.readouterr()))
    shows_no_key(OmegaConf.to_yaml(OmegaConf.create(as_mapping(config))))
    again = load_config(run / 'config.yaml')
    with pytest.raises(CheckpointError, match='written down without the key in it'):
        load_weights(linear(), again.algorithms['distillation'].options['teachers'][0].checkpoint)


def _shards(folder):
    state = linear(3.0).state_dict()
    for name in state:
        torch.save({name: state[name]}, folder / f'{name}.bin')
    index = {'weight_map': {name: f'{name}.bin' for name in state}}
    (folder / 'pytorch_model.bin.index.json').write_text(json.dumps(index))


@pytest.mark.parametrize('address', ['model/', 'model/pytorch_model.bin.index.json'])
def test_a_folder_of_shards_behind_an_address(address, place):
    folder, host = place
    (folder / 'model').mkdir()
    _shards(folder / 'model')
    module = linear()
    load_weights(module, addresses(host, address)[0])
    assert module.weight[0, 0] == module.bias[0] == 3.0
    with pytest.raises(CheckpointError, match='Copy the folder to this machine first') as error:
        load_weights(module, f'{addresses(host, address)[1]}')
    shows_no_key(str(error.value))


def test_a_folder_behind_an_address_that_holds_no_weights(place):
    _, host = place
    with pytest.raises(CheckpointNotFoundError, match=r'expected a folder of save_pretrained with one of model\.safet'):
        load_weights(linear(), addresses(host, 'model/')[0])


def test_an_index_that_leads_out_of_its_folder(place):
    folder, host = place
    (folder / 'pytorch_model.bin.index.json').write_text(json.dumps({'weight_map': {'weight': '../../etc/passwd'}}))
    with pytest.raises(CheckpointError, match='expected weight_map to give for each tensor the name of a file'):
        load_weights(linear(), addresses(host, 'pytorch_model.bin.index.json')[0])


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('s3://bucket/a/b.pt', 's3://bucket/a/b.pt'),
        (
            's3://bucket/w?X-Amz-Signature=12345678&X-Amz-Expires=30',
            's3://bucket/w?X-Amz-Signature=***&X-Amz-Expires=30',
        ),
        ('https://host/w.pt?download=true', 'https://host/w.pt?download=true'),
        ('https://hf_token@host:80/w', 'https://***@host:80/w'),
        ('https://host/w?some-token', 'https://host/w?***'),
        ('mail me@host, a://b', 'mail me@host, a://b'),
        ("cannot open 'https://a:b@h/x'!", "cannot open 'https://***@h/x'!"),
        ('runs/kd/latest-rank0.pt', 'runs/kd/latest-rank0.pt'),
    ],
)
def test_what_is_shown_of_an_address(text, shown):
    assert without_credentials(text) == shown
