"""The small residual networks for CIFAR of He et al. 2015, section 4.2 (arXiv 1512.03385)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.models.sizes import ImageSize, check_at_least, height_and_width

__all__ = ['CifarResNet', 'resnet110', 'resnet20', 'resnet32', 'resnet44', 'resnet56']


class _PaddedShortcut(nn.Module):
    """The paper's option A: subsamples with the stride of the block, and pads the channels with zeros on both sides."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.before = extra_channels // 2
        self.after = extra_channels - self.before
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and a parameter-free shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else _PaddedShortcut(out_channels - in_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet with ``depth = 6 n + 2`` layers for small images, with parameter-free shortcuts.

    It consists of a convolution, three stages of ``n`` blocks with ``width``, ``2 width`` and ``4 width`` channels (the
    second and third halve height and width), global average pooling, and a linear layer. Weights are initialised as in
    He et al. (arXiv 1502.01852). The submodules have the names (``conv1``, ``bn1``, ``layer1`` to ``layer3``,
    ``linear``) of widely used CIFAR-10 checkpoints, whose inputs are normalised with ``IMAGENET_MEAN`` and
    ``IMAGENET_STD`` of ``composer_kd.data``.

    Args:
        depth: Number of layers with weights: 8, 14, 20, 26, 32, ...
        in_channels: Colour channels of an image.
        image_size: Height and width in pixels; any size works, because of the global average pooling.
        num_classes: Number of logits.
        width: Channels of the first stage.

    Raises:
        ConfigError: If ``depth`` is not ``6 n + 2``, or a size is too small.

    Example:
        >>> import torch
        >>> model = CifarResNet(depth=20)
        >>> sum(parameter.numel() for parameter in model.parameters())
        269722
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        depth: int = 20,
        in_channels: int = 3,
        image_size: ImageSize = 32,
        num_classes: int = 10,
        width: int = 16,
    ) -> None:
        super().__init__()
        check_at_least(1, depth=depth, in_channels=in_channels, num_classes=num_classes, width=width)
        height_and_width(image_size)
        blocks, rest = divmod(depth - 2, 6)
        if blocks < 1 or rest:
            lower = 6 * max(blocks, 1) + 2
            raise ConfigError(f'depth: expected 6 n + 2 (8, 14, 20, ...), got {depth}; try {lower} or {lower + 6}.')

        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(width, width, blocks, stride=1)
        self.layer2 = _stage(width, 2 * width, blocks, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, blocks, stride=2)
        self.linear = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Images of shape ``(B, in_channels, H, W)``.

        Returns:
            Logits of shape ``(B, num_classes)``.
        """
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    first = _BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(_BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def resnet20(in_channels: int = 3, image_size: ImageSize = 32, num_classes: int = 10) -> CifarResNet:
    """CIFAR ResNet with 20 layers, 0.27 million parameters; for the arguments see `CifarResNet`.

    Example:
        >>> len(resnet20().layer1)
        3
    """
    return CifarResNet(20, in_channels, image_size, num_classes)


def resnet32(in_channels: int = 3, image_size: ImageSize = 32, num_classes: int = 10) -> CifarResNet:
    """CIFAR ResNet with 32 layers, 0.46 million parameters; for the arguments see `CifarResNet`.

    Example:
        >>> len(resnet32().layer1)
        5
    """
    return CifarResNet(32, in_channels, image_size, num_classes)


def resnet44(in_channels: int = 3, image_size: ImageSize = 32, num_classes: int = 10) -> CifarResNet:
    """CIFAR ResNet with 44 layers, 0.66 million parameters; for the arguments see `CifarResNet`.

    Example:
        >>> len(resnet44().layer1)
        7
    """
    return CifarResNet(44, in_channels, image_size, num_classes)


def resnet56(in_channels: int = 3, image_size: ImageSize = 32, num_classes: int = 10) -> CifarResNet:
    """CIFAR ResNet with 56 layers, 0.85 million parameters; for the arguments see `CifarResNet`.

    Example:
        >>> len(resnet56().layer1)
        9
    """
    return CifarResNet(56, in_channels, image_size, num_classes)


def resnet110(in_channels: int = 3, image_size: ImageSize = 32, num_classes: int = 10) -> CifarResNet:
    """CIFAR ResNet with 110 layers, 1.7 million parameters; for the arguments see `CifarResNet`.

    Example:
        >>> len(resnet110().layer1)
        18
    """
    return CifarResNet(110, in_channels, image_size, num_classes)
