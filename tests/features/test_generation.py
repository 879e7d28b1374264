"""Sampling by inversion: the distribution, top-k, the vocabulary, and transformers' own greedy search."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from composer_kd.features.generation import generates, inverse_transform, sample_tokens, stop_tokens

transformers = pytest.importorskip('transformers')


def language_model(seed=0, size=12, positions=16, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        undropped = {'resid_pdrop': 0.0, 'embd_pdrop': 0.0, 'attn_pdrop': 0.0}
        config = transformers.GPT2Config(
            vocab_size=size, n_embd=8, n_layer=1, n_head=2, n_positions=positions, bos_token_id=0, eos_token_id=1,
            initializer_range=0.5, **{**undropped, **settings},
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)


@pytest.mark.parametrize(('temperature', 'top_k', 'vocabulary'), [(1.0, None, None), (0.5, 3, None), (2.0, 4, 5)])
def test_frequencies_are_those_of_the_softmax(temperature, top_k, vocabulary):
    logits = torch.randn(7, generator=torch.Generator().manual_seed(0))
    evenly = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    drawn = inverse_transform(logits.expand(20000, 7), evenly, temperature, top_k, vocabulary)
    wanted = logits.double().clone()
    wanted[7 if vocabulary is None else vocabulary :] = -torch.inf
    if top_k is not None:
        wanted[wanted < wanted.topk(top_k).values.min()] = -torch.inf
    found = drawn.bincount(minlength=7) / 20000
    torch.testing.assert_close(found.double(), (wanted / temperature).softmax(0), atol=2e-4, rtol=0)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 50))
def test_what_has_no_probability_is_never_drawn(number, seed):
    logits = torch.randn(1, 6, generator=torch.Generator().manual_seed(seed))
    logits[:, [0, 2, 5]] = -torch.inf
    assert inverse_transform(logits, torch.tensor([number], dtype=torch.float64)).item() in {1, 3, 4}


def test_the_most_probable_token_alone_is_greedy_search():
    net = language_model().eval()
    inputs = {'input_ids': torch.tensor([[0, 5, 6], [7, 8, 9]]), 'attention_mask': torch.tensor([[0, 1, 1], [1, 1, 1]])}
    new, made = sample_tokens(
        net, inputs, torch.rand(2, 6), [1], 0, lambda logits, u: inverse_transform(logits, u, top_k=1)
    )
    theirs = net.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0)[:, 3:]
    assert torch.equal(new, theirs)
    assert made[:, 0].all()


def test_a_text_ends_with_its_first_end_and_settings_of_the_model_have_no_effect():
    net = language_model().eval()
    net.generation_config.update(do_sample=True, temperature=0.1, repetition_penalty=9.0, num_beams=3, max_length=4)
    inputs = {'input_ids': torch.tensor([[5], [6]]), 'attention_mask': torch.ones(2, 1, dtype=torch.long)}
    tokens = torch.tensor([[3, 1, 9, 9], [4, 4, 4, 1]])  # by their uniforms
    steps = torch.arange(4).expand(2, 4) / 4

    def choose(logits, numbers):
        return tokens[:, round(float(numbers[0]) * 4)]

    new, made = sample_tokens(net, inputs, steps, [1], 0, choose)
    assert new.tolist() == [[3, 1, 0, 0], [4, 4, 4, 1]]
    assert made.tolist() == [[True, True, False, False], [True] * 4]


def test_who_generates_and_where_texts_end():
    net = language_model()
    bert = transformers.BertForMaskedLM(
        transformers.BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)
    )
    assert generates(net)
    assert not generates(bert)
    net.generation_config.eos_token_id = [3, 1]
    assert stop_tokens(net) == [1, 3]


def sampled(net, stops=(1,), count=400, tokens=3):
    inputs = {'input_ids': torch.full((count, 2), 5), 'attention_mask': torch.ones(count, 2, dtype=torch.long)}
    numbers = torch.rand(count, tokens, generator=torch.Generator().manual_seed(0))
    return sample_tokens(net.eval(), inputs, numbers, list(stops), 0)


def test_tokens_that_the_model_forbids_have_no_probability():
    net = language_model()
    assert set(sampled(net)[0].unique().tolist()) == set(range(12))
    net.generation_config.update(suppress_tokens=[3, 4], begin_suppress_tokens=[1, 7], bad_words_ids=[[9], [6, 8]])
    new, _ = sampled(net)
    assert not torch.isin(new, torch.tensor([3, 4, 9])).any()
    assert not torch.isin(new[:, 0], torch.tensor([1, 7])).any()
    assert (new[:, 1:] == 7).any()
    assert not ((new[:, :-1] == 6) & (new[:, 1:] == 8)).any()


@pytest.mark.parametrize('wanted', [{'forced_bos_token_id': 7}, {'forced_eos_token_id': 1}])
def test_tokens_that_the_model_forces_are_set(wanted):
    net = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=12, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).eval()
    net.generation_config.update(decoder_start_token_id=0, **wanted)
    new, made = sampled(net, count=20)
    if 'forced_bos_token_id' in wanted:
        assert (new[:, 0] == 7).all()
    else:
        assert (new[made.all(1), -1] == 1).all()


def test_texts_without_an_end_go_on_whatever_the_model_says():
    net = language_model()
    new, made = sampled(net, stops=())
    assert made.all()
    after = (new == 1).cumsum(1).bool() & (new != 1)
    assert after.any()
    assert (new[:, 1:][new[:, :-1] == 1] != 0).any()


def test_what_the_model_says_of_sampling_has_no_effect():
    plain, net = language_model(), language_model()
    net.generation_config.update(
        do_sample=True, min_p=0.9, typical_p=0.1, epsilon_cutoff=0.1, min_new_tokens=3, penalty_alpha=0.6, top_k=4,
        encoder_repetition_penalty=3.0, guidance_scale=2.0, num_return_sequences=3, sequence_bias=[[[3], 9.0]],
    )  # fmt: skip
    assert torch.equal(sampled(net)[0], sampled(plain)[0])
