"""The agreement of vectors on several ranks."""

import pytest
import torch

from composer_kd.algorithms import vector_agreement
from composer_kd.algorithms.vector_agreement import VectorAgreement


@pytest.mark.filterwarnings('ignore:The ``compute`` method of metric MeanMetric')
@pytest.mark.parametrize('texts', [0, 1, 2])
def test_a_rank_with_few_texts_computes_what_the_others_do(monkeypatch, texts):
    computed = []
    one = VectorAgreement()
    for name in ('cosine', 'spearman'):
        monkeypatch.setattr(getattr(one, name), 'compute', lambda name=name: computed.append(name))
    monkeypatch.setattr(vector_agreement.dist, 'all_gather_object', lambda own: [own, (True, 3)])
    if texts:
        one.update(torch.rand(texts, 4), torch.rand(texts, 4))
    one.compute()
    assert computed == ['cosine', 'spearman']
    assert one.spearman.preds
