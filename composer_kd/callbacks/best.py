"""Keeps the checkpoint of the best evaluation beside the last one."""

from __future__ import annotations

import json
import math
import os
import pathlib
import warnings
from typing import Any, Literal

from composer.callbacks import CheckpointSaver
from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist, format_name_with_dist
from composer.utils.checkpoint import save_checkpoint
from typing_extensions import override

from composer_kd.errors import ConfigError, nearest
from composer_kd.presentation.files import write_file

__all__ = ['BEST', 'BEST_RECORD', 'BestCheckpoint']

BEST = 'best-rank{rank}.pt'
BEST_RECORD = 'best.json'


class BestCheckpoint(Callback):
    """Saves the weights after each evaluation that is better than all before it, as ``best-rank0.pt``.

    The file lies beside the checkpoints of the Trainer, which are saved as ever; ``best.json`` beside it says the value
    and the batch. A resumed run goes on with the best value that it had at its checkpoint; one that starts from a
    checkpoint in another folder begins anew. A better value must be strictly better; one that is not finite never
    counts.

    What a comparison of runs shows is the last checkpoint of each, for a choice by the evaluation data flatters the
    chosen: to show the best one, give the file, ``composer-kd evaluate runs/digits-kd/best-rank0.pt``.

    Args:
        metric: The name under which Composer logs it: ``metrics/<label of the evaluator>/<name>``.
        mode: ``'max'`` or ``'min'``; None for what the metric says of itself.
        folder: The folder of the file; None for that in which the Trainer saves.
        filename: The name of the file, with ``{rank}``.
        weights_only: Whether to save the model alone; with ``False``, a run can be gone on with from it.

    Raises:
        ConfigError: Before the first batch, if there is no such metric, nothing says whether high values are good, the
            folder is not on this machine, the checkpoints are sharded, or the run has two of these.

    Warns:
        UserWarning: If another run's best checkpoint lies in ``folder``: it is replaced.

    Example:
        >>> BestCheckpoint('metrics/eval/CrossEntropy', mode='min').is_better(0.7)
        True
    """

    def __init__(
        self,
        metric: str = 'metrics/eval/MulticlassAccuracy',
        mode: Literal['max', 'min'] | None = None,
        folder: str | None = None,
        filename: str = BEST,
        weights_only: bool = True,
    ) -> None:
        if metric.count('/') < 2 or not metric.startswith('metrics/'):
            raise ConfigError(f"metric: expected 'metrics/<label of the evaluator>/<name>', got {metric!r}")
        if mode not in (None, 'max', 'min'):
            raise ConfigError(f"mode: expected 'max' or 'min', got {mode!r}")
        if '{rank}' not in filename or '/' in filename or not filename.endswith('.pt'):
            raise ConfigError(f"filename: expected a file name with {{rank}} that ends in '.pt', got {filename!r}")
        if folder is not None and '://' in folder:
            raise ConfigError(f'folder: expected one on this machine, got {folder!r}')
        self.metric, self.mode, self.folder, self.filename = metric, mode, folder, filename
        self.weights_only = weights_only
        self.best: float | None = None
        self.batch: int | None = None
        self._found: float | None = None

    def is_better(self, value: float) -> bool:
        """Whether a value is better than the best one so far."""
        if not math.isfinite(value):
            return False
        return self.best is None or (value > self.best if self.mode == 'max' else value < self.best)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {'metric': self.metric, 'best': self.best, 'batch': self.batch}

    @override
    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get('metric') == self.metric:  # with another metric, the search begins anew
            self.best, self.batch = state['best'], state['batch']

    @override
    def fit_start(self, state: State, logger: Logger) -> None:
        names = {
            f'metrics/{label}/{name}': one for label, group in state.eval_metrics.items() for name, one in group.items()
        }
        if self.metric not in names:
            clause = nearest(self.metric, names) if names else '; nothing is evaluated in this run'
            raise ConfigError(f'BestCheckpoint: the run has no metric {self.metric!r}{clause}')
        if self.mode is None:
            high = names[self.metric].higher_is_better
            if high is None:
                raise ConfigError(
                    f'BestCheckpoint: {self.metric} does not say whether high values are good; give mode: max, or min'
                )
            self.mode = 'max' if high else 'min'
        if state.fsdp_sharded_state_dict_enabled:
            raise ConfigError(
                'BestCheckpoint: sharded checkpoints are not supported; set state_dict_type: full in fsdp_config'
            )
        if sum(isinstance(one, BestCheckpoint) for one in state.callbacks) > 1:
            raise ConfigError('BestCheckpoint: a run has one, since Composer restores one of a kind when it is resumed')
        self._find_earlier(state)

    def _find_earlier(self, state: State) -> None:
        """Begins anew in a folder without the best checkpoint: what was best before lies in another folder."""
        place = self._place(state)
        found: list[Any] = [place.exists(), self._noted_at_the_end(place, state)]
        dist.broadcast_object_list(found)
        there, noted = found
        if not there:
            self.best = self.batch = None
        elif noted is not None:
            self.best, self.batch = noted
        elif self.best is None and self.folder is not None and dist.get_global_rank() == 0:
            warnings.warn(
                f'BestCheckpoint: {place} is that of another run; the first evaluation replaces it', stacklevel=2
            )

    def _noted_at_the_end(self, place: pathlib.Path, state: State) -> tuple[float, int] | None:
        """What the evaluation at the end of this run found: it comes after the last checkpoint, which lacks it."""
        try:
            noted = json.loads(place.with_name(BEST_RECORD).read_text(encoding='utf-8'))
            known = noted['metric'], noted['batch']
            found = float(noted['best']), int(noted['batch'])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found if self.folder is None and known == (self.metric, int(state.timestamp.batch)) else None

    @override
    def eval_end(self, state: State, logger: Logger) -> None:
        _, label, name = self.metric.split('/', 2)
        if state.dataloader_label == label:
            self._found = float(state.eval_metrics[label][name].compute())  # the same on all ranks

    @override
    def eval_after_all(self, state: State, logger: Logger) -> None:
        found, self._found = self._found, None
        if found is None or not self.is_better(found):
            return
        self.best, self.batch = found, int(state.timestamp.batch)
        place = self._place(state)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix('.part')  # Composer would take .pt.part for a compressed file
        save_checkpoint(state, str(part), weights_only=self.weights_only)
        if dist.get_global_rank() == 0:
            os.replace(part, place)
            write_file(place.with_name(BEST_RECORD), json.dumps(self.state_dict(), indent=2) + '\n')

    def _place(self, state: State) -> pathlib.Path:
        """The file, on rank 0, which saves it."""
        folder = self.folder
        if folder is None:
            saver = next((one for one in state.callbacks if isinstance(one, CheckpointSaver)), None)
            if saver is None or saver.remote_uploader is not None:
                raise ConfigError(
                    'BestCheckpoint: the Trainer saves nothing on this machine; give folder=..., where the best '
                    'checkpoint shall lie'
                )
            folder = saver.folder
        return pathlib.Path(format_name_with_dist(folder, state.run_name), self.filename.replace('{rank}', '0'))
