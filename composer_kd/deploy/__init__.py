"""Exports trained models: calls them with tensors only, writes them to files, verifies and documents the files."""

from composer_kd.deploy.formats import to_onnx, to_torch_export
from composer_kd.deploy.hub import push_to_hub
from composer_kd.deploy.inference import Inference

__all__ = ['Inference', 'push_to_hub', 'to_onnx', 'to_torch_export']
