"""What the source says of keys and options: the comments of a dataclass, and the docstring of a class or function."""

from __future__ import annotations

import inspect
import re
from typing import Any

__all__ = ['comments', 'first_sentence', 'option_words']

_FIELD = re.compile(r'^    (\w+): ')
_COMMENT = re.compile(r'^    # (.*)')
_SECTION = re.compile(r'^(Args|Arguments|Parameters):$')
_ENTRY = re.compile(r'^( {2,8})(\*{0,2}\w+)(?: ?\([^)]*\))?: *(.*)')


def comments(kind: type) -> dict[str, str]:
    """Reads the comments of the fields of a dataclass, above them or beside them.

    Args:
        kind: The dataclass; comments of its bases are read too.

    Example:
        >>> from composer_kd.config.schema import LoaderConfig
        >>> comments(LoaderConfig)['shuffle']
        'None: true for training, false for evaluation'
    """
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__[:-1]):
        above: list[str] = []
        for line in inspect.getsource(one).splitlines():
            comment, field = _COMMENT.match(line), _FIELD.match(line)
            if comment is not None:
                above.append(comment[1])
                continue
            beside = line.partition('  # ')[2]
            if field is not None and (above or beside):
                found[field[1]] = ' '.join([*above, beside]).strip()
            above = []
    return found


def first_sentence(thing: Any) -> str:
    """The first paragraph of a docstring, in one line.

    Example:
        >>> import torch
        >>> first_sentence(torch.nn.Flatten)
        'Flattens a contiguous range of dims into a tensor.'
    """
    return ' '.join((inspect.getdoc(thing) or '').partition('\n\n')[0].split())


def option_words(target: Any) -> dict[str, str]:
    """What a Google docstring says of each argument, in one line each.

    Args:
        target: A class or function.

    Example:
        >>> from composer_kd import KLDivergence
        >>> sorted(option_words(KLDivergence))
        ['softmax_dim', 'temperature']
    """
    found: dict[str, str] = {}
    docs = [inspect.getdoc(target) or '']
    if inspect.isclass(target):
        docs.append(inspect.getdoc(target.__init__) or '')
    for doc in docs:
        name, depth, inside = '', 0, False
        for line in doc.splitlines():
            if _SECTION.match(line):
                inside = True
                continue
            if line and not line.startswith(' '):
                inside = False
            entry = _ENTRY.match(line) if inside else None
            if entry is not None and (not name or len(entry[1]) <= depth):
                name, depth = entry[2], len(entry[1])
                found.setdefault(name, entry[3])
            elif inside and name and line.strip():
                found[name] = f'{found[name]} {line.strip()}'.strip()
    return found
