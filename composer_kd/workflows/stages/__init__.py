"""The workflow of ``composer-kd train`` for a YAML of stages: trains them in order, each from its own folder."""

from composer_kd.workflows.stages.run import rehearse_stages, train_stages

__all__ = ['rehearse_stages', 'train_stages']
