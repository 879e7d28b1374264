"""What each task asks for, and how its answers are shown."""

from __future__ import annotations

import base64
import binascii
import functools
import logging
import pathlib
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from markupsafe import escape
from PIL import Image

from composer_kd.bench.failures import reason
from composer_kd.data.pictures import read_picture
from composer_kd.errors import ComposerKDError, ConfigError
from composer_kd.workflows.serve.generation import HOTTEST, MOST_TOKENS, TextGeneration
from composer_kd.workflows.serve.images import ImageClassification
from composer_kd.workflows.serve.page.cards import answer_cards, completion_cards, message, model_cards, seen
from composer_kd.workflows.serve.reading import MOST_CHARACTERS
from composer_kd.workflows.serve.text import TextClassification

__all__ = ['MOST_PICTURE_BYTES', 'view']

MOST_PICTURE_BYTES = 8_000_000
SECONDS_BETWEEN = 0.05
"""Between two states of a text that is being written."""

_QUEUED = {'concurrency_id': 'models', 'concurrency_limit': 1}
_OF_THE_PAGE = {**_QUEUED, 'api_visibility': 'private', 'show_progress': 'minimal'}
_log = logging.getLogger(__name__)


@functools.singledispatch
def view(task: Any, gr: Any) -> None:
    """Adds the inputs and the answers of a task to a page, and its function ``answer`` to the page's API.

    Args:
        task: The task.
        gr: The module ``gradio``, inside a ``Blocks``.
    """
    raise TypeError(f'{type(task).__name__} has no view')


@view.register
def _(task: TextClassification, gr: Any) -> None:
    boxes = []
    with gr.Row():
        for number, name in enumerate(task.texts):
            last = number == len(task.texts) - 1
            boxes.append(
                gr.Textbox(
                    label=f'{name} (optional)' if task.optional and last else name, lines=2, max_lines=8,
                    max_length=MOST_CHARACTERS, elem_id=f'kd-text-{number}', submit_btn=False,
                )
            )  # fmt: skip
    button = gr.Button('Classify', variant='primary', elem_id='kd-ask')
    cards = gr.HTML(model_cards(task.models), padding=False, elem_id='kd-answers')
    gr.on(
        [button.click, *(box.submit for box in boxes)],
        _shown(lambda *texts: (answer_cards(task.answers(*texts)),), gr, 1), boxes, [cards], **_OF_THE_PAGE,
    )  # fmt: skip

    def answer(text: str, second: str = '') -> dict[str, Any]:
        """Classifies a text, or a pair of texts, with every model."""
        given = (text, second)[: len(task.texts)] if not second else (text, second)
        return {'task': task.title, 'answers': [one.as_json() for one in task.answers(*given)]}

    gr.api(_told(gr, answer), api_name='answer', **_QUEUED)


@view.register
def _(task: ImageClassification, gr: Any) -> None:
    with gr.Row(equal_height=True):
        with gr.Column(scale=1, min_width=260):
            picture = gr.Image(
                label='Picture', sources=['upload', 'clipboard'], format='png', height=250, elem_id='kd-picture',
                buttons=[],
            )  # fmt: skip
        with gr.Column(scale=1, min_width=260):
            number = gr.Number(
                0, label=f'Sample of the evaluation data, 0 to {task.samples.count - 1}', precision=0,
                elem_id='kd-sample',
            )  # fmt: skip
            with gr.Row():
                chosen = gr.Button('Take it', min_width=100, elem_id='kd-take')
                any_one = gr.Button('Any sample', min_width=100, elem_id='kd-any')
            looked = gr.HTML('', padding=False, elem_id='kd-seen')
    button = gr.Button('Classify', variant='primary', elem_id='kd-ask')
    cards = gr.HTML(model_cards(task.models), padding=False, elem_id='kd-answers')

    def of_picture(sent: Any) -> tuple[str, str]:
        if sent is None:
            raise ConfigError('expected a picture: upload one, or take a sample')
        given = read_picture(_uploaded(sent, gr))
        return answer_cards(task.answers(given)), seen(task.seen(given), given, '', None)

    def of_sample(wanted: Any) -> tuple[str, str, Image.Image, int]:
        at = random.randrange(task.samples.count) if wanted is None else wanted
        given, label = task.sample(at)
        return answer_cards(task.answers(given)), seen(task.seen(given), given, label, at), given, at

    asked = {**_OF_THE_PAGE, 'preprocess': False}
    gr.on([button.click, picture.upload], _shown(of_picture, gr, 2), [picture], [cards, looked], **asked)
    outputs = [cards, looked, picture, number]
    chosen.click(_shown(of_sample, gr, 4), [number], outputs, **_OF_THE_PAGE)
    any_one.click(_shown(lambda: of_sample(None), gr, 4), [], outputs, **_OF_THE_PAGE)

    def answer(image: str = '', sample: int = -1) -> dict[str, Any]:
        """Classifies a picture (the bytes of its file in base64), or else a sample of the evaluation data."""
        if bool(image) == (sample >= 0):
            raise ConfigError('expected an image, as base64, or the number of a sample')
        given, label = (_decoded(image), '') if image else task.sample(sample)
        answers = [one.as_json() for one in task.answers(given)]
        return {'task': task.title, **({'labelled': label} if label else {}), 'answers': answers}

    gr.api(_told(gr, answer), api_name='answer', **_QUEUED)


@view.register
def _(task: TextGeneration, gr: Any) -> None:
    query = gr.Textbox(label='Query', lines=3, max_lines=12, max_length=MOST_CHARACTERS, elem_id='kd-query')
    with gr.Accordion('Context (optional)', open=False):
        context = gr.Textbox(
            label='Stands before the query', lines=4, max_lines=12, max_length=MOST_CHARACTERS, elem_id='kd-context'
        )
    with gr.Row():
        temperature = gr.Slider(
            0, HOTTEST, 0, step=0.05, label='Temperature', elem_id='kd-temperature',
            info='0: the most probable token', min_width=260,
        )  # fmt: skip
        tokens = gr.Slider(
            1,
            MOST_TOKENS,
            64,
            step=1,
            label='Max length',
            elem_id='kd-tokens',
            info='new tokens at most',
            min_width=260,
        )
        seed = gr.Number(0, label='Seed', precision=0, info='of the draws', elem_id='kd-seed', min_width=140)
    with gr.Row():
        button = gr.Button('Generate', variant='primary', scale=3, elem_id='kd-ask')
        stop = gr.Button('Stop', variant='secondary', scale=1, elem_id='kd-stop')
    cards = gr.HTML(model_cards(task.models), padding=False, elem_id='kd-answers')

    def write(asked: Any, before: Any, *wish: Any) -> Iterator[str]:
        try:
            shown = 0.0
            for found in task.completions(asked or '', before or '', *wish):  # None: a box that was never opened
                if time.monotonic() - shown > SECONDS_BETWEEN:
                    yield completion_cards(found)
                    shown = time.monotonic()
            yield completion_cards(found)
        except Exception as error:
            yield message(_said(error))

    inputs = [query, context, temperature, tokens, seed]
    writing = gr.on([button.click], write, inputs, cards, **_OF_THE_PAGE)
    stop.click(None, cancels=[writing], queue=False, api_visibility='private')

    def answer(
        query: str, context: str = '', temperature: float = 0.0, max_tokens: int = 64, seed: int = 0
    ) -> Iterator[dict[str, Any]]:
        """Lets every model continue or answer a text; yields what they have written so far."""
        for found in task.completions(query, context, temperature, max_tokens, seed):
            yield {'task': task.title, 'answers': [one.as_json() for one in found]}

    gr.api(_told_as_it_comes(gr, answer), api_name='answer', **_QUEUED)


def _uploaded(sent: Any, gr: Any) -> bytes:
    """Reads a file that was uploaded. Gradio itself checks where a file lies only if the request marks it as one."""
    folder = pathlib.Path(gr.utils.get_upload_folder()).resolve()
    path = pathlib.Path(str(sent.get('path'))).resolve()
    if not (path.is_relative_to(folder) and path.is_file()):
        raise ConfigError('expected an uploaded picture')
    return path.read_bytes()


def _decoded(text: str) -> Image.Image:
    """Reads a picture from base64, or from an address of the kind ``data:image/png;base64,...``."""
    if len(text) > 4 * MOST_PICTURE_BYTES // 3 + 100:
        raise ConfigError(f'image: expected at most {MOST_PICTURE_BYTES:,} bytes')
    try:
        return read_picture(base64.b64decode(text.partition('base64,')[2] or text, validate=True))
    except binascii.Error as error:
        raise ConfigError(f'image: expected base64: {error}') from error


def _said(error: Exception) -> str:
    """What a reader is told of an error: the message of one of this package, of any other its kind."""
    if isinstance(error, ComposerKDError):
        return str(error)
    _log.error('an answer failed', exc_info=error)
    return f'no answer: {reason(error)}'


def _shown(of: Callable[..., tuple[Any, ...]], gr: Any, outputs: int) -> Callable[..., Any]:
    """A handler of the page, which shows an error in the place of its first output, and leaves the others."""

    def handle(*inputs: Any) -> Any:
        try:
            found = of(*inputs)
        except Exception as error:  # the page says what it was, and goes on
            found = (message(_said(error)), *[gr.skip()] * (outputs - 1))
        return found if outputs > 1 else found[0]

    return handle


def _told(gr: Any, answer: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A function of the API, whose errors are messages."""

    @functools.wraps(answer)
    def told(*given: Any, **named: Any) -> dict[str, Any]:
        try:
            return answer(*given, **named)
        except Exception as error:
            raise _error(gr, error) from None

    return told


def _told_as_it_comes(gr: Any, answer: Callable[..., Iterator[dict[str, Any]]]) -> Callable[..., Any]:
    """The same for one that yields what there is."""

    @functools.wraps(answer)
    def told(*given: Any, **named: Any) -> Iterator[dict[str, Any]]:
        try:
            yield from answer(*given, **named)
        except Exception as error:
            raise _error(gr, error) from None

    return told


def _error(gr: Any, error: Exception) -> Exception:
    made: Exception = gr.Error(str(escape(_said(error))), print_exception=False)
    return made
