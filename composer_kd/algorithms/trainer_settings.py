"""What the Trainer of a run was told and the state of the run does not say."""

from __future__ import annotations

import inspect

from composer import Trainer

from composer_kd.errors import ConfigError

__all__ = ['refuse_weights_by_tokens']


def refuse_weights_by_tokens(name: str) -> None:
    """Checks, at ``INIT``, that the Trainer weights microbatches by their samples.

    Args:
        name: The class of the algorithm that counts valid positions, for the message.

    Raises:
        ConfigError: If it weights them by their tokens, of which the algorithm's own count knows nothing.
    """
    if getattr(_trainer(), 'accumulate_train_batch_on_tokens', False):
        raise ConfigError(
            f'Trainer(accumulate_train_batch_on_tokens=True) weights microbatches by their tokens. {name} counts the '
            'valid positions of the whole batch itself, for microbatches that are weighted by samples, so that they '
            'would count twice. Leave it out: the losses are means over the valid tokens of the whole batch without it.'
        )


def _trainer() -> Trainer | None:
    """The Trainer that is being made: events of ``INIT`` run inside of its ``__init__``."""
    frame = inspect.currentframe()
    while frame is not None:
        if isinstance(made := frame.f_locals.get('self'), Trainer):
            return made
        frame = frame.f_back
    return None
