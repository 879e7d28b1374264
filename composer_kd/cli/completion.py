"""Completion in the shell, by argcomplete: commands, options, YAMLs of the package and files, and keys of overrides."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ['complete']


def complete(parser: argparse.ArgumentParser) -> None:
    """Answers the shell and ends the process, if it is the shell that asks how a command line may go on.

    Args:
        parser: The parser of the command line.
    """
    if '_ARGCOMPLETE' not in os.environ:
        return
    import argcomplete

    for action in _actions(parser):
        if action.dest in _COMPLETERS:
            action.completer = _COMPLETERS[action.dest]  # type: ignore[attr-defined]
    argcomplete.autocomplete(parser, always_complete_options=False)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions(one)


def _starting_points(**asked: Any) -> list[str]:
    from composer_kd.config.shipped import names

    return names()


def _runs(prefix: str, **asked: Any) -> list[str]:
    """Folders and files, and with ``@`` the YAMLs of the package."""
    from argcomplete.completers import FilesCompleter

    if prefix.startswith('@'):
        return [f'@{name}' for name in _starting_points()]
    return list(FilesCompleter()(prefix))


def _yamls(prefix: str, **asked: Any) -> list[str]:
    """YAML files, folders on the way to them, and with ``@`` those of the package."""
    found = [one for one in _runs(prefix) if one.startswith('@') or one.endswith(('.yaml', '.yml', '/'))]
    return found if prefix else [*found, *(f'@{name}' for name in _starting_points() if '/' not in name)]


def _formats(**asked: Any) -> list[str]:
    from composer_kd.cli.export import FORMATS

    return list(FORMATS)


def _overrides(prefix: str, parsed_args: argparse.Namespace, **asked: Any) -> list[str]:
    """Keys of a run, and those that stand in its YAML: ``seed=``, ``optimizer.lr=``."""
    from composer_kd.config.early import sections
    from composer_kd.config.shipped import located
    from composer_kd.config.yaml_file import read_mapping
    from composer_kd.errors import ConfigError

    keys = set(sections()['RunConfig'])
    try:
        written = getattr(parsed_args, 'yaml', None) or getattr(parsed_args, 'model', '')
        keys |= set(_leaves(read_mapping(located(str(written)))))
    except ConfigError:
        pass  # another model than that of a YAML, or none yet
    return sorted(f'{key}=' for key in keys)


def _leaves(node: dict[str, Any], above: str = '') -> Iterator[str]:
    for key, value in node.items():
        yield f'{above}{key}'
        if isinstance(value, dict):
            yield from _leaves(value, f'{above}{key}.')


_COMPLETERS: dict[str, Callable[..., list[str]]] = {
    'name': _starting_points,
    'yaml': _yamls,
    'model': _yamls,
    'config': _yamls,
    'runs': _runs,
    'run_': _runs,
    'checkpoints': _runs,
    'to': _formats,
    'overrides': _overrides,
}
