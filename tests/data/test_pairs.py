"""Pairs of texts from tables: columns, special tokens, cuts, padding, and what is refused."""

import datasets
import pytest
import torch

from composer_kd import ConfigError
from composer_kd.data import text_pairs
from composer_kd.data.table import column_texts, read_table
from tests.texts import save_jsonl, save_tokenizer

transformers = pytest.importorskip('transformers')
ROWS = [
    {'question': 'is it good', 'answer': 'it is great'},
    {'question': 'the film', 'answer': 'bad'},
    {'question': 'a very very dull story', 'answer': 'not the plot'},
]


@pytest.fixture
def words(tmp_path):
    return transformers.AutoTokenizer.from_pretrained(save_tokenizer(tmp_path / 'words'))


@pytest.fixture
def file(tmp_path):
    save_jsonl(tmp_path / 'pairs.jsonl', ROWS)
    return tmp_path / 'pairs.jsonl'


def pairs(file, words, **options):
    return text_pairs(file, **{'source': 'question', 'target': 'answer', 'tokenizer': words, **options})


def test_both_sides_have_their_special_tokens_and_batches_are_padded(file, words):
    data = pairs(file, words)
    assert data[0]['input_ids'] == words('is it good')['input_ids']
    assert data[0]['labels'] == words('it is great')['input_ids']
    batch = data.collate_fn([data[0], data[2]])
    theirs = transformers.DataCollatorForSeq2Seq(words)([dict(data[0]), dict(data[2])])
    assert {name: value.tolist() for name, value in batch.items()} == {k: v.tolist() for k, v in theirs.items()}
    assert data.longest == 7


def test_a_causal_model_reads_both_and_learns_the_answer(file, words):
    words.add_special_tokens({'eos_token': '[SEP]'})
    data = pairs(file, words, objective='causal', source='{question} and')
    sample = data[1]
    prompt = [words.cls_token_id, *words('the film and', add_special_tokens=False)['input_ids']]
    answer = [*words('bad', add_special_tokens=False)['input_ids'], words.eos_token_id]
    assert sample['input_ids'] == prompt + answer
    assert sample['labels'] == [-100] * len(prompt) + answer


def test_of_a_tokenizer_that_pads_on_the_left_what_a_decoder_reads_is_padded_on_the_right(file, words):
    words.padding_side = 'left'
    both = pairs(file, words), pairs(file, words, objective='causal')
    seq2seq, causal = (data.collate_fn([data[0], data[1]]) for data in both)
    assert seq2seq['labels'][1, -1] == -100
    assert seq2seq['input_ids'][1, 0] == words.pad_token_id
    assert causal['labels'][1, -1] == -100
    assert causal['input_ids'][1, -1] == words.pad_token_id
    assert torch.equal(causal['attention_mask'] == 0, causal['input_ids'] == words.pad_token_id)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_the_loss_of_an_answer_does_not_depend_on_what_it_is_batched_with(file, words, side):
    words.padding_side = side
    sizes = {'vocab_size': len(words), 'n_embd': 8, 'n_layer': 2, 'n_head': 2, 'initializer_range': 0.5}
    net = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()
    data = pairs(file, words, objective='causal')

    def loss(*rows):
        batch = data.collate_fn([data[row] for row in rows])
        return net(**batch).loss * (batch['labels'] != -100).sum()

    with torch.no_grad():
        torch.testing.assert_close(loss(0, 1, 2), loss(0) + loss(1) + loss(2))


@pytest.mark.parametrize(('suffix', 'comma'), [('.csv', ','), ('.tsv', '\t')])
def test_words_that_tables_use_for_nothing_are_texts_and_nothing_is_none(words, tmp_path, suffix, comma):
    file = tmp_path / f'table{suffix}'
    rows = ['question,answer', 'null,None', 'NA,nan']
    file.write_text('\n'.join(rows).replace(',', comma) + '\n')
    table = read_table(file, None, 'train')
    assert column_texts(table, '{question} {answer}', 'source') == ['null None', 'NA nan']
    file.write_text('\n'.join([*rows, 'good,']).replace(',', comma) + '\n')
    with pytest.raises(ConfigError, match="target: row 3 has None in the column 'answer'"):
        pairs(file, words)


@pytest.mark.parametrize('suffix', ['.json', '.csv', '.tsv', '.parquet'])
def test_tables_of_all_kinds_say_the_same(file, words, tmp_path, suffix):
    rows, other = datasets.Dataset.from_list(ROWS), tmp_path / f'other{suffix}'
    write = {
        '.json': lambda: rows.to_json(other, orient='records', lines=False),
        '.csv': lambda: rows.to_csv(other),
        '.tsv': lambda: rows.to_csv(other, sep='\t'),
        '.parquet': lambda: rows.to_parquet(other),
    }
    write[suffix]()
    one, two = pairs(file, words), pairs(other, words, subset=2)
    assert len(one) == 3
    assert [two[number] for number in range(len(two))] == [one[0], one[1]]


def test_long_texts_are_cut_before_their_end_and_it_is_said_once(file, words):
    with pytest.warns(UserWarning, match=r'1 of 3 samples have more than max_source_length=5'):
        data = pairs(file, words, max_source_length=5)
    assert data[2]['input_ids'] == [*words('a very very')['input_ids'][:-1], words.sep_token_id]
    with pytest.warns(UserWarning, match=r'max_target_length=3'):
        cut = pairs(file, words, objective='causal', max_target_length=3)[0]['labels']
    assert [label for label in cut if label != -100] == [*words('it is', add_special_tokens=False)['input_ids'], 3]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'source': 'questoin'}, "no column 'questoin'; did you mean 'question'"),
        ({'source': 'Q: {questio}'}, "no column 'questio'"),
        ({'source': 'Q: {question'}, 'in braces'),
        ({'source': 'Q: {{}}'}, 'names no column'),
        ({'objective': 'masked'}, "expected one of \\['seq2seq', 'causal'\\]"),
        ({'max_target_length': 1}, 'max_target_length: expected from 2'),
        ({'subset': 9}, 'subset'),
        ({'hub': 'owner/name'}, 'one of the two'),
    ],
)
def test_wrong_options_are_refused(file, words, options, message):
    with pytest.raises(ConfigError, match=message):
        pairs(file, words, **options)


def test_missing_damaged_and_other_files_are_refused(file, words, tmp_path):
    (tmp_path / 'bad.jsonl').write_text('{"question": 3')
    save_jsonl(tmp_path / 'numbers.jsonl', [{'question': 'a', 'answer': None}, {'question': 'a', 'answer': 'b'}])
    for other, message in (
        ('nowhere.jsonl', 'there is no file'),
        ('a.txt', 'expected a file of'),
        (tmp_path / 'bad.jsonl', 'cannot be read'),
        (tmp_path / 'numbers.jsonl', "row 1 has None in the column 'answer'"),
    ):
        with pytest.raises(ConfigError, match=message):
            pairs(other, words)
