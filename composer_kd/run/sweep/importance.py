"""How much of the differences between trials each parameter accounts for."""

from __future__ import annotations

import warnings

import optuna

from composer_kd.run.sweep.study import Study

__all__ = ['FEW', 'importances']

LEAST = 4  # complete trials
FEW = 10  # complete trials for each parameter, below which the shares are mostly chance


def importances(study: Study) -> dict[str, float]:
    """Estimates the share of the metric's variance that each parameter explains, by fANOVA with a random forest.

    Args:
        study: The trials; those that ran to their end count.

    Returns:
        The shares by parameter, the largest first, 1 in all; empty where the trials are too few, or all alike.
    """
    complete = [record for record in study.records() if record.state == 'complete']
    keys = [parameter.key for parameter in study.sweep.parameters]
    varied = [key for key in keys if len({str(record.settings.get(key)) for record in complete}) > 1]
    if len(complete) < LEAST or not varied or len({record.value for record in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = optuna.importance.get_param_importances(study.handle, evaluator=evaluator, params=varied)
    return dict(sorted(found.items(), key=lambda item: -item[1]))
