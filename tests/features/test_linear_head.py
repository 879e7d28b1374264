"""The linear head of models of transformers, found out on a few tokens and kept from making logits."""

import pytest
import torch
import transformers
from torch import nn

from composer_kd.errors import ConfigError
from composer_kd.features.linear_head import LinearHead

SIZES = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 12,
         'max_position_embeddings': 16, 'initializer_range': 0.3, 'vocab_size': 23}  # fmt: skip
DECODER = {**SIZES, 'num_key_value_heads': 2, 'bos_token_id': 0, 'eos_token_id': 0, 'pad_token_id': 0}


def gemma(cap, factor=1.0, dtype=torch.float32):
    config = transformers.Gemma2Config(**DECODER, head_dim=4, final_logit_softcapping=cap)
    net = transformers.Gemma2ForCausalLM(config).to(dtype).eval()
    with torch.no_grad():
        net.model.embed_tokens.weight.mul_(factor)
    return net


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('cap', [None, 1.0, 30.0])
def test_a_soft_cap_is_found_even_where_logits_are_small(cap, dtype):
    net = gemma(cap, 1e-3, dtype)  # so small that no bound shows in the logits themselves
    head = LinearHead(net, 'the student', shifts=True)
    with torch.no_grad():
        net.model.embed_tokens.weight.mul_(1e5)
        tokens = torch.arange(10).reshape(2, 5)
        whole = net(tokens).logits
        with head.recording():
            assert net(tokens).logits.shape == (2, 0, 23)
        torch.testing.assert_close(head.take().dense(), whole)
    assert head.classes == 23


def test_dropout_and_random_states_are_as_before():
    config = transformers.GPT2Config(vocab_size=23, n_embd=8, n_layer=1, n_head=2, n_positions=16)
    net = transformers.GPT2LMHeadModel(config).train()
    net.transformer.h[0].eval()
    modes, before = [part.training for part in net.modules()], torch.get_rng_state()
    LinearHead(net, 'the student', shifts=True)
    assert [part.training for part in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)


def test_a_forward_pass_that_fails_leaves_no_hooks():
    net = gemma(None)
    head = LinearHead(net, 'the student')
    head.open()
    with pytest.raises(ValueError, match='input_ids'):
        net()
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    with pytest.raises(ConfigError, match='the head of the student did not run'):
        head.take()


class Doubled(transformers.LlamaForCausalLM):
    def forward(self, **inputs):
        outputs = super().forward(**inputs)
        outputs.logits = outputs.logits * 2.0
        return outputs


class Last(transformers.LlamaForCausalLM):
    def forward(self, **inputs):
        return super().forward(**inputs, logits_to_keep=1)


def llama(kind=transformers.LlamaForCausalLM):
    return kind(transformers.LlamaConfig(**DECODER))


def test_of_a_sequence_the_last_layer_is_the_head():
    net, tokens = llama().eval(), torch.arange(10).reshape(2, 5)
    net.lm_head = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 23))
    head = LinearHead(net, 'the student', shifts=True)
    with head.recording():
        net(tokens)
    torch.testing.assert_close(head.take().dense(), net(tokens).logits)


def with_a_norm():
    net = llama()
    net.lm_head = nn.LayerNorm(8)
    return net


def mobile():
    config = transformers.MobileBertConfig(**{**SIZES, 'hidden_size': 8, 'embedding_size': 8}, intra_bottleneck_size=8)
    return transformers.MobileBertForMaskedLM(config)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda: nn.Linear(2, 3), 'names no head'),
        (lambda: transformers.BertModel(transformers.BertConfig(**SIZES)), 'names no head'),
        (with_a_norm, 'a head that is not linear: .*LayerNorm'),
        (lambda: llama(Doubled), 'changes the products of its head in a way that its config does not state'),
        (lambda: llama(Last), 'not the hidden states of all positions'),
        (mobile, 'whose weights it uses without running it'),
        (lambda: torch.compile(llama()), 'is compiled'),
    ],
    ids=['no model', 'no head', 'norm', 'doubled', 'last alone', 'unused', 'compiled'],
)
def test_other_heads_are_refused_with_the_reason(make, message):
    with pytest.raises(ConfigError, match=f'fused_head: the student .*{message}'):
        LinearHead(make(), 'the student')


class Adapted(nn.Linear):
    """A linear layer with a little more in its answers, as adapters of frozen models give."""

    def __init__(self, base):
        super().__init__(1, 1)
        self.base_layer, self.weight, self.bias = base, base.weight, None
        self.more = nn.Parameter(torch.full((23,), 3e-3))

    def forward(self, hidden):
        return self.base_layer(hidden) + self.more


class Biased(transformers.LlamaForCausalLM):
    def forward(self, **inputs):
        outputs = super().forward(**inputs)
        outputs.logits = outputs.logits + torch.linspace(0.0, 0.2, 23, dtype=outputs.logits.dtype)
        return outputs


class Balanced(transformers.LlamaForCausalLM):
    def forward(self, **inputs):
        outputs = super().forward(**inputs)
        if outputs.loss is not None:
            outputs.loss = (outputs.loss + 0.02).to(outputs.logits.dtype)
        return outputs


class Weighted(transformers.LlamaForCausalLM):
    def forward(self, **inputs):
        outputs = super().forward(**inputs)
        if outputs.loss is not None:
            outputs.loss = 2.0 * outputs.loss
        return outputs


def with_an_adapter():
    net = llama()
    net.lm_head = Adapted(net.lm_head)
    return net


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (with_an_adapter, 'more than one linear layer|its config does not state|adds something to the products'),
        (lambda: llama(Biased), 'its config does not state|adds something to the products of its head'),
        (lambda: llama(Balanced), 'computes a loss of its own'),
        (lambda: llama(Weighted), 'computes a loss of its own'),
    ],
    ids=['adapter', 'bias', 'balance', 'weighted'],
)
def test_little_that_is_added_is_seen_in_any_precision(make, message, dtype):
    net = make().to(dtype).requires_grad_(False)
    with pytest.raises(ConfigError, match=f'fused_head: the student .*({message})'):
        LinearHead(net, 'the student', shifts=True)
