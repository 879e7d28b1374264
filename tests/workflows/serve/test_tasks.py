"""The models of runs answer one input as they answer in an evaluation, without Gradio."""

import itertools
import sys
import threading

import pytest
import torch
import transformers
from PIL import Image

from composer_kd.cli.main import main
from composer_kd.data import digits
from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.runs.evaluate import evaluate
from composer_kd.runs.saved import open_run
from composer_kd.workflows.serve.labels import Labels
from composer_kd.workflows.serve.reading import MOST_CHARACTERS
from composer_kd.workflows.serve.tasks import open_task
from composer_kd.workflows.serve.writer import Wish
from tests.texts import save_model
from tests.workflows.serve.conftest import trained


def test_pictures_are_answered_as_the_run_is_evaluated(digits_runs, digits_task):
    data = digits('test')
    assert digits_task.title == 'image classification'
    assert [(one.name, one.role) for one in digits_task.models] == [
        ('digits-teacher', 'teacher'),
        ('digits-kd', 'student distilled'),
    ]
    for folder, place in zip(digits_runs, itertools.count()):
        net = open_run(folder).model()
        for number in (0, 17, 499):
            picture, label = digits_task.sample(number)
            x, y = data[number]
            assert label == str(y)
            expected = net((x[None], None))[0].softmax(0)
            answer = digits_task.answers(picture)[place]
            assert answer.label == str(int(expected.argmax()))
            torch.testing.assert_close(
                torch.tensor([answer.confidences[str(one)] for one in range(10)]), expected.detach()
            )


def test_what_a_model_costs_is_what_an_evaluation_says(digits_runs, digits_task):
    for folder, model, answer in zip(digits_runs, digits_task.models, digits_task.answers(Image.new('L', (8, 8)))):
        found = evaluate(folder)
        assert (model.parameters, model.size) == (found.parameters, found.size)
        said = answer.as_json()
        assert said['parameters'] == found.parameters
        assert said['megabytes'] == pytest.approx(found.size / 1e6, abs=1e-6)
        assert said['milliseconds'] > 0
        assert list(said['confidences'].values()) == sorted(said['confidences'].values(), reverse=True)


def test_a_picture_of_any_size_and_colours_is_taken(digits_task):
    for picture in (Image.new('RGBA', (300, 80), 'red'), Image.new('1', (3, 5)), Image.new('CMYK', (9, 9))):
        assert digits_task.seen(picture).size == (8, 8)
        assert [one.error for one in digits_task.answers(picture)] == ['', '']


@pytest.mark.parametrize('number', [-1, 500, 1.5, None, True])
def test_a_sample_that_is_not_there_is_refused(digits_task, number):
    with pytest.raises(ConfigError, match='sample: expected a number from 0 to 499'):
        digits_task.sample(number)


def test_texts_are_answered_as_the_run_is_evaluated(text_runs, text_task):
    assert (text_task.texts, text_task.optional) == (('sentence',), False)
    assert text_task.labels.names == ('negative', 'positive')
    assert [one.role for one in text_task.models] == ['teacher', 'student distilled']
    run = open_run(text_runs[1])
    batch = next(iter(run.loader()))
    outputs = run.model()({key: value for key, value in batch.items() if key != 'labels'}).logits.softmax(1)
    words = run.loader().dataset.tokenizer
    for ids, expected in zip(batch['input_ids'], outputs):
        answer = text_task.answers(words.decode(ids, skip_special_tokens=True))[1]
        assert answer.confidences == pytest.approx(dict(zip(text_task.labels.names, expected.tolist())), abs=1e-5)


def test_a_text_longer_than_the_run_reads_is_cut_and_said(text_task):
    for answer in text_task.answers('good ' * 50):
        assert answer.notes == ['cut to 16 of 52 tokens']
    assert [list(one.notes) for one in text_task.answers('good film')] == [[], []]


@pytest.mark.parametrize(
    ('texts', 'said'),
    [
        ([' '], 'sentence: expected a text, got an empty one'),
        (['a' * (MOST_CHARACTERS + 1)], 'at most 10,000 characters, got 10,001'),
        (['a', 'b'], 'expected sentence, got 2 texts'),
        ([3], 'expected a text, got int'),
    ],
)
def test_texts_that_are_none_are_refused(text_task, texts, said):
    with pytest.raises(ConfigError, match=said):
        text_task.answers(*texts)


def test_pairs_are_read_as_pairs(pair_runs, pair_task):
    assert pair_task.texts == ('premise', 'hypothesis')
    run = open_run(pair_runs[0])
    words = run.loader().dataset.tokenizer
    coded = words('the film was good', 'it was bad', return_tensors='pt')
    assert coded['token_type_ids'].max() == 1
    expected = run.model()(dict(coded)).logits[0].softmax(0)
    (answer,) = pair_task.answers('the film was good', 'it was bad')
    assert answer.confidences == pytest.approx(dict(zip(pair_task.labels.names, expected.tolist())), abs=1e-6)
    with pytest.raises(ConfigError, match='expected premise and hypothesis, got 1 texts'):
        pair_task.answers('the film was good')


def test_data_that_is_gone_leaves_the_texts_of_the_model(text_runs, tmp_path):
    run = open_run(text_runs[0])
    moved = tmp_path / 'moved'
    moved.mkdir()
    written = (run.folder / 'config.yaml').read_text()
    (moved / 'config.yaml').write_text(written.replace('max_length: 16', 'max_length: 16\n    root: nowhere', 1))
    (moved / 'latest-rank0.pt').symlink_to(run.checkpoint.resolve())
    written = (moved / 'config.yaml').read_text().replace(f'root: {run.folder.parent}', 'root: nowhere')
    (moved / 'config.yaml').write_text(written.replace('\n    root: nowhere', '', 1))
    task = open_task([str(moved)])
    assert task.optional
    assert task.answers('good film')[0].label == open_task(text_runs).answers('good film')[0].label


def last(found):
    return list(found)[-1]


def test_greedy_texts_are_those_of_transformers(language_runs, language_task):
    found = last(language_task.completions('the film was', 'a story', max_tokens=9))
    for folder, completion in zip(language_runs, found):
        model = open_run(folder).model()
        words = model.tokenizer
        ids = words('a story\n\nthe film was', return_tensors='pt')['input_ids'][:, :-1]  # without [SEP]
        expected = model.model.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=0)[0, ids.shape[1] :]
        assert completion.done
        assert completion.tokens == len(expected) == 9
        assert completion.text == words.decode(expected, skip_special_tokens=True) != ''
        assert completion.first > 0
        assert completion.later > 0


def test_texts_come_piece_by_piece_from_one_model_after_the_other(language_task):
    states = list(language_task.completions('the film', max_tokens=8))
    assert all(not one.text for one in states[0])
    for at in (0, 1):
        texts = [state[at].text for state in states]
        assert len(set(texts)) > 3
        assert all(later.startswith(earlier.strip()[:1]) for earlier, later in itertools.pairwise(texts))
    assert not any(state[1].text for state in states if not state[0].done)


def test_draws_depend_on_the_seed_and_leave_that_of_the_process(language_task):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, same, other = (
        [text.text for text in last(language_task.completions('the', temperature=1.5, max_tokens=12, seed=seed))]
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize('temperature', [0.0, 1.5])
def test_all_models_write_by_the_same_rules(language_task, monkeypatch, temperature):
    def written():
        return last(language_task.completions('the', temperature=temperature, max_tokens=12, seed=1))[0]

    config = language_task._writers[0]._net.generation_config
    before = written()
    for name, value in {
        'min_p': 0.9, 'typical_p': 0.1, 'epsilon_cutoff': 0.2, 'min_new_tokens': 11, 'penalty_alpha': 0.6, 'top_k': 4,
        'encoder_repetition_penalty': 5.0, 'num_return_sequences': 2, 'guidance_scale': 3.0, 'renormalize_logits': True,
        'sequence_bias': [[[3], 50.0]], 'exponential_decay_length_penalty': (1, 9.0),
    }.items():  # fmt: skip
        monkeypatch.setattr(config, name, value)
    after = written()
    assert (after.text, after.error) == (before.text, '')
    word = before.text.split()[0]
    monkeypatch.setattr(config, 'suppress_tokens', language_task._writers[0]._tokenizer(word)['input_ids'])
    assert word not in written().text.split()


def test_a_prompt_longer_than_the_model_takes_is_cut_and_said(language_task):
    completion = last(language_task.completions('film ' * 60, max_tokens=8))[0]
    assert completion.tokens == 8
    assert completion.notes == ['the prompt is cut to the last 23 of 60 tokens']
    completion = last(language_task.completions('film', max_tokens=100))[0]
    assert completion.notes == ['at most 30 new tokens: it takes 32 in all']


def test_a_reader_who_leaves_stops_the_model(language_task):
    writer = language_task._writers[0]
    found = writer.write(Wish('the', 0.0, 30, 0))
    next(found)
    found.close()
    for thread in threading.enumerate():
        if '_generate' in thread.name:
            thread.join(10)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ('wish', 'said'),
    [
        ({'query': ''}, 'query: expected a text'),
        ({'query': 'a', 'temperature': 3}, 'temperature: expected a number from 0 to 2, got 3'),
        ({'query': 'a', 'temperature': float('nan')}, 'temperature: expected a number from 0 to 2'),
        ({'query': 'a', 'max_tokens': 0}, 'max_tokens: expected a number from 1 to 512'),
        ({'query': 'a', 'max_tokens': 2.5}, 'max_tokens: expected a whole number'),
        ({'query': 'a', 'seed': -1}, 'seed: expected a number from 0 to 4,294,967,295, got -1'),
        ({'query': 'a', 'context': 'b' * 10_001}, 'context: expected at most 10,000 characters'),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(language_task, wish, said):
    with pytest.raises(ConfigError, match=said):
        last(language_task.completions(**wish))


def test_an_encoder_decoder_answers(tmp_path):
    from tests.texts import save_tokenizer

    words = save_tokenizer(tmp_path / 't5')
    config = transformers.T5Config(
        vocab_size=23, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2, decoder_start_token_id=0,
        eos_token_id=3, pad_token_id=0, initializer_factor=5.0,
    )  # fmt: skip
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / 't5')
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / 't5')
    served = _served(tmp_path, 'hf_seq2seq', words)
    found = last(served.completions('the film', max_tokens=6))[0]
    tokenizer = transformers.AutoTokenizer.from_pretrained(words)
    ids = tokenizer('the film', return_tensors='pt')['input_ids']
    expected = model.generate(ids, max_new_tokens=6, do_sample=False)[0, 1:]
    assert found.text == tokenizer.decode(expected, skip_special_tokens=True)
    assert found.tokens == len(expected)


def _served(tmp_path, name, place):
    """A task of one model that no run trained, for which the parts of one are put together."""
    from composer_kd.models import hf_seq2seq
    from composer_kd.workflows.serve.models import RunData, ServedModel
    from composer_kd.workflows.serve.tasks import task_of

    model = {'hf_seq2seq': hf_seq2seq}[name](pretrained=place)
    return task_of([ServedModel('t5', 'student alone', RunData(None), model.eval())])


def test_runs_of_different_tasks_are_refused(digits_runs, text_runs):
    with pytest.raises(
        ConfigError, match='different tasks: digits-teacher is for image classification, teacher is for'
    ):
        open_task([digits_runs[0], text_runs[0]])


def test_runs_of_other_classes_are_refused(text_runs, pair_runs, tmp_path):
    with pytest.raises(ConfigError, match='the models read different inputs'):
        open_task([text_runs[0], pair_runs[0]])
    folder = tmp_path
    data = {
        'name': 'glue', 'task': 'sst2', 'tokenizer': str(folder / 'bert'), 'labels': ['positive', 'negative'],
        'root': str(open_run(text_runs[0]).folder.parent), 'max_length': 16,
    }  # fmt: skip
    save_model(folder / 'bert', id2label={0: 'positive', 1: 'negative'})
    other = trained(folder, 'other', {'name': 'hf_classifier', 'pretrained': str(folder / 'bert')}, data)
    with pytest.raises(ConfigError, match=r"teacher has \['negative', 'positive'\], and other has .* in another order"):
        open_task([text_runs[0], other])


def test_what_is_no_run_is_refused(text_runs, tmp_path):
    with pytest.raises(ConfigError, match=r'yamls/digits/kd.yaml is not a run: give the folder that it saved'):
        open_task(['yamls/digits/kd.yaml'])
    with pytest.raises(CheckpointNotFoundError, match='no checkpoint'):
        open_task([str(tmp_path)])


def test_a_regression_and_a_masked_model_have_no_page(tmp_path):
    from composer_kd.models import hf_classifier, hf_masked_lm
    from composer_kd.workflows.serve.models import RunData, ServedModel
    from composer_kd.workflows.serve.tasks import task_of

    place = save_model(tmp_path / 'bert', num_labels=1)
    score = ServedModel('one', 'student alone', RunData(None), hf_classifier(place, problem='regression'))
    with pytest.raises(ConfigError, match='one: is a regression'):
        task_of([score])
    masked = ServedModel('one', 'student alone', RunData(None), hf_masked_lm(architecture=place))
    with pytest.raises(ConfigError, match='one: BertForMaskedLM is not for text classification, text generation'):
        task_of([masked])


def test_several_labels_are_said_together():
    labels = Labels(['a', 'b', 'c'], several=True)
    label, shares = labels.read(torch.tensor([1.0, -2.0, 3.0]))
    assert label == 'c, a'
    assert shares == pytest.approx({'c': 0.9526, 'a': 0.7311, 'b': 0.1192}, abs=1e-4)
    assert labels.read(torch.tensor([-1.0, -2.0, -3.0]))[0] == 'none'
    with pytest.raises(ConfigError, match='not finite'):
        labels.read(torch.tensor([float('nan'), 0.0, 0.0]))


def test_a_model_that_fails_leaves_the_others(digits_task, monkeypatch):
    inference = digits_task._classifiers._inferences[0]
    monkeypatch.setattr(inference, 'forward', lambda *tensors: 1 / 0)
    first, second = digits_task.answers(Image.new('L', (8, 8)))
    assert first.error == 'ZeroDivisionError: division by zero'
    assert first.as_json()['error'] == first.error
    assert second.label
    assert not second.error


def test_without_gradio_the_command_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert main(['serve', 'runs/none']) == 2
    assert "composer-kd serve needs the gradio library: pip install 'composer_kd[serve]'" in capsys.readouterr().err
