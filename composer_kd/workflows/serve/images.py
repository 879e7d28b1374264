"""Image classification: one picture, answered by every model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from composer_kd.data.pictures import Pictures, pictures_of, shown
from composer_kd.errors import ConfigError
from composer_kd.workflows.serve.answers import Answer
from composer_kd.workflows.serve.classifiers import Classifiers
from composer_kd.workflows.serve.models import ServedModel

__all__ = ['ImageClassification']


class ImageClassification:
    """Classifies pictures: each model gets them as the evaluation data of its run has them, transformed and normalised.

    Args:
        models: The models.

    Attributes:
        models: The models.
        labels: The classes.
        samples: The pictures of the first model's evaluation data.

    Raises:
        ConfigError: If evaluation data is missing, or is no images; if the models have different classes.
    """

    title = 'image classification'

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self.models = list(models)
        self._pictures = [_pictures_of(model) for model in models]
        self.samples = self._pictures[0]
        self._classifiers = Classifiers(models, self._batches(self.samples.picture(0)))
        self.labels = self._classifiers.labels

    @staticmethod
    def reads(model: ServedModel) -> bool:
        """Whether a model is one of this task: it is none of texts."""
        return bool(getattr(model.net, 'main_input_name', 'pixel_values') == 'pixel_values')

    def sample(self, number: int) -> tuple[Image.Image, str]:
        """A sample of the evaluation data.

        Args:
            number: Its number, from 0.

        Returns:
            The picture, and the name of its class; ``''`` if it has none.

        Raises:
            ConfigError: If there is no such sample.
        """
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < self.samples.count:
            raise ConfigError(f'sample: expected a number from 0 to {self.samples.count - 1}, got {number!r}')
        target = self.samples.target(number)
        known = 0 <= target < len(self.labels.names)
        return self.samples.picture(number), self.labels.names[target] if known else ''

    def seen(self, picture: Image.Image) -> Image.Image:
        """A picture as the first model gets it, in its size and colours."""
        return shown(self.samples.prepare(picture))

    def answers(self, picture: Image.Image) -> list[Answer]:
        """Answers of all models.

        Args:
            picture: A picture of any size.

        Returns:
            One answer for each model, in their order.
        """
        return self._classifiers.answers(self._batches(picture))

    def _batches(self, picture: Image.Image) -> list[Any]:
        return [(pictures.prepare(picture).unsqueeze(0), None) for pictures in self._pictures]


def _pictures_of(model: ServedModel) -> Pictures:
    if model.data.dataset is None:
        raise ConfigError(
            f'{model.name}: pictures are prepared as those of its evaluation data, which cannot be loaded: '
            f'{model.data.missing}'
        )
    try:
        return pictures_of(model.data.dataset)
    except ConfigError as error:
        raise ConfigError(f'{model.name}: {error}') from error
