"""The workflow of ``composer-kd layers``: builds models and their inputs, and lists the layers in tables."""

from __future__ import annotations

import inspect
import pathlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from rich.table import Table
from torch import nn

from composer_kd.batches.contents import split_index
from composer_kd.config.check import check
from composer_kd.config.construct import build_adapter, construct_or_say
from composer_kd.config.load import load_config
from composer_kd.config.markers import Component, Part
from composer_kd.config.registry import resolve
from composer_kd.config.schema import PeerConfig, RunConfig, TeacherConfig
from composer_kd.config.stored import Stored, stored_teachers
from composer_kd.config.trust import packages_in, trusting
from composer_kd.config.yaml_source import Source, read_settings
from composer_kd.data.view_index import first_items
from composer_kd.errors import ConfigError, nearest
from composer_kd.features.layers import layer_shapes
from composer_kd.runs.loaders import build_loader
from composer_kd.stores import Store

__all__ = ['show_layers']

SAMPLES = 2  # of the data set: models that compare samples need more than one
TOKENS = 8


@dataclass
class _ModelConfig:
    model: Annotated[Component, Part('model')]


def show_layers(model: str, settings: Sequence[str] = (), shape: Sequence[int] | None = None) -> Iterator[Table]:
    """Lists the layers of a model, or of the student, the teachers and the peers of a run.

    Args:
        model: The YAML file of a run, the name of a model of this package, or a dotted path.
        settings: ``key=value`` strings: overrides of the YAML, or options of the model.
        shape: The shape of the input, with the batch dimension; by default the shape of the run's data, or one derived
            from the model's options, defaults or configuration.

    Yields:
        For each model a ``rich`` table of its layers; the first column has their paths as in ``Match(on=...)``.

    Raises:
        ConfigError: If the model is unknown, a setting is wrong, or the model cannot run on an input of this shape.

    Example:
        >>> (table,) = show_layers('ShallowCNN', ['image_size=8'])
        >>> list(table.columns[0].cells)[:2], list(table.columns[2].cells)[:2]
        (['features', 'features.0'], ['1, 16, 2, 2', '1, 16, 8, 8'])
    """
    if pathlib.Path(model).suffix in ('.yaml', '.yml'):
        yield from _of_a_run(load_config(model, settings), shape)
        return
    component = _component(model, settings)
    built = _build(component)
    batch = _input(component, built) if shape is None else _of_shape(built, shape)
    hint = '' if shape is not None else '; say what it takes: --input 1,3,32,32'
    yield _table(model, built, batch, hint=hint)


def _of_a_run(config: RunConfig, shape: Sequence[int] | None) -> Iterator[Table]:
    batch: Any = None
    if shape is None:
        loader = build_loader(config.train_loader, 1, config.seed, train=False)
        assert loader.collate_fn is not None
        samples = first_items(loader.dataset, SAMPLES)
        batch, _ = split_index(loader.collate_fn(samples), config.train_loader.with_index)
    student = _build(config.model)
    yield _table(
        f'the student, {config.model.name}', student, _of_shape(student, shape) if shape else batch, training=True
    )
    for stored in stored_teachers(config.algorithms):
        yield _stored_table(stored)
    for algorithm in config.algorithms.values():
        nets: list[TeacherConfig | PeerConfig] = [*algorithm.holding(TeacherConfig), *algorithm.holding(PeerConfig)]
        for net in nets:
            built = _build(net.model)
            adapt = build_adapter(net.input_adapter)
            name = f'the {"teacher" if isinstance(net, TeacherConfig) else "peer"} {net.name or ""}'.strip()
            inputs = _of_shape(built, shape) if shape else batch
            yield _table(f'{name}, {net.model.name}', built, inputs, adapt)


def _stored_table(stored: Stored) -> Table:
    """The layers of a stored teacher: those whose features are stored."""
    features = Store(stored.folder).manifest.features
    title = f'the teacher stored in {stored.folder}: {len(features)} stored layers'
    caption = 'for others: composer-kd cache ... --features LAYER, or the live teacher'
    table = Table(title=title, title_justify='left', caption=caption, caption_justify='left')
    table.add_column('layer', overflow='fold')
    table.add_column('output', no_wrap=True)
    for path, feature in sorted(features.items()):
        table.add_row(path, ', '.join(map(str, (1, *feature.shape))))
    return table


def _component(model: str, settings: Sequence[str]) -> Component:
    """Checks the options against the signature of the model, or against the configuration of a Hugging Face model."""
    options, faults = read_settings(settings)
    with trusting(packages_in(options.pop('allow_imports', None))):
        return _checked(model, options, faults)


def _checked(model: str, options: dict[str, Any], faults: list[str]) -> Component:
    source = Source(pathlib.Path(model), {'model': {'name': model, **options}}, faults=faults)
    target = resolve('model', model)
    hugging_face = getattr(target, 'config_class', None)
    if hugging_face is None and not hasattr(target, 'from_config'):
        return check(source, _ModelConfig).model
    if hugging_face is None:
        raise ConfigError(f'{model} is no model but finds one; name that, for instance transformers.BertModel')
    known = vars(hugging_face())
    source.faults += [f'{key}: unknown option of {hugging_face.__name__}{nearest(key, known)}'
                      for key in options if key not in known]  # fmt: skip
    if source.faults:
        raise ConfigError(f'{model}: ' + '; '.join(source.faults))
    return Component('model', model, {'config': hugging_face(**options)}, 'model')


def _build(component: Component) -> nn.Module:
    made = construct_or_say(component)
    if not isinstance(made, nn.Module):
        raise ConfigError(f'{component.name}: expected a torch.nn.Module, got {type(made).__name__}')
    return made


def _of_shape(model: nn.Module, shape: Sequence[int]) -> Any:
    first = next((part for part in model.modules() if next(part.parameters(recurse=False), None) is not None), None)
    takes_tokens = getattr(model, 'main_input_name', None) == 'input_ids' or isinstance(first, nn.Embedding)
    inputs = torch.zeros(*shape, dtype=torch.long if takes_tokens else torch.float32)
    if not hasattr(model, 'config'):
        return inputs
    name = getattr(model, 'main_input_name', 'input_ids')
    more = {'attention_mask': torch.ones_like(inputs)} if takes_tokens else {}
    if getattr(model.config, 'is_encoder_decoder', False):
        more['decoder_input_ids'] = inputs
    return {name: inputs, **more}


def _input(component: Component, model: nn.Module) -> Any:
    """Makes an input of the shape that the options, the defaults or the configuration of the model give."""
    config = getattr(model, 'config', None)
    if getattr(model, 'main_input_name', None) == 'input_ids':
        return _of_shape(model, (1, TOKENS))
    if config is not None:
        said = {'in_channels': getattr(config, 'num_channels', 3), 'image_size': getattr(config, 'image_size', 224)}
    else:
        signature = inspect.signature(component.target).parameters.values()
        said = {parameter.name: parameter.default for parameter in signature} | component.options
    size = said.get('image_size', 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return _of_shape(model, (1, said.get('in_channels', 3), height, width))


def _table(
    title: str,
    model: nn.Module,
    batch: Any,
    adapt: Callable[[Any], Any] | None = None,
    hint: str = '',
    training: bool = False,
) -> Table:
    try:
        layers = layer_shapes(model, batch, adapt, training)
    except ConfigError as error:
        raise ConfigError(f'{title}: {error}{hint}') from error
    hidden = sum(layer.in_place for layer in layers)
    caption = f'{hidden} left out, whose output a later layer changes in place' if hidden else None
    total = sum(parameter.numel() for parameter in model.parameters())
    heading = f'{title}: {total:,} parameters'
    table = Table(title=heading, title_justify='left', caption=caption, caption_justify='left')
    table.add_column('layer', overflow='fold')
    table.add_column('class', overflow='fold')
    table.add_column('output', no_wrap=True)
    table.add_column('parameters', justify='right')
    for layer in layers:
        if not layer.in_place:
            table.add_row(
                layer.path,
                layer.kind,
                ', '.join(map(str, layer.shape)),
                f'{layer.parameters:,}' * bool(layer.parameters),
            )
    return table
