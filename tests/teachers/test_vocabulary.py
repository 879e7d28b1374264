"""One tokenizer, and heads that are padded to different sizes: the first classes are compared."""

import copy

import pytest
import torch
from composer import Evaluator
from composer.loggers import InMemoryLogger
from composer.models import HuggingFaceModel
from torch.utils.data import DataLoader

from composer_kd import (
    CachedTeacher,
    ConfigError,
    Distillation,
    FrozenTeacher,
    KLDivergence,
    LossError,
    Match,
    TeacherError,
    build_store,
)
from composer_kd.data import Indexed
from composer_kd.losses import DKD, ReverseKL, kl_divergence, mse
from composer_kd.losses.sparse import sample_logits, top_logits
from composer_kd.stores import Dense, Hidden, TopK
from composer_kd.teachers.vocabulary import cut
from tests.helpers import Recorder, TokenDataset, TokenModel, train, trainer
from tests.teachers.test_meanings import Tokenizer

TOKENS = 11  # the tokenizer's; heads are larger


def data(batch_size=8, most=TOKENS, indexed=False, samples=16):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(TOKENS, (samples, 6), generator=generator)
    labels = torch.randint(most, (samples, 6), generator=generator).masked_fill_(ids % 3 == 0, -100)
    dataset = TokenDataset(input_ids=ids, labels=labels)
    return DataLoader(Indexed(dataset) if indexed else dataset, batch_size=batch_size)


def run(teachers, loss=None, student=14, loader=None, **options):
    model, recorder = TokenModel(student, seed=1), Recorder()
    settings = {key: options.pop(key) for key in ('vocabulary', 'teacher_weights', 'route') if key in options}
    algorithm = Distillation(teachers, loss or KLDivergence(2.0), **settings)
    train(model, loader or data(), [algorithm], [recorder], **options)
    return [batch['kd'] for batch in recorder.batches]


def first(models, temperature=2.0):
    """The divergence of the first batch by hand: sliced logits of the student 14 and the mean of the teachers'."""
    batch = next(iter(data()))
    with torch.no_grad():
        student = TokenModel(14, seed=1)(batch)[..., :TOKENS]
        teacher = sum(weight * model(batch)[..., :TOKENS] for weight, model in models)
    valid = batch['labels'] != -100
    return kl_divergence(student[valid], teacher[valid], temperature).item()


@pytest.mark.parametrize('size', [11, 12, 14, 20])
@pytest.mark.parametrize('microbatch', [8, 3])
def test_both_sides_are_cut_before_the_softmax(size, microbatch):
    teacher = TokenModel(size, seed=2)
    found = run(teacher, vocabulary=TOKENS, device_train_microbatch_size=microbatch)
    assert found[0] == pytest.approx(first([(1.0, teacher)]), rel=1e-5)


def test_the_mean_of_teachers_with_heads_of_different_sizes():
    teachers = [TokenModel(12, seed=2), TokenModel(20, seed=3)]
    found = run(teachers, vocabulary=TOKENS, teacher_weights=[3.0, 1.0])
    assert found[0] == pytest.approx(first([(0.75, teachers[0]), (0.25, teachers[1])]), rel=1e-5)


def test_a_route_of_teachers_with_heads_of_different_sizes():
    teachers = [TokenModel(12, seed=2), TokenModel(20, seed=3)]
    one = run(
        teachers, vocabulary=TOKENS, route=lambda batch, index: torch.zeros(len(batch['labels']), dtype=torch.long)
    )
    assert one[0] == pytest.approx(first([(1.0, teachers[0])]), rel=1e-5)


def test_the_student_learns_nothing_of_the_padding():
    model = TokenModel(14, seed=1)
    before = copy.deepcopy(model.head)
    train(model, data(), [Distillation(TokenModel(20, seed=2), KLDivergence(2.0), 1.0, 0.0, vocabulary=TOKENS)], [])
    assert torch.equal(model.head.weight[TOKENS:], before.weight[TOKENS:])
    assert not torch.equal(model.head.weight[:TOKENS], before.weight[:TOKENS])


def test_agreement_is_of_the_cut_logits():
    teacher, model = TokenModel(20, seed=2), TokenModel(14, seed=1)
    made = trainer(
        model, data(), [Distillation(teacher, KLDivergence(), run_teacher_on_eval=True, vocabulary=TOKENS)],
        eval_dataloader=[Evaluator(label='held', dataloader=data(), metric_names=[])], loggers=[InMemoryLogger()],
    )  # fmt: skip
    made.eval()
    found = made.state.algorithms[0].evaluation.latest
    made.close()
    ours, theirs, valid = [], [], []
    for batch in data():
        ours.append(model(batch)[..., :TOKENS])
        theirs.append(teacher(batch)[..., :TOKENS])
        valid.append(batch['labels'] != -100)
    ours, theirs, valid = (torch.cat(x) for x in (ours, theirs, valid))
    same = (ours.argmax(-1) == theirs.argmax(-1))[valid].float().mean().item()
    assert found['metrics/held/agreement/top1'] == pytest.approx(same)
    expected = kl_divergence(ours[valid], theirs[valid], 1.0).item()
    assert found['metrics/held/agreement/kl'] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ('teacher', 'options', 'error', 'said'),
    [
        (TokenModel(20), {}, TeacherError, r'first 14 classes are the same.*vocabulary=N.*at most 14'),
        (TokenModel(20), {'vocabulary': 15}, TeacherError, r'vocabulary=15: the student answers in .*14\)'),
        (TokenModel(9), {'vocabulary': 11}, TeacherError, r"vocabulary=11: the teacher 'TokenModel' answers in .*9\)"),
        (TokenModel(20), {'vocabulary': 0}, ConfigError, 'vocabulary must be the number of tokens'),
        (TokenModel(20), {'vocabulary': True}, ConfigError, 'vocabulary must be the number of tokens'),
        (
            TokenModel(14),
            {'vocabulary': 11, 'loss': KLDivergence(softmax_dim=1)},
            ConfigError,
            'classes that come last',
        ),
        (
            TokenModel(14),
            {'vocabulary': 8, 'loss': DKD()},
            ConfigError,
            'labels hold 10, and 8 classes are compared.*Take texts of their tokenizer.*give vocabulary=11 or more',
        ),
    ],
)
def test_what_does_not_fit_is_refused(teacher, options, error, said):
    with pytest.raises(error, match=said):
        run(teacher, **options)


# Stores -----------------------------------------------------------------------------------------------------------


def stored(folder, format, **options):
    return build_store(folder, TokenModel(20, seed=2), TokenModel(14), data().dataset, format, **options)


def taught_by(folder, loss=None, **options):
    class Plain(TokenModel):
        takes_index = True

    model, recorder = Plain(14, seed=1), Recorder()
    algorithm = Distillation(CachedTeacher(folder), loss or KLDivergence(2.0), **options)
    train(model, data(indexed=True), [algorithm], [recorder])
    return recorder.batches[0]['kd']


def test_a_store_of_the_vocabulary_holds_it_alone(tmp_path):
    teacher = TokenModel(20, seed=2)
    for name, form in (('dense', Dense('float32')), ('topk', TopK(TOKENS, 2.0))):
        store = stored(tmp_path / name, form, vocabulary=TOKENS)
        assert store.manifest.classes == TOKENS
        assert taught_by(tmp_path / name, vocabulary=TOKENS) == pytest.approx(first([(1.0, teacher)]), rel=1e-3)
    stored(tmp_path / 'part', TopK(3, 2.0), vocabulary=TOKENS)
    assert taught_by(tmp_path / 'part', ReverseKL(2.0), vocabulary=TOKENS) > 0.0


def test_a_store_of_all_classes_is_cut_where_it_can_be(tmp_path):
    teacher = TokenModel(20, seed=2)
    stored(tmp_path / 'dense', Dense('float32'))
    stored(tmp_path / 'hidden', Hidden(5, 'float32'), head='head', vocabulary=TOKENS)
    for name in ('dense', 'hidden'):
        assert taught_by(tmp_path / name, vocabulary=TOKENS) == pytest.approx(first([(1.0, teacher)]), rel=1e-4)
    stored(tmp_path / 'topk', TopK(3, 2.0))
    with pytest.raises(TeacherError, match=r'a part of 20 classes, and 11 are compared.*build_store.*vocabulary=11'):
        taught_by(tmp_path / 'topk', vocabulary=TOKENS)
    with pytest.raises(TeacherError, match='at most 14'):
        taught_by(tmp_path / 'dense')


def test_a_part_of_the_classes_is_never_cut():
    logits = torch.randn(2, 5)
    draws = sample_logits(logits, torch.rand(2, 3, dtype=torch.float64), 1.0)
    for target in (top_logits(logits, 3, 1.0), draws):
        assert cut(target, 5, 'it') is target
        with pytest.raises(TeacherError, match='how the probability of the others is divided'):
            cut(target, 4, 'it')
    whole = cut(top_logits(logits, 5, 1.0), 4, 'it')
    torch.testing.assert_close(whole.softmax(-1), logits[:, :4].softmax(-1))


# Tokenizers -------------------------------------------------------------------------------------------------------

WORDS = [f't{number}' for number in range(TOKENS)]


def gpt(size, words=None, seed=0):
    transformers = pytest.importorskip('transformers')
    config = transformers.GPT2Config(
        vocab_size=size, n_embd=8, n_layer=1, n_head=2, n_positions=8, bos_token_id=0, eos_token_id=0, resid_pdrop=0.0,
        embd_pdrop=0.0, attn_pdrop=0.0, initializer_range=0.5,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = HuggingFaceModel(transformers.GPT2LMHeadModel(config), use_logits=True, metrics=[])
    model.tokenizer = None if words is None else Tokenizer(*words)
    return model


def gpt_run(student, teacher, loss=None, **options):
    recorder = Recorder()
    algorithm = Distillation(teacher, loss or KLDivergence(2.0), **options)
    try:
        train(student, data(), [algorithm], [recorder])
    finally:
        student.tokenizer = None  # a stand-in cannot be saved
    return recorder.batches[0]['kd'], algorithm


def shifted(student, teacher):
    """The divergence of the first batch by hand, at positions whose next token has a label."""
    batch = next(iter(data()))
    with torch.no_grad():
        ours, theirs = (model.model(batch['input_ids']).logits[:, :-1, :TOKENS] for model in (student, teacher))
    valid = batch['labels'][:, 1:] != -100
    return kl_divergence(ours[valid], theirs[valid], 2.0).item()


def test_the_tokenizers_say_the_vocabulary():
    student, teacher = gpt(16, WORDS, seed=1), gpt(12, WORDS, seed=2)
    expected = shifted(student, teacher)
    found, algorithm = gpt_run(student, teacher)
    assert algorithm.pool.vocabulary == TOKENS
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_number_says_the_same_without_tokenizers():
    student, teacher = gpt(16, seed=1), gpt(12, seed=2)
    expected = shifted(student, teacher)
    assert gpt_run(student, teacher, vocabulary=TOKENS)[0] == pytest.approx(expected, rel=1e-4)


def test_the_tokens_that_all_have_are_compared():
    added = [*WORDS, '<added>']
    _, algorithm = gpt_run(gpt(16, WORDS), gpt(12, added, seed=2))
    assert algorithm.pool.vocabulary == TOKENS


def test_heads_of_one_size_stay_whole():
    _, algorithm = gpt_run(gpt(16, WORDS), gpt(16, WORDS, seed=2))
    assert algorithm.pool.vocabulary is None


@pytest.mark.parametrize(
    ('ours', 'theirs', 'options', 'error', 'said'),
    [
        (WORDS, None, {}, TeacherError, 'Models that have their tokenizers'),
        (None, WORDS, {}, TeacherError, 'Models that have their tokenizers'),
        (WORDS, WORDS[::-1], {}, TeacherError, 'another tokenizer than the student'),
        (WORDS, WORDS[::-1], {'vocabulary': TOKENS}, TeacherError, 'another tokenizer than the student'),
        (WORDS, WORDS, {'vocabulary': 10}, ConfigError, 'leaves out 1 tokens: all tokenizers have 11'),
        (None, None, {'vocabulary': 13}, ConfigError, "the teacher 'HuggingFaceModel' has a head of 12 classes"),
    ],
)
@pytest.mark.filterwarnings('ignore:The student has a vocabulary')
def test_tokenizers_that_differ_or_are_missing_are_refused_before_training(ours, theirs, options, error, said):
    with pytest.raises(error, match=said):
        gpt_run(gpt(16, ours), gpt(12, theirs), **options)


def test_a_teacher_that_answers_in_the_students_shape_by_itself_is_left_alone():
    teacher = FrozenTeacher(
        gpt(20, WORDS), forward=lambda model, batch: model.model(batch['input_ids']).logits[..., :16]
    )
    assert gpt_run(gpt(16, WORDS), teacher)[1].pool.vocabulary is None


def test_matches_of_layers_need_no_vocabulary():
    loss = Match(mse, on='model.transformer.h.0.mlp')
    _, algorithm = gpt_run(gpt(16, WORDS), gpt(12, WORDS, seed=2), loss)
    assert algorithm.pool.vocabulary is None


def test_a_store_built_with_tokenizers_is_cut_as_the_live_teacher_is(tmp_path):
    model, teacher = gpt(16, WORDS), gpt(12, WORDS, seed=2)
    store = build_store(tmp_path, teacher, model, data().dataset, TopK(3, 2.0))
    assert store.manifest.classes == TOKENS
    assert CachedTeacher(tmp_path).stored_head(model) == (TOKENS, True)
    assert CachedTeacher(tmp_path).stored_head(gpt(16)) == (TOKENS, False)
    with pytest.raises(LossError, match='no temperature'):
        gpt_run(model, CachedTeacher(tmp_path), mse)
