"""Classes drawn at random from the teacher's distribution, with replacement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from composer_kd.losses.sparse import SampledLogits, sample_logits
from composer_kd.stores.formats import elias_fano
from composer_kd.stores.formats.base import Format, Records, check_records, chunks, readable, whole_number
from composer_kd.stores.formats.bits import pack
from composer_kd.stores.formats.temperature import check_temperature
from composer_kd.stores.formats.uniform import uniform

__all__ = ['Sampled']


@dataclass(frozen=True)
class Sampled(Format):
    """Classes drawn with replacement, and the entropy of the distribution: about 2 bytes a draw.

    The mean cross-entropy of the draws has the gradient of the full divergence as its expectation (Anshumann et al.,
    *Sparse Logit Sampling*, arXiv 2503.16870). Draws depend on seed and position alone, not on the batches of a build.

    Args:
        n: The number of draws.
        temperature: The temperature of the softmax; a loss must use the same.
        seed: Seed of the draws.

    Raises:
        ConfigError: If a setting is out of bounds.

    Example:
        >>> import numpy as np, torch
        >>> form = Sampled(n=12, temperature=1.0)
        >>> form.nbytes(classes=2**18)
        27
        >>> target = form.decode(form.encode(torch.tensor([[0.0, -torch.inf, 0.0]]), np.array([7])), classes=3)
        >>> sorted(set(target.ids[0].tolist())), round(target.entropy.item(), 3)
        ([0, 2], 0.693)
    """

    kind: ClassVar[str] = 'sampled'
    n: int
    temperature: float
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number('sampled: n', self.n, 1, 2**16)
        whole_number('sampled: seed', self.seed, 0, 2**64 - 1)
        check_temperature('sampled', self.temperature)

    @override
    def nbytes(self, classes: int) -> int:
        return (elias_fano.size(self.n, classes) + 7) // 8 + 2

    @override
    def encode(self, outputs: Tensor, rows: NDArray[np.int64]) -> Records:
        logits = readable('sampled logits', outputs)
        draws = torch.from_numpy(uniform(self.seed, np.asarray(rows), self.n))
        records = [self._pack(logits[part], draws[part]) for part in chunks(logits)]
        return np.concatenate(records or [np.zeros((0, self.nbytes(outputs.shape[-1])), np.uint8)])

    def _pack(self, logits: Tensor, draws: Tensor) -> Records:
        sample = sample_logits(logits, draws.to(logits.device), self.temperature)
        ids = pack(elias_fano.encode(sample.ids.cpu().numpy(), sample.classes))
        entropy = sample.entropy.cpu().numpy().astype('<f2')[:, None].view(np.uint8)
        return np.concatenate([ids, entropy], axis=1)

    @override
    def decode(self, records: Records, classes: int) -> SampledLogits:
        check_records('sampled logits', records, self.nbytes(classes))
        ids = elias_fano.decode(records, self.n, classes)
        entropy = np.ascontiguousarray(records[:, -2:]).view('<f2')[:, 0].astype(np.float32)
        return SampledLogits(torch.from_numpy(ids), classes, self.temperature, torch.from_numpy(entropy))
