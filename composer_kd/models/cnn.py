"""Two plain convolutional networks: a deep one as teacher and a shallow one as student.

They have the widths of PyTorch's knowledge distillation tutorial, so that results can be compared with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.models.sizes import ImageSize, check_at_least, height_and_width

__all__ = ['DeepCNN', 'ShallowCNN']


class _TwoStageCNN(nn.Module):
    """Two stages of 3x3 convolutions, each followed by a 2x2 max-pool, then two fully connected layers."""

    stages: tuple[Sequence[int], ...]  # the width of each convolution
    hidden: int

    def __init__(
        self,
        in_channels: int = 3,
        image_size: ImageSize = 32,
        num_classes: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least(1, in_channels=in_channels, num_classes=num_classes)
        height, width = height_and_width(image_size, least=2 ** len(self.stages))
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f'dropout: expected a probability in [0, 1), got {dropout!r}.')

        layers: list[nn.Module] = []
        channels = in_channels
        for stage in self.stages:
            for out_channels in stage:
                layers += [nn.Conv2d(channels, out_channels, kernel_size=3, padding=1), nn.ReLU()]
                channels = out_channels
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2

        self.num_classes = num_classes
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * height * width, self.hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(self.hidden, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Images of shape ``(B, in_channels, H, W)``.

        Returns:
            Logits of shape ``(B, num_classes)``.
        """
        return self.classifier(self.features(x))


class ShallowCNN(_TwoStageCNN):
    """Two 3x3 convolutions of 16 channels, each with a max-pool, and a hidden layer of 256: a small student.

    It has 267,738 parameters for ten classes of 32x32 colour images.

    Args:
        in_channels: Colour channels of an image.
        image_size: Height and width in pixels, at least 4: one number, or ``(height, width)``.
        num_classes: Number of logits.
        dropout: Probability with which a hidden unit is dropped in training.

    Raises:
        ConfigError: If a size is too small, or ``dropout`` is outside [0, 1).

    Example:
        >>> import torch
        >>> model = ShallowCNN()
        >>> sum(parameter.numel() for parameter in model.parameters())
        267738
        >>> ShallowCNN(in_channels=1, image_size=8, num_classes=4)(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 4])
    """

    stages = ((16,), (16,))
    hidden = 256


class DeepCNN(_TwoStageCNN):
    """Four 3x3 convolutions (128, 64, 64, 32 channels) and a hidden layer of 512: a small teacher.

    A max-pool follows the second and the fourth convolution. It has 1,186,986 parameters for ten classes of 32x32
    colour images.

    Args:
        in_channels: Colour channels of an image.
        image_size: Height and width in pixels, at least 4: one number, or ``(height, width)``.
        num_classes: Number of logits.
        dropout: Probability with which a hidden unit is dropped in training.

    Raises:
        ConfigError: If a size is too small, or ``dropout`` is outside [0, 1).

    Example:
        >>> import torch
        >>> model = DeepCNN()
        >>> sum(parameter.numel() for parameter in model.parameters())
        1186986
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    stages = ((128, 64), (64, 32))
    hidden = 512
