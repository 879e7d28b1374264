"""The formats of an export: each writes a model, loads it back, and generates example code that loads it."""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from composer_kd.deploy.formats import OUTPUT_NAME, quiet, require, to_onnx, to_torch_export
from composer_kd.deploy.inference import Inference
from composer_kd.deploy.snippets import as_numpy, as_tensors, call_of
from composer_kd.errors import ConfigError
from composer_kd.students import student_state_dict

__all__ = ['TARGETS', 'HuggingFace', 'Onnx', 'StateDict', 'Student', 'Target', 'TorchExport']


@dataclass(frozen=True)
class Student:
    """A trained model to export.

    Args:
        inference: The model with its weights, on the CPU.
        batch: One batch of its DataLoader.
        pieces: Inputs from the data for the verification, as ``in_pieces`` returns them.
        fresh: Builds the same module with other weights, unwrapped like ``inference.model``.
        code: Python code that builds this module as ``model``; ``None`` if its arguments include other than plain
            values.
        tokenizer: The tokenizer of a text model.
        preparation: The preprocessing of raw data, in Markdown; empty if unknown.
    """

    inference: Inference
    batch: Any
    pieces: list[tuple[Tensor, ...]]
    fresh: Callable[[], nn.Module]
    code: str | None = None
    tokenizer: Any = field(default=None, repr=False)
    preparation: str = ''

    @property
    def example(self) -> tuple[Tensor, ...]:
        """Example inputs with several samples, for exporters."""
        return max(self.pieces[:3], key=lambda piece: len(piece[0]))


class Target(abc.ABC):
    """A format of exported models."""

    name: ClassVar[str]
    """The name on the command line."""
    library: ClassVar[str] = 'pytorch'
    """The library that loads it, as named by the Hugging Face hub."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The packages that load it, in addition to torch."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages of the extra ``onnx`` that are needed to write and load it."""

    def check(self, student: Student) -> None:
        """Checks, before anything is written, that the model can be exported in this format.

        Raises:
            ConfigError: If the format does not support the model, or a package is missing.
        """
        require(*self.needs)

    @abc.abstractmethod
    def write(self, student: Student, folder: pathlib.Path) -> None:
        """Writes the files of the model to a folder."""

    @abc.abstractmethod
    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        """Loads the files as a model that shares no weights with the student."""

    @abc.abstractmethod
    def usage(self, student: Student, folder: pathlib.Path) -> str:
        """Returns code for the model card that loads the files from the working directory and computes logits."""


class Onnx(Target):
    """The file ``model.onnx``: a graph for ONNX Runtime, TensorRT, OpenVINO and others."""

    name = 'onnx'
    library = 'onnx'
    packages = ('onnxruntime',)
    needs = ('onnx', 'onnxscript', 'onnxruntime')
    file = 'model.onnx'

    @override
    def write(self, student: Student, folder: pathlib.Path) -> None:
        to_onnx(student.inference, student.example, folder / self.file, student.inference.input_names)

    @override
    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        session = self._session(folder)
        taken = [tensor.name for tensor in session.get_inputs()]
        names = student.inference.input_names

        def answer(*tensors: Tensor) -> Tensor:
            feed = {name: tensor.numpy() for name, tensor in zip(names, tensors) if name in taken}
            return torch.from_numpy(session.run([OUTPUT_NAME], feed)[0])

        return answer

    @override
    def usage(self, student: Student, folder: pathlib.Path) -> str:
        taken = [tensor.name for tensor in self._session(folder).get_inputs()]
        inputs = {n: t for n, t in zip(student.inference.input_names, student.example) if n in taken}
        feed = ', '.join(f'{name!r}: {name}' for name in inputs)
        return (
            'import numpy as np\nimport onnxruntime\n\n'
            f"session = onnxruntime.InferenceSession('{self.file}', providers=['CPUExecutionProvider'])\n"
            f'{as_numpy(inputs)}'
            f'logits = session.run([{OUTPUT_NAME!r}], {{{feed}}})[0]\n'
        )

    def _session(self, folder: pathlib.Path) -> Any:
        import onnxruntime

        return onnxruntime.InferenceSession(str(folder / self.file), providers=['CPUExecutionProvider'])


class TorchExport(Target):
    """The file ``model.pt2``: a graph that PyTorch runs without the model's code.

    AOTInductor and ExecuTorch compile it.
    """

    name = 'torch-export'
    file = 'model.pt2'

    @override
    def write(self, student: Student, folder: pathlib.Path) -> None:
        to_torch_export(student.inference, student.example, folder / self.file)

    @override
    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        with quiet():
            return torch.export.load(folder / self.file).module()

    @override
    def usage(self, student: Student, folder: pathlib.Path) -> str:
        inputs = dict(zip(student.inference.input_names, student.example))
        return (
            f"import torch\n\nmodel = torch.export.load('{self.file}').module()\n"
            f'{as_tensors(inputs)}logits = model({", ".join(inputs)})\n'
        )


class StateDict(Target):
    """The file ``student.pt``: the weights, under their names in the unwrapped module."""

    name = 'state-dict'
    file = 'student.pt'

    @override
    def write(self, student: Student, folder: pathlib.Path) -> None:
        weights = student_state_dict(student.inference.model)
        torch.save({key: value.detach().cpu() for key, value in weights.items()}, folder / self.file)

    @override
    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        """Loads the weights into a newly built module."""
        module = student.fresh()
        module.load_state_dict(torch.load(folder / self.file, map_location='cpu', weights_only=True), strict=True)
        return Inference(module, student.batch)

    @override
    def usage(self, student: Student, folder: pathlib.Path) -> str:
        inputs = dict(zip(student.inference.input_names, student.example))
        build = student.code or 'model = ...  # the module, built as the settings below say\n'
        return (
            f'import torch\n{build}'
            f"model.load_state_dict(torch.load('{self.file}', map_location='cpu', weights_only=True))\nmodel.eval()\n"
            f'{as_tensors(inputs)}logits = {call_of(student.inference, student.example)}\n'
        )


class HuggingFace(Target):
    """A folder for ``from_pretrained``: configuration, weights as safetensors, and the tokenizer of a text model."""

    name = 'huggingface'
    library = 'transformers'
    packages = ('transformers',)

    @override
    def check(self, student: Student) -> None:
        """Refuses models that the transformers library cannot build."""
        model = student.inference.model
        if not hasattr(model, 'save_pretrained') or not hasattr(type(model), 'from_pretrained'):
            raise ConfigError(
                f'expected a model of the transformers library, got {type(model).__name__}, which '
                'from_pretrained cannot build. Export it --to state-dict, onnx or torch-export; that folder, model '
                'card included, can go to the Hugging Face hub as it is'
            )

    @override
    def write(self, student: Student, folder: pathlib.Path) -> None:
        model: Any = student.inference.model
        model.save_pretrained(folder)
        if student.tokenizer is not None:
            student.tokenizer.save_pretrained(folder)

    @override
    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        kind: Any = type(student.inference.model)
        model, told = kind.from_pretrained(folder, output_loading_info=True)
        lost = [*told['missing_keys'], *told['unexpected_keys'], *told['mismatched_keys']]
        if lost:
            raise ConfigError(f'from_pretrained does not find all weights again: {lost[:10]}')
        return Inference(model, student.batch)

    @override
    def usage(self, student: Student, folder: pathlib.Path) -> str:
        kind = type(student.inference.model)
        inputs = dict(zip(student.inference.input_names, student.example))
        return (
            f'import torch\nfrom {_home(kind)} import {kind.__name__}\n\n'
            f"model = {kind.__name__}.from_pretrained('.')\n"
            f'{as_tensors(inputs)}logits = {call_of(student.inference, student.example)}\n'
        )


def _home(kind: type) -> str:
    """The module to import a class from: ``transformers``, or the user's own module."""
    return 'transformers' if kind.__module__.startswith('transformers.') else kind.__module__


TARGETS: dict[str, Target] = {target.name: target for target in (Onnx(), TorchExport(), HuggingFace(), StateDict())}
"""The formats by name."""
