from __future__ import annotations

import pytest

from composer_kd.errors import ConfigError
from composer_kd.models.sizes import check_at_least, height_and_width


@pytest.mark.parametrize(('given', 'expected'), [(32, (32, 32)), ((28, 20), (28, 20)), ([7, 9], (7, 9))])
def test_an_image_size_is_a_number_or_a_pair(given, expected):
    assert height_and_width(given) == expected


@pytest.mark.parametrize('given', [(1, 2, 3), (32.0, 32.0), (True, True), []])
def test_any_other_image_size_is_refused(given):
    with pytest.raises(ConfigError, match=r'expected an integer or \(height, width\), got'):
        height_and_width(given)


def test_a_small_image_is_refused_with_the_least_size():
    with pytest.raises(ConfigError, match=r'at least 4 pixels in height and width, got \(3, 8\)'):
        height_and_width((3, 8), least=4)


@pytest.mark.parametrize('given', [0, -1, 1.5, True, '10', None])
def test_a_size_is_an_integer_above_the_least(given):
    with pytest.raises(ConfigError, match='num_classes: expected an integer of at least 1, got'):
        check_at_least(1, num_classes=given)
