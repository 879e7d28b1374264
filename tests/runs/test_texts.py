"""Runs on texts: trained, resumed, stored, evaluated; and what is refused before them."""

import json

import pytest
import torch

from composer_kd import Ensemble, models
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.errors import ConfigError, StoreError
from composer_kd.runs.compared import compared_models
from composer_kd.runs.evaluate import evaluate, evaluate_all
from composer_kd.runs.saved import open_run
from composer_kd.runs.train import train
from composer_kd.workflows.cache import cache
from composer_kd.workflows.export.export import export_run
from tests.data.test_aligned import letters
from tests.texts import TINY, run_yaml, save_jsonl, save_model, save_sst2, save_tokenizer, sentences

transformers = pytest.importorskip('transformers')


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_sst2(tmp_path)
    save_model(tmp_path / 'bert', id2label={0: 'negative', 1: 'positive'})
    return tmp_path


def weights(folder):
    return torch.load(folder / 'latest-rank0.pt', weights_only=False)['state']['model']


def test_a_run_resumes_bit_for_bit_and_is_evaluated(place):
    file = run_yaml(place)
    metrics = train(load_config(file, ['run_name=straight']), quiet=True)
    train(load_config(file, ['run_name=parts', 'max_duration=4ba', 'save_interval=1ba']), quiet=True)
    train(load_config(file, ['run_name=parts', 'autoresume=true', 'save_interval=1ba']), quiet=True)
    straight, parts = (weights(place / 'runs' / name) for name in ('straight', 'parts'))
    assert all(torch.equal(straight[name], parts[name]) for name in straight)
    found = evaluate(place / 'runs' / 'straight').metrics
    assert found['metrics/eval/MulticlassAccuracy'] == metrics['metrics/eval/MulticlassAccuracy']
    assert found['metrics/eval/CrossEntropy'] == pytest.approx(metrics['metrics/eval/CrossEntropy'], rel=1e-6)


def test_several_runs_are_evaluated_together(place, capsys):
    file = run_yaml(place, algorithms={}, max_duration='1ba')
    for name, seed in (('a', 1), ('b', 2)):
        train(load_config(file, [f'run_name={name}', f'seed={seed}']), quiet=True)
    first, second, both = evaluate_all(['runs/a', 'runs/b'], together=True)
    members = [open_run(place / 'runs' / name) for name in 'ab']
    (loader,) = [members[0].loader()]
    chosen, labels = [], []
    for batch in loader:
        inputs = {key: value for key, value in batch.items() if key != 'labels'}
        chosen += sum(one.model()(dict(inputs)).logits.softmax(1) for one in members).argmax(1).tolist()
        labels += batch['labels'].tolist()
    right = sum(one == other for one, other in zip(chosen, labels)) / len(labels)
    assert both.metrics['metrics/eval/MulticlassAccuracy'] == pytest.approx(right)
    assert both.parameters == first.parameters + second.parameters
    main(['evaluate', 'runs/a', 'runs/b', '--together'])
    assert 'together (2)' in capsys.readouterr().out


def test_an_ensemble_of_models_with_classes_in_other_orders(place):
    save_model(place / 'turned', id2label={0: 'positive', 1: 'negative'})
    with pytest.raises(ConfigError, match='classes in other orders'):
        Ensemble([models.hf_classifier('bert'), models.hf_classifier('turned')])


def test_microbatches_give_the_same_numbers(place):
    config = {'num_hidden_layers': 1, 'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0}
    file = run_yaml(place, model={'name': 'hf_classifier', 'pretrained': 'bert', 'config': config}, max_duration='3ba')
    whole = train(load_config(file, ['save_folder=null']), quiet=True)
    parts = train(load_config(file, ['save_folder=null', 'device_train_microbatch_size=3']), quiet=True)
    for name in ('loss/train/total', 'loss/train/task', 'loss/train/kd'):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)


@pytest.mark.parametrize('seed', [1, 2])
def test_microbatches_without_a_label_have_their_share_of_the_mean(place, seed):
    """Of eight samples two have a label, or none: alone, without a teacher, that is no NaN."""
    undropped = {'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0, 'num_hidden_layers': 1}
    file = run_yaml(
        place, model={'name': 'hf_classifier', 'pretrained': 'bert', 'config': undropped}, algorithms={},
        optimizer={'name': 'torch.optim.SGD', 'lr': 0.1},
    )  # fmt: skip
    few = ['train_loader.dataset.n_labels=4', f'train_loader.dataset.seed={seed}']
    for name, size in (('whole', 8), ('parts', 2), ('uneven', 3)):
        found = train(load_config(file, [*few, f'run_name={name}', f'device_train_microbatch_size={size}']), quiet=True)
        assert not [name for name, value in found.items() if value != value]
    whole, *others = (weights(place / 'runs' / name) for name in ('whole', 'parts', 'uneven'))
    for other in others:
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=1e-4)


def test_stored_answers_teach_like_the_teacher(place):
    file = run_yaml(place, max_duration='1ep')
    live = train(load_config(file, ['run_name=live']), quiet=True)
    cache(load_config(file), out=place / 'store')
    teachers = 'algorithms.distillation.teachers=[{cache: store}]'
    stored = train(load_config(file, ['run_name=stored', teachers]), quiet=True)
    assert stored['loss/train/kd'] == pytest.approx(live['loss/train/kd'], rel=2e-3)
    assert json.loads((place / 'runs' / 'stored' / 'metrics.json').read_text())['time/batch'] == 3


def refused(file, *overrides):
    with pytest.raises(ConfigError) as error:
        train(load_config(file, ['save_folder=null', *overrides]), quiet=True)
    return str(error.value)


def test_texts_that_are_not_meant_for_the_model(place):
    save_tokenizer(place / 'more', [f'word{number}' for number in range(99)])
    save_tokenizer(place / 'other', ['good', 'bad'])
    model = {'name': 'hf_classifier', 'architecture': 'bert', 'config': {**TINY, 'vocab_size': 50}}
    file = run_yaml(place, model=model, algorithms={})
    said = refused(file, 'train_loader.dataset.tokenizer=more')
    assert (
        'train_loader.dataset.tokenizer: has 104 tokens, and BertForSequenceClassification has embeddings for 50'
        in said
    )
    file = run_yaml(place, algorithms={})
    said = refused(file, 'train_loader.dataset.tokenizer=other')
    assert "is another than that of the model: 2 tokens have other numbers, such as 'good', 5 here and 12 there" in said
    model['config'].update(max_position_embeddings=7, vocab_size=23)
    said = refused(run_yaml(place, model=model, algorithms={}))
    assert 'its longest sample has 11 tokens, and BertForSequenceClassification takes 7' in said
    model = {'name': 'hf_classifier', 'pretrained': 'bert', 'num_labels': 3}
    assert "has 2 classes, ['negative', 'positive'], and the model 3 outputs" in refused(
        run_yaml(place, model=model, algorithms={})
    )
    model = {'name': 'hf_classifier', 'pretrained': 'bert', 'problem': 'regression'}
    assert 'the model one score (problem: regression)' in refused(run_yaml(place, model=model, algorithms={}))
    model = {'name': 'hf_classifier', 'pretrained': 'bert', 'problem': 'multi_label', 'num_labels': 2}
    assert 'leave model.problem out' in refused(run_yaml(place, model=model, algorithms={}))


def test_padding_that_moves_the_tokens_of_a_text_is_refused(place):
    words = transformers.AutoTokenizer.from_pretrained('bert', padding_side='left')
    words.save_pretrained('left')
    said = refused(run_yaml(place, algorithms={}), 'train_loader.dataset.tokenizer=left')
    assert 'train_loader.dataset.tokenizer: pads on the left, and BertForSequenceClassification counts' in said
    sizes = {'vocab_size': 23, 'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2}
    for architecture in ('llama', 'roberta'):
        model = {'name': 'hf_classifier', 'architecture': architecture, 'config': {**sizes, 'pad_token_id': 0}}
        file = run_yaml(place, model={**model, 'num_labels': 2}, algorithms={}, max_duration='1ba')
        load = [f'{loader}_loader.dataset.tokenizer=left' for loader in ('train', 'eval')]
        train(load_config(file, [f'run_name={architecture}', *load]), quiet=True)


def test_texts_on_which_layers_are_chosen_have_the_tokens_of_the_model(place):
    save_tokenizer(place / 'other', ['good', 'bad'])
    save_tokenizer(place / 'more', [f'word{number}' for number in range(99)])
    pretrained = {'name': 'hf_classifier', 'pretrained': 'bert'}
    data = {'name': 'glue', 'task': 'sst2', 'tokenizer': 'bert', 'root': '.', 'split': 'train'}
    cut = {'name': 'student_from_teacher', 'layers': 'importance', 'num_layers': 1, 'teacher': pretrained}
    file = run_yaml(place, model={**cut, 'data': {'dataset': data}}, algorithms={})
    assert train(load_config(file, ['max_duration=1ba']), quiet=True)
    said = refused(file, 'model.data.dataset.tokenizer=other')
    assert 'model: data.dataset.tokenizer: is another than that of the model: 2 tokens have other numbers' in said
    said = refused(file, 'model.data.dataset.tokenizer=more')
    assert 'data.dataset.tokenizer: has 104 tokens, and BertForSequenceClassification has embeddings for 23' in said


def test_labels_in_another_order_than_the_models(place):
    save_model(place / 'turned', id2label={0: 'Positive', 1: 'Negative'})
    model = {'name': 'hf_classifier', 'pretrained': 'turned'}
    file = run_yaml(place, model=model, algorithms={})
    said = refused(file)
    assert "another order; write labels: ['positive', 'negative'] beside the task" in said
    order = 'dataset.labels=[positive,negative]'
    train(load_config(file, ['save_folder=null', 'max_duration=1ba', f'train_loader.{order}', f'eval_loader.{order}']))


def test_scores_and_several_kinds_of_labels(place):
    rows = [{'sentence1': 'a film', 'sentence2': 'a good film', 'label': score / 4} for score in range(8)]
    for name in ('train', 'dev'):
        save_jsonl(place / 'glue' / 'STS-B' / f'{name}.jsonl', rows)
    data = ['train_loader.dataset.task=stsb', 'eval_loader.dataset.task=stsb', 'save_folder=null']
    model = {'name': 'hf_classifier', 'pretrained': 'bert', 'problem': 'regression'}
    file = run_yaml(place, model=model, algorithms={}, max_duration='1ep')
    assert 'metrics/eval/SpearmanCorrCoef' in train(load_config(file, [*data[:2], 'run_name=scores']), quiet=True)
    export_run('runs/scores', ['state-dict'])
    card = (place / 'runs' / 'scores' / 'export' / 'state-dict' / 'README.md').read_text()
    assert 'the answer: scores of shape (N, 1)\n' in card
    assert 'first:' not in card
    assert 'has scores for labels, and the model classes' in refused(run_yaml(place, algorithms={}), *data)


def of_language(place, objective, **changes):
    """The path of a YAML that trains a language model, taught by another one."""
    (place / 'a.txt').write_text('\n'.join(sentences(30)))
    data = {'name': 'text', 'path': 'a.txt', 'tokenizer': 'bert', 'length': 10, 'objective': objective}
    name = {'causal': 'hf_causal_lm', 'masked': 'hf_masked_lm'}[objective]
    kind, sizes = {
        'causal': ('gpt2', {'n_embd': 8, 'n_layer': 1, 'n_head': 2, 'n_positions': 16, 'vocab_size': 23}),
        'masked': ('bert', {**TINY, 'vocab_size': 23}),
    }[objective]
    model = {'name': name, 'architecture': kind, 'config': sizes, 'tokenizer': 'bert'}
    teacher = place / f'{objective}-teacher'
    with torch.random.fork_rng():
        torch.manual_seed(9)
        getattr(models, name)(architecture=kind, config=sizes).model.save_pretrained(teacher)
    taught = {
        'teachers': [{'model': {'name': name, 'pretrained': teacher.name, 'tokenizer': 'bert'}}],
        'kd_loss_fn': {'name': 'KLDivergence', 'temperature': 2.0},
    }
    defaults = {
        'model': model, 'train_loader': {'dataset': data}, 'eval_loader': {'dataset': data},
        'algorithms': {'distillation': taught},
    }  # fmt: skip
    return run_yaml(place, **{**defaults, **changes})


@pytest.mark.parametrize('objective', ['causal', 'masked'])
def test_a_fused_head_leaves_a_run_as_it_is_and_resumes(place, objective):
    file = of_language(place, objective, device_train_microbatch_size=3)
    fused = 'algorithms.distillation.fused_head=true'
    plain = train(load_config(file, ['run_name=plain']), quiet=True)
    metrics = train(load_config(file, ['run_name=straight', fused]), quiet=True)
    names = [name for name in plain if name.startswith(('loss/', 'metrics/'))]
    assert names
    assert {name: metrics[name] for name in names} == pytest.approx({name: plain[name] for name in names}, rel=1e-4)
    middle = int(metrics['time/batch']) // 2 + 1
    train(load_config(file, ['run_name=parts', fused, f'max_duration={middle}ba', 'save_interval=1ba']), quiet=True)
    train(load_config(file, ['run_name=parts', fused, 'autoresume=true', 'save_interval=1ba']), quiet=True)
    straight, parts, whole = (weights(place / 'runs' / name) for name in ('straight', 'parts', 'plain'))
    assert all(torch.equal(straight[name], parts[name]) for name in straight)
    torch.testing.assert_close(straight, whole, rtol=1e-3, atol=1e-4)  # after many steps of Adam


@pytest.mark.parametrize('objective', ['causal', 'masked'])
def test_language_models_resume_bit_for_bit_and_are_stored(place, objective):
    file = of_language(place, objective)
    metrics = train(load_config(file, ['run_name=straight']), quiet=True)
    middle = int(metrics['time/batch']) // 2 + 1  # within the second epoch, which has other masks
    parts = ['run_name=parts', 'save_interval=1ba']
    train(load_config(file, [*parts, f'max_duration={middle}ba']), quiet=True)
    train(load_config(file, [*parts, 'autoresume=true']), quiet=True)
    straight, resumed = (weights(place / 'runs' / name) for name in ('straight', 'parts'))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    found = evaluate(place / 'runs' / 'straight').metrics
    assert found['metrics/eval/LanguageCrossEntropy'] == pytest.approx(
        metrics['metrics/eval/LanguageCrossEntropy'], rel=1e-5
    )

    views = ['train_loader.views=2'] if objective == 'masked' else []
    if views:
        with pytest.raises(ConfigError, match='each epoch has other masks; write views: 10'):
            cache(load_config(file), out=place / 'store')
    cache(load_config(file, views), out=place / 'store')
    live = train(load_config(file, [*views, 'run_name=live']), quiet=True)
    teachers = 'algorithms.distillation.teachers=[{cache: store}]'
    stored = train(load_config(file, [*views, 'run_name=stored', teachers]), quiet=True)
    assert stored['loss/train/kd'] == pytest.approx(live['loss/train/kd'], rel=2e-3)


def test_the_objective_of_the_data_is_that_of_the_model(place):
    file = of_language(place, 'masked', algorithms={})
    said = refused(file, 'train_loader.dataset.objective=causal')
    assert "objective: 'causal', and BertForMaskedLM is a model for 'masked'; write objective: masked" in said
    file = of_language(place, 'causal', algorithms={})
    said = refused(file, 'train_loader.dataset.objective=masked')
    assert "GPT2LMHeadModel is a model for 'causal'; write objective: causal, or take hf_masked_lm" in said
    said = refused(file, 'train_loader.dataset.objective=unlabelled')
    assert "'unlabelled', and GPT2LMHeadModel is a model for 'causal'; write objective: causal" in said
    data = {'name': 'text', 'path': 'a.txt', 'tokenizer': 'bert', 'length': 10, 'objective': 'masked'}
    said = refused(run_yaml(place, train_loader={'dataset': data}, eval_loader=None))
    assert "BertForSequenceClassification is a model for 'unlabelled'; write objective: unlabelled" in said


def test_a_teacher_with_another_tokenizer_teaches_from_a_yaml(place):
    file = of_language(place, 'causal')
    letters(model_max_length=64).save_pretrained(place / 'letters')
    sizes = {'n_embd': 8, 'n_layer': 1, 'n_head': 2, 'n_positions': 64, 'vocab_size': 29}
    models.hf_causal_lm(architecture='gpt2', config=sizes).model.save_pretrained(place / 'speller')
    data = {'name': 'aligned_text', 'path': 'a.txt', 'tokenizer': 'bert', 'teacher_tokenizer': 'letters', 'length': 10}
    speller = {'name': 'hf_causal_lm', 'pretrained': 'speller', 'tokenizer': 'letters'}
    taught = {
        'teachers': [{'model': speller, 'forward': 'read_own_tokens'}],
        'kd_loss_fn': {'name': 'UniversalLogit'},
    }
    own = {'train_loader': {'dataset': data}, 'eval_loader': {'dataset': data}, 'algorithms': {'distillation': taught}}
    file = of_language(place, 'causal', **own)
    metrics = train(load_config(file, ['run_name=straight']), quiet=True)
    assert metrics['loss/train/kd'] > 0
    assert 'metrics/eval/LanguagePerplexity' in metrics
    parts = ['run_name=parts', 'save_interval=1ba']
    train(load_config(file, [*parts, 'max_duration=2ba']), quiet=True)
    train(load_config(file, [*parts, 'autoresume=true']), quiet=True)
    straight, resumed = (weights(place / 'runs' / name) for name in ('straight', 'parts'))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    with pytest.warns(UserWarning, match="'hf_causal_lm' is left out of the comparison: its forward, read_own_tokens"):
        assert [one.name for one in compared_models([open_run(place / 'runs' / 'straight')])] == ['straight']
    wrong = 'algorithms.distillation.kd_loss_fn={name: KLDivergence}'
    assert 'has another tokenizer than the student' in refused(file, wrong)
    with pytest.raises(StoreError, match='has another tokenizer'):
        cache(load_config(file), out=place / 'store')


def test_a_teacher_with_a_random_head_is_compared_as_untrained(place, capsys):
    save_model(place / 'body', 'BertModel')
    big = {'name': 'hf_classifier', 'pretrained': 'body'}
    by_layer = {'loss': {'name': 'hint'}, 'on': 'bert.embeddings'}
    teaching = {'distillation': {'teachers': [{'model': big, 'name': 'body'}], 'kd_loss_fn': [by_layer]}}
    train(load_config(run_yaml(place, algorithms=teaching, max_duration='1ba'), ['run_name=one']), quiet=True)
    with pytest.warns(UserWarning, match=r"the teacher 'body' has random weights \(classifier\.\w+, classifier\.\w+\)"):
        teacher, student = compared_models([open_run(place / 'runs' / 'one')])
    assert (teacher.trained, student.trained) == (False, True)
    main(['report', 'runs/one', '--out', 'report', '--no-bench'])
    said = ' '.join(capsys.readouterr().out.split())
    assert "Note: The teacher 'body' has random weights" in said
    assert {one['model'] for one in json.loads((place / 'report' / 'report.json').read_text())['models']} == {'one'}
