"""The formats of an export: each writes a model, loads it back, and tells how others load it."""

from __future__ import annotations

import abc
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from composer_kd.deploy.formats import OUTPUT_NAME, quiet, require, to_onnx, to_torch_export
from composer_kd.deploy.inference import Inference
from composer_kd.deploy.snippets import as_numpy, as_tensors, call_of
from composer_kd.errors import ConfigError
from composer_kd.students import student_state_dict

__all__ = ['TARGETS', 'HuggingFace', 'Onnx', 'StateDict', 'Student', 'Target', 'TorchExport']


@dataclass(frozen=True)
class Student:
    """A trained model on its way out.

    Args:
        inference: The model with its weights, on the CPU.
        batch: One batch as its DataLoader makes them.
        pieces: Real inputs to check with, as ``in_pieces`` gives them.
        fresh: Builds the same module again, with other weights; bare, as ``inference.model`` is.
        code: Python that builds that module as ``model``; None where its settings are more than plain values.
        tokenizer: What belongs to it, if it reads text.
        preparation: How its inputs are made of raw data, in Markdown; empty where that is not known.
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
        """Some samples: exporters look at more than one."""
        return max(self.pieces[:3], key=lambda piece: len(piece[0]))


class Target(abc.ABC):
    """A format."""

    name: ClassVar[str]
    """What the command calls it."""
    library: ClassVar[str] = 'pytorch'
    """What Hugging Face calls the library that loads it."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What loads it, besides torch."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Packages of the extra ``onnx`` that writing and loading take."""

    def check(self, student: Student) -> None:
        """Says early what would fail late.

        Raises:
            ConfigError: If the model has no such form, or a package is missing.
        """
        require(*self.needs)

    @abc.abstractmethod
    def write(self, student: Student, folder: pathlib.Path) -> None:
        """Writes the files."""

    @abc.abstractmethod
    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        """Loads the files afresh: what is returned shares no weight with the student."""

    @abc.abstractmethod
    def usage(self, student: Student, folder: pathlib.Path) -> str:
        """Python that loads the files from the working directory and answers, for the model card."""


class Onnx(Target):
    """A graph for ONNX Runtime, TensorRT, OpenVINO and others."""

    name = 'onnx'
    library = 'onnx'
    packages = ('onnxruntime',)
    needs = ('onnx', 'onnxscript', 'onnxruntime')
    file = 'model.onnx'

    def write(self, student: Student, folder: pathlib.Path) -> None:
        """Writes ``model.onnx``."""
        to_onnx(student.inference, student.example, folder / self.file, student.inference.input_names)

    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        """Loads it into ONNX Runtime."""
        session = self._session(folder)
        taken = [tensor.name for tensor in session.get_inputs()]
        names = student.inference.input_names

        def answer(*tensors: Tensor) -> Tensor:
            feed = {name: tensor.numpy() for name, tensor in zip(names, tensors) if name in taken}
            return torch.from_numpy(session.run([OUTPUT_NAME], feed)[0])

        return answer

    def usage(self, student: Student, folder: pathlib.Path) -> str:
        """Loads it with ONNX Runtime."""
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
    """A graph that PyTorch runs without the model's code, and that AOTInductor and ExecuTorch compile."""

    name = 'torch-export'
    file = 'model.pt2'

    def write(self, student: Student, folder: pathlib.Path) -> None:
        """Writes ``model.pt2``."""
        to_torch_export(student.inference, student.example, folder / self.file)

    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        """Loads it with ``torch.export.load``."""
        with quiet():
            return torch.export.load(folder / self.file).module()

    def usage(self, student: Student, folder: pathlib.Path) -> str:
        """Loads it with ``torch.export.load``."""
        inputs = dict(zip(student.inference.input_names, student.example))
        return (
            f"import torch\n\nmodel = torch.export.load('{self.file}').module()\n"
            f'{as_tensors(inputs)}logits = model({", ".join(inputs)})\n'
        )


class StateDict(Target):
    """The weights alone, under the names that the bare module has for them."""

    name = 'state-dict'
    file = 'student.pt'

    def write(self, student: Student, folder: pathlib.Path) -> None:
        """Writes ``student.pt``."""
        weights = student_state_dict(student.inference.model)
        torch.save({key: value.detach().cpu() for key, value in weights.items()}, folder / self.file)

    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        """Loads it into a module built afresh."""
        module = student.fresh()
        module.load_state_dict(torch.load(folder / self.file, map_location='cpu', weights_only=True), strict=True)
        return Inference(module, student.batch)

    def usage(self, student: Student, folder: pathlib.Path) -> str:
        """Builds the module, and loads the weights into it."""
        inputs = dict(zip(student.inference.input_names, student.example))
        build = student.code or 'model = ...  # the module, built as the settings below say\n'
        return (
            f'import torch\n{build}'
            f"model.load_state_dict(torch.load('{self.file}', map_location='cpu', weights_only=True))\nmodel.eval()\n"
            f'{as_tensors(inputs)}logits = {call_of(student.inference, student.example)}\n'
        )


class HuggingFace(Target):
    """A folder for ``from_pretrained``."""

    name = 'huggingface'
    library = 'transformers'
    packages = ('transformers',)

    def check(self, student: Student) -> None:
        """Refuses models that the transformers library would not know how to build."""
        model = student.inference.model
        if not hasattr(model, 'save_pretrained') or not hasattr(type(model), 'from_pretrained'):
            raise ConfigError(
                f'expected a model of the transformers library, got {type(model).__name__}, which '
                'from_pretrained cannot build. Export it --to state-dict, onnx or torch-export; that folder, model '
                'card included, can go to the Hugging Face hub as it is'
            )

    def write(self, student: Student, folder: pathlib.Path) -> None:
        """Writes the configuration, the weights as safetensors, and the tokenizer if there is one."""
        model: Any = student.inference.model
        model.save_pretrained(folder)
        if student.tokenizer is not None:
            student.tokenizer.save_pretrained(folder)

    def load(self, student: Student, folder: pathlib.Path) -> Callable[..., Tensor]:
        """Loads it with ``from_pretrained``."""
        kind: Any = type(student.inference.model)
        model, told = kind.from_pretrained(folder, output_loading_info=True)
        lost = [*told['missing_keys'], *told['unexpected_keys'], *told['mismatched_keys']]
        if lost:
            raise ConfigError(f'from_pretrained does not find all weights again: {lost[:10]}')
        return Inference(model, student.batch)

    def usage(self, student: Student, folder: pathlib.Path) -> str:
        """Loads it with ``from_pretrained``."""
        kind = type(student.inference.model)
        inputs = dict(zip(student.inference.input_names, student.example))
        return (
            f'import torch\nfrom {_home(kind)} import {kind.__name__}\n\n'
            f"model = {kind.__name__}.from_pretrained('.')\n"
            f'{as_tensors(inputs)}logits = {call_of(student.inference, student.example)}\n'
        )


def _home(kind: type) -> str:
    """Where to import a class from: the library, or one's own module."""
    return 'transformers' if kind.__module__.startswith('transformers.') else kind.__module__


TARGETS: dict[str, Target] = {target.name: target for target in (Onnx(), TorchExport(), HuggingFace(), StateDict())}
"""The formats by name."""
