"""The tables of texts: tokens per second by length, and the speed of writing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from composer_kd.bench.columns import Column, cell_text
from composer_kd.bench.results import Row
from composer_kd.bench.speed_up import SpeedUp
from composer_kd.bench.text_results import GenerationSpeed, TextSpeed
from composer_kd.presentation.units import TIMES, count_text, number_text, seconds_text, times

__all__ = ['LEGEND', 'columns_of_texts', 'rows_of_texts', 'texts_in_markdown']

LEGEND = """\
Tokens/s beside samples/s: attended tokens, padding aside. Texts of one length: without padding, made of the evaluation
data's, so every position is a token that counts; tokens/s of an encoder-decoder are those of the source. Writing:
`generate` of transformers, greedy, with its cache of keys and values, after prompts of one length: the time until the
first token, with the tokens of the prompts per second; then the median time from one token to the next, with the new
tokens of the whole batch per second. Median ± IQR of interleaved rounds; in brackets the speed-up over the teacher in
the same rounds, unclear within the noise."""


def columns_of_texts(rows: Sequence[Row]) -> list[Column]:
    """The columns of texts in a terminal: at each length the batch size that is best, and for prompts the smallest.

    Args:
        rows: The rows of one setting.

    Returns:
        The columns; none if no row has texts.
    """
    found = []
    for length in _in_order(one.length for row in rows for one in row.texts):
        found.append(Column(f'tokens/s at {length}', _reading(length), weight=9))
    for prompt in _in_order(one.prompt for row in rows for one in row.generation):
        found += [
            Column(f'first token after {prompt}', _writing(prompt, _first), weight=7),
            Column(f'next token after {prompt}', _writing(prompt, _next), weight=8),
            Column(f'new tokens/s after {prompt}', _most_written(prompt), weight=6),
        ]
    return found


def _in_order(numbers: Iterable[int]) -> list[int]:
    return sorted(set(numbers))


def _reading(length: int) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        done = [one for one in row.texts if one.length == length and one.tokens_per_second is not None]
        best = max(done, key=lambda one: one.tokens_per_second or 0.0, default=None)
        return '' if best is None else f'{count_text(best.tokens_per_second)} (batch {best.batch})'

    return cell


def _writing(prompt: int, text: Callable[[GenerationSpeed], str]) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        return next((text(one) for one in row.generation if one.prompt == prompt and one.failed is None), '')

    return cell


def _first(one: GenerationSpeed) -> str:
    return seconds_text(one.first_token_seconds)


def _next(one: GenerationSpeed) -> str:
    return seconds_text(one.token_seconds)


def _most_written(prompt: int) -> Callable[[Row], str]:
    def cell(row: Row) -> str:
        done = [one for one in row.generation if one.prompt == prompt and one.tokens_per_second is not None]
        best = max(done, key=lambda one: one.tokens_per_second or 0.0, default=None)
        return '' if best is None else f'{count_text(best.tokens_per_second)} (batch {best.batch})'

    return cell


def texts_in_markdown(rows: Sequence[Row]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yields the tables of one setting, with all lengths and batch sizes.

    Args:
        rows: The rows of the setting.

    Yields:
        For each table its title, its headings, and its rows; the first column is left-aligned.
    """
    reading = [row for row in rows if row.texts]
    if reading:
        cells = [(one.length, one.batch) for one in reading[0].texts]
        headings = [f'tokens {TIMES} batch', *(row.model for row in reading)]
        by_row = [{(one.length, one.batch): one for one in row.texts} for row in reading]
        body = [[cell_text(*cell), *(_rate(known.get(cell)) for known in by_row)] for cell in sorted(cells)]
        yield 'Tokens per second by length', headings, body
    writing = [(row, one) for row in rows for one in row.generation]
    if writing:
        headings = ['model', f'prompt {TIMES} batch', 'first token', 'prompt tokens/s', 'next token', 'new tokens/s']
        writing.sort(key=lambda pair: (pair[1].prompt, pair[1].batch))
        yield f'Writing {writing[0][1].new_tokens} tokens', headings, [_written(row, one) for row, one in writing]


def _rate(one: TextSpeed | None) -> str:
    if one is None or one.tokens_per_second is None:
        return ''
    return f'{number_text(one.tokens_per_second, one.iqr)}{_factor(one.speed_up)}'


def _factor(ratio: SpeedUp | None) -> str:
    return '' if ratio is None else f' ({times(ratio.median)})' if ratio.is_clear else ' (unclear)'


def _written(row: Row, one: GenerationSpeed) -> list[str]:
    start = [row.model, cell_text(one.prompt, one.batch)]
    if one.failed is not None:
        return [*start, '', '', '', '']
    return [
        *start,
        _time(one.first_token_seconds, one.first_token_iqr, one.first_token_speed_up),
        number_text(one.prompt_tokens_per_second),
        _time(one.token_seconds, one.token_iqr, one.speed_up),
        number_text(one.tokens_per_second),
    ]


def _time(seconds: float | None, iqr: float | None, ratio: SpeedUp | None) -> str:
    return f'{seconds_text(seconds)} ± {seconds_text(iqr)}{_factor(ratio)}'


def rows_of_texts(row: Row) -> Iterator[dict[str, Any]]:
    """Yields a line of a spreadsheet for each length and batch size of a row: seconds, and tokens per second."""
    setting = row.setting
    where = {
        'model': row.model,
        'role': row.role,
        'device': setting.device,
        'threads': setting.threads,
        'backend': setting.backend,
        'precision': setting.precision,
    }
    for text in row.texts:
        yield {**where, **_flat('reading', text.length, text.batch), 'tokens_per_second': text.tokens_per_second,
               'tokens_per_second_iqr': text.iqr, 'speed_up': getattr(text.speed_up, 'median', None),
               'failed': text.failed}  # fmt: skip
    for one in row.generation:
        yield {**where, **_flat('first token', one.prompt, one.batch), 'seconds': one.first_token_seconds,
               'seconds_iqr': one.first_token_iqr, 'tokens_per_second': one.prompt_tokens_per_second,
               'speed_up': getattr(one.first_token_speed_up, 'median', None), 'failed': one.failed}  # fmt: skip
        yield {**where, **_flat('next token', one.prompt, one.batch), 'seconds': one.token_seconds,
               'seconds_iqr': one.token_iqr, 'tokens_per_second': one.tokens_per_second,
               'speed_up': getattr(one.speed_up, 'median', None), 'failed': one.failed}  # fmt: skip


def _flat(what: str, length: int, batch: int) -> dict[str, Any]:
    empty = dict.fromkeys(('seconds', 'seconds_iqr', 'tokens_per_second', 'tokens_per_second_iqr', 'speed_up'))
    return {'what': what, 'length': length, 'batch': batch, **empty}
