"""A loss on the first token of each sample, such as [CLS]."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.losses._common import check_tensors, described, valid
from composer_kd.losses.feature_maps import normalized_mse

__all__ = ['FirstToken', 'first_token']


def first_token(features: Tensor, mask: Tensor | None = None) -> Tensor:
    """Takes the feature of the first token of each sample.

    Args:
        features: Hidden states ``(B, S, D)``; vectors ``(B, D)`` are returned unchanged.
        mask: Booleans (or integers 0 and 1), ``(B, S)`` or flat: the tokens that count, of which the first is taken.
            It is another than the first of all where padding comes before the text.

    Returns:
        ``(B, D)``.

    Raises:
        ValueError: If the features have no tokens, or the mask does not fit.

    Example:
        >>> import torch
        >>> states = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
        >>> first_token(states, torch.tensor([[True, True], [False, True]])).tolist()
        [[1.0], [4.0]]
    """
    if features.ndim == 2:
        return features
    if features.ndim != 3:
        raise ValueError(f'FirstToken: expected hidden states (B, S, D), got {described(features)}')
    if mask is None:
        return features[:, 0]
    first = valid('FirstToken', mask, features.shape[:2]).int().argmax(1)
    return features[torch.arange(len(features), device=features.device), first]


class FirstToken(nn.Module):
    r"""Applies a loss to the hidden states of each sample's first token, such as [CLS].

    Sun et al., *Patient Knowledge Distillation for BERT Model Compression* (arXiv 1908.09355), compare this token
    alone, because BERT's classifier reads it. One match for each layer::

        Match(FirstToken(), on=('bert.encoder.layer.0[0]', 'bert.encoder.layer.1[0]'), weight=100.0)

    Only the vectors of these tokens are kept of the teacher's hidden states, and a projector maps them alone: features
    are reduced by :func:`first_token` (the attribute ``summary``) as soon as a layer has run.

    Args:
        loss: A loss of vectors ``(B, D)``; :func:`.normalized_mse`, the paper's, if ``None``.

    Attributes:
        wrapped: The loss. Inspect its signature, instead of this module's, for the arguments that it takes.

    Raises:
        ValueError: If the loss is not callable.

    Example:
        >>> import torch
        >>> student, teacher = torch.eye(2)[None], torch.ones(1, 2, 2)  # (1, 0) first, and (1, 1)
        >>> round(FirstToken()(student, teacher).item(), 4)  # 2 - 2 cos 45 degrees
        0.5858
    """

    summary = staticmethod(first_token)
    of_features_alone = True

    def __init__(self, loss: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        if loss is not None and (not callable(loss) or isinstance(loss, type)):
            raise ValueError(f'FirstToken: expected a callable (student, teacher) -> scalar, got {loss!r}')
        self.wrapped: Any = normalized_mse if loss is None else loss

    def forward(self, student: Tensor, teacher: Tensor, **options: Any) -> Tensor:
        """Computes the loss of the first tokens.

        Args:
            student: Hidden states ``(B, S, D)``, or already those of the first tokens, ``(B, D)``.
            teacher: Hidden states of the same samples, likewise.
            options: Further arguments of the wrapped loss: labels, index.

        Returns:
            The value of the wrapped loss, with its dtype, reduction and scale.
        """
        check_tensors('FirstToken', student, teacher)
        return self.wrapped(first_token(student), first_token(teacher), **options)
