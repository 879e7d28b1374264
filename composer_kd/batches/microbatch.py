"""Reads from a microbatch, once, what the losses of a run need."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

from composer.core import State
from torch import Tensor

from composer_kd.batches.contents import IGNORE, with_labels
from composer_kd.batches.counts import BatchCount
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import Layout, layout_of
from composer_kd.batches.masks import Valid, aligned_labels, all_valid, labelled, source_of, tokens_of, valid_of
from composer_kd.batches.parts import take

__all__ = ['BatchFormat', 'Microbatch']


@dataclass
class Microbatch:
    """The contents of a microbatch that the losses of a run need.

    Attributes:
        batch: The microbatch as models take it.
        number: The number of the batch.
        valid: The valid positions of logits; ``None`` if all are valid.
        tokens: The valid tokens of hidden states; ``None`` if all are valid.
        share: The factor for means over ``valid``, from :meth:`.Valid.share`; ``None`` if no correction is needed.
        token_share: The factor for means over ``tokens``, likewise.
        index: ``(B,)`` The samples' numbers in the data set; ``None`` if unknown.
        form: The format of the batches.
        task: The positions that the model's own loss averages over; ``None`` if all, or if that is unknown.
        task_share: The factor for means over ``task``.
        source: The valid tokens of an encoder-decoder's encoder; ``None`` if all are valid, and for other models.
        source_share: The factor for means over ``source``.
        count: The counts of the whole batch.
    """

    batch: Any
    number: int
    valid: Valid | None = None
    tokens: Valid | None = None
    share: Tensor | None = None
    token_share: Tensor | None = None
    index: Tensor | None = None
    form: BatchFormat = field(default_factory=BatchFormat)
    task: Valid | None = None
    task_share: Tensor | None = None
    source: Valid | None = None
    source_share: Tensor | None = None
    count: BatchCount | None = field(default=None, repr=False)

    @classmethod
    def read(
        cls,
        state: State,
        form: BatchFormat,
        count: BatchCount,
        with_tokens: bool = False,
        labels: Tensor | None = None,
    ) -> Microbatch:
        """Reads the microbatch of a run.

        Args:
            state: The state of the run, at any event of a microbatch.
            form: The format of its batches.
            count: The counts of the whole batch, if they were needed.
            with_tokens: Whether features of tokens are compared.
            labels: The labels of before, if the model's own loss got others in their place (smoothed ones). How that
                loss is a mean is not known then.

        Returns:
            The microbatch.
        """
        batch, index = form.split(state.batch)
        batch = batch if labels is None else with_labels(batch, lambda _: labels)
        micro = cls(batch, state.timestamp.batch.value, index=index, form=form, count=count)
        count.forget(micro.number)
        # If the whole batch is valid, so is every part of it.
        if count.answers is not None or count.task is not None or not all_valid(batch, form):
            micro.valid, micro.task = valid_of(batch, form), labelled(batch, form)
            micro.share, micro.task_share = _share(micro.valid, count.answers), _share(micro.task, count.task)
        if labels is not None:
            if count.task is not None:
                _warn_of_smoothed(labels, form)
            micro.task = micro.task_share = None
        if with_tokens:
            micro.tokens, micro.source = tokens_of(batch, form), source_of(batch, form)
            micro.token_share = _share(micro.tokens, count.tokens)
            micro.source_share = _share(micro.source, count.source)
        return micro

    def part(self, rows: Tensor, size: int) -> Microbatch:
        """Some of its samples, of a run in which a part of each batch is distilled.

        Args:
            rows: ``(N,)`` The samples' positions in the microbatch.
            size: The number of samples in the microbatch.

        Returns:
            Their microbatch. Its factors correct for the valid positions per sample that is distilled; the share of
            the samples remains for the caller.
        """
        batch, _ = take(self.batch, rows, size)
        index = None if self.index is None else self.index[rows.to(self.index.device)]
        count = self.count or BatchCount()
        one = Microbatch(batch, self.number, index=index, form=self.form, count=self.count)
        if self.valid is not None:
            one.valid = valid_of(batch, self.form)
            one.share = _share(one.valid, count.answers)
        one.tokens = None if self.tokens is None else tokens_of(batch, self.form)
        one.source = None if self.source is None else source_of(batch, self.form)
        one.token_share, one.source_share = _share(one.tokens, count.tokens), _share(one.source, count.source)
        return one

    @functools.cached_property
    def labels(self) -> Tensor | None:
        """The class label of each sample or position, integers; ``None`` if there are none."""
        return aligned_labels(self.batch, self.form)

    def layout(self, logits: Tensor, said: int = -1) -> Layout:
        """Where the classes of logits are; ``said`` is the dimension that a loss says, -1 to find it."""
        return layout_of(logits, self.batch, self.form, said, self.valid)

    def side(self, layer: str) -> tuple[Valid | None, Tensor | None]:
        """The valid tokens of a layer and their factor: those of the encoder for a layer that is in one."""
        if self.form.encoder_decoder and _is_in_encoder(layer):
            return self.source, self.source_share
        return self.tokens, self.token_share

    def keys(self, layer: str) -> Valid | None:
        """The valid keys of a cross-attention, of which :meth:`side` gives the queries; ``None`` for other layers."""
        crosses = any(word in layer.lower() for word in _CROSS)
        return self.source if self.form.encoder_decoder and crosses else None

    def tokens_at(self, layer: str) -> Tensor | None:
        """The mask of the valid tokens ``(B, S)`` of a layer; ``None`` if all are valid."""
        valid, _ = self.side(layer)
        return None if valid is None else valid.mask


_CROSS = ('cross_attention', 'crossattention', 'encoder_attn', 'encdecattention')


def _share(valid: Valid | None, per_sample: Tensor | None) -> Tensor | None:
    return None if valid is None or per_sample is None else valid.share(per_sample)


def _warn_of_smoothed(labels: Tensor, form: BatchFormat) -> None:
    """Warns once of labels that are missing and were smoothed; on an accelerator it is not looked for."""
    if labels.device.type == 'cpu' and not labels.is_floating_point() and (labels == IGNORE).any():
        form.warn_once(
            f'LabelSmoothing smooths the labels {IGNORE} too, and the own loss of the model is left as it is then: in '
            'several microbatches or ranks, it depends on how the batch is split. Use one microbatch, or a loss that '
            'smooths by itself in place of LabelSmoothing: torch.nn.CrossEntropyLoss(label_smoothing=0.1).',
            'smoothed labels',
        )


def _is_in_encoder(layer: str) -> bool:
    """Whether the first part of a layer's path that names a side names the encoder."""
    sides = [part for part in layer.replace('[', '.').split('.') if 'encoder' in part or 'decoder' in part]
    return bool(sides) and 'decoder' not in sides[0]
