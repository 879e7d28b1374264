"""Losses on features, attention and values, and those on features that learn; references in numpy with plain loops."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from composer_kd import losses
from tests.losses.cases import Case


def normal(student_shape, teacher_shape=None):
    """From a seed to features of these shapes."""

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        shapes = (student_shape, teacher_shape or student_shape)
        return *(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes), {}

    return draw


def levels(student_shapes, teacher_shapes):
    """From a seed to a list of features on each side."""

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return *(
            [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
            for shapes in (student_shapes, teacher_shapes)
        ), {}

    return draw


MASK = torch.tensor([[True, True, True, True], [True, True, False, False], [False, True, True, False]])
"""Three samples of four tokens, padded on the right or on both sides."""


def attention(seed):
    """Probabilities (3, 2, 4, 4), rows over keys, which give the padded ones something too."""
    student, teacher, _ = normal((3, 2, 4, 4))(seed)
    return student.softmax(-1), teacher.softmax(-1), {'mask': MASK}


def values(seed):
    """Values (3, 4, 6) of a student and (3, 4, 10) of a teacher."""
    student, teacher, _ = normal((3, 4, 6), (3, 4, 10))(seed)
    return student, teacher, {'mask': MASK}


def kl(p, q):
    """Of two distributions given as sequences."""
    return sum(a * np.log(a / b) for a, b in zip(p, q))


def softmax(row):
    shifted = np.exp(np.asarray(row) - np.max(row))
    return shifted / shifted.sum()


def hint(student, teacher):
    errors = [(s - t) ** 2 for s, t in zip(student.flat, teacher.flat)]
    return sum(errors) / len(errors)


def pool(image, height, width):
    """Adaptive average pooling of the last two dimensions, cell by cell."""
    rows, columns = image.shape[-2:]
    pooled = np.zeros((*image.shape[:-2], height, width))
    for i in range(height):
        for j in range(width):
            top, bottom = i * rows // height, -(-(i + 1) * rows // height)
            left, right = j * columns // width, -(-(j + 1) * columns // width)
            pooled[..., i, j] = image[..., top:bottom, left:right].mean((-2, -1))
    return pooled


def attention_transfer(student, teacher):
    height, width = (min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:]))
    total = 0.0
    for s, t in zip(student, teacher):
        maps = []
        for image in (s, t):
            activity = pool(sum(channel**2 for channel in image) / len(image), height, width)
            maps.append(activity / np.sqrt((activity**2).sum()))
        total += ((maps[0] - maps[1]) ** 2).sum()
    return total / (len(student) * height * width)


def channel_wise_kl(student, teacher, temperature=4.0):
    divergences = [
        kl(softmax(teacher[b, c].ravel() / temperature), softmax(student[b, c].ravel() / temperature))
        for b in range(student.shape[0])
        for c in range(student.shape[1])
    ]
    return temperature**2 * np.mean(divergences)


def normalized_mse(student, teacher):
    """By the cosine: the squared distance of unit vectors is 2 - 2 cos."""
    pairs = list(zip(student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])))
    return np.mean([2 - 2 * s @ t / np.sqrt((s @ s) * (t @ t)) for s, t in pairs])


def attention_mse(student, teacher, mask):
    """Over the keys of each query, then over the queries of all samples."""
    by_query = []
    for b, valid in enumerate(mask):
        for h in range(student.shape[1]):
            for q in np.flatnonzero(valid):
                errors = [(student[b, h, q, k] - teacher[b, h, q, k]) ** 2 for k in np.flatnonzero(valid)]
                by_query.append(sum(errors) / len(errors))
    return np.mean(by_query)


def attention_kl(student, teacher, mask):
    divergences = []
    for b, valid in enumerate(mask):
        for h in range(student.shape[1]):
            for q in np.flatnonzero(valid):
                s, t = student[b, h, q, valid], teacher[b, h, q, valid]
                divergences.append(kl(t / t.sum(), s / s.sum()))
    return np.mean(divergences)


def value_relation_kl(student, teacher, mask, heads=2):
    divergences = []
    for b, valid in enumerate(mask):
        for h in range(heads):
            relations = []
            for side in (student, teacher):
                size = side.shape[2] // heads
                own = side[b, valid, h * size : (h + 1) * size]
                relations.append([softmax([q @ k / np.sqrt(size) for k in own]) for q in own])
            divergences += [kl(t, s) for s, t in zip(*relations)]
    return np.mean(divergences)


def parameters(module):
    return {name: parameter.detach().double().numpy() for name, parameter in module.named_parameters()}


def vid(module):
    """The negative log-likelihood, position by position, from the module's own parameters."""

    def reference(student, teacher):
        own = parameters(module)
        variance = np.log1p(np.exp(own['raw'])) + module.eps
        height, width = (min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:]))
        student, teacher = pool(student, height, width), pool(teacher, height, width)
        terms = []
        for b, i, j in np.ndindex(len(student), height, width):
            hidden = student[b, :, i, j]
            for layer in (0, 2):
                hidden = np.maximum(own[f'regressor.{layer}.weight'] @ hidden, 0)
            mean = own['regressor.4.weight'] @ hidden
            for c, t in enumerate(teacher[b, :, i, j]):
                terms.append(0.5 * ((mean[c] - t) ** 2 / variance[c] + np.log(variance[c])))
        return np.mean(terms)

    return reference


def convolution(maps, weight, bias=None):
    """Zero-padded, as a sum over the kernel's hooks."""
    size = weight.shape[-1]
    padded = np.pad(maps, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))
    height, width = maps.shape[2:]
    out = sum(
        np.einsum('oc,bchw->bohw', weight[:, :, i, j], padded[:, :, i : i + height, j : j + width])
        for i in range(size)
        for j in range(size)
    )
    return out if bias is None else out + bias[None, :, None, None]


def batch_norm(maps, weight, bias):
    out = np.empty_like(maps)
    for c in range(maps.shape[1]):
        channel = maps[:, c]
        out[:, c] = weight[c] * (channel - channel.mean()) / np.sqrt(channel.var() + 1e-5) + bias[c]
    return out


def nearest(maps, height, width):
    rows = [i * maps.shape[2] // height for i in range(height)]
    columns = [j * maps.shape[3] // width for j in range(width)]
    return maps[:, :, rows][:, :, :, columns]


def hierarchical_context(student, teacher):
    """Over all pools that are smaller than the map; weights 1, 1/2, 1/4, 1/8."""
    errors, weights = [((student - teacher) ** 2).mean()], [1.0]
    for size in (4, 2, 1):
        if size < max(student.shape[2:]):
            errors.append(((pool(student, size, size) - pool(teacher, size, size)) ** 2).mean())
            weights.append(weights[-1] / 2)
    return np.dot(errors, weights) / sum(weights)


def review(module):
    """Level by level from the deepest, from the module's own parameters."""

    def reference(student, teacher):
        own, total, deeper = parameters(module), 0.0, None
        for level in reversed(range(len(student))):

            def norm(maps, which, level=level):
                name = f'fusions.{level}.{which}'
                maps = convolution(maps, own[f'{name}.0.weight'])
                return batch_norm(maps, own[f'{name}.1.weight'], own[f'{name}.1.bias'])

            maps, target = (x.reshape(*x.shape, *(1,) * (4 - x.ndim)) for x in (student[level], teacher[level]))
            fused = norm(maps, 'reduce')
            if deeper is not None:
                deeper = nearest(deeper, *fused.shape[2:])
                name = f'fusions.{level}.attention'
                scores = convolution(np.concatenate([fused, deeper], 1), own[f'{name}.weight'], own[f'{name}.bias'])
                shares = 1 / (1 + np.exp(-scores))
                fused = fused * shares[:, [0]] + deeper * shares[:, [1]]
            deeper = nearest(fused, *target.shape[2:])
            total += hierarchical_context(norm(deeper, 'expand'), target)
        return total

    return reference


def nst(student, teacher):
    """As the distance of mean outer products, a form without the three sums of kernels; pooled by loops."""
    height, width = (min(student.shape[d], teacher.shape[d]) for d in (2, 3))

    def mean_product(maps):
        patterns = [pool(channel, height, width).flatten() for channel in maps]
        return np.mean([np.outer(p, p) / (p @ p) for p in patterns], axis=0)

    return np.mean([((mean_product(s) - mean_product(t)) ** 2).sum() for s, t in zip(student, teacher)])


def bilinear(grid, height, width):
    """Linear interpolation between the centres of cells, flat outside of them; no smaller than the grid."""
    rows, columns = grid.shape
    found = np.empty((height, width))
    for i in range(height):
        for j in range(width):
            y, x = (max((k + 0.5) * n / m - 0.5, 0.0) for k, n, m in ((i, rows, height), (j, columns, width)))
            (top, left), (down, right) = (int(y), int(x)), (min(int(y) + 1, rows - 1), min(int(x) + 1, columns - 1))
            v, h = y - top, x - left
            above = (1 - h) * grid[top, left] + h * grid[top, right]
            below = (1 - h) * grid[down, left] + h * grid[down, right]
            found[i, j] = (1 - v) * above + v * below
    return found


def sad(student, teacher):
    height, width = (max(student.shape[d], teacher.shape[d]) for d in (2, 3))

    def attention_of(maps):
        grid = np.exp(bilinear((maps**2).sum(0), height, width))
        return grid / grid.sum()

    return np.mean([((attention_of(s) - attention_of(t)) ** 2).sum() for s, t in zip(student, teacher)])


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build()


VID = seeded(lambda: losses.VID(student_channels=3, teacher_channels=4))
REVIEW = seeded(lambda: losses.ReviewKD(student_channels=[1, 2, 2], teacher_channels=[2, 1, 3]))
LEVELS = levels([(3, 1, 3, 4), (3, 2, 2, 2), (3, 2)], [(3, 2, 4, 6), (3, 1, 3, 3), (3, 3)])

CASES: dict[str, Case] = {
    'hint': Case(losses.hint, normal((3, 2, 2, 4)), hint),
    'attention_transfer': Case(losses.attention_transfer, normal((3, 2, 5, 4), (3, 3, 3, 5)), attention_transfer),
    'channel_wise_kl': Case(losses.channel_wise_kl, normal((3, 2, 3, 4)), channel_wise_kl),
    'ChannelWiseKL': Case(losses.ChannelWiseKL(2.0), normal((3, 2, 3, 4)), partial(channel_wise_kl, temperature=2.0)),
    'nst': Case(losses.nst, normal((3, 2, 4, 3), (3, 4, 3, 5)), nst),
    'sad': Case(losses.sad, normal((3, 2, 5, 3), (3, 3, 3, 4)), sad),
    'normalized_mse': Case(losses.normalized_mse, normal((3, 4, 5)), normalized_mse),
    'FirstToken': Case(
        losses.FirstToken(losses.normalized_mse), normal((3, 4, 5)), lambda s, t: normalized_mse(s[:, :1], t[:, :1])
    ),
    'attention_mse': Case(losses.attention_mse, attention, attention_mse),
    'attention_kl': Case(losses.attention_kl, attention, attention_kl),
    'value_relation_kl': Case(partial(losses.value_relation_kl, heads=2), values, value_relation_kl),
    'ValueRelationKL': Case(losses.ValueRelationKL(heads=2), values, value_relation_kl),
    'VID': Case(VID, normal((2, 3, 4, 3), (2, 4, 3, 4)), vid(VID), zero_at_equality=False, minimum_at_equality=False),
    # constant maps: each of its BatchNorms multiplies a gradient by 316
    'ReviewKD': Case(REVIEW, LEVELS, review(REVIEW), zero_at_equality=False, minimum_at_equality=False, steep=1e6),
}
