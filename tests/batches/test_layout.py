"""One output for each token or pixel, and labels of segmentation models of transformers: in real runs."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from composer.models import ComposerModel, HuggingFaceModel
from torch import nn
from torch.utils.data import DataLoader

from composer_kd import Distillation, KLDivergence, LossError, Match
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.layout import layout_of, several_labels
from composer_kd.losses import mse
from tests.helpers import Recorder, TokenDataset, loader, train

transformers = pytest.importorskip('transformers')


class Binary(ComposerModel):
    """One output for each pixel or token, with a binary cross-entropy."""

    def __init__(self, squeezed=True):
        super().__init__()
        self.scale, self.squeezed = nn.Parameter(torch.ones(())), squeezed

    def forward(self, batch):
        x = batch['x'] * self.scale
        return x[:, 0] if self.squeezed else x

    def loss(self, outputs, batch):
        labels = batch['labels'].flatten()
        return F.binary_cross_entropy_with_logits(outputs.flatten()[labels >= 0], labels[labels >= 0].float())


class Half(nn.Module):
    def __init__(self, squeezed=True):
        super().__init__()
        self.squeezed = squeezed

    def forward(self, x):
        return x[:, 0] / 2 if self.squeezed else x / 2


def logged(model, data, algorithm, micro):
    recorder = Recorder()
    still = torch.optim.SGD(model.parameters(), lr=0.0)
    loader = DataLoader(data, batch_size=len(data))
    train(model, loader, [algorithm], [recorder], optimizer=still, device_train_microbatch_size=micro)
    return recorder.batches[0]


def maps(one, dtype=torch.int64):
    x, labels = torch.randn(4, 1, 3, 5), torch.randint(2, (4, 1, 3, 5))
    labels[1:, :, 0] = -100
    return TokenDataset(x=x, labels=(labels if one else labels[:, 0]).to(dtype)), x[labels != -100]


@pytest.mark.parametrize('micro', [4, 1])
@pytest.mark.parametrize('one', [False, True])
@pytest.mark.parametrize('squeezed', [False, True])
def test_one_output_for_each_pixel_is_compared_where_pixels_have_labels(squeezed, one, micro):
    data, known = maps(one)
    found = logged(Binary(squeezed), data, Distillation(Half(squeezed), mse), micro)
    assert found['kd'] == pytest.approx((known / 2).square().mean().item(), rel=1e-5)
    labels = data.columns['labels'].flatten()
    task = F.binary_cross_entropy_with_logits(known, labels[labels >= 0].float())
    assert found['task'] == pytest.approx(task.item(), rel=1e-5)
    with pytest.raises(LossError, match='one output'):
        logged(Binary(squeezed), data, Distillation(Half(squeezed), KLDivergence()), micro)


def words():
    ids = torch.randint(5, 30, (4, 8))
    attention = (torch.arange(8) < torch.tensor([8, 5, 6, 3])[:, None]).long()
    return TokenDataset(input_ids=ids, attention_mask=attention, labels=(ids % 2).where(attention == 1, -100))


@pytest.mark.parametrize('micro', [4, 1])
def test_one_output_for_each_token_is_compared_at_real_tokens(micro):
    """As in ELECTRA, which tells replaced tokens from others: (B, S) are tokens, not classes."""

    def electra(seed):
        torch.manual_seed(seed)
        config = transformers.ElectraConfig(
            vocab_size=50, embedding_size=16, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=32, initializer_range=0.5, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return transformers.ElectraForPreTraining(config)

    net, teacher, data = electra(0), electra(1).eval(), words()
    with torch.no_grad():
        ours, theirs = net.eval()(**data.columns), teacher(**data.columns)
    student, real = HuggingFaceModel(net, use_logits=True, metrics=[]), data.columns['attention_mask'] == 1
    found = logged(student, data, Distillation(teacher, mse), micro)
    assert found['kd'] == pytest.approx(F.mse_loss(ours.logits[real], theirs.logits[real]).item(), rel=1e-4)
    assert found['task'] == pytest.approx(ours.loss.item(), rel=1e-4)
    with pytest.raises(LossError, match='one output'):
        logged(student, data, Distillation(teacher, KLDivergence()), micro)


def test_classes_as_many_as_tokens_stay_classes():
    batch = {'attention_mask': torch.ones(4, 8, dtype=torch.long), 'labels': torch.zeros(4, dtype=torch.long)}
    assert layout_of(torch.zeros(4, 8), batch).classes == 8
    several = {**batch, 'labels': torch.ones(4, 8)}
    assert layout_of(torch.zeros(4, 8), several).classes == 8
    assert several_labels(several, torch.zeros(4, 8))


class Frames(ComposerModel):
    """Several labels at once for each frame, of classes that are as many as the head has outputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.head = nn.Linear(4, 3)

    def forward(self, batch):
        return self.head(batch[0])

    def loss(self, outputs, batch):
        return F.binary_cross_entropy_with_logits(outputs, batch[1].float())


def test_several_whole_labels_for_each_frame_are_no_map_of_one_output():
    torch.manual_seed(0)
    x, labels = torch.randn(8, 5, 4), torch.randint(2, (8, 5, 3))
    recorder, net, teacher = Recorder(), Frames(), nn.Linear(4, 3)
    still = torch.optim.SGD(net.parameters(), lr=0.0)
    with pytest.warns(UserWarning, match='do not show which dimension holds the classes'):
        train(net, loader(x, labels, 8), [Distillation(teacher, KLDivergence(1.0))], [recorder], optimizer=still)
    with torch.no_grad():
        rows = [model(x).flatten(0, 1).log_softmax(-1) for model in (net.head, teacher)]
        kl = F.kl_div(*rows, log_target=True, reduction='batchmean')
    assert recorder.batches[0]['kd'] == pytest.approx(kl.item(), rel=1e-5)


def test_classes_as_many_as_tokens_stay_classes_where_the_model_says_so():
    batch = {'attention_mask': torch.ones(4, 8, dtype=torch.long), 'labels': torch.ones(4, 8, dtype=torch.long)}
    logits = torch.zeros(4, 8)
    assert layout_of(logits, batch, BatchFormat(several_labels=True)).classes == 8
    assert layout_of(logits, batch).classes == 1


def segformer(seed, kind='SemanticSegmentation', **sizes):
    torch.manual_seed(seed)
    config = transformers.SegformerConfig(
        hidden_sizes=[8] * 4, depths=[1] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=8, drop_path_rate=0.0,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, classifier_dropout_prob=0.0, initializer_range=0.5,
        **sizes,
    )  # fmt: skip
    return getattr(transformers, f'SegformerFor{kind}')(config)


@pytest.mark.parametrize('micro', [4, 1])
def test_the_ignored_label_of_a_segmentation_model_of_transformers_is_known(micro):
    """Its loss enlarges the logits, so which of them count must be said; the mean of its own loss is known."""
    net, teacher = (segformer(seed, num_labels=5) for seed in (0, 1))
    net.decode_head.batch_norm = nn.Identity()  # statistics would differ between microbatches
    student = HuggingFaceModel(net, use_logits=True, metrics=[])
    labels = torch.randint(5, (4, 32, 32))
    labels[1], labels[2, :20] = 255, 255
    data = TokenDataset(pixel_values=torch.randn(4, 3, 32, 32), labels=labels)
    with torch.no_grad():
        ours, theirs = net.eval()(**data.columns), teacher.eval()(**data.columns)
    with pytest.warns(UserWarning, match=r'valid_positions\(batch\)'):
        found = logged(student, data, Distillation(teacher, KLDivergence(1.0)), micro)
    assert found['task'] == pytest.approx(ours.loss.item(), rel=1e-4)
    student.valid_positions = lambda batch: batch['labels'][:, ::4, ::4] != 255
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='The labels')
        found = logged(student, data, Distillation(teacher, KLDivergence(1.0)), micro)
    rows = [outputs.logits.movedim(1, -1)[labels[:, ::4, ::4] != 255].log_softmax(-1) for outputs in (ours, theirs)]
    assert found['kd'] == pytest.approx(F.kl_div(*rows, log_target=True, reduction='batchmean').item(), rel=1e-4)
    assert found['task'] == pytest.approx(ours.loss.item(), rel=1e-4)


def test_a_classifier_with_the_same_config_ignores_no_class():
    assert BatchFormat.of(segformer(0, num_labels=5)).ignore_index == 255
    assert BatchFormat.of(segformer(0, 'ImageClassification', num_labels=300)).ignore_index == -100


def test_labels_of_another_size_that_hold_no_classes_are_told_of():
    class Enlarged(ComposerModel):
        def __init__(self):
            super().__init__()
            self.net = nn.Conv2d(2, 3, 2, stride=2)

        def forward(self, batch):
            return self.net(batch['x'])

        def loss(self, outputs, batch):
            return F.cross_entropy(F.interpolate(outputs, size=(6, 6)), batch['labels'], ignore_index=255)

    labels = torch.randint(3, (4, 6, 6))
    labels[:, 0] = 255
    data = TokenDataset(x=torch.randn(4, 2, 6, 6), labels=labels)
    with pytest.warns(UserWarning, match=r'hold 255, and the logits have 3 classes at .* valid_positions.*= 255'):
        logged(Enlarged(), data, Distillation(nn.Conv2d(2, 3, 2, stride=2), KLDivergence()), 4)


@pytest.mark.parametrize('micro', [4, 1])
def test_frames_of_speech_models_without_ctc_are_those_of_real_audio(micro):
    def frames(seed):
        torch.manual_seed(seed)
        rates = ('hidden_dropout', 'activation_dropout', 'attention_dropout', 'feat_proj_dropout', 'final_dropout')
        config = transformers.Wav2Vec2Config(
            vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, layerdrop=0.0,
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0, num_labels=3,
            feat_extract_norm='layer', do_stable_layer_norm=True, initializer_range=1.0, **dict.fromkeys(rates, 0.0),
        )  # fmt: skip
        return transformers.Wav2Vec2ForAudioFrameClassification(config)

    net, teacher, lengths = frames(0), frames(1).eval(), (200, 90, 150, 60)
    values, attention = torch.zeros(4, 200), torch.zeros(4, 200, dtype=torch.long)
    for row, length in enumerate(lengths):
        values[row, :length], attention[row, :length] = torch.randn(length), 1
    student = HuggingFaceModel(net, use_logits=True, metrics=[])
    matches = [KLDivergence(1.0), Match(mse, on='wav2vec2.encoder.layer_norm', name='hidden')]
    data = TokenDataset(input_values=values, attention_mask=attention)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='The (logits|attention)')
        found = logged(student, data, Distillation(teacher, matches, 1.0, 0.0), micro)
    rows, hidden = [[], []], [[], []]
    for length, sound in zip(lengths, values):
        for side, model in enumerate((net, teacher)):
            with torch.no_grad():
                rows[side].append(model.eval()(sound[None, :length]).logits[0].log_softmax(-1))
                hidden[side].append(model.wav2vec2(sound[None, :length]).last_hidden_state[0])
    kl = F.kl_div(*map(torch.cat, rows), log_target=True, reduction='batchmean')
    assert found['KLDivergence'] == pytest.approx(kl.item(), rel=1e-3)
    assert found['hidden'] == pytest.approx(F.mse_loss(*map(torch.cat, hidden)).item(), rel=1e-3)


def heard(seed, layers=2):
    torch.manual_seed(seed)
    config = transformers.Speech2TextConfig(
        vocab_size=20, d_model=16, encoder_layers=layers, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, input_feat_per_channel=8, conv_channels=16,
        max_source_positions=100, max_target_positions=50, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        encoder_layerdrop=0.0, decoder_layerdrop=0.0, init_std=0.5,
    )  # fmt: skip
    return transformers.Speech2TextForConditionalGeneration(config)


@pytest.mark.parametrize('micro', [4, 1])
def test_states_of_a_speech_encoder_are_compared_at_frames_of_real_audio(micro):
    net, teacher, lengths = heard(0), heard(1).eval(), torch.tensor([40, 20, 30, 12])
    attention = (torch.arange(40) < lengths[:, None]).long()
    sound = torch.randn(4, 40, 8) * attention[..., None]
    data = TokenDataset(input_features=sound, attention_mask=attention, labels=torch.randint(3, 20, (4, 5)))
    match = Match(mse, on='model.encoder.layer_norm')
    found = logged(HuggingFaceModel(net, metrics=[]), data, Distillation(teacher, match), micro)
    with torch.no_grad():
        sides = [model.model.encoder(sound, attention).last_hidden_state for model in (net.eval(), teacher)]
    real = torch.arange(10) < ((((lengths - 1) // 2 + 1) - 1) // 2 + 1)[:, None]
    assert found['kd'] == pytest.approx(F.mse_loss(*(side[real] for side in sides)).item(), rel=1e-4)


def test_frames_before_an_adapter_are_told_of():
    def adapted(seed):
        torch.manual_seed(seed)
        config = transformers.Wav2Vec2Config(
            vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
            conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, layerdrop=0.0,
            num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0, add_adapter=True,
        )  # fmt: skip
        return transformers.Wav2Vec2ForCTC(config)

    attention = (torch.arange(400) < torch.tensor([400, 300])[:, None]).long()
    labels = torch.randint(1, 12, (2, 2))
    data = TokenDataset(input_values=torch.randn(2, 400), attention_mask=attention, labels=labels)
    match = Match(mse, on='wav2vec2.encoder.layer_norm')
    with pytest.warns(UserWarning, match='all frames are compared, those of padding too'):
        logged(HuggingFaceModel(adapted(0), metrics=[]), data, Distillation(adapted(1), match), 2)
