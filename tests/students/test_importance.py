"""The importance of layers, neurons and heads against hidden states and outputs that transformers gives itself."""

import copy
from itertools import pairwise

import pytest
import torch
import transformers as hf

from composer_kd import ConfigError, student_from_teacher
from composer_kd.students.importance import block_influence, norms_into
from tests.students.teachers import KINDS, answers, batch, teacher


def parted(inputs):
    """Each sample alone and without its padding."""
    for index in range(len(inputs['input_ids'])):
        count = int(inputs['attention_mask'][index].sum())
        yield {key: value[index : index + 1, :count] for key, value in inputs.items()}


@torch.no_grad()
def test_layers_against_hidden_states():
    model = teacher('bert')
    inputs = batch(model)
    changes = []
    for sample in parted(inputs):
        states = model(**sample, output_hidden_states=True).hidden_states
        changes.append(torch.stack([1 - torch.cosine_similarity(a, b, dim=-1)[0] for a, b in pairwise(states)]))
    (found,) = block_influence(model, [inputs]).values()
    torch.testing.assert_close(torch.tensor(found), torch.cat(changes, dim=1).mean(1), rtol=1e-4, atol=1e-6)
    (apart,) = block_influence(model, list(parted(inputs))).values()
    torch.testing.assert_close(found, apart, rtol=1e-4, atol=1e-6)


def test_the_layers_that_change_least_are_left_out():
    model = teacher('llama')
    with torch.no_grad():
        for index in (0, 2):  # pre-norm: without what the two branches add, a layer is the identity
            model.model.layers[index].self_attn.o_proj.weight.zero_()
            model.model.layers[index].mlp.down_proj.weight.zero_()
    inputs = batch(model)
    student = student_from_teacher(model, 'importance', 2, data=[inputs])
    assert student.config.cut_from['layers'] == [1, 3]
    assert torch.equal(answers(student, inputs), answers(model, inputs))


def test_decoders_below_an_encoder_have_positions_of_their_own():
    model = teacher('t5')
    inputs = batch(model)
    labels = inputs['labels'].clone()
    labels[:, 3:] = -100
    by_labels = block_influence(model, [{**inputs, 'labels': labels}])
    mask = (labels != -100).long()
    shifted = model._shift_right(labels)
    by_mask = block_influence(
        model,
        [
            {
                **{key: value for key, value in inputs.items() if key != 'labels'},
                'decoder_input_ids': shifted,
                'decoder_attention_mask': mask,
            }
        ],
    )
    assert by_labels['decoder'] == pytest.approx(by_mask['decoder'], rel=1e-5)
    assert by_labels['encoder'] == pytest.approx(by_mask['encoder'], rel=1e-5)
    assert by_labels['decoder'] != pytest.approx(block_influence(model, [inputs])['decoder'], rel=1e-3)


@pytest.mark.parametrize('kind', KINDS)
def test_every_architecture_is_measured(kind):
    model = teacher(kind)
    scores = block_influence(model, [batch(model)])
    assert all(0 < score < 2 for stack in scores.values() for score in stack)
    assert {len(stack) for stack in scores.values()} == {4}


def eager(model):
    config = copy.deepcopy(model.config)
    config._attn_implementation = 'eager'
    made = type(model)(config)
    made.load_state_dict(model.state_dict())
    return made.train(model.training)


def test_attention_maps_and_dropout_change_nothing():
    model = eager(teacher('distilbert').train())
    plain = block_influence(model, [batch(model)])
    assert model.training
    assert all(part.training for part in model.modules())
    model.config.output_attentions = True
    assert block_influence(model, [batch(model)]) == pytest.approx(plain)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_what_a_head_adds_against_the_output_without_it():
    model = teacher('bert')
    inputs = batch(model)
    (found,) = norms_into(model, [inputs], 'attention.output.dense', groups=2).values()
    dense = model.bert.encoder.layer[1].attention.output.dense
    seen = []
    handle = dense.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    answers(model, inputs)
    handle.remove()
    (context,) = seen
    for head in range(2):
        without = context.clone()
        without[..., 8 * head : 8 * head + 8] = 0
        with torch.no_grad():
            added = (dense(context) - dense(without)).norm(dim=-1)
        expected = added[inputs['attention_mask'].bool()].mean()
        assert float(found[1][head]) == pytest.approx(float(expected), rel=1e-4)


class TestBadInput:
    def test_batches_that_are_no_mappings(self):
        with pytest.raises(ConfigError, match=r'batches that are mappings.*got tuple'):
            block_influence(teacher(), [(torch.zeros(2, 3), torch.zeros(2))])

    def test_no_valid_position(self):
        model = teacher('bert')
        inputs = {**batch(model), 'attention_mask': torch.zeros(3, 7, dtype=torch.long)}
        with pytest.raises(ConfigError, match='at least one batch with a valid position'):
            block_influence(model, [inputs])

    def test_masks_of_pairs_of_positions(self):
        model = hf.BertModel(hf.BertConfig(hidden_size=16, num_attention_heads=2, intermediate_size=8, vocab_size=40))
        inputs = {**batch(model), 'attention_mask': torch.ones(3, 7, 7)}
        with pytest.raises(ConfigError, match=r'mask of shape \(3, 7\).*got \(3, 7, 7\)'):
            block_influence(model, [inputs])

    def test_values_that_are_not_finite(self):
        model = teacher('llama')
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.fill_(float('inf'))
        with pytest.raises(ConfigError, match='infinite or undefined'):
            block_influence(model, [batch(model)])
