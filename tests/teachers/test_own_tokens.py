"""A teacher with another tokenizer: it answers where it has read the text that the student has."""

import pytest
import torch
import transformers
from composer.models import HuggingFaceModel
from torch.utils.data import DataLoader

from composer_kd import (
    ConfigError,
    Distillation,
    FrozenTeacher,
    KLDivergence,
    Match,
    OnPolicy,
    TeacherError,
    build_store,
)
from composer_kd.batches import contents
from composer_kd.data import AlignedTexts, Indexed, aligned
from composer_kd.data.aligned import same_prefixes
from composer_kd.errors import StoreError
from composer_kd.losses import UniversalLogit, mse, universal_logit
from composer_kd.teachers import read_own_tokens
from tests.data.test_aligned import letters
from tests.helpers import Recorder, train
from tests.texts import save_tokenizer, sentences


@pytest.fixture
def words(tmp_path):
    return transformers.AutoTokenizer.from_pretrained(save_tokenizer(tmp_path))


def causal(tokenizer, seed, **settings):
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer) + 3, n_embd=8, n_layer=1, n_head=2, n_positions=64, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, **settings,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HuggingFaceModel(transformers.GPT2LMHeadModel(config), tokenizer=tokenizer, metrics=[])


def by_hand(texts, student, teacher, temperature):
    """Each text alone, without padding: the mean over all positions with a partner and a next token."""
    values = []
    for text in texts:
        logits, spans = [], []
        for model in (student, teacher):
            own = model.tokenizer(text, return_offsets_mapping=True, return_tensors='pt', return_token_type_ids=False)
            spans.append([tuple(span) for span in own.pop('offset_mapping')[0].tolist()])
            with torch.no_grad():
                logits.append(model.model.eval()(**own).logits[0])
        for position, partner in enumerate(same_prefixes(*spans)[:-1]):
            if partner >= 0:
                values.append(universal_logit(logits[0][position], logits[1][partner], temperature).item())
    return sum(values) / len(values)


@pytest.mark.parametrize('microbatch', [8, 3])
@pytest.mark.parametrize('side', ['right', 'left'])
@pytest.mark.parametrize('fused', [False, True])
def test_the_loss_is_that_of_each_text_alone(words, microbatch, side, fused):
    words.padding_side = side
    texts, student, teacher = sentences(8), causal(words, 1), causal(letters(), 2)
    data = AlignedTexts(texts, words, teacher.tokenizer)
    expected = by_hand(texts, student, teacher, 2.0)
    recorder = Recorder()
    algorithm = Distillation(FrozenTeacher(teacher, forward=read_own_tokens), UniversalLogit(2.0), fused_head=fused)
    loader = DataLoader(data, 8, collate_fn=data.collate_fn)
    train(student, loader, [algorithm], [recorder], device_train_microbatch_size=microbatch)
    if side == 'right':  # GPT-2 numbers the positions of padding on the left too
        assert recorder.batches[0]['kd'] == pytest.approx(expected, rel=1e-5)
    else:
        assert recorder.batches[0]['kd'] > 0


def test_the_same_model_teaches_nothing(words):
    student = causal(words, 1)
    data = AlignedTexts(sentences(8), words, words)
    recorder = Recorder()
    algorithm = Distillation(FrozenTeacher(causal(words, 1), forward=read_own_tokens), UniversalLogit())
    train(student, DataLoader(data, 8, collate_fn=data.collate_fn), [algorithm], [recorder])
    assert recorder.batches[0]['kd'] == pytest.approx(0.0, abs=1e-6)


def run(words, loss, teachers=None, data=None, **settings):
    teacher = FrozenTeacher(causal(letters(), 2), forward=read_own_tokens, name='spelling')
    data = AlignedTexts(sentences(8), words, letters()) if data is None else data
    loader = DataLoader(data, 8, collate_fn=getattr(data, 'collate_fn', None))
    train(causal(words, 1), loader, [Distillation(teachers or teacher, loss, **settings)])


def test_what_compares_token_by_token_is_refused(words):
    with pytest.raises(ConfigError, match=r"'spelling' has another tokenizer.*UniversalLogit"):
        run(words, KLDivergence())
    with pytest.raises(ConfigError, match=r"'spelling' has another tokenizer.*Match its logits alone"):
        run(words, [Match(UniversalLogit()), Match(mse, on='model.transformer.h.0')])
    with pytest.raises(ConfigError, match="vocabulary=23: the teacher 'spelling' has another tokenizer"):
        run(words, UniversalLogit(), vocabulary=23)
    with pytest.raises(ConfigError, match="on_policy: the teacher 'spelling' reads the texts of the data"):
        run(words, UniversalLogit(), on_policy=OnPolicy(0.5, 4, prompt_length=1))
    both = [FrozenTeacher(causal(letters(), 2), forward=read_own_tokens, name=name) for name in ('spelling', 'b')]
    with pytest.raises(ConfigError, match=r'no mean with those of the others.*Match\(loss, teacher=name\)'):
        run(words, UniversalLogit(), both)


def test_tokens_of_a_third_tokenizer_are_refused(words):
    with pytest.raises(TeacherError, match=r"another tokenizer than that of the teacher 'spelling'.*teacher_tokenizer"):
        run(words, UniversalLogit(), data=AlignedTexts(sentences(8), words, words))
    larger = letters()
    larger.add_tokens(['q!'])
    run(words, UniversalLogit(), data=AlignedTexts(sentences(8), words, larger))


def test_batches_of_one_tokenizer_are_refused(words):
    rows = words(sentences(8), padding='max_length', max_length=12)['input_ids']
    plain = [{'input_ids': torch.tensor(row), 'labels': torch.tensor(row)} for row in rows]
    with pytest.raises(TeacherError, match=r"expected a batch with 'teacher_input_ids'.*aligned_text"):
        run(words, UniversalLogit(), data=plain)


def test_no_store_is_built_of_it_and_it_is_not_evaluated(words):
    data = AlignedTexts(sentences(8), words, letters())
    teacher = FrozenTeacher(causal(letters(), 2), forward=read_own_tokens, name='spelling')
    with pytest.raises(StoreError, match=r"'spelling' has another tokenizer.*live"):
        build_store('unused', teacher, causal(words, 1), Indexed(data))
    with pytest.raises(ConfigError, match="run_teacher_on_eval: 'spelling' has another tokenizer than the labels"):
        Distillation(teacher, UniversalLogit(), run_teacher_on_eval=True)


def test_the_keys_of_the_data_are_those_of_the_batches():
    names = ('OWN_INPUTS', 'OWN_ATTENTION', 'PARTNERS')
    assert [getattr(aligned, name) for name in names] == [getattr(contents, name) for name in names]
