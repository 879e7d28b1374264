"""Losses on logits, each next to the same thing in numpy and scipy, row by row."""

from dataclasses import replace

import numpy as np
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from composer_kd import losses
from tests.losses.cases import Case


def rows(student, teacher, temperature=1.0):
    """Pairs of probabilities."""
    student, teacher = (x.reshape(-1, x.shape[-1]) / temperature for x in (student, teacher))
    return [(softmax(s), softmax(t)) for s, t in zip(student, teacher)]


def kl(student, teacher, temperature=4.0, mask=None):
    pairs = rows(student, teacher, temperature)
    kept = [pair for i, pair in enumerate(pairs) if mask is None or mask.flat[i]]
    return temperature**2 * np.mean([entropy(t, s) for s, t in kept])


def reverse(student, teacher, temperature=1.0):
    return temperature**2 * np.mean([entropy(s, t) for s, t in rows(student, teacher, temperature)])


def jsd(student, teacher, beta=0.5, temperature=1.0):
    """By entropies alone: H(m) - beta H(t) - (1 - beta) H(s)."""
    values = []
    for s, t in rows(student, teacher, temperature):
        values.append(entropy(beta * t + (1 - beta) * s) - beta * entropy(t) - (1 - beta) * entropy(s))
    return temperature**2 * np.mean(values)


def skewed(student, teacher, alpha=0.1, temperature=1.0):
    return temperature**2 * np.mean(
        [entropy(t, alpha * t + (1 - alpha) * s) for s, t in rows(student, teacher, temperature)]
    )


def skewed_reverse(student, teacher, alpha=0.1, temperature=1.0):
    return skewed(teacher, student, alpha, temperature)


def alpha_beta(student, teacher, alpha=0.2, beta=0.7, temperature=1.0):
    """By quadrature: the integral of the derivative along the path from the teacher's logarithms to the student's."""
    values = []
    for q, p in rows(student, teacher, temperature):
        way, total = np.log(q) - np.log(p), 0.0
        for node, weight in zip(*np.polynomial.legendre.leggauss(60)):
            here = np.exp(np.log(p) + (node + 1) / 2 * way)
            slope = here**beta * (np.log(here / p) if alpha == 0 else (here**alpha - p**alpha) / alpha)
            total += weight / 2 * np.sum(slope * way)
        values.append(total)
    return temperature**2 * np.mean(values)


def variation(student, teacher, temperature=1.0):
    return np.mean([np.maximum(s - t, 0.0).sum() for s, t in rows(student, teacher, temperature)])


def adaptive(student, teacher, head=0.5, temperature=1.0):
    values = []
    for s, t in rows(student, teacher, temperature):
        order = np.argsort(-t)
        size = next(n for n in range(1, len(t) + 1) if t[order[:n]].sum() >= head)
        gaps = abs(s - t)
        share = gaps[order[:size]].sum() / gaps.sum()
        values.append(share * entropy(t, s) + (1 - share) * entropy(s, t))
    return temperature**2 * np.mean(values)


def soft_cross_entropy(student, teacher, temperature=1.0):
    values = [entropy(t) + entropy(t, s) for s, t in rows(student, teacher, temperature)]
    return temperature**2 * np.mean(values)


def hard_label(student, teacher):
    return np.mean([-log_softmax(s)[list(t).index(max(t))] for s, t in zip(student, teacher)])


def cosine(student, teacher):
    angles = [np.arctan2(np.sqrt(max(0, s @ s * (t @ t) - (s @ t) ** 2)), s @ t) for s, t in zip(student, teacher)]
    return np.mean([1 - np.cos(angle) for angle in angles])


def universal(student, teacher, temperature=1.0, mask=None):
    total, student, teacher = 0.0, student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
    if mask is not None:
        student, teacher = student[mask.flatten()], teacher[mask.flatten()]
    for s, t in zip(student, teacher):
        s, t = sorted(softmax(s / temperature)), sorted(softmax(t / temperature))
        while len(s) != len(t):
            shorter = s if len(s) < len(t) else t
            shorter.insert(0, 0.0)
        total += sum(abs(a - b) for a, b in zip(s, t))
    return total / len(student)


def class_of(t, label):
    return int(np.argmax(t)) if label == -100 else int(label)


def dkd(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    total = 0.0
    for (s, t), label in zip(rows(student, teacher, temperature), labels):
        y = class_of(t, label)
        others = [c for c in range(len(s)) if c != y]
        total += alpha * entropy([t[y], t[others].sum()], [s[y], s[others].sum()])
        total += beta * entropy(t[others], s[others])  # scipy normalises both
    return temperature**2 * total / len(labels)


def nkd(student, teacher, labels, gamma=1.5, temperature=1.0):
    total = 0.0
    for s, t, label in zip(student, teacher, labels):
        y = class_of(t, label)
        total -= softmax(t)[y] * log_softmax(s)[y]
        p_t, log_p_s = softmax(np.delete(t, y) / temperature), log_softmax(np.delete(s, y) / temperature)
        total -= gamma * temperature**2 * sum(p_t * log_p_s)
    return total / len(labels)


def dist(student, teacher, beta=1.0, gamma=1.0, temperature=1.0):
    pairs = rows(student, teacher, temperature)
    s, t = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    between_classes = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t)])
    between_samples = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T)])
    return temperature**2 * (beta * between_classes + gamma * between_samples)


def z_scores(logits):
    return np.array([(row - np.mean(row)) / (np.std(row, ddof=1) + 1e-7) for row in logits])


def standardized_kl(student, teacher):
    return kl(z_scores(student), z_scores(teacher), 2.0)


def with_labels(seed):
    """One sample in six has no label."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(5, (6,), generator=generator)
    labels[seed % 6] = -100
    return student, teacher, {'labels': labels}


def with_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(2, 4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    return student, teacher, {'mask': torch.tensor([[True, True, True, False], [True, False, False, False]])}


NO_DIVERGENCE = {'zero_at_equality': False, 'minimum_at_equality': False}
OF_ANY_NUMBERS = {'mse', 'cosine'}  # no softmax: all other losses leave excluded classes out

CASES = {
    'kl_divergence': Case(losses.kl_divergence, with_mask, kl),
    'KLDivergence': Case(losses.KLDivergence(2.0), reference=lambda s, t: kl(s, t, 2.0)),
    'reverse_kl': Case(losses.reverse_kl, reference=reverse),
    'ReverseKL': Case(losses.ReverseKL(3.0), reference=lambda s, t: reverse(s, t, 3.0)),
    'generalized_jsd': Case(losses.generalized_jsd, reference=jsd),
    'GeneralizedJSD': Case(losses.GeneralizedJSD(0.1, 2.0), reference=lambda s, t: jsd(s, t, 0.1, 2.0)),
    'skewed_kl': Case(losses.skewed_kl, reference=skewed),
    'SkewedKL': Case(losses.SkewedKL(0.4, 2.0), reference=lambda s, t: skewed(s, t, 0.4, 2.0)),
    'skewed_reverse_kl': Case(losses.skewed_reverse_kl, reference=skewed_reverse),
    'SkewedReverseKL': Case(losses.SkewedReverseKL(0.4, 2.0), reference=lambda s, t: skewed_reverse(s, t, 0.4, 2.0)),
    'alpha_beta_divergence': Case(losses.alpha_beta_divergence, reference=alpha_beta),
    'AlphaBetaDivergence': Case(
        losses.AlphaBetaDivergence(1.5, 0.0, 2.0), reference=lambda s, t: alpha_beta(s, t, 1.5, 0.0, 2.0)
    ),
    'total_variation': Case(losses.total_variation, reference=variation),
    'TotalVariation': Case(losses.TotalVariation(2.0), reference=lambda s, t: variation(s, t, 2.0)),
    'adaptive_kl': Case(losses.adaptive_kl, reference=adaptive, gradcheck=False),  # its shares are constants
    'AdaptiveKL': Case(losses.AdaptiveKL(0.8, 2.0), reference=lambda s, t: adaptive(s, t, 0.8, 2.0), gradcheck=False),
    'MultiTemperature': Case(
        losses.MultiTemperature(losses.ReverseKL(), (1.0, 3.0), (3.0, 1.0)),
        reference=lambda s, t: 0.75 * reverse(s, t) + 0.25 * reverse(s, t, 3.0),
    ),
    'soft_cross_entropy': Case(losses.soft_cross_entropy, reference=soft_cross_entropy, zero_at_equality=False),
    'SoftCrossEntropy': Case(
        losses.SoftCrossEntropy(3.0), reference=lambda s, t: soft_cross_entropy(s, t, 3.0), zero_at_equality=False
    ),
    'hard_label': Case(losses.hard_label, reference=hard_label, **NO_DIVERGENCE),
    'mse': Case(losses.mse, reference=lambda s, t: sum((a - b) ** 2 for a, b in zip(s.flat, t.flat)) / s.size),
    'cosine': Case(losses.cosine, reference=cosine),
    'universal_logit': Case(losses.universal_logit, with_mask, universal),
    'UniversalLogit': Case(losses.UniversalLogit(2.0), reference=lambda s, t: universal(s, t, 2.0)),
    'dkd': Case(losses.dkd, with_labels, dkd),
    'DKD': Case(losses.DKD(2.0, 3.0, 1.5), with_labels, lambda s, t, labels: dkd(s, t, labels, 2.0, 3.0, 1.5)),
    'nkd': Case(losses.nkd, with_labels, nkd, **NO_DIVERGENCE),
    'NKD': Case(losses.NKD(0.5, 2.0), with_labels, lambda s, t, labels: nkd(s, t, labels, 0.5, 2.0), **NO_DIVERGENCE),
    'dist': Case(losses.dist, reference=dist),
    'DIST': Case(losses.DIST(2.0, 0.5, 4.0), reference=lambda s, t: dist(s, t, 2.0, 0.5, 4.0)),
    'LogitStandardization': Case(losses.LogitStandardization(), reference=standardized_kl),
}
CASES = {name: replace(case, classes=name not in OF_ANY_NUMBERS) for name, case in CASES.items()}
