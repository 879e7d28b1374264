import os
import warnings

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('WANDB_MODE', 'offline')
os.environ.setdefault('COMPOSER_KD_TEST', '1')

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from the same random state, on one thread: small models gain nothing from two."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        yield
