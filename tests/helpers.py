"""What many tests need: small models, data held in memory, a quiet Trainer, and a look at every loss."""

import torch
from composer import Trainer
from composer.core import Callback, Event
from composer.models import ComposerClassifier, ComposerModel
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

FEATURES, CLASSES = 6, 4


def mlp(classes=CLASSES, seed=0, dropout=0.0, norm=False):
    """A small classifier of (B, 6) inputs whose weights depend on the seed alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(FEATURES, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Tanh(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(8, classes))


def named(thing):
    """The id of a parameter, equal in all processes: what a function's ``repr`` says of addresses is not."""
    return getattr(thing, '__name__', repr(thing))


def mse(student, teacher):
    return (student - teacher).square().mean()


def student(module=None, loss_fn=None, seed=1):
    module = mlp(seed=seed) if module is None else module
    metric = {
        name: MulticlassAccuracy(CLASSES, average='micro', ignore_index=-100)
        for name in ('train_metrics', 'val_metrics')
    }
    extra = {} if loss_fn is None else {'loss_fn': loss_fn}
    return ComposerClassifier(module, num_classes=CLASSES, **metric, **extra)


def pairs(n=24, seed=2, unlabelled=()):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        x, y = torch.randn(n, FEATURES), torch.randint(CLASSES, (n,))
    y[list(unlabelled)] = -100
    return x, y


def loader(x, y, batch_size=8, **options):
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, **options)


class TokenDataset(torch.utils.data.Dataset):
    """Dicts of tensors, as Hugging Face collators make them."""

    def __init__(self, **columns):
        self.columns = columns

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, index):
        return {key: column[index] for key, column in self.columns.items()}


class TokenModel(ComposerModel):
    """A language model of the smallest kind: logits (B, S, V) for a dict of input_ids, labels, attention_mask."""

    def __init__(self, vocabulary=11, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embed, self.head = nn.Embedding(vocabulary, 5), nn.Linear(5, vocabulary)

    def forward(self, batch):
        return self.head(self.embed(batch['input_ids']))

    def loss(self, outputs, batch):
        if 'labels' not in batch:
            return outputs.square().mean()
        return nn.functional.cross_entropy(outputs.transpose(1, 2), batch['labels'])

    def eval_forward(self, batch, outputs=None):
        return self.forward(batch)


class Recorder(Callback):
    """Keeps what a run's losses were: per microbatch, as the algorithm left them, and per batch, as logged."""

    def __init__(self):
        self.microbatches, self.batches, self.seen = [], [], []

    def after_loss(self, state, logger):
        loss = state.loss
        self.seen.append(state.batch)
        self.microbatches.append({k: v.item() for k, v in loss.items()} if isinstance(loss, dict) else loss.item())

    def batch_end(self, state, logger):
        total = state.total_loss_dict if hasattr(state, 'total_loss_dict') else {}
        self.batches.append({key.removeprefix('loss/train/'): float(value) for key, value in total.items()})


class EventSpy(Callback):
    """Calls a function at an event."""

    def __init__(self, event, call):
        self.event, self.call = Event(event), call

    def run_event(self, event, state, logger):
        if event == self.event:
            self.call(state)


def sgd(model, lr=0.1, momentum=0.9):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)


def trainer(model, data, algorithms=(), callbacks=(), max_duration='1ep', optimizer=None, **options):
    return Trainer(
        model=model,
        train_dataloader=data,
        max_duration=max_duration,
        optimizers=optimizer or sgd(model),
        algorithms=list(algorithms),
        callbacks=list(callbacks),
        progress_bar=False,
        seed=options.pop('seed', 17),
        **options,
    )


def train(model, data, algorithms=(), callbacks=(), **options):
    run = trainer(model, data, algorithms, callbacks, **options)
    run.fit()
    run.close()
    return run


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
