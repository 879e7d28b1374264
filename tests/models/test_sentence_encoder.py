"""Sentence encoders: pooling, learning from another's vectors, agreement with them, and runs from YAML."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import yaml
from composer.loggers import InMemoryLogger
from scipy.stats import spearmanr
from torch.utils.data import DataLoader

from composer_kd import ConfigError, Distillation, KLDivergence, Match
from composer_kd.bench import BenchResults
from composer_kd.cli.main import main
from composer_kd.config.load import load_config
from composer_kd.data import sentences as load_sentences
from composer_kd.losses import cosine, mse, similarity_preserving
from composer_kd.models import SentenceEncoder, hf_encoder
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.train import train as train_run
from composer_kd.workflows.export.export import export_run
from tests.helpers import TokenDataset, train
from tests.texts import TINY, save_jsonl, save_model, sentences

transformers = pytest.importorskip('transformers')
RECIPE = Path(__file__).parents[2] / 'yamls/text/embedding.yaml'


def encoder(seed=0, **options):
    """A tiny BERT whose vectors differ between texts."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {**TINY, 'vocab_size': 30, 'initializer_range': 0.5, **options.pop('sizes', {})}
        return hf_encoder(architecture='bert', config=sizes, **options)


def texts(count=16, length=6):
    rng = torch.Generator().manual_seed(1)
    mask = (torch.arange(length) < torch.randint(2, length + 1, (count, 1), generator=rng)).long()
    return {'input_ids': torch.randint(1, 30, (count, length), generator=rng) * mask, 'attention_mask': mask}


def loader(batch_size=8):
    return DataLoader(TokenDataset(**texts()), batch_size)


@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('pooling', ['mean', 'cls'])
def test_vectors_are_pooled_from_the_tokens_of_each_text(pooling, normalize):
    model = encoder(pooling=pooling, normalize=normalize).eval()
    batch = texts()
    vectors = model(dict(batch))['logits']
    for row, mask, vector in zip(batch['input_ids'], batch['attention_mask'], vectors):
        hidden = model.model.encoder(input_ids=row[mask != 0][None]).last_hidden_state[0]
        alone = hidden.mean(0) if pooling == 'mean' else hidden[0]
        torch.testing.assert_close(vector, F.normalize(alone, dim=0) if normalize else alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('loss', [cosine, mse, similarity_preserving, Match(cosine, on='embedding')])
def test_a_student_learns_the_vectors_of_its_teacher(loss):
    student, teacher = encoder(1, sizes={'num_hidden_layers': 1}), encoder()
    log = InMemoryLogger()
    algorithm = Distillation(teacher, loss, 1.0, 0.0, run_teacher_on_eval=True)
    train(
        student, loader(), [algorithm], loggers=[log], eval_dataloader=loader(), max_duration='60ep',
        optimizer=torch.optim.Adam(student.parameters(), 0.01), eval_interval='60ep',
    )  # fmt: skip
    losses = [float(value) for _, value in log.data['loss/train/kd']]
    assert losses[-1] < 0.3 * losses[0]
    name = 'metrics/eval/agreement/spearman'
    assert float(log.data[name][-1][1]) > 0.6
    assert not any('top1' in key or 'agreement/kl' in key for key in log.data)


def test_agreement_is_the_mean_cosine_and_the_rank_correlation_of_similarities():
    student, teacher = encoder(1), encoder()
    algorithm = Distillation(teacher, cosine, 1.0, 0.0, run_teacher_on_eval=True)
    run = train(student, loader(), [algorithm], max_duration='1ba', eval_dataloader=loader(), eval_interval='1ba')
    del run
    found = algorithm.final_metrics()
    ours, theirs, cosines = [], [], []
    for batch in loader():
        with torch.no_grad():
            s, t = (F.normalize(net.eval()(dict(batch))['logits'], dim=1) for net in (student, teacher))
        upper = torch.ones(8, 8).triu(1).bool()
        ours, theirs = [*ours, *(s @ s.T)[upper].tolist()], [*theirs, *(t @ t.T)[upper].tolist()]
        cosines += (s * t).sum(1).tolist()
    assert found['metrics/eval/agreement/cosine'] == pytest.approx(sum(cosines) / 16, rel=1e-4)
    assert found['metrics/eval/agreement/spearman'] == pytest.approx(spearmanr(ours, theirs).statistic, abs=1e-4)
    assert set(found) == {'metrics/eval/agreement/cosine', 'metrics/eval/agreement/spearman'}


def test_other_widths_are_joined_by_a_projector_and_compared_by_similarities():
    student, teacher = encoder(1, sizes={'hidden_size': 4}), encoder()
    algorithm = Distillation(teacher, Match(cosine, on='embedding', project='auto'), 1.0, 0.0, run_teacher_on_eval=True)
    train(student, loader(), [algorithm], eval_dataloader=loader(), max_duration='2ep')
    assert set(algorithm.final_metrics()) == {'metrics/eval/agreement/spearman'}


@pytest.mark.parametrize('size', [3, 8])
def test_microbatches_make_no_difference(size):
    nets = []
    for micro in (8, size):
        net = encoder(1, sizes={'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0})
        train(net, loader(), [Distillation(encoder(), cosine, 1.0, 0.0)], device_train_microbatch_size=micro)
        nets.append(net)
    for one, other in zip(*(net.parameters() for net in nets)):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_model_that_is_wrapped_keeps_its_pooler():
    net = transformers.BertModel(transformers.BertConfig(vocab_size=30, **TINY)).eval()
    batch = texts()
    before = net(**batch).pooler_output
    model = hf_encoder(net).eval()
    assert torch.equal(net(**batch).pooler_output, before)
    assert not any('pooler' in name for name, _ in model.named_parameters())
    assert model.model.encoder.embeddings is net.embeddings


def test_what_is_no_encoder_or_no_loss_of_vectors_is_refused():
    with pytest.raises(ConfigError, match='KLDivergence compares probabilities of classes'):
        train(encoder(1), loader(), [Distillation(encoder(), KLDivergence(2.0), 1.0, 0.0)])
    with pytest.raises(ConfigError, match=r"pooling: expected one of .*'mean'"):
        encoder(pooling='meen')
    t5 = transformers.T5Config(vocab_size=9, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    with pytest.raises(ConfigError, match='has a decoder'):
        SentenceEncoder(transformers.T5Model(t5))


def test_a_run_from_yaml_is_resumed_and_evaluated(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / 'bert', kind='BertModel')
    for name, count, seed in (('train', 24, 0), ('validation', 12, 1)):
        save_jsonl(tmp_path / f'{name}.jsonl', [{'sentence': one} for one in sentences(count, seed)])
    data = {'name': 'sentences', 'text': 'sentence', 'tokenizer': 'bert', 'max_length': 16}
    model = {'name': 'hf_encoder', 'pretrained': 'bert', 'pooling': 'mean'}
    content = {
        'model': {**model, 'config': {'num_hidden_layers': 1}},
        'optimizer': {'name': 'DecoupledAdamW', 'lr': 0.01},
        'train_loader': {'dataset': {**data, 'path': 'train.jsonl'}},
        'eval_loader': {'dataset': {**data, 'path': 'validation.jsonl'}},
        'algorithms': {
            'distillation': {
                'teachers': [{'model': model}], 'kd_loss_fn': {'name': 'cosine'}, 'kd_loss_weight': 1.0,
                'org_loss_weight': 0.0, 'run_teacher_on_eval': True,
            }
        },
        'max_duration': '2ep', 'global_train_batch_size': 8, 'progress_bar': False, 'save_folder': 'runs/{run_name}',
        'save_interval': '1ba',
    }  # fmt: skip
    (tmp_path / 'run.yaml').write_text(yaml.safe_dump(content))
    metrics = train_run(load_config('run.yaml', ['run_name=straight']), quiet=True)
    train_run(load_config('run.yaml', ['run_name=parts', 'max_duration=4ba']), quiet=True)
    train_run(load_config('run.yaml', ['run_name=parts', 'autoresume=true']), quiet=True)
    ours, theirs = (
        torch.load(f'runs/{name}/latest-rank0.pt', weights_only=False)['state']['model']
        for name in ('straight', 'parts')
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert 0 < metrics['metrics/eval/agreement/cosine'] <= 1
    saved = json.loads((tmp_path / 'runs/straight/metrics.json').read_text())
    assert saved['metrics/eval/agreement/spearman'] == metrics['metrics/eval/agreement/spearman']
    assert evaluate('runs/straight') is not None
    export_run('runs/straight', ['state-dict'])
    card = (tmp_path / 'runs/straight/export/state-dict/README.md').read_text()
    assert 'the answer: vectors of shape (N, 8)\n' in card
    assert 'first:' not in card
    bench = ['--devices', 'cpu', '--threads', '1', '--budget', '0.1', '--backends', 'eager', '--precisions', 'fp32']
    assert main(['bench', 'runs/straight', '--out', 'bench', '--batch-sizes', '1', *bench]) == 0
    rows = BenchResults.read('bench').rows
    assert [(row.failed, row.agreement, row.output_match) for row in rows] == [(None, None, None)] * 2
    assert len(load_sentences('train.jsonl', text='sentence', tokenizer='bert', subset=5)) == 5


def test_the_recipe_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / 'bert', kind='BertModel')
    (tmp_path / 'texts.tsv').write_text('\n'.join(['sentence\tlabel', *(f'{one}\t0' for one in sentences(12))]))
    options = [
        'variables.pretrained=bert', 'variables.train=texts.tsv', 'variables.validation=texts.tsv',
        'global_train_batch_size=4', 'max_duration=2ba', 'eval_interval=2ba', 'save_interval=2ba', 'progress_bar=false',
        'model.config.num_hidden_layers=1',
    ]  # fmt: skip
    assert 'metrics/eval/agreement/spearman' in train_run(load_config(str(RECIPE), options), quiet=True)
