import pytest
import torch

from composer_kd.losses import sad


def test_sad_enlarges_the_smaller_map():
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 5, 2, 3)
    large = torch.nn.functional.interpolate(teacher.square().sum(1, keepdim=True), size=(4, 6), mode='bilinear').sqrt()
    assert sad(student, teacher).item() == pytest.approx(sad(student, large).item(), rel=1e-5)


def test_sad_of_bad_shapes():
    for student, teacher in (((2, 3), (2, 3)), ((2, 3, 4), (2, 3, 4)), ((2, 3, 4, 4), (1, 3, 4, 4))):
        with pytest.raises(ValueError, match=r'sad: expected two feature maps \(B, C, H, W\) .*student \(2, 3'):
            sad(torch.zeros(student), torch.zeros(teacher))
