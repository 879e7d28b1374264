"""Samples text from a language model of transformers, with random numbers of the caller's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = [
    'Stopwatch',
    'generates',
    'inverse_transform',
    'sample_tokens',
    'settings_of_texts',
    'stop_tokens',
    'write_greedily',
]

# What the generation config of a model says of the tokens that a text has, whoever chooses them.
_OF_TEXTS = (
    *('bos_token_id', 'pad_token_id', 'decoder_start_token_id', 'forced_bos_token_id', 'forced_eos_token_id'),
    *('suppress_tokens', 'begin_suppress_tokens', 'bad_words_ids'),
)


def generates(net: Any) -> bool:
    """Whether a model can be asked for text: it has transformers' ``generate``, and a head for it.

    Example:
        >>> generates(torch.nn.Linear(2, 3))
        False
    """
    can: Any = getattr(net, 'can_generate', None)
    return callable(getattr(net, 'generate', None)) and (not callable(can) or bool(can()))


def stop_tokens(net: Any, tokenizer: Any = None) -> list[int]:
    """The tokens that end a text: those of the model's generation config, and that of its tokenizer.

    Args:
        net: A model of transformers.
        tokenizer: Its tokenizer; ``None`` without one.
    """
    said = [getattr(one, 'eos_token_id', None) for one in (getattr(net, 'generation_config', None), tokenizer)]
    several = [number for one in said for number in (one if isinstance(one, (list, tuple)) else [one])]
    return sorted({number for number in several if isinstance(number, int)})


def inverse_transform(
    logits: Tensor, uniforms: Tensor, temperature: float = 1.0, top_k: int | None = None, vocabulary: int | None = None
) -> Tensor:
    """Samples one class for each row, by inversion of the distribution function at a given uniform number.

    Args:
        logits: ``(B, V)`` floats.
        uniforms: ``(B,)`` floats, at least 0 and below 1.
        temperature: The temperature of the softmax.
        top_k: Only the ``top_k`` most probable classes are taken; ``None`` for all.
        vocabulary: Only the first ``vocabulary`` classes are taken; ``None`` for all.

    Returns:
        ``(B,)`` The classes, int64.

    Example:
        >>> logits = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(4, 3)
        >>> inverse_transform(logits, torch.tensor([0.0, 0.49, 0.51, 0.99]))
        tensor([0, 0, 1, 2])
        >>> inverse_transform(logits, torch.tensor([0.0, 0.49, 0.51, 0.99]), top_k=1)
        tensor([0, 0, 0, 0])
    """
    logits = logits[:, :vocabulary].double() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        values, order = logits.topk(top_k)  # the most probable first; in any order the distribution is the same
    else:
        values, order = logits, None
    below = values.softmax(-1).cumsum(-1)
    whole = below[:, -1:]
    chosen = (below <= uniforms[:, None].to(below) * whole).sum(-1, keepdim=True)
    # Rounding may put the product at the whole: the last class with a probability is meant then.
    chosen = torch.minimum(chosen, (below < whole).sum(-1, keepdim=True))
    return (chosen if order is None else order.gather(1, chosen)).squeeze(1)


def settings_of_texts(net: Any, stops: list[int], **given: Any) -> dict[str, Any]:
    """The keywords of ``generate`` for texts that are written by given rules, one token at a time.

    Of the model's own generation config they have the special tokens, and the tokens that it forbids or forces; nothing
    of how it samples or searches, of penalties and lengths.

    Args:
        net: A model of transformers.
        stops: The tokens that end a text; empty for none.
        given: Settings of a ``GenerationConfig``. Without any, the most probable token is taken each time.
    """
    from transformers import GenerationConfig

    said = getattr(net, 'generation_config', None)
    known = {name: getattr(said, name, None) for name in _OF_TEXTS}
    return {
        'generation_config': GenerationConfig(**{**known, 'do_sample': False, 'num_beams': 1, **given}),
        'eos_token_id': stops or None,  # in the config, None would stand for the model's own
        **_own_settings_alone(net),
    }


def sample_tokens(
    net: Any,
    inputs: Mapping[str, Tensor],
    uniforms: Tensor,
    stops: list[int],
    pad: int,
    choose: Callable[[Tensor, Tensor], Tensor] = inverse_transform,
) -> tuple[Tensor, Tensor]:
    """Lets a language model continue prompts, by ``generate`` with a cache of keys and values.

    What the model's generation config says of sampling (temperature, penalties, beams) has no effect; its special
    tokens do, and those that it forbids or forces. No global random number is drawn.

    Args:
        net: A model of transformers, in eval mode.
        inputs: What ``generate`` takes: ``input_ids`` and ``attention_mask`` ``(B, S)``, of a decoder padded on the
            left.
        uniforms: ``(B, N)`` A uniform number for each sample and new token; as many tokens are made at most.
        stops: The tokens that end a text.
        pad: The number that stands after an end.
        choose: Takes the logits ``(B, V)`` of a position and its uniforms ``(B,)`` to tokens ``(B,)``.

    Returns:
        The new tokens ``(B, N')``, ``N' <= N``; and booleans ``(B, N')``, true up to the first end of a text, which is
        included.
    """
    from transformers import LogitsProcessorList

    drawn = _Drawn(uniforms, choose)
    made = net.generate(
        **inputs,
        **settings_of_texts(net, stops, max_new_tokens=uniforms.shape[1], pad_token_id=pad),
        logits_processor=LogitsProcessorList([drawn]),
    )
    new = made[:, drawn.start :]
    ends = torch.isin(new, torch.tensor(stops, device=new.device, dtype=new.dtype))
    return new, (ends.cumsum(1) - ends.long()) == 0


class Stopwatch:
    """A streamer of ``generate`` that notes the time of each new token.

    Args:
        clock: Returns the time in seconds; waits for the device first.

    Attributes:
        times: The time at which each new token of the batch was there.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.times: list[float] = []
        self._clock, self._has_prompt = clock, False

    def put(self, value: Any) -> None:
        """Called with the prompt, then with the tokens of each step."""
        if self._has_prompt:
            self.times.append(self._clock())
        self._has_prompt = True

    def end(self) -> None:
        """Called after the last token."""


def write_greedily(net: Any, inputs: Mapping[str, Tensor], new_tokens: int, stopwatch: Stopwatch) -> Tensor:
    """Lets a language model continue prompts by the most probable tokens, with a cache of keys and values.

    It writes all of them: no token ends a text, and what the model's generation config says of sampling has no effect.

    Args:
        net: A model of transformers, in eval mode.
        inputs: What ``generate`` takes: ``input_ids`` and ``attention_mask`` ``(B, S)``.
        new_tokens: The number of new tokens of each text.
        stopwatch: Notes the time of each.

    Returns:
        The texts ``(B, S + new_tokens)``; of an encoder-decoder those of the decoder, its first token included.
    """
    pad = getattr(getattr(net, 'generation_config', None), 'pad_token_id', None) or 0
    settings = settings_of_texts(net, [], max_new_tokens=new_tokens, pad_token_id=pad)
    found: Tensor = net.generate(**inputs, **settings, streamer=stopwatch)
    return found


class _Drawn:
    """A logits processor that leaves the chosen token alone, which ``generate`` then takes as the most probable."""

    def __init__(self, uniforms: Tensor, choose: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._uniforms, self._choose, self.start = uniforms, choose, -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.start < 0:  # a decoder beside an encoder starts with tokens of its own
            self.start = input_ids.shape[1]
        chosen = self._choose(scores, self._uniforms[:, input_ids.shape[1] - self.start])
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def _own_settings_alone(net: Any) -> dict[str, Any]:
    """The option by which newer versions are kept from filling in the model's own settings of sampling."""
    base: Any = getattr(net, 'get_base_model', None)  # an adapter of PEFT hands its keywords on
    generate = (base() if callable(base) else net).generate
    return {'use_model_defaults': False} if 'use_model_defaults' in inspect.signature(generate).parameters else {}
