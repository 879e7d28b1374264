"""A recurrent network that reads an image row by row."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError, nearest
from composer_kd.models.sizes import ImageSize, check_at_least, height_and_width

__all__ = ['ImageRNN']

CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {'lstm': nn.LSTM, 'gru': nn.GRU}


class ImageRNN(nn.Module):
    """Reads an image from top to bottom, one row per step, and classifies it from the last hidden state.

    The input of a step is one row of ``in_channels * W`` numbers. A linear layer computes the logits from the last
    hidden state of the top layer. With ``bidirectional``, a second pass reads from bottom to top, and the last hidden
    states of both passes are concatenated.

    Args:
        in_channels: Colour channels of an image.
        image_size: Height and width in pixels: one number, or ``(height, width)``.
        num_classes: Number of logits.
        hidden_size: Size of the hidden state of each direction.
        num_layers: Number of stacked recurrent layers.
        cell: ``'lstm'`` or ``'gru'``.
        bidirectional: Whether to read from bottom to top as well.

    Raises:
        ConfigError: If ``cell`` is unknown or a size is too small.

    Example:
        >>> import torch
        >>> model = ImageRNN(in_channels=1, image_size=(28, 20), hidden_size=64, cell='gru')
        >>> model(torch.zeros(5, 1, 28, 20)).shape
        torch.Size([5, 10])
        >>> sum(parameter.numel() for parameter in model.parameters())
        17162
    """

    def __init__(
        self,
        in_channels: int = 3,
        image_size: ImageSize = 32,
        num_classes: int = 10,
        hidden_size: int = 128,
        num_layers: int = 1,
        cell: str = 'lstm',
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        check_at_least(
            1,
            in_channels=in_channels,
            num_classes=num_classes,
            hidden_size=hidden_size,
            num_layers=num_layers,
        )
        if cell not in CELLS:
            raise ConfigError(f'cell: expected a recurrent cell, got {cell!r}{nearest(str(cell), CELLS)}')
        _, width = height_and_width(image_size)

        self.num_classes = num_classes
        self.hidden_size = hidden_size
        self.rnn = CELLS[cell](
            input_size=in_channels * width,
            hidden_size=hidden_size,
            num_layers=num_layers,
            batch_first=True,
            bidirectional=bidirectional,
        )
        self.linear = nn.Linear(hidden_size * (2 if bidirectional else 1), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Computes logits.

        Args:
            x: Images of shape ``(B, in_channels, H, W)``.

        Returns:
            Logits of shape ``(B, num_classes)``.
        """
        rows = x.transpose(1, 2).flatten(2)  # (B, H, C * W)
        states, _ = self.rnn(rows)  # (B, H, directions * hidden_size)
        downwards, upwards = states.split([self.hidden_size, states.shape[2] - self.hidden_size], dim=2)
        return self.linear(torch.cat([downwards[:, -1], upwards[:, 0]], dim=1))
