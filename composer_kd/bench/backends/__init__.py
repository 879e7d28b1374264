"""Backends: the compilers and runtimes that run a model."""

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
"""All backends by name, including those that are not installed."""
