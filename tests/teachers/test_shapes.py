import torch
from torch import nn

from composer_kd import FrozenTeacher, ResizeAdapter
from composer_kd.teachers import logits_shape
from tests.helpers import TokenModel, mlp, pairs


def test_shapes_of_real_models():
    import torchvision

    images = torch.zeros(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    net = FrozenTeacher(torchvision.models.resnet18(num_classes=7), input_adapter=ResizeAdapter(64))
    assert logits_shape(net, images) == (2, 7)
    tokens = {'input_ids': torch.zeros(2, 5, dtype=torch.long)}
    assert logits_shape(FrozenTeacher(TokenModel(11)), tokens) == (2, 5, 11)


def test_nothing_runs_and_nothing_changes():
    calls = []
    module = mlp(norm=True, dropout=0.5)
    module.register_forward_hook(lambda *_: calls.append(1))
    teacher, before, random = (
        FrozenTeacher(module),
        {k: v.clone() for k, v in module.state_dict().items()},
        torch.get_rng_state(),
    )
    assert logits_shape(teacher, pairs(3)) == (3, 4)
    assert calls == []
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(module.state_dict()[key], before[key]) for key in before)
    assert teacher(pairs(3)).device.type == 'cpu'
    assert calls == [1]


def test_says_nothing_of_models_that_look_at_values():
    class Looks(nn.Module):
        def forward(self, x):
            return x * float(x.sum())

    assert logits_shape(FrozenTeacher(Looks()), pairs(3)) is None


def test_an_adapter_that_draws_leaves_the_random_state():
    before = torch.get_rng_state()
    assert logits_shape(FrozenTeacher(mlp(), input_adapter=lambda x: x + torch.randn(1)), pairs(3)) is None
    assert torch.equal(torch.get_rng_state(), before)
