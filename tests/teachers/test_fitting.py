"""Which weights of a checkpoint are a module's: by names and shapes, with whatever precedes the names."""

import copy
import warnings

import pytest
import torch
import torchvision
from composer.models import HuggingFaceModel
from torch import nn

from composer_kd import CheckpointError, FrozenTeacher
from composer_kd.teachers import TeacherPool, load_weights, read_weights
from tests.helpers import mlp, student, weights


def state(seed=5, **options):
    return mlp(seed=seed, **options).state_dict()


def prefixed(prefix, of):
    return {prefix + key: value for key, value in of.items()}


def optimizer():
    net = mlp()
    made = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 6)).sum().backward()
    made.step()
    return made.state_dict()


class Blocks(nn.Module):
    """A row of blocks between a stem and a head, as most architectures are."""

    def __init__(self, depth=2, bias=False, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Linear(6, 5, bias=bias)
            self.layer = nn.ModuleList([nn.Sequential(nn.Linear(5, 5), nn.ReLU()) for _ in range(depth)])
            self.head = nn.Linear(5, 4)

    def forward(self, inputs):
        inputs = self.stem(inputs)
        for block in self.layer:
            inputs = block(inputs)
        return self.head(inputs)


LAYOUTS = {
    'plain': lambda s: s,
    'model (DeiT, torchvision, YOLO)': lambda s: {'model': s, 'epoch': 3, 'optimizer': optimizer()},
    'model, with tensors beside it (mdistiller)': lambda s: {'model': s, 'best_acc': torch.tensor(9.0)},
    "model_state_dict (PyTorch's tutorial)": lambda s: {'model_state_dict': s, 'loss': 0.3},
    'net (pytorch-cifar)': lambda s: {'net': s, 'acc': 93.1},
    'state_dict': lambda s: {'state_dict': s, 'arch': 'mlp'},
    'ema alone': lambda s: {'ema': s},
    'Lightning, net.': lambda s: {'state_dict': prefixed('net.', s), 'optimizer_states': [optimizer()], 'loops': {}},
    'mmrazor, architecture.': lambda s: {'state_dict': prefixed('architecture.', s), 'meta': {}},
    'DistributedDataParallel': lambda s: {'model': prefixed('module.', s)},
    'torch.compile': lambda s: prefixed('_orig_mod.', s),
    'all of them': lambda s: {'state_dict': prefixed('module._orig_mod.model.backbone.', s)},
    'averaged (AveragedModel)': lambda s: {**prefixed('module.', s), 'n_averaged': torch.tensor(7)},
    'a part compiled': lambda s: {key.replace('0.', '0._orig_mod.', 1): value for key, value in s.items()},
    'a part in DataParallel (examples/imagenet)': lambda s: {f'{k[:2]}module.{k[2:]}': v for k, v in s.items()},
    'a list': lambda s: [{'epoch': 3}, s],
    'deeper': lambda s: {'a': {'b': {'c': s}}},
    'one mapping under two keys': lambda s: {'model': s, 'best': s},
    'two equal copies': lambda s: {'model': s, 'best': copy.deepcopy(s)},
    'parts in mappings of their own': lambda s: {
        part: {key[2:]: value for key, value in s.items() if key[0] == part} for part in '014'
    },
}


@pytest.mark.parametrize('wrap', [lambda net: net, student, lambda net: student(student(net))])
@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_finds_the_weights_in_every_layout(tmp_path, layout, wrap):
    torch.save(layout(state(norm=True)), tmp_path / 'w.pt')
    target = mlp(seed=9, norm=True)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='(?!.*n_averaged).*no place for')
        load_weights(wrap(target), tmp_path / 'w.pt')
    for key, value in mlp(seed=5, norm=True).state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key


@pytest.mark.parametrize(
    ('content', 'names'),
    [
        (lambda a, b: {'model': a, 'ema': b}, ['model', 'ema']),
        (lambda a, b: {'state_dict': a, 'state_dict_ema': b}, ['state_dict', 'state_dict_ema']),
        (lambda a, b: {'state_dict': {**prefixed('student.', a), **prefixed('teacher.', b)}},
         ['state_dict.student', 'state_dict.teacher']),
        (lambda a, b: {'student': prefixed('module.', a), 'teacher': prefixed('module.', b)},
         ['student.module', 'teacher.module']),
        (lambda a, b: {**a, 'ema': b}, ['', 'ema']),
        (lambda a, b: {**a, **prefixed('module.', b)}, ['', 'module']),
    ],
)  # fmt: skip
def test_several_that_fit_must_be_chosen_from(tmp_path, content, names):
    path, sources = tmp_path / 'w.pt', (state(5), state(6))
    torch.save(content(*sources), path)
    target = mlp(seed=9)
    before = weights(target)
    with pytest.raises(CheckpointError) as error:
        load_weights(target, path)
    message = str(error.value)
    assert f'under {", ".join(map(repr, names))}: choose one' in message
    assert f'FrozenTeacher(model, checkpoint=..., entry={names[0]!r})' in message
    assert '\n' not in message
    assert torch.equal(weights(target), before)
    for name, source in zip(names, sources):
        teacher = FrozenTeacher(mlp(seed=9), checkpoint=path, entry=name)
        assert all(torch.equal(teacher.model.state_dict()[key], value) for key, value in source.items())
        found = read_weights(path, entry=name)
        assert all(torch.equal(found[key], value) for key, value in source.items())


def test_an_entry_may_be_named_by_its_beginning(tmp_path):
    torch.save({'student': prefixed('module.', state(5)), 'teacher': prefixed('module.', state(6))}, tmp_path / 'w.pt')
    load_weights(target := mlp(seed=9), tmp_path / 'w.pt', entry='teacher')
    assert torch.equal(weights(target), weights(mlp(seed=6)))


def test_what_fits_by_shape_is_not_ambiguous(tmp_path):
    torch.save({'student': state(5, classes=3), 'teacher': state(6)}, tmp_path / 'w.pt')
    load_weights(target := mlp(seed=9), tmp_path / 'w.pt')
    assert torch.equal(weights(target), weights(mlp(seed=6)))
    with pytest.raises(CheckpointError, match=r"under 'student',(.|\n)*of another shape: 4.weight"):
        load_weights(target, tmp_path / 'w.pt', entry='student')


def test_an_entry_that_is_not_there(tmp_path):
    torch.save({'model': state(5), 'ema': state(6)}, tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match=r"no entry 'em'; did you mean 'ema'\?"):
        load_weights(mlp(), tmp_path / 'w.pt', entry='em')
    with pytest.raises(CheckpointError, match=r"several sets of weights: 'model', 'ema'.*entry="):
        read_weights(tmp_path / 'w.pt')


def test_an_entry_that_is_no_path(tmp_path):
    torch.save(state(), tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match=r'entry must be a dotted path.*got 5'):
        load_weights(mlp(), tmp_path / 'w.pt', entry=5)


def test_an_entry_of_no_checkpoint():
    with pytest.raises(ValueError, match="entry='ema' names weights in a checkpoint"):
        FrozenTeacher(mlp(), entry='ema')


def test_by_path_and_module(tmp_path):
    """``{checkpoint: module}`` takes what load_weights takes."""
    torch.save({'net': state()}, tmp_path / 'w.pt')
    (teacher,) = TeacherPool({tmp_path / 'w.pt': mlp(seed=9)}).teachers
    assert torch.equal(weights(teacher.model), weights(mlp(seed=5)))


def extra(name, value=None):
    return {name: torch.randn(3, 3) if value is None else value}


@pytest.mark.parametrize(
    'left_over',
    [
        {'head_dist.weight': torch.randn(4, 5), 'head_dist.bias': torch.randn(4)},
        {'AuxLogits.conv.conv.weight': torch.randn(3, 3)},
        {'composer.weight': torch.randn(3, 3)},
        {'layer.0.0.total_ops': torch.tensor([12.0]), 'head.total_params': torch.tensor([3.0])},
        {'position_ids': torch.arange(9)[None], 'stem.index': torch.arange(9)},
        {'scale': torch.tensor(2.0)},
    ],
    ids=lambda left_over: next(iter(left_over)),
)
@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_other_parts_are_left_out_with_a_warning(tmp_path, left_over, prefix):
    source = Blocks(seed=1)
    torch.save({'model': prefixed(prefix, {**source.state_dict(), **left_over})}, tmp_path / 'w.pt')
    with pytest.warns(UserWarning, match=f"w.pt: Blocks has no place for 'model.{prefix}{next(iter(left_over))}'"):
        load_weights(target := Blocks(seed=2), tmp_path / 'w.pt')
    assert torch.equal(weights(target), weights(source))


@pytest.mark.parametrize('prefix', ['', 'backbone.'])
def test_buffers_that_older_versions_saved(tmp_path, prefix):
    source = Blocks(seed=1)
    left_over = {'stem.mask': torch.ones(3, 3)}
    torch.save(prefixed(prefix, {**source.state_dict(), **left_over}), tmp_path / 'w.pt')
    target = Blocks(seed=2)
    with pytest.raises(CheckpointError, match=rf'unexpected: {prefix}stem\.mask'):
        load_weights(target, tmp_path / 'w.pt')
    target.stem.register_buffer('mask', torch.zeros(3, 3), persistent=False)
    load_weights(target, tmp_path / 'w.pt')
    assert torch.equal(weights(target), weights(source))
    assert target.stem.mask.sum() == 0


def test_the_head_of_a_backbone_is_left_out(tmp_path):
    source = Blocks(seed=1)
    torch.save(
        {**prefixed('backbone.', source.state_dict()), 'classifier.weight': torch.randn(9, 4)}, tmp_path / 'w.pt'
    )
    with pytest.warns(UserWarning, match=r"no place for 'classifier\.weight'"):
        load_weights(target := Blocks(seed=2), tmp_path / 'w.pt')
    assert torch.equal(weights(target), weights(source))


@pytest.mark.parametrize(
    'left_over',
    [
        'layer.2.0.weight',  # a deeper model
        'layer.0.shortcut.weight',  # a part of a block
        'stem.bias',  # a tensor of a layer that the module has
        'layer.0.0.weight_scale',
        'cls_token',  # a tensor of the module itself
    ],
)
@pytest.mark.parametrize('prefix', ['', 'module.', 'backbone.'])
def test_what_makes_it_another_architecture_is_refused(tmp_path, left_over, prefix):
    torch.save({'model': prefixed(prefix, {**Blocks().state_dict(), **extra(left_over)})}, tmp_path / 'w.pt')
    target = Blocks(seed=2)
    before = weights(target)
    with pytest.raises(CheckpointError, match=rf'unexpected: model\.{prefix}{left_over}\n.*strict=False'):
        load_weights(target, tmp_path / 'w.pt')
    assert torch.equal(weights(target), before)


def test_the_weights_of_a_deeper_network_are_refused(tmp_path):
    """All names and shapes of the shallow one are in it."""
    for deep, shallow in ((Blocks(depth=4), Blocks(depth=2)), (nn.Sequential(mlp(), nn.Linear(4, 4)), mlp())):
        torch.save(deep.state_dict(), tmp_path / 'w.pt')
        with pytest.raises(CheckpointError, match='unexpected'):
            load_weights(shallow, tmp_path / 'w.pt')


def test_one_of_an_ensemble_is_taken_by_name_alone(tmp_path):
    torch.save({f'nets.{n}.{k}': v for n in range(2) for k, v in state(n, classes=3 + n).items()}, tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match=r"under 'nets\.1'(.|\n)*unexpected: nets\.0"):
        load_weights(mlp(), tmp_path / 'w.pt')
    load_weights(target := mlp(seed=9), tmp_path / 'w.pt', entry='nets.1')
    assert torch.equal(weights(target), weights(mlp(seed=1)))


def test_tied_weights_that_differ_in_the_file(tmp_path):
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    torch.save(tied.state_dict(), tmp_path / 'w.pt')
    tied[1].weight = tied[0].weight
    with pytest.raises(CheckpointError, match=r'one tensor in the module, several in the checkpoint: .*weight'):
        load_weights(tied, tmp_path / 'w.pt')


def test_a_module_without_values(tmp_path):
    torch.save(state(), tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match='module meta'):
        load_weights(mlp().to('meta'), tmp_path / 'w.pt')


def test_lazy_modules_take_their_shapes_from_the_file(tmp_path):
    source = nn.Linear(6, 4)
    torch.save(source.state_dict(), tmp_path / 'w.pt')
    load_weights(lazy := nn.LazyLinear(4), tmp_path / 'w.pt')
    assert torch.equal(lazy.weight, source.weight)


def test_other_floating_types_are_converted(tmp_path):
    torch.save({key: value.half() for key, value in state().items()}, tmp_path / 'w.pt')
    load_weights(target := mlp(seed=9), tmp_path / 'w.pt')
    assert torch.equal(weights(target), weights(mlp(seed=5).half().float()))


def test_a_mapping_that_holds_itself(tmp_path):
    content = {'net': state()}
    content['again'] = [content]
    torch.save(content, tmp_path / 'w.pt')
    load_weights(target := mlp(seed=9), tmp_path / 'w.pt')
    assert torch.equal(weights(target), weights(mlp(seed=5)))


def test_two_tensors_of_one_path(tmp_path):
    torch.save({'a': {'b.c': torch.ones(2)}, 'a.b': {'c': torch.zeros(2)}}, tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match=r"two tensors whose path is 'a\.b\.c'"):
        read_weights(tmp_path / 'w.pt')


def _renamed(module, *pairs):
    state = {}
    for name, value in module.state_dict().items():
        for new, old in pairs:
            name = name.replace(new, old)
        state[name] = value
    return state


def _normed():
    net = nn.Sequential(nn.Conv1d(2, 3, 2), nn.Flatten(), nn.Linear(6, 4))
    nn.utils.parametrizations.weight_norm(net[0])
    return net


OLDER = {
    'weight norm (wav2vec2)': (
        _normed,
        [('parametrizations.weight.original0', 'weight_g'), ('parametrizations.weight.original1', 'weight_v')],
    ),
    'vision transformer': (
        lambda: torchvision.models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3),
        [('mlp.0.', 'mlp.linear_1.'), ('mlp.3.', 'mlp.linear_2.')],
    ),
}


@pytest.mark.parametrize('kind', OLDER)
@pytest.mark.parametrize('prefix', ['', 'state_dict.module.'])
def test_names_of_an_older_version_that_the_module_reads_itself(kind, prefix, tmp_path):
    make, pairs = OLDER[kind]
    saved, module = make(), make()
    older = {f'{prefix[11:]}{name}': value for name, value in _renamed(saved, *pairs).items()}
    assert older.keys() != saved.state_dict().keys()
    torch.save({'state_dict': older} if prefix else older, tmp_path / 'w.pt')
    before = {name: value.clone() for name, value in module.state_dict().items()}
    load_weights(module, tmp_path / 'w.pt')
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in module.state_dict().items())
    assert not all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    del older[next(name for name in older if any(old in name for _, old in pairs))]
    torch.save(older, tmp_path / 'less.pt')
    with pytest.raises(CheckpointError, match='missing'):
        load_weights(make(), tmp_path / 'less.pt')


def test_a_module_that_does_not_say_what_it_found_is_refused_as_others_are(tmp_path):
    class Silent(Blocks):
        def load_state_dict(self, state_dict, strict=True, assign=False):
            super().load_state_dict(state_dict, strict=strict)

    saved = Silent(seed=1).state_dict()
    saved['old.weight'] = saved.pop(next(iter(saved)))
    torch.save(saved, tmp_path / 'w.pt')
    with pytest.raises(CheckpointError, match=r'unexpected: old\.weight'):
        load_weights(Silent(seed=2), tmp_path / 'w.pt')


def test_a_trained_language_model_whose_head_is_its_embedding(tmp_path):
    """Its body alone fits too, as the head is the same tensor; both give the same values."""
    transformers = pytest.importorskip('transformers')
    config = transformers.GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    first, second = (HuggingFaceModel(transformers.GPT2LMHeadModel(config)) for _ in range(2))
    torch.save({'state': {'model': first.state_dict()}}, tmp_path / 'w.pt')
    load_weights(second, tmp_path / 'w.pt')
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters()))
