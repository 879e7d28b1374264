"""Tiny teachers of every architecture that a student can be cut out of, and batches for them."""

import torch
import transformers as hf

from composer_kd.students.architectures import stacks_of
from composer_kd.students.importance import has_part, inputs_first, part_of

WORDS, SAMPLES, LENGTH = 40, 3, 7
SIZES = {'hidden_size': 16, 'num_attention_heads': 2, 'intermediate_size': 24}
TEXT = {**SIZES, 'vocab_size': WORDS, 'max_position_embeddings': 32}
GROUPED = {**TEXT, 'num_key_value_heads': 1}
IMAGES = {**SIZES, 'image_size': 8, 'patch_size': 4}
WINDOWS = {'use_sliding_window': True, 'sliding_window': 3, 'max_window_layers': 3}
T5 = {'vocab_size': WORDS, 'd_model': 16, 'd_kv': 8, 'd_ff': 24, 'num_heads': 2, 'decoder_start_token_id': 0}


def t5(depth):
    return hf.T5Config(num_layers=depth, **T5)


KINDS = {
    'bert': lambda n: hf.BertForSequenceClassification(hf.BertConfig(num_hidden_layers=n, **TEXT)),
    'bert-mlm': lambda n: hf.BertForMaskedLM(hf.BertConfig(num_hidden_layers=n, **TEXT)),
    'bert-plain': lambda n: hf.BertModel(hf.BertConfig(num_hidden_layers=n, **TEXT), add_pooling_layer=False),
    'roberta': lambda n: hf.RobertaForTokenClassification(hf.RobertaConfig(num_hidden_layers=n, **TEXT)),
    'xlm-roberta': lambda n: hf.XLMRobertaForMaskedLM(hf.XLMRobertaConfig(num_hidden_layers=n, **TEXT)),
    'camembert': lambda n: hf.CamembertModel(hf.CamembertConfig(num_hidden_layers=n, **TEXT)),
    'electra': lambda n: hf.ElectraForMaskedLM(hf.ElectraConfig(embedding_size=8, num_hidden_layers=n, **TEXT)),
    'mpnet': lambda n: hf.MPNetForSequenceClassification(hf.MPNetConfig(num_hidden_layers=n, **TEXT)),
    'distilbert': lambda n: hf.DistilBertForSequenceClassification(
        hf.DistilBertConfig(n_layers=n, dim=16, n_heads=2, hidden_dim=24, vocab_size=WORDS)
    ),
    'vit': lambda n: hf.ViTForImageClassification(hf.ViTConfig(num_hidden_layers=n, **IMAGES)),
    'deit': lambda n: hf.DeiTForImageClassificationWithTeacher(hf.DeiTConfig(num_hidden_layers=n, **IMAGES)),
    'beit': lambda n: hf.BeitForImageClassification(
        hf.BeitConfig(num_hidden_layers=n, use_relative_position_bias=True, drop_path_rate=0.2, **IMAGES)
    ),
    'gpt2': lambda n: hf.GPT2LMHeadModel(hf.GPT2Config(n_layer=n, n_embd=16, n_head=2, vocab_size=WORDS)),
    'gpt2-classifier': lambda n: hf.GPT2ForSequenceClassification(
        hf.GPT2Config(n_layer=n, n_embd=16, n_head=2, vocab_size=WORDS, pad_token_id=0)
    ),
    'gpt_neox': lambda n: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(num_hidden_layers=n, **TEXT)),
    'llama': lambda n: hf.LlamaForCausalLM(hf.LlamaConfig(num_hidden_layers=n, **GROUPED)),
    'mistral': lambda n: hf.MistralForCausalLM(hf.MistralConfig(num_hidden_layers=n, **GROUPED)),
    'qwen2': lambda n: hf.Qwen2ForCausalLM(
        hf.Qwen2Config(num_hidden_layers=n, tie_word_embeddings=True, **WINDOWS, **GROUPED)
    ),
    'qwen3': lambda n: hf.Qwen3ForCausalLM(hf.Qwen3Config(num_hidden_layers=n, head_dim=8, **GROUPED)),
    't5': lambda n: hf.T5ForConditionalGeneration(t5(n)),
    't5-encoder': lambda n: hf.T5EncoderModel(t5(n)),
    'mt5': lambda n: hf.MT5ForConditionalGeneration(hf.MT5Config(num_layers=n, tie_word_embeddings=False, **T5)),
}
CAUSAL = ('gpt2', 'gpt_neox', 'llama', 'mistral', 'qwen2', 'qwen3', 't5', 'mt5')


def teacher(kind='bert', depth=4, seed=0):
    """Weights far from those of an untrained model, so that each layer matters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = KINDS[kind](depth).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.15 * torch.randn_like(parameter))
        return model


def batch(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    if model.main_input_name == 'pixel_values':
        return {'pixel_values': torch.randn(SAMPLES, 3, 8, 8, generator=generator)}
    words = torch.randint(3, WORDS, (SAMPLES, LENGTH), generator=generator)
    mask = torch.ones(SAMPLES, LENGTH, dtype=torch.long)
    mask[1, 4:] = 0
    found = {'input_ids': words.masked_fill(mask == 0, 0), 'attention_mask': mask}
    if hasattr(model, 'get_decoder') and model.config.is_encoder_decoder:
        found['labels'] = torch.randint(3, WORDS, (SAMPLES, 5), generator=generator)
    return found


def answers(model, inputs):
    """The first output that is no loss."""
    with torch.no_grad():
        made = model(**inputs)
    return made[1 if 'labels' in inputs else 0]


def stacks(model):
    """The layers of a model, found by their class: the lists of blocks, those of the encoder first."""
    names = ('Layer', 'Block', 'DecoderLayer')
    return [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.ModuleList)
        and len(module)
        and type(module[0]).__name__.endswith(names)
        and not type(module[0]).__name__.startswith(('T5Layer', 'MT5Layer'))
    ]


def silence(model, path, idle):
    """Lets some inputs of a linear layer, in every layer that has it, add nothing; returns the model."""
    with torch.no_grad():
        for _, where in stacks_of(model).values():
            for layer in model.get_submodule(where):
                if has_part(layer, path):
                    inputs_first(part_of(layer, path))[idle] = 0
    return model
