"""Input adapters: change the student's inputs for a teacher that was trained on others."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from composer_kd.errors import ConfigError
from composer_kd.pretrained import normalization_of

__all__ = ['InputAdapters', 'NormalizationAdapter', 'ResizeAdapter']


class NormalizationAdapter(nn.Module):
    r"""Converts images from the normalisation of the data pipeline to the one that the teacher was trained with.

    .. math:: x' = \frac{x \cdot \sigma_{original} + \mu_{original} - \mu_{required}}{\sigma_{required}}

    Args:
        mean_original: Mean per channel that the data pipeline subtracted.
        std_original: Standard deviation per channel that the data pipeline divided by.
        mean_required: Mean per channel that the teacher was trained with.
        std_required: Standard deviation per channel that the teacher was trained with.
        pretrained: In the place of these two: the folder of the teacher, or its name on the Hugging Face Hub, whose
            image processor says them; of timm's models its ``pretrained_cfg``.

    Raises:
        ConfigError: If ``pretrained`` says nothing of it, the four differ in length, a number is not finite, or a
            standard deviation is not positive.

    Example:
        >>> import torch
        >>> adapter = NormalizationAdapter([0.5], [0.5], [0.0], [1.0])  # from [-1, 1] to [0, 1]
        >>> adapter(torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1)).flatten().tolist()
        [0.0, 0.5, 1.0]
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        mean_original: Sequence[float],
        std_original: Sequence[float],
        mean_required: Sequence[float] | None = None,
        std_required: Sequence[float] | None = None,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        if pretrained is not None and mean_required is None and std_required is None:
            mean_required, std_required = normalization_of(pretrained)
        if mean_required is None or std_required is None:
            raise ConfigError(
                'NormalizationAdapter: give mean_required and std_required, or pretrained, the folder of the teacher'
            )
        given = [list(values) for values in (mean_original, std_original, mean_required, std_required)]
        if len({len(values) for values in given}) != 1 or not given[0]:
            raise ConfigError(
                'NormalizationAdapter: expected four sequences with one number per channel, got lengths '
                + ', '.join(str(len(values)) for values in given)
            )
        if any(not math.isfinite(value) for values in given for value in values):
            raise ConfigError(f'NormalizationAdapter: expected finite numbers, got {given}')
        if min(given[1]) <= 0 or min(given[3]) <= 0:
            raise ConfigError(
                f'NormalizationAdapter: standard deviations must be positive, got {given[1]} and {given[3]}'
            )
        mean_o, std_o, mean_r, std_r = (torch.tensor(values, dtype=torch.float64) for values in given)
        self.register_buffer('scale', (std_o / std_r).float().view(-1, 1, 1))
        self.register_buffer('shift', ((mean_o - mean_r) / std_r).float().view(-1, 1, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """Converts images ``(B, C, H, W)`` of any floating dtype, without changing ``inputs`` in place."""
        return torch.addcmul(self.shift.to(inputs.dtype), inputs, self.scale.to(inputs.dtype))


class ResizeAdapter(nn.Module):
    """Resizes images for a teacher that was trained at another resolution.

    Args:
        size: Height and width in pixels, or one number for both.
        mode: ``'bilinear'``, ``'bicubic'`` or ``'nearest'``, as in :func:`torch.nn.functional.interpolate`.

    Raises:
        ConfigError: If the size is not positive or the mode is unknown.

    Example:
        >>> import torch
        >>> ResizeAdapter(224)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3, 224, 224])
    """

    def __init__(self, size: int | Sequence[int], mode: str = 'bilinear') -> None:
        super().__init__()
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.mode = mode
        if len(self.size) != 2 or any(not isinstance(side, int) or side < 1 for side in self.size):
            raise ConfigError(f'ResizeAdapter: size must be a positive int or (height, width), got {size!r}')
        if mode not in ('bilinear', 'bicubic', 'nearest'):
            raise ConfigError(f"ResizeAdapter: mode must be 'bilinear', 'bicubic' or 'nearest', got {mode!r}")

    def forward(self, inputs: Tensor) -> Tensor:
        """Resizes ``(B, C, H, W)`` to ``(B, C, *size)``, with antialiasing (unless ``mode`` is ``'nearest'``)."""
        if inputs.shape[-2:] == self.size:
            return inputs
        return F.interpolate(inputs, size=self.size, mode=self.mode, antialias=self.mode != 'nearest')

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f'size={self.size}, mode={self.mode!r}'


class InputAdapters(nn.Module):
    """Applies several input adapters, one after the other.

    Args:
        adapters: Callables of the inputs, in this order.

    Example:
        >>> import torch
        >>> InputAdapters([torch.neg, torch.exp])(torch.zeros(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, adapters: Sequence[Callable[[Any], Any]]) -> None:
        super().__init__()
        self._modules_among = nn.ModuleList(one for one in adapters if isinstance(one, nn.Module))
        self._all = tuple(adapters)

    def forward(self, inputs: Any) -> Any:
        """Applies the adapters to the inputs."""
        for adapter in self._all:
            inputs = adapter(inputs)
        return inputs

    def extra_repr(self) -> str:
        """The names of the adapters in order, for ``repr``."""
        return ', '.join(getattr(one, '__qualname__', type(one).__qualname__) for one in self._all)
