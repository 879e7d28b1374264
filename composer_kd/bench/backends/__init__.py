"""The ways of running a model, by name."""

from composer_kd.bench.backends.base import Backend, Call, Target
from composer_kd.bench.backends.eager import Compile, Eager
from composer_kd.bench.backends.graphs import Export, TorchScript
from composer_kd.bench.backends.int8 import Int8Dynamic
from composer_kd.bench.backends.onnx import OnnxRuntime

__all__ = [
    'BACKENDS',
    'Backend',
    'Call',
    'Compile',
    'Eager',
    'Export',
    'Int8Dynamic',
    'OnnxRuntime',
    'Target',
    'TorchScript',
]

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (Eager(), Compile(), TorchScript(), Export(), OnnxRuntime(), Int8Dynamic())
}
"""All backends by name, installed or not."""
