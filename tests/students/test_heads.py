"""Students of fewer attention heads: heads that add nothing are those that are left out, and then nothing changes."""

import pytest
import torch
import transformers as hf

from composer_kd import ConfigError, student_from_teacher
from composer_kd.students.architectures import architecture_of
from tests.students.teachers import CAUSAL, IMAGES, T5, TEXT, answers, batch, silence, teacher

PRUNED = ('bert', 'roberta', 'xlm-roberta', 'camembert', 'electra', 'distilbert', 'vit', 'deit', 'gpt2')
BY_CONFIG = ('llama', 'mistral', 'qwen2', 'qwen3', 't5', 't5-encoder', 'mt5')


def without(model, heads, size=8):
    """The model, in which some heads of each attention add nothing."""
    for attention in architecture_of(model).attentions:
        silence(model, attention.into, [place for head in heads for place in range(size * head, size * head + size)])
    return model


def check(model, student, inputs, folder):
    torch.testing.assert_close(answers(student, inputs), answers(model, inputs), rtol=1e-4, atol=1e-5)
    assert student.num_parameters() < model.num_parameters()
    student.save_pretrained(folder)
    assert torch.equal(answers(type(model).from_pretrained(folder), inputs), answers(student, inputs))


@pytest.mark.parametrize('kind', PRUNED)
def test_that_transformers_prunes(kind, tmp_path):
    model = without(teacher(kind), [0])
    inputs = batch(model)
    student = student_from_teacher(model, num_attention_heads=1, data=[inputs])
    check(model, student, inputs, tmp_path)
    assert student.config.pruned_heads == {layer: [0] for layer in range(4)}
    assert not model.config.pruned_heads


@pytest.mark.parametrize('kind', BY_CONFIG)
def test_by_the_config(kind, tmp_path):
    model = without(teacher(kind), [0])
    inputs = batch(model)
    student = student_from_teacher(model, num_attention_heads=1, data=[inputs])
    check(model, student, inputs, tmp_path)
    assert (student.config.num_attention_heads, model.config.num_attention_heads) == (1, 2)
    if kind in CAUSAL:
        words = torch.full((1, 3), 5)
        options = {'max_new_tokens': 4, 'do_sample': False, 'pad_token_id': 0, 'attention_mask': torch.ones_like(words)}
        assert torch.equal(student.generate(words, **options), model.generate(words, **options))


def grouped(heads, groups, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {**TEXT, 'num_attention_heads': heads, 'num_key_value_heads': groups, 'head_dim': 8}
        model = hf.Qwen2ForCausalLM(hf.Qwen2Config(num_hidden_layers=2, **sizes)).eval()
        for parameter in model.parameters():
            parameter.data.add_(0.15 * torch.randn_like(parameter))
        return model


@pytest.mark.parametrize(
    ('idle', 'groups'),
    [
        ([1, 3, 4], 3),  # one of each pair that shares a key-value head
        ([2, 3], 2),  # a whole pair: 4 heads are 2 pairs
        ([0, 1, 2, 5], 2),  # 2 heads, each with keys and values of its own
        ([0, 2, 3, 4, 5], 1),
    ],
)
def test_heads_that_share_keys_and_values(idle, groups):
    model = without(grouped(6, 3), idle)
    inputs = batch(model)
    student = student_from_teacher(model, num_attention_heads=6 - len(idle), data=[inputs])
    torch.testing.assert_close(answers(student, inputs), answers(model, inputs), rtol=1e-4, atol=1e-5)
    assert student.config.num_key_value_heads == groups
    assert student.config.head_dim == 8
    assert student.model.layers[0].self_attn.k_proj.weight.shape == (8 * groups, 16)


def test_a_number_that_cannot_share_them():
    model = grouped(6, 2)
    with pytest.raises(ConfigError, match=r'5 heads cannot share at most 2 key-value heads.*one of 1, 2, 3, 4, 6'):
        student_from_teacher(model, num_attention_heads=5, data=[batch(model)])


def test_layers_below_one_table_keep_the_same_heads():
    model = hf.T5EncoderModel(hf.T5Config(num_layers=2, **{**T5, 'num_heads': 3})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(parameter))))
    without(model, [1])
    inputs = batch(model)
    student = student_from_teacher(model, num_attention_heads=2, data=[inputs])
    torch.testing.assert_close(answers(student, inputs), answers(model, inputs), rtol=1e-4, atol=1e-5)
    table = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    kept = student.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert torch.equal(kept, table[:, [0, 2]])


def test_beit_without_relative_positions_is_pruned(tmp_path):
    model = hf.BeitForImageClassification(hf.BeitConfig(num_hidden_layers=2, **IMAGES)).eval()
    without(model, [1])
    student = student_from_teacher(model, num_attention_heads=1, data=[batch(model)])
    check(model, student, batch(model), tmp_path)


@pytest.mark.parametrize(
    ('kind', 'why'),
    [('mpnet', 'tables of relative positions'), ('beit', 'tables of relative'), ('gpt_neox', 'prunes no heads')],
)
def test_heads_that_follow_the_hidden_size(kind, why):
    model = teacher(kind)
    with pytest.raises(ConfigError, match=f'{why}.*give hidden_size too, 8 for each head'):
        student_from_teacher(model, num_attention_heads=1, data=[batch(model)])
