import sys

import pytest
import torch
from torch import nn

from composer_kd.deploy import Inference, to_onnx, to_torch_export
from composer_kd.errors import ConfigError
from composer_kd.models import DeepCNN, ImageRNN, ShallowCNN, resnet20, resnet56, torchvision_model
from tests.deploy import tiny

DIGITS = {'in_channels': 1, 'image_size': 8, 'num_classes': 10}
SLOW = pytest.mark.slow


def images(n, channels=1, size=8):
    return (torch.randn(n, channels, size, size),)


def coloured(n):
    return images(n, 3, 32)


IMAGE_MODELS = [
    pytest.param(lambda: ShallowCNN(**DIGITS), images, marks=SLOW),
    pytest.param(lambda: ImageRNN(hidden_size=8, **DIGITS), images, id='lstm'),
    pytest.param(lambda: ImageRNN(hidden_size=8, cell='gru', bidirectional=True, **DIGITS), images, marks=SLOW),
    pytest.param(lambda: DeepCNN(**DIGITS), images, marks=SLOW),
    pytest.param(resnet20, coloured, marks=SLOW),
    pytest.param(resnet56, coloured, marks=SLOW),
    pytest.param(lambda: torchvision_model('resnet18', num_classes=10), coloured, marks=SLOW),
]


def opened_onnx(file):
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    names = [one.name for one in session.get_inputs()]
    return lambda *inputs: torch.from_numpy(
        session.run(['logits'], {name: tensor.numpy() for name, tensor in zip(names, inputs)})[0]
    )


def opened_export(file):
    return torch.export.load(file).module()


FORMATS = [pytest.param(to_onnx, opened_onnx, 'm.onnx', id='onnx')]
FORMATS += [pytest.param(to_torch_export, opened_export, 'm.pt2', id='export')]


@pytest.mark.parametrize(('write', 'read', 'name'), FORMATS)
@pytest.mark.parametrize(('build', 'inputs'), IMAGE_MODELS)
def test_image_models_of_any_batch_size(build, inputs, write, read, name, tmp_path):
    model = build().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    write(model, inputs(2), tmp_path / name)
    answer = read(tmp_path / name)
    with torch.no_grad():
        for n in (1, 2, 7, 33):
            samples = inputs(n)
            torch.testing.assert_close(answer(*samples), model(*samples), rtol=1e-4, atol=1e-4)
    assert [file.name for file in tmp_path.iterdir()] == [name]  # the weights are inside
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@SLOW
@pytest.mark.parametrize(('write', 'read', 'name'), FORMATS)
@pytest.mark.parametrize('build', [tiny.bert_module, tiny.gpt2_module])
def test_transformers_of_any_batch_size_and_length(build, write, read, name, tmp_path):
    batch = {**tiny.tokens(2), 'labels': torch.tensor([0, 1])}
    model = Inference(build(), batch)
    write(model, model.inputs_of(batch), tmp_path / name)
    answer = read(tmp_path / name)
    with torch.no_grad():
        for n, length in ((1, 9), (2, 9), (7, 5), (3, 20)):
            samples = model.inputs_of(tiny.tokens(n, length, seed=1))
            torch.testing.assert_close(answer(*samples), model(*samples), rtol=1e-4, atol=1e-4)


def test_onnx_inputs_and_outputs_have_names(tmp_path):
    import onnx

    to_onnx(nn.Linear(4, 3).eval(), (torch.zeros(1, 4),), tmp_path / 'm.onnx', ['pixels'])
    graph = onnx.load(tmp_path / 'm.onnx').graph
    (one,), (answer,) = graph.input, graph.output
    assert (one.name, answer.name) == ('pixels', 'logits')
    assert [size.dim_param or size.dim_value for size in one.type.tensor_type.shape.dim] == ['batch', 4]
    assert answer.type.tensor_type.shape.dim[0].dim_param == 'batch'
    with pytest.raises(ConfigError, match='input_names: expected one for each of 1'):
        to_onnx(nn.Linear(4, 3), (torch.zeros(2, 4),), tmp_path / 'm.onnx', ['a', 'b'])


@pytest.mark.parametrize(('write', 'read', 'name'), FORMATS)
def test_files_hold_neither_data_nor_paths(write, read, name, tmp_path):
    secret = torch.full((2, 4), 1234.5)
    write(Inference(nn.Linear(4, 3), secret), (secret,), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    assert secret.numpy().tobytes() not in content
    assert b'/composer_kd/deploy/' not in content


def test_a_model_in_training_is_left_so_and_exported_in_eval_mode(tmp_path):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).train()
    to_torch_export(model, (torch.zeros(2, 4),), tmp_path / 'm.pt2')
    assert model.training
    x = torch.randn(5, 4)
    torch.testing.assert_close(opened_export(tmp_path / 'm.pt2')(x), model[0](x))


def test_nothing_is_printed(tmp_path, capfd):
    to_onnx(nn.Linear(4, 3).eval(), (torch.zeros(2, 4),), tmp_path / 'm.onnx')
    to_torch_export(nn.Linear(4, 3).eval(), (torch.zeros(2, 4),), tmp_path / 'm.pt2')
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('write', [to_onnx, to_torch_export])
def test_what_cannot_be_exported_is_said(write, tmp_path):
    with pytest.raises(ConfigError, match=r'torch\.export cannot trace this model: \w+'):
        write(tiny.Branching(), (torch.randn(2, 4),), tmp_path / 'm')
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ConfigError, match=r"onnxscript.*pip install 'composer_kd\[onnx\]'"):
        to_onnx(nn.Linear(4, 3), (torch.zeros(2, 4),), tmp_path / 'm.onnx')


def test_any_number_of_models_is_exported_by_one_process(tmp_path):
    for classes in range(1, 12):
        to_torch_export(nn.Linear(4, classes).eval(), (torch.zeros(2, 4),), tmp_path / f'{classes}.pt2')
        program = torch.export.load(tmp_path / f'{classes}.pt2')
        assert program.module()(torch.zeros(5, 4)).shape == (5, classes)
