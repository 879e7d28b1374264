"""A language model that writes in a thread of its own, while others read what it has written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from composer_kd.bench.devices import Device
from composer_kd.bench.failures import reason
from composer_kd.data.text import frame_of
from composer_kd.features.generation import settings_of_texts, stop_tokens
from composer_kd.features.longest_text import longest_text
from composer_kd.pretrained import require_transformers
from composer_kd.workflows.serve.answers import Completion, Described
from composer_kd.workflows.serve.models import ServedModel
from composer_kd.workflows.serve.reading import Reader

__all__ = ['MOST_SECONDS', 'Wish', 'Writer']

MOST_SECONDS = 120.0
"""The time after which a model stops writing."""

_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Wish:
    """What is asked of a model.

    Args:
        prompt: The text before.
        temperature: 0 for the most probable token each time.
        tokens: The largest number of new tokens.
        seed: Seed of the draws.
    """

    prompt: str
    temperature: float
    tokens: int
    seed: int


class Writer:
    """Lets a model of transformers write; one model writes at a time, so that times are right.

    Args:
        model: The model.
        device: The device that it runs on.
    """

    def __init__(self, model: ServedModel, device: Device) -> None:
        require_transformers('text generation')
        self._of, self._device = Described.of(model), device
        self._net: Any = model.net.to(device.torch_device)
        reader = Reader(model)
        self._tokenizer = reader.tokenizer
        self._answers = bool(getattr(self._net.config, 'is_encoder_decoder', False))
        positions = longest_text(self._net) or getattr(self._net.config, 'max_position_embeddings', None)
        self._room: int | None = positions if positions is not None else reader.max_length
        for _ in self.write(Wish('a', 0.0, 2, 0)):  # a warm-up: a first call is slower than the others
            pass

    def write(self, wish: Wish) -> Iterator[Completion]:
        """Writes, and yields what there is whenever there is more.

        Args:
            wish: What is asked.

        Yields:
            What it has written so far; the last one is ``done``.
        """
        ids, tokens, notes = self._inputs(wish)
        run = _Run(self._device.clock, self._tokenizer)
        thread = threading.Thread(target=self._generate, args=(wish, ids, tokens, run), daemon=True)
        thread.start()
        text = ''
        try:
            for piece in run.streamer:
                text += piece
                yield Completion(self._of, text, len(run.times), run.first, run.later, notes=notes)
        finally:
            run.cancelled = True
        thread.join()
        if run.error:
            yield Completion(self._of, error=run.error)
            return
        yield Completion(self._of, run.text, run.tokens, run.first, run.later, True, [*notes, *run.notes])

    def _inputs(self, wish: Wish) -> tuple[torch.Tensor, int, list[str]]:
        """The tokens of the prompt ``(1, S)``, how many may follow, and what was cut."""
        before: list[int] = []
        if self._answers:
            ids = self._tokenizer(wish.prompt, verbose=False)['input_ids']
        else:  # what ends a text would end it here
            before, _ = frame_of(self._tokenizer)
            ids = self._tokenizer(wish.prompt, add_special_tokens=False, verbose=False)['input_ids']
        tokens, notes, size = wish.tokens, [], len(before) + len(ids)
        if self._room is not None:
            # Half of the room, at least, is for what is new, if it is wanted.
            left = self._room - 1 if self._answers else max(self._room - size, self._room // 2)
            tokens = min(tokens, left)
            kept = self._room if self._answers else self._room - tokens
            if tokens < wish.tokens:
                notes.append(f'at most {tokens} new tokens: it takes {self._room} in all')
            if size > kept:
                notes.append(f'the prompt is cut to the last {kept - len(before)} of {len(ids)} tokens')
                ids = ids[len(before) - kept :]
        return torch.tensor([[*before, *ids]], device=self._device.torch_device), tokens, notes

    def _generate(self, wish: Wish, ids: torch.Tensor, tokens: int, run: _Run) -> None:
        settings: dict[str, Any] = {'max_new_tokens': tokens, 'pad_token_id': self._tokenizer.pad_token_id}
        if wish.temperature:
            settings |= {'do_sample': True, 'temperature': wish.temperature, 'top_k': 0, 'top_p': 1.0}
        ends = getattr(self._net.generation_config, 'stop_strings', None)
        if ends:
            settings['stop_strings'] = ends
        try:
            with _ONE_AT_A_TIME, torch.inference_mode(), torch.random.fork_rng():
                torch.manual_seed(wish.seed)
                run.start()
                # How the model's own generation_config samples gives way: all models write by the same rules.
                found = self._net.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    **settings_of_texts(self._net, stop_tokens(self._net, self._tokenizer), **settings),
                    tokenizer=self._tokenizer,
                    streamer=run.streamer,
                    stopping_criteria=[run],
                )
                run.finish(found[0, 1 if self._answers else ids.shape[1] :])
        except Exception as error:  # models raise errors of any type; the others write all the same
            run.error = reason(error)
        finally:
            run.streamer.end()


class _Run:
    """One text that is being written: its time, and whether anybody still reads it. It is a stopping criterion."""

    def __init__(self, clock: Callable[[], float], tokenizer: Any) -> None:
        transformers = require_transformers('text generation')
        self._clock, self._tokenizer = clock, tokenizer
        self.streamer: Any = transformers.TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.times: list[float] = []
        self.cancelled = False
        self.error = ''
        self.text, self.tokens = '', 0
        self.notes: list[str] = []
        self._began = 0.0

    def start(self) -> None:
        """Starts the clock."""
        self._began = self._clock()

    def __call__(self, ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Takes the time after a token, and says whether to stop."""
        self.times.append(self._clock())
        late = self.times[-1] - self._began > MOST_SECONDS
        if late:
            self.notes = [f'stopped after {MOST_SECONDS:.0f} s']
        return torch.full((len(ids),), late or self.cancelled, device=ids.device, dtype=torch.bool)

    def finish(self, ids: torch.Tensor) -> None:
        """Reads the new tokens ``(S,)``."""
        self.text = self._tokenizer.decode(ids, skip_special_tokens=True)
        self.tokens = len(ids)

    @property
    def first(self) -> float | None:
        """Seconds until the first token."""
        return self.times[0] - self._began if self.times else None

    @property
    def later(self) -> float | None:
        """Seconds for each of the tokens after it."""
        return (self.times[-1] - self.times[0]) / (len(self.times) - 1) if len(self.times) > 1 else None
