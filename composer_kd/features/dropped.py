"""Blocks that a model leaves out at random in training (LayerDrop): their features are not there in every batch."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

__all__ = ['dropped_blocks']

# How transformers and fairseq, torchaudio, and speechbrain name the rate in the module that holds the blocks.
_RATES = ('layerdrop', 'layer_drop', 'layerdrop_prob')


def dropped_blocks(model: nn.Module) -> dict[str, float]:
    """Finds the blocks that a model leaves out at random in training.

    They are the entries of a ``ModuleList`` in a module that has a rate above 0: an attribute of its own, or
    ``config.layerdrop`` beside a list called ``layers``, as in speech models of transformers.

    Args:
        model: The model.

    Returns:
        The rate by the full name of each block; empty if every block runs in each forward pass.

    Example:
        >>> class Encoder(nn.Module):
        ...     def __init__(self, layerdrop):
        ...         super().__init__()
        ...         self.layerdrop, self.layers = layerdrop, nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        >>> dropped_blocks(nn.Sequential(Encoder(0.1))), dropped_blocks(Encoder(0.0))
        ({'0.layers.0': 0.1, '0.layers.1': 0.1}, {})
    """
    found = {}
    for path, part in model.named_modules():
        for name, rate in _dropped_lists(part):
            prefix = f'{path}.{name}' if path else name
            found.update({f'{prefix}.{number}': rate for number in range(len(getattr(part, name)))})
    return found


def _dropped_lists(part: nn.Module) -> Iterator[tuple[str, float]]:
    """The lists of blocks in a module of which some are left out, with the rate."""
    own = next((vars(part)[name] for name in _RATES if name in vars(part)), None)
    of_config = getattr(vars(part).get('config'), 'layerdrop', None)
    for name, child in part.named_children():
        rate = of_config if own is None and name == 'layers' else own
        if isinstance(child, nn.ModuleList) and isinstance(rate, (int, float)) and rate > 0:
            yield name, float(rate)
