"""Looks into models in a loop of your own."""

import copy

import torch
from torch import nn

from composer_kd import KLDivergence, Match
from composer_kd.features.observe import observe
from composer_kd.features.outputs import Observation
from composer_kd.losses import hint
from tests.distilling import cnn, distil, images
from tests.helpers import (
    weights,
)


def test_observe_in_a_plain_loop_does_what_a_trainer_does():
    project = nn.Conv2d(8, 16, 1)
    own, net, teacher = copy.deepcopy(project), cnn(4, 1), cnn(8, 2).eval()
    optimizer = torch.optim.SGD([*net.parameters(), *own.parameters()], lr=0.1, momentum=0.9)
    for x, y in images():
        seen = observe(net, x, ['4'])
        with torch.no_grad():
            shown = observe(teacher, (x, y), ['4'])
        kd = KLDivergence()(seen.logits, shown.logits) + 2.0 * hint(own(seen.features['4']), shown.features['4'])
        optimizer.zero_grad()
        (0.1 * nn.functional.cross_entropy(seen.logits, y) + 0.9 * kd).backward()
        optimizer.step()
    run, _, _ = distil([KLDivergence(), Match(hint, on='4', project=project, weight=2.0)], teacher)
    torch.testing.assert_close(weights(net), weights(run.state.model.module), rtol=1e-4, atol=1e-6)
    assert not any(part._forward_hooks for part in net.modules())


def test_observe_without_logits():
    seen = observe(nn.Sequential(nn.Flatten(0)), torch.zeros(2, 3), ['0'])
    assert isinstance(seen, Observation)
    assert seen.features['0'].shape == (6,)
