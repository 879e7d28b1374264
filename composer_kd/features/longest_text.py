"""How long a text a model of transformers can read."""

from __future__ import annotations

from torch import nn

__all__ = ['longest_text']

_POSITIONS = ('position_embeddings', 'wpe', 'embed_positions', 'position_embedding')


def longest_text(net: nn.Module) -> int | None:
    """How many tokens the embeddings of absolute positions of a model allow for; None for a model without these."""
    tables = [
        module
        for name, module in net.named_modules()
        if name.rpartition('.')[2] in _POSITIONS and isinstance(module, nn.Embedding)
    ]
    return min((table.num_embeddings - _first_row(table) for table in tables), default=None)


def _first_row(table: nn.Embedding) -> int:
    """The row of the first token: RoBERTa and its kin count positions from the row after that of padding."""
    offset = getattr(table, 'offset', None)
    if isinstance(offset, int):
        return offset
    return 0 if table.padding_idx is None else table.padding_idx + 1
