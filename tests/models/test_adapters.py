"""Adapters of peft in models of transformers: what trains, what is saved and exported, and what is refused."""

import json

import pytest
import torch
from torch.utils.data import DataLoader

from composer_kd import BaseModelTeacher, ConfigError, Distillation, OnPolicy
from composer_kd.config.load import load_config
from composer_kd.losses import ReverseKL
from composer_kd.models import hf_causal_lm, hf_classifier, hf_masked_lm, hf_seq2seq
from composer_kd.models.adapters import merged
from composer_kd.models.hugging_face_build import untrained
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from composer_kd.workflows.export.export import export_run
from tests.helpers import TokenDataset
from tests.helpers import train as fit
from tests.texts import TINY, VOCABULARY, run_yaml, save_model, save_sst2

transformers = pytest.importorskip('transformers')
pytest.importorskip('peft')
LORA = {'name': 'lora', 'r': 2, 'lora_alpha': 8}


def saved(folder, kind, config):
    config.save_pretrained(folder)
    getattr(transformers, kind)(config).save_pretrained(folder)
    return str(folder)


def trained_names(model):
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def test_adapters_and_a_new_head_train_and_the_rest_is_frozen(tmp_path):
    folder = save_model(tmp_path / 'bert', kind='BertModel')
    model = hf_classifier(folder, labels=['no', 'yes'], peft=LORA)
    names = trained_names(model)
    assert sum('lora_' in name for name in names) == 8
    assert [name.rpartition('.')[2] for name in names if 'classifier.modules_to_save' in name] == ['weight', 'bias']
    assert len(names) == 10
    assert len(untrained(model)) == 2
    with torch.no_grad():
        model.model.get_parameter(untrained(model)[0]).add_(1)
    assert untrained(model) == []


@pytest.mark.parametrize('name', ['lora', 'loha', 'lokr', 'ia3', 'oft', 'vera'])
def test_merged_models_answer_as_those_with_adapters(tmp_path, name):
    folder = save_model(tmp_path / 'bert')
    layers = {} if name in ('lora', 'ia3') else {'target_modules': ['query', 'value']}
    model = hf_classifier(folder, peft={'name': name, **layers}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and 'classifier' not in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    batch = {'input_ids': torch.randint(1, VOCABULARY, (3, 5)), 'labels': torch.tensor([0, 1, 0])}
    before, plain = model(dict(batch)).logits, hf_classifier(folder).eval()(dict(batch)).logits
    assert (before - plain).abs().max() > 1e-4
    after = merged(model)(dict(batch)).logits
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert type(model.model).__name__ == 'BertForSequenceClassification'


def test_language_models_take_adapters(tmp_path):
    gpt2 = transformers.GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2)
    t5 = transformers.T5Config(vocab_size=11, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    bert = transformers.BertConfig(vocab_size=11, **TINY)
    for build, kind, config in (
        (hf_causal_lm, 'GPT2LMHeadModel', gpt2),
        (hf_seq2seq, 'T5ForConditionalGeneration', t5),
        (hf_masked_lm, 'BertForMaskedLM', bert),
    ):
        model = build(saved(tmp_path / kind, kind, config), peft=LORA)
        assert all('lora_' in name for name in trained_names(model))
        assert model.shift_labels == (build is hf_causal_lm)


@pytest.mark.parametrize(
    ('written', 'message'),
    [
        ({'name': 'lorra'}, "'lorra'; did you mean 'lora'"),
        ({'name': 'prompt_tuning'}, 'peft.name: expected one of'),
        ({'r': 4}, 'peft.name'),
        ({'name': 'lora', 'alpha': 4}, "peft.alpha: LoraConfig has no such option; did you mean 'lora_alpha'"),
        ({'name': 'lora', 'target_modules': ['nowhere']}, '(?i)target.modules'),
        ({'name': 'lora', 'task_type': 'CAUSAL_LM'}, 'peft.task_type'),
    ],
)
def test_wrong_settings_are_refused(tmp_path, written, message):
    with pytest.raises(ConfigError, match=message):
        hf_classifier(save_model(tmp_path / 'bert'), peft=written)


@pytest.mark.parametrize(
    'written', [{'target_modules': ['wte', 'c_attn']}, {'modules_to_save': ['lm_head']}, {'modules_to_save': ['wte']}]
)
def test_adapters_of_a_tied_weight_are_refused(tmp_path, written):
    sizes = {'vocab_size': 11, 'n_embd': 8, 'n_layer': 1, 'n_head': 2}
    tied, untied = (
        saved(tmp_path / str(tie), 'GPT2LMHeadModel', transformers.GPT2Config(**sizes, tie_word_embeddings=tie))
        for tie in (True, False)
    )
    with pytest.raises(ConfigError, match=r"lm_head.weight' are one weight .*leave .* out of target_modules"):
        hf_causal_lm(tied, peft={**LORA, **written})
    model = hf_causal_lm(untied, peft={**LORA, **written}).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    tokens = torch.randint(0, 11, (3, 5))
    before = model({'input_ids': tokens}).logits
    torch.testing.assert_close(merged(model)({'input_ids': tokens}).logits, before, rtol=1e-3, atol=1e-3)


def test_a_tied_weight_with_adapters_of_the_users_is_not_merged():
    import peft

    config = transformers.GPT2Config(vocab_size=11, n_embd=8, n_layer=1, n_head=2)
    net = peft.get_peft_model(
        transformers.GPT2LMHeadModel(config), peft.LoraConfig(r=2, target_modules=['wte'], task_type='CAUSAL_LM')
    )
    with pytest.raises(ConfigError, match='are one weight'):
        merged(hf_causal_lm(net))


def test_random_weights_are_not_frozen(tmp_path):
    with pytest.raises(ConfigError, match='give pretrained'):
        hf_classifier(architecture='bert', config={**TINY, 'vocab_size': 9}, peft=LORA)
    folder = save_model(tmp_path / 'bert', kind='BertModel')
    with pytest.raises(ConfigError, match=r'would be frozen.*modules_to_save'):
        hf_masked_lm(folder, peft=LORA)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_sst2(tmp_path)
    save_model(tmp_path / 'bert', id2label={0: 'negative', 1: 'positive'})
    return tmp_path


def written(place, **changes):
    model = {'name': 'hf_classifier', 'pretrained': 'bert', 'peft': LORA}
    losses = [
        {'name': 'KLDivergence', 'temperature': 2.0},
        {'loss': {'name': 'hint'}, 'on': 'bert.encoder.layer.1[0]', 'project': 'auto'},
    ]
    distillation = {'teachers': [{'name': 'BaseModelTeacher'}], 'kd_loss_fn': losses}
    return run_yaml(place, **{'model': model, 'algorithms': {'distillation': distillation}, **changes})


def test_a_run_with_its_base_as_the_teacher_is_resumed_evaluated_and_exported(place):
    file = written(place)
    metrics = train(load_config(file, ['run_name=straight']), quiet=True)
    train(load_config(file, ['run_name=parts', 'max_duration=4ba', 'save_interval=1ba']), quiet=True)
    train(load_config(file, ['run_name=parts', 'autoresume=true', 'save_interval=1ba']), quiet=True)
    ours, theirs = (
        torch.load(place / 'runs' / name / 'latest-rank0.pt', weights_only=False)['state']['model']
        for name in ('straight', 'parts')
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    base = transformers.AutoModelForSequenceClassification.from_pretrained('bert')
    kept = 'bert.encoder.layer.0.output.dense.weight'
    assert torch.equal(ours[f'model.base_model.model.{kept}'], base.get_parameter(kept))

    save_model(place / 'bert', seed=5, id2label={0: 'negative', 1: 'positive'})  # the folder holds another model now
    assert evaluate(place / 'runs' / 'straight').metrics['metrics/eval/CrossEntropy'] == pytest.approx(
        metrics['metrics/eval/CrossEntropy'], rel=1e-5
    )
    export_run(place / 'runs' / 'straight', ['huggingface', 'state-dict'])
    exported = place / 'runs' / 'straight' / 'export'
    assert 'adapter_config.json' not in {one.name for one in (exported / 'huggingface').iterdir()}
    assert 'peft' not in json.loads((exported / 'huggingface' / 'config.json').read_text())
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(exported / 'huggingface').eval()
    student = open_run(place / 'runs' / 'straight').model()
    batch = {'input_ids': torch.randint(5, VOCABULARY, (4, 6)), 'attention_mask': torch.ones(4, 6, dtype=torch.long)}
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, student.model(**batch).logits, rtol=1e-4, atol=1e-5)


def test_a_student_with_adapters_learns_from_another_model(place):
    teacher = {'model': {'name': 'hf_classifier', 'pretrained': 'bert'}}
    loss = {'name': 'KLDivergence', 'temperature': 2.0}
    file = written(place, algorithms={'distillation': {'teachers': [teacher], 'kd_loss_fn': loss}}, max_duration='1ba')
    train(load_config(file, ['run_name=lora']), quiet=True)
    assert (place / 'runs' / 'lora' / 'latest-rank0.pt').is_file()


def test_a_student_with_adapters_writes_texts_and_its_base_answers(tmp_path):
    config = transformers.GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=2, n_positions=16, eos_token_id=1)
    net = hf_causal_lm(saved(tmp_path / 'gpt2', 'GPT2LMHeadModel', config), peft=LORA)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if 'lora_B' in name:
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(2, 12, (8, 6), generator=torch.Generator().manual_seed(0))
    algorithm = Distillation(BaseModelTeacher(), ReverseKL(), 1.0, 0.0, on_policy=OnPolicy(1.0, 4, prompt_length=3))
    run = fit(net, DataLoader(TokenDataset(input_ids=tokens, labels=tokens), 8), [algorithm])
    assert torch.equal(run.state.batch['input_ids'][:, :3], tokens[:, :3])
    assert float(run.state.loss['kd']) > 0
    assert all(parameter.requires_grad == ('lora_' in name) for name, parameter in net.named_parameters())
