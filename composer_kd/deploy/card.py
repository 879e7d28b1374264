"""The README.md of an exported model: a model card as Hugging Face reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from composer_kd.presentation.templates import render

__all__ = ['Card']


@dataclass
class Card:
    """What people and the hub are told of a model. What is not known is left out.

    Args:
        title: The model's name.
        summary: What it is, in a sentence or two.
        library: What loads it, as the hub calls it: ``'pytorch'``, ``'onnx'``, ``'transformers'``.
        task: What it does, as the hub calls it: ``'image-classification'``; None where that is not known.
        dataset: What its numbers were measured on; None without numbers.
        metrics: These numbers, by the names that the hub knows: ``'accuracy'``.
        sections: Heading and Markdown of each, in order; empty ones are left out.

    Example:
        >>> print(Card('digits-kd', 'A small CNN.', 'onnx', sections=[('Size', '88 kB'), ('Speed', '')]).markdown())
        ---
        library_name: onnx
        tags:
        - knowledge-distillation
        - composer_kd
        ---
        <BLANKLINE>
        # digits-kd
        <BLANKLINE>
        A small CNN.
        <BLANKLINE>
        ## Size
        <BLANKLINE>
        88 kB
        <BLANKLINE>
    """

    title: str
    summary: str
    library: str
    task: str | None = None
    dataset: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    sections: list[tuple[str, str]] = field(default_factory=list)
    tags: Sequence[str] = ('knowledge-distillation', 'composer_kd')

    def markdown(self) -> str:
        """The whole file."""
        return render('deploy/card.md.j2', card=self)

    @property
    def front_matter(self) -> str:
        """What the hub reads, in YAML."""
        return yaml.safe_dump(self._front_matter(), sort_keys=False, allow_unicode=True)

    def _front_matter(self) -> dict[str, Any]:
        front: dict[str, Any] = {'library_name': self.library}
        if self.task is not None:
            front['pipeline_tag'] = self.task
        front['tags'] = list(self.tags)
        # The hub's table of results needs a task, a data set and a number.
        if self.task is not None and self.dataset is not None and self.metrics:
            result = {
                'task': {'type': self.task},
                'dataset': {'type': self.dataset.split()[0], 'name': self.dataset},
                'metrics': [{'type': name, 'value': value} for name, value in self.metrics.items()],
            }
            front['model-index'] = [{'name': self.title, 'results': [result]}]
        return front
