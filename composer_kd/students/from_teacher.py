"""A student cut out of its teacher: some of the layers, and all else, copied."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from composer.models import HuggingFaceModel

from composer_kd.errors import ConfigError, nearest
from composer_kd.students.architectures import stacks_of
from composer_kd.students.depth import cut_layers
from composer_kd.students.importance import block_influence
from composer_kd.students.layer_choice import LayerChoice, check_number, chosen_layers, most_important
from composer_kd.students.measuring import Batches
from composer_kd.students.state_dict import EXTRAS
from composer_kd.students.suitable import suitable
from composer_kd.students.width import Widths, cut_width

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ['student_from_teacher']

log = logging.getLogger(__name__)

Source = TypeVar('Source')
"""What a student can be cut out of, and is."""


def student_from_teacher(
    teacher: Source,
    layers: LayerChoice | Mapping[str, LayerChoice] | None = None,
    num_layers: int | Mapping[str, int] | None = None,
    *,
    num_attention_heads: int | None = None,
    intermediate_size: int | None = None,
    hidden_size: int | None = None,
    data: Batches | None = None,
) -> Source:
    """Cuts a student out of a transformer: some of the layers, with the same embeddings, pooler, head and settings.

    The student is a model of the same class, built from a config of its own that is derived from the teacher's, and
    every weight is copied: it shares no memory with the teacher, and ``save_pretrained`` and ``from_pretrained`` give
    it back as it is. Dtype, device, mode and tied weights are those of the teacher; gradient checkpointing is off. What
    was kept is logged, and is in ``student.config.cut_from``, which is saved: the teacher's name and the indices of its
    layers, **counted from 0**, for ``L`` layers of the teacher and ``n`` of the student:

    * ``'bottom'``: the first ones, next to the input: ``0 ... n - 1``.
    * ``'top'``: the last ones, next to the output: ``L - n ... L - 1``.
    * ``'even'``: all with an even index, ``0, 2, 4, ...``; the first layer is one of them.
    * ``'odd'``: all with an odd index, ``1, 3, 5, ...``; the last layer is one of them if ``L`` is even.
    * ``'spaced'``: ``n`` evenly spaced ones, with the first and the last: ``i (L - 1) / (n - 1)`` for
      ``i = 0 ... n - 1``, rounded, halves up (DistilBERT's, https://arxiv.org/abs/1910.01108); for ``n = 1`` the first.
    * ``'importance'``: the ``n`` that change their input most on ``data``: the mean over all valid positions of
      ``1 - cos(x, layer(x))`` (ShortGPT's block influence, https://arxiv.org/abs/2403.03853, eq. 1).
    * a list of indices, ascending.

    Encoder-decoder models have two stacks: a strategy and a number are meant for each of them, or are given for each by
    name, such as ``num_layers={'decoder': 2}``; a stack that is not named keeps its layers.

    Args:
        teacher: A model of transformers: BERT, RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, MPNet, ELECTRA, ViT, DeiT,
            BEiT, GPT-2, GPT-NeoX, Llama, Mistral, Qwen2, Qwen3, T5 or mT5, with any head; or Composer's
            ``HuggingFaceModel`` around one.
        layers: Which layers are kept: a strategy, or indices; None: ``'spaced'`` if ``num_layers`` is given, else all.
        num_layers: How many layers are kept; needed by ``'bottom'``, ``'top'``, ``'spaced'`` and ``'importance'``.
        num_attention_heads: How many attention heads each layer keeps: those that add most to its output on ``data``,
            the mean over all valid positions of ``||W_h a_h||``. Heads keep their size. MPNet, GPT-NeoX, and BEiT with
            relative positions, keep as many as ``hidden_size`` says. Where several heads of queries share one of keys
            and values, as many of these are kept as can be with an equal share. Of BERT and the like, ViT, DeiT,
            BEiT, DistilBERT and GPT-2 ``config.pruned_heads`` says which are left out.
        intermediate_size: How many neurons the feed-forward part of each layer keeps: those that add most to its output
            on ``data``, the mean over all valid positions of ``|a_j| ||W_j||``.
        hidden_size: How many dimensions the hidden states keep, the same everywhere: those in which most comes out of
            the norms on ``data``. Norms are corrected for their other statistics. Where a head has
            ``hidden_size / num_attention_heads`` dimensions, this is a multiple of its size, which stays, and as many
            heads are kept: all but Llama, Mistral, Qwen2, Qwen3, T5 and mT5.
        data: Batches for ``'importance'`` and the three sizes: mappings of tensors as the teacher takes them, such as a
            ``DataLoader``; it is read several times. Positions that ``attention_mask`` leaves out do not count. The
            teacher runs in evaluation mode without gradients, and is left as it was.

    Returns:
        The student, of the type of ``teacher``. Of a ``HuggingFaceModel`` all else is copied too (the metrics, reset,
        ``use_logits`` and ``shift_labels``); the tokenizer is the same.

    Raises:
        ConfigError: If the architecture is not supported, there are not as many layers, heads or neurons, ``data`` is
            missing or is not needed, or the teacher is quantised, sharded, has adapters, or is not as its config says.

    Example:
        >>> from transformers import BertConfig, BertForSequenceClassification
        >>> sizes = {'hidden_size': 16, 'num_attention_heads': 2, 'intermediate_size': 32, 'vocab_size': 50}
        >>> teacher = BertForSequenceClassification(BertConfig(num_hidden_layers=12, **sizes))
        >>> student = student_from_teacher(teacher, 'odd', 6)
        >>> student.config.num_hidden_layers, student.config.cut_from['layers']
        (6, [1, 3, 5, 7, 9, 11])
    """
    if isinstance(teacher, HuggingFaceModel):
        inner = student_from_teacher(
            teacher.model,
            layers,
            num_layers,
            num_attention_heads=num_attention_heads,
            intermediate_size=intermediate_size,
            hidden_size=hidden_size,
            data=data,
        )
        return _wrapped_alike(teacher, inner)
    model = suitable(teacher)
    widths = Widths(num_attention_heads, intermediate_size, hidden_size)
    _check_data(layers, widths, data)
    kept = _kept(model, layers, num_layers, data, may_keep_all=bool(widths.given()))
    student = cut_layers(model, kept)
    if widths.given():
        assert data is not None
        student = cut_width(student, widths, data)
    _record(student, model, kept)
    return student


def _kept(
    model: PreTrainedModel,
    layers: LayerChoice | Mapping[str, LayerChoice] | None,
    num_layers: int | Mapping[str, int] | None,
    data: Batches | None,
    may_keep_all: bool,
) -> dict[str, list[int]]:
    """The indices of the layers of each stack."""
    depths = {name: getattr(model.config, stack.length) for name, (stack, _) in stacks_of(model).items()}
    choices: dict[str, LayerChoice | None] = _of_each_stack('layers', layers, depths)
    numbers: dict[str, int | None] = _of_each_stack('num_layers', num_layers, depths)
    if not may_keep_all and not any(one is not None for one in (*choices.values(), *numbers.values())):
        raise ConfigError(
            "nothing is to be left out: give layers, such as 'odd' or [0, 3, 5], num_layers, intermediate_size, "
            'num_attention_heads or hidden_size'
        )
    influence: dict[str, list[float]] = {}
    if 'importance' in [one for one in choices.values() if isinstance(one, str)]:
        for name in depths:  # before the teacher runs
            if choices[name] == 'importance':
                check_number(numbers[name], depths[name], _whose(name, depths))
        assert data is not None
        influence = block_influence(model, data)
    kept: dict[str, list[int]] = {}
    for name, depth in depths.items():
        choice, number = choices[name], numbers[name]
        if choice is None and number is None:
            kept[name] = list(range(depth))
        elif choice == 'importance':
            assert number is not None
            kept[name] = most_important(influence[name], number)
        else:
            kept[name] = chosen_layers('spaced' if choice is None else choice, depth, number, _whose(name, depths))
    return kept


def _of_each_stack(key: str, value: Any, stacks: Mapping[str, Any]) -> dict[str, Any]:
    """What was given for each stack: the same for all, or by name."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(stacks, value)
    for name in value:
        if name not in stacks:
            raise ConfigError(f'{key}: the teacher has no stack {name!r}{nearest(str(name), stacks)}')
    return {name: value.get(name) for name in stacks}


def _whose(name: str, stacks: Mapping[str, Any]) -> str:
    return 'the teacher' if len(stacks) == 1 else f"the teacher's {name}"


def _check_data(layers: Any, widths: Widths, data: Batches | None) -> None:
    choices = list(layers.values()) if isinstance(layers, Mapping) else [layers]
    by_importance = 'importance' in [one for one in choices if isinstance(one, str)]
    needs = ["layers='importance'"] * by_importance + widths.given()
    if needs and data is None:
        raise ConfigError(f'{needs[0]} needs data: batches on which the teacher is measured, such as a DataLoader')
    if data is not None and not needs:
        raise ConfigError(
            "data is read for layers='importance', num_attention_heads, intermediate_size and hidden_size alone"
        )


def _record(student: PreTrainedModel, teacher: PreTrainedModel, kept: Mapping[str, list[int]]) -> None:
    """Says in the student's config what it was cut from; its name is its own."""
    indices = next(iter(kept.values())) if len(kept) == 1 else dict(kept)
    name = teacher.config.name_or_path
    student.config.cut_from = {'teacher': name or type(teacher).__name__, 'layers': indices}
    student.config.name_or_path = student.name_or_path = ''
    depths = {stack: getattr(teacher.config, one.length) for stack, (one, _) in stacks_of(teacher).items()}
    for stack, layers in kept.items():
        log.info('layers of %s, counted from 0: %s of %d (%s)', _whose(stack, depths), layers, depths[stack], name)


def _wrapped_alike(teacher: HuggingFaceModel, inner: PreTrainedModel) -> Any:
    """A copy of a wrapper around another model."""
    same = {id(teacher.tokenizer): teacher.tokenizer}
    left_out = getattr(teacher, EXTRAS, None)
    memo = {**same, id(teacher.model): inner, id(teacher.config): inner.config, id(left_out): None}
    student = copy.deepcopy(teacher, memo)
    if left_out is not None:
        delattr(student, EXTRAS)
    student.logger = None
    student.labels = None
    for metrics in (student.train_metrics, student.val_metrics):
        for metric in (metrics or {}).values():
            metric.reset()
    return student
