import torch
from composer.models import ComposerClassifier
from torch import nn

from composer_kd import NormalizationAdapter
from composer_kd.deploy import Inference
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


def test_a_module_that_takes_one_tensor_of_a_mapping():
    inference = Inference(nn.Linear(4, 2), {'pixels': torch.zeros(2, 4), 'labels': torch.zeros(2)})
    assert inference.inputs_of({'pixels': torch.ones(1, 4), 'labels': torch.zeros(1)})[0].shape == (1, 4)


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
