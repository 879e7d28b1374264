"""Weights under names of an older version, which the module itself knows to read: its own hooks rename them."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ['is_translated']


def is_translated(module: nn.Module, weights: Mapping[str, Tensor], may_be_missing: frozenset[str]) -> bool:
    """Whether ``module.load_state_dict`` finds a place for all weights and leaves none of its own out.

    ``torch.nn.utils.parametrizations.weight_norm`` so reads ``weight_g`` and ``weight_v``, and torchvision's vision
    transformer ``mlp.linear_1``. Such hooks change what they are given, so a copy of the module is asked.

    Args:
        module: The module, which stays as it is.
        weights: The weights, by their names in the file.
        may_be_missing: Names of the module that need not be given.

    Example:
        >>> layer = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 3))
        >>> older = {'weight_g': torch.ones(3, 1), 'weight_v': torch.ones(3, 2), 'bias': torch.zeros(3)}
        >>> is_translated(layer, older, frozenset()), is_translated(torch.nn.Linear(2, 3), older, frozenset())
        (True, False)
    """
    if not all(_is_plain(tensor) for tensor in weights.values()):
        return False
    try:
        with torch.random.fork_rng(devices=[]):
            told = copy.deepcopy(module).load_state_dict(OrderedDict(weights), strict=False)
        return not told.unexpected_keys and may_be_missing.issuperset(told.missing_keys)
    except Exception:  # of another shape, a module that cannot be copied, or one that does not say what it found
        return False


def _is_plain(tensor: Tensor) -> bool:
    odd = tensor.is_nested or tensor.is_meta or tensor.is_quantized or tensor.is_complex()
    return not odd and tensor.layout is torch.strided
