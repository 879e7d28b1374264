from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from composer_kd.data import UNLABELLED, Indexed, PartlyLabelled, digits
from composer_kd.errors import ConfigError
from tests.helpers import TokenDataset


@pytest.mark.parametrize('workers', [0, 1])
def test_the_index_is_that_of_the_sample_whatever_the_order(workers):
    dataset = Indexed(PartlyLabelled(digits(), n_labels=30, subset=100))
    for x, y, index in DataLoader(dataset, batch_size=40, shuffle=True, num_workers=workers):
        assert index.dtype == torch.int64
        assert y.tolist() == [dataset.targets[i] for i in index]
        assert torch.equal(x, torch.stack([dataset.dataset[i][0] for i in index]))


def test_it_passes_on_what_the_data_set_says_of_itself():
    beneath = PartlyLabelled(digits(), n_labels=30)
    dataset = Indexed(beneath)
    assert (len(dataset), dataset.num_classes) == (1297, 10)
    assert dataset.targets.count(UNLABELLED) == 1267
    assert not hasattr(Indexed(TensorDataset(torch.zeros(3, 1), torch.zeros(3))), 'num_classes')


def test_batches_are_asked_for_at_once():
    asked = []

    class Batched(TensorDataset):
        def __getitems__(self, indices):
            asked.append(indices)
            return [self[index] for index in indices]

    _, _, index = next(iter(DataLoader(Indexed(Batched(torch.zeros(9, 1), torch.zeros(9))), batch_size=9)))
    assert asked == [list(range(9))]
    assert index.tolist() == list(range(9))


def test_mappings_get_a_key_and_are_left_as_they_were():
    items = [{'input_ids': torch.tensor([1, 2])}, {'input_ids': torch.tensor([3, 4])}]
    batch = next(iter(DataLoader(Indexed(items), batch_size=2)))
    assert batch['index'].tolist() == [0, 1]
    assert batch['input_ids'].tolist() == [[1, 2], [3, 4]]
    assert all(set(item) == {'input_ids'} for item in items)


def test_single_items_count_from_the_end_and_stop_there():
    dataset = Indexed(digits('test'))
    assert dataset[-1][2] == 499
    with pytest.raises(IndexError):
        dataset[500]


@pytest.mark.parametrize(
    ('dataset', 'said'),
    [
        (TensorDataset(torch.zeros(3)), 'pairs .x, y. or mappings, got 1 parts'),
        ([3.0], 'got float'),
        (Indexed(digits('test')), 'got 3 parts'),
        (TokenDataset(index=torch.zeros(3)), "have the key 'index' already"),
    ],
)
def test_other_items_are_refused(dataset, said):
    with pytest.raises(ConfigError, match=said):
        Indexed(dataset)[0]
