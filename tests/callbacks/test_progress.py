"""The bar of a whole run."""

from __future__ import annotations

import io

import pytest
import torch
from composer import Evaluator, Trainer
from rich.console import Console

from composer_kd.callbacks import RunProgress
from composer_kd.models import IndexedClassifier
from composer_kd.runs.build import as_classifier


def trainer(console, duration, **settings):
    data = torch.utils.data.TensorDataset(torch.randn(12, 4), torch.arange(12) % 3)
    loader = torch.utils.data.DataLoader(data, batch_size=4)
    model = as_classifier(torch.nn.Linear(4, 3), 3)
    assert isinstance(model, IndexedClassifier)
    return Trainer(
        model=model,
        train_dataloader=loader,
        eval_dataloader=Evaluator(label='eval', dataloader=loader),
        max_duration=duration,
        optimizers=torch.optim.SGD(model.parameters(), 0.1),
        loggers=[RunProgress('digits [kd]', console)],
        progress_bar=False,
        **settings,
    )


def shown(duration, terminal=True, **settings):
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=terminal, width=160, color_system=None)
    made = trainer(console, duration, **settings)
    made.fit()
    made.close()
    return drawn.getvalue()


@pytest.mark.parametrize(('duration', 'epoch'), [('4ep', ' epoch 4 of 4 '), ('7ba', ''), ('20sp', '')])
def test_it_goes_from_nothing_to_the_end_of_the_run(duration, epoch):
    text = shown(duration)
    assert '  0% ' in text
    last = next(line for line in reversed(text.splitlines()) if 'digits' in line)
    assert f'100%{epoch}' in last
    assert 'digits [kd]' in last
    assert 'left' in last
    assert 'loss ' in last
    assert 'MulticlassAccuracy' in last


def test_it_ends_with_the_trainer_that_fails():
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=160, color_system=None)
    made = trainer(console, '2ep')
    made.state.model.loss = None
    with pytest.raises(TypeError):
        made.fit()
    made.engine.close()
    assert not console._live_stack if hasattr(console, '_live_stack') else console._live is None
