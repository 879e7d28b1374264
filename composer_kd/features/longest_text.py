"""How long a text a model of transformers can read."""

from __future__ import annotations

from torch import nn

__all__ = ['longest_text', 'positions_count_padding']

_POSITIONS = ('position_embeddings', 'wpe', 'embed_positions', 'position_embedding')


def longest_text(net: nn.Module) -> int | None:
    """How many tokens the embeddings of absolute positions of a model allow for; None for a model without these."""
    return min((table.num_embeddings - _first_row(table) for table in _tables(net)), default=None)


def positions_count_padding(net: nn.Module) -> bool:
    """Whether padding before a text moves its tokens to other embeddings of absolute positions.

    RoBERTa and OPT, among others, count the tokens alone.
    """
    return any(table.padding_idx is None and not hasattr(table, 'offset') for table in _tables(net))


def _tables(net: nn.Module) -> list[nn.Embedding]:
    return [
        module
        for name, module in net.named_modules()
        if name.rpartition('.')[2] in _POSITIONS and isinstance(module, nn.Embedding)
    ]


def _first_row(table: nn.Embedding) -> int:
    """The row of the first token: RoBERTa and its kin count positions from the row after that of padding."""
    offset = getattr(table, 'offset', None)
    if isinstance(offset, int):
        return offset
    return 0 if table.padding_idx is None else table.padding_idx + 1
