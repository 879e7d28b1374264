"""Exits on inner layers, taught by the net itself, in real Trainers, against loops of plain torch."""

import copy

import pytest
import torch
import torch.nn.functional as F
import transformers
from composer.models import ComposerClassifier, HuggingFaceModel
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from composer_kd import ConfigError, SelfDistillation, student_state_dict
from composer_kd.algorithms.exits import EarlyExit, ExitHead
from tests.distilling import image_student, images, tokens
from tests.helpers import Recorder, TokenDataset, TokenModel, train, weights


def learn(exits=('0', '3'), duration='2ep', seen=(), model=None, data=None, **options):
    model = model or image_student()
    names = ('kd_loss_fn', 'kd_loss_weight', 'org_loss_weight', 'hint_weight', 'features', 'start_dur', 'end_dur')
    algorithm = SelfDistillation(list(exits), **{key: options.pop(key) for key in names if key in options})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    run = train(model, data or images(), [algorithm], seen, max_duration=duration, optimizer=optimizer, **options)
    return run, algorithm


def steps(net, heads, batches, open_at, weights=(0.3, 0.7, 1.0)):
    """The training of the paper for a net of modules 0 to 7 with exits on 0 and 3."""
    alpha, org, beta = weights
    parameters = [*net.parameters(), *(p for head in heads for p in head.parameters())]
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9)
    log = []
    for step, (x, y) in enumerate(batches):
        first = net[0](x)
        fourth = net[3](net[2](net[1](first)))
        last = net[6](net[5](net[4](fourth)))
        logits = net[7](last)
        loss = F.cross_entropy(logits, y)
        row = {'task': loss.item()}
        for name, head, feature in (('exit.0', heads[0], first), ('exit.3', heads[1], fourth)):
            hidden = head.widen(head.bottleneck(feature).flatten(2).mean(-1))
            mine = head.classifier(hidden)
            task, target = F.cross_entropy(mine, y), F.softmax(logits.detach() / 3, -1)
            loss = loss + org * task
            row[f'{name}/task'] = task.item()
            if open_at(step):
                kd = 9 * (target * (target.log() - F.log_softmax(mine / 3, -1))).sum(-1).mean()
                hint = (hidden - last.detach()).square().mean()
                loss = loss + alpha * kd + beta * hint
                row |= {f'{name}/kd': kd.item(), f'{name}/hint': hint.item()}
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.append({**row, 'total': loss.item()})
    return log


class Heads(Recorder):
    """Keeps copies of the heads as they start."""

    def fit_start(self, state, logger):
        self.heads = [copy.deepcopy(state.model.composer_kd[f'exit_{n}']['head']) for n in ('0', '3')]


@pytest.mark.parametrize(('start', 'first'), [(0.0, 0), ('1ep', 3)])
def test_it_trains_what_the_paper_trains(start, first):
    seen, model = Heads(), image_student()
    net = copy.deepcopy(model.module)
    learn(seen=[seen], model=model, start_dur=start)
    log = steps(net, seen.heads, [*images(), *images()], lambda step: step >= first)
    for ours, theirs in zip(seen.batches, log):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-5), name
    torch.testing.assert_close(weights(model.module), weights(net), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('size', [2, 3])
def test_microbatches_differ_by_the_statistics_of_the_bottleneck_alone(size):
    """On a vector layer, whose head has no BatchNorm, they differ in nothing."""
    whole, parts = Recorder(), Recorder()
    learn(['5', '6'], seen=[whole])
    learn(['5', '6'], seen=[parts], device_train_microbatch_size=size)
    for one, other in zip(whole.batches, parts.batches):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize('stop', ['2ba', '3ba'])
def test_a_resume_is_bit_equal(tmp_path, stop):
    def go(duration, folder, **options):
        options |= {'save_folder': str(tmp_path / folder), 'save_interval': '1ba'}
        return learn(duration=duration, **options)[0].state.model.state_dict()

    straight = go('6ba', 'straight')
    go(stop, 'first')
    resumed = go('6ba', 'second', load_path=str(tmp_path / 'first' / 'latest-rank0.pt'))
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_exits_are_evaluated_and_can_be_used_and_taken_off():
    model, seen = image_student(), []
    algorithm = learn(model=model, eval_dataloader=images(n=20))[1]
    x, y = (torch.cat(parts) for parts in zip(*images(n=20)))
    model.eval()
    for layer in ('0', '3'):
        net = algorithm.exit_model(layer).eval()
        right = (net(x).argmax(-1) == y).float().mean().item()
        assert algorithm.final_metrics()[f'metrics/eval/exit.{layer}/MulticlassAccuracy'] == pytest.approx(right)
    model.module[5].register_forward_hook(lambda *_: seen.append(1))
    algorithm.exit_model('3')(x)
    assert not seen  # the layers behind the exit do not run
    plain = student_state_dict(model)
    algorithm.close()
    assert model.state_dict().keys() == plain.keys() == image_student().state_dict().keys()
    assert not any(part._forward_hooks for name, part in model.named_modules() if name != 'module.5')


def test_padding_is_in_no_mean_over_tokens():
    def encoder(padded):
        torch.manual_seed(1)
        sizes = {'hidden_size': 16, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 32}
        rates = dict.fromkeys(('hidden_dropout_prob', 'attention_probs_dropout_prob'), 0.0)
        net = transformers.BertForSequenceClassification(transformers.BertConfig(vocab_size=11, **sizes, **rates))
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(11, (16, 6), generator=generator)
        mask = torch.ones(16, 6, dtype=torch.long)
        if padded:
            ids, mask = F.pad(ids, (0, 4)), F.pad(mask, (0, 4))
        data = TokenDataset(input_ids=ids, attention_mask=mask, labels=torch.arange(16) % 2)
        seen = Recorder()
        learn(
            ['bert.encoder.layer.0[0]'],
            seen=[seen],
            model=HuggingFaceModel(net, use_logits=True, metrics=[MulticlassAccuracy(2)]),
            data=torch.utils.data.DataLoader(data, 8),
        )
        return seen.batches

    for one, other in zip(encoder(False), encoder(True)):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_wrong_input_is_refused_before_training():
    for exits in ('0', [], ['0', '0']):
        with pytest.raises(ConfigError, match='a list of different layers'):
            SelfDistillation(exits)
    with pytest.raises(ConfigError, match='has no layer'):
        learn(['30'])
    with pytest.raises(ConfigError, match='one prediction per sample'):
        learn(['embed'], model=TokenModel(), data=torch.utils.data.DataLoader(tokens(attention=True), 8))
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ConfigError, match='no linear layer'):
        learn(['0'], model=ComposerClassifier(net, num_classes=4))
    with pytest.raises(ConfigError, match="no exit '5'"):
        learn(['0'])[1].exit_model('5')


def test_an_early_exit_of_a_plain_net():
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3))
    head, x = ExitHead((4, 8), 8, 3), torch.randn(4, 2)
    torch.testing.assert_close(EarlyExit(net, '1', head)(x), head(net[1](net[0](x)))[0])


def test_a_layer_that_runs_several_times_has_no_exit():
    model = image_student()
    model.module[4] = model.module[2]
    with pytest.raises(ConfigError, match="the layer '2' runs 2 times in the student"):
        learn(['0', '2'], model=model)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    learn(['0', '3'], duration='1ba', model=model)


@pytest.mark.parametrize('layer', ['0', '3', '5'])
def test_a_trimmed_exit_is_a_net_of_its_own(layer):
    model = image_student()
    algorithm = learn(model=model, exits=[layer])[1]
    x = torch.cat([x for x, _ in images(n=20)])
    model.eval()
    whole = algorithm.exit_model(layer).eval()
    own = algorithm.nets(x)[f'exit.{layer}'].model
    assert torch.equal(own(x), whole(x))
    assert {f'body.{name}' for name in model.module[: int(layer) + 1].state_dict()} == {
        name for name in own.state_dict() if name.startswith('body.')
    }
    assert not {p.data_ptr() for p in own.parameters()} & {p.data_ptr() for p in model.parameters()}


class Branching(nn.Module):
    """A net that torch.fx cannot trace."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        x = self.first(x)
        return self.last(x if x.sum() > 0 else -x)


def test_an_exit_of_a_net_that_cannot_be_cut_lacks_the_layers_behind():
    early, x = EarlyExit(Branching(), 'first', ExitHead((2, 8), 8, 4)), torch.ones(2, 6)
    own = early.trimmed(x)
    assert torch.equal(own(x), early(x))
    assert not any('last' in name for name in own.state_dict())
    assert sum(p.numel() for p in own.parameters()) == sum(
        p.numel() for part in (early.model.first, early.head) for p in part.parameters()
    )
