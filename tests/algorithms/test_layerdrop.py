"""Students that leave out whole layers at random in training: what is not there in every batch is refused before."""

import pytest
import torch
from composer.models import HuggingFaceModel
from torch import nn
from torch.utils.data import DataLoader

from composer_kd import ConfigError, Distillation, Match
from composer_kd.features.dropped import dropped_blocks
from composer_kd.losses import hint, mse
from tests.helpers import Recorder, TokenDataset, train, trainer

transformers = pytest.importorskip('transformers')


def speech(layerdrop, hidden_size=8, seed=0):
    config = transformers.Wav2Vec2Config(
        vocab_size=7, hidden_size=hidden_size, num_hidden_layers=3, num_attention_heads=2, intermediate_size=8,
        conv_dim=(4, 4), conv_kernel=(3, 3), conv_stride=(2, 2), num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, layerdrop=layerdrop, mask_time_prob=0.0, apply_spec_augment=False,
    )  # fmt: skip
    return seeded(transformers.Wav2Vec2ForCTC, config, seed)


def translation(encoder_layerdrop=0.0, decoder_layerdrop=0.0, d_model=8, seed=0):
    config = transformers.BartConfig(
        vocab_size=20, d_model=d_model, encoder_layers=3, decoder_layers=3, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=16,
        encoder_layerdrop=encoder_layerdrop, decoder_layerdrop=decoder_layerdrop, use_cache=False,
        attn_implementation='eager',
    )  # fmt: skip
    return seeded(transformers.BartForConditionalGeneration, config, seed)


def french(layerdrop, emb_dim=8, seed=0):
    config = transformers.FlaubertConfig(vocab_size=20, emb_dim=emb_dim, n_layers=3, n_heads=2, layerdrop=layerdrop)
    return seeded(transformers.FlaubertWithLMHeadModel, config, seed)


def seeded(kind, config, seed):
    config.output_hidden_states = config.output_attentions = True
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return kind(config)


def sounds():
    generator = torch.Generator().manual_seed(1)
    data = TokenDataset(
        input_values=torch.randn(32, 80, generator=generator), labels=torch.randint(1, 7, (32, 3), generator=generator)
    )
    return DataLoader(data, batch_size=4)


def texts():
    ids = torch.randint(3, 20, (32, 6), generator=torch.Generator().manual_seed(1))
    return DataLoader(TokenDataset(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids), batch_size=4)


REFUSED = {
    'a layer of wav2vec2': (lambda: speech(0.1), 'wav2vec2.encoder.layers.1[0]', 'wav2vec2.encoder.layers.1'),
    'inside it': (lambda: speech(0.1), 'wav2vec2.encoder.layers.2.feed_forward', 'wav2vec2.encoder.layers.2'),
    'attentions': (lambda: speech(0.1), 'outputs.attentions[1]', 'wav2vec2.encoder.layers.0'),
    'encoder of BART': (lambda: translation(0.2), 'model.encoder.layers.0.fc2', 'model.encoder.layers.0'),
    'decoder of BART': (lambda: translation(0, 0.2), 'model.decoder.layers.2[0]', 'model.decoder.layers.2'),
    'encoder attentions': (lambda: translation(0.2), 'outputs.encoder_attentions[0]', 'model.encoder.layers.0'),
    'states of FlauBERT': (lambda: french(0.2), 'outputs.hidden_states[1]', 'transformer.attentions.0'),
    'cross attentions': (lambda: translation(0, 0.2), 'outputs.cross_attentions[0]', 'model.decoder.layers.0'),
}


@pytest.mark.parametrize('name', REFUSED)
@pytest.mark.parametrize('project', [None, 'auto'])
def test_refused_before_training(name, project):
    make, path, block = REFUSED[name]
    model = make()
    match = Match(mse if project is None else hint, on=path, project=project)
    before = list(model.state_dict())
    with pytest.raises(ConfigError, match=rf"leaves out 'model\.{block}' and others at random.*layerdrop=0"):
        run(make(), match, model)
    assert list(model.state_dict()) == before


def run(teacher, match, model, steps=trainer):
    data = sounds() if isinstance(model, transformers.Wav2Vec2ForCTC) else texts()
    recorder = Recorder()
    student = HuggingFaceModel(model)
    steps(student, data, [Distillation(teacher, [match])], [recorder], max_duration='3ep')
    return recorder.batches


@pytest.mark.parametrize(
    ('student', 'teacher', 'path'),
    [
        (lambda: speech(0.5), lambda: speech(0.5, 12), 'outputs.hidden_states[2]'),
        (lambda: speech(0.0), lambda: speech(0.5, 12), 'wav2vec2.encoder.layers.1[0]'),
        (lambda: translation(0.5, 0.5), lambda: translation(d_model=12), 'outputs.decoder_hidden_states[2]'),
        (lambda: translation(0.5, 0.0), lambda: translation(d_model=12), 'model.decoder.layers.1[0]'),
        (lambda: translation(0.0, 0.5), lambda: translation(d_model=12), 'outputs.encoder_attentions[0]'),
        (lambda: translation(0.5, 0.0), lambda: translation(d_model=12), 'outputs.cross_attentions[0]'),
        (lambda: french(0.0), lambda: french(0.5, 12), 'outputs.hidden_states[1]'),
    ],
)
def test_what_is_there_in_every_batch_trains(student, teacher, path):
    batches = run(teacher(), Match(hint, on=path, project='auto'), student(), train)
    assert len(batches) == 24


def test_a_model_of_ones_own():
    class Encoder(nn.Module):
        def __init__(self, **rate):
            super().__init__()
            self.layers, self.heads = nn.ModuleList([nn.Linear(2, 2)]), nn.ModuleList([nn.Linear(2, 2)])
            for name, value in rate.items():
                setattr(self, name, value)

    assert dropped_blocks(Encoder(layer_drop=0.5)) == {'layers.0': 0.5, 'heads.0': 0.5}
    assert dropped_blocks(nn.Sequential(Encoder(layerdrop_prob=1))) == {'0.layers.0': 1.0, '0.heads.0': 1.0}
    assert not dropped_blocks(Encoder(layerdrop=0.0))
    assert not dropped_blocks(Encoder(layerdrop=None))
    config = transformers.Wav2Vec2Config(layerdrop=0.25)
    assert dropped_blocks(Encoder(config=config)) == {'layers.0': 0.25}
    assert not dropped_blocks(Encoder(config=config, layerdrop=0.0))
