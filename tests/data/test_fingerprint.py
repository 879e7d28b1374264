from __future__ import annotations

import json

import pytest
import torch
from torch.utils.data import TensorDataset
from torchvision import transforms as v1

from composer_kd.data import HeldOut, Indexed, PartlyLabelled, SeededViews, digits
from composer_kd.data.fingerprint import differences, fingerprint
from tests.data.test_views import SETS, Pictures, augmented, tensors
from tests.launching import forked


def text(dataset):
    return json.dumps(fingerprint(dataset), sort_keys=True)


@pytest.mark.parametrize('name', SETS)
def test_it_is_the_same_each_time_and_after_json(name):
    once, again = (fingerprint(SeededViews(SETS[name](), views=3)) for _ in range(2))
    assert once == again == json.loads(json.dumps(once))
    assert differences(json.loads(json.dumps(once)), again) == []
    assert ' at 0x' not in json.dumps(once)


def test_it_is_the_same_in_other_processes():
    code, said = forked(tell)
    assert code == 0, said
    assert said.splitlines() == [text(dataset) for dataset in of_kinds()]


def tell():
    for dataset in of_kinds():
        print(text(dataset))


def of_kinds():
    return [SeededViews(SETS['v2'](), views=3), Indexed(HeldOut(digits(augment=True), 0.1)), words()]


def words(**changed):
    items = [{'input_ids': [1, 2, i], 'attention_mask': torch.ones(3), 'labels': i % 2} for i in range(9)]
    items[4].update(changed)
    return items


def test_what_it_says():
    found = fingerprint(
        SeededViews(Pictures(v1.Compose([v1.RandomCrop(8), v1.ToTensor()])), views=3, seed=2), samples=4
    )
    assert (found['class'], found['length'], found['views'], found['views_seed']) == ('Pictures', 12, 3, 2)
    assert 'RandomCrop(size=(8, 8)' in found['transforms']['transform']
    assert found['labels']['unlabelled'] == 0
    assert [(index, one['label']) for index, one in found['samples'].items()] == [
        ('0', 0),
        ('3', 0),
        ('7', 1),
        ('11', 2),
    ]
    assert fingerprint(TensorDataset(torch.zeros(3, 1)))['labels'] is None


@pytest.mark.parametrize(
    ('one', 'other', 'said'),
    [
        (digits(), digits('test'), ['length: stored 1297, now 500', 'labels:', 'inputs:', 'labels:']),
        (digits(), digits(augment=True), ["settings: stored 'pad=0", 'inputs:']),
        (
            SeededViews(tensors(), views=2),
            SeededViews(tensors(), views=2, seed=1),
            ['views_seed: stored 0, now 1', 'inputs:'],
        ),
        (SeededViews(tensors(), views=2), SeededViews(tensors(), views=3), ['views: stored 2, now 3']),
        (HeldOut(digits(), 0.1), HeldOut(digits(), 0.1, seed=1), ['labels:', 'inputs:', 'labels:']),
        (words(), words(input_ids=[1, 3, 4]), ['inputs: 1 of 9 samples have others, the first at index 4']),
        (words(), words(labels=5), ['labels: 1 of 9 samples have others, the first at index 4']),
        (words(), words(token_type_ids=0), ['inputs: 1 of 9']),
        (Pictures(augmented(v1)), Pictures(v1.ToTensor()), ["transforms: stored {'transform': 'Compose(", 'inputs:']),
    ],
)
def test_each_difference_is_a_line_with_both_sides(one, other, said):
    lines = differences(fingerprint(one), fingerprint(other))
    assert len(lines) == len(said)
    assert all(line.startswith(start) for line, start in zip(lines, said)), lines


def test_labels_that_are_left_out_and_indices_make_no_difference():
    whole = fingerprint(digits())
    assert differences(whole, fingerprint(PartlyLabelled(digits(), n_labels=50))) == []
    assert differences(fingerprint(PartlyLabelled(digits(), n_labels=50)), whole) == []
    assert differences(whole, fingerprint(Indexed(digits()))) == []


def test_rounding_makes_no_difference():
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second, third = (TensorDataset(pixels, torch.zeros(9).long()) for pixels in (x, x * (1 + 1e-6), x * 1.01))
    assert differences(fingerprint(first), fingerprint(second)) == []
    assert len(differences(fingerprint(first), fingerprint(third))) == 1
