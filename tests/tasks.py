"""Tasks of every kind as people train them, with their losses computed sample by sample, without batches or masks."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
import transformers
from composer.models import HuggingFaceModel
from torch import nn

from composer_kd import KLDivergence
from composer_kd.losses import mse
from tests.helpers import TokenDataset

SIZE, LENGTH, WORDS = 6, 8, 30


@dataclass
class Task:
    """One task.

    Args:
        net: The student's net.
        teacher: Its teacher.
        columns: The data: one batch.
        rows: Gives the outputs of a net that are compared, for one sample, as rows.
        task: Gives the sum of the student's own loss over one sample, and what it is divided by.
        loss: The distillation loss, of rows.
        settings: Settings of the distillation.
    """

    net: nn.Module
    teacher: nn.Module
    columns: dict
    rows: Callable
    task: Callable
    loss: Callable = field(default_factory=lambda: KLDivergence(1.0))
    settings: dict = field(default_factory=dict)

    def student(self):
        return HuggingFaceModel(self.net, use_logits=True, metrics=[])

    def data(self):
        return TokenDataset(**self.columns)

    @torch.no_grad()
    def expected(self):
        """The losses of the whole batch."""
        samples = [{key: value[i : i + 1] for key, value in self.columns.items()} for i in range(SIZE)]
        ours, theirs = (
            torch.cat([self.rows(net, sample) for sample in samples]) for net in (self.net.eval(), self.teacher.eval())
        )
        sums, counts = zip(*(self.task(self.net, sample) for sample in samples))
        return {
            'kd': float(self.loss(ours, theirs)) if len(ours) else 0.0,
            'task': float(sum(sums) / max(sum(counts), 1)),
        }


def nets(kind, config):
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(kind(config))
    return found


def bert(kind, **settings):
    rates = dict.fromkeys(('hidden_dropout_prob', 'attention_probs_dropout_prob'), 0.0)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        initializer_range=0.5, **rates, **settings,
    )  # fmt: skip
    return nets(kind, config)


def lengths(generator):
    return torch.randint(1, LENGTH + 1, (SIZE,), generator=generator)


def words(generator):
    """Words, with padding on the right."""
    ids = torch.randint(3, WORDS, (SIZE, LENGTH), generator=generator)
    attention = torch.arange(LENGTH) < lengths(generator)[:, None]
    return ids.where(attention, 0), attention.long()


def of_tokens(net, sample, labels):
    """Logits and labels of the tokens that are no padding, of one sample that runs without it."""
    length = int(sample['attention_mask'].sum())
    return net(input_ids=sample['input_ids'][:, :length]).logits[0], labels[0, :length]


def labelled(kind, known, generator, **settings):
    """One class for each token, some unknown."""
    ids, attention = words(generator)
    classes = settings.get('num_labels', WORDS)
    labels = torch.randint(classes, ids.shape, generator=generator).where(known & (attention == 1), -100)

    def rows(net, sample):
        logits, own = of_tokens(net, sample, sample['labels'])
        return logits[own != -100]

    def attended(net, sample):
        return of_tokens(net, sample, sample['labels'])[0]

    def task(net, sample):
        logits, own = of_tokens(net, sample, sample['labels'])
        return F.cross_entropy(logits, own, reduction='sum'), (own != -100).sum()

    columns = {'input_ids': ids, 'attention_mask': attention, 'labels': labels}
    return Task(*bert(kind, **settings), columns, rows, task), attended


def token_classes(known, generator):
    return labelled(transformers.BertForTokenClassification, known, generator, num_labels=4)[0]


def masked_words(known, generator):
    return labelled(transformers.BertForMaskedLM, known, generator)[0]


def attended_words(known, generator):
    task, task.rows = labelled(transformers.BertForMaskedLM, known, generator)
    task.settings = {'positions': 'attended'}
    return task


def causal(known, generator):
    rates = dict.fromkeys(('resid_pdrop', 'embd_pdrop', 'attn_pdrop'), 0.0)
    config = transformers.GPT2Config(
        vocab_size=WORDS, n_embd=16, n_layer=1, n_head=2, n_positions=LENGTH, initializer_range=0.5, **rates
    )
    ids, attention = words(generator)
    labels = ids.where(known & (attention == 1), -100)

    def following(net, sample):
        logits, own = of_tokens(net, sample, sample['labels'])
        return logits[:-1][own[1:] != -100], own[1:][own[1:] != -100]

    columns = {'input_ids': ids, 'attention_mask': attention, 'labels': labels}
    pair = nets(transformers.GPT2LMHeadModel, config)
    return Task(*pair, columns, lambda net, sample: following(net, sample)[0], lambda *of: summed(*following(*of)))


def summed(rows, classes):
    return F.cross_entropy(rows, classes, reduction='sum'), len(classes)


def packed(known, generator):
    """Two texts in each row, told apart by position ids that start anew; the first word of a text has no label."""
    config = transformers.LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=LENGTH, initializer_range=0.5, use_cache=False,
    )  # fmt: skip
    ids, cuts = torch.randint(3, WORDS, (SIZE, LENGTH), generator=generator), LENGTH // 2
    labels = ids.where(known, -100)
    labels[:, 0] = labels[:, cuts] = -100

    def following(net, sample):
        rows, classes = [], []
        for text in (slice(0, cuts), slice(cuts, LENGTH)):
            logits, own = net(input_ids=sample['input_ids'][:, text]).logits[0], sample['labels'][0, text]
            rows.append(logits[:-1][own[1:] != -100])
            classes.append(own[1:][own[1:] != -100])
        return torch.cat(rows), torch.cat(classes)

    positions = torch.arange(LENGTH).remainder(cuts).expand(SIZE, LENGTH).contiguous()
    columns = {'input_ids': ids, 'position_ids': positions, 'labels': labels}
    pair = nets(transformers.LlamaForCausalLM, config)
    return Task(*pair, columns, lambda net, sample: following(net, sample)[0], lambda *of: summed(*following(*of)))


def sequence_to_sequence(known, generator):
    config = transformers.T5Config(
        vocab_size=WORDS, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0,
        decoder_start_token_id=0, initializer_factor=3.0,
    )  # fmt: skip
    ids, attention = words(generator)
    answers = torch.randint(3, WORDS, (SIZE, LENGTH - 2), generator=generator)
    labels = answers.where(torch.arange(LENGTH - 2) < lengths(generator)[:, None], -100)

    def rows(net, sample):
        length = int(sample['attention_mask'].sum())
        own = sample['labels'][sample['labels'] != -100][None]
        return net(input_ids=sample['input_ids'][:, :length], labels=own).logits[0]

    def task(net, sample):
        return summed(rows(net, sample), sample['labels'][sample['labels'] != -100])

    columns = {'input_ids': ids, 'attention_mask': attention, 'labels': labels}
    return Task(*nets(transformers.T5ForConditionalGeneration, config), columns, rows, task)


def speech(known, generator):
    rates = ('hidden_dropout', 'activation_dropout', 'attention_dropout', 'feat_proj_dropout', 'final_dropout')
    config = transformers.Wav2Vec2Config(
        vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        conv_dim=(8, 8), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, layerdrop=0.0,
        num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, mask_time_prob=0.0, initializer_range=0.2,
        feat_extract_norm='layer', do_stable_layer_norm=True, ctc_loss_reduction='mean', **dict.fromkeys(rates, 0.0),
    )  # fmt: skip
    real = torch.randint(80, 200, (SIZE,), generator=generator)
    attention = torch.arange(200) < real[:, None]
    values = torch.randn(SIZE, 200, generator=generator) * attention
    # As many places for labels as there are classes, which does not make them labels of positions.
    labels = torch.randint(1, 12, (SIZE, 12), generator=generator)
    labels = labels.where(torch.arange(12) < 1 + known[:, 0].long()[:, None], -100)

    def rows(net, sample):
        return net(sample['input_values'][:, : int(sample['attention_mask'].sum())]).logits[0]

    columns = {'input_values': values, 'attention_mask': attention.long(), 'labels': labels}
    pair = nets(transformers.Wav2Vec2ForCTC, config)
    return Task(*pair, columns, rows, lambda net, sample: (net(**sample).loss, 1))


def several_labels(known, generator):
    ids, attention = words(generator)
    labels = (torch.rand(SIZE, 4, generator=generator) < 0.5).float()
    pair = bert(transformers.BertForSequenceClassification, num_labels=4, problem_type='multi_label_classification')

    def rows(net, sample):
        length = int(sample['attention_mask'].sum())
        return net(input_ids=sample['input_ids'][:, :length]).logits

    def task(net, sample):
        return F.binary_cross_entropy_with_logits(rows(net, sample), sample['labels']), 1

    return Task(*pair, {'input_ids': ids, 'attention_mask': attention, 'labels': labels}, rows, task, mse)


def texts(known, generator):
    """One class for each text; texts without one are distilled too."""
    task = several_labels(known, generator)
    task.net, task.teacher = bert(transformers.BertForSequenceClassification, num_labels=4)
    labels = torch.randint(4, (SIZE,), generator=generator).where(known[:, 0], -100)
    rows, task.columns['labels'] = task.rows, labels

    def own(net, sample):
        return F.cross_entropy(rows(net, sample), sample['labels'], reduction='sum'), (sample['labels'] != -100).sum()

    task.task, task.loss = own, KLDivergence(1.0)
    return task


TASKS = {
    make.__name__: make
    for make in (
        token_classes,
        masked_words,
        attended_words,
        causal,
        packed,
        sequence_to_sequence,
        speech,
        several_labels,
        texts,
    )
}


def make_task(name, known=None, seed=0):
    """Makes a task; ``known`` says which positions have a label, ``(SIZE, LENGTH)`` booleans, by default at random."""
    generator = torch.Generator().manual_seed(seed)
    known = torch.rand(SIZE, LENGTH, generator=generator) < 0.5 if known is None else known
    return TASKS[name](known, generator)
