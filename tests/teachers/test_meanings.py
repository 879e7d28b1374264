"""What a token and a class mean to a student and to its teachers."""

import warnings

import pytest
import torch
from composer.models import HuggingFaceModel
from torch.utils.data import DataLoader

from composer_kd import Distillation, FrozenTeacher, KLDivergence, Match, TeacherError, build_store
from composer_kd.losses import mse
from tests.features.test_generation import language_model
from tests.helpers import Recorder, TokenDataset, train

transformers = pytest.importorskip('transformers')


def bert(names=None, size=30, seed=0):
    named = {} if names is None else {'id2label': dict(enumerate(names))}
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        num_labels=3 if names is None else len(names), initializer_range=0.5, **named,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.BertForSequenceClassification(config)


class Tokenizer:
    """Says of a tokenizer what is compared: its vocabulary."""

    def __init__(self, *tokens):
        self.vocabulary = {token: number for number, token in enumerate(tokens)}

    def get_vocab(self):
        return self.vocabulary


def distilled(student, teacher, loss=None, tokenizer=None):
    generator = torch.Generator().manual_seed(1)
    data = TokenDataset(input_ids=torch.randint(1, 30, (8, 6), generator=generator), labels=torch.arange(8) % 2)
    model = HuggingFaceModel(student, use_logits=True, metrics=[])
    model.tokenizer = tokenizer
    recorder = Recorder()
    run = train(model, DataLoader(data, batch_size=8), [Distillation(teacher, loss or KLDivergence(2.0))], [recorder])
    model.tokenizer = None
    return run, recorder


def test_classes_in_another_order_are_refused_with_the_order_that_is_right():
    ours, theirs = ['negative', 'neutral', 'positive'], ['Positive', 'Negative', 'Neutral']
    teacher = bert(theirs, seed=2)
    with pytest.raises(TeacherError, match=r'another order.*logits\[\.\.\., \[1, 2, 0\]\]'):
        distilled(bert(ours), teacher)
    # What the message says makes the distillation of a copy 0, where the copy alone has its rows in another order.
    student, copy = bert(ours, seed=2), bert(theirs, seed=2)
    for mine, other in zip(student.classifier.parameters(), copy.classifier.parameters()):
        mine.data.copy_(other.data[[1, 2, 0]])
    student.eval().train = lambda mode=True: student  # without dropout
    forward = lambda model, batch: model(input_ids=batch['input_ids']).logits[..., [1, 2, 0]]  # noqa: E731
    _, recorder = distilled(student, FrozenTeacher(copy, forward=forward))
    assert recorder.microbatches[0]['kd'] == pytest.approx(0.0, abs=1e-6)


def test_matches_of_layers_need_no_order():
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='The classes of')
        distilled(bert(['a', 'b', 'c']), bert(['c', 'a', 'b']), [Match(mse, on='bert.encoder.layer.0.output')])


def test_other_names_are_said():
    with pytest.warns(UserWarning, match=r"classes of the teacher.*\['x', 'y', 'z'\].*taken for the same"):
        distilled(bert(['a', 'b', 'c']), bert(['x', 'y', 'z']))


@pytest.mark.parametrize(
    'names', [(None, ['a', 'b', 'c']), (['a', 'b', 'c'], None), (['A', 'b', 'c'], ['a', 'B', 'c'])]
)
def test_what_is_unknown_or_equal_is_left_alone(names):
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='The classes of')
        distilled(bert(names[0]), bert(names[1]))


def with_tokenizer(model, tokenizer):
    made = HuggingFaceModel(model, use_logits=True, metrics=[])
    made.tokenizer = tokenizer
    return made


def test_another_tokenizer_is_refused():
    ours, theirs = Tokenizer('<pad>', 'a', 'b', 'c'), Tokenizer('<pad>', 'b', 'a', 'd')
    with pytest.raises(
        TeacherError, match=r"2 of 4 tokens have other numbers; number 1 is 'a' .* and 'b' to the teacher"
    ):
        distilled(bert(), with_tokenizer(bert(), theirs), tokenizer=ours)
    for same in (ours, Tokenizer('<pad>', 'a', 'b', 'c', '<added>'), Tokenizer('<pad>', 'a', 'b')):
        with warnings.catch_warnings():
            warnings.filterwarnings('error', message='.*tokens have another name')
            distilled(bert(), with_tokenizer(bert(), same), tokenizer=ours)
    with pytest.warns(UserWarning, match=r"1 tokens have another name.*'c' to the student and '<reserved>'"):
        distilled(bert(), with_tokenizer(bert(), Tokenizer('<pad>', 'a', 'b', '<reserved>')), tokenizer=ours)


def test_a_teacher_that_translates_may_have_another_tokenizer():
    ours, theirs = Tokenizer('<pad>', 'a', 'b'), Tokenizer('<pad>', 'b', 'a')
    teacher = FrozenTeacher(with_tokenizer(bert(), theirs), input_adapter=lambda inputs: dict(inputs))
    distilled(bert(), teacher, tokenizer=ours)


def test_vocabularies_of_other_sizes_are_said_where_there_are_no_tokenizers():
    with pytest.warns(UserWarning, match=r'vocabulary of 30 tokens and the teacher .* one of 40: it cannot be known'):
        distilled(bert(), bert(size=40))


@pytest.mark.parametrize('store', [False, True])
def test_a_vocabulary_that_is_given_says_that_the_tokens_are_the_same(store, tmp_path):
    ours, theirs = (language_model(0, size=size) for size in (20, 24))
    model = HuggingFaceModel(ours, use_logits=True, metrics=[])
    data = TokenDataset(input_ids=torch.arange(16).reshape(2, 8), labels=torch.arange(16).reshape(2, 8))
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'The student has a vocabulary')
        if store:
            build_store(tmp_path / 'store', theirs, model, data, vocabulary=20)
        else:
            train(model, DataLoader(data, batch_size=2), [Distillation(theirs, KLDivergence(), vocabulary=20)])


def test_a_padded_vocabulary_is_refused_with_the_way_out():
    def lm(size):
        config = transformers.GPT2Config(vocab_size=size, n_embd=8, n_layer=1, n_head=2, n_positions=8)
        return transformers.GPT2LMHeadModel(config)

    def run(ours, theirs):
        ids = torch.randint(20, (8, 6))
        model = HuggingFaceModel(lm(ours), use_logits=True, metrics=[])
        data = DataLoader(TokenDataset(input_ids=ids, labels=ids), batch_size=8)
        return train(model, data, [Distillation(theirs, KLDivergence())], [])

    for sizes in ((20, 24), (24, 20)):
        with pytest.raises(TeacherError, match=r'If the first 20 classes are the same.*vocabulary=N.*at most 20'):
            run(sizes[0], lm(sizes[1]))
    run(20, FrozenTeacher(lm(24), forward=lambda model, batch: model(batch['input_ids']).logits[..., :20]))
    pad = torch.nn.functional.pad
    run(
        24,
        FrozenTeacher(lm(20), forward=lambda model, batch: pad(model(batch['input_ids']).logits, (0, 4), value=-1e4)),
    )
