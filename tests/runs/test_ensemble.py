"""The mean of the probabilities of several models, for classes, tokens and pixels."""

import pytest
import torch
import transformers
from composer.metrics import LanguageCrossEntropy
from composer.models import ComposerClassifier, HuggingFaceModel
from torch import nn

from composer_kd.errors import ConfigError
from composer_kd.runs.ensemble import Ensemble
from tests.helpers import mlp, pairs, student


def mean_of(logits, dim):
    return torch.stack([one.double().softmax(dim) for one in logits]).mean(0)


def test_classes():
    nets = [mlp(seed=seed).eval() for seed in range(3)]
    x, y = pairs(16)
    both = Ensemble([student(net) for net in nets]).eval()
    expected = mean_of([net(x) for net in nets], 1)
    torch.testing.assert_close(both.eval_forward((x, y)).double().softmax(1), expected)
    torch.testing.assert_close(both((x, y)).exp().double(), expected)
    (metric,) = both.get_metrics().values()
    both.update_metric((x, y), both.eval_forward((x, y)), metric)
    assert metric.compute() == pytest.approx(float((expected.argmax(1) == y).double().mean()))


def test_pixels():
    nets = [nn.Conv2d(3, 5, 1) for _ in range(2)]
    x, y = torch.randn(2, 3, 4, 4), torch.randint(5, (2, 4, 4))
    both = Ensemble([ComposerClassifier(net, num_classes=5) for net in nets])
    torch.testing.assert_close(both((x, y)).softmax(1).double(), mean_of([net(x) for net in nets], 1))


def test_tokens_whose_labels_are_shifted_once():
    config = transformers.GPT2Config(vocab_size=17, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    nets = [transformers.GPT2LMHeadModel(config).eval() for _ in range(2)]
    models = [HuggingFaceModel(net, eval_metrics=[LanguageCrossEntropy()], use_logits=True) for net in nets]
    ids = torch.randint(17, (3, 8))
    batch = {'input_ids': ids, 'labels': ids.clone()}
    both = Ensemble(models)
    logits = both.eval_forward(batch)
    (metric,) = both.get_metrics().values()
    both.update_metric(batch, logits, metric)
    expected = mean_of([net(ids).logits for net in nets], 2)[:, :-1].gather(2, ids[:, 1:, None]).log().mean()
    assert float(metric.compute()) == pytest.approx(-float(expected), rel=1e-5)


def test_models_without_classes_are_refused():
    config = transformers.BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=3,
        problem_type='multi_label_classification',
    )  # fmt: skip
    ids = torch.randint(11, (2, 4))
    for labels, kind, count in ((torch.rand(2, 3), 'multi_label_classification', 3), (torch.rand(2), 'regression', 1)):
        config.problem_type, config.num_labels = kind, count
        net = transformers.BertForSequenceClassification(config).eval()
        both = Ensemble([HuggingFaceModel(net, use_logits=True)] * 2)
        with pytest.raises(ConfigError, match='averages probabilities over classes'):
            both.eval_forward({'input_ids': ids, 'labels': labels})
    with pytest.raises(ConfigError, match='at least one model'):
        Ensemble([])
