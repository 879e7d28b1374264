"""``composer-kd layers``: what a match can name."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from composer.models import ComposerClassifier
from torch import nn

from composer_kd.cli.main import main
from composer_kd.errors import ConfigError
from composer_kd.features.hooks import FeatureHooks
from composer_kd.features.layers import layer_shapes
from composer_kd.models import ImageRNN, resnet20

BERT = ['num_hidden_layers=2', 'hidden_size=16', 'num_attention_heads=2', 'intermediate_size=8', 'vocab_size=50']


def bert(**options):
    transformers = pytest.importorskip('transformers')
    settings = {key: int(value) for key, value in (setting.split('=') for setting in BERT)}
    return transformers.BertForSequenceClassification(transformers.BertConfig(**settings, **options)).eval()


class Picky(nn.Module):
    """Looks at the values of its inputs, which the meta device has not."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(3), nn.Linear(3, 2)

    def forward(self, x):
        return {'answer': self.linear(self.norm(x)) if x.sum() == 0 else None, 'parts': [x, x.flatten()]}


def found(model, batch):
    return {layer.path: layer.shape for layer in layer_shapes(model, batch) if not layer.in_place}


IMAGES = torch.zeros(2, 3, 32, 32)
TOKENS = {'input_ids': torch.zeros(2, 7, dtype=torch.long), 'labels': torch.zeros(2, dtype=torch.long)}


@pytest.mark.parametrize(
    ('make', 'batch'),
    [
        (lambda: torchvision.models.resnet18(num_classes=10), (IMAGES, torch.zeros(2))),
        (lambda: ComposerClassifier(resnet20()), (IMAGES, torch.zeros(2))),
        (lambda: ImageRNN(cell='lstm', num_layers=2), IMAGES),
        (lambda: bert(output_hidden_states=True), TOKENS),
        (Picky, torch.zeros(2, 3)),
    ],
    ids=['torchvision', 'wrapped', 'rnn', 'bert', 'picky'],
)
def test_the_paths_are_those_that_a_match_takes_and_the_shapes_are_true(make, batch):
    model = make().eval()
    expected = found(model, batch)
    hooks = FeatureHooks(model, [(path, None) for path in expected], 'the model')
    hooks.attach()
    hooks.open()
    inputs = batch if isinstance(batch, torch.Tensor) else batch[0] if isinstance(batch, tuple) else None
    if isinstance(model, ComposerClassifier):
        model(batch[:2])
    elif inputs is None:
        model(input_ids=batch['input_ids'])
    else:
        model(inputs)
    assert {path: tuple(feature.shape) for (path, _), feature in hooks.take().items()} == expected


def test_entries_of_outputs_are_named():
    rnn = found(ImageRNN(image_size=8), torch.zeros(2, 3, 8, 8))
    assert rnn == {'rnn[0]': (2, 8, 128), 'rnn[1][0]': (1, 2, 128), 'rnn[1][1]': (1, 2, 128),
                   'linear': (2, 10), 'outputs': (2, 10)}  # fmt: skip
    layers = found(bert(output_hidden_states=True), TOKENS)
    assert layers['outputs.hidden_states[2]'] == layers['bert.encoder.layer.1[0]'] == (2, 7, 16)
    assert layers["bert['pooler_output']"] == (2, 16)
    assert found(Picky(), torch.zeros(2, 3))['outputs.parts[1]'] == (6,)


def test_what_a_later_layer_changes_in_place_is_marked():
    marked = {layer.path: layer.in_place for layer in layer_shapes(torchvision.models.resnet18(), IMAGES)}
    assert marked['bn1']
    assert not marked['conv1']
    assert not marked['layer1']


@pytest.mark.parametrize('make', [lambda: resnet20(num_classes=3), Picky], ids=['meta', 'for real'])
def test_the_model_is_left_as_it_was(make):
    model = make().train()
    model.get_submodule('linear' if isinstance(model, Picky) else 'layer1').eval()
    before, modes = copy.deepcopy(model.state_dict()), [part.training for part in model.modules()]
    random = torch.get_rng_state()
    layer_shapes(model, IMAGES if not isinstance(model, Picky) else torch.zeros(2, 3))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert not any(part._forward_hooks for part in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_an_input_that_the_model_does_not_take_is_refused():
    with pytest.raises(ConfigError, match=r'ResNet cannot take a batch of 0: \(2, 1, 8, 8\), 1: \(2,\): .*channels'):
        layer_shapes(torchvision.models.resnet18(), (torch.zeros(2, 1, 8, 8), torch.zeros(2)))


def printed(capsys, *arguments):
    status = main(['layers', *arguments])
    out, err = capsys.readouterr()
    rows = [[cell.strip() for cell in line.split('│')[1:-1]] for line in out.splitlines() if '│' in line]
    return status, out, err, {row[0]: row[1:] for row in rows}


def test_a_model_of_this_package(capsys):
    status, out, _, rows = printed(capsys, 'resnet20', 'num_classes=7', 'image_size=16')
    assert status == 0
    assert rows['outputs'] == [
        'CifarResNet',
        '1, 7',
        f'{sum(p.numel() for p in resnet20(num_classes=7).parameters()):,}',
    ]
    assert rows['layer2'][1] == '1, 32, 8, 8'
    assert out.startswith('resnet20: ')


@pytest.mark.parametrize('shape', [[], ['--input', '4,3,64,64']])
def test_a_dotted_path(shape, capsys):
    _, out, _, rows = printed(capsys, 'torchvision.models.resnet18', *shape)
    assert rows['layer4'][:2] == (['Sequential', '4, 512, 2, 2'] if shape else ['Sequential', '1, 512, 7, 7'])
    assert 'bn1' not in rows
    assert '17 left out, whose output a later layer changes in place' in out.replace('\n', ' ')


def test_a_hugging_face_model_from_its_configuration(capsys):
    pytest.importorskip('transformers')
    path = 'transformers.BertForSequenceClassification'
    _, _, _, rows = printed(capsys, path, *BERT, 'output_hidden_states=true')
    assert rows['bert.encoder.layer.1[0]'][:2] == ['BertLayer', '1, 8, 16']
    assert rows['outputs.hidden_states[0]'][1] == '1, 8, 16'
    assert printed(capsys, path, *BERT, '--input', '3,5')[3]['outputs.logits'][1] == '3, 2'
    status, _, said, _ = printed(capsys, path, 'hiden_size=3')
    assert status == 2
    assert "hiden_size: unknown option of BertConfig; did you mean 'hidden_size'" in said


def test_a_run_shows_its_student_and_its_teachers_on_its_data(capsys, tmp_path):
    # The checkpoint need not be there yet.
    overrides = [f'variables.teacher={tmp_path}/none.pt', 'train_loader.with_index=true']
    _, out, _, rows = printed(capsys, 'yamls/digits/kd.yaml', *overrides)
    student, teacher = out.split('the teacher, DeepCNN')
    assert student.startswith('the student, ShallowCNN')
    assert ' 2, 16, 8, 8 ' in student
    assert ' 2, 128, 8, 8 ' in teacher
    assert rows['outputs'][0] == 'DeepCNN'
    given = printed(capsys, 'yamls/digits/kd.yaml', *overrides, '--input', '5,1,8,8')[3]
    assert given['outputs'][1] == '5, 10'


def test_paths_are_printed_in_one_piece(capsys):
    _, out, _, rows = printed(capsys, 'torchvision_model', 'architecture=mobilenet_v3_small')
    assert 'features.11.block.2.fc1' in rows
    assert max(map(len, out.splitlines())) <= 160


@pytest.mark.parametrize(
    ('arguments', 'said'),
    [
        (['ShalowCNN'], "unknown model 'ShalowCNN'; did you mean 'ShallowCNN'?"),
        (['ShallowCNN', 'image_sise=8'], "model.image_sise: unknown option of ShallowCNN; did you mean 'image_size'?"),
        (['ShallowCNN', 'image_size'], "'image_size': expected an override key.sub=value"),
        (['ShallowCNN', 'image_size=1'], 'model: image_size: expected at least 4 pixels'),
        (['torch.nn.Linear', 'in_features=3', 'out_features=2'], 'say what it takes: --input 1,3,32,32'),
        (['torch.nn.Linear', 'in_features=3'], 'model.out_features: required option of Linear is missing'),
        (['collections.OrderedDict'], "'collections' belongs to Python itself"),
        (['yamls/digits/kdd.yaml'], "did you mean 'yamls/digits/kd.yaml'"),
        (['yamls/digits/kd.yaml', 'modle=1'], "modle: unknown key; did you mean 'model'?"),
        (['ShallowCNN', '--input', '1,1,32,32'], 'ShallowCNN: ShallowCNN cannot take an input of the shape'),
    ],
)
def test_wrong_input_is_one_message(arguments, said, capsys):
    status, _, err, _ = printed(capsys, *arguments)
    assert status == 2
    assert said in err
    assert err.startswith('composer-kd: ')


@pytest.mark.parametrize('shape', ['1,x', '', '1,,2', '1,0', '-1,3'])
def test_a_shape_that_is_none_is_refused(shape, capsys):
    with pytest.raises(SystemExit):
        main(['layers', 'ShallowCNN', f'--input={shape}'])
    assert "expected whole numbers as '1,3,32,32'" in capsys.readouterr().err


def test_a_run_whose_samples_tell_their_index(capsys):
    assert main(['layers', 'yamls/digits/kd.yaml', 'train_loader.with_index=true']) == 0
    assert 'features.2' in capsys.readouterr().out
