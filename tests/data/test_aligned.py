"""Texts in the tokens of two tokenizers: which positions have read the same."""

import itertools

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from composer_kd import ConfigError
from composer_kd.data import AlignedTexts, aligned_text
from composer_kd.data.aligned import same_prefixes
from tests.texts import save_tokenizer, sentences

cuts = st.lists(st.integers(0, 20), min_size=1, max_size=12).map(lambda ends: sorted({0, *ends}))


def letters(**settings):
    """A tokenizer of single characters, which ends each text with its own token."""
    numbers = {token: at for at, token in enumerate(['<pad>', '<end>', *'abcdefghijklmnopqrstuvwxyz '])}
    split = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, '<pad>'))
    split.pre_tokenizer = tokenizers.pre_tokenizers.Split('', 'isolated')
    split.post_processor = tokenizers.processors.TemplateProcessing('$A <end>', special_tokens=[('<end>', 1)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=split, pad_token='<pad>', **settings)


@settings(deadline=None)
@given(student=cuts, teacher=cuts, special=st.booleans())
def test_partners_end_at_one_character_and_are_all_that_do(student, teacher, special):
    ours, theirs = (list(itertools.pairwise(ends)) for ends in (student, teacher))
    ours = [(0, 0), *ours] if special else ours
    found = same_prefixes(ours, theirs)
    assert len(found) == len(ours)
    for (start, end), partner in zip(ours, found):
        if partner >= 0:
            assert theirs[partner][1] == end > start
        else:
            assert start == end or end not in teacher[1:]


def test_of_the_bytes_of_a_character_the_last_has_read_it():
    assert same_prefixes([(0, 1), (0, 1), (1, 2)], [(0, 1), (0, 1), (0, 1), (1, 2)]) == [-1, 2, 3]


@pytest.mark.parametrize('side', ['right', 'left'])
def test_each_partner_in_a_batch_has_read_the_text_that_the_student_has(tmp_path, side):
    words = transformers.AutoTokenizer.from_pretrained(save_tokenizer(tmp_path), padding_side=side)
    texts, other = sentences(12), letters()
    data = AlignedTexts(texts, words, other, max_length=6, teacher_max_length=25)
    batch = next(iter(DataLoader(data, 12, collate_fn=data.collate_fn)))
    assert (batch['labels'] == batch['input_ids'].masked_fill(batch['attention_mask'] == 0, -100)).all()
    assert batch['teacher_input_ids'].shape == batch['teacher_attention_mask'].shape
    pairs = (batch['teacher_positions'] >= 0).nonzero().tolist()
    for row, position in pairs:
        ids = batch['input_ids'][row, : position + 1]
        read = words.decode([i for i in ids.tolist() if i not in words.all_special_ids])
        partner = batch['teacher_positions'][row, position]
        theirs = ''.join(other.convert_ids_to_tokens(batch['teacher_input_ids'][row, : partner + 1]))
        assert read == theirs
        assert texts[row].startswith(read)
    expected = sum(
        len(' '.join(text.split()[:n])) <= 24 for text in texts for n in range(1, min(4, len(text.split())) + 1)
    )
    assert len(pairs) == expected


def test_files_are_cut_into_texts_that_hold_all_of_them(tmp_path):
    words, file = save_tokenizer(tmp_path / 'words'), tmp_path / 'a.txt'
    file.write_text('\n'.join(sentences(30)))
    data = aligned_text(file, tokenizer=words, teacher_tokenizer=letters(), length=10, root=tmp_path)
    own = transformers.AutoTokenizer.from_pretrained(words)
    ids = [i for item in data for i in item['input_ids'] if i not in own.all_special_ids]
    assert ids == own(file.read_text(), add_special_tokens=False)['input_ids']
    assert all(len(item['input_ids']) == 10 for item in list(data)[:-1])
    assert len(aligned_text('a.txt', tokenizer=words, teacher_tokenizer=letters(), root=tmp_path, subset=2)) == 2


def test_what_cannot_be_aligned_is_refused(tmp_path):
    save_tokenizer(tmp_path)
    slow = transformers.BertTokenizer(str(tmp_path / 'words.txt'))
    with pytest.raises(ConfigError, match=r'teacher_tokenizer: BertTokenizer does not say where .* take the fast one'):
        AlignedTexts(['a film'], str(tmp_path), slow)
    unpadded = letters()
    unpadded.pad_token = None
    with pytest.raises(ConfigError, match=r'teacher_tokenizer: .* no token for padding'):
        AlignedTexts(['a film'], str(tmp_path), unpadded)
    with pytest.raises(ConfigError, match=r'tokenizer: expected a length from 2 to 512, .* got 600'):
        AlignedTexts(['a film'], str(tmp_path), letters(), max_length=600)
    (tmp_path / 'empty.txt').write_text(' \n')
    with pytest.raises(ConfigError, match=r'no text in .*empty.txt'):
        aligned_text(tmp_path / 'empty.txt', tokenizer=str(tmp_path), teacher_tokenizer=letters())
    with pytest.raises(ConfigError, match='length: expected at least 3 tokens, got 2'):
        aligned_text(tmp_path / 'empty.txt', tokenizer=str(tmp_path), teacher_tokenizer=letters(), length=2)
