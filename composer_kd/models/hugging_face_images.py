"""Image classifiers of the transformers library, for batches of images and labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from typing_extensions import override

from composer_kd.models import text_metrics
from composer_kd.models.classifier import IndexedClassifier
from composer_kd.models.hugging_face import Attention
from composer_kd.models.hugging_face_build import build
from composer_kd.models.text_metrics import metrics_of

__all__ = ['HuggingFaceClassifier', 'hf_image_classifier']

_WITH_TEACHER = 'AutoModelForImageClassification', 'DeiTForImageClassificationWithTeacher'


class HuggingFaceClassifier(IndexedClassifier):
    """An image classifier of transformers, for batches ``(x, y)`` or ``(x, y, index)``.

    It answers with logits ``(B, num_classes)``. A DeiT with a distillation token answers with all that it has; its own
    loss is that of the class token's logits, ``cls_logits``, and it is evaluated by the mean of both tokens, ``logits``
    (Touvron et al., arXiv 2012.12877).

    Args:
        net: The model of transformers.
        metrics: Names of :data:`.text_metrics.CLASSES`; None for all.
    """

    def __init__(self, net: nn.Module, metrics: Sequence[str] | None = None) -> None:
        config: Any = net.config
        classes = int(config.num_labels)
        made = metrics_of(text_metrics.CLASSES, metrics, classes)
        super().__init__(
            _Images(net),
            num_classes=classes,
            train_metrics=text_metrics.CLASSES['accuracy'](classes),
            val_metrics=MetricCollection(made),
            loss_fn=_loss,
        )

    @override
    def eval_forward(self, batch: Any, outputs: Any = None) -> Tensor:
        found = self.forward(batch) if outputs is None else outputs
        return found if isinstance(found, Tensor) else found.logits


class _Images(nn.Module):
    """Calls a model of transformers with images alone."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Any:
        outputs = self.net(pixel_values=x, return_dict=True)
        return outputs if 'distillation_logits' in outputs else outputs.logits


def _loss(outputs: Any, targets: Tensor) -> Tensor:
    logits = outputs if isinstance(outputs, Tensor) else outputs.cls_logits
    return F.cross_entropy(logits, targets, ignore_index=text_metrics.IGNORE)


def hf_image_classifier(
    pretrained: str | None = None,
    num_labels: int | None = None,
    labels: Sequence[str] | None = None,
    distillation_token: bool = False,
    architecture: str | None = None,
    config: dict[str, Any] | None = None,
    attention: Attention | None = None,
    metrics: Sequence[str] | None = None,
) -> HuggingFaceClassifier:
    """Builds an image classifier of transformers (``AutoModelForImageClassification``), such as ViT, BEiT or Swin.

    Args:
        pretrained: As for :func:`.hf_classifier`.
        num_labels: The number of classes; None for that of ``labels`` or of the configuration.
        labels: The names of the classes in their order.
        distillation_token: Whether a DeiT has a token and a head for the teacher's answers: compare the teacher with
            it by ``on: [outputs.distillation_logits, outputs]``.
        architecture: As for :func:`.hf_classifier`.
        config: As for :func:`.hf_classifier`.
        attention: As for :func:`.hf_classifier`.
        metrics: Some of ``accuracy``, ``f1``, ``mcc`` and ``cross_entropy``; None for all.

    Returns:
        The model, for batches ``(x, y)`` of images ``(B, C, H, W)``, normalised as the data set does it.

    Raises:
        ConfigError: As for :func:`.hf_classifier`.

    Example:
        >>> import torch
        >>> sizes = {'hidden_size': 8, 'num_hidden_layers': 1, 'num_attention_heads': 2, 'intermediate_size': 8}
        >>> model = hf_image_classifier(architecture='vit', config={**sizes, 'image_size': 32}, num_labels=10)
        >>> model((torch.zeros(2, 3, 32, 32), torch.zeros(2))).shape
        torch.Size([2, 10])
    """
    count = len(labels) if labels is not None else num_labels
    own = {} if count is None else {'num_labels': count}
    auto = _WITH_TEACHER[distillation_token]
    built = build(auto, pretrained, architecture, config, attention, own, labels)
    model = HuggingFaceClassifier(built.model, metrics)
    model.initialized = {f'net.{name}': value for name, value in built.initialized.items()}
    return model
