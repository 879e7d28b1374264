"""Checks a run's YAML against its dataclasses and the signatures of its components; reports all faults in one error."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from composer_kd.config.annotations import Annotation, Kind
from composer_kd.config.dry_construct import SETTINGS, try_component
from composer_kd.config.hints import of_a_match
from composer_kd.config.markers import Component, Either, MayBeEmpty, Must, OptionsOf, Part
from composer_kd.config.registry import SCOPES
from composer_kd.config.remote_code import codes_in
from composer_kd.config.signature import Signature
from composer_kd.config.typecheck import Parameter, describe, fits
from composer_kd.config.yaml_source import UNRESOLVED, Source, faults_said
from composer_kd.errors import ConfigError, nearest

__all__ = ['check', 'findings']

T = TypeVar('T')


def check(source: Source, schema: type[T]) -> T:
    """Converts the content of a YAML file into the dataclass that describes it.

    Args:
        source: The content of the file with the overrides applied, and the faults found so far.
        schema: The dataclass for the whole file.

    Returns:
        An instance of the dataclass, which contains checked components.

    Raises:
        ConfigError: If there are faults; lists all of them: unknown and missing keys at any depth, unknown names, wrong
            types, values out of range, and overrides that add keys where any key is accepted.
    """
    config, faults = findings(source, schema)
    if config is None:
        raise faults_said(source.path, faults)
    return config


def findings(source: Source, schema: type[T]) -> tuple[T | None, list[str]]:
    """Checks the content of a YAML file like :func:`check`, and returns the faults.

    Args:
        source: As in :func:`check`.
        schema: As in :func:`check`.

    Returns:
        An instance of the dataclass, None if there are faults; and the faults, one line each.
    """
    checker = _Checker(source)
    config = checker.section(source.data, Annotation(schema), '')
    faults = list(dict.fromkeys(checker.faults))
    return (None if faults else config), faults


class _Checker:
    """Walks the content along the annotations of the dataclasses and collects faults."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.faults = list(source.faults)

    def section(self, value: Any, annotation: Annotation, path: str) -> Any:
        """Checks a mapping against a dataclass; returns None if it has faults."""
        schema = annotation.section
        assert schema is not None
        if not isinstance(value, dict):
            keys = ', '.join(field.name for field in dataclasses.fields(schema))
            self.fault(path, f'expected a mapping with the keys {keys}; got {value!r}')
            return None
        before = len(self.faults)
        hints = typing.get_type_hints(schema, include_extras=True)
        required = {f.name for f in dataclasses.fields(schema) if _has_no_default(f)}
        known = {name: Parameter(hint, name in required) for name, hint in hints.items()}
        self.names(value, known, path, 'key')
        sound: dict[str, Any] = {}
        for name in (name for name in hints if name in value):
            count = len(self.faults)
            read = self.read(value[name], hints[name], _join(path, name))
            if len(self.faults) == count and value[name] is not UNRESOLVED:
                sound[name] = read
        made = schema(**{**dict.fromkeys(required), **sound})
        # The whole file is always checked for conflicts, to report all faults together; a section only if it is valid.
        if hasattr(made, 'conflicts') and (not path or (len(sound) == len(value) and required <= set(sound))):
            for conflict in made.conflicts():
                self.fault(path, conflict, '.')
        return made if len(self.faults) == before else None

    def read(self, value: Any, hint: Any, path: str) -> Any:
        """Checks one value against one annotation; returns the value for the configuration."""
        if value is UNRESOLVED:
            return None
        annotation = Annotation.of(hint)
        if value is None and annotation.is_optional:
            return None
        if value is None and annotation.is_mapping:
            value = {}  # a key without a value, or followed by comments only
        return _READERS[annotation.kind](self, value, annotation, path)

    def either(self, value: Any, annotation: Annotation, path: str) -> Any:
        """Checks a value that can be written in several forms."""
        either = annotation.mark(Either)
        assert either is not None
        return self.read(value, either.which(value), path)

    def plain(self, value: Any, annotation: Annotation, path: str) -> Any:
        """Checks a number, string, list or mapping with arbitrary keys."""
        expected = describe(annotation.bare)
        if not fits(value, annotation.bare):
            self.fault(path, f'expected {expected}, got {value!r}')
            return value
        for must in (mark for mark in annotation.marks if isinstance(mark, Must)):
            if value is not None and not must.test(value):
                self.fault(path, f'expected {expected} that is {must.words}, got {value!r}')
        options = annotation.mark(OptionsOf)
        if options is not None and isinstance(value, dict):
            self.names(value, SETTINGS[options.what](), path, 'setting')
        elif isinstance(value, dict):
            self.refuse_added(path, 'free keys')
        return value

    def items(self, value: Any, annotation: Annotation, path: str) -> list[Any]:
        """Checks a list of components or sections; a single entry is read as a list of one."""
        hint = annotation.options[0]
        if not isinstance(value, list):
            return [self.read(value, hint, path)]
        if not value and annotation.mark(MayBeEmpty) is None:
            self.fault(path, 'expected at least one entry, got an empty list')
        return [self.read(item, hint, f'{path}.{i}') for i, item in enumerate(value)]

    def keyed(self, value: Any, annotation: Annotation, path: str) -> dict[str, Component]:
        """Checks a mapping from the names of components to their options: ``{snake_name: options}``."""
        scope = _scope(annotation)
        what = SCOPES[scope].what
        if not isinstance(value, dict):
            self.fault(path, f'expected a mapping from the name of each {what} to its options, got {value!r}')
            return {}
        read = {name: self.options(name, options, scope, _join(path, name)) for name, options in value.items()}
        found = {name: component for name, component in read.items() if component is not None}
        first: dict[Any, str] = {}
        for name, component in found.items():
            same = first.setdefault(component.target, name)
            if same != name:
                self.fault(_join(path, name), f'names the same {what} as {_join(path, same)}; keep one')
        return found

    def component(self, value: Any, annotation: Annotation, path: str) -> Component | None:
        """Checks ``{name: ..., **options}``; a string is a name without options."""
        scope = _scope(annotation)
        only = SCOPES[scope].only
        if only is not None:
            return self.options(only, value, scope, path)
        value = {'name': value} if isinstance(value, str) else value
        if not isinstance(value, dict) or 'name' not in value:
            self.fault(path, f'expected {SCOPES[scope].a}: {{name: ..., its options}}; got {value!r}')
            return None
        options = dict(value)
        for key in of_a_match(value) if scope == 'loss' else ():
            del options[key]
            written = f'{{loss: {{name: {value["name"]}, ...}}, {key}: ...}}'
            self.fault(_join(path, key), f'is a setting of a match, not of its loss: write {written}')
        return self.options(options.pop('name'), options, scope, path)

    def options(self, name: Any, options: Any, scope: str, path: str) -> Component | None:
        """Checks the options of a component against its signature, and dry-runs its construction if that is cheap."""
        if name is UNRESOLVED or options is UNRESOLVED:
            return None
        options = {} if options is None else options
        if not isinstance(options, dict):
            self.fault(path, f'expected a mapping of options, {{}} for none; got {options!r}')
            return None
        component = Component(scope, str(name), {}, path)
        try:
            signature = Signature.of(component)
        except ConfigError as error:
            self.fault(path, str(error))
            return None
        self.names(options, signature.allowed, path, 'option', signature.label, signature.open_ended)
        self.faults += codes_in(options, component.target, scope, path)
        if signature.open_ended:
            self.refuse_added(path, f'any option of {signature.label}', frozenset(signature.allowed))
        taken = {key: value for key, value in options.items() if key in signature.allowed or signature.open_ended}
        read, sound = self.values(taken, {key: known.annotation for key, known in signature.allowed.items()}, path)
        if scope == 'algorithm':
            sound = {**signature.stand_ins(taken), **sound}  # so that its other options can be dry-run
        if all(key in sound for key, known in signature.allowed.items() if known.required):
            self.faults += try_component(component.with_options(sound))
        return component.with_options(read)

    def values(
        self, options: dict[str, Any], hints: dict[str, Any], path: str
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Checks the values of options; returns all of them, and the valid ones, which the dry run uses."""
        read: dict[str, Any] = {}
        sound: dict[str, Any] = {}
        for key, value in options.items():
            before = len(self.faults)
            read[key] = self.read(value, hints.get(key, Any), _join(path, key))
            if len(self.faults) == before and value is not UNRESOLVED:
                sound[key] = read[key]
        return read, sound

    def names(
        self,
        value: dict[str, Any],
        known: dict[str, Parameter],
        path: str,
        what: str,
        owner: str = '',
        open_ended: bool = False,
    ) -> None:
        """Reports unknown keys and missing required keys."""
        of = f' of {owner}' if owner else ''
        for key in value:
            if key not in known and not open_ended:
                clause = nearest(key, known) or f'; {owner or "it"} has none'
                self.fault(_join(path, key), f'unknown {what}{of}{clause}')
        for key, parameter in known.items():
            if parameter.required and key not in value:
                self.fault(
                    _join(path, key),
                    f'required {what}{of} is missing; expected {_words(parameter.annotation)}',
                )

    def refuse_added(self, path: str, takes: str, checked: frozenset[str] = frozenset()) -> None:
        """Reports keys that overrides add where any key is accepted, because a typo there would go unnoticed."""
        for key in sorted(self.source.added):
            below = key.removeprefix(f'{path}.')
            if below != key and below.split('.')[0] not in checked:
                hint = nearest(below, self.present(path)).replace('; valid:', '; in the file:')
                self.fault(
                    key,
                    f'the override adds a key that {self.source.path.name} does not have, and {path} takes {takes}, '
                    f'so a typo could not be noticed; write it into the file, then override it{hint}',
                )

    def present(self, path: str) -> list[str]:
        """Lists the keys at a path that come from the file, without those added by overrides."""
        node: Any = self.source.data
        for part in path.split('.'):
            node = node[int(part)] if isinstance(node, list) else node[part]
        return [key for key in node if f'{path}.{key}' not in self.source.added]

    def fault(self, path: str, message: str, joint: str = ': ') -> None:
        self.faults.append(f'{path}{joint}{message}' if path else message)


def _scope(annotation: Annotation) -> str:
    part = annotation.mark(Part)
    assert part is not None
    return part.scope


def _words(hint: Any) -> str:
    """Describes the expected value of a missing key."""
    annotation = Annotation.of(hint)
    if annotation.kind is Kind.ITEMS:
        return _words(annotation.options[0])
    part, either = annotation.mark(Part), annotation.mark(Either)
    if part is not None:
        return f'{SCOPES[part.scope].a}: {{name: ..., its options}}'
    if either is not None:
        return either.words
    if annotation.section is None:
        return 'a value' if annotation.bare is Any else describe(hint)
    keys = ', '.join(field.name for field in dataclasses.fields(annotation.section))
    return f'a mapping with the keys {keys}'


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _join(path: str, key: str) -> str:
    return f'{path}.{key}' if path else str(key)


_READERS: dict[Kind, Callable[[_Checker, Any, Annotation, str], Any]] = {
    Kind.EITHER: _Checker.either,
    Kind.KEYED: _Checker.keyed,
    Kind.COMPONENT: _Checker.component,
    Kind.ITEMS: _Checker.items,
    Kind.SECTION: _Checker.section,
    Kind.PLAIN: _Checker.plain,
}
