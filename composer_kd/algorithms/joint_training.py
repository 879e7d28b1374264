"""Base of the algorithms that train further nets or heads in the student's run, in its module tree and optimizer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from composer.core import Event, State
from composer.devices import Device
from composer.loggers import Logger
from composer.utils import dist
from torch import nn
from typing_extensions import override

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.conflicts import refuse_beside_joint, renew_copies
from composer_kd.algorithms.joint_evaluation import EVALUATION_EVENTS, JointEvaluation
from composer_kd.algorithms.joint_net import JointEvaluator, JointNet
from composer_kd.batches.counts import BatchCount
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError
from composer_kd.matches.auxiliary import AuxiliaryModules, Learner
from composer_kd.matches.auxiliary_state import AuxiliaryState
from composer_kd.matches.loss_adapter import LossAdapter
from composer_kd.matches.loss_signature import Loss
from composer_kd.schedules import Moment, Window
from composer_kd.students import EXTRAS

__all__ = ['JointTraining', 'fixed_loss']

_EVENTS = (
    Event.INIT,
    Event.BEFORE_LOAD,
    Event.AFTER_LOAD,
    Event.FIT_START,
    Event.AFTER_LOSS,
    Event.FIT_END,
    *EVALUATION_EVENTS,
)


class JointTraining(DistillationAlgorithm):
    """Trains further nets or heads in the student's run.

    They are in the student's module tree (under ``composer_kd``) until :meth:`close`: trained by its optimizer, saved,
    resumed and synchronised between ranks with it, and evaluated beside it.

    Args:
        start_dur: The start of the window in which the nets learn from one another.
        end_dur: Its end.
        evaluation: Evaluates the nets.

    Attributes:
        form: The format of batches.
    """

    def __init__(self, start_dur: Moment, end_dur: Moment, evaluation: JointEvaluation) -> None:
        self._window = Window(start_dur, end_dur)
        self.evaluation = evaluation
        self.form = BatchFormat()
        self._auxiliary, self._state = AuxiliaryModules(), AuxiliaryState()
        self._count = BatchCount()
        self._model: Any = None

    @abstractmethod
    def learners(self) -> Sequence[Learner]:
        """What trains beside the student."""

    def refuse(self, state: State) -> None:
        """At ``INIT``: checks that the run has nothing that this algorithm cannot be combined with."""
        refuse_beside_joint(state, self)

    def counter(self) -> BatchCount:
        """At ``INIT``: what counts the valid positions of a whole batch, over the ranks that train the same nets."""
        return BatchCount(dist.get_world_size(), self.form)

    @abstractmethod
    def join(self, state: State) -> None:
        """At ``INIT``: checks that the nets can join the student."""

    def build(self, state: State) -> None:
        """At ``BEFORE_LOAD``: makes the modules that depend on the student's shapes."""

    @abstractmethod
    def learn(self, state: State, micro: Microbatch, is_open: bool) -> None:
        """At ``AFTER_LOSS``: sets the loss of a microbatch.

        Args:
            state: The state of the run.
            micro: The microbatch.
            is_open: Whether the nets learn from one another in this batch.
        """

    def names(self) -> Sequence[str]:
        """The names of the nets that can be used on their own, as in the names of their metrics."""
        return ()

    def nets(self, batch: Any) -> Mapping[str, JointNet]:
        """The nets by these names, in eval mode; they may share weights with the student and with one another.

        Args:
            batch: A batch of the kind that they are used with.
        """
        return {}

    def restore(self, state: State, load: Callable[[nn.Module, str], None]) -> None:
        """Prepares the nets for use beside a student that was trained with them, without a run.

        Args:
            state: A state with the trained student, and data as its ``train_dataloader``, on whose first samples shapes
                are measured.
            load: Loads the weights of a module that was at a path in the student's module tree.
        """
        self._model = state.model
        self.form = self.evaluation.form = BatchFormat.of(state.model)
        self.join(state)
        self.build(state)
        for learner in self.learners():
            for part, module in learner.learned().items():
                load(module, f'{EXTRAS}.{learner.slot}.{part}')
                module.eval()
        self.move(state.device)

    def move(self, device: Device) -> None:
        """Moves the nets to a device."""
        for learner in self.learners():
            for module in learner.learned().values():
                device.module_to_device(module)

    def evaluator(self) -> JointEvaluator:
        """An algorithm that evaluates the nets in a Trainer which only evaluates the student."""
        return JointEvaluator(self.evaluation)

    @property
    @override
    def window(self) -> Window:
        return self._window

    @override
    def final_metrics(self) -> Mapping[str, float]:
        return self.evaluation.latest

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._state.state_dict()

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._state.load_state_dict(state)

    @override
    def match(self, event: Event, state: State) -> bool:
        if event is Event.BATCH_START:
            return self._count.is_needed(state, self.form.split(state.batch)[0])
        return event in _EVENTS

    @override
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event is Event.AFTER_LOSS:
            self.learn(state, Microbatch.read(state, self.form, self._count), self._window.is_open(state))
        elif event is Event.BATCH_START:
            self._count.count(state, self.form.split(state.batch)[0])
        elif event is Event.INIT:
            self._prepare(state)
        elif event is Event.BEFORE_LOAD:
            self._take_in(state)
            renew_copies(state)
            self._state.before_load(state.model)
        elif event is Event.AFTER_LOAD:
            self._state.after_load()
        elif event is Event.FIT_START:
            self.log_settings(state, logger)
            self._window.check(state)
            self._auxiliary.follow_replacements()
            self._auxiliary.follow_schedulers(state)
        elif event is Event.FIT_END:
            self.evaluation.stop()
        else:
            self.evaluation.apply(event, state, logger)

    def close(self) -> None:
        """Takes what trained beside it out of the student, which then has its original structure."""
        self.evaluation.stop()
        if self._model is not None:
            self._auxiliary.release(self._model)

    def _take_in(self, state: State) -> None:
        try:
            self.build(state)
            for learner in self.learners():
                self._auxiliary.take_in(state, learner)
        except Exception:  # a run that is refused leaves the student as it was
            self._auxiliary.release(state.model)
            raise

    def _prepare(self, state: State) -> None:
        if self._auxiliary.taken:
            raise ConfigError(f'This {type(self).__name__} is part of an earlier run; make a new one for a new run')
        self.refuse(state)
        self._model = state.model
        self.form = self.evaluation.form = BatchFormat.of(state.model)
        self._count = self.counter()
        self._auxiliary.drop_leftovers(state)
        self.join(state)
        for learner in self.learners():
            self._auxiliary.reserve(state, learner.owner)


def fixed_loss(loss: Loss) -> LossAdapter:
    """The adapter of a loss between two nets.

    Raises:
        ConfigError: If it has parameters to train, because one loss serves every pair of nets.
    """
    if isinstance(loss, nn.Module) and (any(True for _ in loss.parameters()) or hasattr(loss, 'build')):
        raise ConfigError(
            f'kd_loss_fn: {type(loss).__name__} has parameters to train, and cannot serve every pair of nets'
        )
    return LossAdapter(loss)
