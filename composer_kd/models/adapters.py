"""Adapters of the peft library (LoRA and its kin) in models of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from composer.models import HuggingFaceModel

from composer_kd.errors import ConfigError, nearest
from composer_kd.models.hugging_face_build import Built

__all__ = ['adapted', 'merged']

_KINDS = ('lora', 'loha', 'lokr', 'ia3', 'oft', 'vera')
"""Those that stand in the layers of a model, need no call of their own in training, and can be merged into it."""

_SET_HERE = (
    *('peft_type', 'task_type', 'inference_mode', 'auto_mapping', 'base_model_name_or_path', 'revision'),
    *('runtime_config', 'loftq_config', 'eva_config', 'corda_config', 'megatron_config', 'megatron_core'),
)


def adapted(built: Built, written: Mapping[str, Any], task: str | None) -> Built:
    """Puts adapters into a model, and freezes everything else but ``modules_to_save``.

    Args:
        built: A model with pretrained weights.
        written: ``name``, such as ``'lora'``, and options of peft's configuration of this kind: ``r``, ``lora_alpha``,
            ``target_modules``, ``modules_to_save``.
        task: peft's name of the task, by which it knows the head that trains beside the adapters; ``None`` for none.

    Returns:
        The model as a ``peft.PeftModel``.

    Raises:
        ConfigError: If peft is not installed, an option is wrong, a weight that is tied to another would be adapted, or
            random weights would be frozen.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError("peft: needs the peft library: pip install 'composer_kd[peft]'") from error
    options = dict(written)
    name = options.pop('name', None)
    kinds = {str(kind.value).lower(): one for kind, one in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    known = [one for one in _KINDS if one in kinds]
    if not isinstance(name, str) or name.lower() not in known:
        raise ConfigError(f'peft.name: expected one of {known}, got {name!r}{nearest(str(name), known)}')
    kind = kinds[name.lower()]
    fields = [field.name for field in dataclasses.fields(kind) if field.name not in _SET_HERE]
    for key in options:
        if key not in fields:
            raise ConfigError(f'peft.{key}: {kind.__name__} has no such option{nearest(key, fields)}')
    if built.option != 'pretrained':
        raise ConfigError(
            'peft: adapters stand in a model that was trained, and of architecture the weights are random and would be '
            'frozen; give pretrained'
        )
    try:
        net: Any = peft.get_peft_model(built.model, kind(task_type=task, **options))
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise ConfigError(f'peft: {kind.__name__} cannot be had: {" ".join(str(error).split())[:300]}') from error
    _check_ties(net)
    parameters = dict(net.named_parameters())
    moved = {own: _moved(own, parameters) for own in built.initialized}
    frozen = sorted(own for own, now in moved.items() if not parameters[now].requires_grad)
    if frozen:
        raise ConfigError(
            f'peft: {len(frozen)} weights are not in {built.place!r}, so they are random, and would be frozen, such as '
            f'{frozen[0]!r}. Let them train: peft: {{modules_to_save: [{frozen[0].rpartition(".")[0]}]}}'
        )
    return dataclasses.replace(built, model=net, initialized={moved[own]: v for own, v in built.initialized.items()})


def _check_ties(net: Any) -> None:
    """Refuses adapters on one use of a weight that has several: merged, or saved, they would change the others."""
    uses: dict[int, list[str]] = {}
    for name, parameter in net.named_parameters(remove_duplicate=False):
        uses.setdefault(id(parameter), []).append(name)
    for names in uses.values():
        adapted = [name for name in names if {'base_layer', 'original_module'} & set(name.split('.'))]
        if adapted and len(names) > 1:
            several = ', '.join(repr(_plain(name)) for name in names)
            raise ConfigError(
                f'peft: {several} are one weight (tie_word_embeddings), and an adapter of one of them cannot be merged '
                f'into it: leave {_plain(adapted[0]).rpartition(".")[0]!r} out of target_modules and modules_to_save'
            )


def _moved(name: str, parameters: Mapping[str, Any]) -> str:
    """The name of a weight in the model with adapters: of what trains as a whole, that of its copy."""
    found = next((now for now in parameters if 'modules_to_save.' in now and _plain(now) == name), None)
    return found or next(now for now in parameters if _plain(now) == name)


def _plain(name: str) -> str:
    parts = name.removeprefix('base_model.model.').split('.')
    if 'modules_to_save' in parts:
        at = parts.index('modules_to_save')
        parts = parts[:at] + parts[at + 2 :]
    return '.'.join(part for part in parts if part not in ('base_layer', 'original_module'))


def merged(model: Any) -> Any:
    """A model whose adapters are merged into its weights, as a model of transformers alone; others as they are.

    Args:
        model: A model for Composer, which is changed.

    Returns:
        The model.

    Raises:
        ConfigError: If a weight that is tied to another has adapters: one weight cannot hold both.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 3)
        >>> merged(net) is net
        True
    """
    if isinstance(model, HuggingFaceModel) and getattr(model, 'using_peft', False):
        _check_ties(model.model)
        model.model = model.model.merge_and_unload()
        model.using_peft = False
    return model
