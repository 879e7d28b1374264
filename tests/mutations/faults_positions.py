"""Which positions count."""

from tests.mutations.mutation import Mutation

MUTATIONS = [
    Mutation(
        'class 156 of labels in uint8 is taken for -100',
        'composer_kd/batches/masks.py',
        'return labels if labels.dtype.is_signed else labels.long()',
        'return labels',
        ('tests/batches/test_masks.py',),
    ),
]
