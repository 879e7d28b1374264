"""Narrower students: neurons that add nothing are those that are left out, and then nothing changes."""

import pytest
import torch

from composer_kd import ConfigError, student_from_teacher
from composer_kd.students.architectures import architecture_of, stacks_of
from composer_kd.students.importance import inputs_first, part_of
from tests.students.teachers import KINDS, answers, batch, silence, teacher


@pytest.mark.parametrize('kind', KINDS)
def test_neurons(kind, tmp_path):
    model = teacher(kind)
    inputs = batch(model)
    path = architecture_of(model).neurons_into
    count = len(inputs_first(part_of(model.get_submodule(next(iter(stacks_of(model).values()))[1])[0], path)))
    silence(model, path, range(1, count, 3))
    kept = count - len(range(1, count, 3))
    student = student_from_teacher(model, intermediate_size=kept, data=[inputs])
    torch.testing.assert_close(answers(student, inputs), answers(model, inputs), rtol=1e-4, atol=1e-5)
    assert student.num_parameters() < model.num_parameters()
    if kind != 'bert-plain':
        student.save_pretrained(tmp_path)
        assert torch.equal(answers(type(model).from_pretrained(tmp_path), inputs), answers(student, inputs))
    narrow = student_from_teacher(model, intermediate_size=kept - 1, data=[inputs])  # one less, which matters
    assert not torch.allclose(answers(narrow, inputs), answers(model, inputs), rtol=1e-4, atol=1e-5)


def test_layers_neurons_and_heads_together():
    model = teacher('bert').to(torch.bfloat16)
    inputs = batch(model)
    before = torch.get_rng_state()
    student = student_from_teacher(
        model, 'importance', 2, num_attention_heads=1, intermediate_size=6, data=[inputs, inputs]
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}
    layer = student.bert.encoder.layer[1]
    assert layer.output.dense.weight.shape == (16, 6)
    assert layer.attention.self.query.weight.shape == (8, 16)
    assert answers(student, inputs).isfinite().all()


class TestBadInput:
    @pytest.mark.parametrize(
        ('options', 'message'),
        [
            ({'intermediate_size': 25}, 'intermediate_size: expected 1 to 24, the neurons'),
            ({'num_attention_heads': 0}, 'num_attention_heads: expected 1 to 2'),
        ],
    )
    def test_sizes(self, options, message):
        model = teacher()
        with pytest.raises(ConfigError, match=message):
            student_from_teacher(model, data=[batch(model)], **options)

    def test_sizes_need_data(self):
        with pytest.raises(ConfigError, match='intermediate_size needs data'):
            student_from_teacher(teacher(), intermediate_size=3)
