"""Peers and exits in a run's YAML, before anything is built."""

from __future__ import annotations

import pytest
import torch
import transformers
from composer.models import HuggingFaceModel
from omegaconf import OmegaConf

from composer_kd import KLDivergence, MutualLearning, SelfDistillation
from composer_kd.config.construct import construct_or_say
from composer_kd.config.effects import changes_result
from composer_kd.config.load import as_mapping, load_config
from composer_kd.errors import CheckpointNotFoundError, ConfigError
from composer_kd.losses import DKD
from composer_kd.teachers.adapters import InputAdapters

MUTUAL, SELF = 'yamls/digits/mutual.yaml', 'yamls/digits/self.yaml'
PEERS = 'algorithms.mutual_learning.peers'
MODEL = '{name: ShallowCNN, in_channels: 1, image_size: 8, num_classes: 10}'


def refusal(file, *overrides):
    with pytest.raises(ConfigError) as said:
        load_config(file, overrides)
    return str(said.value)


def algorithm(file, *overrides):
    (part,) = load_config(file, overrides).algorithms.values()
    return construct_or_say(part)


def test_they_become_what_a_script_passes():
    mutual = algorithm(MUTUAL, 'algorithms.mutual_learning.kd_loss_fn={name: DKD, alpha: 2.0}')
    assert isinstance(mutual, MutualLearning)
    assert [peer.name for peer in mutual.peers] == ['deep', 'twin']
    assert [peer.lr for peer in mutual.peers] == [
        None,
        load_config(MUTUAL).algorithms['mutual_learning'].options['peers'][1].lr,
    ]
    assert isinstance(mutual._adapters[0].loss, DKD)
    own = algorithm(SELF, 'algorithms.self_distillation.hint_weight=0.5')
    assert isinstance(own, SelfDistillation)
    assert [one.layer for one in own.exits] == ['layer1', 'layer2']
    assert (own.hint_weight, own._adapters[0].loss.temperature) == (0.5, 3.0)
    assert isinstance(algorithm(MUTUAL, 'algorithms.mutual_learning.kd_loss_fn=null')._adapters[0].loss, KLDivergence)


def test_the_short_forms():
    mutual = algorithm(MUTUAL, f'{PEERS}={{model: {MODEL}}}')
    assert [(peer.name, peer.lr) for peer in mutual.peers] == [('ShallowCNN', None)]
    resized = '{name: ResizeAdapter, size: 8}'
    second = f'{{model: {MODEL}, input_adapter: [{resized}, {resized}]}}'
    mutual = algorithm(MUTUAL, f'{PEERS}=[{{model: {MODEL}}}, {second}]')
    assert [peer.name for peer in mutual.peers] == ['ShallowCNN', 'ShallowCNN-2']
    assert isinstance(mutual.peers[1].input_adapter, InputAdapters)


def test_they_survive_being_written_and_read(tmp_path):
    for file in (MUTUAL, SELF):
        config = load_config(file)
        OmegaConf.save(OmegaConf.create(as_mapping(config)), tmp_path / 'config.yaml')
        assert load_config(tmp_path / 'config.yaml') == config


def test_all_faults_are_said_together():
    said = refusal(
        MUTUAL,
        f'{PEERS}.0.nmae=a',
        f'{PEERS}.0.model.imgae_size=8',
        f'{PEERS}.1.lr=-0.1',
        f'{PEERS}.1.entry=ema',
        'algorithms.mutual_learning.kd_loss_fn={name: KLDivergense}',
        'algorithms.mutual_learning.kd_loss_weigth=1',
        'optimizer.lrr=1',
    )
    for fault in (
        f"{PEERS}.0.nmae: unknown key; did you mean 'name'?",
        f"{PEERS}.0.model.imgae_size: unknown option of DeepCNN; did you mean 'image_size'?",
        f'{PEERS}.1.lr: expected a number or null that is positive, got -0.1',
        "mutual_learning.kd_loss_fn: unknown distillation loss 'KLDivergense'; did you mean 'KLDivergence'",
        "mutual_learning.kd_loss_weigth: unknown option of MutualLearning; did you mean 'kd_loss_weight'",
        "optimizer.lrr: unknown option of DecoupledSGDW; did you mean 'lr'?",
        '6 faults',
    ):
        assert fault in said
    assert f'{PEERS}.1.entry: names weights in a checkpoint, and there is none' in refusal(MUTUAL, f'{PEERS}.1.entry=a')


@pytest.mark.parametrize(
    ('written', 'fault'),
    [
        ('[]', 'expected at least one entry, got an empty list'),
        ('[a]', '.0: expected a mapping with the keys model, checkpoint, entry, input_adapter, name, lr'),
        ('[{name: a}]', '.0.model: required key is missing'),
        (f'[{{model: {MODEL}, checkpoint: 3}}]', '.0.checkpoint: expected a string or null'),
    ],
)
def test_what_is_no_peer(written, fault):
    assert f'{PEERS}{fault}' in refusal(MUTUAL, f'{PEERS}={written}').replace(
        f'{PEERS}: expected at', f'{PEERS}expected at'
    )


def test_exits_are_different_layers():
    exits = 'algorithms.self_distillation.exits'
    assert f'{exits}: expected a list (each a string)' in refusal(SELF, f'{exits}=layer1')
    for written in ('[]', '[layer1, layer1]'):
        assert 'expected a list of different layers' in refusal(SELF, f'{exits}={written}')
    assert 'hint_weight must be a finite number of 0 or more' in refusal(
        SELF, 'algorithms.self_distillation.hint_weight=-1.0'
    )


def test_a_loss_that_learns_something_is_refused():
    said = refusal(MUTUAL, 'algorithms.mutual_learning.kd_loss_fn=VID')
    assert 'algorithms.mutual_learning.kd_loss_fn: VID has parameters to train' in said


def test_a_name_is_no_path():
    said = refusal(MUTUAL, f'{PEERS}.0.name=../deep')
    assert '1 fault' in said
    assert f"{PEERS}.0.name: expected a string or null that is without '/', got '../deep'" in said


def test_every_key_of_a_peer_changes_the_result():
    assert all(changes_result(f'{PEERS}.0.{key}') for key in ('model.name', 'checkpoint', 'lr', 'input_adapter'))


def test_a_secret_in_a_peer_is_written_nowhere(monkeypatch, tmp_path):
    monkeypatch.setenv('PEER_PLACE', 's3cr3tplace')
    config = load_config(MUTUAL, [f'{PEERS}.0.checkpoint=${{oc.env:PEER_PLACE}}'])
    assert config.algorithms['mutual_learning'].options['peers'][0].checkpoint == 's3cr3tplace'
    written = as_mapping(config)['algorithms']['mutual_learning']['peers'][0]
    assert written['checkpoint'] == '${oc.env:PEER_PLACE}'
    with pytest.raises(CheckpointNotFoundError):
        construct_or_say(config.algorithms['mutual_learning'])


def test_weights_that_a_peer_starts_from(tmp_path):
    torch.manual_seed(5)
    torch.save(algorithm(MUTUAL).peers[1].model.state_dict(), tmp_path / 'a.pt')
    started = algorithm(MUTUAL, f'{PEERS}.1.checkpoint={tmp_path}/a.pt').peers[1].model.state_dict()
    assert all(torch.equal(value, started[key]) for key, value in torch.load(tmp_path / 'a.pt').items())


def hugging_face() -> HuggingFaceModel:
    config = transformers.BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    return HuggingFaceModel(transformers.BertForSequenceClassification(config))


def test_an_adapter_that_a_peer_cannot_have_is_refused_with_its_key():
    written = '{model: {name: tests.config.test_peers.hugging_face}, input_adapter: {name: ResizeAdapter, size: 8}}'
    with pytest.raises(
        ConfigError, match=r'algorithms\.mutual_learning\.peers\.1: Peer: a ComposerModel gets the whole'
    ):
        algorithm(MUTUAL, f'{PEERS}=[{{model: {MODEL}}}, {written}]')
