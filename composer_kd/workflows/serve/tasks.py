"""What the models of runs can be asked: the task that all of them have."""

from __future__ import annotations

from collections.abc import Sequence

from composer_kd.errors import ConfigError
from composer_kd.workflows.serve.generation import TextGeneration
from composer_kd.workflows.serve.images import ImageClassification
from composer_kd.workflows.serve.models import ServedModel, open_models
from composer_kd.workflows.serve.text import TextClassification

__all__ = ['TASKS', 'Task', 'open_task', 'task_of']

Task = TextClassification | TextGeneration | ImageClassification

TASKS: tuple[type[Task], ...] = (TextClassification, TextGeneration, ImageClassification)
"""All tasks; a model is of the first that reads it."""


def open_task(written: Sequence[str]) -> Task:
    """Builds the models of runs, and finds out what they can be asked.

    Args:
        written: Run folders, or the folder of a chain of stages.

    Returns:
        The task, with the models.

    Raises:
        ComposerKDError: If a run cannot be opened, or the models are of different tasks or classes.
    """
    return task_of(open_models(written))


def task_of(models: Sequence[ServedModel]) -> Task:
    """Finds out what models can be asked.

    Args:
        models: The models.

    Returns:
        The task, with the models.

    Raises:
        ConfigError: If a model is of none of the tasks, or they are of different ones.
    """
    found = {model.name: next((task for task in TASKS if task.reads(model)), None) for model in models}
    for model in models:
        if found[model.name] is None:
            raise ConfigError(
                f'{model.name}: {type(model.net).__name__} is not for {", ".join(task.title for task in TASKS)}'
            )
    tasks = set(found.values())
    if len(tasks) != 1:
        listed = ', '.join(f'{name} is for {task.title}' for name, task in found.items() if task is not None)
        raise ConfigError(f'the runs are of different tasks: {listed}. Give runs of one task')
    (task,) = tasks
    assert task is not None
    return task(models)
