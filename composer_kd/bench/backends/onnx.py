"""The backend ONNX Runtime."""

from __future__ import annotations

import pathlib
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from composer_kd.bench.backends.base import Backend, Call, Target
from composer_kd.errors import ConfigError

__all__ = ['OnnxRuntime']


class OnnxRuntime(Backend):
    """Runs ONNX Runtime with all graph optimisations, on the CPU or on CUDA."""

    name = 'onnxruntime'
    precisions = ('fp32', 'fp16')
    devices = ('cpu', 'cuda')
    suffix = '.onnx'
    packages = ('onnxruntime', 'onnx', 'onnxscript')
    extra = 'onnx'
    of_torch = False

    @override
    def save(self, module: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
        from composer_kd.deploy.formats import to_onnx

        to_onnx(module, inputs, file, [_name(index) for index in range(len(inputs))])

    @override
    def load(self, file: pathlib.Path, module: nn.Module, target: Target) -> Call:
        import onnxruntime

        wanted = {'cpu': 'CPUExecutionProvider', 'cuda': 'CUDAExecutionProvider'}[target.device.type]
        if wanted not in onnxruntime.get_available_providers():
            raise ConfigError(f'this onnxruntime has no {wanted}: pip install onnxruntime-gpu')
        if target.device.type == 'cpu':
            return _OnCpu(str(file), target.threads)
        session = onnxruntime.InferenceSession(str(file), _options(), providers=[wanted])
        if wanted not in session.get_providers():  # it falls back without an error
            raise ConfigError(f'onnxruntime fell back to the CPU: {wanted} does not find its CUDA or cuDNN')
        return _OnCuda(session)

    @override
    def forgetful(self, call: Call) -> Call:
        """Opens a session without a memory arena, which keeps at least a megabyte between calls."""
        return call.without_arena() if isinstance(call, _OnCpu) else call


class _OnCpu:
    """A session on the CPU, which shares the memory of inputs and outputs with torch."""

    def __init__(self, file: str, threads: int | None, arena: bool = True) -> None:
        import onnxruntime

        self.file, self.threads = file, threads
        options = _options()
        options.enable_cpu_mem_arena = arena
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
        # The graph may omit inputs that the model does not use.
        self.inputs = [(one.name, _index(one.name)) for one in self.session.get_inputs()]

    def __call__(self, *tensors: Tensor) -> Tensor:
        given = {name: tensors[index].numpy() for name, index in self.inputs}
        return torch.from_numpy(self.session.run(None, given)[0])

    def without_arena(self) -> _OnCpu:
        """The same model in a session that frees its memory after each call."""
        return _OnCpu(self.file, self.threads, arena=False)


class _OnCuda:
    """A session on CUDA, which reads inputs on the GPU and returns logits in main memory, as a server needs them."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.inputs = [(one.name, _index(one.name)) for one in session.get_inputs()]
        self.output = session.get_outputs()[0].name

    def __call__(self, *tensors: Tensor) -> Tensor:
        import numpy

        binding = self.session.io_binding()
        kept = [(name, tensors[index].contiguous()) for name, index in self.inputs]
        for name, tensor in kept:
            kind = numpy.dtype(str(tensor.dtype).removeprefix('torch.')).type
            place = tensor.device.index or 0
            binding.bind_input(name, 'cuda', place, kind, tuple(tensor.shape), tensor.data_ptr())
        binding.bind_output(self.output, 'cpu')
        torch.cuda.current_stream().synchronize()  # the session uses its own stream
        self.session.run_with_iobinding(binding)
        return torch.from_numpy(binding.copy_outputs_to_cpu()[0])


def _options() -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return options


def _name(index: int) -> str:
    return f'input_{index}'


def _index(name: str) -> int:
    return int(name.removeprefix('input_'))
