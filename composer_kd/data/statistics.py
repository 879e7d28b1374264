"""Means and standard deviations of the training images, one number per channel, for pixels from 0 to 1."""

from __future__ import annotations

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
]

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN = (0.5071, 0.4865, 0.4409)
CIFAR100_STD = (0.2673, 0.2564, 0.2762)
DIGITS_MEAN = (0.3057,)
DIGITS_STD = (0.3765,)
FASHION_MNIST_MEAN = (0.2860,)
FASHION_MNIST_STD = (0.3530,)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
