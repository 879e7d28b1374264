"""Students cut out of their teacher, compared with the teacher in which the other layers are skipped."""

import copy

import pytest
import torch
import transformers as hf
from composer.metrics import LanguageCrossEntropy
from composer.models import HuggingFaceModel

from composer_kd import ConfigError, student_from_teacher
from tests.students.teachers import CAUSAL, KINDS, TEXT, answers, batch, stacks, t5, teacher


def skipping(model, kept):
    """The teacher with every other layer replaced by the identity on its hidden states, through hooks."""
    model = copy.deepcopy(model)

    def identity(layer, args, kwargs, output):
        before = args[0] if args else kwargs['hidden_states']
        return (before, *output[1:]) if isinstance(output, tuple) else before

    for layers in stacks(model):
        for index, layer in enumerate(layers):
            if index not in kept:
                layer.register_forward_hook(identity, with_kwargs=True)
    return model


@pytest.mark.parametrize('kind', KINDS)
def test_is_the_teacher_without_the_other_layers(kind, tmp_path):
    model = teacher(kind)
    inputs = batch(model)
    whole = student_from_teacher(model, [0, 1, 2, 3])
    assert torch.equal(answers(whole, inputs), answers(model, inputs))
    for kept in ([1, 3], [0, 2, 3]):
        student = student_from_teacher(model, kept)
        ours = answers(student, inputs)
        assert torch.equal(ours, answers(skipping(model, kept), inputs))
        assert not torch.allclose(ours, answers(model, inputs), atol=1e-3)
    student.save_pretrained(tmp_path)
    options = {'add_pooling_layer': False} if kind == 'bert-plain' else {}
    loaded = type(model).from_pretrained(tmp_path, **options)
    assert torch.equal(answers(loaded, inputs), ours)
    assert loaded.num_parameters() == student.num_parameters()
    layers = loaded.config.cut_from['layers']
    assert layers == ([0, 2, 3] if len(stacks(model)) == 1 else {'encoder': [0, 2, 3], 'decoder': [0, 2, 3]})


@pytest.mark.parametrize('kind', CAUSAL)
def test_generates_with_a_cache_as_without(kind):
    student = student_from_teacher(teacher(kind), 'odd')
    words = torch.randint(3, 40, (2, 4), generator=torch.Generator().manual_seed(0))
    options = {'max_new_tokens': 6, 'do_sample': False, 'pad_token_id': 0, 'attention_mask': torch.ones_like(words)}
    generated = student.generate(words, use_cache=True, **options)
    assert torch.equal(generated, student.generate(words, use_cache=False, **options))
    assert generated.shape[1] > 4 or student.config.is_encoder_decoder


def test_layers_keep_their_kind_of_attention():
    model = teacher('qwen2')
    assert model.config.layer_types == ['full_attention'] * 3 + ['sliding_attention']
    student = student_from_teacher(model, [1, 3])
    assert student.config.layer_types == ['full_attention', 'sliding_attention']
    assert student.config.max_window_layers == 1
    assert [layer.self_attn.layer_idx for layer in student.model.layers] == [0, 1]


def test_pruned_heads_go_with_their_layers():
    model = teacher()
    model.prune_heads({1: [0], 2: [1]})
    student = student_from_teacher(model, [0, 2])
    assert student.config.pruned_heads == {1: [1]}
    assert torch.equal(answers(student, batch(model)), answers(skipping(model, [0, 2]), batch(model)))


def test_shares_nothing_with_the_teacher_and_trains_where_that_is_frozen():
    model = teacher('bert-mlm').requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    student = student_from_teacher(model, 'top', 2)
    theirs = {value.data_ptr() for value in model.state_dict().values()}
    assert not theirs & {value.data_ptr() for value in student.state_dict().values()}
    assert student.cls.predictions.decoder.weight is student.bert.embeddings.word_embeddings.weight
    assert all(parameter.requires_grad for parameter in student.parameters())
    student.config.id2label[0] = 'other'
    for parameter in student.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.id2label[0] == 'LABEL_0'
    assert model.config.num_hidden_layers == 4


@pytest.mark.parametrize('training', [True, False])
def test_dtype_and_mode_are_those_of_the_teacher(training):
    model = teacher('llama').to(torch.bfloat16).train(training)
    model.model.norm.float()
    student = student_from_teacher(model, 'odd')
    theirs = {name: value.dtype for name, value in model.named_parameters()}
    assert all(value.dtype == theirs[name] for name, value in student.named_parameters())
    assert student.model.rotary_emb.inv_freq.dtype == model.model.rotary_emb.inv_freq.dtype
    assert student.training is training


def test_draws_no_random_numbers():
    model = teacher('vit')
    before = torch.get_rng_state()
    student_from_teacher(model, 'odd')
    assert torch.equal(torch.get_rng_state(), before)


def test_settings_of_generation_and_attention_are_kept():
    model = teacher('llama')
    model.generation_config.max_new_tokens = 5
    model.config._attn_implementation = 'eager'
    student = student_from_teacher(model, 'odd')
    assert student.generation_config.max_new_tokens == 5
    assert student.config._attn_implementation == 'eager'


def test_stacks_are_cut_each_by_its_own():
    model = teacher('t5')
    student = student_from_teacher(model, num_layers={'decoder': 1})
    assert student.config.cut_from['layers'] == {'encoder': [0, 1, 2, 3], 'decoder': [0]}
    assert (student.config.num_layers, student.config.num_decoder_layers) == (4, 1)
    student = student_from_teacher(model, {'encoder': 'top', 'decoder': [1, 2]}, {'encoder': 2})
    assert student.config.cut_from['layers'] == {'encoder': [2, 3], 'decoder': [1, 2]}
    deeper = hf.T5ForConditionalGeneration(hf.T5Config(**{**t5(2).to_dict(), 'num_decoder_layers': 6}))
    assert student_from_teacher(deeper, 'odd').config.cut_from['layers'] == {'encoder': [1], 'decoder': [1, 3, 5]}


def test_students_can_be_cut_again():
    model = teacher(depth=6)
    once = student_from_teacher(model, 'odd')
    twice = student_from_teacher(once, 'top', 2)
    assert twice.config.cut_from['layers'] == [1, 2]
    assert torch.equal(answers(twice, batch(model)), answers(skipping(model, [3, 5]), batch(model)))


def test_a_composer_model_gives_one_alike():
    tokenizer = object.__new__(hf.PreTrainedTokenizerFast)
    model = HuggingFaceModel(teacher('gpt2'), use_logits=True, metrics=[LanguageCrossEntropy()], shift_labels=True)
    model.tokenizer = tokenizer
    words = batch(model.model)
    model.train_metrics['LanguageCrossEntropy'].update(torch.randn(6, 5), torch.randint(5, (6,)))
    student = student_from_teacher(model, 'odd')
    assert type(student) is HuggingFaceModel
    assert student.model.config.n_layer == student.config.n_layer == 2
    assert student.config is student.model.config
    assert student.tokenizer is tokenizer
    assert (student.use_logits, student.shift_labels) == (True, True)
    assert float(student.train_metrics['LanguageCrossEntropy'].total_items) == 0
    assert float(model.train_metrics['LanguageCrossEntropy'].total_items) == 6
    assert model.model.config.n_layer == 4
    assert torch.equal(student(words)['logits'], student.model(**words).logits)


class TestBadInput:
    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'layers': 'top', 'num_layers': 5}, 'expected 1 to 4, the layers of the teacher, got 5'),
            ({'layers': [0, 4]}, 'expected indices from 0 to 3.*got .0, 4.'),
            ({'layers': [-1]}, 'expected indices from 0 to 3'),
            ({'layers': [1, 1]}, 'each index once'),
            ({'layers': [2, 1]}, 'ascending'),
            ({'layers': []}, 'expected indices from 0 to 3'),
            ({'layers': [0, 1], 'num_layers': 3}, '2 layers are listed, got 3'),
            ({'layers': 'odd', 'num_layers': 3}, "2 layers with an odd index, got 3; leave it out, or take 'spaced'"),
            ({'layers': 'botom', 'num_layers': 2}, "did you mean 'bottom'"),
            ({'layers': 'bottom'}, "'bottom' needs num_layers"),
            ({'layers': 'importance', 'num_layers': 2}, 'needs data'),
            ({'layers': 'importance', 'data': []}, 'num_layers: expected 1 to 4'),
            ({'layers': 'importance', 'num_layers': 2, 'data': []}, 'at least one batch'),
            ({'layers': 'odd', 'data': []}, 'data is read for'),
            ({'num_layers': True}, 'expected 1 to 4'),
            ({'num_layers': {'decoder': 2}}, "no stack 'decoder'"),
            ({}, 'nothing is to be left out'),
        ],
    )
    def test_choices(self, options, message):
        with pytest.raises(ConfigError, match=message):
            student_from_teacher(teacher(), **options)

    def test_albert_has_one_layer(self):
        model = hf.AlbertModel(hf.AlbertConfig(embedding_size=8, **TEXT))
        with pytest.raises(ConfigError, match=r'all of its layers are one layer.*smaller config.num_hidden_layers'):
            student_from_teacher(model, 'odd')

    def test_another_architecture(self):
        model = hf.OPTModel(hf.OPTConfig(hidden_size=16, ffn_dim=16, num_attention_heads=2, word_embed_proj_dim=16))
        with pytest.raises(ConfigError, match=r"OPTModel .model_type 'opt'.*Supported: beit, bert, camembert"):
            student_from_teacher(model, 'odd')

    def test_a_head_that_reads_layers_by_number(self):
        sizes = {'hidden_size': 16, 'num_attention_heads': 2, 'intermediate_size': 16, 'image_size': 64}
        model = hf.BeitForSemanticSegmentation(hf.BeitConfig(out_indices=[3, 5, 7, 11], **sizes))
        with pytest.raises(ConfigError, match=r'config\.out_indices'):
            student_from_teacher(model, 'odd')

    def test_no_model_of_transformers(self):
        with pytest.raises(ConfigError, match=r'expected a model of transformers.*got Linear'):
            student_from_teacher(torch.nn.Linear(2, 2), 'odd')
        with pytest.raises(ConfigError, match='got str'):
            student_from_teacher('bert-base-uncased', 'odd')

    def test_adapters(self):
        peft = pytest.importorskip('peft')
        model = teacher()
        wrapped = peft.get_peft_model(model, peft.LoraConfig(target_modules=['query']))
        for one in (wrapped, model):
            with pytest.raises(ConfigError, match=r'teacher\.merge_and_unload\(\)'):
                student_from_teacher(one, 'odd')
        assert student_from_teacher(wrapped.merge_and_unload(), 'odd').config.num_hidden_layers == 2

    def test_quantised(self):
        model = torch.ao.quantization.quantize_dynamic(teacher(), {torch.nn.Linear}, torch.qint8)
        with pytest.raises(ConfigError, match='quantised'):
            student_from_teacher(model, 'odd')

    def test_without_weights(self):
        with pytest.raises(ConfigError, match='expected a teacher on one device, got meta'):
            student_from_teacher(teacher().to('meta'), 'odd')

    def test_position_dependent_attention(self):
        config = hf.GPT2Config(n_layer=4, n_embd=16, n_head=2, vocab_size=40, scale_attn_by_inverse_layer_idx=True)
        model = hf.GPT2LMHeadModel(config).eval()
        with pytest.raises(ConfigError, match=r"divided by its number.*layers='bottom'"):
            student_from_teacher(model, 'odd')
        student = student_from_teacher(model, 'bottom', 2)
        assert torch.equal(answers(student, batch(model)), answers(skipping(model, [0, 1]), batch(model)))

    def test_settings_that_the_config_does_not_have(self):
        model = teacher()
        model.bert.encoder.layer[3].attention.self.dropout.p = 0.5
        with pytest.raises(ConfigError, match=r'encoder.layer.3.attention.self.dropout has p = 0.5.*has 0.1 there'):
            student_from_teacher(model, 'odd')

    def test_weights_tied_otherwise_than_the_config_says(self):
        model = teacher('bert-mlm')
        model.cls.predictions.decoder.weight = torch.nn.Parameter(torch.randn(40, 16))
        with pytest.raises(ConfigError, match='tie_word_embeddings = False'):
            student_from_teacher(model, 'odd')
        model = teacher()
        model.bert.encoder.layer[3].output.dense = model.bert.encoder.layer[1].output.dense
        with pytest.raises(ConfigError, match='are one parameter in the teacher'):
            student_from_teacher(model, 'odd')

    def test_parts_that_the_class_does_not_build(self):
        model = teacher()
        model.bert.extra = torch.nn.Linear(2, 2)
        with pytest.raises(ConfigError, match=r"'bert.extra.weight', which its class does not build"):
            student_from_teacher(model, 'odd')
        model = teacher()
        model.bert.embeddings.word_embeddings = torch.nn.Embedding(50, 16)
        with pytest.raises(ConfigError, match=r'\(50, 16\), and its config builds \(40, 16\).*vocab_size'):
            student_from_teacher(model, 'odd')
        model = teacher()
        del model.bert.encoder.layer[3]
        with pytest.raises(ConfigError, match='expected 4 layers'):
            student_from_teacher(model, 'odd')
