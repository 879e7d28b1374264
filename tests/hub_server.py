"""A server on this machine that answers as the Hugging Face Hub does to those who upload a model."""

from __future__ import annotations

import base64
import http.server
import json
import threading

import pytest
import yaml

TOKEN = 'hf_' + 'x' * 34


class Hub(http.server.BaseHTTPRequestHandler):
    """What the Hub answers to those who make a model and commit files; it keeps both."""

    def do_GET(self):
        if self.path.startswith('/api/whoami'):
            return self.answer({'type': 'user', 'name': 'me', 'auth': {}}) if self.known() else self.answer({}, 401)
        if '/revision/' in self.path:
            return self.answer({'id': '/'.join(self.path.split('/')[3:5]), 'xetEnabled': False})
        return self.answer({}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        models = self.server.models
        if self.path == '/api/validate-yaml':
            text = json.loads(body)['content']
            wrong = [] if yaml.safe_load(text.split('---')[1])['library_name'] else ['no library']
            return self.answer({'errors': wrong, 'warnings': []})
        if not self.known():
            return self.answer({'error': 'Invalid username or password.'}, 401)
        if self.path == '/api/repos/create':
            asked = json.loads(body)
            name = f'{asked.get("organization") or "me"}/{asked["name"]}'
            if not name.startswith('me/'):
                return self.answer({'error': 'forbidden'}, 403)
            address = {'url': f'{self.server.address}/{name}'}
            if name in models:
                return self.answer({'error': 'You already created this model repo', **address}, 409)
            models[name] = {'private': asked.get('private'), 'files': {}}
            return self.answer(address)
        name = '/'.join(self.path.split('/')[3:5])
        if '/preupload/' in self.path:
            asked = [{'path': file['path'], 'uploadMode': 'regular'} for file in json.loads(body)['files']]
            return self.answer({'files': [{**one, 'shouldIgnore': False} for one in asked]})
        if '/commit/' in self.path:
            for line in map(json.loads, body.splitlines()):
                if line['key'] == 'file':
                    models[name]['files'][line['value']['path']] = base64.b64decode(line['value']['content'])
            done = {'commitUrl': f'{self.server.address}/{name}/commit/abc', 'commitOid': 'abc'}
            return self.answer({'success': True, **done})
        return self.answer({}, 404)

    def known(self):
        return self.headers.get('authorization') == f'Bearer {TOKEN}'

    def answer(self, content, status=200):
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    """The server; huggingface_hub is online and has no token of this machine."""
    client = pytest.importorskip('huggingface_hub')
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), Hub) as served:
        served.models, served.address = {}, f'http://127.0.0.1:{served.server_port}'
        threading.Thread(target=served.serve_forever, daemon=True).start()
        monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
        monkeypatch.setattr('huggingface_hub.constants.HF_TOKEN_PATH', '/nowhere')
        monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', served.address)
        monkeypatch.delenv('HF_TOKEN', raising=False)
        client.utils.reset_sessions()
        yield served
        client.utils.reset_sessions()
        served.shutdown()
