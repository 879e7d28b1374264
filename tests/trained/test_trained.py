"""``composer_kd.trained``: models of a script, compared with plain torch, and wrong input."""

import random

import numpy as np
import pytest
import torch
from composer import Evaluator, Trainer
from torch import nn

from composer_kd import Distillation, KLDivergence, Match
from composer_kd.bench import Limits, TextOptions
from composer_kd.errors import ConfigError
from composer_kd.losses import hint
from composer_kd.trained import bench, evaluate, export, report
from composer_kd.trained.models import own_copy
from tests.helpers import loader, mlp, pairs, student

QUICK = {'devices': ['cpu'], 'backends': ['eager'], 'precisions': ['fp32'], 'threads': [1], 'limits': Limits(0.02, 2)}


@pytest.fixture(scope='module')
def trained():
    """A student with a projector beside it, whose Trainer is still there; its teacher, and the data."""
    data = loader(*pairs())
    model, teacher = student(), mlp(seed=5)
    matches = [KLDivergence(), Match(hint, on='2', project=nn.Linear(8, 8))]
    trainer = Trainer(
        model=model, train_dataloader=data, max_duration='1ep', progress_bar=False,
        optimizers=torch.optim.SGD(model.parameters(), lr=0.1), algorithms=[Distillation(teacher, matches)],
    )  # fmt: skip
    trainer.fit()
    yield model, teacher, data
    trainer.close()


def test_evaluate_a_student_with_a_projector(trained):
    model, _, data = trained
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = evaluate(model, data)
    x, y = pairs()
    with torch.no_grad():
        expected = (model.module(x).argmax(1) == y).float().mean()
    assert found.metrics['metrics/eval/MulticlassAccuracy'] == pytest.approx(float(expected))
    assert found.parameters == sum(one.numel() for one in mlp().parameters())
    assert any('composer_kd' in key for key in before)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_an_evaluation_leaves_the_random_states_of_the_script(trained):
    model, _, data = trained
    drawn = []
    for evaluates in (False, True):
        random.seed(3), np.random.seed(3), torch.manual_seed(3)
        if evaluates:
            evaluate(model, data)
        drawn.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert drawn[0] == drawn[1]


def test_a_compiled_model_is_the_model(tmp_path):
    model = mlp()
    compiled = torch.compile(model, backend='eager')
    assert own_copy(compiled).state_dict().keys() == model.state_dict().keys()
    (exported,) = export(compiled, pairs(), to='state-dict', out=tmp_path)
    assert torch.load(exported.folder / 'student.pt', weights_only=True).keys() == model.state_dict().keys()
    assert 'container.Sequential' in exported.usage


def test_evaluate_plain_modules_batches_and_evaluators(trained):
    model, teacher, data = trained
    x, y = pairs()
    with torch.no_grad():
        expected = float((teacher(x).argmax(1) == y).float().mean())
    for given in (data, (x, y), [(x[:10], y[:10]), (x[10:], y[10:])]):
        assert evaluate(teacher, given).metrics['metrics/eval/MulticlassAccuracy'] == pytest.approx(expected)
    several = [Evaluator(label='a', dataloader=data), Evaluator(label='b', dataloader=loader(x[:8], y[:8]))]
    assert set(evaluate(model, several).metrics) == {
        'metrics/a/MulticlassAccuracy', 'metrics/b/MulticlassAccuracy',
    }  # fmt: skip


def test_bench_knows_who_taught_whom(trained):
    model, teacher, data = trained
    found = bench({'student': model, 'teacher': teacher}, data, taught_by={'student': 'teacher'}, **QUICK)
    assert [(row.model, row.role) for row in found.rows] == [
        ('teacher', 'teacher'), ('student', 'student distilled'),
    ]  # fmt: skip
    x, _ = pairs()
    with torch.no_grad():
        agreement = (model.module(x).argmax(1) == teacher(x).argmax(1)).float().mean()
    assert found.rows[1].agreement == pytest.approx(float(agreement))
    assert found.rows[1].speed_up.against == 'teacher'


def test_models_of_a_list_are_called_like_their_classes(trained):
    model, teacher, data = trained
    rows = bench([model, teacher], next(iter(data)), **QUICK).rows
    assert [row.model for row in rows] == ['Sequential', 'Sequential 2']


def test_modules_beside_run_folders(trained, tmp_path, monkeypatch):
    model, _, data = trained
    torch.save(student(seed=9).state_dict(), tmp_path / 'latest-rank0.pt')
    (tmp_path / 'config.yaml').write_text('run_name: saved\nmodel: {name: tests.helpers.student}\n', encoding='utf-8')
    from composer_kd.config.trust import trusting

    with trusting(['tests']):
        rows = bench({'mine': model, 'saved': tmp_path}, data, **QUICK).rows
    assert [row.model for row in rows] == ['mine', 'saved']
    with torch.no_grad():
        expected = float((student(seed=9).module(pairs()[0]).argmax(1) == pairs()[1]).float().mean())
    assert rows[1].accuracy == pytest.approx(expected)


def test_an_export_leaves_out_what_was_trained_beside(trained, tmp_path):
    model, _, data = trained
    (exported,) = export(model, data, to='state-dict', out=tmp_path, license='mit')
    weights = torch.load(exported.folder / 'student.pt', weights_only=True)
    assert sorted(weights) == sorted(mlp().state_dict())
    card = (exported.folder / 'README.md').read_text(encoding='utf-8')
    assert 'tests.helpers' not in card
    assert 'license: mit' in card


def test_what_the_state_dict_lacks_is_found_out(tmp_path):
    class Forgets(nn.Linear):
        """Leaves its bias out of the state dict; the check must find the difference."""

        def _save_to_state_dict(self, destination, prefix, keep_vars):
            super()._save_to_state_dict(destination, prefix, keep_vars)
            destination.pop(f'{prefix}weight')

        def _load_from_state_dict(self, state_dict, prefix, *rest):
            state_dict = {**state_dict, f'{prefix}weight': torch.zeros_like(self.weight)}
            super()._load_from_state_dict(state_dict, prefix, *rest)

    with pytest.raises(ConfigError, match='state-dict'):
        export(Forgets(4, 3), torch.randn(4, 4), to='state-dict', out=tmp_path)
    assert not (tmp_path / 'state-dict').exists()


def test_students_of_other_models_are_not_compared(trained, tmp_path):
    model, teacher, data = trained
    other = nn.Linear(6, 4)
    models = {'teacher': teacher, 'alone': other, 'student': model}
    found = report(models, data, taught_by={'student': 'teacher'}, out=tmp_path, with_bench=False)
    assert found.teacher.name == 'teacher'
    assert found.alone is None or found.alone.name != 'alone'


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda m, d: bench({'student': m}, d, taught_by={'studnt': 'teacher'}), "did you mean 'student'"),
        (lambda m, d: bench([], d), 'at least one model'),
        (lambda m, d: bench(m, d), 'expected a list of models'),
        (lambda m, d: bench([m]), 'data: missing'),
        (lambda m, d: report([m]), 'data: missing'),
        (lambda m, d: bench('runs/a'), 'expected a list of models'),
        (lambda m, d: bench([3], d), 'paths of run folders'),
        (lambda m, d: bench([m], iter(d)), 'one batch'),
        (lambda m, d: bench([m], []), 'at least one batch'),
        (lambda m, d: evaluate(m), 'evaluate(model, loader)'),
        (lambda m, d: evaluate('runs/x', d), 'leave data out'),
        (lambda m, d: export(m), 'export(model, batch)'),
        (lambda m, d: export(m, (torch.zeros(1, 6), torch.zeros(1))), 'two samples'),
        (lambda m, d: export(m, d, to='onx'), "did you mean 'onnx'"),
        (lambda m, d: report({'a': 'runs/a'}), 'a list of their folders'),
        (lambda m, d: report(['runs/a'], taught_by={'a': 'b'}), 'taught_by: runs know their teachers'),
        (lambda m, d: report(['runs/a'], histories={'a': 'runs/a'}), 'histories: runs have their own'),
        (lambda m, d: report({'a': m}, d, histories={'b': 'runs'}, with_bench=False), 'histories'),
    ],
)
def test_wrong_input(trained, call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        call(trained[0], trained[2])
    assert message in str(caught.value)


def test_a_copy_is_free_of_the_trainer(trained):
    model = trained[0]
    copied = own_copy(model)
    assert getattr(copied, 'logger', None) is None
    assert not any('composer_kd' in name for name, _ in copied.named_modules())
    assert any('composer_kd' in name for name, _ in model.named_modules())


def test_language_models_of_a_script_are_timed_at_the_lengths_asked_for():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {'vocab_size': 20, 'n_embd': 8, 'n_head': 2, 'n_positions': 32}
    models = {f'gpt{layers}': GPT2LMHeadModel(GPT2Config(n_layer=layers, **sizes)).eval() for layers in (2, 1)}
    ids = torch.randint(20, (4, 12), generator=torch.Generator().manual_seed(0))
    batch = {'input_ids': ids, 'attention_mask': torch.ones_like(ids), 'labels': ids}
    found = bench(models, batch, taught_by={'gpt1': 'gpt2'}, texts=TextOptions([8, 16], [1], 4), **QUICK)
    assert [(one.length, one.batch) for one in found.rows[1].texts] == [(8, 1), (16, 1)]
    assert [(one.prompt, one.batch) for one in found.rows[1].generation] == [(8, 1), (16, 1)]
    with torch.no_grad():
        guesses = models['gpt1'](ids).logits.argmax(-1)
    right = (guesses[:, :-1] == ids[:, 1:]).float().mean()
    assert found.rows[1].accuracy == pytest.approx(float(right))
