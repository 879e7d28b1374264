"""The page's API, its limits, and its HTML, without a browser."""

import base64
import contextlib
import io
import json
import pathlib
import re
import socket
import urllib.error
import urllib.request

import pytest
from PIL import Image

from composer_kd.errors import ConfigError
from composer_kd.presentation.units import TIMES
from composer_kd.workflows.serve.answers import Answer, Completion, Described
from composer_kd.workflows.serve.page.cards import answer_cards, completion_cards, message
from composer_kd.workflows.serve.page.guard import MOST_BYTES, names_address
from composer_kd.workflows.serve.page.server import serving

pytest.importorskip('gradio')

ROOT = pathlib.Path(__file__).parents[3]
TEACHER, STUDENT = Described('big', 'teacher', 1000, 4000), Described('<b>small</b>', 'student distilled', 100, 400)


@pytest.fixture(scope='module')
def served(digits_task):
    """The page of the digits; every address that this process connected to meanwhile."""
    reached = []
    connect = socket.socket.connect

    def recording(one, address):
        reached.append(address)
        return connect(one, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, 'connect', recording)
        with serving(digits_task, port=0) as address:
            yield address.rstrip('/'), reached


def send(address, body, headers=()):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(address, content, {'Content-Type': 'application/json', **dict(headers)})
    with urllib.request.urlopen(asked, timeout=20) as got:
        return got.read().decode()


def ask(address, *given):
    """What the API answers: its last event and the values of that."""
    event = json.loads(send(f'{address}/gradio_api/call/answer', {'data': list(given)}))['event_id']
    with urllib.request.urlopen(f'{address}/gradio_api/call/answer/{event}', timeout=20) as got:
        lines = got.read().decode().strip().splitlines()
    return lines[-2].removeprefix('event: '), json.loads(lines[-1].removeprefix('data: '))


def refused(address, body, headers=()):
    with pytest.raises(urllib.error.HTTPError) as error:
        send(address, body, headers)
    return error.value.code, error.value.read().decode()


def test_the_api_answers_a_sample_and_the_same_picture_alike(served, digits_task):
    address, _ = served
    event, (of_sample,) = ask(address, '', 7)
    assert event == 'complete'
    assert of_sample['task'] == 'image classification'
    assert of_sample['labelled'] == digits_task.sample(7)[1]
    content = io.BytesIO()
    digits_task.sample(7)[0].save(content, 'PNG')
    _, (of_picture,) = ask(address, base64.b64encode(content.getvalue()).decode(), -1)
    assert [one['model'] for one in of_picture['answers']] == ['digits-teacher', 'digits-kd']
    for one, other in zip(of_sample['answers'], of_picture['answers']):
        assert one['confidences'] == other['confidences']
        assert one['milliseconds'] > 0


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (['', 500], 'expected a number from 0 to 499, got 500'),
        (['', -1], 'expected an image, as base64, or the number of a sample'),
        (['no base64', -1], 'image: expected base64'),
        (['bm8gcGljdHVyZQ==', -1], 'expected a picture (PNG, JPEG, WebP, GIF or BMP)'),
    ],
)
def test_the_api_answers_bad_input_with_a_message(served, given, said, capfd):
    event, told = ask(served[0], *given)
    assert event == 'error'
    assert said in json.dumps(told)
    assert 'Traceback' not in capfd.readouterr().err


def test_what_the_page_never_asks_for_is_refused(served):
    address, _ = served
    join = f'{address}/gradio_api/queue/join'
    picture = {'path': 'http://example.com/a.png', 'meta': {'_type': 'gradio.FileData'}}
    assert refused(join, {'data': [picture], 'fn_index': 0, 'session_hash': 'a'})[0] == 400
    assert refused(join, b' ' * (MOST_BYTES + 1))[0] == 413
    assert refused(join, {}, {'Host': 'example.com'}) == (400, '{"detail": "this page is not served under that name"}')


def test_nobody_jumps_the_queue(served):
    code, said = refused(f'{served[0]}/gradio_api/run/answer', {'data': ['', 1]})
    assert code == 404
    assert 'direct' in said


@pytest.mark.parametrize('mark', [{'meta': {'_type': 'gradio.FileData'}}, {'meta': {}}, {}])
def test_a_file_that_was_not_uploaded_is_not_read(served, tmp_path, mark):
    address, _ = served
    session = f'of-a-test-{tmp_path.name}'
    Image.new('L', (8, 8)).save(tmp_path / 'secret.png')
    with urllib.request.urlopen(f'{address}/config', timeout=20) as got:
        config = json.loads(got.read())
    (number,) = [one['id'] for one in config['dependencies'] if len(one['inputs']) == 1 and len(one['outputs']) == 2]
    picture = {'path': str(tmp_path / 'secret.png'), **mark}
    send(f'{address}/gradio_api/queue/join', {'data': [picture], 'fn_index': number, 'session_hash': session})
    with urllib.request.urlopen(f'{address}/gradio_api/queue/data?session_hash={session}', timeout=20) as got:
        told = got.read().decode()
    assert '"success":false' in told.replace(' ', '') or 'expected an uploaded picture' in told
    assert 'kd-label' not in told
    assert 'as the models see it' not in told


def test_no_picture_is_left_when_the_page_ends(digits_task, tmp_path, monkeypatch):
    monkeypatch.setenv('GRADIO_TEMP_DIR', str(tmp_path / 'sent'))
    body = b'--X\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\npixels\r\n--X--\r\n'
    with serving(digits_task, port=0) as address:
        upload = f'{address}gradio_api/upload'
        (place,) = json.loads(send(upload, body, {'Content-Type': 'multipart/form-data; boundary=X'}))
        assert pathlib.Path(place).read_bytes() == b'pixels'
    assert not pathlib.Path(place).exists()


def test_nothing_leaves_the_machine_and_the_browser_is_told_so(served):
    address, reached = served
    with urllib.request.urlopen(address, timeout=20) as got:
        policy = got.headers['Content-Security-Policy']
    assert "default-src 'self'" in policy
    assert {place[0] for place in reached if isinstance(place, tuple)} <= {'127.0.0.1', 'localhost'}


def test_a_port_in_use_is_said(digits_task):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ConfigError, match=f'127.0.0.1, port {port}, cannot be used'),
            serving(digits_task, port=port),
        ):
            pass


def test_the_documents_example_asks_for_texts(text_task, capsys):
    (block,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/page.md').read_text(encoding='utf-8'), re.DOTALL)
    with serving(text_task, port=0) as address:
        exec(compile(block.replace('http://127.0.0.1:7860/', address), 'docs/page.md', 'exec'), {})
        assert "('teacher', '" in capsys.readouterr().out
        event, (found,) = ask(address.rstrip('/'), 'good film', '')
        assert event == 'complete'
        expected = [one.as_json() for one in text_task.answers('good film')]
        for one, other in zip(found['answers'], expected):
            assert one['label'] == other['label']
            assert one['confidences'] == pytest.approx(other['confidences'])
        event, told = ask(address.rstrip('/'), ' ', '')
        assert event == 'error'
        assert 'expected a text' in json.dumps(told)


def test_the_api_of_texts_that_are_written_streams(language_task):
    with serving(language_task, port=0) as address:
        call = f'{address.rstrip("/")}/gradio_api/call/answer'
        event = json.loads(send(call, {'data': ['the film', '', 0.0, 8, 0]}))['event_id']
        with urllib.request.urlopen(f'{call}/{event}', timeout=20) as got:
            lines = got.read().decode().splitlines()
    assert lines.count('event: generating') > 4
    (found,) = json.loads([line for line in lines if line.startswith('data: ')][-1].removeprefix('data: '))
    assert [one['done'] for one in found['answers']] == [True, True]
    assert [one['tokens'] for one in found['answers']] == [8, 8]


def test_cards_say_who_agrees_and_what_it_saves_and_escape_everything():
    html = answer_cards(
        [
            Answer(TEACHER, 'yes', {'yes': 0.9, 'no': 0.1}, 0.004),
            Answer(STUDENT, '<i>', {'<i>': 0.7, 'yes': 0.3}, 0.001, ['cut & said']),
            Answer(Described('third', 'student alone', 2000, 8000), error='<script>'),
        ]
    )
    assert '✗ not as the teacher' in html
    assert f'4.0{TIMES} faster' in html
    assert f'10{TIMES} fewer' in html
    assert 'cut &amp; said' in html
    assert 'No answer: &lt;script&gt;' in html
    for raw in ('<b>', '<i>', '<script>'):
        assert raw not in html
    html = completion_cards([Completion(TEACHER, 'a\n<u>b', 2, 0.1, 0.01), Completion(STUDENT, done=True)])
    assert 'a\n&lt;u&gt;b<span class="kd-caret">' in html
    assert html.count('kd-caret') == 1
    assert message('<b>') == '<p class="kd-message" role="alert">&lt;b&gt;</p>\n'


def test_addresses_are_found_at_any_depth():
    deep = json.dumps({'a': [[{'b': {'path': 'https://a/b'}}]]}).encode()
    assert names_address(deep)
    assert not names_address(b'{"path": "/tmp/gradio/a.png"}')
    assert not names_address(b'[' * 100_000)
    assert not names_address(b'\xff')
    with contextlib.suppress(RecursionError):
        assert not names_address(json.dumps('http://').encode())
