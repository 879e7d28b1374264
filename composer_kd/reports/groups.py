"""Groups runs that differ only in their seed, and finds the groups to compare."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from composer_kd.presentation.roles import ALONE, DISTILLED, TEACHER
from composer_kd.presentation.settings import leaves
from composer_kd.reports.differences import ABSENT
from composer_kd.reports.evidence import EvaluationSet, ModelEvidence
from composer_kd.reports.metrics import agreement
from composer_kd.reports.statistics import Difference, Estimate, difference_of_answers, difference_of_runs

__all__ = ['Group', 'also_differing', 'counterpart', 'gain', 'group', 'taught_by']

_COUNTED = re.compile(r'[-_ ./]*(seed|run)?[-_ ]*\d*$')


@dataclass(frozen=True)
class Group:
    """Models that were trained with the same settings and different seeds.

    Args:
        name: The name of the group.
        role: The role of its members.
        members: One model for each run.
    """

    name: str
    role: str
    members: tuple[ModelEvidence, ...]

    @property
    def first(self) -> ModelEvidence:
        """The first member, for properties that do not depend on the seed: parameters, sizes, settings."""
        return self.members[0]

    @property
    def n(self) -> int:
        """The number of runs."""
        return len(self.members)

    def estimate(self, value: Callable[[ModelEvidence], float | None]) -> Estimate | None:
        """Computes the mean of a value over the runs.

        Args:
            value: Returns the value of one run, or None if it has none.

        Returns:
            The mean over the runs that have a value; None if there are none, or if one value is not finite.
        """
        values = [found for found in map(value, self.members) if found is not None]
        return Estimate.of(values) if values and np.isfinite(values).all() else None

    def accuracies(self, evaluation: EvaluationSet) -> list[float]:
        """Returns the accuracy of each member for which it is known."""
        return [found for found in (accuracy_of(one, evaluation) for one in self.members) if found is not None]

    def accuracy(self, evaluation: EvaluationSet) -> Estimate | None:
        """Returns the mean accuracy over the runs; None if it is unknown."""
        values = self.accuracies(evaluation)
        return Estimate.of(values) if values else None

    def correct(self, evaluation: EvaluationSet) -> np.ndarray | None:
        """Returns, for each sample, the share of runs that predict its label, ``(N,)``; None without predictions."""
        found = [one.answers.predicted == evaluation.labels for one in self.members if one.answers is not None]
        return np.mean(found, axis=0) if found else None

    def mean(self, of_answers: Callable[[np.ndarray], np.ndarray]) -> np.ndarray | None:
        """Computes the mean over the runs of an array computed from their predictions.

        Args:
            of_answers: Computes the array from the predicted classes ``(N,)`` of one run.

        Returns:
            The mean; None without predictions.
        """
        found = [of_answers(one.answers.predicted) for one in self.members if one.answers is not None]
        return np.mean(found, axis=0) if found else None


def accuracy_of(model: ModelEvidence, evaluation: EvaluationSet) -> float | None:
    """Returns the accuracy of a model: of its predictions, else as logged by its run; None if neither is known."""
    if model.answers is not None:
        return float(np.mean(model.answers.predicted == evaluation.labels)) if len(evaluation.labels) else None
    noted = (value for name, value in model.metrics.items() if re.fullmatch(r'metrics/eval/\w*Accuracy', name))
    return next(noted, None)


def group(models: Sequence[ModelEvidence]) -> list[Group]:
    """Groups runs of the same role that differ only in their seed, and in settings without effect such as the name.

    A setting named ``seed`` is treated as the seed of the run if it has the same value, such as
    ``train_loader.dataset.seed: ${seed}``.

    Args:
        models: The models.

    Returns:
        The groups, each with a unique name, in the order of their first members.
    """
    found: dict[Any, list[ModelEvidence]] = {}
    for model in models:
        found.setdefault(_identity(model), []).append(model)
    named: list[Group] = []
    for members in found.values():
        name = _name([one.name for one in members])
        taken = {one.name for one in named}
        name = next(
            n
            for n in (name, f'{name} ({members[0].role})', *map(f'{name} {{}}'.format, range(2, 10_000)))
            if n not in taken
        )
        named.append(Group(name, members[0].role, tuple(members)))
    return named


def _identity(model: ModelEvidence) -> Any:
    if not model.settings or model.seed is None:
        return model.name  # forms a group alone
    return model.role, tuple(sorted(_learned_by(model).items()))


def _learned_by(model: ModelEvidence) -> dict[str, str]:
    """Returns the settings that affect what is learned, with the run's own seed replaced by a placeholder."""
    return {
        key: '(the seed)' if key.rpartition('.')[2] == 'seed' and value == model.seed else repr(value)
        for key, value in leaves(model.settings).items()
        if value not in (None, {}, []) and key not in model.without_effect
    }


def _name(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    alike = itertools.takewhile(lambda signs: len(set(signs)) == 1, zip(*names))
    common = _COUNTED.sub('', ''.join(signs[0] for signs in alike))
    return common or f'{names[0]} and {len(names) - 1} more'


def taught_by(student: Group, groups: Sequence[Group]) -> Group | None:
    """Returns the teacher that a student is compared with.

    Args:
        student: A student.
        groups: All groups.

    Returns:
        For a distilled student, its first teacher among the groups. For a student alone, the only teacher of the
        comparison. None otherwise.
    """
    teachers = [one for one in groups if one.role == TEACHER]
    if student.role == DISTILLED:
        names = set(student.first.taught_by)
        return next((one for one in teachers if names & {member.name for member in one.members}), None)
    return teachers[0] if len(teachers) == 1 and student.role == ALONE else None


def agreement_with_teachers(model: ModelEvidence, student: Group, groups: Sequence[Group]) -> float | None:
    """Computes the agreement of a student with its teachers.

    Args:
        model: A member of ``student``.
        student: The student's group.
        groups: All groups.

    Returns:
        The share of samples for which both predict the same class, from 0 to 1; the mean over its teachers. None
        without a teacher or without predictions.
    """
    everyone = {one.name: one for each in groups for one in each.members}
    teachers = [everyone[name] for name in model.taught_by if name in everyone]
    if not teachers and (teacher := taught_by(student, groups)) is not None:
        teachers = list(teacher.members)
    answers = [one.answers.predicted for one in teachers if one.answers is not None]
    return agreement(model.answers.predicted, answers) if answers and model.answers is not None else None


def counterpart(distilled: Group, groups: Sequence[Group]) -> Group | None:
    """Returns the student alone that a distilled student is compared with.

    Args:
        distilled: A distilled student.
        groups: All groups.

    Returns:
        Of the students alone with the same model, the one with the fewest differing settings. Without any, of its
        teachers a run of the same model that was trained alone, as the first of born-again generations was. None
        without any.
    """
    mine = leaves(distilled.first.settings)

    def distance(other: Group) -> int:
        theirs = leaves(other.first.settings)
        return sum(mine.get(key, ABSENT) != theirs.get(key, ABSENT) for key in {*mine, *theirs})

    model = _model(distilled.first.settings)
    same = [one for one in groups if _model(one.first.settings) == model]
    alone = [one for one in same if one.role == ALONE]
    teachers = [one for one in same if one.role == TEACHER and one.first.is_run and not one.first.distilled_by]
    return min(alone or teachers, key=distance, default=None)


def also_differing(distilled: Group, alone: Group) -> list[str]:
    """Lists the settings, other than distillation, in which two students differ; they may explain part of the gain.

    Args:
        distilled: The distilled student.
        alone: The student alone.

    Returns:
        Dotted keys; without ``max_duration`` if both trained for the same number of batches.
    """
    taught = tuple(f'algorithms.{key}.' for key in distilled.first.distilled_by)
    mine, theirs = _learned_by(distilled.first), _learned_by(alone.first)
    batches = [one.first.metrics.get('time/batch') for one in (distilled, alone)]
    same = {'max_duration'} if batches[0] is not None and batches[0] == batches[1] else set()
    keys = [key for key in dict.fromkeys((*mine, *theirs)) if not key.startswith(taught) and key not in same]
    return [key for key in keys if mine.get(key) != theirs.get(key)]


def _model(settings: Mapping[str, Any]) -> Any:
    return settings.get('model')


def gain(distilled: Group, alone: Group, evaluation: EvaluationSet) -> Difference | None:
    """Computes the accuracy that a student gains by distillation, with its confidence interval.

    Args:
        distilled: The distilled student.
        alone: The student alone.
        evaluation: The data on which both were evaluated.

    Returns:
        The difference of the accuracies, over seeds if both have several, else over samples; None if neither gives an
        interval.
    """
    over_seeds = difference_of_runs(*(_by_seed(each, evaluation) for each in (distilled, alone)))
    if over_seeds is not None and over_seeds.high - over_seeds.low > 1e-9:  # equal by chance, on few samples
        return over_seeds
    correct = [each.correct(evaluation) for each in (distilled, alone)]
    return None if correct[0] is None or correct[1] is None else difference_of_answers(correct[0], correct[1])


def _by_seed(each: Group, evaluation: EvaluationSet) -> dict[object, float]:
    """Returns the accuracies by seed; if a seed is unknown or not unique, by name, which prevents pairs."""
    seeds = [one.seed for one in each.members]
    keys = seeds if len({*seeds} - {None}) == each.n else [one.name for one in each.members]
    found = {key: accuracy_of(one, evaluation) for key, one in zip(keys, each.members)}
    return {key: value for key, value in found.items() if value is not None}
