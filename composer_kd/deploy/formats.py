"""Models as files that other runtimes load: ONNX and torch.export."""

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
"""Bytes of weights that one ONNX file holds: protobuf's 2 GiB, and some room for the graph."""
MOST_SAMPLES = 2**31 - 1

# They remark on operators that the model may not even have.
_TALKERS = ('torch.onnx', 'torch.export', 'torch.fx', 'torch._dynamo', 'onnxscript', 'onnx_ir')


def to_torch_export(inference: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path) -> None:
    """Writes a model as a graph that ``torch.export.load`` reads without the model's code.

    The number of samples is free, and so is the length of sequences where the model allows it: the second dimension of
    inputs of whole numbers.

    Args:
        inference: Tensors in, a tensor out, such as an ``Inference``; left as it is.
        inputs: Examples of its inputs, the samples along the first dimension.
        file: Where to write, a ``.pt2`` file.

    Raises:
        ConfigError: If the model cannot be traced; the message says why.

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
        except Exception as error:  # of its serialisation, of whatever kind
            file.unlink(missing_ok=True)
            raise ConfigError(f'torch.export cannot save this model: {_reason(error)}') from error


def to_onnx(
    inference: nn.Module, inputs: tuple[Tensor, ...], file: pathlib.Path, input_names: Sequence[str] | None = None
) -> None:
    """Writes a model for ONNX Runtime and other readers of ONNX.

    The model goes through ``torch.export``, with no way around it: the older exporter records the way that an example
    takes, and is silent where others would take another. Weights lie in the file itself, unless they exceed the 2 GiB
    that it can hold: then in a second file beside it.

    Args:
        inference: Tensors in, a tensor out, such as an ``Inference``; left as it is.
        inputs: Examples of its inputs, the samples along the first dimension. What is free in the file is told at
            ``to_torch_export``.
        file: Where to write, an ``.onnx`` file.
        input_names: A name for each input; by default ``'inputs'``, or ``'inputs_0'`` and so on. The output's name is
            ``'logits'``.

    Raises:
        ConfigError: If a package is missing, or the model cannot be traced; the message says why.

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
            _name_sizes(written.model.graph, [_free_names(tensor) for tensor in inputs])
            for node in written.model.graph:
                node.metadata_props.clear()  # paths of this machine
            written.save(str(file), external_data=_weigh(inference) > MOST_IN_ONE_FILE)
        except Exception as error:  # exporters fail in many ways
            for one in (file, file.with_name(f'{file.name}.data')):
                one.unlink(missing_ok=True)
            raise ConfigError(f'the model cannot be written as ONNX: {_reason(error)}') from error


def require(*packages: str) -> None:
    """Makes sure that the packages of the extra ``onnx`` are there.

    Args:
        packages: Their names.

    Raises:
        ConfigError: If one is missing.
    """
    for package in packages:
        try:
            __import__(package)
        except ImportError as error:
            raise ConfigError(
                f"ONNX needs the package {package}, which cannot be imported ({error}): pip install 'composer_kd[onnx]'"
            ) from error


def _name_sizes(graph: Any, free: Sequence[dict[int, str]]) -> None:
    """Calls the free sizes of inputs and outputs 'batch' and 'sequence', where the exporter says 's0'."""
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
    """Traces a model."""
    ready = _ready(inference)
    batch = torch.export.Dim('batch', max=MOST_SAMPLES)
    shapes: Any = tuple(_free(tensor, batch) for tensor in inputs)
    if _takes_any_number(ready.forward):
        shapes = (shapes,)
    try:
        with torch.no_grad():
            return torch.export.export(ready, _blank(inputs), dynamic_shapes=shapes)
    except Exception as error:  # whatever a model may do that cannot be traced
        raise ConfigError(f'torch.export cannot trace this model: {_reason(error)}') from error


def _free(tensor: Tensor, batch: Any) -> dict[int, Any]:
    """Which dimensions are free: the first one, and of tokens the second where the model lets it be."""
    dim: Any = torch.export.Dim
    return {0: batch, 1: dim.AUTO} if _are_tokens(tensor) else {0: batch}


def _free_names(tensor: Tensor) -> dict[int, str]:
    return {0: 'batch', 1: 'sequence'} if _are_tokens(tensor) else {0: 'batch'}


def _are_tokens(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and not tensor.is_floating_point()


def _takes_any_number(forward: Callable[..., Any]) -> bool:
    kinds = [parameter.kind for parameter in inspect.signature(forward).parameters.values()]
    return kinds == [inspect.Parameter.VAR_POSITIONAL]


def _blank(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Examples of the same shapes and types without anybody's data: ``torch.export`` keeps them in the file.

    Two samples: a dimension of one would be taken for one that is always one.
    """
    makers = [torch.zeros if one.is_floating_point() else torch.ones for one in inputs]
    return tuple(make(2, *one.shape[1:], dtype=one.dtype) for make, one in zip(makers, inputs))


def _ready(inference: nn.Module) -> nn.Module:
    """The model itself if it is on the CPU in eval mode, else a copy that is."""
    devices = {tensor.device.type for tensor in (*inference.parameters(), *inference.buffers())}
    training = any(module.training for module in inference.modules())
    return copy.deepcopy(inference).cpu().eval() if training or devices - {'cpu'} else inference


def _weigh(module: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*module.parameters(), *module.buffers()))


def _default_names(count: int) -> list[str]:
    return ['inputs'] if count == 1 else [f'inputs_{number}' for number in range(count)]


def _reason(error: BaseException) -> str:
    """What an exporter means: the first lines of the error that it began with, without advice to debug it."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f'{type(error).__name__}: {" ".join(lines[:2])[:400]}'.rstrip(': ')


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what exporters remark on themselves from the user's terminal."""
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
