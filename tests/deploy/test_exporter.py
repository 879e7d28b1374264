import dataclasses
import pathlib

import pytest
import torch
from composer.models import ComposerClassifier
from torch import nn

from composer_kd.cli.export import FORMATS
from composer_kd.deploy import Inference
from composer_kd.deploy.exporter import export, find_target
from composer_kd.deploy.targets import TARGETS, Onnx, StateDict, Student, TorchExport
from composer_kd.deploy.verification import in_pieces
from composer_kd.errors import ConfigError
from tests.deploy import tiny
from tests.helpers import FEATURES, mlp, pairs


def of_module(module, batch, fresh, **options):
    inference = Inference(module, batch)
    return Student(inference, batch, in_pieces([inference.inputs_of(batch)]), lambda: fresh().eval(), **options)


def small(norm=True):
    return of_module(ComposerClassifier(mlp(norm=norm), num_classes=4), pairs(), lambda: mlp(seed=5, norm=norm))


def bert():
    model, batch = tiny.bert_module(), {**tiny.tokens(12), 'labels': torch.zeros(12, dtype=torch.long)}
    return of_module(model, batch, tiny.bert_module, tokenizer=tiny.tokenizer())


def keywords():
    return of_module(tiny.Keywords(), tiny.Measured().columns, tiny.Keywords)


def test_the_command_knows_the_formats():
    assert tuple(TARGETS) == FORMATS
    with pytest.raises(ConfigError, match="did you mean 'state-dict'"):
        find_target('statedict')


@pytest.mark.parametrize('target', [Onnx(), TorchExport(), StateDict()], ids=lambda target: target.name)
def test_a_written_model_answers_alike(target, tmp_path):
    exported = export(small(), target, tmp_path / 'a' / target.name)
    assert exported.verification.passed
    assert exported.verification.samples == 24
    assert exported.verification.agreeing == 24
    assert {file.name: file.stat().st_size for file in exported.folder.iterdir()} == exported.files
    assert [file.name for file in exported.folder.parent.iterdir()] == [target.name]  # nothing is left beside it


def test_a_state_dict_has_the_names_of_the_bare_module(tmp_path):
    student = small()
    export(student, StateDict(), tmp_path)
    weights = torch.load(tmp_path / 'student.pt', weights_only=True)
    assert weights.keys() == mlp(norm=True).state_dict().keys()
    assert all(torch.equal(value, weights[key]) for key, value in student.inference.model.state_dict().items())


def test_a_hugging_face_model_and_its_tokenizer(tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    student = bert()
    exported = export(student, find_target('huggingface'), tmp_path)
    assert exported.verification.passed
    assert 'model.safetensors' in exported.files
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(**tiny.tokens(5)).logits, student.inference(*tiny.tokens(5).values()))
    assert AutoTokenizer.from_pretrained(tmp_path)('w3 w1').input_ids == [5, 3]


def test_other_models_are_no_hugging_face_models(tmp_path):
    with pytest.raises(ConfigError, match=r'huggingface: expected a model of the transformers .*--to state-dict'):
        export(small(), find_target('huggingface'), tmp_path / 'hf')
    assert list(tmp_path.iterdir()) == []


class Forgetful(StateDict):
    """Writes other weights than the student's."""

    def write(self, student: Student, folder: pathlib.Path) -> None:
        torch.save(mlp(seed=8, norm=True).state_dict(), folder / self.file)


def test_wrong_answers_are_refused_and_the_earlier_export_stays(tmp_path):
    export(small(), StateDict(), tmp_path, lambda exported: 'card')
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(ConfigError, match=r'state-dict: what was written .* largest difference \d'):
        export(small(), Forgetful(), tmp_path, lambda exported: 'another card')
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_graph_for_one_batch_size_is_refused(tmp_path):
    student = of_module(tiny.OneSize(), torch.randn(9, FEATURES), tiny.OneSize)
    with pytest.raises(ConfigError, match=r'torch-export: '):
        export(student, TorchExport(), tmp_path / 'x')
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_and_other_files_stay(tmp_path):
    (tmp_path / 'notes.txt').write_text('mine')
    (tmp_path / 'student.pt').write_text('old')
    export(small(), StateDict(), tmp_path)
    assert (tmp_path / 'notes.txt').read_text() == 'mine'
    assert torch.load(tmp_path / 'student.pt', weights_only=True).keys()


def test_failures_of_other_kinds_name_the_format(tmp_path):
    def broken():
        raise KeyError('gone')

    student = of_module(mlp(), pairs(), broken)
    with pytest.raises(ConfigError, match="state-dict: KeyError: 'gone'"):
        export(student, StateDict(), tmp_path / 'x')


def test_tied_weights_are_written_once(tmp_path):
    batch = {**tiny.tokens(4), 'labels': torch.zeros(4, 9, dtype=torch.long)}
    student = of_module(tiny.gpt2_module(), batch, tiny.gpt2_module)
    exported = export(student, StateDict(), tmp_path)
    weights = torch.load(tmp_path / 'student.pt', weights_only=True)
    assert weights['lm_head.weight'].data_ptr() == weights['transformer.wte.weight'].data_ptr()
    assert exported.verification.answers == 4 * 9


class TakesBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, batch):
        return {'logits': self.inner(batch[0])}


PLAIN = 'from tests.helpers import mlp\n\nmodel = mlp(norm=True)\n'
BERT = 'from tests.deploy import tiny\n\nmodel = tiny.bert_module()\n'
OF_BATCHES = 'from tests.deploy.test_exporter import TakesBatch\n\nmodel = TakesBatch()\n'


def of_batches():
    return of_module(TakesBatch(), pairs(), TakesBatch)


class TakesMapping(tiny.Keywords):
    def forward(self, batch):
        return super().forward(**batch)


KEYWORDS = 'from tests.deploy.tiny import Keywords\n\nmodel = Keywords()\n'
OF_MAPPINGS = 'from tests.deploy.test_exporter import TakesMapping\n\nmodel = TakesMapping()\n'


def of_mappings():
    return of_module(TakesMapping(), tiny.Measured().columns, TakesMapping)


@pytest.mark.parametrize(
    ('student', 'code', 'to'),
    [
        (small, PLAIN, 'state-dict'),
        (small, None, 'torch-export'),
        (of_batches, OF_BATCHES, 'state-dict'),
        (keywords, KEYWORDS, 'state-dict'),
        (keywords, None, 'torch-export'),
        (keywords, None, 'onnx'),
        (of_mappings, OF_MAPPINGS, 'state-dict'),
        (bert, BERT, 'state-dict'),
        (bert, None, 'huggingface'),
        pytest.param(bert, None, 'torch-export', marks=pytest.mark.slow),
        pytest.param(bert, None, 'onnx', marks=pytest.mark.slow),
    ],
)
def test_the_code_that_the_card_shows_works(student, code, to, tmp_path, monkeypatch):
    built = dataclasses.replace(student(), code=code)
    usage = export(built, find_target(to), tmp_path).usage
    monkeypatch.chdir(tmp_path)
    scope = {}
    exec(usage, scope)
    inputs = [torch.as_tensor(scope[name]) for name in built.inference.input_names]
    with torch.no_grad():
        torch.testing.assert_close(torch.as_tensor(scope['logits']), built.inference(*inputs), rtol=1e-4, atol=1e-4)
    assert len(scope['logits']) == 1
