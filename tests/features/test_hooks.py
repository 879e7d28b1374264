import gc
import weakref

import pytest
import torch
from composer.models import ComposerClassifier
from torch import nn
from torch.utils.checkpoint import checkpoint

from composer_kd import ConfigError
from composer_kd.features.hooks import FeatureHooks, LayerPath


class Net(nn.Module):
    """Layers of all kinds: nested, with a tuple for an output, run twice, called with keywords, and never run."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
        self.rnn = nn.GRU(4, 5, batch_first=True)
        self.twice = nn.Tanh()
        self.head = nn.Bilinear(5, 5, 2)
        self.unused = nn.Linear(1, 1)

    def forward(self, x):
        x = self.stem(x)
        x = self.twice(self.twice(self.blocks[1](self.blocks[0](x))))
        states, last = self.rnn(x.unsqueeze(1))
        logits = self.head(input1=states[:, 0], input2=last[0])
        return {'logits': logits, 'hidden_states': (x, states)}


def seen(model, *places, x=None, mask=None, summary=None):
    hooks = FeatureHooks(model, [(place, summary) for place in places], 'the student')
    hooks.attach()
    hooks.open(lambda layer: mask)
    model(torch.randn(6, 3) if x is None else x)
    found = hooks.take()
    hooks.remove()
    return [found[place, summary] for place in places]


def test_sees_outputs_inputs_entries_and_what_the_model_returns():
    net, x = Net(), torch.randn(6, 3)
    stem, block_in, states, last, hidden, keyword = seen(
        net, 'stem', 'blocks.0:input', 'rnn[0]', 'rnn[1][0]', 'outputs.hidden_states[-1]', 'head:input[1]', x=x
    )
    expected = net.stem(x)
    torch.testing.assert_close(stem, expected)
    torch.testing.assert_close(block_in, expected)
    assert states.shape == (6, 1, 5)
    torch.testing.assert_close(states[:, 0], last)
    assert hidden is states
    torch.testing.assert_close(keyword, last)


def test_of_a_layer_that_runs_twice_the_last_time_counts():
    net, x = Net(), torch.randn(6, 3)
    (found,) = seen(net, 'twice', x=x)
    torch.testing.assert_close(found, net.blocks[1](net.blocks[0](net.stem(x))).tanh().tanh())


@pytest.mark.parametrize('path', ['stem', 'module.stem'])
def test_one_path_for_the_bare_net_and_the_wrapped_one(path):
    net = Net()
    for model in (net, ComposerClassifier(net, num_classes=2)):
        hooks = FeatureHooks(model, [(path, None)], 'the student')
        hooks.attach()
        hooks.open()
        net(torch.randn(6, 3))
        assert hooks.take()[path, None].shape == (6, 4)
        hooks.remove()


def test_gradients_flow_through_what_was_seen():
    net = Net()
    (found,) = seen(net, 'stem')
    found.sum().backward()
    assert net.stem.weight.grad is not None


@pytest.mark.parametrize(
    ('place', 'message'),
    [
        ('stemm', "the student has no layer 'stemm'; did you mean 'stem'"),
        (
            'blocks',
            r"'blocks' of the student is a ModuleList, which does not run itself; name one of its entries.*blocks\.0",
        ),
        ('layer 2', 'A layer is named by its path'),
        ('', 'A layer is named by its path'),
        (3, 'A layer is named by its path'),
    ],
)
def test_refuses_a_wrong_path(place, message):
    with pytest.raises(ConfigError, match=message):
        FeatureHooks(Net(), [(place, None)], 'the student')


@pytest.mark.parametrize(
    ('place', 'message'),
    [
        ('rnn', r"'rnn' of the student is no tensor but a tuple of 2: name an entry of it, as 'rnn\[0\]'"),
        ('rnn[7]', 'no 7 in a tuple of 2'),
        ('stem[0]', r"'stem\[0\]' of the student: 'stem' is a tensor of the shape \(6, 4\).*\[0\].*Name 'stem'"),
        ('stem:input[0][1]', r"'stem:input\[0\]' is a tensor of the shape \(6, 3\)"),
        ('outputs.logits[1]', r"'outputs.logits' is a tensor of the shape \(6, 2\)"),
        ("outputs['logits'][0][1]", r"outputs\['logits'\].* is a tensor of the shape \(6, 2\)"),
        ('outputs.logits.data', "'outputs.logits' is a tensor"),
        ('rnn[1][0][2]', r"'rnn\[1\]\[0\]' is a tensor of the shape \(6, 5\).*\[2\]"),
        ('outputs.attentions[0]', "no 'attentions' in a mapping.*set config.output_attentions=True"),
        ('unused', "'unused' of the student did not run"),
    ],
)
def test_says_what_it_saw_instead_of_a_feature(place, message):
    with pytest.raises(ConfigError, match=message):
        seen(Net(), place)


@pytest.mark.parametrize('size', [1, 2, 3])
def test_the_states_of_an_rnn_have_their_layers_first(size):
    rnn = nn.GRU(3, 5, num_layers=2, batch_first=True)
    x = torch.randn(size, 7, 3)
    net = nn.Sequential(rnn)
    (found,) = seen(net, '0[1][1]', x=x)
    torch.testing.assert_close(found, rnn(x)[0][:, -1])


def test_an_output_that_is_changed_in_place_is_not_what_was_asked_for():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="'0' of the student is changed in place"):
        seen(net, '0')
    assert (seen(net, '1')[0] >= 0).all()  # the output of the layer that changes it is all right


def test_keeps_nothing_unless_it_is_open():
    net = Net()
    hooks = FeatureHooks(net, [('stem', None)], 'the student')
    hooks.attach()
    net(torch.randn(6, 3))
    assert not hooks._found
    hooks.open()
    net(torch.randn(6, 3))
    (found,) = hooks.take().values()
    gone = weakref.ref(found)
    del found
    gc.collect()
    assert gone() is None
    net(torch.randn(6, 3))
    assert not hooks._found


def test_remove_leaves_no_hook():
    net = Net()
    hooks = FeatureHooks(net, [('stem', None), ('rnn[0]', None)], 'the student')
    hooks.attach()
    hooks.attach()  # once is enough
    assert sum(len(part._forward_hooks) for part in net.modules()) == 2
    hooks.remove()
    assert sum(len(part._forward_hooks) for part in net.modules()) == 0


def test_a_summary_is_taken_at_once_and_knows_the_tokens_that_count():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            return self.layer(x)

    def mean(value, mask):
        return (value * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)

    x, mask = torch.randn(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    (found,) = seen(Tokens(), 'layer', x=x, mask=mask, summary=mean)
    torch.testing.assert_close(found, torch.stack([x[0, :2].mean(0), x[1, 0]]))


def test_activation_checkpointing_runs_the_layer_again_unseen():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return checkpoint(self.layer, x, use_reentrant=False)

    net, x = Checkpointed(), torch.randn(6, 3)
    hooks = FeatureHooks(net, [('layer', None)], 'the student')
    hooks.attach()
    hooks.open()
    out = net(x)
    found = hooks.take()['layer', None]
    (out.sum() + 2 * found.sum()).backward()  # the layer runs once more here
    assert not hooks._found
    torch.testing.assert_close(net.layer.weight.grad, 3 * x.sum(0).expand(3, 3))


def test_places_are_read():
    assert LayerPath.parse('a.b:input[0][-1]') == LayerPath('a.b:input[0][-1]', 'a.b', True, (0, -1))
    assert LayerPath.parse("rnn['x']").keys == ('x',)
    assert LayerPath.parse('outputs[1]').keys == (1,)
    assert LayerPath.parse('outputs_proj').path == 'outputs_proj'


def test_the_input_of_a_layer_that_works_in_place():
    """Seen before the layer runs; afterwards it is not there any more."""
    inplace = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    with pytest.raises(ConfigError, match="'1:input' of the student is changed in place"):
        seen(inplace, '1:input')
    kept = nn.Sequential(inplace[0], nn.ReLU(), inplace[2])
    x = torch.randn(6, 3)
    torch.testing.assert_close(seen(kept, '1:input', x=x)[0], kept[0](x))


def test_in_inference_mode():
    with torch.inference_mode():
        assert seen(Net(), 'stem')[0].shape == (6, 4)


def test_a_key_of_a_mapping_comes_before_its_methods():
    class Mapped(nn.Module):
        def forward(self, x):
            return {'values': x, 'items': x + 1}

    x = torch.randn(2, 3)
    assert torch.equal(seen(Mapped(), "outputs['values']", x=x)[0], x)


def test_a_layer_that_was_replaced_since_is_looked_up_again():
    net = Net()
    hooks = FeatureHooks(net, [('stem', None)], 'the student')
    net.stem = nn.Linear(3, 4)
    hooks.attach()
    hooks.open()
    x = torch.randn(6, 3)
    net(x)
    torch.testing.assert_close(hooks.take()['stem', None], net.stem(x))
    hooks.remove()


def test_what_a_hugging_face_model_was_not_asked_for():
    from transformers import BertConfig, BertModel

    sizes = {
        'hidden_size': 8,
        'num_hidden_layers': 1,
        'num_attention_heads': 2,
        'intermediate_size': 8,
        'vocab_size': 11,
    }
    ids = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ConfigError, match=r"no 'hidden_states' in.*set config\.output_hidden_states=True"):
        seen(BertModel(BertConfig(**sizes)), 'outputs.hidden_states[1]', x=ids)
    (found,) = seen(BertModel(BertConfig(**sizes, output_hidden_states=True)), 'outputs.hidden_states[1]', x=ids)
    assert found.shape == (2, 3, 8)


def test_a_hook_never_makes_the_model_itself_fail():
    model = Net()
    hooks = FeatureHooks(model, [('rnn[7]', None)], 'the student')
    with hooks.recording():
        model(torch.randn(6, 3))
        with pytest.raises(ConfigError, match='no 7 in a tuple of 2'):
            hooks.take()


def test_what_an_interrupted_pass_left_sees_nothing_of_the_next():
    class Interrupts(nn.Module):
        def __init__(self):
            super().__init__()
            self.armed = True

        def forward(self, x):
            if self.armed:
                raise KeyboardInterrupt
            return x

    net = nn.Sequential(nn.Linear(2, 3), Interrupts())
    hooks = FeatureHooks(net, [('0', None)], 'the student')
    hooks.open(once=True)
    with pytest.raises(KeyboardInterrupt):
        net(torch.zeros(4, 2))
    net[1].armed = False
    net(torch.zeros(5, 2))
    with pytest.raises(ConfigError, match='did not run'):
        hooks.take()
