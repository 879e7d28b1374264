"""The format of a run's batches: what the model says, or shows, about them."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from torch import Tensor, nn

from composer_kd.batches.contents import IGNORE, split_index

__all__ = ['ATTENDED', 'LABELLED', 'BatchFormat', 'predicts_next_token']

LABELLED: Final = 'labelled'
ATTENDED: Final = 'attended'
"""Which positions logits are compared at: those with a label, or all that the attention mask includes."""


@dataclass(frozen=True)
class BatchFormat:
    """The format of a run's batches, which its model determines. docs/limits/positions.md has the rules.

    Attributes:
        takes_index: Whether batches are triples ``(inputs, labels, index)``
            (:class:`composer_kd.models.IndexedClassifier`).
        shift_labels: Whether the model predicts the next token, so that position ``i`` has the label ``i + 1``: the
            model's attribute of this name, else whether it is or contains a causal language model of transformers.
        knows_shift: Whether ``shift_labels`` is known, not assumed.
        encoder_decoder: Whether logits belong to the positions of a decoder, and the attention mask to the encoder.
        ctc: Whether labels belong to whole sequences, not to positions (CTC).
        frame_lengths: For speech models of transformers: the number of frames for each length of the input; ``None`` if
            unknown.
        ignore_index: The label that the model's own loss ignores, beside -100: its attribute of this name, else that of
            its cross-entropy, or of its config if it is a segmentation model of transformers.
        positions: ``'labelled'`` or ``'attended'``.
        several_labels: Whether the model says that a sample may have several labels at once.
        embeds: Whether the model answers with vectors, which predict no class: its attribute of this name.
        route_column: The name of an entry that says which teacher each sample has; no teacher gets it.
        valid_positions: The model's method of this name, a function from a batch to booleans of the logits' positions;
            it replaces all rules.
        vocabulary: Where the first classes of logits are compared, those of the tokens: their number.
    """

    takes_index: bool = False
    shift_labels: bool = False
    knows_shift: bool = field(default=False, repr=False, compare=False)
    encoder_decoder: bool = field(default=False, repr=False)
    ctc: bool = field(default=False, repr=False)
    frame_lengths: Callable[[Tensor], Any] | None = field(default=None, repr=False, compare=False)
    ignore_index: int = field(default=IGNORE, repr=False)
    positions: str = field(default=LABELLED, repr=False)
    several_labels: bool = field(default=False, repr=False)
    embeds: bool = field(default=False, repr=False)
    route_column: str | None = field(default=None, repr=False)
    valid_positions: Callable[[Any], Tensor | None] | None = field(default=None, repr=False, compare=False)
    vocabulary: int | None = field(default=None, repr=False)
    _said: set[str] = field(default_factory=set, repr=False, compare=False)

    @classmethod
    def of(cls, model: nn.Module, positions: str = LABELLED, route_column: str | None = None) -> BatchFormat:
        """The format that a model expects.

        Args:
            model: The student, or any module.
            positions: ``'labelled'`` or ``'attended'``.
            route_column: The entry of a batch that says which teacher each sample has.

        Example:
            >>> BatchFormat.of(nn.Linear(2, 3))
            BatchFormat(takes_index=False, shift_labels=False)
        """
        said = getattr(model, 'shift_labels', None)
        encoder_decoder = _has_encoder_and_decoder(model)
        # A causal model that serves as a decoder gets its labels as they are.
        shifts = not encoder_decoder and any(map(predicts_next_token, model.modules()))
        makes_frames = (getattr(module, '_get_feat_extract_output_lengths', None) for module in model.modules())
        return cls(
            takes_index=bool(getattr(model, 'takes_index', False)),
            shift_labels=shifts if said is None else bool(said),
            knows_shift=shifts or (said is not None and not _assumed(model)),
            encoder_decoder=encoder_decoder,
            ctc=any(isinstance(module, nn.CTCLoss) or _named_in('CTC', module) for module in model.modules()),
            frame_lengths=next((lengths for lengths in makes_frames if lengths is not None), None),
            ignore_index=_ignored(model),
            positions=positions,
            route_column=route_column,
            several_labels=any(map(_has_several_labels, model.modules())),
            embeds=bool(getattr(model, 'embeds', False)),
            valid_positions=getattr(model, 'valid_positions', None),
        )

    def split(self, batch: Any) -> tuple[Any, Tensor | None]:
        """Separates the index from a batch.

        Returns:
            The batch as teachers take it; and the index ``(B,)``, or ``None`` if the batch has none.
        """
        batch, index = split_index(batch, self.takes_index)
        if self.route_column is not None and isinstance(batch, Mapping) and self.route_column in batch:
            batch = {key: value for key, value in batch.items() if key != self.route_column}
        return batch, index

    def warn_once(self, message: str, about: str) -> None:
        """Warns once in a run about something that cannot be known."""
        if about not in self._said:
            self._said.add(about)
            warnings.warn(message, stacklevel=2)


def predicts_next_token(module: nn.Module) -> bool:
    """Whether a module is a causal language model of the transformers library, which shifts the labels itself."""
    return _named_in('CAUSAL_LM', module)


def _named_in(task: str, module: nn.Module) -> bool:
    """Whether transformers lists a module's class, or a class that it extends, for a task."""
    known = _known(task) if 'transformers' in sys.modules else frozenset()
    return any(kind.__name__ in known and kind.__module__.startswith('transformers.') for kind in type(module).__mro__)


@functools.cache
def _known(task: str) -> frozenset[str]:
    # By name: to look classes up in the mapping itself would import every model of the library.
    from transformers.models.auto import modeling_auto

    names: Iterable[Any] = getattr(modeling_auto, f'MODEL_FOR_{task}_MAPPING_NAMES').values()
    return frozenset(name for entry in names for name in ([entry] if isinstance(entry, str) else entry))


def _has_encoder_and_decoder(model: nn.Module) -> bool:
    configs = [getattr(module, 'config', None) for module in model.modules()]
    named = any(getattr(config, 'is_encoder_decoder', False) is True for config in configs)
    # The encoder of such a model, used alone, has its configuration.
    return named and any(name.rpartition('.')[2] == 'decoder' for name, _ in model.named_modules())


def _assumed(model: nn.Module) -> bool:
    """Whether ``shift_labels=False`` may be Composer's default for a class that transformers does not know."""
    inner = getattr(model, 'model', None)
    foreign = inner is not None and not type(inner).__module__.startswith('transformers.')
    return hasattr(model, 'model_forward_args') and foreign and not getattr(model, 'shift_labels', False)


def _ignored(model: nn.Module) -> int:
    said = getattr(model, 'ignore_index', None)
    if isinstance(said, int):
        return said
    loss = getattr(model, '_loss_fn', None)
    losses = [loss, *(module for module in model.modules() if isinstance(module, _WITH_IGNORED))]
    labels = [getattr(one, 'keywords', {}).get('ignore_index', getattr(one, 'ignore_index', None)) for one in losses]
    # Other models of transformers have this setting in their config too, with labels that are whole images' classes.
    maps = (module for module in model.modules() if _named_in('SEMANTIC_SEGMENTATION', module))
    labels += [getattr(getattr(module, 'config', None), 'semantic_loss_ignore_index', None) for module in maps]
    found = {label for label in labels if isinstance(label, int)}
    return found.pop() if len(found) == 1 else IGNORE


def _has_several_labels(module: nn.Module) -> bool:
    told = getattr(getattr(module, 'config', None), 'problem_type', None)
    return isinstance(module, _OF_SEVERAL) or told == 'multi_label_classification'


_OF_SEVERAL = (nn.MultiLabelMarginLoss, nn.MultiLabelSoftMarginLoss)
_WITH_IGNORED = (nn.CrossEntropyLoss, nn.NLLLoss)
