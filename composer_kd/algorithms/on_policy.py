"""Batches of the student's own text, in the place of those of the data."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from composer.core import State, get_precision_context
from composer.loggers import Logger
from composer.utils import dist
from torch import Tensor, nn

from composer_kd.algorithms.conflicts import refuse_training_metrics
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.prompts import decoded, extended, padded, prompts_of, sources_of
from composer_kd.data.counter_random import sample_seeds, uniforms
from composer_kd.errors import ConfigError
from composer_kd.features.calling import unwrapped
from composer_kd.features.generation import generates, inverse_transform, sample_tokens, stop_tokens
from composer_kd.features.modes import evaluating
from composer_kd.pretrained import vocabulary_size
from composer_kd.teachers import Teacher, module_of
from composer_kd.teachers.student_copy import bare

__all__ = ['OnPolicy']

_SALT = 2_306_13649  # other draws of the run, such as masks of texts, are of other keys
_KEY = 'on_policy'


class OnPolicy:
    r"""Which batches are the student's own text, and how it is sampled: generalized knowledge distillation (GKD).

    Agarwal et al., *On-Policy Distillation of Language Models* (arXiv 2306.13649), equation 4 and algorithm 1:

    .. math:: (1 - \lambda) E_{(x, y)} D(p_T \| p_S)(y | x) + \lambda E_x E_{y \sim p_S(\cdot | x)} D(p_T \| p_S)(y | x)

    With probability ``fraction``, :math:`\lambda`, a batch keeps its prompts :math:`x` alone, and the student continues
    them. The teachers answer for the new text, and the losses compare its tokens; no gradient goes through the
    sampling. The model's own loss has no weight in such a batch, whose text is nobody's target, and is not logged.
    Metrics of training batches, which would take its tokens for the right ones, are refused: ``eval_metrics`` of
    ``HuggingFaceModel`` are for evaluation alone.

    The prompt is what comes before the first token with a label: labels are -100 in it, as for instructions. For texts
    without such a part, ``prompt_length`` says it. An encoder-decoder's prompt is the input of its encoder.

    The student generates in eval mode, without dropout, in the run's precision. How its own ``generation_config``
    samples (``temperature``, ``top_p``, ``min_p``, penalties, beams) has no effect; the tokens that it forbids or
    forces do (``suppress_tokens``, ``begin_suppress_tokens``, ``bad_words_ids``, ``forced_bos_token_id``,
    ``forced_eos_token_id``). Each draw is a function of the run's seed, the number of the batch and the place of the
    sample in it: the same after a resume, in any microbatches, and on any number of ranks that take turns in taking
    samples, as samplers do. Global random states are left alone.

    Args:
        fraction: The probability that a batch is the student's own, from 0 to 1.
        max_new_tokens: The largest number of tokens that the student adds to a prompt. A text ends before that with one
            of the student's tokens for the end, which is compared too, or where the positions of a model end.
        temperature: The temperature of the sampling; the paper's is 1.
        top_k: Only the ``top_k`` most probable tokens are sampled; ``None`` for all.
        prompt_length: The number of tokens of each prompt, whatever the labels say.

    Raises:
        ConfigError: If a value is out of range.

    Example:
        >>> from composer_kd import Distillation
        >>> from composer_kd.losses import GeneralizedJSD
        >>> algorithm = Distillation(torch.nn.Linear(2, 3), GeneralizedJSD(0.5), on_policy=OnPolicy(0.5, 64, top_k=50))
        >>> algorithm.on_policy
        OnPolicy(fraction=0.5, max_new_tokens=64, temperature=1.0, top_k=50, prompt_length=None)
    """

    def __init__(
        self,
        fraction: float,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        prompt_length: int | None = None,
    ) -> None:
        self.fraction = _number('fraction', fraction, 'from 0 to 1', lambda value: 0 <= value <= 1)
        self.temperature = _number('temperature', temperature, 'above 0', lambda value: value > 0)
        self.max_new_tokens = _count('max_new_tokens', max_new_tokens)
        self.top_k = None if top_k is None else _count('top_k', top_k)
        self.prompt_length = None if prompt_length is None else _count('prompt_length', prompt_length)
        self._model: Any = None
        self._form = BatchFormat()
        self._vocabulary: int | None = None
        self._positions: int | None = None
        self._current = -1  # the number of the last batch of the student's own
        self._batches = self._own = 0

    # Before training --------------------------------------------------------------------------------------------------

    def prepare(self, state: State, form: BatchFormat, teachers: Sequence[Teacher], vocabulary: int | None) -> None:
        """Begins a run.

        Args:
            state: The state of the run.
            form: The format of its batches.
            teachers: Those that answer for the student's text.
            vocabulary: The number of tokens, if heads are cut to it.

        Raises:
            ConfigError: If the student makes no text, or a teacher cannot answer for it.
        """
        net = unwrapped(bare(state.model))
        if not generates(net) or not (form.shift_labels or form.encoder_decoder):
            raise ConfigError(
                f'on_policy: {type(net).__name__} makes no text. Expected a language model of transformers that '
                'generates: a causal one (hf_causal_lm), or an encoder-decoder (hf_seq2seq)'
            )
        if state.fsdp_config is not None or state.tp_config is not None:
            raise ConfigError(
                'on_policy: the student generates between the steps, for which the parts of a sharded student (FSDP) '
                'are not gathered. Train without parallelism_config, or with fraction: 0.'
            )
        if getattr(getattr(net, 'generation_config', None), 'stop_strings', None):
            raise ConfigError(
                'on_policy: generation_config.stop_strings of the student ends texts by strings, and here tokens end '
                'them. Set it to None, and give eos_token_id the tokens.'
            )
        if self.fraction > 0:
            refuse_training_metrics(state, 'on_policy', 'would take texts of the student for right')
        for teacher in teachers:
            if getattr(teacher, 'own_tokens', False):
                raise ConfigError(
                    f'on_policy: the teacher {teacher.name!r} reads the texts of the data in tokens of its own, not '
                    'those of the student. Take a teacher with the tokenizer of the student.'
                )
            if getattr(teacher, 'by_number', False):
                raise ConfigError(
                    f'on_policy: the teacher {teacher.name!r} has stored answers, which are for the texts of the data '
                    'and not for those of the student. Give the model itself as the teacher.'
                )
            if getattr(teacher, 'of_labels', False):
                raise ConfigError(
                    f'on_policy: the answers of the teacher {teacher.name!r} are made of the labels, and texts of the '
                    'student have its own tokens there, right or wrong. Give a model as the teacher.'
                )
        self._model, self._form = state.model, form
        modules = [module for module in map(module_of, teachers) if module is not None]
        said = [getattr(one, 'config', None) for one in (net, *map(unwrapped, modules))]
        limits = [getattr(config, 'max_position_embeddings', None) for config in said]
        self._positions = min((most for most in limits if isinstance(most, int)), default=None)
        tokenizer = getattr(bare(state.model), 'tokenizer', None)
        self._vocabulary = vocabulary if vocabulary is not None or tokenizer is None else vocabulary_size(tokenizer)
        self._current, self._batches, self._own = -1, 0, 0

    def refuse_losses(self, of_labels: Sequence[str], of_numbers: Sequence[str]) -> None:
        """Refuses losses that ask for what a text of the student's does not have.

        Args:
            of_labels: The names of matches whose loss takes the labels.
            of_numbers: The names of matches whose loss keeps something under a sample's number.

        Raises:
            ConfigError: If there are such matches.
        """
        for names, what in ((of_labels, 'the right classes'), (of_numbers, 'samples of one content')):
            if names:
                raise ConfigError(
                    f'on_policy: the loss of {names[0]!r} needs {what}, and the texts of the student have none. Take '
                    'one of both distributions alone: GeneralizedJSD, ReverseKL, KLDivergence, SkewedKL.'
                )

    def check(self, batch: Any) -> None:
        """Checks that prompts can be found in a batch, as models take it.

        Raises:
            ConfigError: If they cannot.
        """
        if self._form.encoder_decoder:
            if self.prompt_length is not None:
                raise ConfigError(
                    'on_policy: the prompt of an encoder-decoder is the input of its encoder; leave out prompt_length'
                )
            if not isinstance(batch, Mapping):
                raise ConfigError('on_policy: expected batches that are mappings, as models of transformers take them')
            return
        prompts, _ = prompts_of(batch, self._form, self.prompt_length)
        self._room(prompts.shape[1])

    def trial(self, state: State, batch: Any) -> None:
        """Lets the student make two tokens for a batch.

        Args:
            state: A state with the student and the device.
            batch: A batch as models take it.
        """
        self.check(batch)
        self._made(state, batch, uniforms(sample_seeds(0, 0, range(_size(batch))), min(self.max_new_tokens, 2)))

    # A batch ----------------------------------------------------------------------------------------------------------

    def is_own(self, state: State) -> bool:
        """Whether the present batch was replaced by the student's own text."""
        return self._current == state.timestamp.batch.value

    def start_batch(self, state: State, logger: Logger) -> None:
        """At ``BATCH_START``: replaces the batch, if it is drawn to be the student's own.

        Args:
            state: The state of the run.
            logger: Gets ``on_policy/fraction``, the part of all batches so far in the window that were the student's
                own; and ``on_policy/new_tokens``, the mean number of new tokens per text over all ranks.
        """
        number = state.timestamp.batch.value
        self._batches += 1
        found = {}
        if self._draws(state, [0], 1).item() < self.fraction:
            self._current, self._own = number, self._own + 1
            batch, _ = self._form.split(state.batch)
            self.check(batch)
            places = [1 + dist.get_global_rank() + dist.get_world_size() * place for place in range(_size(batch))]
            made, count = self._made(state, batch, self._draws(state, places, self.max_new_tokens))
            state.batch = _with_own(state.batch, made)
            both = torch.stack([count.float(), torch.tensor(float(len(places)), device=count.device)])
            if dist.get_world_size() > 1:
                dist.all_reduce(both, reduce_operation='SUM')
            found[f'{_KEY}/new_tokens'] = (both[0] / both[1]).item()
        logger.log_metrics({f'{_KEY}/fraction': self._own / self._batches, **found})

    @staticmethod
    def states(every: Sequence[OnPolicy | None]) -> dict[str, Any]:
        """The counts of all algorithms of a class, each of which saves them: Composer restores all from the last.

        Args:
            every: Those of the algorithms in order, ``None`` for one without.
        """
        counts = [None if one is None else [one._batches, one._own] for one in every]
        return {_KEY: counts} if any(counts) else {}

    @staticmethod
    def restore(every: Sequence[OnPolicy | None], state: Mapping[str, Any]) -> None:
        """Goes on counting.

        Args:
            every: Those of the algorithms in order, ``None`` for one without.
            state: A state with what :meth:`states` returned, or without.
        """
        for one, counts in zip(every, state.get(_KEY, ())):
            if one is not None and counts is not None:
                one._batches, one._own = counts

    def _draws(self, state: State, places: list[int], count: int) -> Any:
        seeds = sample_seeds(state.rank_zero_seed + _SALT, state.timestamp.batch.value, places)
        return uniforms(seeds, count)

    def _made(self, state: State, batch: Mapping[str, Any], drawn: Any) -> tuple[dict[str, Any], Tensor]:
        """The batch with the student's own text, and the number of its new tokens."""
        batch = state.device.batch_to_device(dict(batch))
        net, tokenizer = unwrapped(bare(self._model)), getattr(bare(self._model), 'tokenizer', None)
        pad = next((n for n in _padding(net, tokenizer) if isinstance(n, int) and n >= 0), 0)
        uniform = state.device.tensor_to_device(torch.from_numpy(drawn))
        if self._form.encoder_decoder:
            inputs = _accepted(net, sources_of(batch))
            uniform = uniform[:, : self._room(1)]  # after the token that the decoder starts with
        else:
            prompts, mask = prompts_of(batch, self._form, self.prompt_length)
            inputs = {'input_ids': prompts, 'attention_mask': mask.long()}
            uniform = uniform[:, : self._room(prompts.shape[1])]
        choose = partial(inverse_transform, temperature=self.temperature, top_k=self.top_k, vocabulary=self._vocabulary)
        rows = torch.arange(len(uniform), device=uniform.device)
        parts = []
        precision = get_precision_context(state.precision, state.precision_config)
        with torch.no_grad(), evaluating(net.modules()), precision:
            for some in rows.split(_whole(state.device_train_microbatch_size, len(rows))):
                part = {name: value[some] for name, value in inputs.items()}
                parts.append(sample_tokens(net, part, uniform[some], stop_tokens(net, tokenizer), pad, choose))
        new, made = padded(parts)
        if self._form.encoder_decoder:
            return decoded(batch, new, made), made.sum()
        return extended(batch, prompts, mask, new, made, pad), made.sum()

    def _room(self, width: int) -> int:
        """How many tokens may follow prompts of a width."""
        most = self._positions
        if most is None or width + self.max_new_tokens <= most:
            return self.max_new_tokens
        if width >= most:
            raise ConfigError(
                f'on_policy: a prompt of {width} tokens leaves none of the {most} positions of the models. Give '
                'shorter ones: max_length of the data, or prompt_length of on_policy.'
            )
        self._form.warn_once(
            f'on_policy: a prompt of {width} tokens and max_new_tokens={self.max_new_tokens} are more than the '
            f'{most} positions of the models; texts end there.',
            'positions',
        )
        return most - width

    def __repr__(self) -> str:
        return (
            f'OnPolicy(fraction={self.fraction}, max_new_tokens={self.max_new_tokens}, temperature={self.temperature}, '
            f'top_k={self.top_k}, prompt_length={self.prompt_length})'
        )


def _with_own(whole: Mapping[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """The new batch with what only the run knows of the samples, such as the column of a route."""
    kept = {name: value for name, value in whole.items() if name not in made and not name.startswith('decoder_')}
    return {**kept, **made}


def _accepted(net: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    base: Any = getattr(net, 'get_base_model', None)  # an adapter of PEFT hands its keywords on
    names = inspect.signature((base() if callable(base) else net).forward).parameters
    return {name: value for name, value in inputs.items() if name in names and isinstance(value, Tensor)}


def _padding(net: Any, tokenizer: Any) -> list[Any]:
    said = getattr(net, 'config', None)
    return [getattr(tokenizer, 'pad_token_id', None), getattr(said, 'pad_token_id', None), *stop_tokens(net, tokenizer)]


def _size(batch: Mapping[str, Any]) -> int:
    return next(len(value) for value in batch.values() if isinstance(value, Tensor) and value.ndim)


def _whole(size: Any, most: int) -> int:
    return max(1, int(size)) if isinstance(size, (int, float)) else most


def _number(name: str, value: Any, expected: str, fits: Any) -> float:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not is_number or not fits(value):
        raise ConfigError(f'{name}: expected a number {expected}, got {value!r}')
    return float(value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f'{name}: expected a whole number of 1 or more, got {value!r}')
    return value
