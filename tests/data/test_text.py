"""Text files as blocks of tokens, and their masks."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from composer_kd import ConfigError
from composer_kd.data import SeededViews, text
from composer_kd.data.documentation import documentation
from composer_kd.data.randomness import is_random
from tests.texts import SPECIAL, save_tokenizer, sentences

transformers = pytest.importorskip('transformers')
MASK, CLS, SEP = (SPECIAL.index(token) for token in ('[MASK]', '[CLS]', '[SEP]'))


@pytest.fixture
def words(tmp_path):
    return save_tokenizer(tmp_path / 'words')


@pytest.fixture
def file(tmp_path):
    (tmp_path / 'a.txt').write_text('\n'.join(sentences(60)))
    return tmp_path / 'a.txt'


def bytes_of(tmp_path):
    transformers.ByT5Tokenizer().save_pretrained(tmp_path / 'bytes')
    return str(tmp_path / 'bytes')


def test_blocks_hold_the_text_in_order(file, words):
    data = text(file, tokenizer=words, length=10)
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    expected = tokenizer(file.read_text(), add_special_tokens=False)['input_ids']
    found = [token for item in data for token in item['input_ids'][1:-1].tolist()]
    assert found == expected[: len(found)]
    assert 0 <= len(expected) - len(found) < 8
    for item in data:
        assert (int(item['input_ids'][0]), int(item['input_ids'][-1])) == (CLS, SEP)
        assert torch.equal(item['labels'], item['input_ids'])
    assert len(text(file, tokenizer=words, length=10, subset=3)) == 3


def test_a_tokenizer_of_bytes_and_several_files(tmp_path, file, monkeypatch):
    monkeypatch.setenv('COMPOSER_KD_DATA', str(tmp_path))
    (tmp_path / 'b.txt').write_text('zebra ' * 10)
    data = text(['a.txt', 'b.txt'], tokenizer=bytes_of(tmp_path), length=33)  # 32 bytes and the end of a text
    joined = file.read_bytes() + b'\x00' + b'zebra ' * 10
    whole = [int(token) - 3 for item in data for token in item['input_ids'][:-1]]
    assert [max(token, 0) for token in whole] == list(joined[: len(whole)])


def test_masks_are_those_of_bert(tmp_path, words):
    (tmp_path / 'long.txt').write_text('\n'.join(sentences(3000)))
    data = text(tmp_path / 'long.txt', tokenizer=words, length=32, objective='masked', mask_probability=0.2)
    items = data.__getitems__(range(len(data)))
    inputs, labels = (np.stack([item[name].numpy() for item in items]) for name in ('input_ids', 'labels'))
    chosen = labels != -100
    plain = text(tmp_path / 'long.txt', tokenizer=words, length=32)
    original = np.stack([item['input_ids'].numpy() for item in plain])
    assert (inputs == original)[~chosen].all()
    assert (labels == original)[chosen].all()
    assert not chosen[:, [0, -1]].any()
    assert chosen.any(1).all()
    error = 4 / chosen.size**0.5
    assert chosen[:, 1:-1].mean() == pytest.approx(0.2, abs=error)
    assert (inputs == MASK)[chosen].mean() == pytest.approx(0.8 + 0.1 / 23, abs=3 * error)
    assert (inputs == original)[chosen].mean() == pytest.approx(0.1 + 0.1 / 23, abs=3 * error)


def test_masks_are_the_same_in_any_batch_and_other_in_each_epoch(file, words):
    data = text(file, tokenizer=words, length=10, objective='masked')
    again = text(file, tokenizer=words, length=10, objective='masked')
    for number, item in enumerate(data.__getitems__(range(len(data)))):
        assert torch.equal(again[number]['input_ids'], item['input_ids'])
    assert not is_random(data)
    views = SeededViews(data, views=3, seed=5)
    epochs = []
    for epoch in (0, 1, 3):
        loader = DataLoader(views, batch_size=4, sampler=views.sampler(shuffle=False), num_workers=epoch // 3)
        loader.sampler.set_epoch(epoch)
        epochs.append(torch.cat([batch['input_ids'] for batch in loader]))
    assert torch.equal(epochs[0], epochs[2])
    assert not torch.equal(epochs[0], epochs[1])


def test_unlabelled_blocks_have_one_label_each(file, words):
    data, plain = (text(file, tokenizer=words, length=10, objective=one) for one in ('unlabelled', 'causal'))
    assert not is_random(data)
    batch = next(iter(DataLoader(data, batch_size=4)))
    assert batch['labels'].tolist() == [-100] * 4
    assert torch.equal(batch['input_ids'], torch.stack([plain[number]['input_ids'] for number in range(4)]))


def test_the_documentation_of_a_package_is_a_text(words):
    data = text('package:json', tokenizer=words, length=10)
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    whole = ''.join(f'{one}\n\n' for _, one in documentation('package:json'))
    expected = tokenizer(whole, add_special_tokens=False)['input_ids']
    assert [token for item in data for token in item['input_ids'][1:-1].tolist()] == expected[: 8 * len(data)]
    assert len(text(['package:json/__init__.py', 'package:json'], tokenizer=words, length=10)) > len(data)


def test_bad_settings(tmp_path, file, words):
    (tmp_path / 'latin.txt').write_bytes(b'\xe9t\xe9')
    for settings, said in (
        ({'path': 'none.txt'}, 'there is no file none.txt or .*/none.txt'),
        ({'path': 'package:json/none.txt'}, 'there is no file .*json/none.txt'),
        ({'path': 'package:no_such_package'}, 'pip install no-such-package'),
        ({'path': tmp_path / 'latin.txt'}, 'no text in UTF-8'),
        ({'length': 2}, 'expected from 3 to 512 tokens, got 2'),
        ({'length': 513}, 'expected from 3 to 512 tokens, got 513'),
        ({'length': 500}, 'fewer than 498'),
        ({'objective': 'mlm'}, "expected one of \\['causal', 'masked', 'unlabelled'\\], got 'mlm'"),
        ({'mask_probability': 1.5}, 'between 0 and 1'),
        ({'objective': 'masked', 'tokenizer': bytes_of(tmp_path)}, 'has no mask token'),
        ({'subset': 10**6}, 'subset: expected an integer from 1 to'),
    ):
        with pytest.raises(ConfigError, match=said):
            text(**{'path': file, 'tokenizer': words, 'length': 10, **settings})
