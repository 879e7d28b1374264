"""The names of the classes that several models have in common, and probabilities by these names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from composer_kd.errors import ConfigError
from composer_kd.teachers.meanings import written_class_names
from composer_kd.workflows.serve.models import ServedModel

__all__ = ['Labels', 'labels_of']


class Labels:
    """The classes of a task.

    Args:
        names: Their names, in the order of the logits.
        several: Whether several of them may apply to one input.
    """

    def __init__(self, names: Sequence[str], several: bool = False) -> None:
        self.names = tuple(names)
        self.several = several

    def read(self, logits: Tensor) -> tuple[str, dict[str, float]]:
        """Reads the logits of one input.

        Args:
            logits: ``(C,)``

        Returns:
            The class with the largest probability, or all with one of at least a half where several may apply; and the
            probability of each, the largest first.

        Raises:
            ConfigError: If they are of another shape, or not finite.

        Example:
            >>> import torch
            >>> label, confidences = Labels(['no', 'yes']).read(torch.tensor([0.0, 3.0]))
            >>> label, {name: round(value, 3) for name, value in confidences.items()}
            ('yes', {'yes': 0.953, 'no': 0.047})
        """
        if logits.shape != (len(self.names),):
            raise ConfigError(f'expected logits of {len(self.names)} classes, got {tuple(logits.shape)}')
        logits = logits.detach().float().cpu()
        values = logits.sigmoid() if self.several else logits.softmax(0)
        if not bool(values.isfinite().all()):
            raise ConfigError('its logits are not finite')
        ranked = {self.names[index]: float(values[index]) for index in values.argsort(descending=True, stable=True)}
        chosen = [name for name, value in ranked.items() if value >= 0.5] if self.several else [next(iter(ranked))]
        return ', '.join(chosen) or 'none', ranked


def labels_of(models: Sequence[ServedModel], counts: Mapping[str, int], several: bool = False) -> Labels:
    """Finds the names of the classes, and checks that all models mean the same by them.

    Args:
        models: The models.
        counts: The number of classes of each model, by its name.
        several: Whether several classes may apply to one input.

    Returns:
        The classes, named by the models' configs (``id2label``), else by the data, else by their numbers.

    Raises:
        ConfigError: If the models have other numbers of classes, other names, or the same ones in another order.
    """
    if len(set(counts.values())) > 1:
        listed = ', '.join(f'{name} has {count}' for name, count in counts.items())
        raise ConfigError(f'the models have different classes: {listed}. Give runs of one task')
    count = next(iter(counts.values()))
    named = {model.name: names for model in models if (names := _names(model, count)) is not None}
    first = next(iter(named), None)
    if first is None:
        return Labels([str(number) for number in range(count)], several)
    for other, names in named.items():
        if _plain(names) != _plain(named[first]):
            order = ', in another order' if sorted(_plain(names)) == sorted(_plain(named[first])) else ''
            raise ConfigError(
                f'the models have different classes: {first} has {named[first]}, and {other} has {names}{order}. '
                'Give runs of one task'
            )
    return Labels(named[first], several)


def _names(model: ServedModel, count: int) -> list[str] | None:
    names = written_class_names(model.model) or [str(name) for name in model.data.first('classes') or ()]
    return names if len(names) == count else None


def _plain(names: Sequence[str]) -> list[str]:
    return [name.strip().casefold() for name in names]
