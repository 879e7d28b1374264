from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, RandomSampler, Subset
from torchvision import transforms as v1
from torchvision.transforms import v2

from composer_kd.data import (
    HeldOut,
    ImageTensors,
    Indexed,
    PartlyLabelled,
    RepeatingSampler,
    SeededViews,
    ViewIndex,
    ViewSampler,
)
from composer_kd.data.sample_content import content_hash
from composer_kd.errors import ConfigError
from tests.launching import forked

N = 12


def augmented(t):
    """The same pipeline of torchvision's first or second version: PIL images to float tensors."""
    return t.Compose(
        [
            t.RandomCrop(16, padding=4),
            t.RandomHorizontalFlip(),
            t.ColorJitter(0.4, 0.4, 0.4, 0.1),
            t.RandAugment(),
            t.ToTensor() if t is v1 else v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]),
            t.RandomErasing(p=0.5),
        ]
    )


class Pictures(Dataset):
    """PIL images and any transform."""

    def __init__(self, transform, n=N):
        self.pixels = np.random.RandomState(0).randint(0, 256, (n, 16, 16, 3), np.uint8)
        self.targets = [i % 3 for i in range(n)]
        self.transform = transform

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.transform(Image.fromarray(self.pixels[index])), self.targets[index]


def by_numpy(image):
    return torch.from_numpy(np.asarray(image) + np.random.normal(size=(16, 16, 3))).float() * np.random.rand()


def by_random(image):
    return torch.from_numpy(np.asarray(image).copy()).float() * random.gauss(1, 0.1) + random.choice([1, 2, 3])


def tensors(n=N):
    images = torch.randint(0, 256, (n, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageTensors(images, [i % 3 for i in range(n)], 3, (0.5,) * 3, (1.0,) * 3, pad=2, flip=True)


SETS = {
    'v1': lambda: Pictures(augmented(v1)),
    'v2': lambda: Pictures(augmented(v2)),
    'numpy': lambda: Pictures(by_numpy),
    'random': lambda: Pictures(by_random),
    'tensors': tensors,
    'labels': lambda: PartlyLabelled(tensors(), n_labels=3),
    'held out': lambda: HeldOut(tensors(16), 0.25),
    'subset': lambda: Subset(tensors(20), range(3, 15)),
}


def epochs(loader, numbers=range(3)):
    """The samples of some epochs, as {(epoch, index): content}."""
    seen = {}
    for number in numbers:
        loader.sampler.set_epoch(number)
        for x, y, index in loader:
            for one in zip(x, y, index.tolist()):
                seen[number, one[2]] = content_hash(one[:2])
    return seen


def loader(views, batch_size=5, workers=0, sampler=None, **options):
    sampler = views.sampler(**options) if sampler is None else sampler
    return DataLoader(Indexed(views), batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


@pytest.mark.parametrize('name', SETS)
def test_a_sample_is_the_same_in_its_view_whatever_the_order_and_the_batch(name):
    views = SeededViews(SETS[name](), views=2, seed=3)
    straight = epochs(loader(views, shuffle=False))
    random.seed(9), np.random.seed(9), torch.manual_seed(9)
    assert epochs(loader(SeededViews(SETS[name](), views=2, seed=3), batch_size=3, seed=5)) == straight
    n = len(views)
    assert [straight[0, i] for i in range(n)] == [
        straight[2, i] for i in range(n)
    ]  # two views, so the third is the first
    assert len({straight[view, i] for view in range(2) for i in range(n)}) > 1.8 * n
    assert sum(straight[0, i] != straight[1, i] for i in range(n)) > 0.7 * n
    other = epochs(loader(SeededViews(SETS[name](), views=2, seed=4)), [0])
    assert sum(other[0, i] != straight[0, i] for i in range(n)) > 0.7 * n


@pytest.mark.parametrize('name', ['v1', 'v2', 'numpy', 'random', 'tensors'])
def test_workers_that_stay_give_the_same_views(name):
    views = SeededViews(SETS[name](), views=2)
    assert epochs(loader(views, workers=2)) == epochs(loader(views))


@pytest.mark.parametrize('name', ['v2', 'tensors'])
def test_shares_of_ranks_make_up_the_whole(name):
    views = SeededViews(SETS[name](), views=3)
    together = {}
    for rank in range(2):
        inner = DistributedSampler(views, num_replicas=2, rank=rank, seed=7)
        together |= epochs(loader(views, sampler=ViewSampler(inner, 3)))
    assert together == epochs(loader(views))


def test_single_samples_are_those_of_batches():
    views = SeededViews(tensors(), views=3)
    batch = views.__getitems__([ViewIndex(i, 2) for i in range(N)])
    for i in range(N):
        assert torch.equal(views[ViewIndex(i, 2)][0], batch[i][0])
        assert torch.equal(Indexed(views)[ViewIndex(i, 2)][0], batch[i][0])


@pytest.mark.parametrize('name', ['v1', 'v2', 'numpy', 'random', 'tensors'])
def test_global_random_states_are_left_alone(name):
    dataset = SETS[name]()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    random.gauss(0, 1), np.random.normal(), torch.randn(1)  # all three keep a second normal number for the next call
    states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    views = SeededViews(dataset, views=2)
    views.__getitems__([ViewIndex(i, 1) for i in range(N)])
    assert random.getstate() == states[0]
    assert content_hash(np.random.get_state(legacy=False)) == content_hash(states[1])
    assert torch.equal(torch.get_rng_state(), states[2])


def test_global_random_states_are_left_alone_by_errors():
    dataset = Pictures(by_numpy)
    views = SeededViews(dataset, views=1)
    dataset.transform = lambda image: torch.rand(1) / 0 + [][0]
    state = torch.get_rng_state()
    with pytest.raises(IndexError):
        views[3]
    assert torch.equal(torch.get_rng_state(), state)


def test_other_processes_draw_the_same():
    code, said = forked(tell)
    assert code == 0, said
    assert said.split() == drawn()


def tell():
    print(*drawn())


def drawn():
    views = [SeededViews(SETS[name](), views=4, seed=11) for name in ('v1', 'v2', 'numpy', 'random', 'tensors')]
    return [content_hash([one[ViewIndex(i, 3)] for i in range(N)]) for one in views]


def test_draws_of_tensors_stay_what_they_are():
    # What stores on disk rest on: another hash or order of draws would make each of them invalid.
    pixels = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).repeat(3, 1, 1, 1)
    views = SeededViews(ImageTensors(pixels, [0] * 3, 1, (0.0,), (1.0,), 1.0, pad=1, flip=True), views=2, seed=5)
    corners = [[int(views[ViewIndex(i, view)][0][0, 1, 1]) for i in range(3)] for view in range(2)]
    assert corners == [[1, 6, 5], [2, 4, 10]]


class Coin:
    """A transform with a generator of its own."""

    def __init__(self, generator):
        self.generator = generator

    def __call__(self, image):
        x = torch.from_numpy(np.asarray(image).copy()).float()
        if isinstance(self.generator, torch.Generator):
            return x + torch.rand(1, generator=self.generator)
        return x + self.generator.random()


@pytest.mark.parametrize(
    ('generator', 'named'),
    [
        (lambda: torch.Generator().manual_seed(0), 'torch._C.Generator'),
        (lambda: np.random.default_rng(0), 'numpy.random._generator.Generator'),
        (lambda: random.Random(0), 'random.Random'),
    ],
)
def test_a_generator_of_its_own_is_refused_and_named(generator, named):
    dataset = Pictures(v1.Compose([v1.RandomHorizontalFlip(), Coin(generator())]))
    with pytest.raises(ConfigError, match='8 of 8 samples differ') as refused:
        SeededViews(HeldOut(dataset, 0.25), views=2)
    assert f'dataset.transform.transforms.1.generator ({named})' in str(refused.value)
    assert 'torch.rand, numpy.random.rand, random.random' in str(refused.value)


def test_a_fast_path_that_depends_on_the_batch_is_refused():
    class Batched(Pictures):
        def get_seeded(self, indices, seeds):
            return [(place, index) for place, index in enumerate(indices)]

    with pytest.raises(ConfigError, match='samples differ when they are drawn twice'):
        SeededViews(Batched(by_numpy), views=2)


def test_an_index_without_a_view_is_refused_with_the_way_out():
    views = SeededViews(tensors(), views=2)
    for load in (
        lambda: views[0],
        lambda: next(iter(DataLoader(views, batch_size=4, shuffle=True))),
        lambda: next(iter(DataLoader(Subset(views, [1, 2]), sampler=ViewSampler(range(2), 2)))),
        lambda: next(iter(DataLoader(HeldOut(views, 0.25), sampler=ViewSampler(range(3), 2)))),
    ):
        with pytest.raises(
            ConfigError, match=r'an index without a view, of which there are 2; .* sampler=views.sampler\(\)'
        ):
            load()
    with pytest.raises(ConfigError, match=r'views from 0 to 1, got 2 to 2.*ViewSampler\(sampler, 2\)'):
        views[ViewIndex(0, 2)]
    with pytest.raises(IndexError):
        views[ViewIndex(N, 0)]
    with pytest.raises(IndexError, match=f'0 to {N - 1}'):
        views.__getitems__([ViewIndex(-1, 0)])


def test_a_single_view_needs_no_sampler():
    views = SeededViews(tensors(), views=1, seed=2)
    (x, _), (again, _) = (next(iter(DataLoader(views, batch_size=N))) for _ in range(2))
    assert torch.equal(x, again)
    assert torch.equal(x, torch.stack([image for image, _ in views]))
    assert torch.equal(views[-1][0], x[-1])


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        ({'views': 0}, 'views: expected an integer of at least 1, got 0'),
        ({'views': True}, 'views: expected'),
        ({'views': 2, 'seed': -1}, 'seed: expected an integer of at least 0'),
        ({'views': 2.0}, 'views: expected'),
    ],
)
def test_other_settings_are_refused(arguments, said):
    with pytest.raises(ConfigError, match=said):
        SeededViews(tensors(), **arguments)


def test_streams_are_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(3))

    with pytest.raises(ConfigError, match='map-style data set with a length, got Stream'):
        SeededViews(Stream(), views=2)


@settings(max_examples=50, deadline=None)
@given(sample=st.integers(0, 2**62), view=st.integers(0, 2**40))
def test_an_index_is_an_integer_and_survives_pickling(sample, view):
    index = pickle.loads(pickle.dumps(ViewIndex(sample, view)))
    assert (index, index.view, hash(index), type(int(index))) == (sample, view, hash(sample), int)
    assert torch.as_tensor([index]).tolist() == [sample]


def test_passes_of_a_repeating_sampler_have_the_view_of_the_epoch():
    views = SeededViews(tensors(), views=2)
    sampler = ViewSampler(RepeatingSampler(views, samples=30, num_replicas=1, rank=0), 2)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        indices = list(sampler)
        assert len(indices) == len(sampler) == 30
        assert {index.view for index in indices} == {epoch % 2}
        assert indices == list(sampler.sampler)


def test_samplers_without_epochs_are_wrapped_too():
    sampler = ViewSampler(RandomSampler(range(9), generator=torch.Generator().manual_seed(0)), 2)
    sampler.set_epoch(3)
    assert sorted(sampler) == list(range(9))
    assert {index.view for index in sampler} == {sampler.view} == {1}


def test_samplers_that_do_not_fit_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match='expected one that gives integers, got another in list'):
        list(ViewSampler([[1, 2], [3]], 2))
    with pytest.raises(ConfigError, match='with a length, got generator'):
        ViewSampler((i for i in range(3)), 2)
    with pytest.raises(ConfigError, match='positive number of views, got 0'):
        ViewSampler(range(3), 0)
    monkeypatch.setenv('WORLD_SIZE', '2')
    with pytest.raises(ConfigError, match='expected a DistributedSampler, as there are 2 processes, got range'):
        ViewSampler(range(3), 2)


def test_a_sampler_takes_the_share_of_its_process(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    views = SeededViews(tensors(), views=2)
    assert list(views.sampler(shuffle=False)) == list(range(1, N, 2))
    assert isinstance(views.sampler(), DistributedSampler)  # whose epochs Composer sets


@pytest.mark.parametrize('indices', [[1.5], ['1'], [None]])
def test_a_view_is_added_to_integers_only(indices):
    with pytest.raises(ConfigError, match='expected one that gives integers'):
        list(ViewSampler(indices, 2))


def test_a_subclass_that_loads_in_another_way_is_believed():
    class Noisy(ImageTensors):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x + torch.randn(x.shape), y

    class NoisyBatches(ImageTensors):
        def __getitems__(self, indices):
            return [(x + torch.randn(x.shape), y) for x, y in super().__getitems__(indices)]

    class Described(ImageTensors):
        def extra_repr(self):
            return 'mine'

    plain = SeededViews(tensors(), views=2)[ViewIndex(3, 1)][0]
    for kind, faithful in ((Noisy, False), (NoisyBatches, False), (Described, True)):
        dataset = tensors()
        dataset.__class__ = kind
        views = SeededViews(dataset, views=2)
        x = views[ViewIndex(3, 1)][0]
        assert torch.equal(x, views[ViewIndex(3, 1)][0])
        assert torch.equal(x, plain) is faithful
        assert (len(x.unique()) > 180) is not faithful
