import onnxruntime
import pytest
import torch
from composer.models import ComposerClassifier, ComposerModel
from torch import nn

from composer_kd import NormalizationAdapter
from composer_kd.deploy import Inference
from composer_kd.deploy.exporter import export
from composer_kd.deploy.targets import TARGETS, Student
from composer_kd.errors import ConfigError
from composer_kd.models import ImageRNN, IndexedClassifier, ShallowCNN
from tests.deploy import tiny
from tests.helpers import TokenModel, mlp, pairs


def test_a_classifier_is_its_bare_module_in_eval_mode():
    x, y = pairs()
    for wrapper in (ComposerClassifier, IndexedClassifier):
        model = wrapper(mlp(dropout=0.5), num_classes=4).train()
        inference = Inference(model, (x, y))
        assert inference.model is model.module
        assert torch.equal(inference(*inference.inputs_of((x, y))), model.module.eval()(x))


def test_an_index_and_labels_are_no_inputs():
    x, y = pairs()
    inference = Inference(IndexedClassifier(mlp(), num_classes=4), (x, y, torch.arange(24)))
    assert inference.input_names == ['inputs']
    assert inference.inputs_of((x, y, torch.arange(24)))[0] is x


def test_a_transformer_takes_its_tensors_by_name():
    batch = {'labels': torch.zeros(3, dtype=torch.long), 'index': torch.arange(3), **tiny.tokens(3)}
    inference = Inference(tiny.bert(), batch)
    assert inference.input_names == ['input_ids', 'attention_mask']
    expected = tiny.bert_module()
    expected.load_state_dict(inference.model.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(inference(*inference.inputs_of(batch)), expected(**tiny.tokens(3)).logits)


def test_an_encoder_decoder_reads_what_it_makes_of_the_labels(tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {'num_layers': 1, 'd_model': 16, 'd_kv': 8, 'd_ff': 32, 'num_heads': 2}
    model = T5ForConditionalGeneration(T5Config(vocab_size=tiny.WORDS, decoder_start_token_id=0, **sizes)).eval()
    labels = torch.tensor([[3, 4, 5, 1], [6, 1, -100, -100], [7, 8, 1, -100]])
    batch = {**tiny.tokens(3), 'labels': labels}
    inference = Inference(model, batch)
    assert inference.input_names == ['input_ids', 'attention_mask', 'decoder_input_ids']
    with torch.no_grad():
        torch.testing.assert_close(inference(*inference.inputs_of(batch)), model(**batch).logits)
    assert set(batch) == {'input_ids', 'attention_mask', 'labels'}
    student = Student(inference, batch, [inference.inputs_of(batch)], fresh=lambda: model)
    for name in ('huggingface', 'onnx'):
        assert export(student, TARGETS[name], tmp_path / name).verification.passed
    session = onnxruntime.InferenceSession(tmp_path / 'onnx' / 'model.onnx', providers=['CPUExecutionProvider'])
    assert [one.shape[1] for one in session.get_inputs()] == ['sequence', 'sequence', 'decoder_sequence']


def test_a_module_that_takes_one_tensor_of_a_mapping():
    inference = Inference(nn.Linear(4, 2), {'pixels': torch.zeros(2, 4), 'labels': torch.zeros(2)})
    assert inference.inputs_of({'pixels': torch.ones(1, 4), 'labels': torch.zeros(1)})[0].shape == (1, 4)


def test_a_module_that_takes_any_keyword_gets_the_tensors_by_name():
    batch = {**tiny.Measured().columns, 'name': ['a'] * 24}
    inference = Inference(tiny.Keywords(), batch)
    assert inference.input_names == ['left', 'right']
    expected = mlp(seed=3)(pairs()[0])
    torch.testing.assert_close(inference(*inference.inputs_of(batch)), expected)


def test_a_compiled_module_is_called_as_the_module_in_it():
    batch = tiny.Measured().columns

    class Named(nn.Module):
        def forward(self, right):
            return right.square()

    compiled = torch.compile(Named(), backend='eager')
    assert Inference(compiled, batch).input_names == ['right']


def test_a_module_of_batches_gets_a_bare_tensor_as_it_is():
    class OfTensors(nn.Module):
        def forward(self, batch):
            return batch.flatten(1)

    assert Inference(OfTensors(), torch.zeros(2, 3, 3))(torch.zeros(4, 3, 3)).shape == (4, 9)


def test_a_module_of_batches_may_take_keywords_too():
    class Both(nn.Module):
        def forward(self, batch, **options):
            return batch['left'] + len(options)

    batch = tiny.Measured().columns
    inference = Inference(Both(), batch)
    assert torch.equal(inference(*inference.inputs_of(batch)), batch['left'])


def test_the_adapter_of_a_mapping_gets_a_mapping():
    batch = {'pixels': torch.ones(2, 4), 'labels': torch.zeros(2)}

    def doubled(inputs):
        return {key: 2 * value for key, value in inputs.items()}

    inference = Inference(nn.Flatten(), batch, doubled)
    assert torch.equal(inference(*inference.inputs_of(batch)), 2 * batch['pixels'])


def test_an_adapter_may_make_an_input_of_what_the_model_does_not_take():
    class Wants(nn.Module):
        def forward(self, left, both=None):
            return both

    def adapt(inputs):
        return {**inputs, 'both': inputs['left'] + inputs['right']}

    batch = tiny.Measured().columns
    inference = Inference(Wants(), batch, adapt)
    assert torch.equal(inference(*inference.inputs_of(batch)), batch['left'] + batch['right'])


def test_a_batch_without_an_input_is_refused():
    class Named(nn.Module):
        def forward(self, pixels):
            return pixels

    with pytest.raises(ConfigError, match=r"takes pixels, of which .* the keys \['labels', 'left', 'right'\]"):
        Inference(Named(), tiny.Measured().columns)


def test_an_adapter_changes_the_inputs_first():
    x = torch.rand(3, 1, 8, 8)
    model = ShallowCNN(in_channels=1, image_size=8, num_classes=10)
    adapt = NormalizationAdapter([0.5], [0.5], [0.0], [1.0])
    assert torch.equal(Inference(model, x, adapt)(x), model(adapt(x)))


def test_a_composer_model_of_ones_own_takes_the_batch():
    batch = torch.randn(2, 1, 8, 8), torch.zeros(2, dtype=torch.long)
    module = ImageRNN(in_channels=1, image_size=8, hidden_size=4, num_classes=10)

    class Own(TokenModel):
        def forward(self, batch):
            return module(batch[0])

    assert torch.equal(Inference(Own(), batch)(batch[0]), module(batch[0]))


def test_a_composer_model_of_ones_own_takes_the_whole_mapping():
    model, batch = TokenModel(), {'input_ids': torch.tensor([[1, 2], [3, 4]]), 'labels': torch.zeros(2, 2)}
    inference = Inference(model, batch)
    assert inference.input_names == ['input_ids']
    assert torch.equal(inference(*inference.inputs_of(batch)), model(batch))


def test_a_composer_model_gets_a_pair_also_of_data_without_labels():
    class Pairs(ComposerModel):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(3, 5)

        def forward(self, batch):
            inputs, _ = batch
            return self.net(inputs)

        def loss(self, outputs, batch):
            raise NotImplementedError

    model, inputs = Pairs(), torch.randn(2, 3)
    inference = Inference(model, inputs)
    torch.testing.assert_close(inference(*inference.inputs_of(inputs)), model.net(inputs))
    assert inference.arguments == '(inputs, None)'


def test_a_causal_language_model_predicts_the_next_token():
    transformers = pytest.importorskip('transformers')
    config = transformers.GPT2Config(vocab_size=11, n_embd=4, n_layer=1, n_head=1, n_positions=8)
    batch = {'input_ids': torch.zeros(1, 3, dtype=torch.long)}
    assert Inference(transformers.GPT2LMHeadModel(config), batch).predicts_next_token
    assert not Inference(transformers.GPT2ForSequenceClassification(config), batch).predicts_next_token
