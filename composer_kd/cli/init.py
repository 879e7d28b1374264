"""``composer-kd init``."""

from __future__ import annotations

import argparse
import pathlib

__all__ = ['ABOUT', 'HELP', 'add_arguments', 'run']

HELP = 'write a commented YAML to start from'
ABOUT = """\
Without a name: lists the YAMLs to start from. With one: writes it, commented, to edit and train.

  composer-kd init                        what there is
  composer-kd init digits                 writes digits.yaml
  composer-kd init digits/kd --out kd-T2.yaml

Each of them also runs as it is, without a file: composer-kd train @digits
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command to a parser."""
    parser.add_argument('name', nargs='?', metavar='NAME', help='digits, cifar10, text, huggingface, timm, ...')
    parser.add_argument('--out', type=pathlib.Path, metavar='FILE', help='default: the last part of NAME, with .yaml')
    parser.add_argument('--force', action='store_true', help='replace a file that is there')


def run(options: argparse.Namespace) -> None:
    """Lists the YAMLs, or writes one."""
    from composer_kd.config.shipped import about, copied, named, names
    from composer_kd.errors import ConfigError
    from composer_kd.presentation.console import terminal
    from composer_kd.presentation.files import write_file

    console = terminal(soft_wrap=True)
    if options.name is None:
        width = max(map(len, names()))
        for title, group in _grouped(names()):
            console.print(f'{title}:')
            for name in group:
                console.print(f'  {name:<{width}}  {about(named(name))}')
        console.print('\ncomposer-kd init NAME writes one of them; composer-kd train @NAME runs it as it is')
        return
    source = named(options.name.removeprefix('@'))
    target = options.out or pathlib.Path(source.name)
    if target.is_dir():
        target = target / source.name
    if target.exists() and not options.force:
        raise ConfigError(f'{target} is there already: give another place with --out FILE, or replace it with --force')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(target, copied(source, target))
    except OSError as error:
        raise ConfigError(f'{target} cannot be written: {error}') from error
    console.print(f'{target}: {about(source)}')
    what = 'sweep' if source.parent.name == 'sweeps' else 'train'
    console.print(f'next: composer-kd {what} {target}' + ('' if what == 'sweep' else ' --dry-run'))


def _grouped(names: list[str]) -> list[tuple[str, list[str]]]:
    """Those that need nothing else before the others."""
    return [
        ('To start from', [name for name in names if '/' not in name]),
        ('Further examples', [name for name in names if '/' in name]),
    ]
