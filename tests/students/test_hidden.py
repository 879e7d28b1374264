"""Narrower hidden states: dimensions that are zero everywhere are those that are left out, and then nothing changes."""

import pytest
import torch
import transformers as hf
from torch import nn

from composer_kd import ConfigError, student_from_teacher
from composer_kd.students.architectures import architecture_of
from composer_kd.students.norms import changed_statistics
from tests.students.teachers import KINDS, TEXT, answers, batch, teacher
from tests.students.test_heads import without

IDLE = torch.arange(1, 16, 2)
KEPT = torch.arange(0, 16, 2)
FREE = ('llama', 'mistral', 'qwen2', 'qwen3', 't5', 't5-encoder', 'mt5')  # the size of a head is a setting of its own
BENT = (
    'bert-mlm',
    'xlm-roberta',
)  # their head has a norm after GELU, whose mean cannot be made 0: the body is compared
OPTIONS = {'bert-plain': {'add_pooling_layer': False}}


@torch.no_grad()
def hollow(model):
    """Zeros in half of the dimensions of all hidden states, whose mean is then 0: it is in all that is written to them.

    What writes to hidden states of 16 dimensions has 16 outputs; that other layers of 16 outputs are changed too, such
    as those of queries, alters the model, and nothing that is asked of it.
    """
    for setting in ('layer_norm_eps', 'layer_norm_epsilon', 'rms_norm_eps'):
        if hasattr(model.config, setting):
            setattr(model.config, setting, 1e-12)  # epsilon is of no dimension
    for part in model.modules():
        for epsilon in ('eps', 'variance_epsilon'):
            if hasattr(part, epsilon):
                setattr(part, epsilon, 1e-12)
        for name, parameter in part.named_parameters(recurse=False):
            is_conv1d = type(part).__name__ == 'Conv1D'
            axis = -1 if is_conv1d or isinstance(part, nn.Embedding) or name.endswith(('token', 'embeddings')) else 0
            if parameter.shape[axis] != 16:
                continue
            is_norm = 'norm' in type(part).__name__.lower()
            flat = parameter.data.movedim(axis, 0)
            flat[IDLE] = 0
            if (isinstance(part, nn.LayerNorm) and name == 'weight') or name.startswith('lambda'):
                flat[KEPT] = 1.3  # so that the mean stays 0
            elif not is_norm or isinstance(part, nn.LayerNorm):
                flat[KEPT] -= flat[KEPT].mean(0, keepdim=True)
    return model


@pytest.mark.parametrize('kind', KINDS)
def test_dimensions_that_are_zero(kind, tmp_path):
    model = hollow(teacher(kind))
    if kind not in FREE:
        without(model, [0])
    inputs = batch(model)
    if kind == 'electra':
        model.electra.embeddings_project.weight.data[IDLE] = 0
        with pytest.raises(ConfigError, match=r'embedding_size = 8 too.*give another size'):
            student_from_teacher(model, hidden_size=8, data=[inputs])
        return
    student = student_from_teacher(model, hidden_size=8, data=[inputs])
    ours, theirs = (student.base_model, model.base_model) if kind in BENT else (student, model)
    expected = answers(theirs, inputs)
    if expected.shape[-1] == 16:  # no head
        assert not expected[..., IDLE].any()
        expected = expected[..., KEPT]
    torch.testing.assert_close(answers(ours, inputs), expected, rtol=1e-3, atol=1e-4)
    assert student.config.hidden_size == 8
    assert student.config.num_attention_heads == (2 if kind in FREE else 1)
    student.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path, **OPTIONS.get(kind, {}))
    assert torch.equal(answers(loaded, inputs), answers(student, inputs))
    assert loaded.num_parameters() == student.num_parameters()
    embedded, before = student.get_input_embeddings(), model.get_input_embeddings()
    if isinstance(embedded, nn.Embedding):
        assert torch.equal(embedded.weight, before.weight[:, KEPT])
    if model.config.tie_word_embeddings and student.get_output_embeddings() is not None:
        assert student.get_output_embeddings().weight is embedded.weight


@pytest.mark.parametrize('kind', ['bert', 'gpt2', 'beit', 'llama', 't5'])
def test_all_sizes_and_layers_together(kind, tmp_path):
    model = teacher(kind)
    inputs = batch(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    student = student_from_teacher(
        model, 'importance', 2, num_attention_heads=1, intermediate_size=5, hidden_size=8, data=[inputs]
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    built = type(model)(type(model.config).from_dict(student.config.to_dict()))
    shapes = {name: value.shape for name, value in built.state_dict().items()}
    assert {name: value.shape for name, value in student.state_dict().items()} == shapes
    student.save_pretrained(tmp_path)
    assert torch.equal(answers(type(model).from_pretrained(tmp_path), inputs), answers(student, inputs))


@torch.no_grad()
def test_norms_are_as_before_on_average():
    model = teacher('gpt2')
    inputs = batch(model)
    student = student_from_teacher(model, hidden_size=8, data=[inputs])
    embedded = student.transformer.wte.weight
    whole = model.transformer.wte.weight
    kept = [next(i for i in range(16) if torch.equal(whole[:, i], embedded[:, j])) for j in range(8)]
    first = model.transformer.h[0].ln_1
    states = model.transformer(**inputs, output_hidden_states=True).hidden_states[0][inputs['attention_mask'].bool()]
    deviation = (states.var(-1, unbiased=False) + first.eps).sqrt()
    part = states[:, kept]
    ratio = ((part.var(-1, unbiased=False) + first.eps).sqrt() / deviation).mean()
    shift = ((part.mean(-1) - states.mean(-1)) / deviation).mean()
    narrow = student.transformer.h[0].ln_1
    torch.testing.assert_close(narrow.weight, first.weight[kept] * ratio)
    torch.testing.assert_close(narrow.bias, first.bias[kept] + first.weight[kept] * shift)
    (found,) = changed_statistics(model, {'transformer.h.0.ln_1': first}, torch.tensor(kept), [inputs]).values()
    assert found == pytest.approx((float(ratio), float(shift)), rel=1e-4)


@torch.no_grad()
def test_dimensions_by_what_comes_out_of_the_norms():
    model = teacher('llama')
    inputs = batch(model)
    seen = {}
    norms = {name: part for name, part in model.named_modules() if type(part).__name__ == 'LlamaRMSNorm'}
    for name, part in norms.items():
        part.register_forward_hook(lambda part, args, output, name=name: seen.update({name: output}))
    answers(model, inputs)
    rows = torch.stack([one[inputs['attention_mask'].bool()].abs().mean(0) for one in seen.values()])
    expected = (rows / rows.sum(1, keepdim=True)).mean(0).topk(10).indices.sort().values
    student = student_from_teacher(model, hidden_size=10, data=[inputs])
    assert torch.equal(student.model.embed_tokens.weight, model.model.embed_tokens.weight[:, expected])


def test_embeddings_as_wide_as_the_hidden_states_follow():
    model = hf.ElectraForMaskedLM(hf.ElectraConfig(embedding_size=16, num_hidden_layers=2, **TEXT)).eval()
    student = student_from_teacher(model, hidden_size=8, data=[batch(model)])
    assert student.config.embedding_size == 8
    assert student.generator_lm_head.weight is student.electra.embeddings.word_embeddings.weight


def test_neurons_that_the_hidden_size_counts_stay():
    model = teacher('gpt2')
    assert model.config.n_inner is None
    student = student_from_teacher(model, hidden_size=8, data=[batch(model)])
    assert student.config.n_inner == 64


class TestBadInput:
    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'hidden_size': 17}, 'hidden_size: expected 1 to 16, the dimensions'),
            ({'hidden_size': True}, 'hidden_size: expected 1 to 16'),
            ({'hidden_size': 12}, 'size of a head, which is 8 and stays; got 12 .hidden_size.*8 with 1 heads or 16'),
            ({'hidden_size': 4}, 'such as 8 with 1 heads'),
            ({'hidden_size': 16, 'num_attention_heads': 1}, r'got 16 \(num_attention_heads = 1\)'),
        ],
    )
    def test_sizes(self, options, message):
        model = teacher()
        with pytest.raises(ConfigError, match=message):
            student_from_teacher(model, data=[batch(model)], **options)

    def test_sizes_need_data(self):
        with pytest.raises(ConfigError, match='hidden_size needs data'):
            student_from_teacher(teacher(), hidden_size=8)

    def test_heads_left_out_before(self):
        model = teacher()
        model.prune_heads({0: [1]})
        with pytest.raises(ConfigError, match='hidden_size: some heads of the teacher are left out already'):
            student_from_teacher(model, hidden_size=8, data=[batch(model)])

    def test_cross_attention(self):
        config = hf.GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=40, add_cross_attention=True)
        model = hf.GPT2LMHeadModel(config).eval()
        with pytest.raises(ConfigError, match='add_cross_attention'):
            student_from_teacher(model, hidden_size=8, data=[batch(model)])


def test_every_architecture_says_its_heads():
    assert all(architecture_of(teacher(kind, 1)).attentions for kind in KINDS)
