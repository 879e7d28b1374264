"""The nets that were trained beside the student of a saved run: peers and exits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from composer.core import State
from composer.devices import DeviceCPU
from torch import nn
from torch.utils.data import DataLoader

from composer_kd.algorithms.joint_net import JointNet
from composer_kd.algorithms.joint_training import JointTraining
from composer_kd.config.construct import construct_or_say
from composer_kd.config.dry_construct import without_weights
from composer_kd.config.load import as_mapping
from composer_kd.config.markers import Component
from composer_kd.config.schema import PeerConfig
from composer_kd.errors import ConfigError, nearest
from composer_kd.runs.loaders import build_loader
from composer_kd.runs.saved import SavedRun
from composer_kd.teachers import load_weights

__all__ = [
    'joint_net',
    'model_of_net',
    'name_of_net',
    'names_beside',
    'net_module',
    'require_name',
    'restored',
    'written_model',
]


def names_beside(run: SavedRun) -> list[str]:
    """Lists the nets that were trained beside the student of a run, without building them.

    Args:
        run: The run.

    Returns:
        Their names, as in the names of their metrics; none if the checkpoint holds the student alone.

    Example:
        >>> from composer_kd.runs.saved import open_run
        >>> names_beside(open_run('yamls/digits/student.yaml'))
        []
    """
    return [name for part in _joint(run) for name in without_weights(part).names()]


def name_of_net(run: SavedRun, net: str) -> str:
    """The name of a net beside the student of a run, in tables of several runs."""
    return f'{run.name} {net}'


def model_of_net(run: SavedRun, net: str) -> Component:
    """The settings of the model that a net beside the student of a run is, or is a part of.

    Args:
        run: The run.
        net: The name of the net.

    Returns:
        Those of a peer; those of the student for an exit.
    """
    for part in _joint(run):
        for name, peer in zip(without_weights(part).names(), part.holding(PeerConfig)):
            if name == net:
                return peer.model
    return run.config.model


def written_model(run: SavedRun, net: str) -> dict[str, Any]:
    """The settings of the model of a net beside the student of a run, to compare it with other models.

    Args:
        run: The run.
        net: The name of the net.

    Returns:
        Those of a peer; those of the student, and the name of the net, for a part of the student.
    """
    model = model_of_net(run, net)
    return {**as_mapping(model), **({'net': net} if model is run.config.model else {})}


def restored(run: SavedRun, student: nn.Module) -> list[JointTraining]:
    """Builds the algorithms that trained nets beside the student of a run, and loads the weights of these nets.

    Args:
        run: The run; without a checkpoint, the nets have random weights.
        student: Its student, on the CPU.

    Returns:
        The algorithms; their nets are on the CPU.

    Raises:
        CheckpointError: If the weights do not fit.
    """
    found = [construct_or_say(_from_scratch(part)) for part in _joint(run)]
    if found:
        data = some_data(run)
        state = State(student, rank_zero_seed=0, run_name=run.name, device=DeviceCPU(), train_dataloader=data)
        for algorithm in found:
            algorithm.restore(state, _load(run))
    return found


def some_data(run: SavedRun) -> DataLoader[Any]:
    """Data on which layers can be measured: that of the evaluation, or else of the training."""
    if run.config.evaluation is None and run.config.train_loader is not None:
        return build_loader(run.config.train_loader, 1, run.config.seed, train=False)
    return run.loader()


def net_module(run: SavedRun, name: str, num_classes: int | None = None) -> nn.Module:
    """The module of a net that was trained beside the student of a run; see :func:`joint_net`."""
    return joint_net(run, name, num_classes).model


def joint_net(run: SavedRun, name: str, num_classes: int | None = None) -> JointNet:
    """Builds a net that was trained beside the student of a run.

    Args:
        run: The run.
        name: The name of the net.
        num_classes: As for the student.

    Returns:
        The net, in eval mode, on the CPU.

    Raises:
        ConfigError: If the run has no net of this name.
        CheckpointError: If the weights do not fit.
    """
    require_name(run, name)
    loader = some_data(run)
    classes = getattr(loader.dataset, 'num_classes', None) if num_classes is None else num_classes
    algorithms = restored(run, run.model(classes))
    batch = next(iter(run.batches(loader)))
    return next(one for part in algorithms for key, one in part.nets(batch).items() if key == name)


def require_name(run: SavedRun, name: str) -> None:
    """Checks that a run has a net of a name beside its student.

    Raises:
        ConfigError: If it has none; lists the names.
    """
    known = names_beside(run)
    if not known:
        raise ConfigError(f'{run.name}: no net was trained beside the student, so there is no {name!r}')
    if name not in known:
        raise ConfigError(f'{run.name}: no net {name!r} was trained beside the student{nearest(name, known)}')


def _joint(run: SavedRun) -> Sequence[Component]:
    found = [part for part in run.config.algorithms.values() if _trains_jointly(part.target)]
    return found if found and run.holds_nets else []


def _trains_jointly(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, JointTraining)


def _from_scratch(algorithm: Component) -> Component:
    """An algorithm whose peers start from nothing: their weights are those of the run."""

    def bare(value: Any) -> Any:
        if isinstance(value, list):
            return [bare(one) for one in value]
        return value.from_scratch() if isinstance(value, PeerConfig) else value

    return algorithm.with_options({key: bare(value) for key, value in algorithm.options.items()})


def _load(run: SavedRun) -> Callable[[nn.Module, str], None]:
    if run.checkpoint is None:
        return lambda module, path: None
    return functools.partial(_load_from, run)


def _load_from(run: SavedRun, module: nn.Module, path: str) -> None:
    assert run.checkpoint is not None
    load_weights(module, run.checkpoint, path)
