"""Models on their way out of training: called with tensors alone, exported, checked, described."""

from composer_kd.deploy.formats import to_onnx, to_torch_export
from composer_kd.deploy.inference import Inference

__all__ = ['Inference', 'to_onnx', 'to_torch_export']
