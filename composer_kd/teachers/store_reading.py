"""Runs a teacher on batches, and takes from its outputs what a store holds."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from composer.core import Precision, State, get_precision_context
from composer.utils import get_device
from numpy.typing import NDArray
from torch import Tensor, nn

from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import Layout, layout_of
from composer_kd.batches.masks import source_of, token_mask, tokens_of
from composer_kd.batches.microbatch import Microbatch
from composer_kd.data.digest import digest
from composer_kd.errors import StoreError, TeacherError
from composer_kd.features.hooks import FeatureHooks
from composer_kd.losses._common import pooled
from composer_kd.stores import Feature, Format, Manifest
from composer_kd.teachers.base import Teacher, answered_logits, module_of
from composer_kd.teachers.fingerprint import teacher_fingerprint, weights_hash
from composer_kd.teachers.meanings import check_classes, check_tokens
from composer_kd.teachers.store_head import check_head, keep_head
from composer_kd.teachers.store_sections import inputs_of, labels_section, stored_mask
from composer_kd.teachers.vocabulary import cut, shared_vocabulary

__all__ = ['POOLED', 'WHOLE', 'TeacherReader', 'tokens_in']

WHOLE, POOLED = 'whole', 'pooled'
"""How the features of a layer are stored: as they are, or their mean over positions."""


@dataclass(frozen=True)
class _Said:
    """What a teacher said of a batch: logits, the input of its head, features by layer, and the batch on its device."""

    logits: Tensor
    hidden: Tensor | None
    features: dict[str, Tensor]
    batch: Any


class _Mean:
    """The mean of features over positions, which notes whether there were any."""

    reduces = False

    def __call__(self, features: Tensor, mask: Tensor | None = None) -> Tensor:
        found = pooled(features, mask)
        self.reduces = found.numel() < features.numel()
        return found


class TeacherReader:
    """Runs a teacher on batches of a build, in eval mode and without gradients.

    Args:
        teacher: The teacher.
        model: The student, which says how batches are read.
        features: The layers that are stored, as whole features or pooled.
        head: The path of the last layer, whose input is stored in place of logits; None for logits.
        positions: Which positions are compared.
        precision: The precision of the teacher; None for Composer's default.
        dtype: The floating dtype of stored features.
        route_column: The entry of a batch that says which teacher each sample has; None if there is none.
        vocabulary: The number of classes whose logits are stored; ``None`` for all, or those of the tokenizers where
            the heads differ.

    Raises:
        TeacherError: If the teacher has no module with such layers, or other classes than the model.
    """

    def __init__(
        self,
        teacher: Teacher,
        model: nn.Module,
        features: Mapping[str, str],
        head: str | None,
        positions: str,
        precision: str | None,
        dtype: str = 'float16',
        route_column: str | None = None,
        vocabulary: int | None = None,
    ) -> None:
        self._teacher, self._model, self._positions = teacher, model, positions
        self._dtype = dtype
        self._device = get_device(None)
        self._precision = Precision(precision or ('fp32' if self._device.name == 'cpu' else 'amp_fp16'))
        state = State(self._device.module_to_device(model), rank_zero_seed=0, run_name='store', device=self._device)
        check_tokens(model, teacher, vocabulary)
        check_classes(model, teacher)
        self._vocabulary = None if head is not None else shared_vocabulary(model, [teacher], vocabulary)
        teacher.prepare(state)
        self._form = BatchFormat.of(model, positions, route_column)
        module = module_of(teacher)
        if (features or head) and module is None:
            raise TeacherError(f'The teacher {teacher.name!r} has no module, so no layers whose features are stored')
        self._means = {path: _Mean() for path, how in features.items() if how == POOLED}
        keys: list[Any] = [(path, self._means.get(path)) for path in features]
        self._head_input = None if head is None else f'{head}:input'
        if self._head_input is not None:
            keys.append((self._head_input, None))
        self._hooks = FeatureHooks(module, keys, f'the teacher {teacher.name!r}') if keys and module else None

    def outline(self, batch: Any, form: Format) -> Manifest:
        """The manifest, as far as one batch shows it."""
        said = self._run(batch)
        layout = layout_of(said.logits, said.batch, self._form)
        per_token = len(layout.shape) > 1
        if layout.dim not in (None, said.logits.ndim - 1):
            raise TeacherError(
                f'The teacher {self._teacher.name!r} answers with maps {tuple(said.logits.shape)}, the classes in '
                f'dimension {layout.dim}: stores hold one prediction per sample or token. Take the live teacher.'
            )
        return Manifest(
            samples=1,
            views=1,
            classes=layout.classes,
            positions='tokens' if per_token else 'samples',
            shard_samples=1,
            format=form.settings(),
            features={path: self._feature(path, value, said, layout) for path, value in said.features.items()},
            teacher={
                **teacher_fingerprint(self._teacher),
                'precision': self._precision.value,
                **self._head_section(said),
            },
            labels=labels_section(self._model, self._positions),
        )

    def _feature(self, path: str, value: Tensor, said: _Said, layout: Layout) -> Feature:
        """How the features of a layer are stored: one record a token where they are whole and have tokens."""
        sample = Feature(tuple(value.shape[1:]), self._dtype, per='sample')
        if path in self._means:
            return replace(sample, pooled=self._means[path].reduces)
        mask = tokens_in(said.batch, self._form, path)
        per_token = len(layout.shape) > 1
        unmarked = per_token and mask is None and value.ndim == 3 and value.shape[:2] == layout.shape
        if unmarked or token_mask(value, mask) is not None:
            return Feature(tuple(value.shape[2:]), self._dtype, per='token')
        if per_token and value.ndim > 2:
            raise TeacherError(
                f'features: those of {path!r}, {tuple(value.shape)}, have no vector for each token, of which a sample '
                f"may have any number. Store their mean ({{{path!r}: 'pooled'}}), or take the live teacher."
            )
        return sample

    @property
    def _head(self) -> nn.Module | None:
        module = module_of(self._teacher)
        if self._head_input is None or module is None:
            return None
        (name,) = FeatureHooks(module, [(self._head_input, None)], 'the teacher').module_names().values()
        return module.get_submodule(name)

    def _head_section(self, said: _Said) -> dict[str, str | None]:
        head = self._head
        if head is None or said.hidden is None or self._head_input is None:
            return {}
        with torch.no_grad(), get_precision_context(self._precision):
            check_head(head, said.hidden, said.logits, self._head_input.removesuffix(':input'))
        return {'head': weights_hash(head)}

    def keep_head(self, folder: str | os.PathLike[str]) -> None:
        """Writes the last layer into the folder of the store, if hidden states are stored and it is linear."""
        if (head := self._head) is not None:
            keep_head(folder, head)

    def read(self, batch: Any, count: int, manifest: Manifest) -> dict[str, Any]:
        """What is written of a batch: the arguments of :meth:`.StoreWriter.add`."""
        said = self._run(batch)
        rows, lengths = layout_of(said.logits, said.batch, self._form).rows(said.logits), None
        if said.hidden is not None:
            if said.hidden.shape[:-1] != rows.shape[:-1]:
                raise StoreError(
                    f"head: its input {tuple(said.hidden.shape)} is not of the logits' {tuple(rows.shape)}"
                )
            rows = said.hidden
        if manifest.positions == 'tokens':
            mask = stored_mask(said.batch, self._form)
            mask = torch.ones(rows.shape[:-1], dtype=torch.bool, device=rows.device) if mask is None else mask
            if mask.shape != rows.shape[:-1]:
                raise StoreError(
                    f'The labels or mask {tuple(mask.shape)} are not of the positions {tuple(rows.shape[:-1])} of the '
                    "teacher's logits, so it cannot be known which to store."
                )
            lengths, rows = _counted(mask), _at(rows, mask)
        inputs, padding = inputs_of(said.batch)
        found = digest(inputs, padding)
        if len(found) != count:
            raise StoreError(
                f'A batch of {count} samples has inputs {tuple(inputs.shape)}: its first dimension is no sample'
            )
        features, tokens = self._flat(said, manifest)
        return {
            'logits': rows.float(),
            'features': features,
            'digests': found.cpu().numpy().view(np.uint16),
            'lengths': lengths,
            'tokens': tokens,
        }

    def _flat(self, said: _Said, manifest: Manifest) -> tuple[dict[str, Tensor], dict[str, NDArray[np.int64]]]:
        """Features as they are written, and the number of tokens of each sample where there is one for each."""
        features, tokens = {}, {}
        for path, value in said.features.items():
            if manifest.features[path].per == 'token':
                mask = tokens_in(said.batch, self._form, path)
                if value.ndim != 3 or (mask is not None and token_mask(value, mask) is None):
                    raise StoreError(f'features of {path}: {tuple(value.shape)} have no vector for each token')
                mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device) if mask is None else mask
                tokens[path], value = _counted(mask), _at(value, mask)
            features[path] = value.float()
        return features, tokens

    def _run(self, batch: Any) -> _Said:
        batch, _ = self._form.split(self._device.batch_to_device(batch))
        with torch.no_grad(), get_precision_context(self._precision):
            if self._hooks is None:
                outputs, features = self._teacher.outputs(batch), {}
            else:
                with self._hooks.recording(lambda path: tokens_in(batch, self._form, path)):
                    outputs = self._teacher.outputs(batch)
                    features = {path: value for (path, _), value in self._hooks.take().items()}
        logits = answered_logits(self._teacher, outputs)
        if not isinstance(logits, Tensor):
            raise TeacherError(f'The teacher {self._teacher.name!r} is stored already')
        logits = cut(logits, self._vocabulary, f'the teacher {self._teacher.name!r}')
        return _Said(logits, features.pop(self._head_input or '', None), features, batch)


def tokens_in(batch: Any, form: BatchFormat, layer: str) -> Tensor | None:
    """The mask of the tokens ``(B, S)`` of a layer that are no padding; None if all are.

    Example:
        >>> batch = {'input_ids': torch.zeros(1, 3), 'attention_mask': torch.tensor([[1, 1, 0]])}
        >>> tokens_in(batch, BatchFormat(), 'layer')
        tensor([[ True,  True, False]])
    """
    return Microbatch(batch, 0, tokens=tokens_of(batch, form), source=source_of(batch, form), form=form).tokens_at(
        layer
    )


def _at(values: Tensor, mask: Tensor) -> Tensor:
    """The values of a mask's positions; without a copy if these are all."""
    return values.flatten(0, mask.ndim - 1) if mask.device.type == 'cpu' and mask.all() else values[mask]


def _counted(mask: Tensor) -> NDArray[np.int64]:
    return mask.flatten(1).sum(1).cpu().numpy()
