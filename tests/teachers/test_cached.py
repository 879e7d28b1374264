"""Stored teachers, built and trained with in real Trainers, against the live teacher."""

import copy
import json
import shutil

import pytest
import torch
from composer.algorithms import CutOut, MixUp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from composer_kd import (
    CachedTeacher,
    ConfigError,
    Distillation,
    FrozenTeacher,
    KLDivergence,
    LossError,
    Match,
    Ramp,
    build_store,
)
from composer_kd.data import ImageTensors, Indexed, SeededViews
from composer_kd.errors import StoreError, TeacherError
from composer_kd.losses import DIST, hint, kl_divergence, normalized_mse, pkt, rkd, similarity_preserving
from composer_kd.models import IndexedClassifier
from composer_kd.stores import Dense, Hidden, Sampled, TopK
from tests.distilling import cnn, tokens
from tests.helpers import Recorder, TokenDataset, TokenModel, train, trainer, weights


def pictures(n=24, seed=5):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageTensors(images, (torch.arange(n) % 4).tolist(), 4, (0.5,) * 3, (0.25,) * 3)


def augmented(n=24, views=3, seed=0):
    plain = pictures(n)
    return SeededViews(
        ImageTensors(plain.images, plain.targets, 4, (0.5,) * 3, (0.25,) * 3, pad=2, flip=True), views, seed
    )


def student():
    return IndexedClassifier(cnn(4, 1), num_classes=4)


def loader(dataset, batch_size=8, shuffle=False, **options):
    sampler = dataset.sampler(shuffle=shuffle) if isinstance(dataset, SeededViews) else None
    options |= {'sampler': sampler} if sampler is not None else {'shuffle': shuffle}
    return DataLoader(Indexed(dataset), batch_size, **options)


def losses(teachers, matches, data, duration='2ep', model=None, algorithms=(), **options):
    recorder = Recorder()
    algorithm = Distillation(teachers, matches)
    train(model or student(), data, [algorithm, *algorithms], [recorder], max_duration=duration, **options)
    return [batch['kd'] for batch in recorder.batches]


@pytest.mark.parametrize(
    'format', [Dense('float32'), Dense(), TopK(4, 2.0), TopK(4, 2.0, bits=8)], ids=lambda format: repr(format)
)
@pytest.mark.parametrize('augment', [False, True])
def test_a_run_is_that_of_the_live_teacher(tmp_path, format, augment):
    data = augmented() if augment else pictures()
    build_store(tmp_path / 'store', cnn(8, 2), student(), data, format, batch_size=7)
    live = losses(cnn(8, 2), KLDivergence(2.0), loader(data), '5ep')
    stored = losses(CachedTeacher(tmp_path / 'store'), KLDivergence(2.0), loader(data), '5ep')
    exact = getattr(format, 'dtype', '') == 'float32'
    assert stored == pytest.approx(live, rel=1e-4 if exact else 0.05, abs=1e-6 if exact else 1e-3)


def test_parts_of_the_classes_are_compared_as_joined(tmp_path):
    data = pictures()
    build_store(tmp_path, cnn(8, 2), student(), data, TopK(2, 2.0))
    found = losses(CachedTeacher(tmp_path), KLDivergence(2.0), loader(data), '1ba')
    x = torch.stack([data[i][0] for i in range(8)])
    p, q = (torch.softmax(net(x).double() / 2.0, -1) for net in (cnn(8, 2).eval(), cnn(4, 1)))
    ids = p.topk(2).indices
    p, q = (torch.cat([z.gather(-1, ids), 1 - z.gather(-1, ids).sum(-1, keepdim=True)], -1) for z in (p, q))
    assert found[0] == pytest.approx((4 * (p * (p.log() - q.log())).sum(-1).mean()).item(), rel=1e-2)


def test_draws_are_near_the_live_teacher(tmp_path):
    data = pictures(200)
    build_store(tmp_path, cnn(8, 2), student(), data, Sampled(200, 2.0))
    found = losses(CachedTeacher(tmp_path), KLDivergence(2.0), loader(data, 200), '1ba')
    live = losses(cnn(8, 2), KLDivergence(2.0), loader(data, 200), '1ba')
    assert found == pytest.approx(live, abs=0.02)


@pytest.mark.parametrize('order', [{'batch_size': 5}, {'shuffle': True}, {'batch_size': 24}])
def test_samples_are_found_in_any_order_and_batch(tmp_path, order):
    data = augmented()
    build_store(tmp_path, cnn(8, 2), student(), data, Dense('float32'), batch_size=9)
    for workers in (0, 2):
        live = losses(cnn(8, 2), KLDivergence(2.0), loader(data, **order, num_workers=workers), '2ep')
        stored = losses(CachedTeacher(tmp_path), KLDivergence(2.0), loader(data, **order, num_workers=workers), '2ep')
        assert stored == pytest.approx(live, rel=1e-4, abs=1e-6)


def test_it_stands_beside_live_teachers_with_weights_and_sampling(tmp_path):
    data = pictures()
    build_store(tmp_path, cnn(8, 2), student(), data, Dense('float32'))

    def go(first, **options):
        recorder = Recorder()
        algorithm = Distillation([first, cnn(8, 3)], KLDivergence(2.0), **options)
        train(student(), loader(data), [algorithm], [recorder], max_duration='2ep')
        return [batch['kd'] for batch in recorder.batches]

    for options in ({'teacher_weights': [3.0, 1.0]}, {'n_teachers_to_sample': 1}):
        stored = go(CachedTeacher(tmp_path), **options)
        assert stored == pytest.approx(go(cnn(8, 2), **options), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('how', ['whole', 'pooled'])
def test_stored_features_are_matched(tmp_path, how):
    data = augmented()
    build_store(tmp_path, cnn(8, 2), student(), data, Dense('float32'), {'4': how})

    def go(teacher):
        recorder = Recorder()
        train(student(), loader(data), [Distillation(teacher, [match_of(), KLDivergence(2.0)])], [recorder])
        return [(batch['hint'], batch['KLDivergence']) for batch in recorder.batches]

    def match_of():
        return Match(hint, on=('4', '4') if how == 'whole' else ('5', '5'), project='auto', name='hint')

    if how == 'pooled':
        shutil.rmtree(tmp_path)
        build_store(tmp_path, cnn(8, 2), student(), data, Dense('float32'), {'5': 'pooled'})
    for one, other in zip(go(CachedTeacher(tmp_path)), go(cnn(8, 2))):
        assert one == pytest.approx(other, rel=5e-3)


@pytest.mark.parametrize('format', [Dense('float32'), TopK(11, 2.0), TopK(3, 2.0)], ids=repr)
@pytest.mark.parametrize('padding', [0, 3])
def test_tokens_of_any_padding_and_microbatch(tmp_path, format, padding):
    data = tokens(attention=True)
    dataset = TokenDataset(**data.columns, index=torch.arange(16))
    build_store(tmp_path, TokenModel(seed=5), TokenModel(), dataset, format, batch_size=5)
    padded = {
        'input_ids': nn.functional.pad(data.columns['input_ids'], (0, padding)),
        'attention_mask': nn.functional.pad(data.columns['attention_mask'], (0, padding)),
        'labels': nn.functional.pad(data.columns['labels'], (0, padding), value=-100),
        'index': torch.arange(16),
    }

    def go(teacher, size):
        recorder = Recorder()
        algorithm = Distillation(teacher, KLDivergence(2.0))
        algorithm.pool.teachers[0].check_data = lambda *_: None  # other padding is another data set to a fingerprint
        train(
            TokenModel(),
            DataLoader(TokenDataset(**padded), 8),
            [algorithm],
            [recorder],
            device_train_microbatch_size=size,
        )
        return [batch['kd'] for batch in recorder.batches]

    stored = go(CachedTeacher(tmp_path), 8)
    assert go(CachedTeacher(tmp_path), 3) == pytest.approx(stored, rel=1e-4, abs=1e-6)
    live = go(FrozenTeacher(TokenModel(seed=5)), 8)
    if getattr(format, 'k', 11) == 11:
        assert stored == pytest.approx(live, rel=2e-3, abs=1e-5)
    else:
        assert all(0 < one <= other for one, other in zip(stored, live))


def test_hidden_states_get_their_head_in_training(tmp_path):
    data = TokenDataset(**tokens(attention=True).columns, index=torch.arange(16))
    teacher = TokenModel(seed=5)
    store = build_store(tmp_path, teacher, TokenModel(), data, Hidden(5, 'float32'), head='head')
    assert store.manifest.classes == 11
    found = losses(CachedTeacher(tmp_path, head=teacher.head), DIST(), DataLoader(data, 8), model=TokenModel())
    live = losses(TokenModel(seed=5), DIST(), DataLoader(data, 8), model=TokenModel())
    assert found == pytest.approx(live, rel=1e-4)
    kept = losses(CachedTeacher(tmp_path), DIST(), DataLoader(data, 8), model=TokenModel())
    assert kept == found
    (tmp_path / 'head.pt').unlink()
    with pytest.raises(TeacherError, match='head='):
        CachedTeacher(tmp_path)


def test_a_last_layer_that_something_follows_is_refused(tmp_path):
    class Capped(TokenModel):
        def forward(self, batch):
            return 3.0 * torch.tanh(super().forward(batch))

    data = TokenDataset(**tokens(attention=True).columns)
    with pytest.raises(TeacherError, match='a softcap'):
        build_store(tmp_path, Capped(seed=5), TokenModel(), data, Hidden(5), head='head')


@pytest.mark.parametrize('left', [True, False])
@pytest.mark.parametrize(('how', 'dtype'), [('whole', 'float16'), ('whole', 'bfloat16'), ('pooled', 'float16')])
def test_features_of_tokens_are_matched_whatever_the_padding(tmp_path, how, dtype, left):
    columns = tokens(attention=True).columns
    teacher = TokenModel(seed=5)
    options = {'feature_dtype': dtype, 'batch_size': 5}
    build_store(tmp_path, teacher, TokenModel(), TokenDataset(**columns), TopK(3, 2.0), {'embed': how}, **options)
    padding = (3, 0) if left else (0, 2)
    padded = {
        name: nn.functional.pad(column, padding, value=-100 if name == 'labels' else 0)
        for name, column in columns.items()
    }
    loss = {'whole': [hint, normalized_mse], 'pooled': [rkd, pkt]}[how]
    matches = [Match(one, on='embed', name=f'match {number}') for number, one in enumerate(loss)]

    def go(taught, size=8):
        recorder = Recorder()
        algorithm = Distillation(taught, matches)
        algorithm.pool.teachers[0].check_data = lambda *_: None  # other padding is another data set to a fingerprint
        data = DataLoader(TokenDataset(**padded, index=torch.arange(16)), 8)
        train(TokenModel(), data, [algorithm], [recorder], device_train_microbatch_size=size)
        return [batch[match.name] for batch in recorder.batches for match in matches]

    stored = go(CachedTeacher(tmp_path))
    assert stored == pytest.approx(go(FrozenTeacher(TokenModel(seed=5))), rel=2e-2 if dtype == 'bfloat16' else 2e-3)
    if how == 'whole':  # relations of samples depend on the microbatch
        assert go(CachedTeacher(tmp_path), 3) == pytest.approx(stored, rel=1e-4)


def test_parts_of_the_classes_and_features_in_one_run(tmp_path):
    data = pictures()
    build_store(tmp_path, cnn(8, 2), student(), data, TopK(4, 2.0), ['4'])
    matches = [KLDivergence(2.0), Match(hint, on='4', project='auto')]
    found = losses(CachedTeacher(tmp_path), matches, loader(data))
    assert found == pytest.approx(losses(cnn(8, 2), matches, loader(data)), rel=5e-3)


def test_a_loss_on_whole_features_of_which_the_mean_is_stored_is_said(tmp_path):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), Dense('float32'), {'1': 'pooled'})
    with pytest.warns(UserWarning, match=r"holds the mean of '1' .*--features 1"):
        losses(CachedTeacher(tmp_path), Match(similarity_preserving, on='1'), loader(pictures()), '1ba')


def test_features_of_tokens_take_bytes_of_their_tokens_alone(tmp_path):
    columns = tokens(attention=True).columns
    store = build_store(tmp_path, TokenModel(seed=5), TokenModel(), TokenDataset(**columns), features=['embed'])
    valid = int(columns['attention_mask'].sum())
    assert (tmp_path / 'features-000.bin').stat().st_size == valid * 5 * 2
    assert store.lengths(0, torch.arange(16), 'embed').sum() == valid
    live = TokenModel(seed=5).embed(columns['input_ids'])[columns['attention_mask'] == 1]
    torch.testing.assert_close(store.features('embed', 0, torch.arange(16)), live.half())


def test_features_without_a_vector_for_each_token_are_refused(tmp_path):
    class Attending(TokenModel):
        def __init__(self):
            super().__init__(seed=5)
            self.weights = nn.Identity()

        def forward(self, batch):
            hidden = self.embed(batch['input_ids'])
            return self.head(self.weights((hidden @ hidden.mT).softmax(-1).unsqueeze(1)).squeeze(1) @ hidden)

    data = TokenDataset(**tokens(attention=True).columns)
    with pytest.raises(TeacherError, match='no vector for each token'):
        build_store(tmp_path, Attending(), TokenModel(), data, features=['weights'])


def test_a_resume_inside_an_epoch_has_the_views_of_a_straight_run(tmp_path):
    data = augmented()
    build_store(tmp_path / 'store', cnn(8, 2), student(), data, Dense())

    def go(duration, folder, **options):
        model = student()
        options |= {'save_folder': str(tmp_path / folder), 'save_interval': '1ba'}
        algorithm = Distillation(CachedTeacher(tmp_path / 'store'), KLDivergence(2.0))
        train(model, loader(data, shuffle=True), [algorithm], max_duration=duration, **options)
        return weights(model)

    straight = go('8ba', 'straight')
    go('5ba', 'first')
    resumed = go('8ba', 'second', load_path=str(tmp_path / 'first' / 'latest-rank0.pt'))
    assert torch.equal(straight, resumed)


# What is refused ------------------------------------------------------------------------------------------------------


def test_other_data_is_refused_before_training(tmp_path):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), Dense())
    changed = pictures()
    changed.images[::3] = 255 - changed.images[::3]
    for data, said in (
        (pictures(20), 'length: stored 24, now 20'),
        (changed, 'inputs: .* of 24 samples have others'),
        (augmented(), 'views: stored None, now 3'),
    ):
        with pytest.raises(StoreError, match=said):
            losses(CachedTeacher(tmp_path), KLDivergence(2.0), loader(data))


def test_other_seeds_and_random_data_are_refused(tmp_path):
    build_store(tmp_path / 'a', cnn(8, 2), student(), augmented(), Dense())
    with pytest.raises(StoreError, match='views_seed: stored 0, now 1'):
        losses(CachedTeacher(tmp_path / 'a'), KLDivergence(2.0), loader(augmented(seed=1)))
    with pytest.raises(StoreError, match=r'is random .*SeededViews'):
        build_store(tmp_path / 'b', cnn(8, 2), student(), augmented().dataset, Dense())


@pytest.mark.parametrize('algorithm', [MixUp(), CutOut()], ids=lambda algorithm: type(algorithm).__name__)
def test_algorithms_that_change_the_inputs_are_refused(tmp_path, algorithm):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), Dense())
    with pytest.raises((ConfigError, StoreError), match=type(algorithm).__name__):
        losses(CachedTeacher(tmp_path), KLDivergence(2.0), loader(pictures()), algorithms=[algorithm])


def test_batches_without_numbers_are_refused(tmp_path):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), Dense())
    with pytest.raises(TeacherError, match=r'composer_kd\.data\.Indexed'):
        losses(CachedTeacher(tmp_path), KLDivergence(2.0), DataLoader(pictures(), 8))


def test_another_temperature_is_refused(tmp_path):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), TopK(2, 2.0))
    with pytest.raises(Exception, match='temperature 2'):
        losses(CachedTeacher(tmp_path), KLDivergence(4.0), loader(pictures()))


def test_evaluation_leaves_it_out_and_says_so(tmp_path):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), Dense())
    algorithm = Distillation(CachedTeacher(tmp_path), KLDivergence(2.0), run_teacher_on_eval=True)
    with pytest.warns(UserWarning, match='the teachers are left out: The stored teacher'):
        train(student(), loader(pictures()), [algorithm], eval_dataloader=DataLoader(pictures(), 8))


def test_a_damaged_or_unfinished_store_is_refused(tmp_path):
    with pytest.raises(StoreError, match='holds no store'):
        CachedTeacher(tmp_path / 'none')

    class Stop(Exception):
        pass

    def stop(done, every):
        raise Stop

    with pytest.raises(Stop):
        build_store(tmp_path, cnn(8, 2), student(), pictures(), progress=stop)
    with pytest.raises(StoreError, match='unfinished'):
        CachedTeacher(tmp_path)
    build_store(tmp_path, cnn(8, 2), student(), pictures(), resume=True)
    assert losses(CachedTeacher(tmp_path), KLDivergence(2.0), loader(pictures()))
    with pytest.raises(StoreError):
        build_store(tmp_path, cnn(8, 2), student(), pictures())


def test_a_build_in_parts_is_equal_to_the_byte(tmp_path):
    data = augmented(200)
    build_store(tmp_path / 'whole', cnn(8, 2), student(), data, TopK(2, 2.0), {'5': 'whole'}, batch_size=64)

    class Stop(Exception):
        pass

    for limit in (90, 250, 10**6):

        def stop(done, every, limit=limit):
            if done >= limit:
                raise Stop

        try:
            build_store(
                tmp_path / 'parts', cnn(8, 2), student(), data, TopK(2, 2.0), {'5': 'whole'}, batch_size=64,
                resume=limit > 90, progress=stop,
            )  # fmt: skip
        except Stop:
            continue
    for file in (tmp_path / 'whole').iterdir():
        if file.suffix == '.bin':
            assert file.read_bytes() == (tmp_path / 'parts' / file.name).read_bytes()


def test_the_manifest_says_of_what_it_is(tmp_path):
    teacher = cnn(8, 2)
    store = build_store(tmp_path, FrozenTeacher(teacher, name='large'), student(), pictures(), TopK(2, 2.0))
    said = json.loads((tmp_path / 'manifest.json').read_text())['manifest']
    assert said['teacher']['name'] == CachedTeacher(tmp_path).name == 'large'
    assert said['format'] == {'kind': 'topk', 'k': 2, 'temperature': 2.0, 'bits': 16}
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other[0].weight.add_(1e-3)
    again = build_store(tmp_path / 'b', other, student(), pictures(), TopK(2, 2.0))
    assert store.manifest.teacher['weights'] != again.manifest.teacher['weights']


def test_a_loss_of_ones_own_on_dense_logits(tmp_path):
    data = pictures()
    build_store(tmp_path, cnn(8, 2), student(), data, Dense('float32'))

    def own(student, teacher):
        return kl_divergence(student, teacher, 3.0) + (student - teacher).abs().mean()

    assert losses(CachedTeacher(tmp_path), own, loader(data)) == pytest.approx(
        losses(cnn(8, 2), own, loader(data)), rel=1e-4
    )


def test_a_plain_data_set_of_tensors(tmp_path):
    data = TensorDataset(torch.randn(24, 3, 8, 8), torch.arange(24) % 4)
    build_store(tmp_path, cnn(8, 2), student(), Indexed(data), Dense('float32'))
    assert losses(CachedTeacher(tmp_path), KLDivergence(2.0), loader(data)) == pytest.approx(
        losses(cnn(8, 2), KLDivergence(2.0), loader(data)), rel=1e-4
    )


# What was found on a fresh look ---------------------------------------------------------------------------------------


def test_means_over_tokens_leave_padding_out_whatever_the_batch_of_the_build(tmp_path):
    class Padded(TokenModel):
        def __init__(self):
            super().__init__(seed=5)
            self.mark = nn.Identity()

        def forward(self, batch):
            hidden = self.embed(batch['input_ids'])
            return self.head(self.mark(torch.where(batch['attention_mask'].unsqueeze(-1) == 1, hidden, 100.0)))

    data = TokenDataset(**tokens(attention=True).columns)
    seen = []
    for size in (1, 5):
        store = build_store(
            tmp_path / str(size), Padded(), TokenModel(), data, Dense(), {'mark': 'pooled'}, batch_size=size
        )
        seen.append(store.features('mark', 0, torch.arange(16)))
    torch.testing.assert_close(*seen)
    assert seen[0].abs().max() < 10


def test_maps_are_refused_where_the_store_is_built(tmp_path):
    net = nn.Conv2d(3, 5, 1)
    data = TensorDataset(torch.randn(4, 3, 4, 4), torch.zeros(4, 4, 4, dtype=torch.long))
    with pytest.raises(TeacherError, match='one prediction per sample or token'):
        build_store(tmp_path, net, IndexedClassifier(copy.deepcopy(net), num_classes=5), data)


def test_the_data_of_fit_is_compared_too(tmp_path):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), Dense())
    model = student()
    run = trainer(model, None, [Distillation(CachedTeacher(tmp_path), KLDivergence(2.0))], max_duration='1ep')
    with pytest.raises(StoreError, match='length: stored 24, now 16'):
        run.fit(train_dataloader=loader(pictures(16)))
    run.close()


def test_a_head_of_another_model_is_refused_and_the_own_one_is_not_frozen(tmp_path):
    data = TokenDataset(**tokens(attention=True).columns, index=torch.arange(16))
    teacher = TokenModel(seed=5)
    build_store(tmp_path, copy.deepcopy(teacher), TokenModel(), data, Hidden(5, 'float32'), head='head')
    CachedTeacher(tmp_path, head=teacher.head)
    assert teacher.head.weight.requires_grad
    with pytest.raises(TeacherError, match='another last layer'):
        CachedTeacher(tmp_path, head=nn.Linear(5, 11))


@pytest.mark.parametrize(
    ('loss', 'said'),
    [
        (KLDivergence(4.0), 'temperature 2'),
        (Match(KLDivergence(2.0), temperature=Ramp(2.0, 3.0)), 'is a schedule'),
        (DIST(temperature=2.0), 'all 4 classes'),
    ],
    ids=repr,
)
def test_losses_that_cannot_take_it_are_refused_before_training(tmp_path, loss, said):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), TopK(2, 2.0))
    algorithm = Distillation(CachedTeacher(tmp_path), loss, start_dur='1ep')
    with pytest.raises(LossError, match=said):
        trainer(student(), loader(pictures()), [algorithm], max_duration='2ep')


def test_layers_that_nobody_looks_at_are_not_read(tmp_path, monkeypatch):
    build_store(tmp_path, cnn(8, 2), student(), pictures(), Dense(), ['4', '1'])
    teacher, read = CachedTeacher(tmp_path), []
    monkeypatch.setattr(teacher.store, 'features', lambda *_: read.append(1))
    losses(teacher, KLDivergence(2.0), loader(pictures()), '1ba')
    assert not read
