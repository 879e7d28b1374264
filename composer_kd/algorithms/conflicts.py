"""Checks for algorithms and teachers that cannot be combined with distillation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from composer.algorithms import SWA, CutMix, LabelSmoothing, LayerFreezing, MixUp, SelectiveBackprop, StochasticDepth
from composer.callbacks import ExportForInferenceCallback
from composer.core import State
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.trainer_settings import refuse_weights_by_tokens
from composer_kd.errors import ConfigError, TeacherError
from composer_kd.features.dropped import dropped_blocks
from composer_kd.features.layer_path import LayerPath
from composer_kd.matches.criterion import Criterion
from composer_kd.students import EXTRAS
from composer_kd.teachers import FrozenTeacher, TeacherPool, module_of, moves

__all__ = [
    'refuse_algorithms',
    'refuse_classes',
    'refuse_dropped_layers',
    'refuse_shared',
    'refuse_training_metrics',
    'renew_copies',
    'refuse_beside_joint',
]

_MIXERS = (MixUp, CutMix)
_OTHER_SAMPLES = (*_MIXERS, SelectiveBackprop)


class _Conflict(NamedTuple):
    """Algorithms or callbacks that a criterion cannot be combined with.

    Attributes:
        kinds: Their classes.
        matches: The names of the matches that are in conflict.
        reason: Why, and the way out, after ``'<class> and Match <name>: '``.
    """

    kinds: tuple[type, ...]
    matches: Callable[[Criterion], list[str]]
    reason: str


_CONFLICTS = (
    _Conflict(
        (LayerFreezing,),
        lambda criterion: criterion.learning,
        'it freezes layers in the order in which they stand in the model, and would count what the match learns among '
        'them. Use matches without projector and learned loss, or freeze layers before the run with requires_grad_.',
    ),
    _Conflict(
        (ExportForInferenceCallback,),
        lambda criterion: criterion.learning,
        'it exports the model when training ends, with what the match learns in it. Leave the callback out, and export '
        'after fit(): call close() of the Distillation, then composer.utils.export_for_inference(model.eval(), ...).',
    ),
    _Conflict(
        _OTHER_SAMPLES,
        lambda criterion: criterion.indexed,
        'the loss keeps something for each sample under its number, and the samples of such a batch are not those of '
        'the numbers any more (mixtures, or a part of the batch). Use one of the two.',
    ),
    _Conflict(
        _OTHER_SAMPLES,
        lambda criterion: criterion.routed,
        'each sample has teachers of its own (route), and the samples of such a batch are mixtures or a part of those '
        'that the route is about. Use one of the two.',
    ),
)


def refuse_algorithms(state: State, criterion: Criterion) -> None:
    """Checks that no other algorithm or callback of the run is in conflict with the distillation.

    Args:
        state: The state of the run.
        criterion: The distillation loss, before anything is measured.

    Raises:
        ConfigError: If an algorithm replaces the loss (``interpolate_loss=True``), or takes the samples, layers or
            modules that a match needs; or the Trainer weights microbatches by their tokens.
    """
    refuse_weights_by_tokens('Distillation')
    _refuse_shared_moving(state)
    for conflict in _CONFLICTS:
        names = conflict.matches(criterion)
        for other in (*state.algorithms, *state.callbacks) if names else ():
            if isinstance(other, conflict.kinds):
                raise ConfigError(f'{type(other).__name__} and Match {names[0]!r}: {conflict.reason}')
    _warn_of_numbers(state, criterion.pool)
    for algorithm in state.algorithms:
        if getattr(algorithm, 'interpolate_loss', False):
            name = type(algorithm).__name__
            raise ConfigError(
                f'{name}(interpolate_loss=True) replaces the loss after Distillation has set it, so the two cannot '
                f'be combined. Use {name}(interpolate_loss=False), which mixes the labels instead.'
            )


def refuse_beside_joint(state: State, algorithm: DistillationAlgorithm) -> None:
    """Checks that no other algorithm of the run changes what nets that train together share.

    Args:
        state: The state of the run.
        algorithm: The algorithm that trains further nets in the run.

    Raises:
        ConfigError: If one replaces the loss, the labels, or the optimizer's parameters, or distils too; or the Trainer
            weights microbatches by their tokens.
    """
    name = type(algorithm).__name__
    refuse_weights_by_tokens(name)
    for other in state.algorithms:
        what = type(other).__name__
        if isinstance(other, DistillationAlgorithm) and other is not algorithm:
            raise ConfigError(f'{name} and {what} both set the loss of a batch: use one of the two.')
        if isinstance(other, LabelSmoothing):
            raise ConfigError(
                f'{name} and {what}: the labels are smoothed for the student alone. Smooth them in the losses: '
                'CrossEntropyLoss(label_smoothing=...) as the loss_fn of the models.'
            )
        if isinstance(other, LayerFreezing):
            raise ConfigError(f'{name} and {what}: it would count the layers of the other nets among those to freeze.')
        if getattr(other, 'interpolate_loss', False):
            raise ConfigError(
                f'{name} and {what}(interpolate_loss=True) both set the loss: use interpolate_loss=False.'
            )


def refuse_dropped_layers(state: State, criterion: Criterion) -> None:
    """Checks, when all layers are replaced, that no match is on what the student leaves out at random.

    Args:
        state: The state of the run.
        criterion: The distillation loss, with its layers found.

    Raises:
        ConfigError: If one is: it would fail in the first batch in which that is left out.
    """
    layers = criterion.student_layers
    if any(isinstance(other, StochasticDepth) and other.stochastic_method == 'block' for other in state.algorithms):
        blocks = [name for name, module in state.model.named_modules() if hasattr(module, 'drop_rate')]
        for path, module in layers.items():
            for block in (block for block in blocks if module.startswith(f'{block}.')):
                raise ConfigError(
                    f'StochasticDepth drops the block {block!r} at random, and the layer {path!r} in it does not '
                    "run then: match the block itself, or use stochastic_method='sample'."
                )
    dropped = dropped_blocks(state.model) if layers else {}
    for path, module in layers.items():
        kind = _kind_of_outputs(path)
        for block in (b for b in dropped if f'{module}.'.startswith(f'{b}.') or _has_entry(kind, b)):
            raise ConfigError(
                f'The student leaves out {block!r} and others at random in training (LayerDrop, at a rate of '
                f'{dropped[block]:g}), and {path!r} is not there then. Build it with layerdrop=0 (encoder_layerdrop '
                'and decoder_layerdrop of encoder-decoders)'
                + ('.' if kind.endswith(_STATES) else ", or match hidden states: 'outputs.hidden_states[i]'.")
            )


_STATES = 'hidden_states'


def _kind_of_outputs(path: str) -> str:
    """The name of what a path takes from a model's outputs; empty for layers."""
    place = LayerPath.parse(path)
    return str(place.keys[0]) if place.keys and not place.path else ''


def _has_entry(kind: str, block: str) -> bool:
    """Whether an output of a model has an entry for a block, and none where the block did not run.

    Attentions have, of the encoder's blocks or of the decoder's as they say. Hidden states have in FlauBERT, which
    keeps the parts of its blocks in lists of their own (``attentions``, ``ffns``).
    """
    lists = block.split('.')[:-1]
    if kind.endswith(_STATES):
        return lists[-1] == 'attentions'
    side = next((part for part in reversed(lists) if 'encoder' in part or 'decoder' in part), '')
    if not side or kind == 'attentions':
        return kind.endswith('attentions')
    of_encoder = 'encoder' in kind
    return kind.endswith('attentions') and of_encoder == ('encoder' in side)


def renew_copies(state: State) -> None:
    """Makes the copy of the student anew that ``SWA`` made at ``INIT``, now with the auxiliary modules.

    It takes the averages from a checkpoint, which contain these modules. Training starts with another copy anyway.

    Args:
        state: The state of the run, after the auxiliary modules have joined the student.
    """
    for other in state.algorithms:
        if isinstance(other, SWA) and hasattr(state.model, EXTRAS):
            other.swa_model = AveragedModel(state.model, device=torch.device('cpu'))


def refuse_training_metrics(state: State, option: str, why: str) -> None:
    """Checks that a model measures nothing on training batches.

    Args:
        state: The state of the run.
        option: The option that does not go with it, for messages.
        why: What is wrong with them, to end the sentence that begins with their names.

    Raises:
        ConfigError: If it does.
    """
    metrics = list(state.model.get_metrics(is_train=True))
    if metrics:
        raise ConfigError(
            f'{option}: the metrics of training batches ({", ".join(metrics)}) {why}. Give metrics to evaluation '
            'alone: HuggingFaceModel(..., metrics=[], eval_metrics=[...])'
        )


def refuse_classes(criterion: Criterion) -> None:
    """Checks that no loss takes the vectors of a sentence encoder for logits.

    Args:
        criterion: The distillation loss.

    Raises:
        ConfigError: If one does.
    """
    names = criterion.of_softmax(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    if names:
        raise ConfigError(
            f'{names[0]} compares probabilities of classes, and the student answers with vectors. Give a loss of '
            "vectors: cosine, mse, similarity_preserving; or Match(cosine, on='embedding', project='auto')."
        )


def _warn_of_numbers(state: State, pool: TeacherPool) -> None:
    """Warns if teachers of one's own may look up answers by number, of samples that are mixed or left out.

    Raises:
        ConfigError: If a teacher does.
    """
    stored = [teacher.name for teacher in pool.teachers if getattr(teacher, 'by_number', False)]
    others = [teacher.name for teacher in pool.teachers if not isinstance(teacher, FrozenTeacher)]
    mixers = [type(other).__name__ for other in state.algorithms if isinstance(other, _OTHER_SAMPLES)]
    if stored and mixers:
        raise ConfigError(
            f'{mixers[0]} changes the samples of a batch after they are loaded, and the teacher {stored[0]!r} knows '
            'what was said of them as they were. Take random transforms of the data set instead, which are stored with '
            'composer_kd.data.SeededViews; or the live teacher.'
        )
    if others and mixers and getattr(state.model, 'takes_index', False):
        warnings.warn(
            f'{mixers[0]} changes the samples of a batch, not their numbers: the teacher {others[0]!r} must not look '
            'up answers by number. Use one of the two if it does.',
            stacklevel=2,
        )


def _refuse_shared_moving(state: State) -> None:
    """Refuses a teacher that changes during training in two algorithms: each step would change it twice."""
    owners: dict[int, int] = {}
    for number, algorithm in enumerate(state.algorithms):
        for teacher in algorithm.teachers if isinstance(algorithm, DistillationAlgorithm) else ():
            if moves(teacher) and owners.setdefault(id(teacher), number) != number:
                raise ConfigError(
                    f'The teacher {teacher.name!r} changes with each step of the student, and two algorithms have it: '
                    'each step would count twice. Give each algorithm a teacher of its own.'
                )


def refuse_shared(pool: TeacherPool, parameters: Iterable[Tensor], owner: str) -> None:
    """Checks that no teacher shares parameters with the student or its optimizer, which would train the teacher too.

    Args:
        pool: The teachers.
        parameters: The parameters that no teacher may contain.
        owner: Who holds these parameters, for the message.

    Raises:
        TeacherError: If a teacher contains one of them.
    """
    theirs = {id(parameter) for parameter in parameters}
    for teacher in pool.teachers:
        module = None if getattr(teacher, 'is_student', False) else module_of(teacher)
        if module is not None and any(id(parameter) in theirs for parameter in module.parameters()):
            raise TeacherError(
                f'The teacher {teacher.name!r} shares parameters with {owner}, so it would not stay as it is. '
                'Give a copy (copy.deepcopy), and optimize the student alone.'
            )
