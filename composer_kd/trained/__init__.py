"""What comes after ``fit()``, for the models of a script and for run folders: evaluate, bench, export, report.

Example:
    >>> import torch
    >>> from composer.models import ComposerClassifier
    >>> from composer_kd.trained import evaluate
    >>> student = ComposerClassifier(torch.nn.Linear(4, 3), num_classes=3)
    >>> data = torch.utils.data.DataLoader([(torch.ones(4), 0), (torch.zeros(4), 1)], batch_size=2)
    >>> evaluate(student, data).parameters
    15
"""

from composer_kd.runs.evaluate import Evaluation
from composer_kd.trained.benchmark import bench
from composer_kd.trained.comparison import report
from composer_kd.trained.evaluation import evaluate
from composer_kd.trained.exports import export

__all__ = ['Evaluation', 'bench', 'evaluate', 'export', 'report']
