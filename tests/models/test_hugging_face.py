"""Models of transformers for Composer: where they come from, what is random in them, and what they measure."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torch.utils.data import DataLoader

from composer_kd import ConfigError, Distillation, KLDivergence, Match, TeacherError
from composer_kd.losses import mse
from composer_kd.models import hf_causal_lm, hf_classifier, hf_masked_lm, hf_seq2seq
from composer_kd.models.hugging_face_build import untrained
from composer_kd.models.text_metrics import CLASSES, metrics_of
from tests.helpers import TokenDataset, train
from tests.texts import TINY, VOCABULARY, save_model, save_tokenizer

transformers = pytest.importorskip('transformers')


def tiny(**settings):
    return hf_classifier(architecture='bert', config={**TINY, 'vocab_size': 30}, **settings)


def ids(count=8, length=6):
    return torch.randint(1, 30, (count, length), generator=torch.Generator().manual_seed(1))


def evaluated(model, labels):
    """The metrics over two batches, and the logits."""
    model.eval()
    found = []
    for part in (slice(0, 5), slice(5, None)):
        batch = {'input_ids': ids(len(labels))[part], 'labels': labels[part]}
        logits = model.eval_forward(batch)
        found.append(logits)
        for metric in model.get_metrics().values():
            model.update_metric(batch, logits, metric)
    return {name: float(one.compute()) for name, one in model.get_metrics().items()}, torch.cat(found).detach().numpy()


def test_weights_configuration_and_tokenizer_come_from_a_folder(tmp_path):
    folder = save_model(tmp_path / 'bert', num_labels=3)
    model = hf_classifier(folder)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    assert all(torch.equal(*pair) for pair in zip(model.model.parameters(), theirs.parameters()))
    assert model.config.num_labels == 3
    assert len(model.tokenizer) == VOCABULARY
    assert untrained(model) == []


def test_an_architecture_has_random_weights_and_a_folder_may_say_its_sizes(tmp_path):
    folder = save_model(tmp_path / 'bert')
    model = hf_classifier(architecture=folder, config={'num_hidden_layers': 1})
    saved = hf_classifier(folder)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (1, TINY['hidden_size'])
    word = 'bert.embeddings.word_embeddings.weight'
    assert not torch.equal(model.model.get_parameter(word), saved.model.get_parameter(word))
    assert len(model.tokenizer) == VOCABULARY


def test_fewer_layers_are_those_next_to_the_input(tmp_path):
    folder = save_model(tmp_path / 'bert')
    one, both = hf_classifier(folder, config={'num_hidden_layers': 1}), hf_classifier(folder)
    name = 'bert.encoder.layer.0.output.dense.weight'
    assert torch.equal(one.model.get_parameter(name), both.model.get_parameter(name))


@pytest.mark.parametrize('classes', [2, 3])
def test_metrics_of_classes(classes):
    torch.manual_seed(0)
    y = torch.arange(11) % classes
    found, logits = evaluated(tiny(num_labels=classes), y.clone())
    predicted = logits.argmax(1)
    names = {2: ('BinaryF1Score', 'binary'), 3: ('MulticlassF1Score', 'macro')}[classes]
    assert found['MulticlassAccuracy'] == pytest.approx(metrics.accuracy_score(y, predicted))
    assert found[names[0]] == pytest.approx(metrics.f1_score(y, predicted, average=names[1]), abs=1e-6)
    assert found['MatthewsCorrCoef'] == pytest.approx(metrics.matthews_corrcoef(y, predicted), abs=1e-6)
    logs = torch.from_numpy(logits).log_softmax(1)
    assert found['CrossEntropy'] == pytest.approx(-float(logs.gather(1, y[:, None]).mean()), rel=1e-5)


@pytest.mark.parametrize('constant', ['predictions', 'labels'])
def test_the_correlation_of_constants_is_0(constant):
    metric = metrics_of(CLASSES, ['mcc'], 2)[0]
    mixed, same = torch.tensor([0] * 8 + [1] * 4), torch.zeros(12, dtype=torch.long)
    metric.update(*((same, mixed) if constant == 'predictions' else (mixed, same)))
    assert metric.compute() == 0


def test_metrics_of_a_regression_and_its_loss():
    torch.manual_seed(0)
    y = torch.rand(11)
    model = tiny(problem='regression')
    found, answers = evaluated(model, y.clone())
    assert found['PearsonCorrCoef'] == pytest.approx(np.corrcoef(y, answers)[0, 1], abs=1e-5)
    ranks = [np.argsort(np.argsort(one)) for one in (y.numpy(), answers)]
    assert found['SpearmanCorrCoef'] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-5)
    assert found['MeanSquaredError'] == pytest.approx(float(((answers - y.numpy()) ** 2).mean()), rel=1e-5)
    batch = {'input_ids': ids(11), 'labels': y}
    assert float(model.loss(model(batch), batch)) == pytest.approx(found['MeanSquaredError'], rel=1e-5)


def test_metrics_of_several_labels_read_logits_as_logits():
    torch.manual_seed(0)
    y = torch.randint(2, (11, 3)).float()
    model = tiny(problem='multi_label', num_labels=3)
    model.model.classifier.bias.data.copy_(torch.tensor([0.3, 0.4, -0.2]))
    model.model.classifier.weight.data.mul_(0.1)  # all logits of some batches lie between 0 and 1
    found, logits = evaluated(model, y.clone())
    each = ((logits > 0) == y.numpy()).mean(0)
    assert found['LabelAccuracy'] == pytest.approx(each.mean())
    assert found['LabelF1'] == pytest.approx(metrics.f1_score(y, logits > 0, average='macro', zero_division=0))


def test_language_models_and_their_metrics():
    words = torch.randint(1, 30, (3, 7))
    torch.manual_seed(0)
    causal = hf_causal_lm(architecture='gpt2', config={'n_embd': 8, 'n_layer': 1, 'n_head': 2, 'vocab_size': 30}).eval()
    masked = hf_masked_lm(architecture='bert', config={**TINY, 'vocab_size': 30}).eval()
    small = {'d_model': 8, 'd_kv': 4, 'd_ff': 8, 'num_layers': 1, 'num_heads': 2, 'vocab_size': 30}
    seq2seq = hf_seq2seq(architecture='t5', config={**small, 'decoder_start_token_id': 0}).eval()
    some = words.where(torch.arange(7) % 3 == 1, -100)
    for model, labels in ((causal, words), (masked, some), (seq2seq, words[:, :4])):
        batch = {'input_ids': words, 'labels': labels.clone()}
        expected = float(model.loss(model(batch), batch))
        logits = model.eval_forward(batch)
        for metric in model.get_metrics().values():
            model.update_metric(batch, logits, metric)
        assert float(model.get_metrics()['LanguageCrossEntropy'].compute()) == pytest.approx(expected, rel=1e-5)
        assert not model.config.use_cache or model is masked
    assert causal.shift_labels
    assert not masked.shift_labels


def test_maps_of_attention_are_had_without_a_further_setting():
    batch = {'input_ids': ids(), 'labels': torch.zeros(8, dtype=torch.long)}
    model = hf_classifier(architecture='bert', config={**TINY, 'vocab_size': 30, 'output_attentions': True})
    assert model(batch).attentions[0].shape == (8, 2, 6, 6)


@pytest.mark.parametrize(
    ('settings', 'said'),
    [
        ({}, 'pretrained: give the folder of a model'),
        ({'architecture': 'bert', 'pretrained': 'x'}, 'got both'),
        ({'architecture': 'bert', 'config': {'hiden_size': 8}}, "no such value; did you mean 'hidden_size'"),
        ({'architecture': 'bert', 'config': {'attn_implementation': 'a/kernel'}}, 'is the option attention'),
        ({'architecture': 'bert', 'config': {'auto_map': {}}}, 'never run'),
        ({'architecture': 'bert', 'attention': 'owner/kernel'}, 'not run'),
        ({'architecture': 'bert', 'attention': 'sdpa', 'config': {'output_attentions': True}}, 'expected eager'),
        ({'architecture': 'bert', 'config': {'num_attention_heads': 7}}, 'not a multiple'),
        ({'architecture': 't5-like/a/b'}, 'there is no folder'),
        ({'pretrained': 'package:no_such_package/model'}, 'pip install no-such-package'),
        ({'architecture': 'bert', 'labels': ['a', 'a']}, 'different names'),
        ({'architecture': 'bert', 'labels': ['a', 'b'], 'num_labels': 3}, 'leave one out'),
        ({'architecture': 'bert', 'num_labels': 1}, 'one output is problem: regression'),
        ({'architecture': 'bert', 'num_labels': 3, 'problem': 'regression'}, 'one output, got 3'),
        ({'architecture': 'bert', 'problem': 'ranking'}, 'expected one of'),
        ({'architecture': 'bert', 'config': TINY, 'metrics': ['pearson']}, "no 'pearson'"),
    ],
)
def test_bad_settings(settings, said):
    with pytest.raises(ConfigError, match=said):
        hf_classifier(**settings)


def test_a_hub_that_cannot_be_reached_is_answered_with_a_folder(monkeypatch):
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(ConfigError, match=r'Give the folder of a model instead; .*hf download owner/none-such --local'):
        hf_classifier('owner/none-such')
    with pytest.raises(ConfigError, match="did you mean 'bert'"):
        hf_classifier(architecture='bertt')


def test_code_that_comes_with_a_model_is_never_run(tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "odd", "auto_map": {"AutoConfig": "evil.Config"}}')
    (tmp_path / 'evil.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    with pytest.raises(ConfigError, match='cannot be loaded'):
        hf_classifier(str(tmp_path))
    assert not (tmp_path / 'ran').exists()


def test_weights_that_do_not_fit_and_classes_in_another_order(tmp_path):
    folder = save_model(tmp_path / 'bert', id2label={0: 'no', 1: 'yes'})
    with pytest.raises(ConfigError, match='do not fit the configuration'):
        hf_classifier(folder, config={'num_hidden_layers': 3})
    with pytest.raises(ConfigError, match='do not fit the configuration'):
        hf_classifier(folder, config={'intermediate_size': 4})
    with pytest.raises(ConfigError, match=r"another order, \['no', 'yes'\]"):
        hf_classifier(folder, labels=['yes', 'no'])
    other = save_tokenizer(tmp_path / 'more', [f'word{number}' for number in range(99)])
    with pytest.raises(ConfigError, match=r'has 104 tokens, and .* has embeddings for 23'):
        hf_classifier(folder, tokenizer=other)


def distilled(student, teacher, loss):
    data = TokenDataset(input_ids=ids() % VOCABULARY, labels=torch.arange(8) % 2)
    return train(student, DataLoader(data, batch_size=8), [Distillation(teacher, loss)])


def test_a_teacher_with_a_random_head_is_refused_until_it_is_trained(tmp_path):
    folder = save_model(tmp_path / 'body', 'BertModel')
    student, teacher = (hf_classifier(folder) for _ in range(2))
    assert untrained(teacher) == ['classifier.bias', 'classifier.weight'] or len(untrained(teacher)) == 2
    with pytest.raises(TeacherError, match=r'random weights.* classifier\.bias.*Fine-tune it first'):
        distilled(student, teacher, KLDivergence(2.0))
    distilled(student, teacher, [Match(mse, on='model.bert.encoder.layer.1.output')])  # its body was trained
    data = TokenDataset(input_ids=ids() % VOCABULARY, labels=torch.arange(8) % 2)
    teacher.requires_grad_(True)
    train(teacher, DataLoader(data, batch_size=8))
    assert untrained(teacher) == []
    distilled(student, teacher, KLDivergence(2.0))


def test_what_is_random_is_logged_in_a_line_and_weights_are_not_listed(tmp_path, caplog, capfd):
    folder = save_model(tmp_path / 'body', 'BertModel')
    with caplog.at_level('INFO'):
        hf_classifier(folder, config={'num_hidden_layers': 1})
    said = [record.getMessage() for record in caplog.records if 'body' in record.getMessage()]
    assert said[0] == f'{folder} has no classifier.bias, classifier.weight: random until trained'
    assert said[1].startswith('16 weights of ')
    assert 'encoder.layer.1' not in capfd.readouterr().err


def built(seed=0, layers=2, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = transformers.BertConfig(
            vocab_size=30, num_labels=3, **{**TINY, 'num_hidden_layers': layers}, **settings
        )
        return transformers.BertForSequenceClassification(config)


def test_models_of_transformers_teach_and_learn_as_they_are():
    student, teacher = built(1, layers=1), built()
    model = hf_classifier(student)
    assert model.model is student
    data = DataLoader(TokenDataset(input_ids=ids(), labels=torch.arange(8) % 3), 8)
    before = student.classifier.weight.detach().clone()
    run = train(model, data, [Distillation(teacher, KLDivergence(2.0), run_teacher_on_eval=True)], eval_dataloader=data)
    assert not torch.equal(before, student.classifier.weight)
    assert run.state.eval_metric_values['MulticlassAccuracy'] >= 0


def test_a_model_that_is_built_already_is_not_changed():
    for options, message in (
        ({'config': {'num_hidden_layers': 1}}, 'config: BertForSequenceClassification is built already'),
        ({'num_labels': 2}, 'num_labels: BertForSequenceClassification has 3'),
        ({'architecture': 'bert'}, 'got both'),
    ):
        with pytest.raises(ConfigError, match=message):
            hf_classifier(built(), **options)
    with pytest.raises(
        ConfigError, match='expected a model of AutoModelForCausalLM, got BertForSequenceClassification'
    ):
        hf_causal_lm(built())
