"""Students without a loss of their own."""

import pytest
import torch
from composer.models import ComposerModel, HuggingFaceModel
from torch.utils.data import DataLoader

from composer_kd import ConfigError, Distillation, KLDivergence, Match, TeacherError
from composer_kd.losses import mse
from tests.helpers import Recorder, TokenDataset, loader, mlp, pairs, sgd, train, trainer

transformers = pytest.importorskip('transformers')


def config():
    return transformers.BertConfig(
        vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, initializer_range=0.5,
    )  # fmt: skip


def distilled(model, algorithm):
    generator = torch.Generator().manual_seed(1)
    data = TokenDataset(input_ids=torch.randint(1, 20, (8, 6), generator=generator))
    recorder, student = Recorder(), HuggingFaceModel(model, use_logits=True, metrics=[])
    train(student, DataLoader(data, batch_size=4), [algorithm], [recorder], optimizer=sgd(student, 0.1, 0.0))
    return recorder, data


def test_an_encoder_learns_from_its_teacher_alone():
    torch.manual_seed(3)
    net, teacher = transformers.BertModel(config()), transformers.BertModel(config())
    twin = transformers.BertModel(config())
    twin.load_state_dict(net.state_dict())
    match = Match(mse, on='outputs.last_hidden_state')
    recorder, data = distilled(net, Distillation(teacher, match, kd_loss_weight=1.0, org_loss_weight=0.0))
    # The same by hand.
    optimizer, losses = torch.optim.SGD(twin.parameters(), 0.1), []
    for ids in data.columns['input_ids'].split(4):
        with torch.no_grad():
            theirs = teacher(ids).last_hidden_state
        loss = (twin(ids).last_hidden_state - theirs).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert [step['kd'] for step in recorder.microbatches] == pytest.approx(losses, rel=1e-6)
    assert [step['task'] for step in recorder.microbatches] == [0.0, 0.0]
    for ours, theirs in zip(net.parameters(), twin.parameters()):
        torch.testing.assert_close(ours, theirs)


def test_hidden_states_of_an_encoder_are_not_taken_for_logits():
    student = HuggingFaceModel(transformers.BertModel(config(), add_pooling_layer=False), metrics=[])
    data = DataLoader(TokenDataset(input_ids=torch.randint(1, 20, (8, 6))), batch_size=4)
    algorithm = Distillation(transformers.BertModel(config()), KLDivergence(), 1.0, 0.0)
    with pytest.raises(TeacherError, match=r"hidden states.*on='outputs.last_hidden_state'"):
        trainer(student, data, [algorithm])


def test_a_classifier_needs_no_labels():
    torch.manual_seed(3)
    make = transformers.BertForSequenceClassification
    recorder, _ = distilled(make(config()), Distillation(make(config()), KLDivergence(), 1.0, 0.0))
    assert all(step['total'] == step['kd'] > 0 for step in recorder.microbatches)


@pytest.mark.parametrize('settings', [{'org_loss_weight': 0.5}, {'org_loss_weight': 0.0, 'start_dur': 0.5}])
def test_where_the_loss_is_needed_it_is_said(settings):
    match = Match(mse, on='outputs.last_hidden_state')
    algorithm = Distillation(transformers.BertModel(config()), match, 1.0, **settings)
    with pytest.raises(ConfigError, match=r'no loss of its own.*last_hidden_state.*org_loss_weight=0'):
        distilled(transformers.BertModel(config()), algorithm)


def test_two_one_after_the_other():
    make = transformers.BertForSequenceClassification
    first = Distillation(make(config()), KLDivergence(), 1.0, 0.0, end_dur='1ba')
    second = Distillation(make(config()), KLDivergence(), 1.0, 0.0, start_dur='1ba')
    data = DataLoader(TokenDataset(input_ids=torch.randint(1, 20, (8, 6))), batch_size=4)
    recorder = Recorder()
    train(HuggingFaceModel(make(config()), metrics=[]), data, [first, second], [recorder])
    assert all(step['total'] == step['kd'] > 0 for step in recorder.microbatches)


class NoLoss(ComposerModel):
    def __init__(self):
        super().__init__()
        self.net = mlp(seed=1)

    def forward(self, batch):
        return self.net(batch[0])

    def loss(self, outputs, batch):
        return 0.0


def test_a_model_of_ones_own_may_return_zero():
    student, recorder = NoLoss(), Recorder()
    train(student, loader(*pairs()), [Distillation(mlp(), KLDivergence(), 1.0, 0.0)], [recorder])
    assert all(step['total'] == step['kd'] > 0 == step['task'] for step in recorder.microbatches)


class OfItsOwn(HuggingFaceModel):
    def loss(self, outputs, batch):
        return outputs['logits'].square().mean()


def test_a_loss_of_ones_own_is_left_alone():
    torch.manual_seed(3)
    make = transformers.BertForSequenceClassification
    data = DataLoader(TokenDataset(input_ids=torch.randint(1, 20, (8, 6))), batch_size=4)
    recorder = Recorder()
    train(OfItsOwn(make(config()), metrics=[]), data, [Distillation(make(config()), KLDivergence())], [recorder])
    assert all(step['task'] > 0 for step in recorder.microbatches)
