"""The manifest: what it may say, and what it says of another run."""

import dataclasses
import json

import pytest

from composer_kd.errors import StoreError
from composer_kd.stores import Feature, Manifest, Store
from composer_kd.stores.files import checksum
from composer_kd.stores.manifest import read_manifest, write_manifest
from tests.stores.building import FEATURES, build, manifest

SECTIONS = {
    'data': {'name': 'digits', 'length': 10, 'fingerprint': 'ab'},
    'teacher': {'fingerprint': 'cd', 'class': 'ResNet'},
    'transform': {'seed': 3, 'steps': ('crop', 'flip')},
}


def test_a_manifest_comes_back(tmp_path):
    for of in (manifest(**SECTIONS, features=FEATURES), build(tmp_path / 'store', manifest(**SECTIONS)).manifest):
        write_manifest(tmp_path / 'manifest.json', of)
        assert read_manifest(tmp_path) == of


def test_all_differences_are_one_error(tmp_path):
    store = build(tmp_path, manifest(**SECTIONS))
    store.check({'samples': 10, **SECTIONS})
    expected = {
        'samples': 11,
        'format': {'kind': 'topk'},
        'data': {'name': 'digits', 'fingerprint': 'xy'},
        'teacher': {'fingerprint': 'cd', 'adapter': None},
        'transform': {'seed': 3.0, 'steps': ['flip', 'crop']},
        'labels': {'names': 'z' * 999},
    }
    with pytest.raises(StoreError) as caught:
        store.check(expected)
    lines = str(caught.value).splitlines()
    assert lines[0] == f'{tmp_path} is not of this run:'
    assert lines[1:-2] == [
        '  samples: the store says 10, the run 11',
        "  format.kind: the store says 'dense', the run 'topk'",
        "  data.fingerprint: the store says 'ab', the run 'xy'",
        '  teacher.adapter: the store says nothing, the run None',
        '  transform.seed: the store says 3, the run 3.0',
        "  transform.steps: the store says ['crop', 'flip'], the run ['flip', 'crop']",
    ]
    assert lines[-2].startswith("  labels.names: the store says nothing, the run 'zzz")
    assert len(lines[-2]) < 300


def test_features_are_compared_too(tmp_path):
    store = build(tmp_path, manifest(features=FEATURES))
    store.check({'features': FEATURES})
    with pytest.raises(StoreError, match=r'features.pooled.dtype: the store says .float32., the run .float16.'):
        store.check({'features': {'pooled': Feature((4,), 'float16', 'sample')}})


@pytest.mark.parametrize(
    'values',
    [
        {'samples': 0}, {'samples': True}, {'samples': '10'}, {'samples': 10**30}, {'views': -1}, {'classes': 0},
        {'samples': 2**39, 'views': 2}, {'shard_samples': 0}, {'positions': 'images'}, {'version': 2},
        {'data': 'digits'}, {'data': {'a': object()}}, {'data': {'a': float('nan')}}, {'format': []},
    ],
)  # fmt: skip
def test_impossible_values_are_refused(values):
    with pytest.raises(StoreError, match=next(iter(values))):
        dataclasses.replace(manifest(), **values)


@pytest.mark.parametrize(
    'values', [{'shape': 3}, {'shape': (0,)}, {'shape': (2**20, 2**20)}, {'shape': (1,) * 9}, {'dtype': 'int8'},
               {'dtype': ['float16']}, {'per': 'word'}]
)  # fmt: skip
def test_impossible_features_are_refused(values):
    with pytest.raises(StoreError, match='features'):
        Feature(**{'shape': (2,), **values})


def tampered(folder, change):
    """Writes what a hostile hand would: a changed manifest with the checksum that belongs to it."""
    content = json.loads((folder / 'manifest.json').read_text())['manifest']
    content = change(content) or content
    right = checksum(json.dumps(content, sort_keys=True).encode())
    (folder / 'manifest.json').write_text(json.dumps({'checksum': right, 'manifest': content}))


@pytest.mark.parametrize(
    'change',
    [
        lambda of: of.update(file='../../etc/passwd'),
        lambda of: of['shards'][0].update(file='/etc/passwd'),
        lambda of: of['shards'][0].update(nbytes=1),
        lambda of: of['shards'][0].update(rows=-1),
        lambda of: of['shards'][0].update(rows=3, positions=3),
        lambda of: of['shards'][0]['checksums'].update({'../logits': '00000000'}),
        lambda of: of['shards'][0]['checksums'].update(logits='../../../'),
        lambda of: of['shards'][0]['checksums'].pop('logits'),
        lambda of: of['shards'].pop(),
        lambda of: of['shards'].clear(),
        lambda of: of.update(samples=10**12),
        lambda of: of.update(samples=11),
        lambda of: of.update(classes=7),
        lambda of: of.update(format={'kind': '__import__'}),
        lambda of: of.update(format={'kind': 'topk', 'k': 10**9, 'temperature': 1}),
        lambda of: of.update(format={'kind': 'dense', 'dtype': ['float16']}),
        lambda of: of.update(features={'../x': {'shape': [2]}}),
        lambda of: of.update(features=3),
        lambda of: of.update(shards=3),
        lambda of: of.pop('samples'),
        lambda of: [of],
        lambda of: 7,
    ],
)
def test_a_changed_manifest_is_refused(tmp_path, change):
    build(tmp_path, manifest())
    tampered(tmp_path, change)
    with pytest.raises(StoreError):
        Store(tmp_path)


@pytest.mark.parametrize(
    'text', ['', '[]', '{}', '{"manifest": {}}', '[' * 100_000, '{"checksum": NaN, "manifest": {}}', '\udcff']
)
def test_what_is_no_manifest_is_refused(tmp_path, text):
    (tmp_path / 'manifest.json').write_text(text, errors='surrogateescape')
    with pytest.raises(StoreError, match=r'manifest.json'):
        Store(tmp_path)


def test_an_endless_manifest_is_not_read(tmp_path):
    with (tmp_path / 'manifest.json').open('wb') as file:
        file.truncate(2**40)
    with pytest.raises(StoreError, match=r'expected at most 67.1 MB, got 1.10 TB'):
        Store(tmp_path)


def test_a_manifest_changed_by_hand_is_found(tmp_path):
    build(tmp_path, manifest(**SECTIONS))
    file = tmp_path / 'manifest.json'
    file.write_text(file.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(StoreError, match='its checksum differs'):
        Store(tmp_path)


def test_rows_are_counted_by_view():
    assert Manifest(5, 3, 2, 'samples', 4).shard_rows(3) == range(12, 15)
