"""The fused head in a real Trainer, against the same runs with the logits of all positions."""

import os
import sys

import pytest
import torch
import transformers
from composer import Evaluator
from composer.algorithms import LabelSmoothing
from composer.loggers import InMemoryLogger
from composer.metrics import LanguageCrossEntropy
from composer.models import HuggingFaceModel
from composer.utils import dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from composer_kd import (
    CachedTeacher,
    ConfigError,
    Distillation,
    EMATeacher,
    FrozenTeacher,
    KLDivergence,
    Match,
    Ramp,
    TeacherError,
    build_store,
)
from composer_kd.bench.memory import peak_for
from composer_kd.data import Indexed
from composer_kd.losses import (
    DKD,
    AlphaBetaDivergence,
    GeneralizedJSD,
    ReverseKL,
    SkewedKL,
    TotalVariation,
    UniversalLogit,
    hint,
    kl_divergence,
    mse,
    rkd,
)
from composer_kd.losses import linear_logits as chunks
from composer_kd.losses.linear_logits import LinearLogits
from composer_kd.matches.one_pass import OnePass, RowLoss, cross_entropy
from composer_kd.stores import Hidden, Sampled, TopK
from composer_kd.teachers import BaseModelTeacher, VirtualTeacher
from tests.helpers import EventSpy, Recorder, TokenDataset, TokenModel, sgd, train, trainer, weights
from tests.launching import on_ranks

WORDS = 23
GPT2 = {'n_embd': 8, 'n_layer': 1, 'n_head': 2, 'n_positions': 16, 'resid_pdrop': 0.0, 'embd_pdrop': 0.0,
        'attn_pdrop': 0.0, 'bos_token_id': 0, 'eos_token_id': 0, 'initializer_range': 0.3}  # fmt: skip
BLOCK = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 12,
         'max_position_embeddings': 16, 'initializer_range': 0.3}  # fmt: skip
DECODER = {**BLOCK, 'num_key_value_heads': 2, 'bos_token_id': 0, 'eos_token_id': 0, 'pad_token_id': 0}
BERT = {**BLOCK, 'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0}
NETS = {
    'gpt2': ('GPT2LMHeadModel', 'GPT2Config', GPT2),
    'gpt2, untied': ('GPT2LMHeadModel', 'GPT2Config', {**GPT2, 'tie_word_embeddings': False}),
    'llama': ('LlamaForCausalLM', 'LlamaConfig', DECODER),
    'phi, with bias': ('PhiForCausalLM', 'PhiConfig', {**DECODER, 'resid_pdrop': 0.0}),
    'cohere, with factor': ('CohereForCausalLM', 'CohereConfig', {**DECODER, 'logit_scale': 0.25}),
    'granite, with divisor': ('GraniteForCausalLM', 'GraniteConfig', {**DECODER, 'logits_scaling': 8.0}),
    'gemma2, with softcap': (
        'Gemma2ForCausalLM', 'Gemma2Config', {**DECODER, 'head_dim': 4, 'final_logit_softcapping': 5.0},
    ),
    'bert': ('BertForMaskedLM', 'BertConfig', BERT),
    'bert, untied': ('BertForMaskedLM', 'BertConfig', {**BERT, 'tie_word_embeddings': False}),
    'distilbert': (
        'DistilBertForMaskedLM', 'DistilBertConfig',
        {'dim': 8, 'n_layers': 1, 'n_heads': 2, 'hidden_dim': 12, 'max_position_embeddings': 16, 'dropout': 0.0,
         'attention_dropout': 0.0},
    ),
}  # fmt: skip


def net(kind='gpt2', seed=0, words=WORDS, double=True, **settings):
    model, config, values = NETS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = getattr(transformers, model)(getattr(transformers, config)(vocab_size=words, **{**values, **settings}))
        head = made.get_output_embeddings()
        if head.bias is not None:
            nn.init.normal_(head.bias)
    return made.double() if double else made


def wrapped(inner):
    return HuggingFaceModel(inner, metrics=[], shift_labels='MaskedLM' not in type(inner).__name__)


def student(kind='gpt2', **settings):
    return wrapped(net(kind, 1, **settings))


def texts(samples=8, size=9, batch_size=4, indexed=False, labels=True):
    """Padded texts of very different lengths, with labels at some of the tokens."""
    chance = torch.Generator().manual_seed(3)
    ids = torch.randint(1, WORDS, (samples, size), generator=chance)
    mask = (torch.arange(size) < torch.tensor([9, 2, 5, 3, 8, 8, 2, 4]).repeat(samples // 8)[:, None]).long()
    marked = torch.where((mask == 1) & (torch.rand(ids.shape, generator=chance) < 0.7), ids, -100)
    columns = {'input_ids': ids * mask, 'attention_mask': mask, **({'labels': marked} if labels else {})}
    data = TokenDataset(**columns)
    return DataLoader(Indexed(data) if indexed else data, batch_size=batch_size)


def run(fused, model=None, teachers=None, loss=None, data=None, **options):
    """The losses of all microbatches and the weights at the end of a run."""
    model, recorder = model or student(), Recorder()
    names = ('positions', 'vocabulary', 'kd_loss_weight', 'org_loss_weight', 'start_dur', 'end_dur', 'teacher_weights',
             'n_teachers_to_sample', 'run_teacher_on_eval')  # fmt: skip
    settings = {name: options.pop(name) for name in names if name in options}
    teachers = net('gpt2', 2, n_embd=12) if teachers is None else teachers
    algorithm = Distillation(teachers, loss or KLDivergence(2.0), fused_head=fused, **settings)
    train(model, data or texts(), [algorithm], [recorder], optimizer=sgd(model), **options)
    return recorder.microbatches, weights(model)


def assert_same(make, ignore=None, **close):
    """Runs with whole logits and with the fused head; ``make`` gives the arguments, new ones for each."""
    plain, fused = run(False, **make()), run(True, **make())
    assert len(plain[0]) == len(fused[0])
    for pair in zip(plain[0], fused[0]):
        kept = [{name: value for name, value in one.items() if name != ignore} for one in map(named_losses, pair)]
        assert list(kept[0]) == list(kept[1])
        torch.testing.assert_close(*kept, **close)
    torch.testing.assert_close(plain[1], fused[1], **close)


def named_losses(loss):
    return loss if isinstance(loss, dict) else {'own': loss}


EXACT = {'rtol': 1e-9, 'atol': 1e-11}
CLOSE = {'rtol': 2e-6, 'atol': 1e-7}  # transformers computes its own loss in float32


@pytest.fixture(autouse=True)
def few_logits_at_once(monkeypatch):
    monkeypatch.setitem(chunks._CHUNK, 'cpu', 5 * WORDS)


@pytest.mark.parametrize('kind', NETS)
def test_it_is_the_run_with_whole_logits(kind):
    teacher = 'bert' if 'bert' in kind else 'gpt2'

    def arguments(**weights):
        return {'model': student(kind), 'teachers': net(teacher, 2), 'device_train_microbatch_size': 1, **weights}

    assert_same(arguments, **CLOSE)
    assert_same(lambda: arguments(org_loss_weight=0.0), **EXACT, ignore='task')


def with_mask(student, teacher, mask=None):
    rows = (student - teacher).abs().mean(-1)
    return rows.mean() if mask is None else rows.flatten()[mask].mean()


LOSSES = {
    'reverse': lambda: ReverseKL(2.0),
    'jsd': lambda: GeneralizedJSD(0.3, 2.0),
    'skewed': lambda: SkewedKL(0.1),
    'alpha-beta': lambda: AlphaBetaDivergence(0.2, 0.7),
    'total variation': lambda: TotalVariation(),
    'with labels': lambda: DKD(),
    'squared': lambda: mse,
    "torch's": lambda: nn.SmoothL1Loss(),
    'a function': lambda: lambda student, teacher: (student - teacher).square().mean(),
    'a function of a mask': lambda: with_mask,
    'several': lambda: [
        Match(KLDivergence(), weight=Ramp(0.2, 1.0), temperature=Ramp(1.0, 4.0)),
        Match(mse, weight=0.1, name='squares'),
        Match(hint, on='transformer.h.0[0]', project='auto', weight=0.3),
    ],
}


@pytest.mark.parametrize('name', LOSSES)
def test_any_loss_that_is_a_mean_over_positions(name):
    def arguments():
        torch.manual_seed(5)  # of the projector
        weighing = {'org_loss_weight': 0.6, 'kd_loss_weight': 0.7}
        return {'loss': LOSSES[name](), 'device_train_microbatch_size': 3, 'max_duration': '2ep', **weighing}

    assert_same(arguments, **CLOSE)


def test_in_single_precision_it_differs_by_rounding():
    def arguments():
        return {'model': student(double=False), 'teachers': net('llama', 2, double=False), 'max_duration': '2ep'}

    assert_same(arguments, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    'options',
    [
        {'positions': 'attended'},
        {'start_dur': '1ba', 'end_dur': '3ba'},
        {'kd_loss_weight': 0.0, 'org_loss_weight': 1.0},
        {'org_loss_weight': 0.0, 'data': lambda: texts(labels=False)},
        {'vocabulary': WORDS, 'model': lambda: student(words=27), 'teachers': lambda: net(seed=2, words=25)},
        {'teachers': lambda: [net(seed=2), net('llama', 3)], 'teacher_weights': [1.0, 3.0]},
        {'teachers': lambda: [net(seed=2), net('llama', 3)], 'n_teachers_to_sample': 1},
        {'teachers': lambda: [net(seed=2), TokenModel(WORDS).double()], 'loss': lambda: [Match(mse, weight=2.0)]},
        {'teachers': lambda: FrozenTeacher(student('llama'), name='wrapped')},
        {'teachers': lambda: EMATeacher('2ba')},
        {'teachers': lambda: net(seed=2, words=29), 'loss': UniversalLogit},
        {'loss': lambda: Match(hint, on='transformer.h.0[0]'), 'teachers': lambda: net(seed=2)},
        {
            'loss': lambda: Match(hint, on='transformer.h.0[0]'),
            'teachers': lambda: net(seed=2),
            'org_loss_weight': 0.0,
            'data': lambda: texts(labels=False),
        },
    ],
    ids=['attended', 'window', 'own alone', 'no labels', 'vocabulary', 'mean', 'drawn', 'one whole', 'wrapped', 'ema',
         'other classes', 'layers', 'layers alone'],
)  # fmt: skip
def test_settings_mean_the_same(options):
    def arguments():
        made = {name: value() if callable(value) else value for name, value in options.items()}
        return {'device_train_microbatch_size': 2, 'max_duration': '2ep', **made}

    assert_same(arguments, **CLOSE)


@pytest.mark.parametrize('fused', [False, True], ids=['whole', 'fused'])
def test_weights_that_are_set_during_a_run_count_from_then_on(fused):
    model, recorder = student(), Recorder()
    algorithm = Distillation(net(seed=2), KLDivergence(), fused_head=fused)

    def halve(state):
        algorithm.kd_loss_weight, algorithm.org_loss_weight = 0.25, 0.5

    train(model, texts(), [algorithm], [recorder, EventSpy('epoch_end', halve)], max_duration='2ep')
    for number, one in enumerate(recorder.microbatches):
        of_kd, of_task = (0.9, 0.1) if number < 2 else (0.25, 0.5)
        torch.testing.assert_close(one['total'], of_kd * one['kd'] + of_task * one['task'], check_dtype=False)


@pytest.mark.parametrize('form', [TopK(4, 2.0), Sampled(6, 2.0), Hidden(8, 'float32')], ids=repr)
def test_a_stored_teacher(form, tmp_path):
    head = {'head': 'lm_head'} if isinstance(form, Hidden) else {}
    build_store(tmp_path, net(seed=2, double=False), student(double=False), texts(indexed=True).dataset, form, **head)

    def arguments():
        data = texts(indexed=True)
        return {
            'model': student(double=False),
            'teachers': CachedTeacher(tmp_path),
            'data': data,
            'max_duration': '2ep',
        }

    assert_same(arguments, rtol=1e-5, atol=1e-6)


def test_stored_hidden_states_stay_without_their_head(tmp_path):
    class Spied(CachedTeacher):
        def linear_outputs(self, batch, index=None):
            found = super().linear_outputs(batch, index)
            seen.append(tuple(found.logits.hidden.shape))
            return found

    seen, model = [], student(double=False)
    build_store(tmp_path, net(double=False), model, texts(indexed=True).dataset, Hidden(8, 'float32'), head='lm_head')
    run(True, model, Spied(tmp_path), data=texts(indexed=True))
    assert seen == [(4, 9, 8)] * 2


def test_positions_that_do_not_count_are_not_computed():
    seen = []

    def loss(student, teacher):
        seen.append((len(student), len(teacher)))
        return kl_divergence(student, teacher)

    run(True, student('bert'), net('bert', 2), loss)
    batches = [int((batch['labels'] != -100).sum()) for batch in texts()]
    tries = 6  # of a few rows, before training
    assert [sum(rows) for rows in zip(*seen[tries:])] == [sum(batches)] * 2
    assert max(seen[tries:]) == (5, 5)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation makes, in the backward pass too."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        real = [one for one in tree_leaves(made) if isinstance(one, torch.Tensor) and one.device.type != 'meta']
        self.elements = max([self.elements, *(one.numel() for one in real)])
        return made


def test_no_tensor_has_all_positions_and_classes():
    options = {'optimizer': None, 'max_duration': '1ba'}
    for fused, largest in ((False, 4 * 9 * 1000), (True, 1000 * 8)):  # the weights of the head are larger than a chunk
        model, teacher = student(words=1000), net('llama', 2, words=1000)
        algorithm = Distillation(teacher, KLDivergence(), fused_head=fused)
        run = trainer(model, texts(), [algorithm], **options)
        with Largest() as seen:
            run.fit()
        run.close()
        assert seen.elements == largest


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='the system does not tell')
def test_a_step_takes_a_fraction_of_the_memory(monkeypatch):
    """512 tokens at a vocabulary of 2^15, of which the logits take 67 MB."""
    monkeypatch.setitem(chunks._CHUNK, 'cpu', 2**19)
    ids = torch.arange(1024).reshape(8, 128)
    data = DataLoader(TokenDataset(input_ids=ids, labels=ids), batch_size=4)
    grown = {}
    for fused in (False, True):
        model = student(words=2**15, n_positions=128, double=False)
        teacher = net(seed=2, words=2**15, n_positions=128, double=False)
        meter, found = peak_for(torch.device('cpu')), []
        spies = [
            EventSpy('batch_start', lambda state, meter=meter: meter.start()),
            EventSpy('batch_end', lambda state, meter=meter, found=found: found.append(meter.growth())),
        ]
        train(model, data, [Distillation(teacher, KLDivergence(), fused_head=fused)], spies, optimizer=sgd(model))
        grown[fused] = found
    assert max(grown[True]) < 0.1 * min(grown[False])


def test_an_evaluation_sees_all_logits():
    found = []
    for fused in (False, True):
        model, logger = student(), InMemoryLogger()
        model.use_logits, model.val_metrics = True, {'LanguageCrossEntropy': LanguageCrossEntropy()}
        evaluator = Evaluator(label='eval', dataloader=texts(), metric_names=['LanguageCrossEntropy'])
        options = {'run_teacher_on_eval': True, 'eval_dataloader': evaluator, 'loggers': logger}
        run(fused, model, **options)
        found.append({name: values[-1][1] for name, values in logger.data.items() if name.startswith('metrics/')})
    assert set(found[0]) > {'metrics/eval/LanguageCrossEntropy', 'metrics/eval/agreement/kl'}
    torch.testing.assert_close(*found)


def test_a_resumed_run_is_that_which_was_not_interrupted(tmp_path):
    def start(duration, **options):
        model = student(double=False)
        algorithm = Distillation(net(seed=2, double=False), KLDivergence(2.0), fused_head=True)
        return train(model, texts(), [algorithm], max_duration=duration, **options), model

    _, whole = start('2ep')
    start('1ep', save_folder=str(tmp_path), save_overwrite=True)
    _, resumed = start('2ep', load_path=str(tmp_path / 'latest-rank0.pt'))
    assert torch.equal(weights(whole), weights(resumed))


def test_nothing_is_left_on_the_models():
    model, teacher = student(), net(seed=2)
    run(True, model, teacher)
    for part in (*model.modules(), *teacher.modules()):
        assert not part._forward_hooks
        assert not part._forward_pre_hooks
    assert model.model(torch.ones(1, 4, dtype=torch.long)).logits.shape == (1, 4, WORDS)


def where_sure(student, teacher):
    """A mean over the positions at which the teacher is sure."""
    sure = teacher.softmax(-1).amax(-1) > 0.8
    return ((student - teacher).square().mean(-1) * sure).sum() / sure.sum().clamp(min=1)


class Weighted(HuggingFaceModel):
    def loss(self, outputs, batch):
        return 2.0 * super().loss(outputs, batch)


def lora_like():
    class Adapted(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer, self.weight = base, base.weight
            self.lora_A, self.lora_B = nn.Linear(8, 2, bias=False), nn.Linear(2, WORDS, bias=False)

        def forward(self, hidden):
            return self.base_layer(hidden) + self.lora_B(self.lora_A(hidden))

    inner = net(double=False, tie_word_embeddings=False)
    inner.lm_head = Adapted(inner.lm_head)
    return wrapped(inner)


def with_late_bias():
    config = transformers.EsmConfig(vocab_size=WORDS, pad_token_id=0, mask_token_id=1, **BERT)
    return wrapped(transformers.EsmForMaskedLM(config))


def ignoring(label):
    model = student()
    model.ignore_index = label
    return model


def with_train_metrics():
    return HuggingFaceModel(net(), metrics=[LanguageCrossEntropy()], shift_labels=True)


def mixture():
    config = transformers.MixtralConfig(
        vocab_size=WORDS, num_local_experts=2, output_router_logits=True, router_aux_loss_coef=0.5, **DECODER
    )
    return wrapped(transformers.MixtralForCausalLM(config))


def translator():
    config = transformers.T5Config(vocab_size=WORDS, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2,
                                   decoder_start_token_id=0)  # fmt: skip
    return HuggingFaceModel(transformers.T5ForConditionalGeneration(config), metrics=[])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'model': lambda: TokenModel(WORDS)}, 'expected a HuggingFaceModel with the loss of its net'),
        ({'model': lambda: Weighted(net(), metrics=[], shift_labels=True)}, 'with the loss of its net'),
        ({'model': lora_like}, r'a head that is more than one linear layer: .*Adapted'),
        ({'model': with_late_bias}, 'weights behind its linear head'),
        ({'model': mixture}, 'not the mean cross-entropy of the next tokens'),
        ({'model': lambda: HuggingFaceModel(net(), metrics=[], shift_labels=False)}, 'cross-entropy of the labels'),
        ({'model': with_train_metrics}, r'metrics of training batches \(LanguageCrossEntropy\) read logits'),
        ({'model': translator}, 'is an encoder-decoder'),
        ({'loss': lambda: rkd}, "'rkd' compares positions with one another"),
        ({'loss': lambda: nn.KLDivLoss(reduction='batchmean')}, r"'KLDivLoss' takes log-probabilities.*KLDivergence"),
        (
            {'loss': lambda: [KLDivergence(), Match(hint, on=('transformer.h.0', 'lm_head'), project='auto')]},
            "a match compares 'lm_head' of the teacher 'GPT2LMHeadModel', the logits of all positions",
        ),
        (
            {'loss': lambda: [mse, Match(hint, on=('transformer.h.0', 'outputs.logits'), project='auto')]},
            "compares 'outputs.logits' of the teacher",
        ),
        ({'loss': lambda: nn.MSELoss(reduction='sum')}, "'MSELoss' is no mean over positions"),
        ({'loss': lambda: where_sure}, "'where_sure' is no mean over positions"),
        ({'loss': lambda: KLDivergence(softmax_dim=1)}, 'has softmax_dim=1'),
        ({'loss': lambda: Match(hint, on='lm_head')}, "a match compares 'lm_head', the logits of all positions"),
        (
            {
                'model': lambda: student('bert'),
                'teachers': lambda: net('bert', 2),
                'loss': lambda: [mse, Match(hint, on='cls.predictions')],
            },
            "a match compares 'cls.predictions', the logits of all positions",
        ),
        ({'loss': lambda: Match(hint, on='outputs.logits')}, "a match compares 'outputs.logits'"),
        ({'algorithms': lambda: [LabelSmoothing()]}, 'fused_head and LabelSmoothing'),
        ({'algorithms': lambda: [Distillation(net(), mse, start_dur='1ep')]}, 'Distillation and Distillation'),
        ({'teachers': VirtualTeacher}, "the teacher 'virtual' reads the student's logits"),
        ({'teachers': lambda: net(seed=2, words=29)}, r'answers in the shape \(29,\), the student in \(23,\)'),
        ({'model': lambda: ignoring(0)}, 'the model ignores the label 0'),
        ({'route': lambda: 'teacher_id'}, "fused_head and route='teacher_id'"),
    ],
    ids=lambda value: value if isinstance(value, str) else '',
)  # fmt: skip
def test_what_cannot_be_is_refused_before_training(change, message):
    made = {name: value() for name, value in change.items()}
    model, others = made.pop('model', None) or student(), made.pop('algorithms', [])

    def start():
        teacher, loss = made.pop('teachers', net(seed=2)), made.pop('loss', KLDivergence())
        algorithm = Distillation(teacher, loss, fused_head=True, **made)
        trainer(model, texts(), [algorithm, *others])

    with pytest.raises((ConfigError, TeacherError), match=message):
        start()


def test_a_teacher_whose_head_cannot_be_kept_answers_whole():
    def arguments():
        return {'teachers': FrozenTeacher(net(seed=2), forward=lambda model, batch: model(batch['input_ids']).logits)}

    with pytest.warns(UserWarning, match='made of all positions at once.*forward function is one of your own'):
        run(True, **arguments())
    assert_same(arguments, **CLOSE)


def on_rank():
    """Both runs on two ranks, of which one has a microbatch without any label that counts."""

    def arguments():
        data = texts().dataset
        data.columns['labels'][:2] = -100
        loader = DataLoader(data, batch_size=2, sampler=dist.get_sampler(data, shuffle=False))
        return {'model': student(), 'data': loader, 'device_train_microbatch_size': 1, 'max_duration': '2ep'}

    assert_same(arguments, **CLOSE)
    os._exit(0)  # the destructor of gloo's process group may wait for ever on a thread that waits for Python's lock


@pytest.mark.slow
def test_two_ranks_agree_with_whole_logits():
    on_ranks(2, on_rank)


def test_adapters_below_the_head_train_as_with_whole_logits():
    peft = pytest.importorskip('peft')

    def arguments():
        torch.manual_seed(5)
        config = peft.LoraConfig(r=2, target_modules=['c_attn'], init_lora_weights=False)
        inner = peft.get_peft_model(net(seed=1), config).double()
        return {'model': HuggingFaceModel(inner, metrics=[], shift_labels=True, should_save_peft_only=False)}

    assert_same(arguments, **CLOSE)
    assert_same(lambda: {**arguments(), 'teachers': BaseModelTeacher()}, **CLOSE)


@pytest.mark.parametrize('saved', [True, False], ids=['trained whole', 'adapted'])
def test_adapters_in_the_head(saved):
    peft = pytest.importorskip('peft')

    def arguments():
        torch.manual_seed(5)
        parts = {'target_modules': ['c_attn'], 'modules_to_save': ['lm_head']}
        config = peft.LoraConfig(r=2, **(parts if saved else {'target_modules': ['lm_head']}))
        inner = peft.get_peft_model(net(seed=1, tie_word_embeddings=False), config).double()
        return {'model': HuggingFaceModel(inner, metrics=[], shift_labels=True, should_save_peft_only=False)}

    if saved:
        assert_same(arguments, **CLOSE)
    else:
        with pytest.raises(ConfigError, match=r'more than one linear layer: peft.*Linear'):
            run(True, **arguments())


def test_a_compiled_student_is_refused():
    model = student(double=False)
    algorithm = Distillation(net(seed=2, double=False), KLDivergence(), fused_head=True)
    started = trainer(model, texts(), [algorithm], compile_config={})
    with pytest.raises(ConfigError, match='the student is compiled'):
        started.fit()


def test_autocast_makes_the_same_products():
    torch.manual_seed(0)
    hidden, head = torch.randn(2, 6, 8, requires_grad=True), nn.Linear(8, WORDS)
    labels = torch.arange(12).reshape(2, 6)
    together = OnePass(LinearLogits(hidden, head.weight, head.bias), labels)
    together.add(RowLoss('task', cross_entropy, None))
    with torch.autocast('cpu', torch.bfloat16):
        total, _ = together()
        logits = head(hidden)
    expected = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
    torch.testing.assert_close(total, expected)
    ours, theirs = (torch.autograd.grad(value, [hidden, head.weight]) for value in (total, expected))
    torch.testing.assert_close(ours, theirs, rtol=2e-2, atol=1e-3)


def test_another_forward_pass_in_the_place_of_the_students_is_seen():
    model = student(double=False)
    algorithm = Distillation(net(seed=2, double=False), KLDivergence(), fused_head=True)
    spy = EventSpy('before_forward', lambda state: model(dict(state.batch)))
    with pytest.raises(ConfigError, match='something else ran the student before its forward pass'):
        train(model, texts(), [algorithm], [spy])
