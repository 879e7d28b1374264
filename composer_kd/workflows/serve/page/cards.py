"""Answers as HTML: one card for each model."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from composer_kd.presentation.roles import TEACHER
from composer_kd.presentation.templates import render
from composer_kd.presentation.units import bytes_text, count_text, seconds_text, times
from composer_kd.workflows.serve.answers import Answer, Completion, Described
from composer_kd.workflows.serve.models import ServedModel
from composer_kd.workflows.serve.timing import PASSES

__all__ = ['answer_cards', 'completion_cards', 'message', 'model_cards', 'seen']

_TEMPLATE = 'workflows/serve/page/cards.html'
MOST_BARS = 5


def model_cards(models: Sequence[ServedModel]) -> str:
    """The models before the first question: what they cost, and no answer.

    Args:
        models: The models.

    Returns:
        HTML.
    """
    described = [Described.of(model) for model in models]
    return _cards([_card(one, _costs(one, described)) for one in described], '')


def answer_cards(answers: Sequence[Answer]) -> str:
    """What classifiers said.

    Args:
        answers: The answers, those of teachers first.

    Returns:
        HTML.
    """
    described = [answer.of for answer in answers]
    taught = next((one for one in answers if one.of.role == TEACHER and not one.error), None)
    cards = []
    for one in answers:
        faster = None if taught is None or taught is one else _ratio(taught.seconds, one.seconds)
        cost = [('time', seconds_text(one.seconds), faster and f'{faster} faster'), *_costs(one.of, described)]
        same = None if taught is None or one is taught else one.label == taught.label
        bars = list(one.confidences.items())[:MOST_BARS]
        cards.append(
            _card(
                one.of, cost, label=one.label, same=same, bars=bars, rest=len(one.confidences) - len(bars),
                notes=one.notes, error=one.error,
            )
        )  # fmt: skip
    threads = torch.get_num_threads()
    where = 'a GPU' if torch.cuda.is_available() else f'{threads} CPU thread{"s" * (threads > 1)}'
    return _cards(
        cards, f'time: one forward pass of one input on {where}; the median of up to {PASSES} passes after a warm-up'
    )


def completion_cards(completions: Sequence[Completion]) -> str:
    """What language models have written so far.

    Args:
        completions: The texts, those of teachers first.

    Returns:
        HTML.
    """
    described = [one.of for one in completions]
    taught = next((one for one in completions if one.of.role == TEACHER), None)
    cards = []
    for one in completions:
        faster = None if taught is None or taught is one else _ratio(taught.later, one.later)
        cost = [
            ('first token', seconds_text(one.first), None),
            ('each token', seconds_text(one.later), faster and f'{faster} faster'),
            ('tokens', f'{one.tokens}' if one.tokens else '', None),
            *_costs(one.of, described),
        ]
        cards.append(
            _card(one.of, cost, text=one.text, writing=not (one.done or one.error), notes=one.notes, error=one.error)
        )
    return _cards(cards, 'the models write one after the other; times are of this one text, after a warm-up')


def message(text: str) -> str:
    """Says why there is no answer.

    Args:
        text: The reason.

    Returns:
        HTML, in which the text is escaped.
    """
    return render('workflows/serve/page/message.html', text=text)


def seen(picture: Image.Image, given: Image.Image, label: str, number: int | None) -> str:
    """A picture as the models get it.

    Args:
        picture: The picture in their size.
        given: The picture that was sent.
        label: Its class; ``''`` if that is unknown.
        number: The number of the sample; None for a picture from elsewhere.

    Returns:
        HTML.
    """
    content = io.BytesIO()
    picture.save(content, 'PNG')
    source = f'data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}'
    return render(
        'workflows/serve/page/seen.html', source=source, size=picture.size, given=given.size, label=label, number=number
    )


def _cards(cards: Sequence[dict[str, Any]], footnote: str) -> str:
    return render(_TEMPLATE, cards=cards, footnote=footnote)


def _card(of: Described, cost: Sequence[tuple[str, str, str | None]], **answer: Any) -> dict[str, Any]:
    empty = {'label': '', 'same': None, 'bars': (), 'rest': 0, 'text': None, 'writing': False, 'notes': (), 'error': ''}
    return {'model': of.model, 'role': of.role, 'is_teacher': of.role == TEACHER, 'cost': cost, **empty, **answer}


def _costs(of: Described, all_of_them: Sequence[Described]) -> list[tuple[str, str, str | None]]:
    taught = next((one for one in all_of_them if one.role == TEACHER), None)
    smaller = None if taught is None or taught is of else _ratio(taught.parameters, of.parameters)
    lighter = None if taught is None or taught is of else _ratio(taught.size, of.size)
    return [
        ('parameters', count_text(of.parameters), smaller and f'{smaller} fewer'),
        ('size', bytes_text(of.size), lighter and f'{lighter} smaller'),
    ]


def _ratio(theirs: float | None, ours: float | None) -> str | None:
    """How many times less; None if it is not less, or unknown."""
    if not theirs or not ours or theirs / ours < 1.05:
        return None
    return times(theirs / ours)
