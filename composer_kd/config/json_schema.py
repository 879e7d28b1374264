"""A JSON schema of the YAMLs of runs, made from what checks them: the dataclasses, and the signatures of components.

It accepts what the check accepts, as far as a schema can tell: conflicts between settings, and whether files exist, are
left to ``composer-kd train --dry-run``.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import json
import re
import typing
from typing import Any

from composer.core import Time

from composer_kd.config.annotations import Annotation, Kind
from composer_kd.config.described import comments, first_sentence, option_words
from composer_kd.config.dry_construct import SETTINGS
from composer_kd.config.markers import Component, Either, MayBeEmpty, Must, OptionsOf, Part
from composer_kd.config.registry import SCOPES, known_names
from composer_kd.config.schema import RunConfig
from composer_kd.config.signature import Signature
from composer_kd.config.typecheck import describe
from composer_kd.config.yaml_source import STAGES
from composer_kd.errors import ConfigError

__all__ = ['json_schema']

Schema = dict[str, Any]

DIALECT = 'http://json-schema.org/draft-07/schema#'  # what editors understand best
DOTTED = {'type': 'string', 'pattern': r'^\w+(\.\w+)+$', 'description': 'the dotted path of a class or function'}
INTERPOLATION = {'type': 'string', 'pattern': r'\$\{|^\?\?\?$', 'description': '${...}: the value of another key'}
NOTHING: Schema = {'not': {}}
NAMED: Schema = {'required': ['name']}  # of a mapping; a name alone is a string

# Values that are written in the ways that a mark Either tells apart.
_WAYS: tuple[Any, ...] = (
    *(None, 0, 'word', 'a.b', 'auto', [], {}, {'name': 'x'}, {'name': 'a.b'}),
    *({'loss': {}}, {'model': {}}, {'cache': 'x'}, {'stage': 'x'}),
)
_PLAIN: dict[Any, Schema] = {
    bool: {'type': 'boolean'},
    int: {'type': 'integer'},
    float: {'type': 'number'},
    str: {'type': 'string'},
    type(None): {'type': 'null'},
    Any: {},
    object: {},
}
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


def json_schema() -> Schema:
    """Makes the schema of the YAML of a run, or of stages.

    Returns:
        A JSON schema (draft 7). Each kind of component has a definition with the names that are installed here, and
        each of them one with its options, their types, defaults and what its docstring says of them.

    Example:
        >>> schema = json_schema()
        >>> schema['properties']['seed']['anyOf'][0]['default']
        17
        >>> 'temperature' in schema['definitions']['loss/KLDivergence:']['properties']
        True
    """
    writer = _Writer()
    keys = writer.keys(RunConfig, partial=True)
    stage = {
        'type': ['object', 'null'],
        'properties': {**keys, **_of_stage()},
        'patternProperties': {rf'^({"|".join(keys)})\.': {}},
        'additionalProperties': False,
    }
    return {
        '$schema': DIALECT,
        'title': 'composer_kd: the YAML of a run, or of stages',
        'type': 'object',
        'properties': {
            **keys,
            STAGES: {
                'description': 'several runs in order, of which later ones may be taught by earlier ones',
                'type': 'object',
                'additionalProperties': stage,
            },
        },
        'additionalProperties': False,
        'if': {'required': [STAGES]},
        'else': writer.complete(),
        'definitions': dict(sorted(writer.definitions.items())),
    }


def _of_stage() -> dict[str, Schema]:
    return {
        'yaml': {'type': 'string', 'description': 'a YAML of its own, from the folder of this one'},
        'generations': {'type': 'integer', 'minimum': 1, 'description': 'how often the stage is repeated'},
        'ensemble': {'type': 'boolean', 'description': 'whether its generations are evaluated together too'},
    }


class _Writer:
    """Writes schemas of annotations, and the definitions that they refer to, each once."""

    def __init__(self) -> None:
        self.definitions: dict[str, Schema] = {'interpolation': INTERPOLATION}

    def complete(self) -> Schema:
        """What a run has to say that is not one of several stages, which share what they have in common."""
        hints = typing.get_type_hints(RunConfig, include_extras=True)
        properties: dict[str, Schema] = {}
        for name, annotation in ((name, Annotation.of(hint)) for name, hint in hints.items()):
            part = annotation.mark(Part)
            if annotation.kind is Kind.COMPONENT:
                properties[name] = NAMED
            elif annotation.kind is Kind.SECTION and annotation.section is not None:
                properties[name] = {'required': _required(annotation.section)}
            elif annotation.kind is Kind.KEYED and part is not None:
                properties[name] = {'patternProperties': _required_options(part.scope)}
        return {'required': _required(RunConfig), 'properties': properties}

    def section(self, kind: type) -> Schema:
        """The schema of a mapping with the keys of a dataclass, or with some of them."""
        return {
            'type': 'object',
            'description': first_sentence(kind),
            'properties': self.keys(kind),
            'additionalProperties': False,
        }

    def keys(self, kind: type, partial: bool = False) -> dict[str, Schema]:
        """The schemas of the keys of a dataclass; partial ones may leave out what they require."""
        hints = typing.get_type_hints(kind, include_extras=True)
        told = comments(kind)
        return {
            field.name: self.value(hints[field.name], told.get(field.name), field.default, partial)
            for field in dataclasses.fields(kind)
        }

    def value(
        self, hint: Any, words: str | None = None, default: Any = dataclasses.MISSING, partial: bool = False
    ) -> Schema:
        """The schema of one value, which may be an interpolation."""
        found = self.hint(hint, partial)
        if found == {}:
            return {'description': words} if words else {}
        if words:
            found = {**found, 'description': words} if '$ref' not in found else {'allOf': [found], 'description': words}
        if _is_plain(default) and '$ref' not in found:
            found = {**found, 'default': default}
        return {'anyOf': [found, {'$ref': '#/definitions/interpolation'}]}

    def hint(self, hint: Any, partial: bool = False) -> Schema:
        """The schema of the values that an annotation accepts."""
        annotation = Annotation.of(hint)
        if annotation.kind is Kind.EITHER:
            either = annotation.mark(Either)
            assert either is not None
            return _any_of([self.hint(one) for one in _ways(either)])
        if annotation.kind is Kind.PLAIN:
            return self.plain(annotation)
        if annotation.kind is Kind.ITEMS:
            one = self.hint(annotation.options[0])
            least = 0 if annotation.mark(MayBeEmpty) is not None else 1
            return _any_of([{'type': 'array', 'items': _or_interpolation(one), 'minItems': least}, one])
        if annotation.kind is Kind.SECTION:
            assert annotation.section is not None
            section = annotation.section
            found = self.defined(section.__name__, lambda: self.section(section))
            required = _required(section)
            if required and not partial:
                found = {'allOf': [found, {'required': required}]}
        else:
            part = annotation.mark(Part)
            assert part is not None
            found = self.keyed(part.scope) if annotation.kind is Kind.KEYED else self.component(part.scope)
            if annotation.kind is Kind.COMPONENT and SCOPES[part.scope].only is None and not partial:
                found = {'allOf': [found, NAMED]}
        return _any_of([found, {'type': 'null'}]) if annotation.is_optional or annotation.is_mapping else found

    def plain(self, annotation: Annotation) -> Schema:
        options = annotation.mark(OptionsOf)
        if options is not None:
            known: Schema = {name: {} for name in SETTINGS[options.what]()}
            return {'type': ['object', 'null'], 'properties': known, 'additionalProperties': False}
        musts = [mark for mark in annotation.marks if isinstance(mark, Must)]
        found = self.bare(annotation.bare)
        limits: Schema = {}
        for must in musts:
            limits |= must.limits
        return {**found, **limits} if limits else found

    def bare(self, kind: Any) -> Schema:
        """The schema of the values of a type, as composer_kd.config.typecheck judges them."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin is typing.Annotated:
            return self.bare(arguments[0])
        if describe(kind).count("Composer time such as '10ep'") and origin is not None:
            arguments = tuple(one for one in arguments if one is not str)
        if origin in (typing.Union, type(int | str)):
            return _any_of([self.bare(one) for one in arguments])
        if origin is typing.Literal:
            return {'enum': list(arguments)}
        kind = origin or kind
        if kind in _LISTS:
            items = [one for one in arguments if one is not Ellipsis]
            return {'type': 'array', 'items': _or_interpolation(_any_of([self.bare(one) for one in items] or [{}]))}
        if kind in _DICTS:
            return {'type': 'object'}
        if kind in _PLAIN:
            return _PLAIN[kind]
        return _of_class(kind)

    def component(self, scope: str) -> Schema:
        """``{name: ..., its options}``, or the name alone."""
        only = SCOPES[scope].only
        if only is not None:
            return {'allOf': [self.options(scope, only), {'required': _needed(scope, only)}]}
        return self.defined(scope, lambda: self._component(scope))

    def _component(self, scope: str) -> Schema:
        patterns = {name: _spelling(name, SCOPES[scope].suffix) for name in known_names(scope)}
        names = _any_of([{'enum': sorted(patterns)}, {'pattern': '|'.join(patterns.values()) or '^$'}, DOTTED])
        rules = [
            {
                'if': {'required': ['name'], 'properties': {'name': {'type': 'string', 'pattern': pattern}}},
                'then': self.options(scope, name, named=True),
            }
            for name, pattern in sorted(patterns.items())
        ]
        named = {**names, 'type': 'string'}
        mapping: Schema = {
            'type': 'object',
            'properties': {'name': _or_interpolation(named)},
            **({'allOf': rules} if rules else {}),
        }
        return {'description': SCOPES[scope].a, **_any_of([mapping, named])}

    def keyed(self, scope: str) -> Schema:
        """A mapping from the names of components to their options."""
        return self.defined(f'{scope}s', lambda: self._keyed(scope))

    def _keyed(self, scope: str) -> Schema:
        known = {
            _spelling(name, SCOPES[scope].suffix): _any_of([self.options(scope, name), {'type': 'null'}])
            for name in known_names(scope)
        }
        snake = {_snake(name): value for name, value in zip(known_names(scope), known.values())}
        free = {DOTTED['pattern']: {'type': ['object', 'null']}}
        return {
            'type': 'object',
            'description': f'{SCOPES[scope].what}s by name, each with its options',
            'properties': dict(sorted(snake.items())),
            'patternProperties': {**known, **free},
            'additionalProperties': False,
        }

    def options(self, scope: str, name: str, named: bool = False) -> Schema:
        """The options of a component that has a bare name."""
        return self.defined(f'{scope}/{name}' + (':' if named else ''), lambda: self._options(scope, name, named))

    def _options(self, scope: str, name: str, named: bool) -> Schema:
        try:
            component = Component(scope, name)
            signature = Signature.of(component)
        except ConfigError:
            return {'type': 'object'}
        told, defaults = option_words(component.target), _defaults(component.target)
        properties = {
            key: self.value(known.annotation, told.get(key), defaults.get(key, dataclasses.MISSING))
            for key, known in signature.allowed.items()
        }
        found: Schema = {'type': 'object', 'description': first_sentence(component.target), 'properties': properties}
        if named:
            properties['name'] = properties.get('name', {})
        if not signature.open_ended:
            found['additionalProperties'] = False
        return found

    def defined(self, name: str, make: collections.abc.Callable[[], Schema]) -> Schema:
        """A reference to a definition, which is made when it is first referred to."""
        if name not in self.definitions:
            self.definitions[name] = {}  # it may refer to itself
            self.definitions[name] = make()
        return {'$ref': '#/definitions/' + name.replace('~', '~0').replace('/', '~1')}


def _required(kind: type) -> list[str]:
    missing = dataclasses.MISSING
    return [one.name for one in dataclasses.fields(kind) if one.default is missing and one.default_factory is missing]


def _needed(scope: str, name: str) -> list[str]:
    return [key for key, known in Signature.of(Component(scope, name)).allowed.items() if known.required]


def _required_options(scope: str) -> dict[str, Schema]:
    """For each component, by its spellings, the options that it requires."""
    found: dict[str, Schema] = {}
    for name in known_names(scope):
        needed = _needed(scope, name)
        if needed:
            found[_spelling(name, SCOPES[scope].suffix)] = {'required': needed}
    return found


def _ways(either: Either) -> list[Any]:
    """The annotations among which a value in several forms is read."""
    found: dict[str, Any] = {}
    for value in _WAYS:
        hint = either.which(value)
        found.setdefault(repr(hint), hint)
    return list(found.values())


def _any_of(schemas: list[Schema]) -> Schema:
    """One of several; those that accept nothing are left out, and one that accepts all is enough."""
    unique: dict[str, Schema] = {}
    for schema in schemas:
        for one in schema['anyOf'] if set(schema) == {'anyOf'} else [schema]:
            unique.setdefault(json.dumps(one, sort_keys=True, default=str), one)
    rest = [one for one in unique.values() if one != NOTHING]
    if {} in rest:
        return {}
    return {'anyOf': rest} if len(rest) > 1 else (rest[0] if rest else NOTHING)


def _or_interpolation(schema: Schema) -> Schema:
    return {} if schema == {} else {'anyOf': [schema, {'$ref': '#/definitions/interpolation'}]}


def _of_class(kind: Any) -> Schema:
    if kind is None:
        return {'type': 'null'}
    if not isinstance(kind, type):
        return NOTHING if kind is collections.abc.Callable else {}
    if issubclass(kind, Time):
        return {'type': 'string', 'pattern': r'\d', 'description': describe(kind), 'examples': ['10ep', '500ba']}
    members = getattr(kind, '__members__', None)
    if members is not None:
        values = [str(member.value) for member in members.values()]
        return _any_of([{'enum': values}, {'type': 'string', 'pattern': '|'.join(_any_case(one) for one in values)}])
    if hasattr(kind, '__fspath__'):
        return {'type': 'string'}
    return NOTHING  # an object, which a YAML cannot hold


def _any_case(name: str, between: str = '') -> str:
    letters = (f'[{one.upper()}{one.lower()}]' if one.isalpha() else re.escape(one) for one in name)
    return f'^{between.join(letters)}$'


def _spelling(name: str, suffix: str) -> str:
    """The pattern of all spellings of a name: in any case, with or without underscores, and without its suffix."""
    plain, ending = name.replace('_', ''), suffix.replace('_', '').lower()
    short = plain[: -len(ending)] if ending and plain.lower().endswith(ending) else plain
    spellings = dict.fromkeys((plain, short or plain))
    return '|'.join(f'^_*{_any_case(one, "_*")[1:-1]}_*$' for one in spellings)


def _snake(name: str) -> str:
    """The name as a key of a YAML: ``LabelSmoothing`` is ``label_smoothing``."""
    parts = []
    for place, letter in enumerate(name):
        after = name[place + 1 : place + 2]
        begins = letter.isupper() and place > 0 and (name[place - 1].islower() or after.islower())
        parts.append(f'_{letter.lower()}' if begins and parts[-1] != '_' else letter.lower())
    return ''.join(parts)


def _defaults(target: Any) -> dict[str, Any]:
    try:
        return {name: one.default for name, one in inspect.signature(target).parameters.items()}
    except (TypeError, ValueError):
        return {}


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or (isinstance(value, (bool, int, float, str)) and not hasattr(value, 'value'))
