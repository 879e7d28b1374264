"""Models on their way out of training: called with tensors alone, exported, described."""

from composer_kd.deploy.inference import Inference

__all__ = ['Inference']
