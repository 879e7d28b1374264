"""Transformers of the smallest kind, their data, and other models that exports meet."""

import torch
from composer.models import ComposerClassifier, HuggingFaceModel
from torch import nn

from tests.helpers import CLASSES, mlp, pairs

WORDS, LENGTH = 40, 9


def bert_module():
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32}
    return BertForSequenceClassification(
        BertConfig(vocab_size=WORDS, max_position_embeddings=32, num_labels=3, **sizes)
    ).eval()


def gpt2_module():
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()


def tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(['[PAD]', '[UNK]', *(f'w{n}' for n in range(WORDS - 2))])}
    split = Tokenizer(WordLevel(words, '[UNK]'))
    split.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=split, pad_token='[PAD]', unk_token='[UNK]')


def bert():
    from torchmetrics.classification import MulticlassAccuracy

    accuracy = MulticlassAccuracy(num_classes=3, average='micro')
    return HuggingFaceModel(bert_module(), tokenizer=tokenizer(), metrics=[accuracy], use_logits=True)


def tokens(n, length=LENGTH, seed=0):
    """Token numbers and a mask; sentences differ in length, and are padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(2, WORDS, (n, length), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(n):
        mask[row, length - row % 4 :] = 0
    return {'input_ids': ids.where(mask.bool(), 0), 'attention_mask': mask}


class Sentences(torch.utils.data.Dataset):
    def __init__(self, n=24):
        self.columns = {**tokens(n), 'labels': torch.arange(n) % 3}

    def __len__(self):
        return len(self.columns['labels'])

    def __getitem__(self, index):
        return {key: column[index] for key, column in self.columns.items()}


class Measured(torch.utils.data.Dataset):
    """Samples as mappings: two halves of the inputs, and a label."""

    def __init__(self, n=24, num_classes=CLASSES):
        x, y = pairs(n)
        self.columns = {'left': x[:, :3], 'right': x[:, 3:], 'labels': y}
        self.num_classes = num_classes

    def __len__(self):
        return len(self.columns['labels'])

    def __getitem__(self, index):
        return {key: column[index] for key, column in self.columns.items()}


class Keywords(nn.Module):
    """Takes whatever it is given by name."""

    def __init__(self, seed=3):
        super().__init__()
        self.net = mlp(seed=seed)

    def forward(self, **x):
        return self.net(torch.cat([x['left'], x['right']], dim=1))


class OfMappings(ComposerClassifier):
    """A student that takes mappings whole."""

    def __init__(self, seed=4):
        super().__init__(Keywords(seed), num_classes=CLASSES)

    def forward(self, batch):
        return self.module(**{key: value for key, value in batch.items() if key != 'labels'})

    def loss(self, outputs, batch):
        return nn.functional.cross_entropy(outputs, batch['labels'])

    def update_metric(self, batch, outputs, metric):
        metric.update(outputs, batch['labels'])


class Branching(nn.Module):
    """Takes a way that depends on what the inputs are: no exporter can follow."""

    def forward(self, x):
        return x * int(x.sum().item()) if x.max().item() > 0 else x.tolist()


class OneSize(nn.Module):
    """Answers rightly for two samples only, without failing for others."""

    def forward(self, x):
        return x.reshape(2, -1)[:, :3].repeat(len(x) // 2 + 1, 1)[: len(x)]
