from __future__ import annotations

import urllib.error

import pytest
import torch
import torchvision

from composer_kd.errors import ConfigError
from composer_kd.models import imagenet, resnet18, resnet34, resnet50, torchvision_model


@pytest.mark.parametrize(('build', 'parameters'), [(resnet18, 11_173_962), (resnet34, 21_282_122)])
def test_number_of_parameters_with_the_small_stem(build, parameters):
    assert sum(parameter.numel() for parameter in build().parameters()) == parameters


@pytest.mark.parametrize('build', [resnet18, resnet50])
def test_channels_and_classes(build):
    model = build(in_channels=1, image_size=8, num_classes=7).eval()
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 7)
    assert model.num_classes == 7


def test_the_small_stem_keeps_the_image_and_the_large_one_quarters_it():
    seen = {}
    for small in (True, False):
        model = resnet18(cifar_stem=small)
        model.layer1.register_forward_hook(lambda m, i, output, key=small: seen.update({key: output.shape[-1]}))
        model(torch.randn(2, 3, 32, 32))
    assert seen == {True: 32, False: 8}


def test_the_large_stem_is_torchvisions_own_network():
    ours, theirs = (
        resnet18(num_classes=5, cifar_stem=False).eval(),
        torchvision.models.resnet18(num_classes=5),
    )
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ('architecture', 'channels', 'pixels', 'options'),
    [
        ('squeezenet1_1', 1, 64, {}),
        ('mobilenet_v3_small', 4, 32, {}),
        ('shufflenet_v2_x0_5', 3, 32, {}),
        ('googlenet', 1, 64, {'init_weights': False}),
    ],
)
def test_any_architecture_in_training(architecture, channels, pixels, options):
    model = torchvision_model(architecture, num_classes=7, in_channels=channels, **options)
    logits = model(torch.randn(2, channels, pixels, pixels))
    assert logits.shape == (2, 7)
    assert model.num_classes == 7
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_options_reach_the_architecture():
    model = torchvision_model('squeezenet1_1', dropout=0.25)
    assert model.classifier[0].p == 0.25


@pytest.fixture
def downloaded(monkeypatch, tmp_path):
    """Plays the network: weights come from a random network of a thousand classes."""
    original = torchvision.models.squeezenet1_1(weights=None)
    kind = type(torchvision.models.get_model_weights('squeezenet1_1').DEFAULT)
    monkeypatch.setattr(kind, 'get_state_dict', lambda self, *args, **kwargs: original.state_dict())
    return original.eval()


def test_pretrained_weights_keep_their_head_for_their_own_classes(downloaded):
    model = torchvision_model('squeezenet1_1', num_classes=1000, weights='DEFAULT').eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(model(x), downloaded(x))


def test_pretrained_weights_get_a_fresh_head_for_other_classes(downloaded):
    model = torchvision_model('squeezenet1_1', num_classes=7, weights='IMAGENET1K_V1').eval()
    x = torch.randn(2, 3, 64, 64)
    assert model(x).shape == (2, 7)
    assert torch.equal(model.features(x), downloaded.features(x))


def test_pretrained_weights_answer_a_grey_image_as_before(downloaded):
    model = torchvision_model('squeezenet1_1', num_classes=1000, in_channels=1, weights='DEFAULT').eval()
    grey = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(model(grey), downloaded(grey.expand(-1, 3, -1, -1)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('error', [urllib.error.URLError('no network'), RuntimeError('invalid hash value')])
def test_a_failed_download_says_what_to_do(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', fail)
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', fail)
    with pytest.raises(ConfigError, match=r'(?s)downloaded from https://.*squeezenet1_1.*Put that file into .*') as got:
        torchvision_model('squeezenet1_1', weights='DEFAULT')
    assert type(error).__name__ in str(got.value)
    assert 'leave weights out' in str(got.value)


def test_unknown_names_list_the_nearest():
    with pytest.raises(ConfigError, match=r"got 'resnet81'; did you mean 'resnet18'"):
        torchvision_model('resnet81')
    with pytest.raises(ConfigError, match=r"classification models, got 'fcn_resnet50'"):
        torchvision_model('fcn_resnet50')
    with pytest.raises(ConfigError, match=r"got 'IMAGENET1K_V3'; did you mean 'IMAGENET1K_V[12]'"):
        torchvision_model('resnet50', weights='IMAGENET1K_V3')


def test_an_unknown_option_is_refused():
    with pytest.raises(ConfigError, match=r"'squeezenet1_1' does not take these options: .*drop_out"):
        torchvision_model('squeezenet1_1', drop_out=0.1)


def test_every_weighted_head_is_found():
    for architecture in ('vit_b_16', 'densenet121', 'convnext_tiny', 'squeezenet1_0', 'alexnet'):
        with torch.device('meta'):
            model = torchvision.models.get_model(architecture, weights=None).eval()
            imagenet._fit_last_layer(model, 7)
            assert model(torch.randn(1, 3, 224, 224)).shape == (1, 7), architecture
