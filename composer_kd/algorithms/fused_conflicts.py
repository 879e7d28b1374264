"""What a fused head cannot be combined with: matches, losses and algorithms that read logits of all positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from composer.algorithms import LabelSmoothing
from composer.core import State
from composer.models import HuggingFaceModel

from composer_kd.algorithms.base import DistillationAlgorithm
from composer_kd.algorithms.conflicts import refuse_training_metrics
from composer_kd.errors import ConfigError
from composer_kd.features.calling import unwrapped
from composer_kd.matches.loss_adapter import LOGITS_TAKEN
from composer_kd.matches.loss_signature import attribute_of, takes_log_probabilities
from composer_kd.matches.term import LossTerm

__all__ = ['check_layers', 'check_term', 'refuse_readers']


def check_layers(model: Any, layers: Mapping[str, str], whose: str) -> None:
    """Refuses matches of the head as a layer, or of a layer around it, which give the logits of no position."""
    head = unwrapped(model).get_output_embeddings()  # type: ignore[operator]
    parts = {name for name, module in model.named_modules() if module in (head, *head.modules())}
    around = {name for name, module in model.named_modules() if _is_around(module, head)}
    for path, name in layers.items():
        gives_logits = name in around and not path.endswith(':input')
        if name in parts or gives_logits or (path.startswith('outputs') and 'logits' in path):
            raise ConfigError(
                f'fused_head: a match compares {path!r}{whose}, the logits of all positions. Leave on=... out: '
                'Match(loss)'
            )


def _is_around(module: Any, head: Any) -> bool:
    """Whether a module is a part of a model that ends with its head, as ``cls`` of BERT does."""
    is_model = isinstance(module, HuggingFaceModel) or hasattr(module, 'get_output_embeddings')
    return not is_model and any(part is head for part in module.modules())


def check_term(term: LossTerm) -> None:
    """Refuses a loss of logits that needs more than some positions."""
    if not term.match.on_logits:
        return
    if takes_log_probabilities(term.adapter.loss):
        raise ConfigError(f'fused_head: {LOGITS_TAKEN.format(term.adapter.name)}')
    reasons: dict[str, Callable[[], bool]] = {
        'compares positions with one another': lambda: bool(attribute_of(term.adapter.loss, 'relates_samples', False)),
        'has parameters to train, or keeps a memory': lambda: bool(term.learned()) or term.remembers or term.waits,
        'asks for the samples (index)': lambda: term.adapter.needs_index,
        f'has softmax_dim={term.adapter.classes_dim}, and the classes come last': lambda: (
            term.adapter.classes_dim != -1
        ),
    }
    for reason, holds in reasons.items():
        if holds():
            raise ConfigError(
                f'fused_head: the loss of the match {term.match.name!r} {reason}, so it cannot be taken in chunks of '
                'positions. Take another loss, or leave fused_head out'
            )


def refuse_readers(state: State) -> None:
    """Refuses what reads the logits of training batches."""
    refuse_training_metrics(state, 'fused_head', 'read logits, of which there are none')
    for other in state.algorithms:
        if isinstance(other, LabelSmoothing):
            raise ConfigError(
                'fused_head and LabelSmoothing: the own loss is the cross-entropy of the labels as they are. Leave one '
                'of the two out'
            )
    others = [type(one).__name__ for one in state.algorithms if isinstance(one, DistillationAlgorithm)]
    if len(others) > 1:
        raise ConfigError(
            f'fused_head: {" and ".join(others)} are in one run, and the others would see no logits. Use one of '
            'them, or leave fused_head out'
        )
