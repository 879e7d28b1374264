"""Data sets of images and of texts.

A sample of images is ``(x, y)``: a normalised float image ``(C, H, W)`` and its class as an integer. A plain
``DataLoader`` collates these to ``(B, C, H, W)`` and ``(B,)``. A sample of texts is a mapping with ``input_ids``,
``attention_mask`` and ``labels``; those of one length are collated as they are, for others the data set has a
``collate_fn`` that pads. Each data set of classes has the
attributes ``num_classes`` and ``targets``. A sample without a label has the target ``UNLABELLED``, -100.
"""

from composer_kd.data.aligned import AlignedTexts, aligned_text
from composer_kd.data.docstrings import docstrings
from composer_kd.data.folder import image_folder
from composer_kd.data.glue import glue
from composer_kd.data.handwritten import digits
from composer_kd.data.held_out import HeldOut
from composer_kd.data.image_tensors import ImageTensors
from composer_kd.data.indexed import Indexed, IndexedSamples
from composer_kd.data.pairs import TextPairs, text_pairs
from composer_kd.data.partly_labelled import UNLABELLED, PartlyLabelled
from composer_kd.data.repeated import RepeatingSampler
from composer_kd.data.sentences import sentences
from composer_kd.data.small_images import cifar10, cifar100, fashion_mnist
from composer_kd.data.statistics import (
    CIFAR10_MEAN,
    CIFAR10_STD,
    CIFAR100_MEAN,
    CIFAR100_STD,
    DIGITS_MEAN,
    DIGITS_STD,
    FASHION_MNIST_MEAN,
    FASHION_MNIST_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
)
from composer_kd.data.text import TextBlocks, text
from composer_kd.data.tokens import Tokenized
from composer_kd.data.view_index import ViewIndex
from composer_kd.data.view_sampler import ViewSampler
from composer_kd.data.views import SeededViews

__all__ = [
    'CIFAR100_MEAN',
    'CIFAR100_STD',
    'CIFAR10_MEAN',
    'CIFAR10_STD',
    'DIGITS_MEAN',
    'DIGITS_STD',
    'FASHION_MNIST_MEAN',
    'FASHION_MNIST_STD',
    'IMAGENET_MEAN',
    'IMAGENET_STD',
    'UNLABELLED',
    'AlignedTexts',
    'HeldOut',
    'ImageTensors',
    'Indexed',
    'IndexedSamples',
    'PartlyLabelled',
    'RepeatingSampler',
    'SeededViews',
    'TextBlocks',
    'TextPairs',
    'Tokenized',
    'ViewIndex',
    'ViewSampler',
    'aligned_text',
    'cifar10',
    'cifar100',
    'digits',
    'docstrings',
    'fashion_mnist',
    'glue',
    'image_folder',
    'sentences',
    'text',
    'text_pairs',
]
