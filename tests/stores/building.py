"""Small stores, and what a teacher said, by sample and view."""

import dataclasses

import numpy as np
import torch

from composer_kd.stores import Dense, Feature, Manifest, StoreWriter

CLASSES = 6


def manifest(samples=10, views=2, shard_samples=4, positions='samples', form=None, features=None, **sections):
    form = Dense('float32') if form is None else form
    return Manifest(samples, views, CLASSES, positions, shard_samples, form.settings(), features or {}, **sections)


class Said:
    """What a teacher said of each row: logits, features and digests, which depend on the row alone."""

    def __init__(self, manifest, seed=0):
        chance = np.random.default_rng(seed)
        tokens = manifest.positions == 'tokens'
        self.lengths = chance.integers(0, 5, manifest.rows) if tokens else np.ones(manifest.rows, np.int64)
        self.ends = self.lengths.cumsum()
        count = int(self.ends[-1])
        self.logits = torch.from_numpy(chance.standard_normal((count, manifest.classes), np.float32))
        self.digests = chance.integers(0, 2**16, manifest.rows).astype(np.uint16)
        self.tokens = {
            path: chance.integers(0, 4, manifest.rows) for path, one in manifest.features.items() if one.per == 'token'
        }
        totals = {'sample': manifest.rows, 'position': count}
        self.features = {
            path: torch.from_numpy(
                chance.standard_normal(
                    (totals.get(one.per, int(self.tokens.get(path, self.lengths).sum())), *one.shape), np.float32
                )
            )
            for path, one in manifest.features.items()
        }
        self.manifest = manifest

    def positions(self, rows):
        return records_of(self.lengths, rows)

    def places(self, path, rows):
        """Where the features of rows are."""
        per = self.manifest.features[path].per
        return rows if per == 'sample' else records_of(self.tokens.get(path, self.lengths), rows)

    def of(self, rows):
        """The arguments of ``StoreWriter.add``."""
        places = self.positions(rows)
        return {
            'logits': self.logits[places],
            'features': {path: tensor[self.places(path, rows)] for path, tensor in self.features.items()},
            'digests': self.digests[rows],
            'lengths': self.lengths[rows] if self.manifest.positions == 'tokens' else None,
            'tokens': {path: lengths[rows] for path, lengths in self.tokens.items()},
        }


def records_of(lengths, rows):
    """The numbers of the records of rows, where each has as many as ``lengths`` says."""
    ends = lengths.cumsum()
    return np.concatenate([np.zeros(0, np.int64), *(np.arange(ends[row] - lengths[row], ends[row]) for row in rows)])


def build(folder, manifest, said=None, batch=3, ranks=1, resume=False):
    """Builds a store with some ranks, one after the other."""
    said = said or Said(manifest)
    writers = [StoreWriter(folder, manifest, resume, rank, ranks) for rank in range(ranks)]
    try:
        for writer in writers:
            while len(rows := writer.rows()[:batch]):
                writer.add(**said.of(rows))
        return writers[0].finish()
    finally:
        for writer in writers:
            writer.close()


def content(folder):
    """The bytes of a finished store's files."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.startswith('.')}


FEATURES = {
    'layer4:input': Feature((3, 2), 'float32'),
    'a/../b': Feature((), 'float32'),
    'pooled': Feature((4,), 'float32', per='sample'),
    'tokens': Feature((3,), 'float32', per='token'),
}

replace = dataclasses.replace
