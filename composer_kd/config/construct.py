"""Builds objects from checked components."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from composer.models import HuggingFaceModel
from torch import nn
from torch.utils.data import DataLoader, Subset

from composer_kd.algorithms.peers import Peer
from composer_kd.config.markers import Component
from composer_kd.config.registry import SCOPES, import_path, is_function_itself
from composer_kd.config.schema import MeasuredConfig, PeerConfig, SourceConfig, TeacherConfig
from composer_kd.config.secrets import hidden
from composer_kd.config.stored import StoredTeacherConfig
from composer_kd.config.text_checks import check_measured
from composer_kd.data.collating import collate_of
from composer_kd.errors import Attempts, ComposerKDError, ConfigError, stopped_by
from composer_kd.teachers import CachedTeacher, FrozenTeacher, load_weights
from composer_kd.teachers.adapters import InputAdapters

__all__ = [
    'HUGGING_FACE',
    'build_adapter',
    'build_batches',
    'build_peer',
    'build_source',
    'build_teacher',
    'construct',
    'construct_or_say',
]


HUGGING_FACE = (
    'In a YAML, write {name: hf_classifier, pretrained: FOLDER}, or hf_causal_lm, hf_masked_lm, hf_seq2seq, '
    'hf_image_classifier. For another task, name a function of yours that returns '
    'composer.models.HuggingFaceModel(...), such as my_models.student for `def student() -> HuggingFaceModel` in '
    "my_models.py of the working folder; a teacher's model may also be named as it is, such as "
    'transformers.AutoModelForTokenClassification.from_pretrained'
)
"""What to do about a model of transformers that would need a wrapper."""


def construct(component: Component, stand_in: Callable[[Any], Any] | None = None, **supplied: Any) -> Any:
    """Builds the object of a component, including the components among its options.

    Args:
        component: Name and options.
        stand_in: Returns a replacement for an option that should not be built, or None to build the option.
        supplied: Keyword arguments that a YAML file cannot contain, such as an optimizer's parameters.

    Returns:
        The object; for a name that means the function itself, the function with the options bound.

    Raises:
        ConfigError: If the name is unknown.

    Example:
        >>> construct(Component('loss', 'torch.nn.MSELoss', {'reduction': 'sum'})).reduction
        'sum'
    """
    options = {key: _materialise(value, stand_in) for key, value in component.options.items()}
    if is_function_itself(component.scope, component.target):
        return functools.partial(component.target, **options)
    _check_measured(component, options)
    return component.target(**supplied, **options)


def _check_measured(component: Component, options: Mapping[str, Any]) -> None:
    """Checks that samples on which a model among the options is measured are tokenized for it."""
    for key, written in component.options.items():
        if isinstance(written, MeasuredConfig):
            for model in (made for made in options.values() if isinstance(made, nn.Module)):
                check_measured(model, options[key].dataset, f'{key}.dataset')


def _materialise(value: Any, stand_in: Callable[[Any], Any] | None) -> Any:
    replacement = stand_in(value) if stand_in is not None else None
    if replacement is not None:
        return replacement
    if isinstance(value, Component):
        return construct(value, stand_in)
    if isinstance(value, TeacherConfig):
        return build_teacher(value)
    if isinstance(value, PeerConfig):
        return build_peer(value)
    if isinstance(value, SourceConfig):
        return build_source(value)
    if isinstance(value, MeasuredConfig):
        return build_batches(value)
    if isinstance(value, StoredTeacherConfig):
        return CachedTeacher(value.cache, value.name, local=value.local)
    if isinstance(value, list):
        attempt = Attempts()  # reports every teacher that cannot be built
        items = [attempt(_materialise, item, stand_in) for item in value]
        attempt.finish()
        return items
    return value


def construct_or_say(component: Component, **supplied: Any) -> Any:
    """Builds the object of a component like ``construct``; errors name the dotted key and the options.

    Args:
        component: Name and options.
        supplied: As for ``construct``.

    Returns:
        The object.

    Raises:
        ConfigError: If it cannot be built from its options. Other errors of this package are raised unchanged.
    """
    if getattr(component.target, '__init__', None) is HuggingFaceModel.__init__:
        raise ConfigError(f'{component.path}: {component.name} takes a model as an object. {HUGGING_FACE}')
    try:
        return _of_kind(component, construct(component, **supplied))
    except ConfigError as error:
        raise ConfigError(f'{component.path}: {error}') from error
    except ComposerKDError:
        raise  # such as a checkpoint error, which names its file
    except (Exception, SystemExit) as error:  # the user's own class may raise any error, or end the process
        if stopped_by(error) is not None:
            raise
        written = ', '.join(f'{key}={value!r}' for key, value in hidden(component.options).items())
        raise ConfigError(f'{component.path}: {component.name}({written}) cannot be built: {_words(error)}') from error


def _of_kind(component: Component, made: Any) -> Any:
    """Refuses what a function returned that is not of the component's kind."""
    scope = SCOPES[component.scope]
    bases = tuple(import_path(base) for base in scope.kind)
    if inspect.isclass(component.target) or scope.methods or not bases or isinstance(made, bases):
        return made
    raise ConfigError(
        f'{component.name} is no {scope.what}: it returned {type(made).__name__}, expected {scope.kind[0]}'
    )


def _words(error: BaseException) -> str:
    usual = isinstance(error, (ValueError, TypeError, RuntimeError, ImportError)) and str(error)
    return str(error) if usual else f'{type(error).__name__}: {error}'


def build_adapter(written: Component | list[Component] | None) -> Any:
    """Builds a teacher's input adapter.

    Args:
        written: The adapter, several of them, or None.

    Returns:
        A callable of the inputs; None for none.

    Raises:
        ConfigError: If one cannot be built from its options.
    """
    if written is None:
        return None
    if isinstance(written, list):
        return InputAdapters([construct_or_say(one) for one in written])
    return construct_or_say(written)


def build_teacher(config: TeacherConfig) -> FrozenTeacher:
    """Builds a teacher and loads its weights.

    Args:
        config: Its model, checkpoint and entry, input adapters, forward and name.

    Returns:
        The frozen teacher.

    Raises:
        CheckpointNotFoundError: If the checkpoint does not exist.
        CheckpointError: If it is damaged, unsafe, or does not fit the model.
    """
    if config.is_random and '.' in config.model.name:
        warnings.warn(
            f'{config.model.path}: no checkpoint is given, so the teacher {config.model.name} teaches with the weights '
            'that it is built with; give its checkpoint unless it loads trained weights itself',
            stacklevel=2,
        )
    model = construct_or_say(config.model)
    adapter = build_adapter(config.input_adapter)
    forward = construct_or_say(config.forward) if config.forward is not None else None
    return FrozenTeacher(model, config.checkpoint, adapter, forward, config.name, config.entry)


def build_source(config: SourceConfig) -> Any:
    """Builds a model that a student is cut out of, and loads its weights.

    Args:
        config: Its model, checkpoint and entry.

    Returns:
        The model.

    Raises:
        CheckpointNotFoundError: If the checkpoint does not exist.
        CheckpointError: If it is damaged, unsafe, or does not fit the model.
    """
    model = construct_or_say(config.model)
    if config.checkpoint is not None:  # None: in a rehearsal
        load_weights(model, config.checkpoint, config.entry)
    return model


def build_batches(config: MeasuredConfig) -> DataLoader[Any]:
    """Loads the samples on which a teacher is measured.

    Args:
        config: The data set, how many of its samples, and how they become batches.

    Returns:
        A loader of evenly spaced samples, always in the same order.
    """
    dataset = construct_or_say(config.dataset)
    count = min(config.samples, len(dataset))
    indices = [index * len(dataset) // count for index in range(count)]
    collate = collate_of(dataset) if config.collate_fn is None else construct_or_say(config.collate_fn)
    return DataLoader(Subset(dataset, indices), config.batch_size, collate_fn=collate)


def build_peer(config: PeerConfig) -> Peer:
    """Builds a peer, and loads the weights that it starts from.

    Args:
        config: Its model, checkpoint and entry, input adapters, name and learning rate.

    Returns:
        The peer.

    Raises:
        CheckpointNotFoundError: If the checkpoint does not exist.
        CheckpointError: If it is damaged, unsafe, or does not fit the model.
        ConfigError: If the model cannot be built, or takes no input adapter.
    """
    model = construct_or_say(config.model)
    if config.checkpoint is not None:
        load_weights(model, config.checkpoint, config.entry)
    try:
        return Peer(model, build_adapter(config.input_adapter), config.called, config.lr)
    except ConfigError as error:
        raise ConfigError(f'{config.model.path.removesuffix(".model")}: {error}') from error
