"""Text classification: one text, or two, answered by every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from composer_kd.errors import ConfigError
from composer_kd.workflows.serve.answers import Answer
from composer_kd.workflows.serve.classifiers import Classifiers
from composer_kd.workflows.serve.models import ServedModel
from composer_kd.workflows.serve.reading import Reader, checked_text

__all__ = ['TextClassification']

_SEVERAL, _SCORE = 'multi_label_classification', 'regression'


class TextClassification:
    """Classifies texts, or pairs of texts, as the evaluation data of the runs has them.

    Args:
        models: The models.

    Attributes:
        models: The models.
        labels: The classes.
        texts: What the texts of an input are called.
        optional: Whether the last of them may be left out: of data that does not say how many it has.

    Raises:
        ConfigError: If a model has no tokenizer, or one score in the place of classes; if the models have different
            classes, or some read one text and some two.
    """

    title = 'text classification'

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = list(models)
        configs: dict[str, Any] = {model.name: model.net.config for model in models}
        problems = {name: config.problem_type for name, config in configs.items()}
        scoring = [name for name, config in configs.items() if problems[name] == _SCORE or config.num_labels < 2]
        if scoring:
            raise ConfigError(f'{scoring[0]}: is a regression, whose score is no class; give runs of classifiers')
        several = {problem == _SEVERAL for problem in problems.values()}
        if len(several) > 1:
            raise ConfigError(f'some models have one class for a text and some several: {problems}')
        self.texts, self.optional = _texts_of(models)
        self._readers = [Reader(model) for model in models]
        example = ['a'] * (len(self.texts) - self.optional)
        self._classifiers = Classifiers(models, [reader.batch(example)[0] for reader in self._readers], several.pop())
        self.labels = self._classifiers.labels

    @staticmethod
    def reads(model: ServedModel) -> bool:
        """Whether a model is one of this task."""
        return 'ForSequenceClassification' in type(model.net).__name__

    def answers(self, *texts: str) -> list[Answer]:
        """Answers of all models.

        Args:
            *texts: The texts, as many as the data has.

        Returns:
            One answer for each model, in their order.

        Raises:
            ConfigError: If a text is empty or too long, or the number of texts is another.
        """
        given = [text for text in texts if text] if self.optional else list(texts)
        least = len(self.texts) - self.optional
        if not least <= len(given) <= len(self.texts):
            raise ConfigError(f'expected {" and ".join(self.texts[: max(least, 1)])}, got {len(given)} texts')
        checked = [checked_text(text, name) for text, name in zip(given, self.texts)]
        coded = [reader.batch(checked) for reader in self._readers]
        return self._classifiers.answers([batch for batch, _ in coded], [notes for _, notes in coded])


def _texts_of(models: Sequence[ServedModel]) -> tuple[tuple[str, ...], bool]:
    """What the texts are called, and whether the second may be left out."""
    said = {model.name: texts for model in models if (texts := model.data.first('texts'))}
    counts = {name: len(texts) for name, texts in said.items()}
    if len(set(counts.values())) > 1:
        raise ConfigError(f'the models read different inputs: {said}. Give runs of one task')
    return (next(iter(said.values())), False) if said else (('text', 'second text'), True)
