"""The auxiliary modules that a student leaves out of its own state dict, in the checkpoints of a run."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor, nn

from composer_kd.students import EXTRAS

__all__ = ['AuxiliaryState']


class AuxiliaryState:
    """Saves and restores auxiliary modules that the student's own ``state_dict()`` leaves out.

    A model may save a part of itself alone, as a ``HuggingFaceModel`` with adapters does
    (``should_save_peft_only=True``). Its projectors and learned losses are then saved with the algorithm.

    Example:
        >>> class Adapted(nn.Linear):
        ...     def state_dict(self, *args, **options): return {'bias': self.bias}
        >>> student, state = Adapted(2, 3), AuxiliaryState()
        >>> student.add_module(EXTRAS, nn.ModuleDict({'hint_0': nn.Linear(3, 4)}))
        >>> state.before_load(student)
        >>> list(state.state_dict()['auxiliary'])
        ['composer_kd.hint_0.weight', 'composer_kd.hint_0.bias']
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._versions: list[tuple[int, int]] = []
        self._restored: set[str] = set()

    def before_load(self, model: nn.Module) -> None:
        """Notes the student, with all its auxiliary modules, before a checkpoint is loaded into it."""
        self._model, self._restored = model, set()
        self._versions = _versions(model)

    def state_dict(self) -> dict[str, Any]:
        """What the student's own state dict leaves out, under ``'auxiliary'``; empty if that is nothing."""
        left_out = self._left_out()
        return {'auxiliary': left_out} if left_out else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what a state contains.

        Args:
            state: From :meth:`state_dict`, or from a run that left nothing out.
        """
        saved = state.get('auxiliary', {})
        if saved and self._model is not None:
            mine = {key.partition('.')[2]: value for key, value in saved.items()}
            extras = getattr(self._model, EXTRAS, nn.ModuleDict())
            unknown = extras.load_state_dict(mine, strict=False).unexpected_keys
            self._restored = {f'{EXTRAS}.{key}' for key in mine.keys() - set(unknown)}

    def after_load(self) -> None:
        """Warns if a checkpoint was loaded into the student that does not contain what it leaves out."""
        if self._model is None or _versions(self._model) == self._versions:
            return
        missing = sorted(self._left_out().keys() - self._restored)
        if missing:
            names = ', '.join(missing)
            warnings.warn(
                f'The checkpoint does not contain what was trained beside the student: {names} start anew. '
                'This model leaves them out of its state dict (HuggingFaceModel(..., should_save_peft_only=True)). '
                'Checkpoints of Distillation contain them, unless only the weights are loaded.',
                stacklevel=2,
            )

    def _left_out(self) -> dict[str, Tensor]:
        extras = None if self._model is None else getattr(self._model, EXTRAS, None)
        if self._model is None or extras is None:
            return {}
        own = {f'{EXTRAS}.{key}': value for key, value in extras.state_dict().items()}
        saved = self._model.state_dict()
        return {key: value for key, value in own.items() if key not in saved}


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    """Changes when the student's own weights are replaced, or written in place as by loading a checkpoint."""
    own = ((name, parameter) for name, parameter in model.named_parameters() if not name.startswith(f'{EXTRAS}.'))
    return [(id(parameter), parameter._version) for _, parameter in own]
