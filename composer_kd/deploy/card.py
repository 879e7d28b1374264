"""The model card (``README.md``) of an exported model, in the format of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from composer_kd.presentation.templates import render

__all__ = ['Card']


@dataclass
class Card:
    """A model card. Unknown values are left out.

    Args:
        title: The model's name.
        summary: A description in a sentence or two.
        library: The library that loads the model, as named by the hub: ``'pytorch'``, ``'onnx'``, ``'transformers'``.
        task: The task, as named by the hub, such as ``'image-classification'``; ``None`` if unknown.
        dataset: The data set of the metrics; ``None`` without metrics.
        metrics: The metrics, by their names on the hub, such as ``'accuracy'``.
        sections: The heading and Markdown text of each section, in order; sections without text are left out.
        tags: Tags for the search on the hub.
        license: The licence, by its identifier on the hub, such as ``'apache-2.0'``; ``None`` if nobody has said it.
        base_models: The models on the hub that this one comes from: where the student started, and its teachers.
        datasets: The data sets on the hub that it was trained on.
        evaluated: The data set of the metrics as the hub has it: ``type``, its name there, and if known ``config`` and
            ``split``.

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
    license: str | None = None
    base_models: Sequence[str] = ()
    datasets: Sequence[str] = ()
    evaluated: Mapping[str, str] = field(default_factory=dict)

    def markdown(self) -> str:
        """Formats the whole card as Markdown."""
        return render('deploy/card.md.j2', card=self)

    @property
    def front_matter(self) -> str:
        """The metadata for the hub, in YAML."""
        return yaml.safe_dump(self._front_matter(), sort_keys=False, allow_unicode=True)

    def _front_matter(self) -> dict[str, Any]:
        front: dict[str, Any] = {'library_name': self.library}
        if self.task is not None:
            front['pipeline_tag'] = self.task
        front['tags'] = list(self.tags)
        known = {'license': self.license, 'base_model': list(self.base_models), 'datasets': list(self.datasets)}
        front |= {name: value for name, value in known.items() if value}
        # The hub's table of results needs a task, a data set and a metric.
        if self.task is not None and self.dataset is not None and self.metrics:
            result = {
                'task': {'type': self.task},
                'dataset': {'type': self.dataset.split()[0], **self.evaluated, 'name': self.dataset},
                # Not verified: measured by whoever trained it.
                'metrics': [{'type': name, 'value': value, 'verified': False} for name, value in self.metrics.items()],
            }
            front['model-index'] = [{'name': self.title, 'results': [result]}]
        return front
