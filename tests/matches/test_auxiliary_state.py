"""What is learned beside a student that saves a part of itself alone, as one with adapters does."""

import warnings

import pytest
import torch
from composer.models import ComposerClassifier

from composer_kd import Distillation, Match
from composer_kd.losses import VID, hint
from tests.distilling import cnn, images
from tests.helpers import Recorder, TokenDataset, train, weights


class HeadAlone(ComposerClassifier):
    """Saves its last layer, and what else has a name that it knows."""

    def state_dict(self, *args, **options):
        whole = super().state_dict(*args, **options)
        return type(whole)((key, value) for key, value in whole.items() if key.startswith('module.7.'))


def run(folder=None, load=None, lr=0.1, **options):
    model, recorder = HeadAlone(cnn(4, 1), num_classes=4), Recorder()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(('module.7', 'module.3')))
    optimizer = torch.optim.Adam(list(model.module[7].parameters()), lr=lr)
    matches = [Match(hint, on='4', project='auto', lr=0.05), Match(VID(), on='3')]
    save = {'save_folder': str(folder), 'save_interval': '2ba'} if folder else {}
    done = train(model, images(), [Distillation(cnn(8, 2), matches)], [recorder], optimizer=optimizer,
                 max_duration='4ba', load_path=load, load_strict_model_weights=False, **save, **options)  # fmt: skip
    return done.state.model, recorder.batches


def test_it_is_saved_and_resumed(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='The checkpoint does not contain')
        straight, losses = run(tmp_path)
        resumed, rest = run(load=str(tmp_path / 'ep0-ba2-rank0.pt'))
    assert losses[2:] == rest
    assert torch.equal(weights(straight), weights(resumed))
    saved = torch.load(tmp_path / 'ep0-ba2-rank0.pt', weights_only=False)['state']
    assert {key.split('.')[0] for key in saved['model']} == {'module'}
    ((_, state),) = saved['algorithms']
    assert state['auxiliary'].keys() == {
        key for key, _ in straight.named_parameters() if key.startswith('composer_kd.')
    }


@pytest.mark.parametrize('what', ['weights only', 'an older checkpoint'])
def test_what_begins_anew_is_said(tmp_path, what):
    run(tmp_path)
    path = tmp_path / 'ep0-ba2-rank0.pt'
    if what == 'an older checkpoint':
        saved = torch.load(path, weights_only=False)
        saved['state']['algorithms'] = [(name, {}) for name, _ in saved['state']['algorithms']]
        torch.save(saved, path)
    with pytest.warns(UserWarning, match=r'does not contain.*composer_kd\.hint_4_0\.projector.*start anew'):
        run(load=str(path), load_weights_only=what == 'weights only')


def test_adapters_of_peft(tmp_path):
    peft, transformers = pytest.importorskip('peft'), pytest.importorskip('transformers')
    from composer.models import HuggingFaceModel

    data = TokenDataset(input_ids=torch.arange(128).reshape(16, 8) % 50, labels=torch.arange(128).reshape(16, 8) % 50)

    def gpt(width):
        sizes = {'vocab_size': 50, 'n_embd': width, 'n_layer': 1, 'n_head': 2, 'n_positions': 8}
        return transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**sizes, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
        )

    def adapted(**options):
        torch.manual_seed(1)
        config = peft.LoraConfig(task_type='CAUSAL_LM', target_modules=['c_attn'])
        model, recorder = HuggingFaceModel(gpt(16), use_logits=True, metrics=[], peft_config=config), Recorder()
        match = Match(hint, on=('base_model.model.transformer.h.0[0]', 'transformer.h.0[0]'), project='auto', name='h')
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
        loader = torch.utils.data.DataLoader(data, batch_size=4)
        train(model, loader, [Distillation(gpt(24), [match])], [recorder], optimizer=optimizer, max_duration='4ba',
              **options)  # fmt: skip
        return [batch['h'] for batch in recorder.batches]

    straight = adapted(save_folder=str(tmp_path), save_interval='2ba')
    assert adapted(load_path=str(tmp_path / 'ep0-ba2-rank0.pt')) == straight[2:]
