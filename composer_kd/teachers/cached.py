"""A teacher whose outputs were stored: it answers from a store, by the samples' numbers, and never runs."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from composer.core import State
from numpy.typing import NDArray
from torch import Tensor, nn

from composer_kd.batches.format import BatchFormat
from composer_kd.data.digest import digest, same
from composer_kd.data.fingerprint import differences, fingerprint
from composer_kd.errors import StoreError, TeacherError
from composer_kd.features.hooks import Summary
from composer_kd.losses._common import pooled
from composer_kd.losses.linear_logits import AnyLogits, LinearLogits
from composer_kd.losses.sparse import SparseTarget, TeacherLogits
from composer_kd.stores import Hidden, Store
from composer_kd.teachers.fingerprint import weights_hash
from composer_kd.teachers.frozen import FrozenTeacher
from composer_kd.teachers.store_head import kept_head
from composer_kd.teachers.store_reading import tokens_in
from composer_kd.teachers.store_sections import inputs_of, labels_section, stored_mask

__all__ = ['CachedTeacher']

_EVERY = 100  # microbatches between two checks of the inputs on an accelerator, which has to be waited for


class CachedTeacher:
    """A stored teacher: what a teacher said of each sample, read from a store in its place.

    ``composer-kd cache``, or :func:`.build_store`, makes the store. It stands anywhere a teacher may stand. Samples are
    found by their numbers, so the training data must tell these: wrap it in :class:`composer_kd.data.Indexed`, and
    the student in :class:`composer_kd.models.IndexedClassifier`. Order, batch size and number of processes may differ
    from those of the build. Random transforms must be those of :class:`composer_kd.data.SeededViews`, with the views of
    the build; epoch ``e`` is taught by view ``e % views``.

    Before training, the data set and what its classes mean are compared with those of the build. In training, a digest
    of the inputs is compared too: in each microbatch on the CPU, else in one of a hundred and the first of each epoch.

    Args:
        folder: The folder of the store, or its address in an object store (``s3://bucket/store``), if it is in MDS.
        name: Its name in messages, and in ``Match(..., teacher=name)``; ``None`` for that of the teacher stored.
        head: For stored hidden states: the teacher's own last layer, which makes logits of them; ``None`` for that
            which the store keeps, if it is linear.
        local: Where what is fetched of a store in MDS is kept; ``None`` for a folder among temporary files.

    Attributes:
        sparse: Whether a part of the classes is known, so that it has no mean logits with other teachers.
        model: A module with the stored layers, for matches of features; ``None`` if none are stored.
        by_number: True: it knows samples by their numbers.

    Raises:
        StoreError: If there is no store, it is unfinished or damaged.
        TeacherError: If hidden states are stored and there is no head, or the other way round.

    Example:
        >>> import tempfile
        >>> from torch.utils.data import TensorDataset
        >>> from composer_kd import build_store
        >>> from composer_kd.models import IndexedClassifier
        >>> data, student = TensorDataset(torch.randn(8, 4), torch.arange(8) % 3), nn.Linear(4, 3)
        >>> store = build_store(tempfile.mkdtemp(), nn.Linear(4, 3), IndexedClassifier(student, num_classes=3), data)
        >>> CachedTeacher(store.folder).outputs(data[2:4], torch.tensor([2, 3])).logits.shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        name: str | None = None,
        head: nn.Module | None = None,
        local: str | os.PathLike[str] | None = None,
    ) -> None:
        self.store = Store(folder, local)
        manifest = self.store.manifest
        self.name = name or str(manifest.teacher.get('name') or self.store.folder.name)
        if isinstance(self.store.format, Hidden) and head is None:
            head = kept_head(self.store.folder)
        if isinstance(self.store.format, Hidden) != (head is not None):
            raise TeacherError(
                f'{self.store.folder} holds {self.store.format}: '
                + ('give the last layer of the teacher, head=...' if head is None else 'a head is for hidden states')
            )
        if head is not None and manifest.teacher.get('head') not in (None, weights_hash(head)):
            raise TeacherError(
                f'{self.store.folder} holds hidden states of another last layer: the weights of head differ from those '
                'of the teacher that was stored.'
            )
        # A copy, because a teacher is frozen.
        self._head = None if head is None else FrozenTeacher(copy.deepcopy(head), name=f'the head of {self.name}')
        self.model = StoredLayers(sorted(manifest.features)) if manifest.features else None
        temperature = None if self.store.format is None else self.store.format.temperature
        self.sparse = temperature is not None
        self._state: State | None = None
        self._form = BatchFormat()
        self._checked = (-1, 0)  # the epoch, and the microbatches since the inputs were compared

    def prepare(self, state: State) -> None:
        """Notes the run, whose epochs say the view.

        Raises:
            StoreError: If the student's classes are others than those stored.
        """
        self._state, self._checked = state, (-1, 0)
        self._form = BatchFormat.of(state.model, str(self.store.manifest.labels.get('positions', 'labelled')))
        if self._head is not None:
            self._head.prepare(state)
        labels = labels_section(state.model, None)
        stored = self.store.manifest.labels
        both = {key: value for key, value in labels.items() if value is not None and stored.get(key) is not None}
        self.store.check({'labels': both})

    def fingerprint(self) -> dict[str, Any]:
        """Which teacher was stored: its name, class, a hash of its weights, its input adapter, and its settings."""
        stored = self.store.manifest.teacher
        found = {key: stored.get(key) for key in ('name', 'class', 'weights', 'input_adapter')}
        return {**found, 'settings': stored['settings']} if 'settings' in stored else found

    def example(self) -> TeacherLogits | None:
        """What it says of one position, of made-up logits; ``None`` if features alone are stored."""
        form, classes = self.store.format, self.store.manifest.classes
        if form is None or not self.sparse:
            return None
        return form.decode(form.encode(torch.linspace(0.0, 1.0, classes).unsqueeze(0), np.zeros(1, np.int64)), classes)

    def stored_head(self, student: nn.Module) -> tuple[int | None, bool]:
        """The number of classes that it answers with, and whether its tokens are known to be those of a student."""
        manifest = self.store.manifest
        said = labels_section(student, None)['vocabulary']
        known = said is not None and manifest.labels.get('vocabulary') == said
        return None if manifest.format is None else manifest.classes, known

    def check_data(self, dataset: Any, positions: str) -> None:
        """Compares the training data with that of the build; called before training.

        Args:
            dataset: The data set of the training loader.
            positions: Which positions the run compares: ``'labelled'`` or ``'attended'``.

        Raises:
            StoreError: If anything differs: all that do, with what both sides say.
        """
        self._checked = (-1, 0)  # the dry run is over
        manifest = self.store.manifest
        found = differences(manifest.data, fingerprint(dataset))
        if manifest.positions == 'tokens' and positions != manifest.labels.get('positions'):
            found.append(f'positions: stored {manifest.labels.get("positions")!r}, now {positions!r}')
        if found:
            lines = '\n'.join(f'  {line}' for line in found)
            raise StoreError(
                f'{self.store.folder} was built of other data than this run trains on:\n{lines}\n'
                'Train on the data of the build, or build a store of this data: composer-kd cache.'
            )

    def check_layers(self, keys: Iterable[tuple[str, Summary | None]]) -> None:
        """Warns of losses on whole features where the store holds their mean; called before training.

        Args:
            keys: The layers that are compared, with what the loss reads of each; ``None`` for all.
        """
        features = self.store.manifest.features
        for path in sorted({path for path, summary in keys if summary is not pooled}):
            if path in features and features[path].pooled:
                warnings.warn(
                    f'{self.store.folder} holds the mean of {path!r} over positions, with which a match compares in '
                    f'the place of the whole features. For these, store {path!r} whole (--features {path}).',
                    stacklevel=2,
                )

    def outputs(self, batch: Any, index: Tensor | None = None) -> StoredAnswer:
        """What the teacher said of the samples of a microbatch.

        Args:
            batch: The microbatch as models take it.
            index: ``(B,)`` The samples' numbers.

        Raises:
            TeacherError: If the numbers are unknown, as in evaluation.
            StoreError: If the inputs are others than in the build.
        """
        return self._outputs(batch, index, False)

    def linear_outputs(self, batch: Any, index: Tensor | None = None) -> StoredAnswer:
        """The same, where hidden states are stored without the logits that a linear head makes of them."""
        return self._outputs(batch, index, self._head is not None and type(self._head.model) is nn.Linear)

    def _outputs(self, batch: Any, index: Tensor | None, is_linear: bool) -> StoredAnswer:
        if index is None:
            raise TeacherError(
                f'The stored teacher {self.name!r} knows samples of its data set, by their numbers, and this batch has '
                'none. In training, wrap the data set in composer_kd.data.Indexed and the model in '
                'composer_kd.models.IndexedClassifier (mappings need the key `index`); in an evaluation it has nothing '
                'to say.'
            )
        # On an accelerator this waits for the student's forward pass, which has just been started. The numbers were on
        # the host before Composer moved the microbatch, but no event says then which part of the batch comes next.
        samples = index.detach().cpu().numpy().astype(np.int64, copy=False)
        view = 0 if self._state is None else int(self._state.timestamp.epoch) % self.store.manifest.views
        inputs, mask = inputs_of(batch)
        is_due = self._is_due(inputs.device)
        if is_due:
            self._check_inputs(inputs, mask, view, samples)
        device = inputs.device
        if self.model is not None:
            for path in self.model.looked_at():
                self.model.show(path, self._features(path, batch, view, samples, is_due))
        if self.store.format is None:
            return StoredAnswer(None)
        logits: AnyLogits = self.store.logits(view, samples).to(device)
        head: Any = None if self._head is None else self._head.model
        if head is not None:
            assert isinstance(logits, Tensor)
            logits = logits.to(next(head.parameters()).dtype)
            logits = logits if is_linear else head(logits)
        if self.store.manifest.positions == 'tokens':
            logits = self._placed(logits, stored_mask(batch, self._form), self.store.lengths(view, samples), is_due)
        if is_linear:
            assert isinstance(logits, Tensor)
            logits = LinearLogits(logits, head.weight, head.bias)
        return StoredAnswer(logits)

    end_batch = FrozenTeacher.end_batch
    by_number = True

    def _is_due(self, device: torch.device) -> bool:
        epoch = -1 if self._state is None else int(self._state.timestamp.epoch)
        number = 0 if epoch != self._checked[0] else self._checked[1] + 1
        self._checked = epoch, number
        return device.type == 'cpu' or number % _EVERY == 0

    def _check_inputs(self, inputs: Tensor, mask: Tensor | None, view: int, samples: NDArray[np.int64]) -> None:
        stored = torch.from_numpy(self.store.digests(view, samples).view(np.int16).copy())
        other = ~same(digest(inputs, mask).cpu(), stored)
        if other.any():
            first = int(samples[int(other.nonzero()[0])])
            raise StoreError(
                f'{self.store.folder}: {int(other.sum())} of {len(samples)} samples have other inputs than when the '
                f'teacher was stored, the first with the number {first} (view {view}). Something changes them: another '
                'transform, order or tokenizer, random transforms without SeededViews, an algorithm that changes the '
                'batch (MixUp, CutMix, CutOut, ProgressiveResizing), or another precision. Leave it out, or use the '
                'live teacher.'
            )

    def _features(self, path: str, batch: Any, view: int, samples: NDArray[np.int64], is_due: bool) -> Tensor:
        """The features of a layer as the teacher's own would be; those of padding are 0."""
        features = self.store.features(path, view, samples).to(inputs_of(batch)[0].device, non_blocking=True).float()
        if self.store.manifest.features[path].per != 'token':
            return features
        mask, lengths = tokens_in(batch, self._form, path), self.store.lengths(view, samples, path)
        return self._placed(features, mask, lengths, is_due)

    def _placed(self, rows: Any, mask: Tensor | None, lengths: NDArray[np.int64], is_due: bool) -> Any:
        """What is stored of positions at their places in the batch, ``(B, S, ...)``."""
        if mask is None:
            if len(set(lengths.tolist())) > 1:
                raise StoreError(f'{self.store.folder}: samples have different lengths, and the batch marks no padding')
            return _each(rows, lambda tensor: tensor.reshape(len(lengths), -1, *tensor.shape[1:]))
        if is_due and not np.array_equal(mask.flatten(1).sum(1).cpu().numpy(), lengths):
            raise StoreError(
                f'{self.store.folder}: samples have other numbers of compared positions than when the teacher was '
                'stored: another maximal length, other labels, or another rule for which positions count.'
            )
        return _each(rows, lambda tensor: tensor.new_zeros(*mask.shape, *tensor.shape[1:]).index_put_((mask,), tensor))

    def __repr__(self) -> str:
        return f'CachedTeacher({str(self.store.folder)!r})'


@dataclass(frozen=True)
class StoredAnswer:
    """What a store says of a microbatch.

    Attributes:
        logits: Logits, what was kept of them, or hidden states with their head; ``None`` if features alone are stored.
    """

    logits: AnyLogits | None


class StoredLayers(nn.Module):
    """A module with a submodule for each stored layer, so that hooks see their features as those of a live teacher.

    Args:
        paths: The paths of the layers.

    Example:
        >>> layers = StoredLayers(['layer2.0', 'layer4'])
        >>> layers.get_submodule('layer2.0')
        Identity()
    """

    def __init__(self, paths: list[str]) -> None:
        super().__init__()
        self._paths = paths
        for path in paths:
            parent: nn.Module = self
            *before, last = path.split('.')
            for part in before:
                if part not in parent._modules:
                    parent.add_module(part, nn.Identity())
                parent = parent._modules[part]  # type: ignore[assignment]
            if last not in parent._modules:
                parent.add_module(last, nn.Identity())

    def looked_at(self) -> list[str]:
        """The layers on which there are hooks."""
        return [path for path in self._paths if self.get_submodule(path)._forward_hooks]

    def show(self, path: str, features: Tensor) -> None:
        """Lets the features of a layer pass through its submodule."""
        self.get_submodule(path)(features)


def _each(target: TeacherLogits, change: Any) -> TeacherLogits:
    if isinstance(target, SparseTarget):
        return target.each(lambda tensor, own: change(tensor))
    return change(target)
