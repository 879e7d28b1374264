"""Writes the YAML and command-line reference, from the schema and the parsers.

    python docs/reference/generate.py          # writes docs/reference/yaml.md and command_line.md

``tests/test_reference.py`` fails where the files are not those that this writes.
"""

from __future__ import annotations

import argparse
import collections.abc
import dataclasses
import enum
import functools
import importlib
import inspect
import pathlib
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any

HERE = pathlib.Path(__file__).parent
NOTE = '<!-- Written by docs/reference/generate.py; change the code, and run it again. -->\n'


# The command line -----------------------------------------------------------------------------------------------------


def command_line() -> str:
    """Returns the page of all commands, each with what its parser says."""
    from composer_kd.cli.main import COMMANDS

    parts = [
        NOTE,
        '# Command line\n',
        '`composer-kd COMMAND --help` says the same. Every command takes `--debug`, which shows the traceback for '
        'wrong input too. The exit status is 0 on success, 2 for wrong input, 130 after Ctrl-C, 143 after SIGTERM.\n',
        _table(('Command', 'What it does'), [(f'[{one}](#{one})', _module(one).HELP) for one in COMMANDS]),
        *(_command(name) for name in COMMANDS),
    ]
    return _joined(parts)


def _module(name: str) -> Any:
    return importlib.import_module(f'composer_kd.cli.{name}')


def _command(name: str) -> str:
    module = _module(name)
    parser = argparse.ArgumentParser(f'composer-kd {name}', add_help=False)
    module.add_arguments(parser)
    usage = ' '.join([f'composer-kd {name}', *(_used(action) for action in _visible(parser))])
    rows = [(_cell(f'`{_names(action)}`'), _cell(_help(parser, action))) for action in _visible(parser)]
    about = textwrap.dedent(module.ABOUT).rstrip()
    return _joined(
        [
            f'## {name}\n',
            f'```text\n{textwrap.fill(usage, 120, subsequent_indent="    ", break_on_hyphens=False)}\n```\n',
            f'```text\n{about}\n```\n',
            _table(('Argument', 'Meaning'), rows),
        ]
    )


def _visible(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if action.help is not argparse.SUPPRESS]


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ''


def _value(action: argparse.Action) -> str:
    named = action.metavar or (
        '{' + ','.join(map(str, action.choices)) + '}' if action.choices else action.dest.upper()
    )
    name = named if isinstance(named, str) else ' '.join(named)
    several = {'*': f'[{name} ...]', '+': f'{name} [{name} ...]', '?': f'[{name}]'}
    return '' if action.nargs == 0 else several.get(str(action.nargs), name)


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest)
    return f'{", ".join(action.option_strings)} {_value(action)}'.strip()


def _used(action: argparse.Action) -> str:
    if not action.option_strings:
        name = str(action.metavar or action.dest)
        return {'*': f'[{name} ...]', '+': f'{name} [{name} ...]', '?': f'[{name}]'}.get(str(action.nargs), name)
    used = f'{action.option_strings[-1]} {_value(action)}'.strip()
    return used if action.required else f'[{used}]'


# The YAML -------------------------------------------------------------------------------------------------------------

MEANT: Mapping[str, str] = {
    'optimizer': 'What updates the weights',
    'train_loader': 'The data that is trained on',
    'eval_loader': 'The data that is evaluated on; null: there is no evaluation',
    'global_train_batch_size': 'The number of samples in a batch, over all processes',
    'scheduler': 'How the learning rate changes; null: it does not',
    'variables': 'Values that other keys refer to, as `${variables.x}`',
    'device_eval_batch_size': 'The number of samples in a batch of an evaluation, in each process',
    'fsdp_config': "Shards the student over GPUs, with the options of Composer's FSDP; null: it is whole",
    'dataset': 'The data set',
    'drop_last': 'Whether the last batch of an epoch is left out if it is smaller',
    'num_workers': 'The number of processes that load samples; 0: the process itself',
    'prefetch_factor': 'The number of batches that each worker has ready',
    'skip_first': 'The number of batches that are skipped once',
    'wait': 'The number of batches that each cycle skips',
    'warmup': 'The number of batches that each cycle profiles and does not keep',
    'active': 'The number of batches that each cycle records',
    'repeat': 'The number of cycles in an epoch; 0: as many as fit',
    'folder': 'Where traces are written',
    'record_shapes': 'Whether shapes of inputs are recorded',
    'profile_memory': 'Whether memory is recorded',
    'with_stack': 'Whether lines of source are recorded',
    'checkpoint': 'Its weights: a path or URI of a checkpoint, or a folder of `save_pretrained`',
    'forward': 'How it is called, if it is unusual',
    'input_adapter': 'What changes the inputs for it alone',
    'cache': 'The folder of the store, or its address in an object store',
    'stage': 'The name of the stage, or `previous`',
    'batch_size': 'The number of samples in a batch',
    'label': 'What it is called in the log',
    'tp': 'Tensor parallelism, which is left to scripts',
}
"""What a key means, where neither a comment in the schema nor Composer's Trainer says it."""

NAMES = {'model': 'The model', 'name': 'Its name in the log and in messages'}  # of sections below a run


OF_YAML = """\
The keys are those of llm-foundry. `composer-kd train FILE key.sub=value` replaces single values; unknown keys, wrong
types and values out of range are reported together, with the nearest valid names, before any work starts. Values are
shared by `${variables.x}`, and read from the environment by `${oc.env:NAME}`.

A **component** is `{name: ..., its options}`. A bare name is one of those [below](#components), in any case, with or
without underscores; a dotted path is anything that can be imported from the packages that a YAML
[may name](../limits/checking.md). A file with `stages:` describes
[several runs](../schemes.md#stages-assistants-and-generations).
"""


def yaml() -> str:
    """Returns the page of all keys of a run's YAML, and of the components with their options."""
    from composer_kd.config import schema

    parts = [
        NOTE,
        '# YAML\n',
        OF_YAML,
        _section(
            'A run', schema.RunConfig, 'The keys of the file. Those without a default must be given.', _of_trainer()
        ),
        *(_section(*one) for one in _sections()),
        _components(),
    ]
    return _joined(parts)


@functools.cache
def _sections() -> list[tuple[str, type, str]]:
    """The sections below that of a run: headings, dataclasses and what stands above their tables."""
    from composer_kd.config import schema, stage_teachers, stored

    return [
        *((_keys_of(schema.RunConfig, one), one, '') for one in _nested(schema.RunConfig)),
        (
            'A teacher',
            schema.TeacherConfig,
            'An entry of `teachers`. Or one of the two that follow, or a kind of teacher.',
        ),
        ('A stored teacher', stored.StoredTeacherConfig, ''),
        ('A teacher of an earlier stage', stage_teachers.StageTeacherConfig, ''),
        ('A peer', schema.PeerConfig, 'An entry of `peers`.'),
        ('What a student is cut out of', schema.SourceConfig, 'The key `teacher` of `student_from_teacher`.'),
        ('Samples to measure a teacher on', schema.MeasuredConfig, 'The key `data` of `student_from_teacher`.'),
    ]


def _linked(heading: str) -> str:
    anchor = re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')  # as GitHub and MyST name it
    return f'[{heading}](#{anchor})'


def _nested(section: type) -> list[type]:
    """The dataclasses of the keys of a dataclass, in order."""
    from composer_kd.config.annotations import Annotation
    from composer_kd.config.markers import Part

    found = [Annotation.of(hint) for hint in typing.get_type_hints(section, include_extras=True).values()]
    return list(dict.fromkeys(one.section for one in found if one.section is not None and one.mark(Part) is None))


def _keys_of(section: type, nested: type) -> str:
    from composer_kd.config.annotations import Annotation

    hints = typing.get_type_hints(section, include_extras=True)
    return ', '.join(key for key, hint in hints.items() if Annotation.of(hint).section is nested)


def keys(section: type, of_trainer: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns what each key of a section means.

    Args:
        section: The dataclass of the section.
        of_trainer: What Composer says of the arguments of its Trainer; ``None`` for sections below a run.
    """
    own = {} if of_trainer is not None else NAMES
    told = {**MEANT, **own, **(of_trainer or {}), **_comments(section)}
    return {one.name: _said_in_yaml(told.get(one.name, '')) for one in dataclasses.fields(section)}


def _said_in_yaml(text: str) -> str:
    text = re.sub(r'\bNone\b', 'null', text)
    return (text if text.startswith('null') else text[:1].upper() + text[1:]).rstrip('.')


def _section(heading: str, section: type, above: str, of_trainer: Mapping[str, str] | None = None) -> str:
    hints = typing.get_type_hints(section, include_extras=True)
    meant = keys(section, of_trainer)
    rows = [
        (f'`{one.name}`', _default(one), _told(meant[one.name], said(hints[one.name])))
        for one in dataclasses.fields(section)
    ]
    text = above if of_trainer is not None else f'{_plain(_summary(section))} {above}'.strip()
    return _joined([f'## {heading}\n', f'{text}\n', _table(('Key', 'Default', 'Meaning, and value'), rows)])


def said(hint: Any) -> str:
    """Says in words what a value of an annotation may be.

    Args:
        hint: The annotation of a key, with its marks.
    """
    from composer_kd.config.annotations import Annotation
    from composer_kd.config.markers import Either, MayBeEmpty, Must, Part
    from composer_kd.config.scopes import SCOPES

    annotation = Annotation.of(hint)
    either, part = annotation.mark(Either), annotation.mark(Part)
    if either is not None:
        written = getattr(either.which, 'keywords', {}).get('written')  # of an option that may be null too
        return either.words if written is None else f'{said(written)}, or null'
    if part is not None:
        scope = SCOPES[part.scope]
        if annotation.is_mapping:
            return f'a mapping from {scope.what}s to their options'
        what = f'the options of `{scope.only}`' if scope.only else f'{scope.a}: `{{name: ..., its options}}`'
        return f'{what}, or null' if annotation.is_optional else what
    must = [mark.words for mark in annotation.marks if isinstance(mark, Must)]
    words = ', '.join([_type(annotation.bare), *must])
    return f'{words} (may be empty)' if annotation.mark(MayBeEmpty) is not None else words


_WORDS = {
    int: 'a whole number',
    float: 'a number',
    str: 'a text',
    bool: 'true or false',
    type(None): 'null',
    Any: 'any',
}
_OBJECTS = ('`Module`', '`Tensor`', '`Callable`')  # what a YAML cannot hold


def _type(kind: Any) -> str:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return said(kind)
    if origin is typing.Literal:
        return ' or '.join(f'`{_yaml(one)}`' for one in args)
    if origin in (typing.Union, types.UnionType):
        if any(getattr(one, '__name__', '') == 'Time' for one in args):
            return 'a time: `10ep`, `500ba`' + (', or null' if type(None) in args else '')
        return ' or '.join(dict.fromkeys(_type(one) for one in args if getattr(one, '__name__', '') != 'PathLike'))
    if origin is tuple:
        return f'a pair of: {_type(args[0])}'
    if origin in (list, collections.abc.Sequence):
        return f'a list of: {_type(args[0])}'
    if origin in (dict, collections.abc.Mapping):
        return 'a mapping'
    if dataclasses.is_dataclass(kind):
        heading = next((heading for heading, section, _ in _sections() if section is kind), None)
        return f'a mapping, see {_linked(heading)}' if heading else 'a mapping'
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ' or '.join(f'`{one.value}`' for one in kind)
    return _WORDS.get(kind) or f'`{getattr(kind, "__name__", kind)}`'


def _default(one: Any) -> str:
    if one.default is not dataclasses.MISSING:
        return f'`{_yaml(one.default)}`'
    return '' if one.default_factory is dataclasses.MISSING else f'`{_yaml(one.default_factory())}`'


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: 'null', True: 'true', False: 'false'}[value]
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(map(_yaml, value))}]'
    return str(value)


def _comments(section: type) -> dict[str, str]:
    """Reads what the comments above and beside the fields of a dataclass, and of its bases, say."""
    found: dict[str, str] = {}
    for base in reversed(section.__mro__):
        if dataclasses.is_dataclass(base):
            found.update(_own_comments(base))
    return {name: _plain(text) for name, text in found.items()}


def _own_comments(section: type) -> dict[str, str]:
    lines = inspect.getsource(section).splitlines(keepends=True)
    found: dict[str, str] = {}
    above: list[str] = []
    field: str | None = None
    for token in tokenize.generate_tokens(iter(lines).__next__):
        if token.type == tokenize.COMMENT and token.line.strip().startswith('#'):
            above.append(token.string.lstrip('# '))
        elif token.type == tokenize.COMMENT and field is not None:
            found[field] = ' '.join([found.get(field, ''), token.string.lstrip('# ')]).strip()
        elif token.type == tokenize.NEWLINE:
            above, field = [], None
        elif token.type == tokenize.NAME and field is None and re.match(r' {4}\w+: ', token.line):
            field = token.string
            if above:
                found[field] = ' '.join(above)
    return found


def _of_trainer() -> dict[str, str]:
    """Reads what Composer's Trainer says of the keys that are its arguments."""
    from composer import Trainer

    return {name: _plain(text) for name, text in arguments(Trainer).items()}


def arguments(thing: Any) -> dict[str, str]:
    """Reads the first sentence on each argument in a Google docstring.

    Args:
        thing: A class or function.
    """
    doc = inspect.getdoc(thing) or ''
    match = re.search(r'^Args:\n(.*?)(?=^\S|\Z)', doc, re.MULTILINE | re.DOTALL)
    pattern = r'^ {4}(\w+)(?: \([^\n]*?\))?: (.*?)(?=^ {4}\w|\Z)'
    found = re.findall(pattern, match[1] if match else '', re.MULTILINE | re.DOTALL)
    return {name: _sentence(' '.join(text.split())) for name, text in found}


def _sentence(text: str) -> str:
    """The first sentence, with balanced brackets."""
    for match in re.finditer(r'\.(?=\s|$)', text):
        start = text[: match.start()]
        if start.count('(') == start.count(')') and start.count('``') % 2 == 0 and not start.endswith(('e.g', 'i.e')):
            return start
    return text.rstrip('.')


DETAILED = ('algorithm', 'match', 'on_policy', 'teacher', 'adapter', 'loss', 'schedule', 'model', 'dataset', 'callback')
"""The kinds of components whose options are listed; of the others the names."""


def _components() -> str:
    from composer_kd.config.registry import known_names
    from composer_kd.config.scopes import SCOPES

    parts = ['## Components\n']
    for scope in (*DETAILED, *(one for one in SCOPES if one not in DETAILED)):
        rule = SCOPES[scope]
        names = sorted(known_names(scope).items(), key=lambda item: item[0].lower())
        ours = {
            name: one for name, one in names if one.__module__.startswith('composer_kd') and name != 'FrozenTeacher'
        }
        others = [module for module in rule.modules if not module.startswith('composer_kd')]
        if not ours and not others:
            continue
        if rule.only is None:
            parts.append(f'### {rule.what.capitalize()}\n')
        if scope in DETAILED:
            parts += [_component(scope, name, '####' if rule.only is None else '###') for name in _without_twins(ours)]
        elif ours:
            parts.append(f'{", ".join(f"`{name}`" for name in ours)}.\n')
        if others:
            besides = 'Besides, those of ' if ours else 'Those of '
            parts.append(f'{besides}{" and ".join(f"`{one}`" for one in others)}, by the names of their classes.\n')
    return _joined(parts)


def _without_twins(names: Mapping[str, Any]) -> list[str]:
    """Leaves out the functions that a class of the same name wraps, and those that are a part of losses."""
    classes = {name.lower() for name in names if not name.islower()}
    alone = [name for name in names if not (name.islower() and name.replace('_', '') in classes)]
    return [name for name in alone if name != 'standardize']


def _component(scope: str, name: str, level: str) -> str:
    from composer_kd.config.markers import Component
    from composer_kd.config.registry import known_names
    from composer_kd.config.signature import Signature

    component = Component(scope, name)
    target = component.target
    told, about = arguments(target), _summary(target)
    for other in re.findall(r'[Aa]rguments[^.]* see `+(\w+)`', inspect.getdoc(target) or ''):
        told = {**arguments(known_names(scope)[other]), **told}
    twin = re.match(r'Module version of :func:`~?\.?([\w.]+)`', about)
    if twin:
        function = known_names(scope)[twin[1].rpartition('.')[2]]
        told, about = {**arguments(function), **told}, _summary(function)
    parameters = inspect.signature(target).parameters
    rows = []
    for option, parameter in Signature.of(component).allowed.items():
        value = said(parameter.annotation)
        if any(one in value for one in _OBJECTS):
            continue
        default = parameters[option].default if option in parameters else inspect.Parameter.empty
        plain = isinstance(default, (int, float, str, bool, list, tuple, type(None)))
        shown = 'required' if parameter.required else f'`{_yaml(default)}`' if plain else ''
        rows.append((f'`{option}`', shown, _told(_said_in_yaml(_plain(told.get(option, ''))), value)))
    table = _table(('Option', 'Default', 'Meaning, and value'), rows) if rows else 'No options.\n'
    return _joined([f'{level} {name}\n', f'{_plain(about)}\n', table])


# Markdown -------------------------------------------------------------------------------------------------------------


def _summary(thing: Any) -> str:
    return ' '.join((inspect.getdoc(thing) or '').partition('\n\n')[0].split())


def _plain(text: str) -> str:
    """Turns the markup of docstrings into Markdown."""
    text = re.sub(r':math:`([^`]*)`', lambda match: f'`{_letters(match[1])}`', text)
    text = re.sub(
        r':\w+(?::\w+)?:`[~.]*([^`<]*?)(?:\s*<[^`]*>)?`', lambda match: f'`{match[1].rpartition(".")[2]}`', text
    )
    return text.replace('``', '`')


def _letters(formula: str) -> str:
    """Writes a short formula without the commands of TeX."""
    for command, letter in _TEX.items():
        formula = formula.replace(command, letter)
    return re.sub(r'_\{(\w+)\}', r'_\1', formula)


_TEX = {rf'\{name}': chr(code) for name, code in {
    'ge': 0x2265, 'le': 0x2264, 'alpha': 0x3B1, 'beta': 0x3B2, 'gamma': 0x3B3, 'tau': 0x3C4, 'mu': 0x3BC, 'psi': 0x3C8,
    'lambda': 0x3BB, 'epsilon': 0x3B5, ',': 0x20,
}.items()}  # fmt: skip


def _told(meaning: str, value: str) -> str:
    value = value.replace('**', r'\*\*')
    return _cell(f'{meaning}.<br>{value}')


def _cell(text: str) -> str:
    parts = text.replace('|', r'\|').replace('\n', ' ').split('`')
    parts[::2] = [re.sub(r'<(?!br>)', '&lt;', part) for part in parts[::2]]  # outside of code, where it would be a tag
    return '`'.join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ('---',) * len(head), *rows]
    return ''.join(f'| {" | ".join(line)} |\n' for line in lines)


def _joined(parts: list[str]) -> str:
    return '\n'.join(part for part in parts if part)


def pages() -> Mapping[str, str]:
    """Returns the content of each file by its name."""
    return {'yaml.md': yaml(), 'command_line.md': command_line()}


def stale() -> Iterator[str]:
    """Yields the names of the files that are not as this script writes them."""
    for name, content in pages().items():
        file = HERE / name
        if not file.exists() or file.read_text(encoding='utf-8') != content:
            yield name


if __name__ == '__main__':
    for name, content in pages().items():
        (HERE / name).write_text(content, encoding='utf-8')
