"""A store in another format, without the teacher."""

from __future__ import annotations

import os
from dataclasses import replace

from torch import Tensor

from composer_kd.errors import StoreError
from composer_kd.stores.formats import Format, Hidden
from composer_kd.stores.store import Store
from composer_kd.stores.writer import StoreWriter

__all__ = ['recode']

_ROWS = 4096


def recode(
    store: Store,
    folder: str | os.PathLike[str],
    format: Format,
    resume: bool = False,
    vocabulary: int | None = None,
) -> Store:
    """Writes the logits of a dense store in another format; the teacher does not run again.

    What is stored is the new format of the dense logits, which float16 or bfloat16 rounded. Features, digests and the
    description of data set and teacher are those of the first store.

    Args:
        store: A store of all logits (:class:`.Dense`); its checksums are verified as it is read.
        folder: The folder of the new store.
        format: How its logits are stored.
        resume: Whether to go on with an attempt that was ended.
        vocabulary: The number of classes that the new store holds, the first ones; ``None`` for all.

    Returns:
        The new store.

    Raises:
        StoreError: If the store does not hold all logits, the format is :class:`.Hidden`, it has fewer classes than
            ``vocabulary``, or the folder is in use.

    Example:
        >>> import numpy as np, tempfile, torch
        >>> from composer_kd.stores import Dense, Manifest, StoreWriter, TopK
        >>> manifest = Manifest(4, 1, 100, 'samples', shard_samples=4, format=Dense().settings())
        >>> with StoreWriter(tempfile.mkdtemp(), manifest) as writer:
        ...     writer.add(logits=torch.randn(4, 100), digests=np.zeros(4, np.uint16))
        ...     dense = writer.finish()
        >>> recode(dense, tempfile.mkdtemp(), TopK(k=3, temperature=4.0)).nbytes < dense.nbytes
        True
    """
    if store.format is None or store.format.temperature is not None or isinstance(store.format, Hidden):
        raise StoreError(f'{store.folder} holds {store.format}: another format is made of all logits, format dense')
    if isinstance(format, Hidden):
        raise StoreError(f'{store.folder} holds logits: hidden states are stored by running the teacher')
    manifest = store.manifest
    if vocabulary is not None and not 1 <= vocabulary <= manifest.classes:
        raise StoreError(f'vocabulary={vocabulary}: {store.folder} holds logits of {manifest.classes} classes')
    manifest = replace(manifest, classes=manifest.classes if vocabulary is None else vocabulary)
    per_token = [path for path, feature in manifest.features.items() if feature.per == 'token']
    with StoreWriter(folder, replace(manifest, format=format.settings(), shards=(), index=None), resume) as writer:
        for rows in writer.batches(_ROWS):
            views, samples = rows // manifest.samples, rows % manifest.samples
            logits = store.logits(views, samples)
            assert isinstance(logits, Tensor)
            writer.add(
                logits=logits[..., : manifest.classes].float(),
                features={path: store.features(path, views, samples) for path in manifest.features},
                digests=store.digests(views, samples),
                lengths=store.lengths(views, samples) if manifest.positions == 'tokens' else None,
                tokens={path: store.lengths(views, samples, path) for path in per_token},
            )
        return writer.finish()
