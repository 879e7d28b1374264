"""Image models: batches of images ``(B, C, H, W)`` in, logits ``(B, num_classes)`` out, nothing else.

Every model is a plain ``torch.nn.Module`` with the attribute ``num_classes``; none of them knows of
distillation. ``IndexedClassifier`` wraps one for Composer, where batches also tell the index of their samples.
"""

from composer_kd.models.classifier import IndexedClassifier
from composer_kd.models.cnn import DeepCNN, ShallowCNN
from composer_kd.models.imagenet import resnet18, resnet34, resnet50, torchvision_model
from composer_kd.models.resnet import CifarResNet, resnet20, resnet32, resnet44, resnet56, resnet110
from composer_kd.models.rnn import ImageRNN

__all__ = [
    'CifarResNet',
    'DeepCNN',
    'ImageRNN',
    'IndexedClassifier',
    'ShallowCNN',
    'resnet18',
    'resnet20',
    'resnet32',
    'resnet34',
    'resnet44',
    'resnet50',
    'resnet56',
    'resnet110',
    'torchvision_model',
]
