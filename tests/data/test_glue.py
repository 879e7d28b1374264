"""The tasks of GLUE, from files and from the Hub."""

import pytest
import torch
from torch.utils.data import DataLoader

from composer_kd import ConfigError
from composer_kd.data import UNLABELLED, HeldOut, Indexed, glue
from composer_kd.data.collating import collate_of
from composer_kd.data.tokens import as_tokenizer
from tests.texts import save_jsonl, save_sst2, save_tokenizer, sentences

transformers = pytest.importorskip('transformers')


@pytest.fixture
def words(tmp_path):
    return save_tokenizer(tmp_path / 'words')


def test_sentences_are_those_of_the_file(tmp_path, words):
    root = save_sst2(tmp_path)
    data = glue('sst2', root=root, tokenizer=words)
    texts = sentences(24)
    tokenizer = as_tokenizer(words)
    for text, item in zip(texts, data):
        assert item == {**tokenizer(text), 'labels': int('good' in text.split())}
    assert (len(data), data.num_classes, data.classes) == (24, 2, ['negative', 'positive'])
    assert data.targets == [item['labels'] for item in data]
    assert len(glue('sst2', 'validation', root=root, tokenizer=tokenizer)) == 12


def test_batches_are_padded_to_their_longest_sample(tmp_path, words):
    data = glue('sst2', root=save_sst2(tmp_path), tokenizer=words)
    for batch in DataLoader(data, batch_size=6, collate_fn=data.collate_fn):
        lengths = batch['attention_mask'].sum(1)
        assert batch['input_ids'].shape == (6, int(lengths.max()))
        assert batch['input_ids'].dtype == batch['labels'].dtype == torch.long
        assert batch['input_ids'][batch['attention_mask'] == 0].eq(0).all()
    assert collate_of(Indexed(HeldOut(data, 0.25))) is data.collate_fn
    batch = data.collate_fn([Indexed(data)[3], Indexed(data)[5]])
    assert batch['index'].tolist() == [3, 5]


def test_pairs_labels_by_name_and_their_order(tmp_path, words):
    rows = [
        {'premise': 'the film is good', 'hypothesis': 'it is bad', 'label': 'contradiction'},
        {'premise': 'the film is good', 'hypothesis': 'it is', 'label': 'neutral'},
        {'premise': 'a plot', 'hypothesis': 'a plot', 'label': 'entailment'},
    ]
    save_jsonl(tmp_path / 'glue' / 'MNLI' / 'dev_matched.jsonl', rows)
    settings = {'root': tmp_path, 'tokenizer': words}
    assert glue('mnli', 'validation', **settings).targets == [2, 1, 0]
    order = ['contradiction', 'neutral', 'entailment']
    data = glue('mnli', 'validation', labels=order, **settings)
    assert (data.targets, data.classes) == ([0, 1, 2], order)
    assert data[0]['token_type_ids'] == [0] * 6 + [1] * 4
    with pytest.raises(ConfigError, match='in an order of your choice'):
        glue('mnli', 'validation', labels=['yes', 'no', 'maybe'], **settings)


def test_the_forms_of_the_original_files(tmp_path, words):
    files = {
        'CoLA/train.tsv': 'gj04\t1\t\tthe film is good\ngj04\t0\t*\tfilm the "is\n',
        'STS-B/train.tsv': 'index\tsentence1\tsentence2\tscore\n0\ta film\ta plot\t2.5\n',
        'MRPC/train.tsv': '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta film\ta plot\n',
        'RTE/train.tsv': 'index\tsentence1\tsentence2\tlabel\n0\ta "film\ta plot\tnot_entailment\n',
        'QQP/train.tsv': 'id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\ta film\ta\t1\n',
    }
    for name, text in files.items():
        file = tmp_path / 'glue' / name
        file.parent.mkdir(parents=True)
        file.write_text(text, encoding='utf-8')
    found = {task: glue(task, root=tmp_path, tokenizer=words) for task in ('cola', 'stsb', 'mrpc', 'rte', 'qqp')}
    assert {task: data.targets for task, data in found.items()} == {
        'cola': [1, 0], 'stsb': [2.5], 'mrpc': [1], 'rte': [1], 'qqp': [1],
    }  # fmt: skip
    assert not hasattr(found['stsb'], 'num_classes')
    assert found['stsb'].collate_fn([found['stsb'][0]])['labels'].dtype == torch.float


def test_long_samples_are_cut_and_it_is_said_once(tmp_path, words):
    root = save_sst2(tmp_path)
    long = sum(len(text.split()) + 2 > 6 for text in sentences(24))
    with pytest.warns(UserWarning, match=f'{long} of 24 samples have more than max_length=6') as said:
        data = glue('sst2', root=root, tokenizer=words, max_length=6)
    assert len(said) == 1
    assert max(len(item['input_ids']) for item in data) == data.longest == 6


def test_subsets_and_labels(tmp_path, words):
    settings = {'root': save_sst2(tmp_path), 'tokenizer': words}
    data = glue('sst2', n_labels=6, **settings)
    assert [data.targets.count(one) for one in (0, 1, UNLABELLED)] == [3, 3, 18]
    assert len(glue('sst2', n_labels=6, keep_unlabelled=False, **settings)) == 6
    assert sorted(glue('sst2', subset=8, **settings).targets) == [0] * 4 + [1] * 4
    with pytest.raises(ConfigError, match='subset: expected an integer from 1 to 24'):
        glue('sst2', subset=25, **settings)


def test_from_the_hub(monkeypatch, words):
    datasets = pytest.importorskip('datasets')
    asked = []

    def load_dataset(*names, split):
        asked.append((*names, split))
        return datasets.Dataset.from_dict({'premise': ['a film'], 'hypothesis': ['a plot'], 'label': [2], 'idx': [0]})

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    data = glue('mnli', 'validation', tokenizer=words, download=True)
    assert asked == [('nyu-mll/glue', 'mnli', 'validation_matched')]
    assert data.targets == [2]

    def unreachable(*names, split):
        raise ConnectionError('no route to host')

    monkeypatch.setattr(datasets, 'load_dataset', unreachable)
    with pytest.raises(ConfigError, match=r'no route to host.* Put the files into <root>/glue/MNLI'):
        glue('mnli', tokenizer=words, download=True)


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        ({'task': 'sst'}, "did you mean 'sst2'"),
        ({'split': 'test'}, "expected one of .'train', 'validation'"),
        ({'root': '/nowhere'}, r'expected /nowhere/glue/SST-2/train.tsv or .jsonl'),
        ({'max_length': 2}, 'expected from 3 to 512 tokens'),
        ({'max_length': 513}, 'expected from 3 to 512 tokens'),
        ({'tokenizer': 3}, 'expected a folder, a name on the Hugging Face Hub, or a tokenizer'),
    ],
)
def test_bad_settings(tmp_path, words, settings, said):
    with pytest.raises(ConfigError, match=said):
        glue(**{'task': 'sst2', 'root': save_sst2(tmp_path), 'tokenizer': words, **settings})


def test_rows_of_another_file(tmp_path, words):
    file = tmp_path / 'glue' / 'SST-2' / 'train.tsv'
    file.parent.mkdir(parents=True)
    for text, said in (('text\tlabel\na\t1\n', 'expected a column sentence'), ('sentence\tlabel\na\t7\n', "got '7'")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=f'row 1 of .*train.tsv is not one of sst2: .*{said}'):
            glue('sst2', root=tmp_path, tokenizer=words)
