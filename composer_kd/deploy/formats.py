"""Writes models as graphs that other runtimes load: ONNX and ``torch.export``."""

from __future__ import annotations

import contextlib
import copy
import inspect
import io
import logging
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from composer_kd.errors import ConfigError

__all__ = ['OUTPUT_NAME', 'quiet', 'require', 'to_onnx', 'to_torch_export']

OUTPUT_NAME = 'logits'
MOST_IN_ONE_FILE = 2**31 - 2**20
"""The most bytes of weights in one ONNX file: the 2 GiB of protobuf, less some space for the graph."""
MOST_SAMPLES = 2**31 - 1

# They log remarks on operators, even ones that the model does not use.
_TALKERS = ('torch.onnx', 'torch.export', 'torch.fx', 'torch._dynamo', 'onnxscript', 'onnx_ir')


def to_torch_export(inference: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
    """Writes a model as a graph that ``torch.export.load`` reads without the model's code.

    The batch size is dynamic. So is the length of sequences (the second dimension of two-dimensional integer inputs) if
    the model permits it.

    Args:
        inference: Takes tensors and returns a tensor, such as an :class:`.Inference`; it is not modified.
        inputs: Example inputs, with the samples along the first dimension.
        file: The ``.pt2`` file to write.

    Raises:
        ConfigError: If the model cannot be traced or saved; the message gives the reason.

    Example:
        >>> import tempfile
        >>> file = pathlib.Path(tempfile.mkdtemp(), 'model.pt2')
        >>> to_torch_export(nn.Linear(4, 3).eval(), (torch.zeros(2, 4),), file)
        >>> torch.export.load(file).module()(torch.zeros(7, 4)).shape
        torch.Size([7, 3])
    """
    with quiet():
        program = _program(inference, inputs)
        for node in program.graph.nodes:
            node.meta.pop('stack_trace', None)  # paths of this machine
        try:
            torch.export.save(program, file)
        except Exception as error:  # serialisation raises errors of any type
            file.unlink(missing_ok=True)
            raise ConfigError(f'torch.export cannot save this model: {_reason(error)}') from error


def to_onnx(
    inference: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path, input_names: Sequence[str] | None = None
) -> None:
    """Writes a model for ONNX Runtime and other readers of ONNX.

    The model is always traced with ``torch.export``. The older exporter records the branches that the example takes,
    and does not warn if other inputs would take others. The weights are stored in the file itself or, if they exceed
    the 2 GiB that it can contain, in a second file beside it. The dynamic dimensions are those of
    :func:`to_torch_export`.

    Args:
        inference: Takes tensors and returns a tensor, such as an :class:`.Inference`; it is not modified.
        inputs: Example inputs, with the samples along the first dimension.
        file: The ``.onnx`` file to write.
        input_names: A name for each input; by default ``'inputs'``, or ``'inputs_0'`` and so on. The name of the output
            is ``'logits'``.

    Raises:
        ConfigError: If a package is missing, or the model cannot be traced or written; the message gives the reason.

    Example:
        >>> import tempfile
        >>> import onnxruntime
        >>> file = pathlib.Path(tempfile.mkdtemp(), 'model.onnx')
        >>> to_onnx(nn.Linear(4, 3).eval(), (torch.zeros(2, 4),), file)
        >>> session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
        >>> session.run(None, {'inputs': torch.zeros(7, 4).numpy()})[0].shape
        (7, 3)
    """
    require('onnx', 'onnxscript')
    names = list(input_names) if input_names is not None else _default_names(len(inputs))
    if len(names) != len(inputs):
        raise ConfigError(f'input_names: expected one for each of {len(inputs)} inputs, got {names}')
    with quiet():
        program: Any = _program(inference, inputs)
        try:
            written: Any = torch.onnx.export(
                program, dynamo=True, input_names=names, output_names=[OUTPUT_NAME], verbose=False
            )
            _name_sizes(written.model.graph, [_free_names(*one) for one in zip(names, inputs)])
            for node in written.model.graph:
                node.metadata_props.clear()  # paths of this machine
            written.save(str(file), external_data=_weigh(inference) > MOST_IN_ONE_FILE)
        except Exception as error:  # exporters raise errors of any type
            for one in (file, file.with_name(f'{file.name}.data')):
                one.unlink(missing_ok=True)
            raise ConfigError(f'the model cannot be written as ONNX: {_reason(error)}') from error


def require(*packages: str) -> None:
    """Checks that packages of the extra ``onnx`` can be imported.

    Args:
        packages: The names of the packages.

    Raises:
        ConfigError: If a package cannot be imported.
    """
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ConfigError(
                f"ONNX needs the package {package}, which cannot be imported ({error}): pip install 'composer_kd[onnx]'"
            ) from error


def _name_sizes(graph: Any, free: Sequence[dict[int, str]]) -> None:
    """Renames the dynamic dimensions of inputs and outputs from ``s0`` and the like to ``batch`` and ``sequence``."""
    named = {
        str(tensor.shape[place]): name
        for tensor, names in zip(graph.inputs, free)
        for place, name in names.items()
        if not isinstance(tensor.shape[place], int)
    }
    for tensor in (*graph.inputs, *graph.outputs):
        for place, size in enumerate(tensor.shape or ()):
            if str(size) in named:
                tensor.shape[place] = named[str(size)]


def _program(inference: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Traces a model with dynamic dimensions."""
    ready = _ready(inference)
    batch = torch.export.Dim('batch', max=MOST_SAMPLES)
    shapes: Any = tuple(_free(tensor, batch) for tensor in inputs)
    if _takes_any_number(ready.forward):
        shapes = (shapes,)
    torch.compiler.reset()  # torch traces code of one place for a few models only, and then refuses
    try:
        with torch.no_grad():
            return torch.export.export(ready, _blank(inputs), dynamic_shapes=shapes)
    except Exception as error:  # tracing raises errors of any type
        raise ConfigError(f'torch.export cannot trace this model: {_reason(error)}') from error


def _free(tensor: Tensor, batch: Any) -> dict[int, Any]:
    """The dynamic dimensions: the first one and, for tokens, the second one if the model permits it."""
    dim: Any = torch.export.Dim
    return {0: batch, 1: dim.AUTO} if _are_tokens(tensor) else {0: batch}


def _free_names(name: str, tensor: Tensor) -> dict[int, str]:
    length = 'decoder_sequence' if name.startswith('decoder_') else 'sequence'
    return {0: 'batch', 1: length} if _are_tokens(tensor) else {0: 'batch'}


def _are_tokens(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and not tensor.is_floating_point()


def _takes_any_number(forward: Callable[..., Any]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(forward).parameters.values()]
    return kinds == [inspect.Parameter.VAR_POSITIONAL]


def _blank(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Replaces the example inputs by zeros or ones, because ``torch.export`` stores them in the file.

    There are two samples, because a dimension of size 1 would be taken for a constant.
    """
    makers = [torch.zeros if one.is_floating_point() else torch.ones for one in inputs]
    return tuple(make(2, *one.shape[1:], dtype=one.dtype) for make, one in zip(makers, inputs))


def _ready(inference: nn.Module) -> nn.Module:
    """The model itself if it is on the CPU in eval mode, otherwise a copy there."""
    devices = {tensor.device.type for tensor in (*inference.parameters(), *inference.buffers())}
    training = any(module.training for module in inference.modules())
    return copy.deepcopy(inference).cpu().eval() if training or devices - {'cpu'} else inference


def _weigh(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _default_names(count: int) -> list[str]:
    return ['inputs'] if count == 1 else [f'inputs_{number}' for number in range(count)]


def _reason(error: BaseException) -> str:
    """The type and first lines of the original error, without the exporter's advice on debugging."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {" ".join(lines[:2])[:400]}'.rstrip(': ')


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context that suppresses the output, warnings and log messages of exporters."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith(_TALKERS)]
    before = [(logger, logger.level) for logger in loggers]
    nowhere = io.StringIO()
    with warnings.catch_warnings(), contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        warnings.simplefilter('ignore')
        try:
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
        finally:
            for logger, level in before:
                logger.setLevel(level)
