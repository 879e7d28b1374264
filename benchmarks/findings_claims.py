"""What the known study claims, as comparisons of cells, and the rule that tells which claims hold."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Sequence

from scipy.stats import t

__all__ = ['CLAIMS', 'Cell', 'Claim', 'Comparison', 'Difference', 'cells_of', 'verdict']

CHANCE = 0.1  # of ten classes: what a run that diverged is worth


@dataclasses.dataclass(frozen=True)
class Cell:
    """A way to train a student; each has one result for a seed."""

    student: str = 'cnn'
    teacher: str | None = None
    loss: str = 'kl'
    temperature: float = 4.0
    weight: float = 0.9
    optimizer: str = 'adamw'
    tuned: bool = True  # the learning rate; else the library's default

    @property
    def title(self) -> str:
        """For the tables."""
        student = {'cnn': 'CNN', 'rnn': 'RNN'}[self.student]
        how = f'{_OPTIMIZERS[self.optimizer]}, {"tuned" if self.tuned else "default"} rate'
        if self.teacher is None:
            return f'{student} alone, {how}'
        loss = f'KL T={self.temperature:g}' if self.loss == 'kl' else f'{self.loss} of logits'
        return f'{student} taught by {self.teacher}, {loss}, weight {self.weight:g}, {how}'


_OPTIMIZERS = {
    'adamw': 'AdamW', 'adam': 'Adam', 'sgd': 'SGD', 'rmsprop': 'RMSprop', 'adagrad': 'Adagrad', 'adadelta': 'Adadelta',
}  # fmt: skip

TUNED, RAW, FRESH, RNN = 'ResNet-20 fine-tuned', 'ResNet-20 as it comes', 'ResNet-20 with a fresh head', 'wide RNN'
ALONE = Cell()
TAUGHT = Cell(teacher=TUNED)
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0)
WEIGHTS = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 1.0)
RNN_ALONE, TO_RNN, FROM_RNN = Cell('rnn'), Cell('rnn', TUNED), Cell(teacher=RNN)


def at_temperature(temperature: float) -> Cell:
    return dataclasses.replace(TAUGHT, temperature=temperature)


def at_weight(weight: float) -> Cell:
    return dataclasses.replace(TAUGHT, weight=weight)


def by(optimizer: str, taught: bool = True, tuned: bool = True) -> Cell:
    return dataclasses.replace(TAUGHT if taught else ALONE, optimizer=optimizer, tuned=tuned)


MSE, COSINE = dataclasses.replace(TAUGHT, loss='mse'), dataclasses.replace(TAUGHT, loss='cosine')
LARGE = [at_temperature(temperature) for temperature in TEMPERATURES if temperature >= 4]
LOW = [at_weight(w) for w in WEIGHTS if w <= 0.3]
HIGH = [at_weight(w) for w in WEIGHTS if w > 0.3]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One set of cells against another: the difference of their mean accuracies, seed by seed."""

    name: str
    better: Sequence[Cell]
    worse: Sequence[Cell]

    def differences(self, accuracy: Callable[[Cell, int], float | None], seeds: Sequence[int]) -> list[float]:
        """In points, for the seeds that all its cells have a result for."""
        found = []
        for seed in seeds:
            sides = [[accuracy(cell, seed) for cell in side] for side in (self.better, self.worse)]
            known = [[value for value in side if value is not None] for side in sides]
            if [len(side) for side in known] == [len(side) for side in sides]:
                found.append(100 * (statistics.fmean(known[0]) - statistics.fmean(known[1])))
        return found


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim, the comparisons that must all come out for it, and those that are shown beside them."""

    title: str
    says: str
    decisive: Sequence[Comparison]
    beside: Sequence[Comparison] = ()


@dataclasses.dataclass(frozen=True)
class Difference:
    """Paired differences in points, one for each seed."""

    values: Sequence[float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values)

    @property
    def error(self) -> float:
        """The standard error of the mean."""
        return statistics.stdev(self.values) / len(self.values) ** 0.5

    @property
    def half_width(self) -> float:
        """Of the 95 % interval of Student's t."""
        return float(t.ppf(0.975, len(self.values) - 1)) * self.error

    @property
    def sign(self) -> int:
        """1 or -1 where the interval excludes zero, else 0: not clear; so too with a single seed."""
        if len(self.values) < 2 or abs(self.mean) <= self.half_width:
            return 0
        return 1 if self.mean > 0 else -1

    def __str__(self) -> str:
        if len(self.values) < 2:
            return f'{self.mean:+.1f}, one seed' if self.values else 'not run'
        return f'{self.mean:+.1f} ± {self.error:.1f} (95 %: {self.mean - self.half_width:+.1f} to ' \
               f'{self.mean + self.half_width:+.1f})'  # fmt: skip


def verdict(differences: Sequence[tuple[str, Difference]]) -> str:
    """What follows for a claim from the comparisons that decide it.

    Args:
        differences: The name of each, and what was found; positive is what the claim says.

    Returns:
        ``'holds'`` if all are clearly positive, ``'does not hold'`` if none is, else for which it holds.

    Example:
        >>> verdict([('a', Difference([1.0, 1.1, 0.9])), ('b', Difference([1.0, -1.0, 0.1]))])
        'holds only for: a'
    """
    if any(len(difference.values) < 2 for _, difference in differences):
        return 'not decided: runs are missing'
    good = [name for name, difference in differences if difference.sign > 0]
    against = [name for name, difference in differences if difference.sign < 0]
    if len(good) == len(differences):
        return 'holds'
    if good:
        return f'holds only for: {"; ".join(good)}'
    if len(against) == len(differences):
        return 'does not hold: the opposite does'
    return 'does not hold' + (f'; the opposite does for: {"; ".join(against)}' if against else ': no clear difference')


def _against_others(optimizer: str, taught: bool, tuned: bool) -> tuple[list[Cell], list[Cell]]:
    others = [by(name, taught, tuned) for name in _OPTIMIZERS if name not in ('adadelta', 'rmsprop')]
    return [by(optimizer, taught, tuned)], others


def _optimizer_comparisons(taught: bool) -> list[Comparison]:
    found = []
    for tuned in (False, True):
        rate = ('tuned' if tuned else 'default') + (' rate' if taught else ' rate, alone')
        one, others = _against_others('adadelta', taught, tuned)
        found.append(Comparison(f'Adadelta above the mean of AdamW, Adam, SGD, Adagrad, {rate}', one, others))
        one, others = _against_others('rmsprop', taught, tuned)
        found.append(Comparison(f'RMSprop below that mean, {rate}', others, one))
    return found


CLAIMS = [
    Claim(
        'Fine-tune the teacher first',
        'A student learns more from a teacher that was fine-tuned on its data. The teacher is a public ResNet-20, made '
        'for 32x32 pixels, that has to teach at 16x16: fine-tuned on the images of that size, as it comes, or with a '
        'last layer that starts afresh and is not trained, as that of a network made for other classes.',
        [
            Comparison('fine-tuned above as it comes', [TAUGHT], [Cell(teacher=RAW)]),
            Comparison('fine-tuned above a fresh head', [TAUGHT], [Cell(teacher=FRESH)]),
        ],
        [Comparison(f'taught by {name} above alone', [Cell(teacher=name)], [ALONE]) for name in (TUNED, RAW, FRESH)],
    ),
    Claim(
        'Large temperatures beat MSE and cosine',
        'KL divergence at a large temperature (here 4, 8 and 16, their mean) beats MSE and cosine of logits.',
        [
            Comparison('T=4, 8, 16 above MSE', LARGE, [MSE]),
            Comparison('T=4, 8, 16 above cosine', LARGE, [COSINE]),
        ],
        [
            Comparison('T=4, 8, 16 above T=1, 2', LARGE, [at_temperature(1.0), at_temperature(2.0)]),
            *(Comparison(f'T={hot:g} above MSE', [at_temperature(hot)], [MSE]) for hot in TEMPERATURES),
        ],
    ),
    Claim(
        'The weight of distillation stays below 30 %',
        'Weights up to 0.3 (their mean) beat larger ones.',
        [Comparison('0.1, 0.2, 0.3 above 0.5, 0.7, 0.9, 1.0', LOW, HIGH)],
        [Comparison(f'{w:g} above alone', [at_weight(w)], [ALONE]) for w in WEIGHTS],
    ),
    Claim(
        'Adadelta is good, RMSProp bad',
        'As optimizers of the distilled student, at the rates that torch has by default and at tuned ones.',
        _optimizer_comparisons(taught=True),
        [
            *_optimizer_comparisons(taught=False),
            *(
                Comparison(
                    f'{_OPTIMIZERS[name]} above AdamW, {"tuned" if tuned else "default"} rate',
                    [by(name, True, tuned)],
                    [by('adamw', True, tuned)],
                )
                for tuned in (False, True)
                for name in ('adadelta', 'rmsprop')
            ),
        ],
    ),
    Claim(
        'A CNN can teach an RNN, and an RNN a CNN',
        'The student is better than alone.',
        [
            Comparison('CNN to RNN above the RNN alone', [TO_RNN], [RNN_ALONE]),
            Comparison('RNN to CNN above the CNN alone', [FROM_RNN], [ALONE]),
        ],
        [Comparison('RNN to CNN above CNN to CNN', [FROM_RNN], [TAUGHT])],
    ),
]


def cells_of(claim: Claim) -> list[Cell]:
    """The cells that a claim compares, each once."""
    sides = [side for pair in (*claim.decisive, *claim.beside) for side in (pair.better, pair.worse)]
    return list(dict.fromkeys(cell for side in sides for cell in side))
