"""Co-distillation between processes, against loops of plain torch in one process that exchange weights."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F

from composer_kd import CheckpointError, CoDistillation, ConfigError, FrozenTeacher
from tests.co_distilling import FEW, REFUSED, TRAINED, bert, main, texts, token_model, tokens
from tests.helpers import loader, mlp, pairs, student, trainer, weights
from tests.launching import on_ranks

GROUPS = 2


def launch(processes, case, folder):
    out = folder / f'{processes}.json'
    on_ranks(processes, main, case, str(out))
    return json.loads(out.read_text())


@pytest.fixture(scope='module')
def two(tmp_path_factory):
    return launch(2, 'two', tmp_path_factory.mktemp('launched'))


@pytest.fixture(scope='module')
def four(tmp_path_factory):
    return launch(4, 'four', tmp_path_factory.mktemp('launched'))


class Reference:
    """One loop: each net on the batches of its ranks, and copies of all nets every ``every`` batches."""

    def __init__(self, nets, ranks, every=2, start=0, kd_weight=1.0, org_weight=1.0, kd=None):
        self.nets, self.ranks, self.every, self.start = nets, ranks, every, start
        self.kd_weight, self.org_weight, self.kd = kd_weight, org_weight, kd or kl
        self.optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
        self.stale = None
        self.log = []

    def step(self, number, batches, losses):
        """Batches by rank; ``losses(net, stale, batch, group's batches)`` gives shares of the group's means."""
        row, size = [], self.ranks // len(self.nets)
        for group, net in enumerate(self.nets):
            mine = batches[group * size : (group + 1) * size]
            others = [] if self.stale is None else [one for n, one in enumerate(self.stale) if n != group]
            others = others if number >= self.start else []
            first, kept = copy.deepcopy(dict(net.named_buffers())), None
            sums = torch.zeros(2)
            self.optimizers[group].zero_grad()
            for batch in mine:
                for name, buffer in net.named_buffers():
                    buffer.data.copy_(first[name])
                task, kd = losses(net, others, batch, mine, self.kd)
                total = self.org_weight * task + self.kd_weight * kd if others else task
                total.backward()
                kept = copy.deepcopy(dict(net.named_buffers())) if kept is None else kept
                sums += torch.stack([task.detach(), kd.detach()])
            for name, buffer in net.named_buffers():
                buffer.data.copy_(kept[name])  # those of the group's first rank
            row.append(sums.tolist())
        for optimizer in self.optimizers:
            optimizer.step()
        self.log.append(row)
        if (number + 1) % self.every == 0:
            self.stale = [copy.deepcopy(net).eval() for net in self.nets]


def kl(mine, other):
    p = F.softmax(other, -1)
    return (p * (p.log() - F.log_softmax(mine, -1))).sum(-1)


def of_points(net, others, batch, mine, kd):
    x, y = batch
    logits, samples = net(x), sum(len(one[0]) for one in mine)
    found = [kd(logits, other(x).detach()).sum() / samples for other in others]
    return F.cross_entropy(logits, y, reduction='sum') / samples, sum(found) / max(1, len(found)) + logits.new_zeros(())


def of_tokens(net, others, batch, mine, kd):
    logits, valid = net(batch), batch['labels'] != -100
    count = sum((one['labels'] != -100).sum() for one in mine)
    found = [kd(logits, other(batch).detach())[valid].sum() / count for other in others]
    task = F.cross_entropy(logits.transpose(1, 2), batch['labels'], reduction='sum') / count
    return task, sum(found) / max(1, len(found)) + logits.new_zeros(())


def of_texts(net, others, batch, mine, kd):
    samples = sum(len(one['labels']) for one in mine)
    outputs = net(**batch)
    found = [kd(outputs.logits, other(**batch).logits.detach()).sum() / samples for other in others]
    share = len(batch['labels']) / samples
    return outputs.loss * share, sum(found) / max(1, len(found)) + outputs.logits.new_zeros(())


def point_batches(ranks, step, unlabelled=()):
    x, y = pairs(32, unlabelled=unlabelled)
    rows = [range(32)[rank::ranks] for rank in range(ranks)]
    size = 8 // ranks
    return [(x[list(row[step * size :][:size])], y[list(row[step * size :][:size])]) for row in rows]


def token_batches(ranks, step, dataset=None):
    columns, size = (dataset or tokens()).columns, 8 // ranks
    rows = [list(range(32)[rank::ranks])[step * size :][:size] for rank in range(ranks)]
    return [{key: value[row] for key, value in columns.items()} for row in rows]


def text_batches(ranks, step):
    return token_batches(ranks, step, texts())


def few_labels(ranks, step):
    return point_batches(ranks, step, FEW)


def of_few(net, others, batch, mine, kd):
    count = max(1, sum((y != -100).sum() for _, y in mine))
    return F.cross_entropy(net(batch[0]), batch[1], reduction='sum') / count, of_points(net, others, batch, mine, kd)[1]


class Group:
    def __init__(self, group):
        self.group = group


def plain(group):
    return mlp(seed=10 + group.group)


KINDS = {
    'tokens': (token_batches, of_tokens, token_model),
    'tokens in microbatches': (token_batches, of_tokens, token_model),
    'hugging face': (text_batches, of_texts, lambda group: bert(group).model),
    'few labels': (few_labels, of_few, plain),
    'microbatches': (point_batches, of_points, plain),
    'four nets': (point_batches, of_points, plain),  # BatchNorm of two samples would be ill-conditioned
}
NORMED = (point_batches, of_points, lambda group: mlp(seed=10 + group.group, norm=True))


def expected(case, ranks, groups=GROUPS):
    batches, losses, make = KINDS.get(case, NORMED)
    options = {}
    if case == 'settings':
        options = {'start': 5, 'kd_weight': 0.7, 'org_weight': 0.4, 'kd': lambda a, b: (a - b).square().mean(-1)}
    found = Reference([make(Group(number)) for number in range(groups)], ranks, **options)
    for step in range(8):
        found.step(step, batches(ranks, step % 4), losses)
    return found


def check(result, reference, ranks):
    for batch, row in zip(result['losses'], reference.log):
        names = ['', *(f'group-{number}/' for number in range(1, len(reference.nets)))]
        got = [[batch[f'{name}task'], batch[f'{name}kd']] for name in names]
        for one, other in zip(got, row):
            assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    assert len(result['losses']) == len(reference.log)
    for rank, found in enumerate(result['ranks']):
        net = reference.nets[rank * len(reference.nets) // ranks]
        assert found == pytest.approx(weights(net).tolist(), abs=1e-6)
    for found, net in zip(result['networks'], reference.nets):
        whole = torch.cat([value.flatten() for value in net.state_dict().values()])
        assert found == pytest.approx(whole.tolist(), abs=1e-6)


@pytest.mark.parametrize('case', TRAINED)
def test_two_processes_train_what_one_loop_trains(two, case):
    check(two[case], expected(case, 2), 2)


@pytest.mark.slow
@pytest.mark.parametrize('case', TRAINED)
def test_groups_of_two_processes_train_what_one_loop_trains(four, case):
    check(four[case], expected(case, 4), 4)


@pytest.mark.slow
def test_each_of_four_nets_learns_from_the_mean_of_three(four):
    check(four['four nets'], expected('four nets', 4, 4), 4)


def test_ranks_with_batches_of_other_sizes(two):
    reference = Reference([mlp(seed=10), mlp(seed=11)], 2)
    x, y = pairs(32)
    for step in range(3):
        rows = [list(range(32)[rank::2])[step * size :][:size] for rank, size in ((0, 3), (1, 5))]
        reference.step(step, [(x[row], y[row]) for row in rows], of_points)
    check(two['uneven'], reference, 2)


def test_batches_of_transformers_of_other_sizes(two):
    reference = Reference([bert(Group(0)).model, bert(Group(1)).model], 2)
    columns = texts().columns
    for step in range(3):
        rows = [list(range(32)[rank::2])[step * size :][:size] for rank, size in ((0, 3), (1, 5))]
        reference.step(step, [{key: value[row] for key, value in columns.items()} for row in rows], of_texts)
    check(two['uneven, of transformers'], reference, 2)


def check_evaluation(found, make=lambda: mlp(norm=True), prefix='module.'):
    x, y = pairs(5)
    accuracies, logits = [], []
    for state in found['networks']:
        net = make().eval()
        net.load_state_dict({key.removeprefix(prefix): torch.tensor(value) for key, value in state.items()})
        logits.append(net(x))
        accuracies.append((logits[-1].argmax(-1) == y).float().mean().item())
    assert found['student'] == pytest.approx(accuracies[0])
    for rank in found['all']:
        assert rank == {'metrics/eval/group-1/MulticlassAccuracy': pytest.approx(accuracies[1])}
    assert found['unchanged']
    ranks = len(found['predicted'])
    for rank, predicted in enumerate(found['predicted']):  # the student's, whoever computes them
        rows = [*range(5), *range(5)][rank::ranks][: len(predicted)]
        torch.testing.assert_close(torch.tensor(predicted), logits[0][rows], atol=1e-5, rtol=1e-4)


def test_every_net_is_evaluated_on_all_data(two):
    check_evaluation(two['evaluated'])


def test_every_net_of_a_compiled_student_is_evaluated(two):
    check_evaluation(two['evaluated, compiled'])


def test_a_net_may_keep_what_it_computed_in_training(two):
    check_evaluation(two['evaluated, keeping'], mlp, 'module.net.')


@pytest.mark.slow
def test_every_net_of_groups_is_evaluated_on_all_data(four):
    check_evaluation(four['evaluated'])


def test_an_evaluation_that_is_interrupted_loses_no_net(two):
    found = two['interrupted']
    assert len(found['networks']) > 3
    assert found['networks'][0][0] != found['networks'][0][1]
    assert all(nets == found['networks'][0] for nets in found['networks'])
    assert all(net == found['networks'][0][1] for net in found['saved'])
    assert found['metrics'][0] == found['metrics'][1]


def test_train_metrics_are_those_of_a_group(two):
    for rank, (x, y) in enumerate(point_batches(2, 0)):
        right = (mlp(seed=10 + rank)(x).argmax(-1) == y).float().mean().item()
        assert two['train metrics'][rank] == pytest.approx(right)


@pytest.mark.parametrize('stop', ['1ba', '3ba', '4ba'])
def test_a_resume_is_bit_equal_on_every_rank(two, stop):
    assert two['resumed'][stop]


@pytest.mark.slow
@pytest.mark.parametrize('stop', ['3ba', '4ba'])
def test_a_resume_of_groups_is_bit_equal_on_every_rank(four, stop):
    assert four['resumed'][stop]


@pytest.mark.slow
def test_groups_may_have_more_ranks_after_a_resume(tmp_path):
    path = tmp_path / 'run.pt'
    nets = launch(2, f'saved:{path}', tmp_path)['networks']
    assert nets == launch(4, f'loaded:{path}', tmp_path)['networks']
    for number, entry in enumerate([None, 'state.algorithms.0.1.nets.1.net']):
        net = FrozenTeacher(mlp(), path, entry=entry).model
        assert nets[number] == torch.cat([value.flatten() for value in net.state_dict().values()]).tolist()


WORDS = {
    'EMA': 'average of rank 0 alone',
    'SWA': 'average of rank 0 alone',
    'SAM': "inner optimizer's state",
    'LayerFreezing': 'cannot be resumed',
    'MixUp': 'use interpolate_loss=False',
    'Distillation': 'both set the loss',
    'EarlyStopper': 'Stop by the metrics of an evaluator',
    'fsdp': 'shards one net over all ranks',
    'SyncBatchNorm': 'Build the student with BatchNorm',
    'forced_sync': "take 'single_auto_sync'",
    'groups': '2 processes are not a multiple of groups=3. Start 3 processes, or set groups to a divisor of 2',
    'frozen': 'parameters that require gradients',
}


@pytest.mark.parametrize('what', REFUSED)
def test_what_needs_one_net_on_all_ranks_is_refused_on_all_of_them(two, what):
    assert two['refused'][what].startswith('ConfigError: CoDistillation')
    assert WORDS[what] in two['refused'][what]


def test_a_wrong_loss_is_an_error_before_the_first_exchange(two):
    assert two['wrong loss'].startswith('LossError: ')
    assert 'at batch 0' in two['wrong loss']


def test_smoothed_and_mixed_labels(two):
    def smoothed(net, others, batch, mine, kd):
        _, distance = of_points(net, others, batch, mine, kd)
        return F.cross_entropy(net(batch[0]), batch[1], label_smoothing=0.1), distance

    reference = Reference([mlp(seed=10), mlp(seed=11)], 2)
    for step in range(8):
        reference.step(step, point_batches(2, step % 4), smoothed)
    check(two['smoothed'], reference, 2)
    assert two['mixed'] == 'nothing'


def test_a_yaml_trains_and_resumes_nets_of_their_own(two):
    found = two['yaml']
    assert found['apart']
    assert found['straight'] == found['resumed']
    assert found['straight']['loss/train/group-1/kd'] > 0
    accuracies = [found['straight'][f'metrics/eval/{net}MulticlassAccuracy'] for net in ('', 'group-1/')]
    assert min(accuracies) > 0.6
    assert accuracies[0] != accuracies[1]


def test_warnings(two):
    assert len(two['equal']) == 1
    assert 'torch.manual_seed(seed + algorithm.group)' in two['equal'][0]
    assert two['own'] == []
    assert two['never'] == [
        'The nets never learn from one another: exchange_every is 9ba, the run ends at 4ba.',
    ]
    assert two['closed'] == ['The nets never learn from one another: exchange_every is 3ba, end_dur is 3ba.']
    assert two['open'] == []


@pytest.mark.parametrize('groups', [1, 0, True, 2.0, '2'])
def test_groups_are_checked(groups):
    with pytest.raises(ConfigError, match='groups must be a whole number of 2 or more'):
        CoDistillation(groups=groups)


def test_other_settings_are_checked():
    with pytest.raises(ConfigError, match='exchange_every must be a positive time in batches or epochs'):
        CoDistillation(exchange_every='0.5dur')
    with pytest.raises(ConfigError, match='kd_loss_weight'):
        CoDistillation(kd_loss_weight=-1)
    with pytest.raises(ConfigError, match='no nets yet'):
        CoDistillation().networks()
    with pytest.raises(CheckpointError, match=r'is of CoDistillation\(groups=3\), this run has groups=2'):
        CoDistillation().load_state_dict({'groups': 3})


def test_one_process_is_refused_with_the_way_out():
    with pytest.raises(ConfigError, match=r'composer -n 2 \.\.\.; or train the nets .* with MutualLearning'):
        trainer(student(), loader(*pairs()), [CoDistillation()])


def test_nothing_is_exchanged_when_the_window_is_over(two):
    assert two['exchanges'] == {'1dur': [2, 4, 6, 8], '5ba': [2, 4], '0.5dur': [2]}


def test_epochs_of_unknown_length_are_refused_before_training(two):
    said, batches = two['unknown length']
    assert said.startswith("TeacherError: CoDistillation(exchange_every='1ep'")
    assert 'give the time in batches' in said
    assert batches == []
