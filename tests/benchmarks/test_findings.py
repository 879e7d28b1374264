"""The study of claims runs, goes on where it stopped, and judges by its rule; what it finds is not asserted."""

import json
from types import SimpleNamespace

import pytest
import torch
from composer import Trainer
from composer.models import ComposerClassifier
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader

from benchmarks import findings, findings_bar, findings_claims, findings_data, findings_report, findings_study, jobs
from benchmarks import knowledge_data as small
from benchmarks.findings_claims import ALONE, CLAIMS, TAUGHT, Cell, Comparison, Difference, cells_of, verdict
from benchmarks.findings_study import MIDDLES, ClaimStudy, default_rate, ladder, tune
from benchmarks.jobs import ROOT
from composer_kd import Distillation, KLDivergence
from composer_kd.config.load import load_config
from composer_kd.models import resnet20
from composer_kd.teachers import FrozenTeacher


@pytest.fixture
def few_images(monkeypatch, tmp_path):
    """300 + 60 random images in place of CIFAR-10, of which 50 are held out, and random public weights."""

    def read(split, size):
        count = {'train': 300, 'test': 60}[split]
        generator = torch.Generator().manual_seed(count)
        images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
        return images, [i % 10 for i in range(count)]

    monkeypatch.setattr(findings_data, 'read', read)
    monkeypatch.setattr(small, 'HELD_OUT', 50)
    monkeypatch.setenv('COMPOSER_KD_DATA', str(tmp_path))
    (tmp_path / 'weights').mkdir()
    torch.save(resnet20().state_dict(), tmp_path / 'weights' / findings_data.PRETRAINED[20])
    caches = (findings_data._chosen, findings_data._part, findings_data._views)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def run(tmp_path, *arguments):
    same = ['--workers', '0', '--batches', '4', '--teacher-batches', '1', '--seeds', '1', '2']
    short = ['--epochs', '0.006', '--pilot-epochs', '0.003']
    findings.main([*same, *short, *arguments, '--work', str(tmp_path / 'work'), '--out', str(tmp_path / 'out')])
    return json.loads((tmp_path / 'out/findings.json').read_text()), (tmp_path / 'out/findings.md').read_text()


# The rule -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('values', [[1.0, 1.2, 0.9], [0.5, -0.1, 0.4], [-2.0, -2.1, -1.9, -2.0], [3.0, 0.1]])
def test_a_difference_is_clear_where_students_interval_excludes_zero(values):
    found = Difference(values)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.mean - found.half_width == pytest.approx(low)
    assert found.mean + found.half_width == pytest.approx(high)
    assert found.sign == (1 if low > 0 else -1 if high < 0 else 0)
    assert f'{found.mean:+.1f} ± {found.error:.1f}' in str(found)


def test_one_seed_or_none_is_never_clear():
    assert (Difference([5.0]).sign, str(Difference([5.0])), str(Difference([]))) == (0, '+5.0, one seed', 'not run')


def test_a_verdict_needs_all_of_its_comparisons():
    up, down, unclear = Difference([1.0, 1.1, 0.9]), Difference([-1.0, -1.1, -0.9]), Difference([1.0, -1.0, 0.2])
    assert verdict([('a', up), ('b', up)]) == 'holds'
    assert verdict([('a', up), ('b', unclear), ('c', down)]) == 'holds only for: a'
    assert verdict([('a', unclear), ('b', down)]) == 'does not hold; the opposite does for: b'
    assert verdict([('a', down), ('b', down)]) == 'does not hold: the opposite does'
    assert verdict([('a', unclear)]) == 'does not hold: no clear difference'
    for few in ([], [1.0]):
        assert verdict([('a', up), ('b', Difference(few))]) == 'not decided: runs are missing'


def test_differences_are_paired_and_of_complete_seeds():
    table = {(TAUGHT, 1): 0.5, (ALONE, 1): 0.4, (TAUGHT, 2): 0.6, (TAUGHT, 3): 0.7, (ALONE, 3): 0.4}
    found = Comparison('x', [TAUGHT], [ALONE]).differences(lambda cell, seed: table.get((cell, seed)), [1, 2, 3])
    assert found == pytest.approx([10.0, 30.0])
    both = Comparison('x', [TAUGHT, ALONE], [ALONE]).differences(lambda cell, seed: table.get((cell, seed)), [1])
    assert both == pytest.approx([5.0])


def test_a_run_that_diverged_counts_as_guessing_and_is_told():
    claim = findings_claims.Claim('t', 's', [Comparison('x', [TAUGHT], [ALONE])])
    runs = {(TAUGHT, seed): {'accuracy': 0.5} for seed in (1, 2)}
    runs |= {(ALONE, seed): {'failed': 'diverged: nan'} for seed in (1, 2)}
    study = SimpleNamespace(runs=runs, rates={TAUGHT: 0.1, ALONE: 0.2})
    assert findings_report.judge(claim, study, [1, 2])['decisive'][0]['points'] == pytest.approx([40.0, 40.0])
    rows = findings_report._cells_table(claim, study).splitlines()[2:]
    assert rows[1].endswith('| 10.0 ± 0.0, 2 diverged | 10.0, 10.0 | 0.2 |')


def test_the_bar_is_set_beside_the_study():
    own, taught = findings_bar.BarCell('S'), findings_bar.BarCell('S', 'T')
    runs = {(own, 1): {'accuracy': 0.7}, (own, 2): {'accuracy': 0.71}, (taught, 1): {'accuracy': 0.74},
            (taught, 2): {'accuracy': 0.76}}  # fmt: skip
    study = SimpleNamespace(runs=runs, rates={own: 1, taught: 1}, teachers={'T': {'accuracy': 0.9}})
    rows = findings_report.bar_table(study, (69.0, 72.0, 75.0)).splitlines()[2:]
    assert rows[0] == '| the study | 69 | 72 | 75 | +3 |  |'
    assert rows[1] == '| taught by T, KL, T=4, weight 0.9 | 70.5 ± 0.5 | 75.0 ± 1.0 | 90.0 | +4.5 ± 0.5 | +3.0 |'


# The cells ------------------------------------------------------------------------------------------------------------


def test_cells_are_shared_between_claims():
    sides = [set(cells_of(claim)) for claim in CLAIMS]
    assert all(TAUGHT in cells or index == 0 for index, cells in enumerate(sides))
    assert Cell(teacher=findings_claims.TUNED, temperature=4.0, weight=0.9, optimizer='adamw') == TAUGHT


@pytest.mark.parametrize('cell', dict.fromkeys(cell for claim in CLAIMS for cell in cells_of(claim)))
def test_every_cell_is_a_valid_run(cell, tmp_path):
    study = ClaimStudy(SimpleNamespace(work=tmp_path))
    config = study.job(cell, {cell.teacher: 'answers'}, 0.01, 3, 5).config
    assert (config.optimizer.options['lr'], config.seed, str(config.max_duration)) == (0.01, 3, '5ba')
    assert config.optimizer.name.rpartition('.')[2].lower() == cell.optimizer
    if cell.teacher is None:
        assert list(config.algorithms) == ['channels_last']
        return
    options = config.algorithms['distillation'].options
    assert options['kd_loss_weight'] == cell.weight
    assert options['org_loss_weight'] == pytest.approx(1 - cell.weight)
    assert options['kd_loss_fn'].options.get('temperature') == (cell.temperature if cell.loss == 'kl' else None)


def test_default_rates_are_those_of_torch():
    for name in MIDDLES:
        kind = findings_study.OPTIMIZERS[name]
        assert default_rate(name) == kind([nn.Parameter(torch.zeros(1))]).param_groups[0]['lr']


def test_rates_are_tried_further_while_the_best_is_at_an_end():
    best = {'low': 1e-4, 'middle': 3e-3, 'far': 10.0}
    tried = []

    def runner(made, title):
        tried.append(len(list(made)))
        return {job: {'name': '', 'accuracy': 1 / (1 + abs(ladder_place(job[1]) - ladder_place(best[job[0]])))}
                for job in made}  # fmt: skip

    def ladder_place(rate):
        return next(step for step in range(-20, 20) if ladder(step) == rate)

    found = tune(runner, dict.fromkeys(best, -5), lambda cell, rate: (cell, rate), 'x')
    assert [ladder(step) for step in (-6, -5, -4, 0, 1)] == [1e-3, 3e-3, 1e-2, 1.0, 3.0]
    assert tried == [9, 2, 2]
    assert sorted(rate for cell, rate in found if cell == 'low') == [1e-4, 3e-4, 1e-3, 3e-3, 1e-2]
    assert sorted(rate for cell, rate in found if cell == 'far') == [1e-3, 3e-3, 1e-2, 3e-2, 1e-1]
    assert jobs.choose_rates(best, found) == {'low': 1e-4, 'middle': 3e-3, 'far': 0.1}


# Views and answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('size', [16, 32])
def test_views_are_crops_of_their_image_and_the_same_in_every_split(few_images, size):
    whole, train = (findings_data.images(split, size, views=3) for split in ('all', 'train'))
    plain = findings_data.images('all', size)
    assert [len(part) for part in (whole, train, plain)] == [900, 750, 300]
    chosen, pad = findings_data._chosen('train'), size // 8
    black = -torch.tensor(findings_data.CIFAR10_MEAN) / torch.tensor(findings_data.CIFAR10_STD)
    for place in (0, 120, 249):
        image, label = plain[chosen[place]]
        padded = black.view(3, 1, 1).repeat(1, size + 2 * pad, size + 2 * pad)
        padded[:, pad:-pad, pad:-pad] = image
        crops = [padded[:, top:top + size, left:left + size]
                 for top in range(2 * pad + 1) for left in range(2 * pad + 1)]  # fmt: skip
        crops += [crop.flip(2) for crop in crops]
        for view in range(3):
            x, y = train[3 * place + view]
            assert torch.equal(x, whole[3 * chosen[place] + view][0])
            assert y == label
            assert any(torch.allclose(x, crop, atol=1e-5) for crop in crops)
    assert not torch.equal(train[0][0], train[1][0])


def test_held_out_images_are_no_training_images(few_images):
    parts = [
        {x.numpy().tobytes() for x, _ in findings_data.images(split, 32)} for split in ('train', 'held_out', 'all')
    ]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == parts[2]
    with pytest.raises(ValueError, match="got 'validation'"):
        findings_data.images('validation')


def test_a_student_learns_from_answers_as_from_the_teacher_itself(few_images, tmp_path):
    torch.manual_seed(0)
    dataset = findings_data.images('train', 16, views=2)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), nn.Linear(32, 10))
    findings_data.remember(FrozenTeacher(teacher), dataset, tmp_path / 'answers')
    answers = findings_data.Answers(str(tmp_path / 'answers'))

    def trained(model):
        torch.manual_seed(1)
        student = nn.Sequential(nn.Flatten(), nn.Linear(768, 10))
        trainer = Trainer(
            model=ComposerClassifier(student, num_classes=10),
            train_dataloader=DataLoader(dataset, 50, shuffle=True, generator=torch.Generator().manual_seed(2)),
            optimizers=torch.optim.SGD(student.parameters(), lr=0.1),
            max_duration='1ep',
            algorithms=Distillation(model, KLDivergence(4.0)),
            progress_bar=False,
        )
        trainer.fit()
        return student[1].weight.detach()

    torch.testing.assert_close(trained(answers), trained(teacher))
    with pytest.raises(KeyError, match='never asked'):
        answers(findings_data.images('held_out', 16, views=2)[0][0][None])


# The whole ------------------------------------------------------------------------------------------------------------


def test_a_study_is_run_and_reported_again_without_training(few_images, tmp_path, monkeypatch, capsys):
    few = [claim for claim in CLAIMS if 'RNN' in claim.title]
    monkeypatch.setattr(findings_study, 'CLAIMS', few)
    monkeypatch.setattr(findings_report, 'CLAIMS', few)
    monkeypatch.setattr(findings_study, 'FIRST', (0,))
    monkeypatch.setattr(findings_study, 'EXTENSIONS', 0)
    monkeypatch.setattr(findings_bar, 'VIEWS', 1)
    monkeypatch.setattr(findings_study, 'VIEWS', 2)
    monkeypatch.setattr(findings_bar, 'WAYS', {'kl': 'KL'})
    found, markdown = run(tmp_path)
    said = capsys.readouterr().out
    assert 'teachers: 2 of 2 to run' in said
    assert 'tuning: 5 of 5 to run' in said
    assert 'seed 2: 5 of 5 to run' in said
    claims, bar = found['parts']['claims'], found['parts']['bar']
    assert len(claims['runs']) == 10
    assert all(0 <= result['accuracy'] <= 1 and result['cpu'] > 0 for result in claims['runs'])
    assert {result['batches'] for result in claims['runs']} == {4}
    assert {result['batches'] for result in claims['tuning']} == {1}
    assert {result['teacher'] for result in bar['runs']} == {None, 'DeepCNN', 'ResNet-20'}
    points = {(r['student'], r['teacher'], r['seed']): 100 * r['accuracy'] for r in claims['runs']}
    told = next(each for each in found['claims'][0]['decisive'] if each['name'].startswith('CNN to RNN'))
    teacher = findings_claims.TUNED
    assert told['points'] == pytest.approx([points['rnn', teacher, s] - points['rnn', None, s] for s in (1, 2)])
    assert '| the study | 69 | 72 | 75 | +3 |  |' in markdown
    assert '--parts resnet --epochs 60' in markdown
    assert str(tmp_path) not in markdown + json.dumps(found)
    for name in ('findings.png', 'findings_bar.png'):
        assert (tmp_path / 'out' / name).stat().st_size > 10_000

    monkeypatch.setattr(jobs, 'train', None)  # whatever is run now fails
    again, _ = run(tmp_path, '--report')
    assert (again['claims'], again['parts']) == (found['claims'], found['parts'])
    one = next(path for path in (tmp_path / 'work').glob('*.json') if 'RNN alone' in path.read_text()
               and 'seed 2' in path.read_text())  # fmt: skip
    one.unlink()
    partly, markdown = run(tmp_path, '--report')
    told = next(each for each in partly['claims'][0]['decisive'] if each['name'].startswith('CNN to RNN'))
    assert told['shown'].endswith('one seed')


def test_a_study_stops_where_nothing_can_be_run(few_images, tmp_path, monkeypatch):
    def fail(config):
        raise OSError('no space')

    monkeypatch.setattr(jobs, 'train', fail)
    with pytest.raises(SystemExit, match='no space'):
        run(tmp_path)


@pytest.mark.slow
def test_the_bar_of_resnets_runs(few_images, tmp_path):
    found, markdown = run(tmp_path, '--parts', 'resnet', '--seeds', '1')
    runs = found['parts']['resnet']['runs']
    assert [result['teacher'] for result in runs] == [None, 'ResNet-34']
    assert '| the study | 78 | 89 | 89 | +11 |  |' in markdown


@pytest.mark.parametrize('kind', ['resnet20', 'rnn', 'deep'])
def test_teachers_are_valid_runs(kind):
    config = load_config(ROOT / 'yamls/findings/teacher.yaml', [f'variables.kind={kind}'])
    assert config.train_loader.dataset.options['augment'] is True
    assert config.train_loader.dataset.options['size'] == config.eval_loader.dataset.options['size']
