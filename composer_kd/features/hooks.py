"""Forward hooks that read the features of named layers, without edits to the model."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import torch
from composer.models import HuggingFaceModel
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from composer_kd.batches.masks import token_mask
from composer_kd.errors import ConfigError, nearest
from composer_kd.features.hook_calls import InputHook, OutputHook, is_compiled
from composer_kd.features.layer_path import LayerPath

__all__ = ['LayerNotRun', 'LayerPath', 'Summary', 'FeatureHooks']

Summary: TypeAlias = Callable[..., Tensor]

# The attributes in which wrappers hold a net: one path names a layer with and without the wrapper.
_WRAPPERS = ('module', 'model', '_orig_mod', 'base_model.model')


class LayerNotRun(ConfigError):
    """A layer did not run in a forward pass."""


class FeatureHooks:
    """Forward hooks on named layers of a model, which store features only while they are open.

    Between :meth:`take` and the next :meth:`open` no feature of a batch is stored. The hooks stay closed in the
    backward pass, where activation checkpointing runs layers a second time. For a layer that runs several times, the
    last feature is kept.

    Args:
        model: The model. Paths are looked up in the model and, if it is a wrapper such as ``ComposerClassifier``, in
            the net that it wraps.
        wanted: Pairs of a layer path and a summary: a function that reduces the feature at once, for example by
            pooling, so that the whole feature is not stored; ``None`` to store it whole.
        whose: The model's name, for messages.

    Raises:
        ConfigError: If the model has no such layer; the message lists the nearest names.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> hooks = FeatureHooks(net, [('0', None)], 'the student')
        >>> hooks.attach()
        >>> hooks.open()
        >>> _ = net(torch.zeros(4, 2))
        >>> hooks.take()[('0', None)].shape
        torch.Size([4, 3])
        >>> FeatureHooks(net, [('00', None)], 'the student')
        Traceback (most recent call last):
        ...
        composer_kd.errors.ConfigError: the student has no layer '00'; did you mean '0'?
    """

    def __init__(self, model: nn.Module, wanted: Iterable[tuple[str, Summary | None]], whose: str) -> None:
        self.whose = whose
        self.is_open = False
        self._wanted = [(LayerPath.parse(text), summary) for text, summary in dict.fromkeys(wanted)]
        self._model = model
        for place, _ in self._wanted:
            _module_at(model, place, whose)
        self._found: dict[tuple[str, Summary | None], tuple[Tensor, int] | ConfigError] = {}
        self._handles: list[RemovableHandle] = []
        self._mask: Callable[[str], Tensor | None] | None = None
        self._samples: int | None = None
        self._once = self._running = False
        self._modules: list[nn.Module] = []

    def module_names(self) -> dict[str, str]:
        """The full name of each layer's module in the model, by its path as written."""
        names = {id(module): name for name, module in self._model.named_modules()}
        places = [place for place, _ in self._wanted]
        return {place.text: names[id(_module_at(self._model, place, self.whose))] for place in places}

    def attach(self) -> None:
        """Registers the hooks, closed; they stay registered until :meth:`remove`."""
        if self._handles:
            return
        if any(place.keys for place, _ in self._wanted):
            root = _module_at(self._model, LayerPath.parse('outputs'), self.whose)
            self._handles.append(root.register_forward_pre_hook(self._count, with_kwargs=True))
        if not self._modules:  # looked up again after each removal, because other algorithms may have replaced layers
            self._modules = [_module_at(self._model, place, self.whose) for place, _ in self._wanted]
        for module, (place, summary) in zip(self._modules, self._wanted):
            keep = self._keep(place, summary)
            if place.of_input:  # before the layer runs, because it may work in place
                hook = module.register_forward_pre_hook(InputHook(keep), with_kwargs=True)
            else:
                hook = module.register_forward_hook(OutputHook(keep))
            self._handles.append(hook)

    def attach_if_compiled(self) -> None:
        """Registers the hooks of a compiled model, whose code sees only those that it had when it first ran."""
        if is_compiled(self._model):
            self.attach()

    def remove(self) -> None:
        """Removes the hooks and frees the stored features."""
        self._take_off()
        self._modules = []
        self.close()

    def _take_off(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._once, self._running = [], False, False

    def open(self, mask: Callable[[str], Tensor | None] | None = None, once: bool = False) -> None:
        """Starts to store features, and frees those of an earlier forward pass.

        Args:
            mask: Gives the valid tokens of a layer for summaries, ``(B, S)`` booleans, or ``None`` if all are valid.
            once: Whether to register the hooks now, and to remove them as soon as the model has run or has failed to,
                so that nothing is left on it whatever ends the run. Hooks that :meth:`attach` registered stay.
        """
        self._found.clear()
        self._mask, self.is_open = mask, True
        if self._once:  # a forward pass was interrupted
            self._take_off()
        if once and not self._handles:
            self.attach()
            self._once = True
            self._handles.append(self._model.register_forward_pre_hook(InputHook(self._begin), with_kwargs=True))
            # The last hook of the model, because it removes itself while torch goes through them.
            self._handles.append(self._model.register_forward_hook(OutputHook(self._end), always_call=True))

    def _begin(self, args: Any) -> None:
        """The model starts to run. If an earlier run of it never ended, the hooks are left over and come off."""
        if self._running:
            self.remove()
        self._running = self._once

    def _end(self, output: Any) -> None:
        self._take_off()

    @contextlib.contextmanager
    def recording(self, mask: Callable[[str], Tensor | None] | None = None) -> Iterator[FeatureHooks]:
        """Stores features inside a ``with`` block; the hooks are on the model only there, unless they were before.

        Args:
            mask: As for :meth:`open`.
        """
        stay = bool(self._handles)
        self.open(mask)
        try:
            self.attach()
            yield self
        finally:
            self.close()
            if not stay:
                self._take_off()

    def close(self) -> None:
        """Stops storing features, and frees those stored."""
        self._found.clear()
        self._mask, self.is_open = None, False

    def take(self) -> dict[tuple[str, Summary | None], Tensor]:
        """Returns the features stored since :meth:`open`, by layer path and summary, and closes the hooks.

        Raises:
            LayerNotRun: If a layer did not run.
            ConfigError: If a key of a path does not exist, or a later layer changed the output in place.
        """
        seen = dict(self._found)
        self.close()
        found = {key: self._unchanged(key[0], value) for key, value in seen.items()}
        for place, summary in self._wanted:
            if (place.text, summary) not in found:
                raise LayerNotRun(
                    f'The layer {place.text!r} of {self.whose} did not run in this forward pass: name one that always '
                    'runs, such as the block around a layer that is dropped at random (LayerDrop, stochastic depth). '
                    '(Exported modules show their outputs alone; a model that ran compiled before does not see new '
                    'hooks: call torch.compiler.reset() first.)'
                )
        return found

    def _count(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Notes the number of samples that the model is called with."""
        sizes = (leaf.shape[0] for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim)
        self._samples = next(sizes, None)

    def _keep(self, place: LayerPath, summary: Summary | None) -> Callable[[Any], None]:
        key, whose = (place.text, summary), self.whose

        def keep(shown: Any) -> None:
            if self.is_open:
                try:
                    value = place.select(shown, whose, self._samples)
                except ConfigError as error:  # raised by `take`: a hook never makes the model itself fail
                    self._found[key] = error.with_traceback(None)
                    return
                if summary is not None:
                    mask = None if self._mask is None else self._mask(place.text)
                    value = summary(value, token_mask(value, mask))
                uncounted = torch.compiler.is_compiling() or value.is_inference()
                self._found[key] = value, -1 if uncounted else value._version

        return keep

    def _unchanged(self, text: str, seen: tuple[Tensor, int] | ConfigError) -> Tensor:
        if isinstance(seen, ConfigError):
            raise seen
        value, version = seen
        if version != -1 and version != value._version:
            raise ConfigError(
                f'The output of {text!r} of {self.whose} is changed in place by a layer that follows (a ReLU with '
                'inplace=True?), so it is not there any more when it is compared. Name that layer, or build the model '
                'with inplace=False.'
            )
        return value


def _module_at(model: nn.Module, place: LayerPath, whose: str) -> nn.Module:
    found = _found_at(model, place, whose)
    if isinstance(found, torch.jit.ScriptModule):
        raise ConfigError(
            f'{place.text!r} of {whose} is TorchScript, which shows its layers to nobody. Compare the logits; or '
            "compare 'outputs', with the module in another: torch.nn.Sequential(module)"
        )
    return found


def _found_at(model: nn.Module, place: LayerPath, whose: str) -> nn.Module:
    modules = dict(model.named_modules())
    if not place.path:
        # Composer's wrapper of Hugging Face models may be bypassed; it returns the outputs of the model inside.
        return model.model if isinstance(model, HuggingFaceModel) else model
    head, _, rest = place.path.partition('.')
    paths = [place.path, *([rest] if head in _WRAPPERS else [])]
    paths += [f'{wrapper}.{path}' for wrapper in _WRAPPERS for path in paths]
    paths += [f'{wrapper}.{path}' for wrapper in _WRAPPERS for path in paths]
    found = next((modules[path] for path in paths if path in modules), None)
    if found is None:
        known = {
            name.removeprefix('module.').removeprefix('model.')
            for name in modules
            if name and 'metrics' not in name.split('.')[0]
        }
        raise ConfigError(f'{whose} has no layer {place.path!r}{_nearest(place.path, known)}')
    if getattr(type(found), 'forward', None) is nn.Module.forward:  # the classes of TorchScript have none
        raise ConfigError(
            f'{place.path!r} of {whose} is a {type(found).__name__}, which does not run itself; name one of its '
            f'entries{_nearest(place.path, (f"{place.path}.{name}" for name, _ in found.named_children()))}'
        )
    return found


def _nearest(path: str, known: Iterable[str]) -> str:
    clause = nearest(path, known)
    if 'did you mean' in clause or len(clause) < 400:
        return clause
    return clause[:400].rpartition(',')[0] + ', ...'
