"""Distillation on the student's own texts (GKD): what is sampled, compared, saved, and refused."""

import copy

import pytest
import torch
from composer.core import Event
from composer.loggers import InMemoryLogger
from composer.metrics import LanguageCrossEntropy
from composer.models import HuggingFaceModel
from torch.utils.data import DataLoader

from composer_kd import (
    BaseModelTeacher,
    ConfigError,
    Distillation,
    FrozenTeacher,
    KLDivergence,
    Match,
    OnPolicy,
    VirtualTeacher,
)
from composer_kd.losses import DKD, GeneralizedJSD, ReverseKL, hint
from tests.features.test_generation import language_model
from tests.helpers import EventSpy, TokenDataset, TokenModel, mlp, pairs, student, train, trainer, weights

transformers = pytest.importorskip('transformers')


def model(seed=0, **settings):
    return HuggingFaceModel(language_model(seed, **settings), shift_labels=True, metrics=[])


def data(count=16, side='right', batch_size=8, extra=()):
    """Prompts of two to four tokens with answers of two, padded on a side."""
    rng = torch.Generator().manual_seed(3)
    rows = {'input_ids': [], 'attention_mask': [], 'labels': []}
    for number in range(count):
        size = 2 + number % 3
        tokens = torch.randint(2, 12, (size + 2,), generator=rng)
        fill = torch.zeros(4 - size, dtype=torch.long)
        columns = (tokens, torch.ones_like(tokens), tokens.masked_fill(torch.arange(size + 2) < size, -100))
        for row, column, pad in zip(rows.values(), columns, (0, 0, -100)):
            parts = [column, fill + pad]
            row.append(torch.cat(parts[:: -1 if side == 'left' else 1]))
    columns = {name: torch.stack(row) for name, row in rows.items()}
    return DataLoader(TokenDataset(**columns, **dict(extra)), batch_size)


def gkd(teacher=None, loss=None, on_policy=None, **options):
    return Distillation(teacher or language_model(1), loss or GeneralizedJSD(0.5), on_policy=on_policy, **options)


class Seen(EventSpy):
    """Collects what a function of the state finds at an event."""

    def __init__(self, event, find):
        super().__init__(event, lambda state: self.found.append(find(state)))
        self.found = []


def batches(net, algorithm, loader=None, **options):
    """The batches of a run, each with its losses as they are logged."""
    log = InMemoryLogger()
    seen = Seen(Event.BEFORE_TRAIN_BATCH, lambda state: {name: value.clone() for name, value in state.batch.items()})
    train(net, loader or data(), [algorithm], [seen], loggers=[log, *options.pop('loggers', [])], **options)
    losses = [{} for _ in seen.found]
    for name, values in log.data.items():
        for time, value in values if name.startswith('loss/train/') else ():
            losses[time.batch.value][name.removeprefix('loss/train/')] = float(value)
    return list(zip(seen.found, losses))


def continuations(batch):
    return [row[own].tolist() for row, own in zip(batch['input_ids'], batch['labels'] != -100)]


def prompts(batch):
    own = batch['labels'] != -100
    return [row[keep].tolist() for row, keep in zip(batch['input_ids'], ~own & (batch['attention_mask'] != 0))]


def test_the_loss_is_the_divergence_at_the_tokens_that_the_student_made():
    net, teacher = model(), language_model(1).eval()
    before = copy.deepcopy(net.model).eval()
    ((batch, loss),) = batches(net, gkd(teacher, on_policy=OnPolicy(1.0, 5)), data(8))
    given = next(iter(data(8)))
    assert prompts(batch) == prompts(given)
    assert continuations(batch) != continuations(given)
    # An independent reading, text by text: each without padding.
    parts, tokens = [], 0
    for prompt, made in zip(prompts(batch), continuations(batch)):
        assert 1 <= len(made) <= 5
        assert 1 not in made[:-1]
        assert len(made) == 5 or made[-1] == 1
        ids = torch.tensor([prompt + made])
        with torch.no_grad():
            p, q = (one(ids).logits[0, len(prompt) - 1 : -1].softmax(-1) for one in (teacher, before))
        mean = (p + q) / 2
        parts.append(0.5 * (p * (p / mean).log()).sum() + 0.5 * (q * (q / mean).log()).sum())
        tokens += len(made)
    assert loss['kd'] == pytest.approx(float(sum(parts)) / tokens, rel=1e-5)
    assert loss['total'] == pytest.approx(0.9 * loss['kd'], rel=1e-6)
    assert 'task' not in loss


def test_no_gradient_goes_through_the_sampling():
    one, other = model(), model()
    ((batch, _),) = batches(one, gkd(loss=ReverseKL(), on_policy=OnPolicy(1.0, 5)), data(8))
    given = DataLoader(TokenDataset(**batch), 8)
    train(other, given, [gkd(loss=ReverseKL(), org_loss_weight=0.0)])
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-6, atol=1e-7)


def test_the_most_probable_tokens_are_transformers_greedy_search_without_dropout():
    net = model(resid_pdrop=0.5, embd_pdrop=0.5)
    twin = copy.deepcopy(net.model).eval()
    modes = {}

    def look(state):
        modes.update({name: part.training for name, part in state.model.named_modules()})

    spy = EventSpy(Event.BEFORE_FORWARD, look)
    seen = Seen(Event.BEFORE_TRAIN_BATCH, lambda state: dict(state.batch))
    train(net, data(8), [gkd(on_policy=OnPolicy(1.0, 5, top_k=1))], [spy, seen])
    (batch,) = seen.found
    assert modes['model.transformer.drop']
    for prompt, made in zip(prompts(batch), continuations(batch)):
        theirs = twin.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, pad_token_id=0)
        assert theirs[0, len(prompt) :].tolist() == made


def test_a_part_of_the_batches_is_the_students_and_logged():
    log = InMemoryLogger()
    seen = batches(model(), gkd(on_policy=OnPolicy(0.5, 5)), max_duration='16ep', loggers=[log])
    own = ['task' not in loss for _, loss in seen]
    assert 8 <= sum(own) <= 24
    shares = [float(value) for _, value in log.data['on_policy/fraction']]
    assert shares == pytest.approx([sum(own[: n + 1]) / (n + 1) for n in range(32)])
    lengths = [sum(map(len, continuations(batch))) / 8 for (batch, _), mine in zip(seen, own) if mine]
    assert [float(value) for _, value in log.data['on_policy/new_tokens']] == pytest.approx(lengths)
    assert seen[own.index(False)][1]['task'] > 0


def test_nothing_is_generated_outside_the_window_and_without_a_fraction():
    seen = batches(model(), gkd(on_policy=OnPolicy(1.0, 5), start_dur='2ba', end_dur='3ba'), max_duration='2ep')
    assert [tuple(batch['input_ids'].shape)[1] == 6 for batch, _ in seen] == [True, True, False, True]
    one, other = model(), model()
    train(one, data(), [gkd(on_policy=OnPolicy(0.0, 5))])
    train(other, data(), [gkd()])
    assert torch.equal(weights(one), weights(other))


@pytest.mark.parametrize('other', [{'device_train_microbatch_size': 3}, {'side': 'left'}])
def test_microbatches_and_the_side_of_padding_make_no_difference(other):
    nets = model(), model()
    loader = data(side=other.pop('side', 'right'))
    one = batches(nets[0], gkd(on_policy=OnPolicy(1.0, 5)), max_duration='2ep')
    two = batches(nets[1], gkd(on_policy=OnPolicy(1.0, 5)), loader, max_duration='2ep', **other)
    assert all(torch.equal(mine['input_ids'], theirs['input_ids']) for (mine, _), (theirs, _) in zip(one, two))
    torch.testing.assert_close(weights(nets[0]), weights(nets[1]), rtol=1e-5, atol=1e-6)


def test_random_states_of_the_run_are_left_alone():
    net = model()
    states = Seen(Event.BEFORE_FORWARD, lambda state: torch.get_rng_state())
    starts = Seen(Event.AFTER_DATALOADER, lambda state: torch.get_rng_state())
    train(net, data(8), [gkd(on_policy=OnPolicy(1.0, 5))], [states, starts])
    assert torch.equal(states.found[0], starts.found[0])


def test_a_resumed_run_draws_the_same(tmp_path):
    def run(net, folder, **options):
        log = InMemoryLogger()
        train(
            net, data(batch_size=4), [gkd(on_policy=OnPolicy(0.5, 5))], loggers=[log],
            save_folder=str(tmp_path / folder), save_interval='1ba', run_name='run', autoresume=True, **options,
        )  # fmt: skip
        return log.data

    straight, resumed = model(), model()
    whole = run(straight, 'straight', max_duration='8ba')
    run(model(), 'parts', max_duration='3ba')
    later = run(resumed, 'parts', max_duration='8ba')
    assert torch.equal(weights(straight), weights(resumed))
    assert float(later['on_policy/fraction'][-1][1]) == float(whole['on_policy/fraction'][-1][1])


def test_padded_classes_of_a_head_are_never_sampled():
    seen = batches(
        model(size=20), gkd(language_model(1, size=14), on_policy=OnPolicy(1.0, 8), vocabulary=12), max_duration='2ep'
    )
    assert all(int(batch['input_ids'].max()) < 12 for batch, _ in seen)


def test_texts_end_where_the_positions_of_a_model_end():
    for ours, theirs in ((7, 16), (16, 7)):
        algorithm = gkd(language_model(1, positions=theirs), on_policy=OnPolicy(1.0, 50))
        with pytest.warns(UserWarning, match='7 positions of the models; texts end there'):
            seen = batches(model(positions=ours), algorithm, data(8))
        assert seen[0][0]['input_ids'].shape[1] <= 7


def test_tokens_that_the_student_forbids_are_never_its_own():
    net = model()
    net.model.generation_config.update(suppress_tokens=[2, 3, 4, 5], min_p=0.9)
    seen = batches(net, gkd(on_policy=OnPolicy(1.0, 5)), max_duration='2ep')
    made = {token for batch, _ in seen for text in continuations(batch) for token in text}
    assert not made & {2, 3, 4, 5}
    assert len(made) > 3


def test_ends_that_are_strings_are_refused():
    net = model()
    net.model.generation_config.stop_strings = ['stop']
    with pytest.raises(ConfigError, match=r'stop_strings of the student ends texts by strings.*give eos_token_id'):
        trainer(net, data(), [gkd(on_policy=OnPolicy(1.0, 5))])


def seq2seq(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers.T5Config(
            vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
            pad_token_id=0, eos_token_id=1, initializer_factor=3.0, dropout_rate=0.3,
        )  # fmt: skip
        return transformers.T5ForConditionalGeneration(config)


def test_an_encoder_decoder_answers_the_input_of_its_encoder():
    rng = torch.Generator().manual_seed(0)
    source = torch.randint(2, 12, (8, 5), generator=rng)
    mask = torch.ones_like(source)
    mask[::2, 3:] = 0
    loader = DataLoader(
        TokenDataset(input_ids=source, attention_mask=mask, labels=torch.randint(2, 12, (8, 3), generator=rng)), 8
    )
    net, teacher = HuggingFaceModel(seq2seq(), metrics=[]), seq2seq(1).eval()
    twin = copy.deepcopy(net.model).eval()
    ((batch, _),) = batches(net, gkd(teacher, loss=KLDivergence(), on_policy=OnPolicy(1.0, 6)), loader)
    assert torch.equal(batch['input_ids'], source)
    assert batch['labels'].shape[1] <= 6
    greedy = HuggingFaceModel(copy.deepcopy(twin), metrics=[])
    ((ours, _),) = batches(greedy, gkd(teacher, on_policy=OnPolicy(1.0, 6, top_k=1)), loader)
    theirs = twin.generate(input_ids=source, attention_mask=mask, max_new_tokens=6, do_sample=False)[:, 1:]
    own = ours['labels']
    assert torch.equal(own.masked_fill(own == -100, 0), theirs)


def test_teachers_that_follow_the_student_and_routes_answer_for_its_texts():
    loader = data(8, extra={'who': torch.arange(8) % 2}.items())
    algorithm = Distillation(
        [language_model(1), language_model(2)], KLDivergence(), route='who', on_policy=OnPolicy(1.0, 5)
    )
    ((batch, loss),) = batches(model(), algorithm, loader)
    assert batch['who'].tolist() == [0, 1] * 4
    assert loss['kd'] > 0


class Numbered:
    name, by_number = 'stored', True

    def prepare(self, state): ...
    def outputs(self, batch, index=None): ...
    def end_batch(self, state): ...


@pytest.mark.parametrize(
    ('net', 'teacher', 'loss', 'message'),
    [
        (lambda: TokenModel(), None, None, 'TokenModel makes no text'),
        (lambda: student(), mlp(), None, 'makes no text'),
        (None, Numbered(), None, "'stored' has stored answers"),
        (None, VirtualTeacher(), None, 'made of the labels'),
        (None, None, DKD(), 'needs the right classes'),
    ],
)
def test_what_cannot_answer_for_texts_of_the_student_is_refused(net, teacher, loss, message):
    net = model() if net is None else net()
    loader = data() if not message.startswith('makes') else DataLoader(pairs(), 8)
    with pytest.raises(ConfigError, match=message):
        trainer(net, loader, [gkd(teacher, loss, on_policy=OnPolicy(0.5, 5))])


def test_encoders_alone_are_refused():
    bert = transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=12, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(ConfigError, match='BertForMaskedLM makes no text'):
        trainer(HuggingFaceModel(bert, metrics=[]), data(), [gkd(on_policy=OnPolicy(0.5, 5))])


def test_texts_without_a_prompt_are_refused_before_training():
    tokens = torch.randint(2, 12, (8, 6))
    packed = DataLoader(TokenDataset(input_ids=tokens, labels=tokens), 8)
    with pytest.raises(ConfigError, match='prompt_length'):
        trainer(model(), packed, [gkd(on_policy=OnPolicy(0.5, 5))])
    ((batch, _),) = batches(model(), gkd(on_policy=OnPolicy(1.0, 5, prompt_length=2)), packed)
    assert torch.equal(batch['input_ids'][:, :2], tokens[:, :2])
    with pytest.raises(ConfigError, match='none of the 6 positions'):
        trainer(model(positions=6), packed, [gkd(on_policy=OnPolicy(0.5, 5, prompt_length=6))])


@pytest.mark.parametrize(
    'options',
    [
        {'fraction': 1.5},
        {'fraction': True},
        {'max_new_tokens': 0},
        {'temperature': 0.0},
        {'top_k': 0},
        {'prompt_length': 2.5},
    ],
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        OnPolicy(**{'fraction': 0.5, 'max_new_tokens': 4, **options})
    with pytest.raises(ConfigError, match='OnPolicy'):
        trainer(model(), data(), [gkd(FrozenTeacher(language_model()), on_policy=0.5)])


def test_the_fused_head_gives_the_same_losses():
    whole, fused = (
        batches(model(), gkd(on_policy=OnPolicy(0.5, 5), fused_head=head), data(32), max_duration='4ba')
        for head in (False, True)
    )
    assert {'task' in loss for _, loss in whole} == {True, False}  # batches of both kinds
    for (one, expected), (other, found) in zip(whole, fused):
        assert torch.equal(one['input_ids'], other['input_ids'])
        assert found == pytest.approx(expected, rel=1e-4)


def test_metrics_of_training_batches_are_refused():
    net = HuggingFaceModel(language_model(0), shift_labels=True, metrics=[LanguageCrossEntropy()], eval_metrics=[])
    with pytest.raises(ConfigError, match=r'metrics of training batches \(LanguageCrossEntropy\) would take texts'):
        trainer(net, data(), [gkd(on_policy=OnPolicy(0.5, 5))])
    trainer(net, data(), [gkd(on_policy=OnPolicy(0.0, 5))])


@pytest.mark.parametrize('fraction', [1.0, 0.5])
def test_layers_of_a_compiled_student_are_those_of_the_step_not_of_its_writing(fraction):
    def run(**options):
        losses = [GeneralizedJSD(0.5), Match(hint, on='transformer.h.0[0]')]
        return batches(model(), gkd(loss=losses, on_policy=OnPolicy(fraction, 5)), max_duration='4ba', **options)

    for (batch, losses), (same, compiled) in zip(run(), run(compile_config={'backend': 'eager'})):
        assert all(torch.equal(value, same[name]) for name, value in batch.items())
        assert losses == pytest.approx(compiled, rel=1e-5)
        assert min(losses.values()) > 0
        assert {*losses} - {'total', 'task', 'kd'} == {'GeneralizedJSD', 'hint_transformer.h.0.0'}


@pytest.mark.parametrize('fused', [False, True])
def test_a_student_of_adapters_writes_with_them_and_its_base_answers(fused):
    peft = pytest.importorskip('peft')
    torch.manual_seed(0)
    lora = peft.LoraConfig(r=2, target_modules=['c_attn'], init_lora_weights=False, fan_in_fan_out=True)
    inner = peft.get_peft_model(language_model(), lora)
    net = HuggingFaceModel(inner, shift_labels=True, metrics=[], should_save_peft_only=False)
    before = copy.deepcopy(inner).eval()
    algorithm = gkd(BaseModelTeacher(), KLDivergence(1.0), OnPolicy(1.0, 5, top_k=1), fused_head=fused)
    ((batch, loss),) = batches(net, algorithm, data(8))
    assert prompts(batch) == prompts(next(iter(data(8))))
    inputs = {name: batch[name] for name in ('input_ids', 'attention_mask')}
    with torch.no_grad():
        ours = before(**inputs).logits
        with before.disable_adapter():
            theirs = before(**inputs).logits
    own = batch['labels'][:, 1:] != -100
    assert torch.equal(ours[:, :-1].argmax(-1)[own], batch['labels'][:, 1:][own])
    assert not torch.equal(theirs[:, :-1].argmax(-1)[own], batch['labels'][:, 1:][own])
    expected = KLDivergence(1.0)(ours[:, :-1][own], theirs[:, :-1][own])
    assert loss['kd'] == pytest.approx(expected.item(), rel=1e-4)
