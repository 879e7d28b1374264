"""The algorithm ``SelfDistillation``: the deepest layers of a net teach exits on shallower ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from composer.core import Event, State, get_precision_context
from composer.loggers import Logger
from composer.models import HuggingFaceModel
from torch import Tensor, nn
from torchmetrics import Metric
from typing_extensions import override

from composer_kd.algorithms.exits import EarlyExit, Exit, ExitHead, exit_loss, exit_shapes
from composer_kd.algorithms.joint_evaluation import JointEvaluation
from composer_kd.algorithms.joint_net import JointNet
from composer_kd.algorithms.joint_training import JointTraining, fixed_loss
from composer_kd.algorithms.loss_parts import LossParts, share_of_batch, shares_of_parts, weight
from composer_kd.batches.format import BatchFormat
from composer_kd.batches.masks import tokens_of
from composer_kd.batches.microbatch import Microbatch
from composer_kd.errors import ConfigError
from composer_kd.features.calling import unwrapped
from composer_kd.features.hooks import FeatureHooks
from composer_kd.features.outputs import logits_of, scalar_loss
from composer_kd.losses import KLDivergence, mse
from composer_kd.losses._common import pooled
from composer_kd.matches.dry_run import first_samples
from composer_kd.matches.loss_signature import Loss
from composer_kd.schedules import Moment
from composer_kd.students import EXTRAS

__all__ = ['SelfDistillation']


class SelfDistillation(JointTraining):
    r"""Trains a net together with exits on its inner layers, which its deepest layers teach.

    Zhang et al., *Be Your Own Teacher* (arXiv 1905.08094). Each exit :math:`i` has a bottleneck, which gives the
    features :math:`F_i`, and a classifier with the logits :math:`z_i`. The net's own logits :math:`z` and last features
    :math:`F` are their targets, which no gradient of the exits reaches:

    .. math:: L = L_{task} + \sum_i \left[ w_{org} \cdot L_{task, i} + w_{kd} \cdot L_{kd}(z_i, z)
              + w_{hint} \cdot \frac{1}{D} \lVert F_i - F \rVert^2 \right]

    The squared distance is a mean over the D features and the samples (the paper has a sum). The heads are in the
    student's module tree (under ``composer_kd``) until :meth:`close`, which takes them off; the exported student has
    none. :meth:`exit_model` gives a net that ends at an exit. Composer logs the net's own loss as ``loss/train/task``,
    ``kd`` as the sum of the exits' divergences, and each exit's parts as ``exit.<layer>/task``, ``/kd`` and ``/hint``;
    in evaluations ``metrics/<evaluator>/exit.<layer>/<metric>``.

    Args:
        exits: The layers on which exits stand, by their paths: outputs that are maps, tokens or vectors.
        kd_loss_fn: A loss of ``(exit_logits, net_logits)``; ``None`` for ``KLDivergence(temperature=3.0)``.
        kd_loss_weight: :math:`w_{kd} \ge 0`, the paper's :math:`\alpha`.
        org_loss_weight: :math:`w_{org} \ge 0`, the paper's :math:`1 - \alpha`.
        hint_weight: :math:`w_{hint} \ge 0`.
        features: The layer whose output are the last features; ``None`` for the input of the net's last linear layer.
        start_dur: The start of the window in which the exits learn from the net; outside it they learn from labels.
        end_dur: Its end.

    Raises:
        ConfigError: If a layer does not exist, the net has one prediction per position, a setting is out of range, or
            the run shards the student (FSDP).

    Example:
        >>> SelfDistillation(exits=['layer1', 'layer2', 'layer3'])
        SelfDistillation(['layer1', 'layer2', 'layer3'])
    """

    def __init__(
        self,
        exits: Sequence[str],
        kd_loss_fn: Loss | None = None,
        kd_loss_weight: float = 0.3,
        org_loss_weight: float = 0.7,
        hint_weight: float = 1.0,
        features: str | None = None,
        start_dur: Moment = 0.0,
        end_dur: Moment = 1.0,
    ) -> None:
        if isinstance(exits, str) or not isinstance(exits, Sequence) or not exits or len(set(exits)) < len(exits):
            raise ConfigError(f'exits: expected a list of different layers, got {exits!r}')
        self.exits = [Exit(layer) for layer in exits]
        self._of_exits = _OfExits(self.exits)
        super().__init__(start_dur, end_dur, self._of_exits)
        self.kd_loss_weight = weight('kd_loss_weight', kd_loss_weight)
        self.org_loss_weight = weight('org_loss_weight', org_loss_weight)
        self.hint_weight = weight('hint_weight', hint_weight)
        self.features = features
        loss = KLDivergence(temperature=3.0) if kd_loss_fn is None else kd_loss_fn
        self._adapters = [fixed_loss(loss) for _ in self.exits]
        self._hooks: FeatureHooks | None = None
        self._last = ''

    @override
    def learners(self) -> Sequence[Exit]:
        return self.exits

    @override
    def names(self) -> Sequence[str]:
        return [one.name for one in self.exits]

    @override
    def nets(self, batch: Any) -> Mapping[str, JointNet]:
        found = {one.name: self.exit_model(one.layer) for one in self.exits}
        return {name: JointNet(one.trimmed(batch), code=one.code(batch)) for name, one in found.items()}

    @override
    def trials(self, state: State) -> Iterator[tuple[str, Callable[[Any], Any]]]:
        for number, one in enumerate(self.exits):
            yield f'exits.{number}: the exit {one.layer!r}', partial(self._try, one, state)
        yield f'features: {self.features or "those of the last linear layer"}', partial(self._try_features, state)

    def _try(self, one: Exit, state: State, batch: Any) -> None:
        batch, _ = BatchFormat.of(state.model).split(batch)
        (shape,) = exit_shapes(state.model, batch, [one.layer], [one.layer]).values()
        ExitHead(tuple(shape), 1, 1)

    def _try_features(self, state: State, batch: Any) -> None:
        batch, _ = BatchFormat.of(state.model).split(batch)
        layer = self.features or _last_linear(state.model)
        (shape,) = exit_shapes(state.model, batch, [layer], []).values()
        pooled(torch.zeros(shape))

    @override
    def join(self, state: State) -> None:
        self._look(state.model)

    def _look(self, model: nn.Module) -> None:
        self._last = self.features or _last_linear(model)
        layers = [*(one.layer for one in self.exits), self._last]
        self._hooks = FeatureHooks(model, [(layer, None) for layer in layers], 'the student')
        self._of_exits.follow(model)

    @override
    def build(self, state: State) -> None:
        self._look(state.model)  # again, because other algorithms may have replaced layers
        if state.train_dataloader is None:
            return  # an evaluation; training is refused at FIT_START
        batch, _ = self.form.split(first_samples(state))
        answers = 'outputs.logits' if isinstance(state.model, HuggingFaceModel) else 'outputs'
        layers = [one.layer for one in self.exits]
        shapes = exit_shapes(state.model, batch, [*layers, self._last, answers], layers)
        answer = shapes[answers]
        if len(answer) != 2:
            raise ConfigError(
                f'SelfDistillation: the student answers in the shape {tuple(answer)}; exits are for one prediction per '
                'sample, (B, classes)'
            )
        width = pooled(torch.zeros(shapes[self._last])).shape[-1]
        for number, one in enumerate(self.exits):
            # Equal initial weights on every rank and in every run with this seed.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(state.rank_zero_seed + number)
                one.head = ExitHead(tuple(shapes[one.layer]), width, answer[-1])

    @override
    def match(self, event: Event, state: State) -> bool:
        return event is Event.BEFORE_FORWARD or super().match(event, state)

    @override
    def apply(self, event: Event, state: State, logger: Logger) -> None:
        if event is Event.FIT_START and any(one.head is None for one in self.exits):
            raise ConfigError(
                'SelfDistillation measures the layers of its exits on the first samples of the train_dataloader, and '
                'the Trainer was given none. Give it there, not to fit().'
            )
        if event is Event.BEFORE_FORWARD:
            assert self._hooks is not None
            self._hooks.open(once=True)
        else:
            super().apply(event, state, logger)

    @override
    def learn(self, state: State, micro: Microbatch, is_open: bool) -> None:
        assert self._hooks is not None
        seen = {layer: feature for (layer, _), feature in self._hooks.take().items()}
        logits = logits_of(state.outputs, 'the student')
        own = shares_of_parts(state.loss, state.outputs, micro, logits)
        task = share_of_batch(scalar_loss(state.loss), state.outputs, micro, logits)
        mask, last = _mask(micro.batch, self.form), seen[self._last].detach()
        target, features = logits.detach(), pooled(last, mask if last.ndim == 3 else None)
        total, kd = task, task.new_zeros(())
        named: dict[str, Tensor] = {}
        for one, adapter in zip(self.exits, self._adapters):
            assert one.head is not None
            with get_precision_context(state.precision, state.precision_config):
                mine, hidden = one.head(seen[one.layer], mask)
                loss = scalar_loss(exit_loss(self._model, mine, state.batch))
            parts = {'task': share_of_batch(loss, mine, micro, mine)}
            total = total + self.org_loss_weight * parts['task']
            if is_open:
                parts |= {'kd': adapter.of_logits(mine, target, micro)[0], 'hint': mse(hidden, features)}
                total = total + self.kd_loss_weight * parts['kd'] + self.hint_weight * parts['hint']
                kd = kd + parts['kd'].detach()
            named |= {f'{one.name}/{part}': value for part, value in parts.items()}
        state.loss = LossParts(total, task, kd, named, own)

    @override
    def close(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
        super().close()

    def exit_model(self, layer: str) -> EarlyExit:
        """The net that ends at an exit; it shares its weights with the student and the exit's head.

        Args:
            layer: The exit's layer.

        Raises:
            ConfigError: If there is no such exit, or its head is not built yet.
        """
        found = next((one for one in self.exits if one.layer == layer), None)
        if found is None or found.head is None:
            known = ', '.join(one.layer for one in self.exits)
            raise ConfigError(
                f'SelfDistillation: no exit {layer!r} with a head; there are {known}, from the first training on'
            )
        return EarlyExit(self._model, layer, found.head)

    def __repr__(self) -> str:
        return f'SelfDistillation({[one.layer for one in self.exits]})'


class _OfExits(JointEvaluation):
    """Evaluates exits on what the student's layers return when it is evaluated."""

    def __init__(self, exits: Sequence[Exit]) -> None:
        super().__init__()
        self._exits = exits
        self._model: Any = None
        self._hooks: FeatureHooks | None = None

    def follow(self, model: nn.Module) -> None:
        """Looks at the layers of a model."""
        self._model = model
        self._hooks = FeatureHooks(model, [(one.layer, None) for one in self._exits], 'the student')

    @override
    def before_forward(self) -> None:
        assert self._hooks is not None
        self._hooks.attach()
        self._hooks.open()

    @override
    def stop(self) -> None:
        super().stop()
        if self._hooks is not None:
            self._hooks.remove()

    @override
    def outputs(self, batch: Any) -> Mapping[str, Any]:
        assert self._hooks is not None
        seen = self._hooks.take()
        self._hooks.remove()
        mask = _mask(batch, self.form)
        return {one.name: one.head(seen[one.layer, None], mask)[0] for one in self._exits if one.head is not None}

    @override
    def update(self, name: str, batch: Any, outputs: Any, metric: Metric) -> None:
        self._model.update_metric(batch, outputs, metric)


def _mask(batch: Any, form: BatchFormat) -> Tensor | None:
    tokens = tokens_of(batch, form)
    return None if tokens is None else tokens.mask


def _last_linear(model: nn.Module) -> str:
    """The path of the input of a net's last linear layer."""
    net = unwrapped(model)
    parts = ((name, part) for name, part in net.named_modules() if EXTRAS not in name.split('.'))
    linear = [name for name, part in parts if isinstance(part, nn.Linear)]
    if not linear:
        raise ConfigError(
            'SelfDistillation: the student has no linear layer whose input are its last features; name the layer that '
            'returns them: features=...'
        )
    return f'{linear[-1]}:input'
