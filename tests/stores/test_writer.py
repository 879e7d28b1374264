"""Building: ranks, batches, kills, full disks; the store is the same to the byte."""

import multiprocessing
import os
import random
import resource
import signal

import numpy as np
import pytest
import torch

from composer_kd.errors import StorageError, StoreError
from composer_kd.stores import Sampled, Store, StoreWriter, TopK
from tests.stores.building import FEATURES, Said, build, content, manifest

KINDS = [
    manifest(samples=20, views=2, shard_samples=7, form=TopK(3, 2.0), features=FEATURES, data={'name': 'digits'}),
    manifest(samples=20, views=2, shard_samples=7, form=Sampled(3, 2.0), positions='tokens', features=FEATURES),
]


@pytest.mark.parametrize('of', KINDS, ids=['samples', 'tokens'])
def test_bytes_depend_on_neither_ranks_nor_batches(tmp_path, of):
    one = build(tmp_path / 'one', of, batch=1)
    assert build(tmp_path / 'three', of, batch=5, ranks=3).nbytes == one.nbytes
    build(tmp_path / 'many', of, batch=100, ranks=9)
    assert content(tmp_path / 'one') == content(tmp_path / 'three') == content(tmp_path / 'many')
    files = {
        'digests.bin',
        *(f'features-{n:03d}.bin' for n in range(4)),
        'spans-003.bin',
        'logits.bin',
        'manifest.json',
    }
    assert set(content(tmp_path / 'one')) - {'spans.bin'} == files


def killed_build(folder, of, call):
    """Builds in a process that kills itself at a call that changes the disk; whether it was finished before."""
    process = multiprocessing.get_context('fork').Process(target=_build_until, args=(folder, of, call))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode == 0


def _build_until(folder, of, call):
    calls = 0

    def counted(function):
        def patched(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return patched

    for name in ('fsync', 'replace', 'unlink', 'rename', 'ftruncate'):
        setattr(os, name, counted(getattr(os, name)))
    build(folder, of, resume=True)


@pytest.mark.parametrize('of', KINDS, ids=['samples', 'tokens'])
def test_killed_ten_times_and_more_it_becomes_the_same_store(tmp_path, of):
    """Each attempt gets a few calls further than it would need to end, so every kind of moment is met."""
    build(tmp_path / 'undisturbed', of)
    kills, chance = 0, random.Random(0)
    while not killed_build(tmp_path / 'killed', of, chance.randint(2, 9) + 4 * (kills // 10)):
        kills += 1
        assert kills < 100
        if not (tmp_path / 'killed' / 'manifest.json').exists():
            with pytest.raises(StoreError, match=r'the store is unfinished.*--resume|holds no store'):
                Store(tmp_path / 'killed')
    assert kills >= 10
    assert content(tmp_path / 'killed') == content(tmp_path / 'undisturbed')
    Store(tmp_path / 'killed').verify()


@pytest.mark.parametrize('of', KINDS, ids=['samples', 'tokens'])
@pytest.mark.parametrize('joining', [False, True])
def test_torn_shards_are_found_and_written_anew(tmp_path, of, joining, monkeypatch):
    build(tmp_path / 'undisturbed', of)
    folder, said = tmp_path / 'torn', Said(of)
    with StoreWriter(folder, of) as writer:
        writer.add(**said.of(writer.rows()))
        if joining:
            monkeypatch.setattr('composer_kd.stores.writer.write_manifest', _power_cut)
            with pytest.raises(KeyboardInterrupt):
                writer.finish()
            monkeypatch.undo()
    if joining:
        with (folder / 'logits.bin').open('r+b') as file:
            file.seek(of.shard_samples)
            file.write(b'\xff\xfe\xfd')
    else:
        os.truncate(folder / 'shards' / '000001.bin', 5)
        (folder / 'shards' / '000003.json').write_text('{')
        (folder / 'shards' / '000004.bin').unlink()
    with StoreWriter(folder, of, resume=True) as writer:
        kept = writer.kept_rows
    assert 0 < kept < of.rows
    build(folder, of, said, resume=True)
    assert content(folder) == content(tmp_path / 'undisturbed')


def _power_cut(*args):
    raise KeyboardInterrupt


def test_finished_shards_are_not_asked_for_again(tmp_path):
    of, said = KINDS[0], Said(KINDS[0])
    with StoreWriter(tmp_path, of) as writer:
        writer.add(**said.of(writer.rows()[:16]))
        with pytest.raises(StoreError, match='24 rows of this rank are not written yet'):
            writer.finish()
    with StoreWriter(tmp_path, of, resume=True) as writer:
        assert writer.rows().tolist() == list(range(14, 40))
        assert writer.kept_rows == 14
    with pytest.raises(StoreError, match=r'3 of 6|unfinished'):
        Store(tmp_path)


def test_resuming_a_finished_store_changes_nothing(tmp_path):
    store = build(tmp_path, KINDS[1])
    before = content(tmp_path)
    again = build(tmp_path, KINDS[1], resume=True)
    assert content(tmp_path) == before
    assert again.manifest == store.manifest


def test_batches_end_with_a_shard_and_are_the_same_for_any_ranks(tmp_path):
    of = KINDS[0]
    with StoreWriter(tmp_path, of, ranks=2) as zero, StoreWriter(tmp_path, of, rank=1, ranks=2) as one:
        batches = [rows.tolist() for writer in (zero, one) for rows in writer.batches(3)]
    assert sorted(batches) == [
        list(range(a, min(a + 3, b, 40))) for b in range(7, 43, 7) for a in range(b - 7, b, 3) if a < 40
    ]
    build(tmp_path, of, resume=True)
    with StoreWriter(tmp_path, of, resume=True) as writer:
        assert list(writer.batches(3)) == []


def test_an_earlier_store_is_not_replaced(tmp_path):
    of = KINDS[0]
    StoreWriter(tmp_path / 'unfinished', of).close()
    build(tmp_path / 'finished', of)
    with pytest.raises(StoreError, match=r'an unfinished store: resume'):
        StoreWriter(tmp_path / 'unfinished', of)
    with pytest.raises(StoreError, match='a finished store'):
        StoreWriter(tmp_path / 'finished', of)
    other = manifest(samples=20, views=2, shard_samples=7, form=TopK(4, 2.0), features=FEATURES, data={'name': 'rings'})
    for name in ('unfinished', 'finished'):
        with pytest.raises(StoreError, match=r'(?s)format.k: the store says 3, the run 4.*data.name'):
            StoreWriter(tmp_path / name, other, resume=True)


def test_one_builder_a_folder(tmp_path):
    with (
        StoreWriter(tmp_path, KINDS[0]),
        pytest.raises(StoreError, match='another process builds a store there'),
    ):
        StoreWriter(tmp_path, KINDS[0], resume=True)
    StoreWriter(tmp_path, KINDS[0], resume=True).close()


def test_ranks_come_after_rank_0(tmp_path):
    with pytest.raises(StoreError, match='rank 1 began before rank 0'):
        StoreWriter(tmp_path, KINDS[0], rank=1, ranks=2)
    said = Said(KINDS[0])
    with (
        StoreWriter(tmp_path, KINDS[0], ranks=2) as zero,
        StoreWriter(tmp_path, KINDS[0], rank=1, ranks=2) as one,
    ):
        zero.add(**said.of(zero.rows()))
        with pytest.raises(StoreError, match='shard 1 was not written'):
            zero.finish()
        with pytest.raises(StoreError, match='finish is for rank 0'):
            one.finish()
        assert sorted([*one.rows(), *range(0, 7), *range(14, 21), *range(28, 35)]) == list(range(40))
    with pytest.raises(StoreError, match='rank: expected 0 to 1'):
        StoreWriter(tmp_path, KINDS[0], rank=2, ranks=2)


def test_files_of_others_are_left_alone(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    build(tmp_path, KINDS[0])
    (tmp_path / 'manifest.json').unlink()
    with pytest.raises(StoreError, match='but no manifest'):
        StoreWriter(tmp_path, KINDS[0])
    assert (tmp_path / 'notes.txt').read_text() == 'mine'


def test_a_file_in_place_of_the_folder_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    for folder in (tmp_path / 'file', tmp_path / 'file' / 'store'):
        with pytest.raises(StoreError, match='expected a folder'):
            StoreWriter(folder, KINDS[0])


def test_a_full_disk_is_named_and_the_build_goes_on_when_there_is_room(tmp_path):
    """The largest size of a file is lowered, which fails as a full disk does."""
    of = manifest(samples=200, views=1, shard_samples=50)
    said = Said(of)
    build(tmp_path / 'undisturbed', of, said)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StoreWriter(tmp_path / 'full', of) as writer:
        writer.add(**said.of(writer.rows()[:60]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
        try:
            with pytest.raises(StorageError, match=r'the disk of the store .*full.* free\).*resume the build'):
                writer.add(**said.of(writer.rows()))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / 'full').rglob('*.part'))
    build(tmp_path / 'full', of, said, resume=True)
    assert content(tmp_path / 'full') == content(tmp_path / 'undisturbed')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'logits': None}, 'got none'),
        ({'logits': torch.zeros(4, 6)}, 'logits: expected 5 positions'),
        ({'logits': torch.zeros(5, 7)}, 'expected 6 classes'),
        ({'digests': None}, 'digests: expected'),
        ({'digests': np.zeros(5, np.int64)}, 'digests: expected'),
        ({'lengths': np.ones(5, np.int64)}, 'lengths: each sample has one position'),
        ({'features': {}}, 'features: expected those of'),
        ({'digests': np.zeros(99, np.uint16)}, 'expected at most 20 more rows'),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    of = manifest(features=FEATURES)
    said = Said(of)
    with StoreWriter(tmp_path, of) as writer:
        given = said.of(writer.rows()[:5])
        with pytest.raises(StoreError, match=message):
            writer.add(**{**given, **change})
        given['features']['pooled'] = given['features']['pooled'][:, :2]
        with pytest.raises(StoreError, match=r'features of pooled: expected \(n, \*\(4,\)\)'):
            writer.add(**given)
        assert len(writer.rows()) == 20  # nothing was taken


def test_lengths_are_checked(tmp_path):
    of = manifest(positions='tokens')
    said = Said(of)
    with StoreWriter(tmp_path, of) as writer:
        given = said.of(writer.rows()[:3])
        for lengths in (
            None,
            np.array([1, 2]),
            np.array([1.0, 2.0, 3.0]),
            np.array([-1, 0, 1]),
            np.array([0, 0, 2**24]),
        ):
            with pytest.raises(StoreError, match=r'lengths: expected'):
                writer.add(**{**given, 'lengths': lengths})
        with pytest.raises(StoreError, match='logits: expected'):
            writer.add(**{**given, 'lengths': given['lengths'] + 1})
