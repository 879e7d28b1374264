"""Texts, a tokenizer and tiny models of transformers, made on the spot: nothing is downloaded."""

import json
import random

import torch
import transformers
import yaml

WORDS = [
    *('a', 'the', 'film', 'is', 'was', 'not', 'very', 'good', 'bad', 'great'),
    *('dull', 'actor', 'story', 'plot', 'of', 'and', 'it', 'scene'),
]
SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
TINY = {'hidden_size': 8, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 16}
VOCABULARY = len(SPECIAL) + len(WORDS)


def save_tokenizer(folder, words=WORDS):
    """A tokenizer of words, in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'words.txt').write_text('\n'.join([*SPECIAL, *words]))
    transformers.BertTokenizerFast(str(folder / 'words.txt'), model_max_length=512).save_pretrained(folder)
    return str(folder)


def save_model(folder, kind='BertForSequenceClassification', seed=0, words=WORDS, sizes=TINY, **settings):
    """A tiny BERT with a tokenizer, in a folder, of random weights."""
    save_tokenizer(folder, words)
    config = transformers.BertConfig(
        vocab_size=len(SPECIAL) + len(words), max_position_embeddings=64, initializer_range=0.5, **sizes, **settings
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        getattr(transformers, kind)(config).save_pretrained(folder)
    return str(folder)


def sentences(count, seed=0, longest=9):
    chance = random.Random(seed)
    return [' '.join(chance.choices(WORDS, k=chance.randint(2, longest))) for _ in range(count)]


def save_sst2(root, train=24, validation=12):
    """Files of SST-2 whose label says whether a sentence holds the word good."""
    folder = root / 'glue' / 'SST-2'
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (('train', train, 0), ('dev', validation, 1)):
        rows = [f'{text}\t{int("good" in text.split())}' for text in sentences(count, seed)]
        (folder / f'{name}.tsv').write_text('\n'.join(['sentence\tlabel', *rows]) + '\n')
    return str(root)


def save_jsonl(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(''.join(json.dumps(row) + '\n' for row in rows))


def run_yaml(place, **changes):
    """The path of a YAML that trains a student of one layer, taught by the whole model."""
    data = {'name': 'glue', 'task': 'sst2', 'tokenizer': 'bert', 'root': '.', 'max_length': 16}
    content = {
        'model': {'name': 'hf_classifier', 'pretrained': 'bert', 'config': {'num_hidden_layers': 1}},
        'optimizer': {'name': 'DecoupledAdamW', 'lr': 0.01},
        'train_loader': {'dataset': {**data, 'split': 'train'}},
        'eval_loader': {'dataset': {**data, 'split': 'validation'}},
        'algorithms': {
            'distillation': {
                'teachers': [{'model': {'name': 'hf_classifier', 'pretrained': 'bert'}}],
                'kd_loss_fn': {'name': 'KLDivergence', 'temperature': 2.0},
            }
        },
        'max_duration': '2ep', 'global_train_batch_size': 8, 'progress_bar': False, 'save_folder': 'runs/{run_name}',
        **changes,
    }  # fmt: skip
    (place / 'run.yaml').write_text(yaml.safe_dump(content))
    return place / 'run.yaml'
