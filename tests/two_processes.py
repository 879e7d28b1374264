"""Called by test_two_processes.py in one process or two: writes what was trained as JSON."""

import functools
import importlib
import importlib.util
import json
import os
import time

import torch
import transformers
from composer.models import ComposerModel, HuggingFaceModel
from composer.utils import dist
from composer.utils.parallelism import FSDP2Config
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from composer_kd import (
    BaseModelTeacher,
    CachedTeacher,
    ConfigError,
    Distillation,
    EMATeacher,
    KLDivergence,
    Match,
    MutualLearning,
    OnPolicy,
    SnapshotTeacher,
    VirtualTeacher,
    build_store,
)
from composer_kd.data.indexed import Indexed
from composer_kd.losses import CRD, VID, ReverseKL, attention_transfer, hint
from composer_kd.models.classifier import IndexedClassifier
from composer_kd.stores import Dense, TopK
from composer_kd.teachers import FrozenTeacher, teacher_fingerprint
from tests.helpers import (
    EventSpy,
    Recorder,
    TokenDataset,
    TokenModel,
    mlp,
    mse,
    pairs,
    sgd,
    student,
    train,
    trainer,
    weights,
)
from tests.tasks import SIZE, TASKS, make_task


def loader(dataset, batch_size=8):
    return torch.utils.data.DataLoader(
        dataset,
        batch_size=batch_size // dist.get_world_size(),
        sampler=dist.get_sampler(dataset, shuffle=False, drop_last=True),
    )


def classifier(unlabelled=(), **options):
    model = student()
    data = loader(torch.utils.data.TensorDataset(*pairs(32, unlabelled=unlabelled)))
    return model, data, Distillation([mlp(seed=s) for s in range(4)], KLDivergence(), **options)


def tokens():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (32, 6), generator=generator)
    # the first half of each batch, which one of two ranks may get alone, has far fewer labels
    chance = torch.tensor([0.1, 0.9]).repeat(16).unsqueeze(-1)
    labels = torch.where(torch.rand(32, 6, generator=generator) < chance, ids, -100)
    data = loader(TokenDataset(input_ids=ids, labels=labels))
    return TokenModel(seed=1), data, Distillation(TokenModel(seed=0), mse)


def matches(**options):
    """Projectors, one of which rests when its teacher is not drawn, a learned loss, and a memory."""
    model = IndexedClassifier(mlp(seed=1), num_classes=4)
    data = loader(Indexed(torch.utils.data.TensorDataset(*pairs(32))))
    chosen = [
        Match(hint, on='0', project='auto', name='hint'),
        Match(VID(), on='2'),
        Match(CRD(32, negatives=8), on='2'),
        KLDivergence(),
    ]
    return model, data, Distillation([wide(3), wide(4)], chosen, **options)


def routed_matches():
    """Each of two ranks has samples of one teacher alone, or of none; what is learned for the other one rests there."""
    model = IndexedClassifier(mlp(seed=1), num_classes=4)
    data = loader(Indexed(torch.utils.data.TensorDataset(*pairs(32))))
    chosen = [Match(hint, on='0', project='auto', name='hint'), Match(VID(), on='2'), KLDivergence()]
    named = [FrozenTeacher(wide(seed), name=str(seed)) for seed in (3, 4)]
    chosen.append(Match(mse, teacher='4', name='one'))
    route = functools.partial(_by_number, torch.where(torch.arange(32) % 8 < 6, torch.arange(32) % 2, -1))
    return model, data, Distillation(named, chosen, route=route)


def _by_number(table, batch, index):
    return table[index]


def routed_tokens():
    _, data, _ = tokens()
    data.dataset.columns['teacher'] = torch.tensor([0, 1, 1, -1]).repeat(8)
    return TokenModel(seed=1), data, Distillation([TokenModel(seed=s) for s in (0, 2)], mse, route='teacher')


def wide(seed):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 10), torch.nn.Identity(), torch.nn.Tanh(), torch.nn.Linear(10, 4))


def masked_features():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (32, 6), generator=generator)
    lengths = torch.tensor([2, 6]).repeat(16).unsqueeze(-1)
    data = loader(TokenDataset(input_ids=ids, labels=ids, attention_mask=(torch.arange(6) < lengths).long()))
    return TokenModel(seed=1), data, Distillation(TokenModel(seed=0), [Match(hint, on='embed', name='hidden')])


def no_tokens_on_one_rank():
    """Every other sample has no label, so all of one rank's: what is learned must be in its graph all the same."""
    ids = torch.randint(11, (32, 6), generator=torch.Generator().manual_seed(3))
    labels = torch.where(torch.tensor([False, True]).repeat(16).unsqueeze(-1), ids, -100)
    data = loader(TokenDataset(input_ids=ids, labels=labels))
    return TokenModel(seed=1), data, Distillation(TokenModel(seed=0), [Match(VID(), on='embed', name='hidden')])


class Pixels(ComposerModel):
    """Segmentation of the smallest kind: logits (B, 4, H, W)."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.net = torch.nn.Conv2d(2, 4, 1)

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return torch.nn.functional.cross_entropy(outputs, batch[1][:, 0])


def pixels():
    """Maps (B, 1, H, W), most of them ignored; every other sample, and so one of two ranks, has no label at all."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(4, (32, 1, 3, 5), generator=generator)
    labels[torch.rand(32, 1, 3, 5, generator=generator) < 0.6] = -100
    labels[::2] = -100
    data = loader(torch.utils.data.TensorDataset(torch.randn(32, 2, 3, 5, generator=generator), labels))
    return Pixels(1), data, Distillation(Pixels(2).net, [ReverseKL(), mse])


def hugging_face_without_labels_on_one_rank():
    rates = dict.fromkeys(('hidden_dropout_prob', 'attention_probs_dropout_prob'), 0.0)
    sizes = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32}
    config = transformers.BertConfig(vocab_size=11, **sizes, **rates)
    torch.manual_seed(1)
    net, teacher = (transformers.BertForSequenceClassification(config) for _ in range(2))
    labels = (torch.arange(32) // 2 % 2).where(torch.arange(32) % 2 == 1, -100)
    data = loader(TokenDataset(input_ids=torch.randint(11, (32, 6)), labels=labels))
    return HuggingFaceModel(net, use_logits=True, metrics=[]), data, Distillation(teacher, KLDivergence())


def attended():
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (32, 6), generator=generator)
    lengths = torch.tensor([2, 6]).repeat(16).unsqueeze(-1)
    labels = torch.where(torch.rand(32, 6, generator=generator) < 0.3, ids, -100)
    data = loader(TokenDataset(input_ids=ids, labels=labels, attention_mask=(torch.arange(6) < lengths).long()))
    return TokenModel(seed=1), data, Distillation(TokenModel(seed=0), mse, positions='attended')


def on_policy():
    """The student writes half of the batches: the same texts in one process and in two, of other lengths on each."""

    def net(seed):
        torch.manual_seed(seed)
        config = transformers.GPT2Config(
            vocab_size=12, n_embd=8, n_layer=1, n_head=2, n_positions=16, eos_token_id=1, initializer_range=0.5,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        )  # fmt: skip
        return HuggingFaceModel(transformers.GPT2LMHeadModel(config), shift_labels=True, metrics=[])

    ids = torch.randint(2, 12, (32, 6), generator=torch.Generator().manual_seed(2))
    labels = ids.masked_fill(torch.arange(6) < 2 + torch.arange(32)[:, None] % 3, -100)
    algorithm = Distillation(net(1).model, ReverseKL(), on_policy=OnPolicy(0.5, 6))
    return net(0), loader(TokenDataset(input_ids=ids, labels=labels)), algorithm


def moving():
    data = loader(torch.utils.data.TensorDataset(*pairs(32)))
    return student(), data, Distillation([EMATeacher('2ba'), SnapshotTeacher('2ba')], mse, start_dur='2ba')


def own_layers():
    """Tokens with padding, far more in one half of a batch, taught by a deeper layer and by the labels."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (32, 6), generator=generator)
    attention = (torch.arange(6) < torch.tensor([2, 6]).repeat(16).unsqueeze(-1)).long()
    chance = torch.tensor([0.1, 0.9]).repeat(16).unsqueeze(-1)
    labels = torch.where(torch.rand(32, 6, generator=generator) < chance, ids, -100)
    data = loader(TokenDataset(input_ids=ids, labels=labels, attention_mask=attention))
    own = [Match(attention_transfer, on=('embed', 'head'), teacher='student'), Match(KLDivergence(), name='labels')]
    return TokenModel(seed=1), data, Distillation(VirtualTeacher(), own)


def base_model():
    """A student with adapters, which DDP wraps, taught by its own base; and by one of its layers."""
    peft = importlib.import_module('peft')
    torch.manual_seed(1)
    net = peft.get_peft_model(mlp(seed=1), peft.LoraConfig(target_modules=['0', '4']))
    data = loader(torch.utils.data.TensorDataset(*pairs(32)))
    return student(net), data, Distillation(BaseModelTeacher(), [mse, Match(hint, on='base_model.model.2')])


def mutual(**options):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (32, 6), generator=generator)
    chance = torch.tensor([0.1, 0.9]).repeat(16).unsqueeze(-1)
    labels = torch.where(torch.rand(32, 6, generator=generator) < chance, ids, -100)
    data = loader(TokenDataset(input_ids=ids, labels=labels))
    return TokenModel(seed=1), data, MutualLearning([TokenModel(seed=0), TokenModel(seed=2)], **options)


def stored_tokens():
    """A store that all processes have built together, of tokens: parts of the classes, and whole features."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (32, 6), generator=generator)
    chance = torch.tensor([0.1, 0.9]).repeat(16).unsqueeze(-1)
    labels = torch.where(torch.rand(32, 6, generator=generator) < chance, ids, -100)
    mask = (torch.arange(6) < torch.randint(2, 7, (32, 1), generator=generator)).long()
    columns = {'input_ids': ids, 'attention_mask': mask, 'labels': torch.where(mask == 1, labels, -100)}
    dataset = TokenDataset(**columns, index=torch.arange(32))
    folder = f'tokens-of-{dist.get_world_size()}'
    build_store(folder, TokenModel(seed=0), TokenModel(), dataset, TopK(3, 2.0), ['embed'], batch_size=5)
    teacher = CachedTeacher(folder)
    return TokenModel(seed=1), loader(dataset), Distillation(teacher, [KLDivergence(2.0), Match(hint, on='embed')])


class Failing(torch.utils.data.TensorDataset):
    """A data set of which the last process cannot read a sample, and the others take long to read theirs."""

    def __init__(self, moment, *tensors):
        super().__init__(*tensors)
        self.is_last, self.moment = dist.get_global_rank() == dist.get_world_size() - 1, moment

    def __getitem__(self, number):
        if self.is_last and number >= self.moment:
            raise OSError(f'sample {number} is gone')
        time.sleep(0.0 if self.is_last else 0.05)
        return super().__getitem__(number)


def failing_build(moment):
    """What each process is told, and how many rows it had read, if one fails in a build of 600 rows."""
    model, read = IndexedClassifier(student().module, num_classes=4), [0]
    folder = f'failing-{dist.get_world_size()}-{moment}'
    try:
        build_store(
            folder, mlp(seed=0), model, Failing(moment, *pairs(600)), Dense('float32'),
            batch_size=1, progress=lambda done, every: read.append(done),
        )  # fmt: skip
    except Exception as error:  # of any kind, to see which
        return dist.all_gather_object((f'{type(error).__name__}: {error}', max(read)))
    return None


def stored_beside_live(**options):
    dataset = torch.utils.data.TensorDataset(*pairs(32))
    model = IndexedClassifier(student().module, num_classes=4)
    folder = f'pairs-of-{dist.get_world_size()}'
    if not os.path.exists(folder):
        build_store(folder, mlp(seed=0), model, dataset, Dense('float32'), batch_size=8)
    dist.barrier()
    return (
        model,
        loader(Indexed(dataset)),
        Distillation([CachedTeacher(folder), mlp(seed=1)], KLDivergence(), **options),
    )


def of_kind(name):
    """Four batches of a task, each rank with labels of its own."""
    task, *more = (make_task(name, seed=seed) for seed in range(4))
    columns = {key: torch.cat([value, *(other.columns[key] for other in more)]) for key, value in task.columns.items()}
    algorithm = Distillation(task.teacher, task.loss, kd_loss_weight=0.01, org_loss_weight=0.01, **task.settings)
    return task.student(), loader(TokenDataset(**columns), SIZE), algorithm


CASES = {
    **{name: functools.partial(of_kind, name) for name in TASKS},
    'routed matches': routed_matches,
    'routed tokens': routed_tokens,
    'on policy': on_policy,
    'moving teachers': moving,
    'own layers and labels': own_layers,
    **({} if importlib.util.find_spec('peft') is None else {'base model': base_model}),
    'mutual learning': mutual,
    'mutual learning in a window': lambda: mutual(start_dur='2ba'),
    'pixels': pixels,
    'hugging face without labels on one rank': hugging_face_without_labels_on_one_rank,
    'attended': attended,
    'no tokens on one rank': no_tokens_on_one_rank,
    'pairs': classifier,
    'sampled teachers': lambda: classifier(n_teachers_to_sample=1),
    'few labels': lambda: classifier(unlabelled=[i for i in range(32) if i % 4 != 1]),
    'tokens': tokens,
    'window': lambda: classifier(start_dur=0.5),
    'matches': matches,
    'matches of sampled teachers': lambda: matches(n_teachers_to_sample=1),
    'matches in a window': lambda: matches(start_dur=0.25, end_dur=0.75),
    'features with padding': masked_features,
    'stored tokens': stored_tokens,
    'stored beside live': stored_beside_live,
}


def evaluation():
    """Five samples on two ranks: the sampler repeats one, which must not count."""
    model = student(mlp(seed=0))
    dataset = torch.utils.data.TensorDataset(*pairs(5, seed=8))
    data = torch.utils.data.DataLoader(dataset, batch_size=1, sampler=dist.get_sampler(dataset, shuffle=False))
    algorithm = Distillation(mlp(seed=3), mse, run_teacher_on_eval=True)
    run = trainer(
        model, loader(torch.utils.data.TensorDataset(*pairs(32))), [algorithm], eval_dataloader=data, device='cpu'
    )
    run.eval()
    run.close()
    return algorithm.evaluation.latest


def average_with_statistics():
    """Whether the average of a net with BatchNorm, of which each rank has statistics of its own, is equal on all."""
    model, teacher = student(mlp(seed=1, norm=True)), EMATeacher('2ba')
    data = loader(torch.utils.data.TensorDataset(*pairs(32)))
    train(model, data, [Distillation(teacher, mse)], optimizer=sgd(model), device='cpu', max_duration='1ep')
    found = dist.all_gather_object([value.flatten().tolist() for value in teacher.model.state_dict().values()])
    return all(one == found[0] for one in found)


def sharded(matches):
    """The losses of the first batch of a student that FSDP2 shards."""
    os.environ['FSDP_VERSION'] = '2'
    model = student()
    recorder = Recorder()
    data = loader(torch.utils.data.TensorDataset(*pairs(32)))
    settings = {'device': 'cpu', 'max_duration': '1ba', 'parallelism_config': {'fsdp': FSDP2Config()}}
    train(model, data, [Distillation(mlp(seed=3), matches)], [recorder], **settings)
    return recorder.batches[0]


def sharded_stored():
    """The first batch of a sharded student: from a store, and from the live teacher."""
    os.environ['FSDP_VERSION'] = '2'
    settings = {'device': 'cpu', 'max_duration': '1ba', 'parallelism_config': {'fsdp': FSDP2Config()}}
    found = []
    for live in (True, False):
        model, data, algorithm = stored_beside_live()
        teacher = Distillation([mlp(seed=0), mlp(seed=1)], KLDivergence()) if live else algorithm
        recorder = Recorder()
        train(model, data, [teacher], [recorder], **settings)
        found.append(recorder.batches[0])
    return found


def sharded_and_learning():
    try:
        sharded([Match(hint, on='0', project='auto')])
    except ConfigError as error:
        return str(error)


def hashes_of_wrapped_teachers():
    """Whether a teacher's weights have one hash: alone, in DistributedDataParallel, and sharded over the ranks."""
    parallel = torch.nn.parallel.DistributedDataParallel(mlp())
    sharded = mlp()
    fully_shard(sharded, mesh=init_device_mesh('cpu', (dist.get_world_size(),)))
    said = [teacher_fingerprint(FrozenTeacher(one)) for one in (mlp(), parallel, sharded)]
    return [[one['class'], one['weights'] == said[0]['weights']] for one in said]


def main(out):
    dist.initialize_dist('cpu')
    os.chdir(os.path.dirname(out))  # where stores are built
    results = {}
    for name, build in CASES.items():
        model, data, algorithm = build()
        recorder, drawn = Recorder(), []
        pool = getattr(algorithm, 'pool', None)
        spy = EventSpy('batch_end', lambda state, drawn=drawn, pool=pool: drawn.append(getattr(pool, '_drawn', None)))
        train(
            model,
            data,
            [algorithm],
            [recorder, spy],
            optimizer=sgd(model),
            device='cpu',
            max_duration='1ep',
            device_train_microbatch_size=2,
        )
        replicas = dist.all_gather_object(weights(model).tolist())
        everything = dist.all_gather_object([value.flatten().tolist() for value in model.state_dict().values()])
        results[name] = {
            'losses': recorder.batches,
            'weights': replicas[0],
            'equal': all(r == everything[0] for r in everything),  # memories too
            'drawn': dist.all_gather_object(drawn),
        }
    results['evaluation'] = evaluation()
    results['average with statistics'] = average_with_statistics()
    results['hashes'] = hashes_of_wrapped_teachers()
    results['sharded'] = sharded([Match(hint, on='2'), KLDivergence()])
    results['sharded, from a store'] = sharded_stored()
    results['sharded and learning'] = sharded_and_learning()
    results['failing build'] = [failing_build(moment) for moment in (0, 275)]
    if dist.get_global_rank() == 0:
        with open(out, 'w') as file:
            json.dump({'world_size': dist.get_world_size(), **results}, file)
