"""Some samples of a batch as a batch of their own."""

import torch

from composer_kd.batches.parts import indivisible, size_of, take

ROWS = torch.tensor([2, 0])


def test_mappings_tuples_and_lists():
    batch = {
        'x': torch.arange(3),
        'names': ['a', 'b', 'c'],
        'nested': {'y': torch.arange(6).reshape(3, 2)},
        'step': torch.tensor(7),
        'kind': 'train',
        'nothing': None,
    }
    taken, fits = take(batch, ROWS, 3)
    assert fits
    assert taken['x'].tolist() == [2, 0]
    assert taken['names'] == ['c', 'a']
    assert taken['nested']['y'].tolist() == [[4, 5], [0, 1]]
    assert (taken['step'].item(), taken['kind'], taken['nothing']) == (7, 'train', None)
    assert batch['x'].tolist() == [0, 1, 2]


def test_a_pair_of_as_many_samples_as_parts():
    inputs, labels = torch.arange(4).reshape(2, 2), torch.tensor([5, 6])
    taken, fits = take((inputs, labels), torch.tensor([1]), 2)
    assert fits
    assert (taken[0].tolist(), taken[1].tolist()) == ([[2, 3]], [6])
    nested, _ = take(({'a': inputs}, {'b': labels}), torch.tensor([1]), 2)
    assert (nested[0]['a'].tolist(), nested[1]['b'].tolist()) == ([[2, 3]], [6])


def test_images_of_different_sizes_in_a_list():
    images = [torch.zeros(3, size, size) for size in (4, 5)]
    taken, fits = take((images, torch.tensor([0, 1])), torch.tensor([1]), 2)
    assert fits
    assert [image.shape[-1] for image in taken[0]] == [5]


def test_what_cannot_be_taken_apart_is_named():
    batch = {'x': torch.zeros(3, 2), 'starts': torch.tensor([0, 2]), 'object': object()}
    assert indivisible(batch, 3) == ['starts', 'object']
    assert indivisible((torch.zeros(3, 2), torch.zeros(2)), 3) == ['1']
    assert indivisible([torch.zeros(3, 2), torch.zeros(2)], 3) == ['1']
    assert indivisible([torch.zeros(4, 2), torch.zeros(2), torch.zeros(5)], 3) == []
    assert indivisible(object(), 3) == ['object']
    assert size_of({'step': torch.tensor(1), 'x': torch.zeros(3, 2)}) == 3
    assert size_of('words') is None
