"""Nets that train beside the student in one run, and learn from it and from one another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

from composer.core import State
from composer.models import ComposerModel, HuggingFaceModel
from torch import Tensor, nn
from torchmetrics import Metric

from composer_kd.batches.contents import split_index, to_evaluate_on
from composer_kd.errors import ConfigError
from composer_kd.features.calling import choose_call
from composer_kd.features.outputs import logits_of
from composer_kd.schedules import number_or_schedule

__all__ = ['Peer', 'Peers', 'as_peers']


class Peer:
    """A net that trains beside the student in :class:`.MutualLearning`.

    Args:
        model: The net: a module of the student's inputs, whose loss is computed as the student's is; or a
            ``ComposerModel`` with a loss of its own. It is trained in place.
        input_adapter: Changes the inputs for this net only, as that of a :class:`.FrozenTeacher`; for plain modules.
        name: Its name in the log and in messages, without ``/``; ``None`` for the model's class.
        lr: Its learning rate, which follows the student's schedule; ``None`` for that of the student.

    Raises:
        ConfigError: If the model is not a module, a ``ComposerModel`` has an input adapter, the learning rate is not a
            number above 0, or the name has a ``/``.

    Example:
        >>> Peer(nn.Linear(2, 3), lr=0.1)
        Peer('Linear')
    """

    def __init__(
        self,
        model: nn.Module,
        input_adapter: Callable[[Any], Any] | None = None,
        name: str | None = None,
        lr: float | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(f'Peer: expected a module, got {type(model).__name__}')
        if input_adapter is not None and isinstance(model, ComposerModel):
            raise ConfigError('Peer: a ComposerModel gets the whole batch; give the input adapter with a plain module')
        if lr is not None and (callable(lr) or not number_or_schedule('Peer: lr', lr, 0.0, strict=True)):
            raise ConfigError(f"Peer: lr must be a number, which follows the student's own schedule, got {lr!r}")
        if name is not None and (not isinstance(name, str) or '/' in name):
            raise ConfigError(
                f"Peer: name must be a string without '/', as in names of metrics and folders, got {name!r}"
            )
        self.model, self.input_adapter, self.lr = model, input_adapter, lr
        self.name = name or type(model).__name__
        self._calls: dict[type, Callable[[Any], Any]] = {}  # by the kind of batch
        self._student: Any = None

    def join(self, state: State) -> None:
        """Notes the student, whose loss is also that of a plain module.

        Raises:
            ConfigError: If the student's loss cannot be computed of the outputs of other nets.
        """
        self._student, self._calls = state.model, {}
        if not isinstance(self.model, ComposerModel) and isinstance(state.model, HuggingFaceModel):
            raise ConfigError(
                f'{self!r} is a plain module, and the student is a HuggingFaceModel, whose loss is part of its own '
                'outputs: give the peer as a HuggingFaceModel too.'
            )

    def outputs(self, batch: Any) -> Any:
        """Runs the net on a microbatch as models take it."""
        if isinstance(self.model, ComposerModel):
            return self.model(batch)
        if type(batch) not in self._calls:
            call = choose_call(self.model, batch, self.input_adapter, f'The peer {self.name!r}')
            self._calls[type(batch)] = call
        return self._calls[type(batch)](batch)

    def evaluated(self, batch: Any) -> Any:
        """Runs the net on a batch of an evaluator, as Composer runs a student."""
        if isinstance(self.model, ComposerModel):
            return self.model.eval_forward(to_evaluate_on(batch))
        return self.outputs(batch)

    def update_metric(self, batch: Any, outputs: Any, metric: Metric) -> None:
        """Updates a metric with what :meth:`evaluated` returned."""
        model = self.model if isinstance(self.model, ComposerModel) else self._student
        model.update_metric(self._as_it_takes(batch), outputs, metric)

    def logits(self, outputs: Any) -> Tensor:
        """Finds the logits in its outputs.

        Raises:
            TeacherError: If there are none.
        """
        return logits_of(outputs, f'the peer {self.name!r}')

    def loss(self, outputs: Any, batch: Any) -> Any:
        """Its own loss: that of the student for a plain module."""
        model = self.model if isinstance(self.model, ComposerModel) else self._student
        return model.loss(outputs, self._as_it_takes(batch))

    def _as_it_takes(self, batch: Any) -> Any:
        """The batch without the samples' numbers, if its own loss does not take them."""
        if not isinstance(self.model, ComposerModel) or getattr(self.model, 'takes_index', False):
            return batch
        return split_index(batch, bool(getattr(self._student, 'takes_index', False)))[0]

    # What AuxiliaryModules ask of things that learn beside the student ------------------------------------------------

    @property
    def owner(self) -> Peer:
        """Itself."""
        return self

    @property
    def slot(self) -> str:
        """Its key among the auxiliary modules."""
        return f'peer_{"".join(letter if letter.isalnum() else "_" for letter in self.name)}'

    number = None
    remembers = False

    def learned(self) -> dict[str, nn.Module]:
        """The net."""
        return {'net': self.model}

    def use(self, parts: Mapping[str, nn.Module]) -> None:
        """Takes another net in its place, after surgery by other algorithms."""
        if parts['net'] is not self.model:
            self.model, self._calls = parts['net'], {}

    def __repr__(self) -> str:
        return f'Peer({self.name!r})'


Peers: TypeAlias = Annotated[Sequence[nn.Module | Peer], 'peers']
"""Modules or :class:`Peer`.

An algorithm's parameter with this annotation is written as a list of peers in a YAML file.
"""


def as_peers(given: Any) -> list[Peer]:
    """Converts the argument ``peers``.

    Raises:
        ConfigError: If there is none, two share a module, or the names of two are one key in checkpoints.
    """
    if not isinstance(given, (Sequence, nn.ModuleList)) or isinstance(given, str) or not len(given):
        raise ConfigError(f'peers: expected a list of at least one module or Peer, got {given!r}')
    peers = [item if isinstance(item, Peer) else Peer(item) for item in given]
    owner: dict[int, Peer] = {}
    for peer in peers:
        for parameter in peer.model.parameters():
            other = owner.setdefault(id(parameter), peer)
            if other is not peer:
                raise ConfigError(f'peers: {other!r} and {peer!r} share parameters; give one a copy (copy.deepcopy)')
    _name_apart(peers)
    slots: dict[str, Peer] = {}
    for peer in peers:
        other = slots.setdefault(peer.slot, peer)
        if other is not peer:
            raise ConfigError(
                f'peers: the names {other.name!r} and {peer.name!r} differ in punctuation alone, and checkpoints would '
                f'hold both under {peer.slot!r}; rename one'
            )
    return peers


def _name_apart(peers: Sequence[Peer]) -> None:
    """Numbers the peers of one name: ``ResNet``, ``ResNet-2``."""
    names: list[str] = []
    for peer in peers:
        name, number = peer.name, 2
        while peer.name in names:
            peer.name, number = f'{name}-{number}', number + 1
        names.append(peer.name)
