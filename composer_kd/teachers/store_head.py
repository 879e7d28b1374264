"""The last layer of a teacher whose hidden states are stored: found, checked, and kept in the store."""

from __future__ import annotations

import io
import os
import pathlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError, StoreError, TeacherError
from composer_kd.features.hooks import FeatureHooks
from composer_kd.stores.files import own_file, room_for, write_durably
from composer_kd.teachers.readers import read_content

__all__ = ['HEAD_FILE', 'Head', 'check_head', 'find_head', 'keep_head', 'kept_head']

HEAD_FILE = 'head.pt'
"""The weights of the last layer, in the folder of the store."""

_TOLERANCE = 1e-2  # of the largest logit: more than half precision differs from run to run


@dataclass(frozen=True)
class Head:
    """A linear last layer: its path, and the size of the hidden state that it takes."""

    path: str
    width: int


def find_head(model: nn.Module, path: str | None = None) -> Head:
    """Finds a model's last layer: what it says by ``get_output_embeddings()``, or its last linear layer.

    That it makes the logits is seen when the teacher runs (:func:`check_head`).

    Args:
        model: The model.
        path: Its path; None to find it.

    Raises:
        ConfigError: If there is no such layer, or it is not linear.

    Example:
        >>> find_head(nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3)))
        Head(path='2', width=4)
    """
    if path is not None:
        (name,) = FeatureHooks(model, [(path, None)], 'the teacher').module_names().values()
        module = model.get_submodule(name)
        if type(module) is not nn.Linear:
            raise ConfigError(
                f'--head: {path!r} is a {type(module).__name__}; expected a linear layer, whose weights a store keeps'
            )
        return Head(path, module.in_features)
    inner = next((one for one in (model, getattr(model, 'model', None)) if hasattr(one, 'get_output_embeddings')), None)
    ask: Any = getattr(inner, 'get_output_embeddings', None)
    said = None if ask is None else ask()
    linear = [(name, module) for name, module in model.named_modules() if type(module) is nn.Linear and name]
    found = [Head(name, module.in_features) for name, module in linear if said in (None, module)]
    if not found:
        raise ConfigError(
            f'--head: {type(model).__name__} has no linear last layer whose input could be stored; store --format dense'
        )
    return found[-1]


def check_head(head: nn.Module, hidden: Tensor, logits: Tensor, path: str) -> None:
    """Checks that the last layer makes the logits of its input, with nothing after it.

    Raises:
        TeacherError: If it makes others.

    Example:
        >>> net, x = nn.Linear(2, 3), torch.ones(1, 2)
        >>> check_head(net, x, net(x), 'net')
        >>> check_head(net, x, 30 * torch.tanh(net(x)), 'net')
        Traceback (most recent call last):
        composer_kd.errors.TeacherError: head: the logits are not what 'net' makes of its input...
    """
    made = head(hidden)
    scale = logits[logits.isfinite()].abs().max() if logits.numel() else 0.0
    if made.shape != logits.shape or ((made - logits).abs() > _TOLERANCE * scale).any():
        raise TeacherError(
            f'head: the logits are not what {path!r} makes of its input: it is another layer, or something follows it '
            '(a scale, a softcap, a part that is cut off). Name the last layer, or store the format dense.'
        )


def keep_head(folder: str | os.PathLike[str], head: nn.Module) -> None:
    """Writes the weights of a linear last layer into the folder of a store; of other layers nothing."""
    if type(head) is not nn.Linear:
        return
    content = io.BytesIO()
    torch.save({name: value.detach().cpu().clone() for name, value in head.state_dict().items()}, content)
    with room_for(pathlib.Path(folder)):
        write_durably(pathlib.Path(folder) / HEAD_FILE, content.getbuffer())


def kept_head(folder: str | os.PathLike[str]) -> nn.Linear | None:
    """Reads the last layer that :func:`keep_head` wrote; None if there is none. Nothing in the file is run.

    Raises:
        StoreError: If it is no linear layer.
    """
    if not (pathlib.Path(folder) / HEAD_FILE).exists():
        return None
    file = own_file(pathlib.Path(folder), HEAD_FILE)
    weights = read_content(str(file), str(file))
    weight = weights.get('weight') if isinstance(weights, dict) else None
    if not isinstance(weight, Tensor) or weight.ndim != 2 or set(weights) - {'weight', 'bias'}:
        raise StoreError(f'{file}: expected the weights of a linear layer. Build the store anew')
    with torch.device('meta'):
        head = nn.Linear(weight.shape[1], weight.shape[0], bias='bias' in weights, dtype=weight.dtype)
    head.load_state_dict(weights, assign=True)
    return head
