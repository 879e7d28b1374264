"""What ``torch.save`` writes, and what becomes of it on the way: read as ``torch.load`` reads it, or refused."""

import argparse
import contextlib
import os
import pathlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from composer_kd import CheckpointError
from composer_kd.teachers import load_weights, read_weights
from tests.helpers import mlp, weights

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


def repack(source, target, kind=zipfile.ZIP_STORED, change=lambda name, data: data):
    """Unpacks an archive and packs it again, as any zip tool does."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w', kind) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))


@st.composite
def views(draw):
    """State dicts whose tensors are views of few storages: sizes, offsets, strides, dtypes and sharing all differ."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    bases = []
    for dtype in draw(st.lists(st.sampled_from(DTYPES), min_size=1, max_size=3)):
        size = draw(st.integers(0, 60)) * dtype.itemsize
        raw = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), dtype=torch.uint8, generator=generator)
        bases.append(raw.view(dtype))
    found = {}
    for number in range(draw(st.integers(1, 5))):
        base = draw(st.sampled_from(bases))
        room = base.numel()
        offset = draw(st.integers(0, room))
        shape, stride, reach = [], [], room - offset - 1
        for _ in range(draw(st.integers(0, 3))):
            stride.append(draw(st.integers(0, 4)))
            most = 4 if stride[-1] == 0 else 1 + max(reach, 0) // stride[-1]
            shape.append(draw(st.integers(0, min(4, most))))
            reach -= stride[-1] * max(shape[-1] - 1, 0)
        if reach < 0 and 0 not in shape:
            shape, stride = [0], [1]
        tensor = base.as_strided(shape, stride, offset)
        trainable = tensor.is_floating_point() and 0 not in stride and draw(st.booleans())
        found[f'layer{number}.weight'] = nn.Parameter(tensor) if trainable else tensor
    return found


def bits(tensor):
    flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1))
    return flat.view(torch.uint8).tolist() if len(flat) else []


def form(tensor):
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()


def sharing(state):
    places = [tensor.untyped_storage().data_ptr() for tensor in state.values()]
    return [[one == other for other in places] for one in places]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(state=views(), how=st.sampled_from(['as written', 'older format', 'deflated', 'packed again', 'in an entry']))
def test_reads_bit_for_bit_what_torch_loads(tmp_path, state, how):
    path = tmp_path / 'w.pt'
    content = {'net': state, 'epoch': 3} if how == 'in an entry' else state
    torch.save(content, path, _use_new_zipfile_serialization=how != 'older format')
    if how in ('deflated', 'packed again'):
        shutil.copy(path, tmp_path / 'first.pt')
        repack(tmp_path / 'first.pt', path, zipfile.ZIP_DEFLATED if how == 'deflated' else zipfile.ZIP_STORED)
    try:
        expected = torch.load(path, weights_only=True)
    except AttributeError:  # torch has no float8 in the older format
        with pytest.raises(CheckpointError):
            read_weights(path)
        return
    expected = expected['net'] if how == 'in an entry' else expected
    found = read_weights(path)
    assert found.keys() == expected.keys() == state.keys()
    for key, tensor in expected.items():
        assert form(found[key]) == form(tensor)
        assert bits(found[key]) == bits(tensor) == bits(state[key])
    assert sharing(found) == sharing(expected)


def test_conjugates(tmp_path):
    complex_numbers = torch.tensor([1 + 2j, 3 - 1j])
    torch.save({'a': complex_numbers.conj(), 'b': complex_numbers.clone().conj().imag}, tmp_path / 'w.pt')
    found = read_weights(tmp_path / 'w.pt')
    assert (found['a'].tolist(), found['b'].tolist()) == ([1 - 2j, 3 + 1j], [-2, 1])


def test_what_was_read_stays_when_the_file_is_overwritten(tmp_path):
    torch.save({'w': torch.ones(4096)}, tmp_path / 'w.pt')
    found = read_weights(tmp_path / 'w.pt')
    (tmp_path / 'w.pt').write_bytes(b'')
    assert found['w'].sum() == 4096


@pytest.mark.parametrize('kind', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_no_flipped_bit_gives_other_weights(tmp_path, kind):
    path, source = tmp_path / 'w.pt', nn.Linear(3, 2)
    torch.save(source.state_dict(), tmp_path / 'whole.pt')
    repack(tmp_path / 'whole.pt', path, kind)
    whole = path.read_bytes()
    refused = 0
    directory = whole.find(b'PK\1\2')  # here any bit may change how a record is read
    for bit in (*range(0, 8 * directory, 29), *range(8 * directory, 8 * len(whole), 4)):
        at = bit // 8
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << bit % 8)]) + whole[at + 1 :])
        target = nn.Linear(3, 2)
        try:
            load_weights(target, path)
        except CheckpointError:
            refused += 1
        else:
            assert torch.equal(weights(target), weights(source)), at
    assert refused > 50


def test_a_flipped_bit_of_a_weight_is_named(tmp_path):
    path, source = tmp_path / 'w.pt', mlp(seed=5)
    torch.save(source.state_dict(), path)
    whole = bytearray(path.read_bytes())
    whole[whole.find(source[0].weight.detach().numpy().tobytes()) + 3] ^= 64
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r'w\.pt is truncated or not a checkpoint(.|\n)*CRC-32.*data/0'):
        load_weights(mlp(), path)


@pytest.mark.skipif(not hasattr(torch.serialization, 'set_crc32_options'), reason='this torch always writes checksums')
def test_files_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({'w': torch.arange(5.0)}, tmp_path / 'w.pt')
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_weights(tmp_path / 'w.pt')['w'].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize('kind', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_record_shorter_than_its_tensor(tmp_path, kind):
    """torch.load returns whatever lies behind the record."""
    torch.save({'w': torch.arange(64.0)}, tmp_path / 'whole.pt')
    short = lambda name, data: data[:16] if name.endswith('data/0') else data  # noqa: E731
    repack(tmp_path / 'whole.pt', tmp_path / 'w.pt', kind, short)
    with pytest.raises(CheckpointError, match='has 16 bytes, and its tensors need 256'):
        read_weights(tmp_path / 'w.pt')


def test_an_archive_that_expands_without_end(tmp_path):
    torch.save({'w': torch.ones(2)}, tmp_path / 'whole.pt')
    with (
        zipfile.ZipFile(tmp_path / 'whole.pt') as old,
        zipfile.ZipFile(tmp_path / 'w.pt', 'w', zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            if not name.endswith('data/0'):
                new.writestr(name, old.read(name))
        with new.open('whole/data/0', 'w', force_zip64=True) as record:
            for _ in range(300):
                record.write(bytes(1 << 20))
    with pytest.raises(CheckpointError, match=r'would fill the memory(.|\n)*without compression'):
        read_weights(tmp_path / 'w.pt')


@pytest.mark.parametrize('kind', [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(tmp_path, kind):
    torch.save({'w': torch.ones(2)}, tmp_path / 'whole.pt')
    repack(tmp_path / 'whole.pt', tmp_path / 'w.pt', kind)
    with pytest.raises(CheckpointError, match='Pack it without compression'):
        read_weights(tmp_path / 'w.pt')


def test_two_records_of_one_name(tmp_path):
    torch.save({'w': torch.ones(2)}, tmp_path / 'w.pt')
    with zipfile.ZipFile(tmp_path / 'w.pt', 'a') as archive, pytest.warns(UserWarning, match='Duplicate name'):
        archive.writestr('w/data/0', torch.zeros(2).numpy().tobytes())
    with pytest.raises(CheckpointError, match='its records overlap'):
        read_weights(tmp_path / 'w.pt')


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / 'w.pt', 'w') as archive:
        archive.writestr('weights.pt', 'x')
    with pytest.raises(CheckpointError, match=r'a zip archive of weights\.pt, not one of torch\.save'):
        read_weights(tmp_path / 'w.pt')
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / 'script.pt'))
    with pytest.raises(CheckpointError, match=r'TorchScript module.*torch\.jit\.load'):
        read_weights(tmp_path / 'script.pt')


def test_options_of_a_command_line_beside_the_weights(tmp_path):
    """Training scripts save their arguments, numpy's numbers and paths."""
    args = argparse.Namespace(lr=0.1, out=pathlib.Path('runs'), best=np.float64(0.5), seeds=np.arange(3))
    torch.save({'model': mlp(seed=5).state_dict(), 'args': args, 'best_acc': np.float32(3)}, tmp_path / 'w.pt')
    target = mlp(seed=9)
    load_weights(target, tmp_path / 'w.pt')
    assert torch.equal(weights(target), weights(mlp(seed=5)))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


class EvilState(dict):
    """Runs code when its state is set, not when it is made."""

    def __reduce__(self):
        return argparse.Namespace, (), {'hook': Evil(self['path'])}


@pytest.mark.parametrize('kind', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize('wrap', [Evil, lambda path: EvilState(path=path), lambda path: [{'a': Evil(path)}]])
def test_nothing_in_an_archive_runs(tmp_path, kind, wrap):
    mark = tmp_path / 'executed'
    torch.save({'model': mlp().state_dict(), 'args': wrap(mark)}, tmp_path / 'whole.pt')
    repack(tmp_path / 'whole.pt', tmp_path / 'w.pt', kind)
    with pytest.raises(CheckpointError, match='Nothing in it was run'):
        load_weights(mlp(), tmp_path / 'w.pt')
    assert not mark.exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk=st.binary(max_size=60), at=st.integers(0, 400))
def test_any_pickle_in_an_archive_is_read_or_refused(tmp_path, junk, at):
    torch.save({'w': torch.arange(6.0)}, tmp_path / 'whole.pt')
    change = lambda name, data: data[:at] + junk + data[at + 1 :] if name.endswith('data.pkl') else data  # noqa: E731
    repack(tmp_path / 'whole.pt', tmp_path / 'w.pt', change=change)
    with contextlib.suppress(CheckpointError):
        read_weights(tmp_path / 'w.pt')


@pytest.mark.parametrize(
    ('tensor', 'kind'),
    [
        (torch.eye(4, 6).to_sparse(), 'sparse_coo floating'),
        (torch.eye(4, 6).to_sparse_csr(), 'sparse_csr floating'),
        (torch.quantize_per_tensor(torch.eye(4, 6), 0.1, 0, torch.qint8), 'quantized'),
        (torch.empty(4, 6, device='meta'), 'meta'),
        (torch.eye(4, 6, dtype=torch.cfloat), 'complex'),
        (torch.eye(4, 6).int(), 'integer'),
    ],
)
@pytest.mark.filterwarnings('ignore::UserWarning')
def test_tensors_that_no_weight_can_be_copied_from(tmp_path, tensor, kind):
    module = nn.Linear(6, 4)
    before = weights(module)
    torch.save({'weight': tensor, 'bias': torch.zeros(4)}, tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match=rf'of another kind: weight \(checkpoint {kind}, module floating\)'):
        load_weights(module, tmp_path / 'w.pt')
    assert torch.equal(weights(module), before)


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('layout', [torch.strided, torch.jagged])
def test_nested_tensors(tmp_path, layout):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
    torch.save({'weight': nested, 'bias': torch.zeros(4)}, tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match='nested'):
        load_weights(nn.Linear(6, 4), tmp_path / 'w.pt')
    if layout is torch.strided:
        with pytest.raises(CheckpointError, match=r'cannot be copied \(nested\)'):
            read_weights(tmp_path / 'w.pt')


@pytest.mark.parametrize('start', [b'GGUF', b'\x89HDF\r\n\x1a\n', b'<html>'])
def test_files_of_other_programs(tmp_path, start):
    (tmp_path / 'w.pt').write_bytes(start + bytes(500))
    with pytest.raises(
        CheckpointError, match=r'not a checkpoint: expected a file of Composer, torch\.save or safetensors'
    ):
        load_weights(mlp(), tmp_path / 'w.pt')


def test_a_pickle_that_asks_for_too_much(tmp_path):
    class Greedy:
        def __reduce__(self):
            return bytearray, (10**18,)

    path = tmp_path / 'w.pt'
    for content in (Greedy(), {'w': torch.ones(1), 'more': Greedy()}):
        torch.save(content, path)
        with pytest.raises(CheckpointError):
            read_weights(path)
    path.write_bytes(pickle.dumps({'a': 1}, protocol=2))
    with pytest.raises(CheckpointError):
        read_weights(path)
