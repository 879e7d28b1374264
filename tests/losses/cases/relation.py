"""Losses on relations between samples, each next to the same thing in plain loops."""

import itertools
import math

import numpy as np
import torch

from composer_kd import losses
from tests.losses.cases import Case


def drawn(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def maps(seed):
    """Whole feature maps that agree in the batch alone."""
    student, teacher = drawn(seed, (5, 3, 2, 4), (5, 4, 3, 3))
    return student, teacher, {}


def tokens(seed):
    student, teacher = drawn(seed, (6, 3, 5), (6, 2, 4))
    return student, teacher, {}


def pairs_of_layers(seed):
    """Three layers; sizes halve once by a whole number, once not; the teacher's maps are larger."""
    student = drawn(seed, (2, 2, 4, 4), (2, 3, 2, 2), (2, 2, 2, 2))
    teacher = drawn(seed + 100, (2, 2, 5, 4), (2, 3, 3, 4), (2, 2, 2, 2))
    return student, teacher, {}


def indexed(seed):
    student, teacher = drawn(seed, (4, 6), (4, 5))
    return student, teacher, {'index': torch.tensor([7, 0, 19, 8])}


def similarity_preserving(student, teacher):
    def rows(side):
        gram = [[np.sum(a * b) for b in side] for a in side]
        return [[value / math.sqrt(sum(v * v for v in row)) for value in row] for row in gram]

    one, other = rows(student), rows(teacher)
    batch = len(student)
    return sum((one[i][j] - other[i][j]) ** 2 for i in range(batch) for j in range(batch)) / batch**2


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def angle(at, one, other):
    """The cosine by the law of cosines, as no inner product is needed."""
    a, b, c = math.dist(at, one), math.dist(at, other), math.dist(one, other)
    return 0.0 if a == 0 or b == 0 else (a * a + b * b - c * c) / (2 * a * b)


def rkd(student, teacher, distance=25.0, angles=50.0):
    student, teacher = (side.mean(1) if side.ndim == 3 else side for side in (student, teacher))

    def distances(side):
        found = {(i, j): math.dist(a, b) for (i, a), (j, b) in itertools.product(enumerate(side), repeat=2)}
        distinct = [value for (i, j), value in found.items() if i != j]  # equation 6: all pairs of two samples
        return {pair: value * len(distinct) / math.fsum(distinct) for pair, value in found.items()}

    n, ours, theirs = len(student), distances(student), distances(teacher)
    first = sum(huber(ours[pair] - theirs[pair]) for pair in ours) / n**2
    second = sum(
        huber(angle(*(student[m] for m in triplet)) - angle(*(teacher[m] for m in triplet)))
        for triplet in itertools.product(range(n), repeat=3)
    )
    return distance * first + angles * second / n**3


def correlation_congruence(student, teacher):
    total = 0.0
    for i in range(len(student) - 1):
        for c in range(student.shape[1]):
            total += abs(student[i, c] - teacher[i, c]) * abs(student[i + 1, c] - teacher[i + 1, c])
    return total / (len(student) - 1)


def kernel_congruence(student, teacher, gamma=0.4, order=2):
    """The Taylor series of exp(2 gamma x.y), pair by pair, with cosines for the products of unit vectors."""
    student, teacher = (side.mean(1) if side.ndim == 3 else side for side in (student, teacher))

    def kernel(x, y):
        product = x @ y / math.sqrt(x @ x) / math.sqrt(y @ y)
        terms = [(2 * gamma * product) ** p / math.factorial(p) for p in range(order + 1)]
        return math.exp(-gamma) ** 2 * math.fsum(terms)

    batch = range(len(student))
    apart = [kernel(student[i], student[j]) - kernel(teacher[i], teacher[j]) for i in batch for j in batch]
    return sum(d * d for d in apart) / len(apart)


def pkt(student, teacher):
    student, teacher = (side.mean(1) if side.ndim == 3 else side for side in (student, teacher))

    def distributions(side):
        table = []
        for a in side:
            row = [(1 + a @ b / math.sqrt(a @ a) / math.sqrt(b @ b)) / 2 for b in side]
            table.append([value / sum(row) for value in row])
        return table

    pairs = [pair for rows in zip(distributions(student), distributions(teacher)) for pair in zip(*rows)]
    return sum(t * (math.log(t + 1e-7) - math.log(s + 1e-7)) for s, t in pairs) / len(pairs)


def windows(size, smaller):
    """Where each adaptive window begins and ends."""
    return [(i * size // smaller, -(-(i + 1) * size // smaller)) for i in range(smaller)]


def shrunk(features, height, width):
    rows, columns = windows(features.shape[1], height), windows(features.shape[2], width)
    return [[[channel[a:b, c:d].max() for c, d in columns] for a, b in rows] for channel in features]


def fsp(student, teacher):
    def flow(before, after):
        height, width = (min(before.shape[d], after.shape[d]) for d in (1, 2))
        before, after = shrunk(before, height, width), shrunk(after, height, width)
        places = list(itertools.product(range(height), range(width)))
        return [sum(f[h][w] * g[h][w] for h, w in places) / len(places) for f in before for g in after]

    values = []
    for layer in range(len(student) - 1):
        squares = []
        for sample in range(len(student[0])):
            ours = flow(student[layer][sample], student[layer + 1][sample])
            theirs = flow(teacher[layer][sample], teacher[layer + 1][sample])
            squares += [(a - b) ** 2 for a, b in zip(ours, theirs)]
        values.append(sum(squares) / len(squares))
    return sum(values) / len(values)


def splitmix(number):
    """The generator's published output function, in Python's own integers."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % 2**64
    return number ^ (number >> 31)


def others(index, count, size, time):
    start = splitmix((splitmix(time + 0x5EED) + index) % 2**64)
    draws = [splitmix((start + k * 0x9E3779B97F4A7C15) % 2**64) % 2**63 for k in range(1, count + 1)]
    return [[other for other in range(size) if other != index][draw % (size - 1)] for draw in draws]


with torch.random.fork_rng(devices=[]):
    torch.manual_seed(5)
    CRD = losses.CRD(20, 6, 5, dim=8, negatives=7, temperature=0.3).double()


def crd(student, teacher, index):
    """As the paper has it: probabilities, their ratio to the noise, logarithms."""
    n, count, tau = CRD.n_samples, CRD.negatives, CRD.temperature
    z = n * math.exp(1 / (2 * CRD.dim * tau**2))

    def h(anchor, remembered):
        p = math.exp(anchor @ remembered / tau) / z
        return p / (p + count / n)

    def one_way(features, head, memory):
        total = 0.0
        for x, i in zip(features, index):
            anchor = head.weight.detach().numpy() @ x + head.bias.detach().numpy()
            anchor /= math.sqrt(anchor @ anchor)
            total -= math.log(h(anchor, memory[i]))
            total -= sum(math.log(1 - h(anchor, memory[j])) for j in others(int(i), count, n, 0))
        return total / len(features)

    ours = one_way(student, CRD.student_head, CRD.teacher_memory.numpy())
    return ours + one_way(teacher, CRD.teacher_head, CRD.student_memory.numpy())


CASES = {
    'CRD': Case(CRD, indexed, crd, zero_at_equality=False, minimum_at_equality=False),
    'RKD': Case(losses.RKD(), reference=rkd, repeats=False),
    'KernelCongruence': Case(losses.KernelCongruence(1.5, 4), tokens, lambda s, t: kernel_congruence(s, t, 1.5, 4)),
    'kernel_congruence': Case(losses.kernel_congruence, tokens, kernel_congruence),
    'correlation_congruence': Case(losses.correlation_congruence, reference=correlation_congruence, repeats=False),
    'fsp': Case(losses.fsp, pairs_of_layers, fsp),
    # these two halve: a row is shared among twice as many samples (test_relation.py)
    'pkt': Case(losses.pkt, tokens, pkt, repeats=False),
    'similarity_preserving': Case(losses.similarity_preserving, maps, similarity_preserving, repeats=False),
    'rkd': Case(losses.rkd, tokens, rkd, repeats=False),  # a repeated sample is a pair of distance 0
}
