"""Torchvision's classification models, adapted to other channels and classes, and to small images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torchvision
from torch import nn

from composer_kd.errors import ConfigError, nearest
from composer_kd.models.sizes import ImageSize, check_at_least, height_and_width

__all__ = ['resnet18', 'resnet34', 'resnet50', 'torchvision_model']

AUXILIARY_HEADS = ('AuxLogits', 'aux1', 'aux2')  # with these, the output in training is a tuple


def resnet18(
    in_channels: int = 3, image_size: ImageSize = 32, num_classes: int = 10, cifar_stem: bool = True
) -> nn.Module:
    """Torchvision's ResNet-18 with random weights, by default with a first layer for small images.

    Args:
        in_channels: Colour channels of an image.
        image_size: Height and width in pixels; any size works, because of the global average pooling.
        num_classes: Number of logits.
        cifar_stem: Whether to start with a 3x3 convolution of stride 1 without max-pool, which keeps the resolution of
            32x32 images. False uses ImageNet's 7x7 convolution of stride 2 with max-pool.

    Returns:
        A module with the layers ``conv1``, ``layer1`` to ``layer4`` and ``fc``, which maps ``(B, in_channels, H, W)``
        to ``(B, num_classes)``.

    Raises:
        ConfigError: If a size is too small.

    Example:
        >>> model = resnet18()
        >>> sum(parameter.numel() for parameter in model.parameters())
        11173962
    """
    return _resnet(torchvision.models.resnet18, in_channels, image_size, num_classes, cifar_stem)


def resnet34(
    in_channels: int = 3, image_size: ImageSize = 32, num_classes: int = 10, cifar_stem: bool = True
) -> nn.Module:
    """Torchvision's ResNet-34; for the arguments see `resnet18`.

    Example:
        >>> sum(parameter.numel() for parameter in resnet34().parameters())
        21282122
    """
    return _resnet(torchvision.models.resnet34, in_channels, image_size, num_classes, cifar_stem)


def resnet50(
    in_channels: int = 3, image_size: ImageSize = 32, num_classes: int = 10, cifar_stem: bool = True
) -> nn.Module:
    """Torchvision's ResNet-50; for the arguments see `resnet18`.

    Example:
        >>> sum(parameter.numel() for parameter in resnet50().parameters())
        23520842
    """
    return _resnet(torchvision.models.resnet50, in_channels, image_size, num_classes, cifar_stem)


def torchvision_model(
    architecture: str,
    num_classes: int = 10,
    in_channels: int = 3,
    weights: str | None = None,
    **options: Any,
) -> nn.Module:
    """Builds one of torchvision's classification models by its name.

    If ``in_channels`` is not 3, the first convolution gets new weights; with pretrained weights, these are the mean of
    the pretrained filters over the channels, rescaled. If pretrained weights have another number of classes, the last
    layer is initialised at random. Auxiliary heads (GoogLeNet, Inception) are removed, so that the output is always the
    logits.

    Args:
        architecture: A name in ``torchvision.models.list_models(module=torchvision.models)``.
        num_classes: Number of logits.
        in_channels: Colour channels of an image.
        weights: Pretrained weights, such as ``'DEFAULT'`` or ``'IMAGENET1K_V1'``, downloaded once into torch's hub
            folder; None for random weights.
        **options: Further arguments of the architecture, such as ``dropout`` or ``image_size``.

    Returns:
        A module that maps ``(B, in_channels, H, W)`` to ``(B, num_classes)``.

    Raises:
        ConfigError: If the architecture, the weights or an option is unknown, a size is too small, or the download of
            the weights fails.

    Example:
        >>> import torch
        >>> model = torchvision_model('squeezenet1_1', num_classes=7, in_channels=1)
        >>> model(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 7])
        >>> torchvision_model('squeezenet1_2')
        Traceback (most recent call last):
        composer_kd.errors.ConfigError: architecture: expected one of torchvision's classification models, \
got 'squeezenet1_2'; did you mean 'squeezenet1_1' or 'squeezenet1_0'?
    """
    check_at_least(1, num_classes=num_classes, in_channels=in_channels)
    known = torchvision.models.list_models(module=torchvision.models)
    if architecture not in known:
        raise ConfigError(
            "architecture: expected one of torchvision's classification models, "
            f'got {architecture!r}{nearest(str(architecture), known)}'
        )
    if weights is None:
        model = _build(architecture, num_classes=num_classes, **options)
    else:
        model = _pretrained(architecture, weights, options)
        _fit_last_layer(model, num_classes)

    for name in AUXILIARY_HEADS:
        if hasattr(model, name):
            setattr(model, name, None)
            model.aux_logits = False
    if in_channels != 3:
        _fit_first_convolution(model, in_channels, keep_filters=weights is not None)
    model.num_classes = num_classes
    return model


def _resnet(
    build: Callable[..., Any],
    in_channels: int,
    image_size: ImageSize,
    num_classes: int,
    cifar_stem: bool,
) -> nn.Module:
    check_at_least(1, in_channels=in_channels, num_classes=num_classes)
    height_and_width(image_size)
    model = build(weights=None, num_classes=num_classes)
    if cifar_stem:
        model.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
        model.maxpool = nn.Identity()
    else:
        model.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode='fan_out', nonlinearity='relu')
    model.num_classes = num_classes
    return model


def _build(architecture: str, **options: Any) -> Any:
    try:
        return torchvision.models.get_model(architecture, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'architecture {architecture!r} does not take these options: {error}') from error


def _pretrained(architecture: str, weights: str, options: dict[str, Any]) -> Any:
    """Builds a model with pretrained weights from torch's hub, with the number of classes of those weights."""
    published = torchvision.models.get_model_weights(architecture)
    names = [*published.__members__, 'DEFAULT']
    name = str(weights).removeprefix(f'{published.__name__}.')
    if name not in names:
        raise ConfigError(
            f'weights of {architecture!r}: expected one of {names}, got {weights!r}{nearest(name, names)}'
        )
    entry = published[name]
    try:
        return torchvision.models.get_model(architecture, weights=entry, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f'architecture {architecture!r} does not take these options: {error}') from error
    except (OSError, RuntimeError) as error:  # no network, or a broken download
        raise ConfigError(
            f'weights {name!r} of {architecture!r}: expected them to be downloaded from {entry.url}, '
            f'got {type(error).__name__}: {error}. Put that file into {torch.hub.get_dir()}/checkpoints, or '
            'leave weights out to start from random ones.'
        ) from error


def _fit_last_layer(model: nn.Module, num_classes: int) -> None:
    """Replaces the last layer by a randomly initialised one if its number of classes differs."""
    last = [module for module in model.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    if last.weight.shape[0] == num_classes:
        return
    last.weight = nn.Parameter(last.weight.new_empty(num_classes, *last.weight.shape[1:]))
    if last.bias is not None:
        last.bias = nn.Parameter(last.bias.new_empty(num_classes))
    setattr(last, 'out_features' if isinstance(last, nn.Linear) else 'out_channels', num_classes)
    last.reset_parameters()


def _fit_first_convolution(model: Any, in_channels: int, keep_filters: bool) -> None:
    """Changes the input channels of the first convolution and keeps the scale of its output."""
    first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    weight = first.weight.detach()
    if keep_filters:  # the output for a grey image stays the same
        mean = weight.mean(dim=1, keepdim=True) * (first.in_channels / in_channels)
        fitted = mean.repeat(1, in_channels, 1, 1)
    else:
        fitted = torch.randn(weight.shape[0], in_channels, *weight.shape[2:]) * weight.std()
    first.weight = nn.Parameter(fitted)
    first.in_channels = in_channels
    if hasattr(model, 'transform_input'):
        model.transform_input = False  # GoogLeNet's and Inception's rescaling of red, green and blue
