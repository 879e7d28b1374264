"""Options with which a library runs code that comes with weights, or reads them in a way that runs what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from composer_kd.config.dotted_paths import origin_of
from composer_kd.config.trust import current

__all__ = ['codes_in']

OURS = 'composer_kd'

# By the end of their names: models of two parts have `encoder_trust_remote_code`.
_RUN_CODE: dict[str, tuple[Callable[[Any], bool], str]] = {
    'trust_remote_code': (bool, 'runs code that comes with the weights'),
    'weights_only': (lambda value: not value and value is not None, 'runs what is pickled with the weights'),
    'attn_implementation': (lambda value: '/' in str(value), 'runs a kernel from a repository'),
}
# Releases of timm that pyproject.toml allows, such as 1.0.15, unpickle these files.
_RUN_FILES: dict[str, tuple[Callable[[Any], bool], str]] = dict.fromkeys(
    ('pretrained_cfg.file', 'pretrained_cfg_overlay.file', 'checkpoint_path'),
    (bool, 'older releases of timm run what is pickled in this file'),
)


def codes_in(options: Any, target: Any, scope: str, path: str) -> Iterator[str]:
    """Yields a fault for each option that makes a library run code from elsewhere, unless its package is allowed to.

    Args:
        options: The options, as written; mappings and lists in them are looked through too.
        target: The class or function that gets them.
        scope: The kind of component; a callback's ``weights_only`` says what of a checkpoint it saves or loads.
        path: The dotted key of the component.

    Example:
        >>> import torch
        >>> list(codes_in({'encoder': {'trust_remote_code': True}}, torch.nn.Linear, 'model', 'model'))
        ['model.encoder.trust_remote_code: runs code that comes with the weights. If you trust it: allow_imports: ...
    """
    package = origin_of(target)
    if package in (None, OURS) or current().vouches_for(package):
        return  # components among the options of our own classes are looked at by themselves
    rules = _RUN_CODE | _RUN_FILES if package == 'timm' else _RUN_CODE
    for key, value in _inside(options, path):
        for name, (runs, what) in rules.items():
            if key.endswith(name) and runs(value) and (scope, name) != ('callback', 'weights_only'):
                yield f'{key}: {what}. If you trust it: {current().remedy.format(package=package)}'


def _inside(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, (dict, list)):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield f'{path}.{key}', value
            yield from _inside(value, f'{path}.{key}')
