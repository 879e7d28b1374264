"""Image models, which map batches of images ``(B, C, H, W)`` to logits ``(B, num_classes)``.

Each model is a plain ``torch.nn.Module`` with the attribute ``num_classes``, independent of distillation.
``IndexedClassifier`` wraps a model for Composer when the batches also contain the index of each sample. The functions
``hf_...`` make models of the transformers library, for Composer as they are.
"""

from composer_kd.models.adapters import merged
from composer_kd.models.classifier import IndexedClassifier
from composer_kd.models.cnn import DeepCNN, ShallowCNN
from composer_kd.models.hugging_face import hf_causal_lm, hf_classifier, hf_masked_lm, hf_seq2seq
from composer_kd.models.hugging_face_images import hf_image_classifier
from composer_kd.models.imagenet import resnet18, resnet34, resnet50, torchvision_model
from composer_kd.models.resnet import CifarResNet, resnet20, resnet32, resnet44, resnet56, resnet110
from composer_kd.models.rnn import ImageRNN
from composer_kd.models.sentence_encoder import SentenceEncoder, hf_encoder

__all__ = [
    'CifarResNet',
    'DeepCNN',
    'ImageRNN',
    'IndexedClassifier',
    'SentenceEncoder',
    'ShallowCNN',
    'hf_causal_lm',
    'hf_classifier',
    'hf_encoder',
    'hf_image_classifier',
    'hf_masked_lm',
    'hf_seq2seq',
    'merged',
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
