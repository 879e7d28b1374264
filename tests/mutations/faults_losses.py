"""Losses at the edge of what they are given."""

from tests.mutations.mutation import Mutation

EXCLUDED = ('tests/losses/test_excluded_classes.py',)
MUTATIONS = [
    Mutation(
        'classes that are excluded by finfo.min give NaN in small batches',
        'composer_kd/losses/_common.py',
        'return logits.clamp(min=least_logit(temperature))',
        'return logits',
        EXCLUDED,
    ),
    Mutation(
        'and in large ones',
        'composer_kd/losses/_fused.py',
        'torch.clamp(logits, min=least, out=z)',
        'z.copy_(logits)',
        EXCLUDED,
    ),
    Mutation(
        'at low temperatures too',
        'composer_kd/losses/_common.py',
        'return -min(-LEAST_LOGIT, MOST_SCALED * temperature)',
        'return LEAST_LOGIT * 1e7',
        EXCLUDED,
    ),
    Mutation(
        'excluded classes count in mean and deviation of standardised logits',
        'composer_kd/losses/standardization.py',
        'exists = logits > EXCLUDED',
        'exists = logits > -1e37',
        EXCLUDED,
    ),
    Mutation(
        'a second derivative of a fused loss is 0',
        'composer_kd/losses/_once.py',
        'if not torch.is_grad_enabled():',
        'if True:',
        ('tests/losses/test_second_derivatives.py',),
    ),
    Mutation(
        'the mean distance of RKD leaves out equal samples',
        'composer_kd/losses/relation.py',
        'mean = distances.sum() / (samples * (samples - 1))',
        'mean = distances.sum() / (distances > 0).sum().clamp(min=1)',
        ('tests/losses/test_relation.py',),
    ),
    Mutation(
        'a key that the student has lost has no gradient in attention_kl',
        'composer_kd/losses/transformer.py',
        'logarithms = rows.clamp(min=torch.finfo(rows.dtype).tiny).log()',
        'logarithms = rows.clamp(min=EPS).log()',
        ('tests/losses/test_transformer.py',),
    ),
    Mutation(
        'the mean of an empty batch is NaN',
        'composer_kd/losses/_common.py',
        'return values.mean() if values.numel() else values.sum()',
        'return values.mean()',
        ('tests/losses/test_laws.py', 'tests/losses/test_pointwise.py'),
    ),
    Mutation(
        'the mean squared error of one is',
        'composer_kd/losses/_common.py',
        'return F.mse_loss(student, teacher) if student.numel() else student.sum()',
        'return F.mse_loss(student, teacher)',
        ('tests/losses/test_laws.py', 'tests/losses/test_pointwise.py'),
    ),
    Mutation(
        'logits without a class are divided by 0',
        'composer_kd/losses/kl.py',
        'if not student.ndim or not student.shape[softmax_dim]:',
        'if False:',
        ('tests/losses/test_common.py',),
    ),
    Mutation(
        'ULD of other lengths is an IndexError',
        'composer_kd/losses/pointwise.py',
        'if student.shape[:-1] != teacher.shape[:-1]:',
        'if False:',
        ('tests/losses/test_pointwise.py',),
    ),
    Mutation(
        'the kernel of correlation congruence is of embeddings of any length',
        'composer_kd/losses/congruence.py',
        'units = directions(embeddings)',
        'units = embeddings',
        ('tests/losses/test_congruence.py', 'tests/losses/test_laws.py'),
    ),
]
