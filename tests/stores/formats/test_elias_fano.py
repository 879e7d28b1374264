"""Sorted class numbers: any multiset of any size comes back, in the bits that were promised."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from composer_kd.errors import StoreError
from composer_kd.stores.formats import elias_fano
from composer_kd.stores.formats.bits import from_records, pack, to_bits


@given(st.data())
def test_multisets_come_back(data):
    classes = data.draw(st.integers(1, 2**20))
    count = data.draw(st.integers(1, 40))
    rows = data.draw(st.lists(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count), max_size=4))
    ids = np.sort(np.array(rows, np.int64).reshape(len(rows), count))
    bits = elias_fano.encode(ids, classes)
    assert bits.shape == (len(rows), elias_fano.size(count, classes))
    assert np.array_equal(elias_fano.decode(pack(bits), count, classes), ids)


@given(st.data())
def test_bits_are_those_of_python(data):
    width = data.draw(st.integers(1, 56))
    values = data.draw(st.lists(st.integers(0, 2**width - 1), min_size=1, max_size=9))
    before = data.draw(st.integers(0, 70))
    bits = to_bits(np.array([values], np.int64), width)
    records = pack(np.ones((1, before), np.uint8), bits)
    assert ''.join(map(str, bits[0])) == ''.join(f'{value:0{width}b}'[::-1] for value in values)
    assert from_records(records, before, width, len(values))[0].tolist() == values


@pytest.mark.parametrize(('power', 'bits'), [(16, 614), (17, 664), (18, 714)])
def test_the_ids_of_a_token_take_the_known_room(power, bits):
    assert elias_fano.size(50, 2**power) <= bits


def test_other_bits_are_refused():
    size = elias_fano.size(5, 1000)
    for ones in (size, 0, 5):
        bits = np.zeros((2, size), np.uint8)
        bits[:, -1 if ones == 5 else 0 :][:, :ones] = 1
        with pytest.raises(StoreError, match='damaged'):
            elias_fano.decode(pack(bits), 5, 1000)
