"""Called by algorithms/test_co_distillation.py in several processes: trains in groups of ranks, and writes JSON."""

import contextlib
import functools
import json
import tempfile
import warnings
from pathlib import Path

import torch
import transformers
from composer.algorithms import EMA, SAM, SWA, LabelSmoothing, LayerFreezing, MixUp
from composer.callbacks import EarlyStopper
from composer.loggers import InMemoryLogger
from composer.models import HuggingFaceModel
from composer.utils import dist
from composer.utils.parallelism import FSDP2Config
from torchmetrics.classification import MulticlassAccuracy

from composer_kd import CoDistillation, Distillation, KLDivergence
from composer_kd.config.load import load_config
from composer_kd.losses import mse
from composer_kd.runs.train import train as train_run
from tests.helpers import EventSpy, Recorder, TokenDataset, TokenModel, mlp, pairs, sgd, student, trainer, weights

GROUPS = 2
FEW = [number for number in range(32) if number % 4 != 1]  # the first of two processes has no label at all


def everywhere(thing):
    return dist.all_gather_object(thing)


def loader(dataset, batch_size=8, **options):
    sampler = dist.get_sampler(dataset, shuffle=False, drop_last=options.get('drop_last', True))
    return torch.utils.data.DataLoader(dataset, batch_size=batch_size // dist.get_world_size(), sampler=sampler)


def points(n=32, unlabelled=(), **options):
    return loader(torch.utils.data.TensorDataset(*pairs(n, unlabelled=unlabelled)), **options)


def net(algorithm, **options):
    return student(mlp(seed=10 + algorithm.group, **options))


def fit(algorithm, model=None, data=None, callbacks=(), others=(), **options):
    model = model or net(algorithm)
    options = {'optimizer': sgd(model), 'device': 'cpu', 'max_duration': '2ep', **options}
    run = trainer(model, points() if data is None else data, [algorithm, *others], callbacks, **options)
    run.fit()
    return run


def numbers(model):
    return {name: value.flatten().tolist() for name, value in model.state_dict().items()}


def trained(**options):
    """The losses, and each rank's net at the end."""
    settings = {key: options.pop(key) for key in ('start_dur', 'kd_loss_fn', 'kd_loss_weight', 'org_loss_weight')
                if key in options}  # fmt: skip
    algorithm, recorder = CoDistillation('2ba', options.pop('groups', GROUPS), **settings), Recorder()
    model = options.pop('make', lambda one: net(one, norm=True))(algorithm)
    run = fit(algorithm, model, options.pop('data', points)(), [recorder], **options)
    found = everywhere(weights(model).tolist())
    nets = [flat(one) for one in algorithm.networks()]
    run.close()
    return {'losses': recorder.batches, 'ranks': found, 'networks': nets}


def tokens():
    """Few labels in the first half of each batch, and so on one of two ranks."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (32, 6), generator=generator)
    chance = torch.tensor([0.1, 0.9]).repeat(16).unsqueeze(-1)
    labels = torch.where(torch.rand(32, 6, generator=generator) < chance, ids, -100)
    labels[:, 0] = ids[:, 0]
    return TokenDataset(input_ids=ids, labels=labels)


def token_model(algorithm):
    return TokenModel(seed=10 + algorithm.group)


def uneven(dataset=None, collate=None):
    """Batches of 3 samples on the first rank, and of 5 on the second."""
    dataset = dataset or torch.utils.data.TensorDataset(*pairs(32))
    options = {'sampler': dist.get_sampler(dataset, shuffle=False), 'collate_fn': collate}
    return torch.utils.data.DataLoader(dataset, batch_size=3 + 2 * dist.get_global_rank(), **options)


def padded(samples):
    """A batch as the collators of transformers make it: no dict."""
    return transformers.BatchEncoding(torch.utils.data.default_collate(samples))


def bert(algorithm):
    sizes = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32}
    rates = dict.fromkeys(('hidden_dropout_prob', 'attention_probs_dropout_prob'), 0.0)
    torch.manual_seed(10 + algorithm.group)
    net = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=11, **sizes, **rates))
    metric = MulticlassAccuracy(2, average='micro')
    return HuggingFaceModel(net, use_logits=True, metrics=[metric], eval_metrics=[metric])


def texts():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (32, 6), generator=generator)
    return TokenDataset(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids[:, 0] % 2)


class Keeping(torch.nn.Module):
    """A net that keeps what it has computed, with its graph, as modules with an auxiliary loss or weight_norm do."""

    def __init__(self, seed):
        super().__init__()
        self.net, self.last = mlp(seed=seed), None

    def forward(self, x):
        self.last = [self.net(x)]
        return self.last[0]


TRAINED = {
    'points': trained,
    'settings': lambda: trained(start_dur='5ba', kd_loss_fn=mse, kd_loss_weight=0.7, org_loss_weight=0.4),
    'evaluated on the way': lambda: trained(eval_dataloader=points(), eval_interval='1ba'),
    'hugging face': lambda: trained(
        make=bert, data=lambda: loader(texts()), eval_dataloader=loader(texts()), eval_interval='3ba'
    ),
    'compiled': lambda: trained(make=compiled),
    'few labels': lambda: trained(make=net, data=lambda: points(unlabelled=FEW)),
    'microbatches': lambda: trained(make=net, device_train_microbatch_size=1),
    'tokens': lambda: trained(make=token_model, data=lambda: loader(tokens())),
    'tokens in microbatches': lambda: trained(
        make=token_model, data=lambda: loader(tokens()), device_train_microbatch_size=1
    ),
}


def normed(algorithm):
    return net(algorithm, norm=True)


def compiled(algorithm):
    return torch.compile(normed(algorithm), backend='eager')


def evaluated(make=normed):
    """Five samples in evaluation: the sampler repeats some, which must not count."""
    algorithm, logger = CoDistillation('2ba', GROUPS), InMemoryLogger()
    data = points(5, batch_size=dist.get_world_size(), drop_last=False)
    model = make(algorithm)
    run = fit(algorithm, model, callbacks=[logger], eval_dataloader=data, max_duration='3ba')
    before = everywhere(numbers(model))
    run.eval()
    found = run.state.eval_metrics['eval']['MulticlassAccuracy'].compute().item()
    outputs = torch.cat(run.predict(data))
    after = everywhere(numbers(model))
    run.close()
    return {
        'student': found,
        'all': everywhere(dict(algorithm.final_metrics())),
        'networks': [{name: value.tolist() for name, value in one.items()} for one in algorithm.networks()],
        'unchanged': before == after,
        'predicted': everywhere(outputs.tolist()),
    }


def interrupted():
    """The nets, and group 1's in checkpoints, before an evaluator runs, while it runs, and after it was interrupted."""
    folder, found, saved, metrics = everywhere(tempfile.mkdtemp())[0], [], [], []

    def look(state=None):
        run.save_checkpoint(f'{folder}/{len(found)}.pt')
        checkpoint = torch.load(f'{folder}/{len(found)}.pt', weights_only=False)
        saved.append(flat(checkpoint['state']['algorithms'][0][1]['nets'][1]['net']))
        found.append([flat(one) for one in algorithm.networks()])

    def look_and_stop(state):
        look()
        raise KeyboardInterrupt

    algorithm = CoDistillation('2ba', GROUPS)
    run = fit(algorithm, max_duration='4ba')
    look()
    for spies in ([], [EventSpy('eval_batch_end', look)], [EventSpy('eval_batch_start', look_and_stop)]):
        run.state.callbacks[:] = spies
        with contextlib.suppress(KeyboardInterrupt):
            run.eval(points())
            metrics.append(dict(algorithm.final_metrics()))
    look()
    run.close()
    return {'networks': found, 'saved': saved, 'metrics': metrics}


def flat(net):
    return torch.cat([value.flatten() for value in net.values()]).tolist()


def train_metrics():
    algorithm, seen = CoDistillation('2ba', GROUPS), []
    model = net(algorithm)
    metric = lambda run: run.state.train_metrics['MulticlassAccuracy']  # noqa: E731
    run = fit(algorithm, model, max_duration='1ba', optimizer=sgd(model, lr=0.0))
    seen = everywhere(metric(run).compute().item())
    run.close()
    return seen


def resumed(stop):
    """All that ranks have at the end, of a run that went on and of one that was stopped and resumed."""
    folder = everywhere(tempfile.mkdtemp())[0]

    def go(duration, **options):
        algorithm = CoDistillation('2ba', GROUPS)
        model = net(algorithm, norm=True, dropout=0.3)
        run = fit(algorithm, model, max_duration=duration, **options)
        last = [numbers(model), {n: numbers(t.model) for n, t in algorithm._copies.items()}]
        momenta = [value['momentum_buffer'].tolist() for value in run.state.optimizers[0].state.values()]
        run.close()
        return everywhere([last, momenta])

    straight = go('7ba')
    go(stop, save_folder=folder, save_interval='1ba', save_latest_filename=None, save_filename='ba{batch}.pt')
    return go('7ba', load_path=f'{folder}/ba{stop.removesuffix("ba")}.pt') == straight


def message(call):
    """What each rank is told, and whether it is the same on all of them."""
    try:
        call()
    except Exception as error:  # of any kind, to see which
        found = f'{type(error).__name__}: {error}'
    else:
        found = 'nothing'
    texts = everywhere(found)
    return texts[0] if len(set(texts)) == 1 else str(texts)


def refused(other=None, groups=GROUPS, **options):
    algorithm = CoDistillation('2ba', groups)
    others = [] if other is None else [other]
    return message(lambda: fit(algorithm, others=others, max_duration='1ba', **options))


REFUSED = {
    'EMA': lambda: refused(EMA()),
    'SWA': lambda: refused(SWA()),
    'SAM': lambda: refused(SAM()),
    'LayerFreezing': lambda: refused(LayerFreezing()),
    'MixUp': lambda: refused(MixUp(interpolate_loss=True)),
    'Distillation': lambda: refused(Distillation(mlp(seed=3), KLDivergence())),
    'EarlyStopper': lambda: refused(callbacks=[EarlyStopper('MulticlassAccuracy', 'train', patience='1ep')]),
    'fsdp': lambda: refused(parallelism_config={'fsdp': FSDP2Config()}),
    'SyncBatchNorm': lambda: refused(model=student(torch.nn.SyncBatchNorm.convert_sync_batchnorm(mlp(norm=True)))),
    'forced_sync': lambda: refused(ddp_sync_strategy='forced_sync'),
    'groups': lambda: refused(groups=3),
    'frozen': lambda: refused(model=student(mlp(seed=1).requires_grad_(False)), optimizer=sgd(mlp())),
}


class Streamed(torch.utils.data.IterableDataset):
    """Samples of which nothing says how many there are."""

    def __iter__(self):
        return zip(*pairs(32))


def of_unknown_length():
    algorithm = CoDistillation('1ep', GROUPS)
    seen, spy = [], EventSpy('batch_start', lambda state: seen.append(state.timestamp.batch.value))
    data = torch.utils.data.DataLoader(Streamed(), batch_size=4)
    return [message(lambda: fit(algorithm, data=data, callbacks=[spy], max_duration='2ba')), seen]


def exchanges(end):
    """The numbers of batches after which the nets are exchanged, in a run of 8."""
    algorithm, seen = CoDistillation('2ba', GROUPS, end_dur=end), []
    exchange = algorithm._exchange
    algorithm._exchange = lambda state: (seen.append(state.timestamp.batch.value), exchange(state))
    fit(algorithm).close()
    return seen


def warned(**options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        algorithm = CoDistillation(options.pop('every', '2ba'), GROUPS, end_dur=options.pop('end_dur', 1.0))
        fit(algorithm, max_duration='4ba', **options).close()
    return [str(one.message) for one in caught if 'groups' in str(one.message) or 'never' in str(one.message)]


def from_a_yaml():
    """The metrics of a run, of the same run resumed inside an epoch, and whether the nets begin apart."""
    folder, seen = everywhere(tempfile.mkdtemp())[0], []

    def go(name, *overrides):
        same = ['device_train_microbatch_size=8', 'max_duration=50ba', 'eval_interval=1ep', 'progress_bar=false']
        config = load_config(
            'yamls/digits/co_distillation.yaml', [*same, f'run_name={name}', f'save_folder={folder}/{name}', *overrides]
        )
        begins = EventSpy('init', lambda state: seen.append(everywhere(weights(state.model).tolist())))
        found = train_run(config, [begins], quiet=True)
        return {key: value for key, value in found.items() if key.startswith(('loss/', 'metrics/'))}

    straight = go('straight', 'save_interval=30ba', 'save_num_checkpoints_to_keep=-1')
    return {
        'straight': straight,
        'resumed': go('resumed', f'load_path={folder}/straight/ep1-ba30-rank0.pt', 'save_interval=1ep'),
        'apart': seen[0][0] != seen[0][1],
    }


def two():
    return {
        **{name: case() for name, case in TRAINED.items()},
        'uneven': trained(make=net, data=uneven, max_duration='3ba'),
        'uneven, of transformers': trained(make=bert, data=lambda: uneven(texts(), padded), max_duration='3ba'),
        'evaluated, compiled': evaluated(compiled),
        'evaluated, keeping': evaluated(lambda algorithm: student(Keeping(10 + algorithm.group))),
        'wrong loss': message(lambda: fit(CoDistillation('3ba', GROUPS, kd_loss_fn=lambda a, b: a - b))),
        'evaluated': evaluated(),
        'train metrics': train_metrics(),
        'resumed': {stop: resumed(stop) for stop in ('1ba', '3ba', '4ba')},
        'refused': {name: case() for name, case in REFUSED.items()},
        'smoothed': trained(make=net, others=[LabelSmoothing(0.1)]),
        'mixed': message(lambda: fit(CoDistillation('2ba', GROUPS), others=[MixUp(interpolate_loss=False)])),
        'equal': warned(model=student(mlp(seed=1))),
        'own': warned(),
        'never': warned(every='9ba'),
        'closed': warned(every='3ba', end_dur='3ba'),
        'open': warned(every='3ba', end_dur=0.8),
        'exchanges': {end: exchanges(end) for end in ('1dur', '5ba', '0.5dur')},
        'unknown length': of_unknown_length(),
        'interrupted': interrupted(),
        'yaml': from_a_yaml(),
    }


def four():
    return {
        **{name: case() for name, case in TRAINED.items()},
        'four nets': trained(groups=4, make=net),
        'evaluated': evaluated(),
        'resumed': {stop: resumed(stop) for stop in ('3ba', '4ba')},
    }


def saved(path):
    """A run that stops at its fifth batch."""
    algorithm = CoDistillation('2ba', GROUPS)
    run = fit(algorithm, max_duration='5ba')
    run.save_checkpoint(path)
    found = [flat(one) for one in algorithm.networks()]
    run.close()
    return {'networks': found}


def loaded(path):
    """The nets of a run that goes on from :func:`saved`, before its first batch, and what other groups are told."""
    algorithm = CoDistillation('2ba', GROUPS)
    run = trainer(net(algorithm), points(), [algorithm], device='cpu', load_path=path, max_duration='7ba')
    found = [flat(one) for one in algorithm.networks()]
    run.fit()
    run.close()
    return {'networks': found}


def main(case, out):
    dist.initialize_dist('cpu')
    name, _, path = case.partition(':')
    kinds = {
        'two': two,
        'four': four,
        'saved': functools.partial(saved, path),
        'loaded': functools.partial(loaded, path),
    }
    found = kinds[name]()
    if dist.get_global_rank() == 0:
        Path(out).write_text(json.dumps(found))
