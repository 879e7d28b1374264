"""Which positions count, and which dimension holds the classes: in real runs, against what is computed by hand."""

import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from composer.loggers import InMemoryLogger
from composer.models import ComposerModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

from composer_kd import ConfigError, Distillation, KLDivergence, LossError, Match
from composer_kd.losses import (
    DIST,
    DKD,
    ChannelWiseKL,
    LogitStandardization,
    ReverseKL,
    attention_kl,
    hard_label,
    kl_divergence,
    mse,
    similarity_preserving,
)
from tests.helpers import TokenDataset, TokenModel, named, train

transformers = pytest.importorskip('transformers')


class Dense(ComposerModel):
    """A model whose input, times one parameter, is its logits; its loss is a cross-entropy."""

    def __init__(self, scale=1.0, dim=1, ignore=-100, attribute=None):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(float(scale)))
        self.dim, self.ignore = dim, ignore
        if attribute is not None:
            self.ignore_index = attribute
        self.metric = MulticlassAccuracy(3, average='micro', ignore_index=-100)

    def forward(self, batch):
        return (batch['x'] if isinstance(batch, dict) else batch[0]) * self.scale

    def loss(self, outputs, batch):
        labels = batch['labels'] if isinstance(batch, dict) else batch[1]
        classes = outputs.movedim(self.dim, 1)
        labels = labels.long().reshape(classes.shape[:1] + classes.shape[2:])
        return F.cross_entropy(classes, labels, ignore_index=self.ignore)


class Flat(nn.Module):
    """A teacher: the inputs, the other way round along the classes."""

    def __init__(self, dim=1):
        super().__init__()
        self.dim = dim

    def forward(self, x):
        return x.flip(self.dim)


def columns(**tensors):
    return TokenDataset(**tensors)


def logged(model, data, algorithm, micro=None, **options):
    log, size = InMemoryLogger(), len(data)
    loader = DataLoader(data, batch_size=size)
    options.setdefault('optimizer', torch.optim.SGD(model.parameters(), lr=0.0))
    train(model, loader, [algorithm], loggers=[log], device_train_microbatch_size=micro or size, **options)
    return {
        name.removeprefix('loss/train/'): float(values[0][1]) for name, values in log.data.items() if 'loss' in name
    }


def kl(student, teacher, temperature=1.0):
    rows = [F.log_softmax(x.flatten(0, -2) / temperature, -1) for x in (student, teacher)]
    return F.kl_div(*rows, log_target=True, reduction='batchmean').item() * temperature**2


def pixels(shape=(4, 3, 2, 5), dim=1, seed=0, one=False, dtype=torch.int64, ignored=-100):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator)
    labels = torch.randint(3, shape[:1] + shape[2:], generator=generator)
    labels[:, 0] = ignored
    labels[2:] = ignored
    return x.movedim(1, dim), labels[:, None].to(dtype) if one else labels.to(dtype)


# Segmentation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('micro', [4, 1])
@pytest.mark.parametrize('one', [False, True])
@pytest.mark.parametrize('dim', [1, 3])
@pytest.mark.parametrize('loss', [KLDivergence(1.0), ReverseKL(1.0), hard_label, mse], ids=named)
def test_classes_of_pixels_are_found_and_ignored_pixels_left_out(loss, dim, one, micro):
    x, labels = pixels(dim=dim, one=one)
    found = logged(Dense(dim=dim), columns(x=x, labels=labels), Distillation(Flat(dim), loss), micro)
    rows = x.movedim(dim, -1)[labels.reshape(4, 2, 5) != -100]
    assert found['kd'] == pytest.approx(float(loss(rows, rows.flip(-1))), rel=1e-5)
    assert found['task'] == pytest.approx(F.cross_entropy(x.movedim(dim, 1), labels.reshape(4, 2, 5)).item(), rel=1e-5)


def test_labels_of_pixels_reach_the_losses_that_ask_for_them():
    x, labels = pixels(one=True)
    rows, known = x.movedim(1, -1)[labels[:, 0] != -100], labels[labels != -100]
    for micro in (4, 1):
        found = logged(Dense(), columns(x=x, labels=labels), Distillation(Flat(), DKD()), micro)
        assert found['kd'] == pytest.approx(DKD()(rows, rows.flip(-1), known).item(), rel=1e-5)


@pytest.mark.parametrize(
    'loss', [LogitStandardization(), LogitStandardization(mse), partial(kl_divergence, temperature=3.0)]
)
def test_losses_that_hold_others_find_the_classes_too(loss):
    x, labels = pixels()
    rows = x.movedim(1, -1)[labels != -100]
    found = logged(Dense(), columns(x=x, labels=labels), Distillation(Flat(), loss))
    assert found['kd'] == pytest.approx(loss(rows, rows.flip(-1)).item(), rel=1e-5)


@pytest.mark.parametrize('loss', [ChannelWiseKL(), similarity_preserving])
def test_losses_of_whole_maps_get_them_as_they_are(loss):
    x, labels = pixels()
    found = logged(Dense(), columns(x=x, labels=labels), Distillation(Flat(), loss))
    assert found['kd'] == pytest.approx(loss(x, x.flip(1)).item(), rel=1e-5)


class Heads(Dense):
    """Two heads, as segmentation models of torchvision have them in training."""

    def forward(self, batch):
        out = super().forward(batch)
        return {'logits': out, 'aux': out.flip(2)}

    def loss(self, outputs, batch):
        return super().loss(outputs['logits'], batch)


class TwoHeads(nn.Module):
    def forward(self, x):
        return {'logits': x, 'aux': x.flip(1)}


def test_the_classes_of_another_head_are_found_too():
    x, labels = pixels()
    rows = [maps.movedim(1, -1)[labels != -100] for maps in (x.flip(2), x.flip(1))]
    for micro in (4, 1):
        match = Match(KLDivergence(1.0), on='outputs[aux]', name='aux')
        found = logged(Heads(), columns(x=x, labels=labels), Distillation(TwoHeads(), [match]), micro)
        assert found['aux'] == pytest.approx(kl(*rows), rel=1e-5)


def test_a_head_of_another_size_is_asked_about():
    class Small(Heads):
        def forward(self, batch):
            out = super().forward(batch)
            return {**out, 'aux': out['aux'][..., 1:]}

    class SmallTeacher(TwoHeads):
        def forward(self, x):
            return {**super().forward(x), 'aux': x[..., 1:].flip(1)}

    x, labels = pixels()
    match = Match(KLDivergence(1.0), on='outputs[aux]', name='aux')
    with pytest.warns(UserWarning, match='takes the last dimension'):
        logged(Small(), columns(x=x, labels=labels), Distillation(SmallTeacher(), [match]))


def test_a_loss_of_ones_own_gets_the_rows_of_pixels():
    seen, (x, labels) = [], pixels()

    def own(student, teacher):
        seen.append(tuple(student.shape))
        return mse(student, teacher)

    logged(Dense(), columns(x=x, labels=labels), Distillation(Flat(), own))
    assert seen == [(int((labels != -100).sum()), 3)]


def test_a_loss_that_says_another_dimension_than_the_labels_is_refused():
    x, labels = pixels()
    with pytest.raises(ConfigError, match=r'softmax_dim=3 takes dimension 3 .* leave dimension 1'):
        logged(Dense(), columns(x=x, labels=labels), Distillation(Flat(), KLDivergence(softmax_dim=3)))


def test_dist_compares_pixels_without_labels_by_dimension_one():
    x, _ = pixels()

    class Unlabelled(Dense):
        def loss(self, outputs, batch):
            return outputs.square().mean()

    found = logged(Unlabelled(), columns(x=x), Distillation(Flat(), DIST()))
    rows = x.movedim(1, -1).flatten(0, 2)
    assert found['kd'] == pytest.approx(DIST()(rows, rows.flip(-1)).item(), rel=1e-5)


def test_logits_of_three_dimensions_without_labels_are_asked_about():
    x = torch.randn(4, 3, 5)

    class Unlabelled(Dense):
        def loss(self, outputs, batch):
            return outputs.square().mean()

    with pytest.warns(UserWarning, match='do not show which dimension holds the classes') as seen:
        logged(Unlabelled(), columns(x=x), Distillation(Flat(), ReverseKL()), micro=1)
    assert sum('which dimension' in str(one.message) for one in seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        found = logged(Unlabelled(), columns(x=x), Distillation(Flat(), KLDivergence(1.0, softmax_dim=1)))
    assert found['kd'] == pytest.approx(kl(x.movedim(1, -1), x.flip(1).movedim(1, -1)), rel=1e-5)


@pytest.mark.parametrize('attribute', [None, 255])
def test_another_ignored_label_is_asked_for_and_left_out(attribute):
    x, labels = pixels(dtype=torch.uint8, ignored=255)
    model, data = Dense(ignore=255, attribute=attribute), columns(x=x, labels=labels)
    if attribute is None:
        with pytest.raises(ConfigError, match='ignore_index = 255'):
            logged(model, data, Distillation(Flat(), KLDivergence(1.0)))
        return
    rows = x.movedim(1, -1)[labels != 255]
    for micro in (4, 1):
        found = logged(model, data, Distillation(Flat(), KLDivergence(1.0)), micro)
        assert found['kd'] == pytest.approx(kl(rows, rows.flip(-1)), rel=1e-5)
        assert found['task'] == pytest.approx(F.cross_entropy(x, labels.long(), ignore_index=255).item(), rel=1e-5)


def test_labels_of_another_resolution_are_told_of():
    x = torch.randn(4, 3, 2, 2)
    labels = torch.randint(3, (4, 4, 4))
    labels[:, 0] = -100

    class Upsampled(Dense):
        def loss(self, outputs, batch):
            return F.cross_entropy(F.interpolate(outputs, size=(4, 4)), batch['labels'])

    with pytest.warns(UserWarning, match='valid_positions'):
        found = logged(Upsampled(), columns(x=x, labels=labels), Distillation(Flat(), KLDivergence(1.0)))
    assert found['kd'] == pytest.approx(kl(x.movedim(1, -1), x.flip(1).movedim(1, -1)), rel=1e-5)

    class Said(Upsampled):
        def valid_positions(self, batch):
            return batch['labels'][:, ::2, ::2] != -100

    rows = x.movedim(1, -1)[labels[:, ::2, ::2] != -100]
    for micro in (4, 1):
        found = logged(Said(), columns(x=x, labels=labels), Distillation(Flat(), KLDivergence(1.0)), micro)
        assert found['kd'] == pytest.approx(kl(rows, rows.flip(-1)), rel=1e-5)


def test_agreement_counts_labelled_pixels_alone():
    x, labels = pixels()

    class Evaluated(Dense):
        def get_metrics(self, is_train=False):
            return {} if is_train else {'accuracy': self.metric}

        def eval_forward(self, batch, outputs=None):
            return self.forward(batch)

        def update_metric(self, batch, outputs, metric):
            metric.update(outputs, batch['labels'])

    class Elsewhere(nn.Module):
        def forward(self, x):
            return torch.where((labels == -100)[:, None], x.flip(1), x * 2)

    model, log = Evaluated(), InMemoryLogger()
    data = DataLoader(columns(x=x, labels=labels), batch_size=4)
    algorithm = Distillation(Elsewhere(), mse, run_teacher_on_eval=True)
    train(
        model, data, [algorithm], loggers=[log], eval_dataloader=data, optimizer=torch.optim.SGD([model.scale], lr=0.0)
    )
    rows = x.movedim(1, -1)[labels != -100]
    assert float(log.data['metrics/eval/agreement/top1'][-1][1]) == 1.0
    assert float(log.data['metrics/eval/agreement/kl'][-1][1]) == pytest.approx(kl(rows, 2 * rows), rel=1e-5)


def test_agreement_is_left_out_for_several_labels_at_once():
    class Several(Dense):
        def loss(self, outputs, batch):
            return F.binary_cross_entropy_with_logits(outputs, batch['labels'])

        def get_metrics(self, is_train=False):
            return {} if is_train else {'accuracy': self.metric}

        def eval_forward(self, batch, outputs=None):
            return self.forward(batch)

        def update_metric(self, batch, outputs, metric):
            metric.update(outputs, batch['labels'].argmax(1))

    model, log = Several(), InMemoryLogger()
    labels = torch.tensor([[1.0, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 0]])
    data = DataLoader(columns(x=torch.randn(4, 3), labels=labels), batch_size=2)
    train(model, data, [Distillation(Flat(), mse, run_teacher_on_eval=True)], loggers=[log], eval_dataloader=data)
    assert 'metrics/eval/teacher/accuracy' in log.data
    assert not [name for name in log.data if 'agreement' in name]


# One output -----------------------------------------------------------------------------------------------------------


class Regression(Dense):
    def __init__(self, squeeze=False):
        super().__init__()
        self.squeeze = squeeze

    def forward(self, batch):
        x = super().forward(batch)
        return x[:, 0] if self.squeeze else x

    def loss(self, outputs, batch):
        return F.mse_loss(outputs.flatten(), batch['labels'].flatten())


class Half(nn.Module):
    def __init__(self, squeeze=False):
        super().__init__()
        self.squeeze = squeeze

    def forward(self, x):
        return x[:, 0] / 2 if self.squeeze else x / 2


def own_divergence(student, teacher):
    return F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction='batchmean')


@pytest.mark.parametrize('squeeze', [False, True])
@pytest.mark.parametrize('loss', [KLDivergence(), ReverseKL(), DIST(), hard_label, own_divergence], ids=named)
def test_a_divergence_of_one_output_is_refused(loss, squeeze):
    data = columns(x=torch.randn(4, 1), labels=torch.randn(4))
    with pytest.raises(LossError, match=r'composer_kd\.losses\.mse'):
        logged(Regression(squeeze), data, Distillation(Half(squeeze), loss))


@pytest.mark.parametrize('squeeze', [False, True])
def test_one_output_is_compared_by_mse(squeeze):
    x = torch.randn(4, 1)
    found = logged(Regression(squeeze), columns(x=x, labels=torch.randn(4)), Distillation(Half(squeeze), mse))
    assert found['kd'] == pytest.approx((x / 2).square().mean().item(), rel=1e-5)


# Language models ------------------------------------------------------------------------------------------------------


def gpt2(seed):
    torch.manual_seed(seed)
    rates = dict.fromkeys(('resid_pdrop', 'embd_pdrop', 'attn_pdrop'), 0.0)
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=8, n_layer=1, n_head=2, n_positions=8, initializer_range=0.5, **rates
    )
    return transformers.GPT2LMHeadModel(config)


class Holds(ComposerModel):
    """A model that contains a causal language model."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch):
        return self.net(**batch)

    def loss(self, outputs, batch):
        return outputs.loss


class Next(TokenModel):
    """A language model of no library, which shifts its labels itself."""

    def loss(self, outputs, batch):
        return F.cross_entropy(outputs[:, :-1].flatten(0, 1), batch['labels'][:, 1:].flatten())


def prompts(vocabulary=20):
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(vocabulary, (4, 6), generator=generator)
    labels = ids.clone()
    for row, length in enumerate((1, 4, 2, 5)):
        labels[row, :length] = -100
    return columns(input_ids=ids, labels=labels)


@pytest.mark.parametrize('micro', [4, 1])
def test_a_causal_model_inside_another_is_known(micro):
    net, teacher, data = gpt2(0), gpt2(1).eval(), prompts()
    found = logged(Holds(net), data, Distillation(teacher, KLDivergence(1.0)), micro)
    with torch.no_grad():
        student, theirs = (model(data.columns['input_ids']).logits[:, :-1] for model in (net, teacher))
    answers = data.columns['labels'][:, 1:] != -100
    assert found['kd'] == pytest.approx(kl(student[answers], theirs[answers]), rel=1e-5)
    targets = data.columns['labels'][:, 1:]
    assert found['task'] == pytest.approx(F.cross_entropy(student.flatten(0, 1), targets.flatten()).item(), rel=1e-5)


def test_a_loss_of_the_next_token_shows_that_labels_are_one_off():
    data, teacher = prompts(11), TokenModel(seed=3)
    with pytest.raises(ConfigError, match='shift_labels = True'):
        logged(Next(), data, Distillation(teacher, KLDivergence(1.0)))
    model = Next()
    model.shift_labels = True
    ids, answers = data.columns['input_ids'], data.columns['labels'][:, 1:] != -100
    with torch.no_grad():
        student, theirs = (net({'input_ids': ids})[:, :-1] for net in (model, teacher))
    for micro in (4, 1):
        found = logged(model, data, Distillation(teacher, KLDivergence(1.0)), micro)
        assert found['kd'] == pytest.approx(kl(student[answers], theirs[answers]), rel=1e-5)


def test_labels_moved_by_the_data_are_refused_where_the_model_says_otherwise():
    model = TokenModel()
    model.shift_labels = True
    with pytest.raises(ConfigError, match='shift_labels = False'):
        logged(model, prompts(11), Distillation(TokenModel(seed=3), KLDivergence(1.0)))


def test_a_decoder_of_transformers_that_does_not_shift_is_told_of():
    """BartForCausalLM is listed as a causal language model, and its own loss takes the labels as they are."""
    from composer.models import HuggingFaceModel

    def bart(seed):
        torch.manual_seed(seed)
        rates = dict.fromkeys(('dropout', 'attention_dropout', 'activation_dropout'), 0.0)
        config = transformers.BartConfig(
            vocab_size=20, d_model=8, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=8,
            max_position_embeddings=8, init_std=0.5, is_decoder=True, is_encoder_decoder=False, **rates,
        )  # fmt: skip
        return transformers.BartForCausalLM(config)

    net, teacher, data = bart(0), bart(1).eval(), prompts()
    algorithm = Distillation(teacher, KLDivergence(1.0))
    with pytest.raises(ConfigError, match=r'with the label i, but .*the argument shift_labels=False'):
        logged(HuggingFaceModel(net, use_logits=True, metrics=[]), data, algorithm)
    model = HuggingFaceModel(net, use_logits=True, metrics=[], shift_labels=False)
    answers = data.columns['labels'] != -100
    with torch.no_grad():
        student, theirs = (one.eval()(data.columns['input_ids']).logits[answers] for one in (net, teacher))
    for micro in (4, 1):
        found = logged(model, data, Distillation(teacher, KLDivergence(1.0)), micro)
        assert found['kd'] == pytest.approx(kl(student, theirs), rel=1e-5)


def test_a_loss_that_shows_nothing_is_asked_about_once():
    class Smoothed(TokenModel):
        def loss(self, outputs, batch):
            return F.cross_entropy(outputs.transpose(1, 2), batch['labels'], label_smoothing=0.3)

    with pytest.warns(UserWarning, match='shift_labels') as seen:
        logged(Smoothed(), prompts(11), Distillation(TokenModel(seed=3), KLDivergence(1.0)), micro=1)
    assert sum('shift_labels' in str(one.message) for one in seen) == 1
    model = Smoothed()
    model.shift_labels = False
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        logged(model, prompts(11), Distillation(TokenModel(seed=3), KLDivergence(1.0)))


@pytest.mark.parametrize('micro', [4, 1])
@pytest.mark.parametrize('positions', ['labelled', 'attended'])
def test_masked_words_or_all_attended_words(positions, micro):
    generator = torch.Generator().manual_seed(4)
    ids = torch.randint(11, (4, 6), generator=generator)
    attention = (torch.arange(6) < torch.tensor([6, 3, 5, 4])[:, None]).long()
    labels = ids.where((torch.rand(4, 6, generator=generator) < 0.4) & (attention == 1), -100)
    model, teacher = TokenModel(), TokenModel(seed=3)
    data = columns(input_ids=ids, attention_mask=attention, labels=labels)
    found = logged(model, data, Distillation(teacher, KLDivergence(1.0), positions=positions), micro)
    with torch.no_grad():
        student, theirs = (net({'input_ids': ids}) for net in (model, teacher))
    counts = labels != -100 if positions == 'labelled' else attention == 1
    assert found['kd'] == pytest.approx(kl(student[counts], theirs[counts]), rel=1e-5)
    assert found['task'] == pytest.approx(F.cross_entropy(student.transpose(1, 2), labels).item(), rel=1e-5)


def test_positions_are_one_of_two():
    with pytest.raises(ConfigError, match="positions must be 'labelled' or 'attended', got 'all'"):
        Distillation(TokenModel(), KLDivergence(), positions='all')


# Encoder-decoders -----------------------------------------------------------------------------------------------------


def t5(seed):
    torch.manual_seed(seed)
    config = transformers.T5Config(
        vocab_size=30, d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, output_hidden_states=True, output_attentions=True, attn_implementation='eager',
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


@pytest.mark.parametrize('micro', [4, 2])
@pytest.mark.parametrize('target', [5, 7])
def test_layers_of_a_decoder_are_masked_by_its_own_positions(target, micro):
    from composer.models import HuggingFaceModel

    net, teacher = t5(0), t5(1).eval()
    source = torch.tensor([5, 3, 4, 2])[:, None] > torch.arange(5)
    answers = torch.tensor([2, 5, 3, 4])[:, None] > torch.arange(target)
    labels = torch.randint(2, 30, (4, target)).where(answers, -100)
    data = columns(input_ids=torch.randint(2, 30, (4, 5)) * source, attention_mask=source.long(), labels=labels)
    matches = [
        Match(mse, on='outputs.decoder_hidden_states[-1]', name='decoder'),
        Match(mse, on='outputs.encoder_last_hidden_state', name='encoder'),
        Match(mse, on='encoder.final_layer_norm', name='inside'),
        Match(attention_kl, on='outputs.decoder_attentions[0]', name='self'),
        Match(attention_kl, on='outputs.cross_attentions[0]', name='cross'),
    ]
    student = HuggingFaceModel(net, use_logits=True, metrics=[])
    found = logged(student, data, Distillation(teacher, matches), micro)
    with torch.no_grad():
        ours, theirs = (model.eval()(**data.columns) for model in (net, teacher))
    of = [outputs.decoder_hidden_states[-1][answers] for outputs in (ours, theirs)]
    assert found['decoder'] == pytest.approx(F.mse_loss(*of).item(), rel=1e-4)
    of = [outputs.encoder_last_hidden_state[source] for outputs in (ours, theirs)]
    assert found['encoder'] == pytest.approx(F.mse_loss(*of).item(), rel=1e-4)
    assert found['inside'] == pytest.approx(found['encoder'], rel=1e-4)
    assert found['cross'] == pytest.approx(_cross(ours, theirs, answers, source), rel=1e-4)


def _cross(ours, theirs, queries, keys):
    """KL of the attention of each real query to the real keys, written as loops."""
    total, number = 0.0, 0
    for sample in range(len(queries)):
        for query in queries[sample].nonzero().flatten():
            for head in range(2):
                s, t = (x.cross_attentions[0][sample, head, query][keys[sample]].double() for x in (ours, theirs))
                total, number = total + (t * (t / s).log()).sum().item(), number + 1
    return total / number


# Speech ---------------------------------------------------------------------------------------------------------------


def wav2vec(seed):
    torch.manual_seed(seed)
    rates = ('hidden_dropout', 'activation_dropout', 'attention_dropout', 'feat_proj_dropout', 'final_dropout')
    config = transformers.Wav2Vec2Config(
        vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0, feat_extract_norm='layer',
        do_stable_layer_norm=True, layerdrop=0.0, initializer_range=1.0, ctc_loss_reduction='mean',
        **dict.fromkeys(rates, 0.0),
    )  # fmt: skip
    return transformers.Wav2Vec2ForCTC(config)


def sounds(width):
    generator = torch.Generator().manual_seed(1)
    lengths, words = (400, 150, 320, 90), (7, 1, 5, 1)
    values, mask, labels = torch.zeros(4, width), torch.zeros(4, width, dtype=torch.long), torch.full((4, 7), -100)
    for row, (length, count) in enumerate(zip(lengths, words)):
        values[row, :length], mask[row, :length] = torch.randn(length, generator=generator), 1
        labels[row, :count] = torch.randint(1, 12, (count,), generator=generator)
    return columns(input_values=values, attention_mask=mask, labels=labels)


@pytest.mark.parametrize(('width', 'micro'), [(400, 4), (500, 4), (400, 1)])
def test_speech_is_compared_at_real_frames_and_keeps_its_task(width, micro):
    from composer.models import HuggingFaceModel

    net, teacher, data = wav2vec(0), wav2vec(1).eval(), sounds(width)
    student = HuggingFaceModel(net, use_logits=True, metrics=[])
    found = logged(student, data, Distillation(teacher, KLDivergence(1.0)), micro)
    rows = [[], []]
    for length, values in zip((400, 150, 320, 90), data.columns['input_values']):
        for side, model in zip(rows, (net, teacher)):
            with torch.no_grad():
                side.append(model.eval()(values[None, :length]).logits[0])
    assert found['kd'] == pytest.approx(kl(*map(torch.cat, rows)), rel=1e-3)
    with torch.no_grad():
        task = [net(**{key: value[i : i + 1] for key, value in data.columns.items()}).loss for i in range(4)]
    assert found['task'] == pytest.approx(torch.stack(task).mean().item(), rel=1e-3)


class Ctc(ComposerModel):
    """A CTC model of one's own, whose frames are its inputs."""

    def __init__(self):
        super().__init__()
        self.scale, self.ctc = nn.Parameter(torch.ones(())), nn.CTCLoss(zero_infinity=True)

    def forward(self, batch):
        return batch['x'] * self.scale

    def loss(self, outputs, batch):
        lengths = (batch['labels'] != -100).sum(1)
        frames = torch.full((len(outputs),), outputs.shape[1])
        targets = batch['labels'].clamp(min=0)
        return self.ctc(outputs.log_softmax(-1).transpose(0, 1), targets, frames, lengths)


@pytest.mark.parametrize('micro', [4, 1])
@pytest.mark.parametrize('length', [3, 6])
def test_a_ctc_model_of_ones_own_is_asked_about_its_frames(length, micro):
    x, labels = torch.randn(4, 6, 5), torch.randint(1, 5, (4, length))
    labels[0, 1:] = labels[2, 2:] = -100
    data = columns(x=x, labels=labels)
    with pytest.warns(UserWarning, match='valid_positions'):
        found = logged(Ctc(), data, Distillation(Flat(-1), KLDivergence(1.0)), micro)
    assert found['kd'] == pytest.approx(kl(x, x.flip(-1)), rel=1e-5)
    task = [Ctc().loss(x[i : i + 1], {'labels': labels[i : i + 1]}).item() for i in range(4)]
    assert found['task'] == pytest.approx(sum(task) / 4, rel=1e-5)

    class Said(Ctc):
        def valid_positions(self, batch):
            return torch.arange(6).expand(len(batch['x']), 6) < 4

    found = logged(Said(), data, Distillation(Flat(-1), KLDivergence(1.0)), micro)
    assert found['kd'] == pytest.approx(kl(x[:, :4], x[:, :4].flip(-1)), rel=1e-5)


# However a batch is cut -----------------------------------------------------------------------------------------------

KINDS = st.sampled_from(['tokens', 'tokens first', 'pixels', 'pixels last', 'one map', 'samples', 'one column'])


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=KINDS, micro=st.integers(1, 5), known=st.lists(st.booleans(), min_size=60, max_size=60), seed=st.integers(0, 9)
)
def test_a_batch_gives_the_same_losses_however_it_is_cut(kind, micro, known, seed):
    """Labels at random, some microbatches without any: kd and task are means over the whole batch."""
    generator = torch.Generator().manual_seed(seed)
    inner = {'tokens': (5,), 'tokens first': (5,), 'samples': (), 'one column': ()}.get(kind, (2, 6))
    dim = -1 if kind in ('tokens', 'pixels last') else 1
    x = torch.randn(5, *inner, 3, generator=generator)
    labels = torch.randint(3, (5, *inner), generator=generator)
    labels[~torch.tensor(known[: labels.numel()]).reshape(labels.shape)] = -100
    labels.view(-1)[0] = 1
    counts = torch.ones_like(labels, dtype=torch.bool) if not inner else labels != -100
    rows = x[counts]
    task = F.cross_entropy(x.flatten(0, -2), labels.flatten()).item()
    given_labels = labels[:, None] if kind in ('one map', 'one column') else labels
    data = columns(x=x.movedim(-1, dim), labels=given_labels)
    found = logged(Dense(dim=dim), data, Distillation(Flat(dim), KLDivergence(2.0)), micro)
    assert found['kd'] == pytest.approx(kl(rows, rows.flip(-1), 2.0), rel=1e-4)
    assert found['task'] == pytest.approx(task, rel=1e-4)


@pytest.mark.parametrize('micro', [8, 2])
def test_a_microbatch_without_labels_is_no_nan_for_hugging_face_models(micro):
    from composer.models import HuggingFaceModel

    rates = dict.fromkeys(('hidden_dropout_prob', 'attention_probs_dropout_prob'), 0.0)
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, **rates
    )
    torch.manual_seed(0)
    net, teacher = (transformers.BertForSequenceClassification(config) for _ in range(2))
    labels = torch.full((8,), -100)
    labels[0] = 1
    data = columns(input_ids=torch.randint(1, 50, (8, 6)), labels=labels)
    student = HuggingFaceModel(net, use_logits=True, metrics=[])
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    with torch.no_grad():
        task = net.eval()(**data.columns).loss.item()
    found = logged(student, data, Distillation(teacher, mse, 0.0, 1.0), micro, optimizer=optimizer)
    assert found['task'] == found['total'] == pytest.approx(task, rel=1e-5)
    steps = [(one - other.detach()) for one, other in zip(before, net.parameters())]
    assert all(step.isfinite().all() for step in steps)
