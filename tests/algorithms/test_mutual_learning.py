"""Mutual learning in real Trainers, against loops of plain torch."""

import copy

import pytest
import torch
import torch.nn.functional as F
import transformers
from composer.algorithms import LabelSmoothing, LayerFreezing, MixUp
from composer.loggers import InMemoryLogger
from composer.metrics import LanguageCrossEntropy
from composer.models import ComposerClassifier, HuggingFaceModel
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from composer_kd import (
    ConfigError,
    Distillation,
    KLDivergence,
    LossError,
    MutualLearning,
    Peer,
    SelfDistillation,
    TeacherError,
    student_state_dict,
)
from composer_kd.data.indexed import Indexed
from composer_kd.losses import CRD, mse
from composer_kd.models.classifier import IndexedClassifier
from tests.distilling import tokens
from tests.helpers import Recorder, TokenDataset, TokenModel, loader, mlp, pairs, student, train, weights
from tests.teachers.test_meanings import Tokenizer


def learn(peers, duration='2ep', seen=(), model=None, data=None, optimizer=None, **options):
    model = model or student()
    settings = {k: options.pop(k) for k in ('kd_loss_fn', 'kd_loss_weight', 'org_loss_weight', 'start_dur', 'end_dur')
                if k in options}  # fmt: skip
    algorithm = MutualLearning(peers, **settings)
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = train(
        model, data or loader(*pairs()), [algorithm], seen, max_duration=duration, optimizer=optimizer, **options
    )
    return run, algorithm


def reference(nets, batches, open_at=lambda step: True, kd_weight=1.0, org_weight=1.0):
    """Deep mutual learning as in the paper, one optimizer a net, all predictions of a step before any update."""
    nets = [copy.deepcopy(net) for net in nets]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
    log = []
    for step, (x, y) in enumerate(batches):
        logits = [net(x) for net in nets]
        row = []
        for k, mine in enumerate(logits):
            task = F.cross_entropy(mine, y)
            others = [F.softmax(z.detach(), -1) for n, z in enumerate(logits) if n != k]
            kd = sum((p * (p.log() - F.log_softmax(mine, -1))).sum(-1).mean() for p in others) / len(others)
            kd = kd if open_at(step) else torch.zeros(())
            row.append((task.item(), kd.item()))
            optimizers[k].zero_grad()
            (org_weight * task + kd_weight * kd).backward(retain_graph=True)
        for optimizer in optimizers:
            optimizer.step()
        log.append(row)
    return nets, log


def batches(epochs=2):
    x, y = pairs()
    return [(x[i : i + 8], y[i : i + 8]) for _ in range(epochs) for i in (0, 8, 16)]


@pytest.mark.parametrize('count', [1, 2, 3])
def test_it_trains_what_the_paper_trains(count):
    peers = [mlp(seed=10 + n) for n in range(count)]
    expected, log = reference([mlp(seed=1), *peers], batches())
    seen = Recorder()
    run, _ = learn(peers, seen=[seen])
    names = ['Sequential', 'Sequential-2', 'Sequential-3'][:count]
    for batch, row in zip(seen.batches, log):
        found = [(batch['task'], batch['kd']), *((batch[f'{n}/task'], batch[f'{n}/kd']) for n in names)]
        for ours, theirs in zip(found, row):
            assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)
        assert batch['total'] == pytest.approx(sum(sum(pair) for pair in row), rel=1e-4)
    for net, other in zip([run.state.model.module, *peers], expected):
        torch.testing.assert_close(weights(net), weights(other), rtol=1e-4, atol=1e-6)


def test_weights_and_window():
    peers = [mlp(seed=10)]
    expected, log = reference([mlp(seed=1), *peers], batches(), lambda step: step >= 3, 0.7, 0.4)
    seen = Recorder()
    learn(peers, seen=[seen], kd_loss_weight=0.7, org_loss_weight=0.4, start_dur='1ep')
    assert [batch['kd'] for batch in seen.batches] == pytest.approx([row[0][1] for row in log], rel=1e-4, abs=1e-7)
    torch.testing.assert_close(weights(peers[0]), weights(expected[1]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('size', [2, 3])
def test_microbatches_of_samples_give_the_same_numbers(size):
    whole, parts = Recorder(), Recorder()
    learn([mlp(seed=10)], seen=[whole])
    learn([mlp(seed=10)], seen=[parts], device_train_microbatch_size=size)
    for one, other in zip(whole.batches, parts.batches):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('size', [1, 3])
def test_microbatches_of_tokens_give_the_same_numbers(size):
    def go(size):
        seen, model = Recorder(), TokenModel()
        data = torch.utils.data.DataLoader(tokens(attention=True), 8)
        learn([TokenModel(seed=5)], seen=[seen], model=model, data=data, device_train_microbatch_size=size)
        return seen.batches

    for one, other in zip(go(8), go(size)):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_peers_of_other_architectures_with_an_input_adapter_and_a_rate_of_their_own():
    wide = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 4))
    frozen = copy.deepcopy(wide)
    seen_inputs = []

    def adapt(x):
        seen_inputs.append(x)
        return 2.0 * x

    model = student()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    learn([Peer(wide, adapt, name='wide', lr=1e-9)], model=model, optimizer=optimizer)
    assert len(optimizer.param_groups) == 2
    assert optimizer.param_groups[1]['lr'] == pytest.approx(1e-9)
    torch.testing.assert_close(weights(wide), weights(frozen), atol=1e-6, rtol=0)
    assert len(seen_inputs) == 6


def test_composer_models_have_a_loss_of_their_own():
    def smooth(outputs, targets):
        return F.cross_entropy(outputs, targets, label_smoothing=0.3)

    peer = ComposerClassifier(mlp(seed=10), num_classes=4, loss_fn=smooth)
    before = copy.deepcopy(peer.module)
    seen = Recorder()
    learn([Peer(peer, name='smooth')], seen=[seen])
    x, y = batches()[0]
    assert seen.batches[0]['smooth/task'] == pytest.approx(smooth(before(x), y).item(), rel=1e-4)


@pytest.mark.parametrize('stop', ['2ba', '3ba'])
def test_a_resume_is_bit_equal(tmp_path, stop):
    def go(duration, folder, **options):
        peers = [mlp(seed=10, norm=True), mlp(seed=11)]
        options |= {'save_folder': str(tmp_path / folder), 'save_interval': '1ba'}
        run, _ = learn(peers, duration, **options)
        return [run.state.model.state_dict(), *(peer.state_dict() for peer in peers)]

    straight = go('6ba', 'straight')
    go(stop, 'first')
    resumed = go('6ba', 'second', load_path=str(tmp_path / 'first' / 'latest-rank0.pt'))
    for one, other in zip(straight, resumed):
        assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_each_net_is_evaluated_and_closing_leaves_the_student_alone():
    peers, log = [mlp(seed=10), mlp(seed=11)], InMemoryLogger()
    x, y = pairs(20)
    data = loader(x, y, batch_size=8)
    run, algorithm = learn(peers, model=student(), eval_dataloader=data, loggers=[log])
    for name, net in zip(['Sequential', 'Sequential-2'], peers):
        right = (net.eval()(x).argmax(-1) == y).float().mean().item()
        assert algorithm.final_metrics()[f'metrics/eval/{name}/MulticlassAccuracy'] == pytest.approx(right)
        assert f'metrics/eval/{name}/MulticlassAccuracy' in log.data
    assert any(key.startswith('composer_kd.') for key in run.state.model.state_dict())
    plain = student_state_dict(run.state.model)
    algorithm.close()
    assert run.state.model.state_dict().keys() == plain.keys() == student().state_dict().keys()


def test_another_loss_and_other_classes():
    seen = Recorder()
    learn([mlp(seed=10)], seen=[seen], kd_loss_fn=mse)
    x, _ = batches()[0]
    expected = (mlp(seed=1)(x) - mlp(seed=10)(x)).square().mean().item()
    assert seen.batches[0]['kd'] == seen.batches[0]['Sequential/kd'] == pytest.approx(expected, rel=1e-4)
    with pytest.raises((TeacherError, LossError), match='same classes'):
        learn([mlp(classes=5)])


def test_wrong_input_is_refused_before_training():
    net = mlp()
    for peers, said in (([], 'at least one'), (net, 'at least one'), ([3], 'expected a module'), ([net, net], 'share')):
        with pytest.raises(ConfigError, match=said):
            MutualLearning(peers)
    with pytest.raises(ConfigError, match=r"without '/', .* got 'a/b'"):
        Peer(net, name='a/b')  # its metrics would be those of a peer 'a', and exports leave the run's folder
    with pytest.raises(
        ConfigError, match=r"names 'a\.b' and 'a_b' differ in punctuation alone.*'peer_a_b'; rename one"
    ):
        MutualLearning([Peer(mlp(seed=n), name=name) for n, name in enumerate(('a.b', 'a_b'))])
    with pytest.raises(ConfigError, match='kd_loss_weight'):
        MutualLearning([net], kd_loss_weight=-1.0)
    with pytest.raises(ConfigError, match='has parameters to train'):
        MutualLearning([net], CRD(10, 4, 4))
    shared = student()
    with pytest.raises(ConfigError, match='optimizer already'):
        learn([shared.module], model=shared)


@pytest.mark.parametrize(
    ('other', 'said'),
    [
        (lambda: LabelSmoothing(0.3), 'smoothed for the student alone'),
        (lambda: LayerFreezing(), 'layers of the other nets'),
        (lambda: MixUp(interpolate_loss=True), 'interpolate_loss=False'),
        (lambda: Distillation(mlp(), mse), 'both set the loss'),
        (lambda: SelfDistillation(['2']), 'both set the loss'),
    ],
)
@pytest.mark.parametrize('order', [1, -1])
def test_algorithms_that_do_not_go_with_it_are_refused_in_either_order(other, said, order):
    model = student()
    with pytest.raises(ConfigError, match=said):
        train(model, loader(*pairs()), [MutualLearning([mlp(seed=10)]), other()][::order])
    assert model.state_dict().keys() == student().state_dict().keys()


def test_a_peer_without_numbers_beside_a_student_with_numbers():
    data = torch.utils.data.DataLoader(Indexed(torch.utils.data.TensorDataset(*pairs())), 8)
    model, seen = IndexedClassifier(mlp(seed=1), num_classes=4), Recorder()
    peer = ComposerClassifier(mlp(seed=10), num_classes=4)
    learn([Peer(peer, name='peer')], seen=[seen], model=model, data=data, eval_dataloader=data)
    x, y = batches()[0]
    assert seen.batches[0]['peer/task'] == pytest.approx(F.cross_entropy(mlp(seed=10)(x), y).item(), rel=1e-4)


def bert(seed):
    torch.manual_seed(seed)
    sizes = {'hidden_size': 16, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 32}
    net = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=11, **sizes))
    return HuggingFaceModel(net, use_logits=True, metrics=[MulticlassAccuracy(2, average='micro')])


def gpt(seed):
    torch.manual_seed(seed)
    net = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=11, n_embd=16, n_layer=1, n_head=2, n_positions=6)
    )
    return HuggingFaceModel(net, use_logits=True, shift_labels=True, metrics=[LanguageCrossEntropy()])


@pytest.mark.parametrize('net', [bert, gpt])
def test_hugging_face_peers_are_evaluated(net):
    """Composer's HuggingFaceModel takes the labels out of its batch, and shifts those of a causal model in place."""
    ids = torch.randint(11, (16, 6), generator=torch.Generator().manual_seed(3))
    labels = torch.arange(16) % 2 if net is bert else ids.clone()
    data = torch.utils.data.DataLoader(TokenDataset(input_ids=ids, labels=labels.clone()), 8)
    model, peers = net(1), [net(2), net(3)]
    named = [Peer(peer, name=name) for peer, name in zip(peers, 'ab')]
    logged = InMemoryLogger()
    algorithm = learn(named, model=model, data=data, eval_dataloader=data, loggers=logged)[1]
    expected = []
    with torch.no_grad():
        for one in (model, *peers):
            out = one.model.eval()(input_ids=ids, labels=labels)
            right = (out.logits.argmax(-1) == labels).float().mean()
            expected.append(right.item() if net is bert else out.loss.item())
    name = 'MulticlassAccuracy' if net is bert else 'LanguageCrossEntropy'
    latest = algorithm.final_metrics()
    student = float(logged.get_timeseries(f'metrics/eval/{name}')[f'metrics/eval/{name}'][-1])
    assert [student, *(latest[f'metrics/eval/{peer}/{name}'] for peer in 'ab')] == pytest.approx(expected)


def padded_data():
    rng = torch.Generator().manual_seed(3)
    ids = torch.randint(11, (8, 6), generator=rng)
    labels = torch.randint(11, (8, 6), generator=rng).masked_fill_(ids % 3 == 0, -100)
    return torch.utils.data.DataLoader(TokenDataset(input_ids=ids, labels=labels), 8)


@pytest.mark.parametrize('micro', [8, 3])
def test_heads_that_are_padded_to_different_sizes_are_compared_at_the_tokens(micro):
    nets = [TokenModel(14, seed=1), TokenModel(12, seed=2), TokenModel(20, seed=3)]
    before, seen, data = copy.deepcopy(nets), Recorder(), padded_data()
    algorithm = MutualLearning(nets[1:], vocabulary=11)
    train(nets[0], data, [algorithm], [seen], device_train_microbatch_size=micro)
    (batch,) = data
    valid = batch['labels'] != -100
    with torch.no_grad():
        logits = [one(batch)[..., :11][valid].log_softmax(-1) for one in before]
        own = [one.loss(one(batch), batch).item() for one in before]

    def distance(mine, others):
        return sum(F.kl_div(mine, other, log_target=True, reduction='batchmean').item() for other in others) / 2

    expected = [distance(logits[at], logits[:at] + logits[at + 1 :]) for at in range(3)]
    found = seen.batches[0]
    names = ['kd', 'TokenModel/kd', 'TokenModel-2/kd']
    assert [found[name] for name in names] == pytest.approx(expected, rel=1e-4)
    assert found['task'] == pytest.approx(own[0], rel=1e-4)
    assert found['TokenModel/task'] == pytest.approx(own[1], rel=1e-4)


@pytest.mark.parametrize(
    ('options', 'error', 'said'),
    [
        ({}, TeacherError, r'heads are padded .* vocabulary=N'),
        ({'vocabulary': 13}, TeacherError, r"vocabulary=13: the peer 'TokenModel' answers in .*12\)"),
        ({'vocabulary': 0}, ConfigError, 'vocabulary must be the number of tokens'),
        ({'vocabulary': 8}, ConfigError, 'labels hold 9, and 8 classes are compared'),
        ({'vocabulary': 11, 'kd_loss_fn': KLDivergence(softmax_dim=1)}, ConfigError, 'cuts classes that come last'),
    ],
)
def test_vocabularies_that_do_not_fit_peers_are_refused(options, error, said):
    with pytest.raises(error, match=said):
        train(TokenModel(14), padded_data(), [MutualLearning([TokenModel(12)], **options)])


def test_the_tokenizers_of_peers_say_the_vocabulary():
    def net(size, seed):
        model = gpt(seed)
        model.model.resize_token_embeddings(size)
        model.tokenizer = Tokenizer(*map(str, range(11)))
        return model

    model, peer = net(12, 1), net(16, 2)
    algorithm, ids = MutualLearning([peer]), torch.randint(11, (8, 6))
    try:
        data = torch.utils.data.DataLoader(TokenDataset(input_ids=ids, labels=ids.clone()), 8)
        train(model, data, [algorithm])
    finally:
        model.tokenizer = None
    assert algorithm.form.vocabulary == 11
