import functools
import gc
import os
import warnings

os.environ.setdefault('HF_HUB_OFFLINE', '1')
os.environ.setdefault('WANDB_MODE', 'offline')
os.environ.setdefault('COMPOSER_KD_TEST', '1')

import pytest
import torch
from composer.utils import collect_env

from tests.hub_server import hub  # noqa: F401 - a fixture

# Every Trainer reads the list of Composer's files twice to tell its commit.
collect_env.get_composer_commit_hash = functools.cache(collect_env.get_composer_commit_hash)


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from the same random state, on one thread: small models gain nothing from two."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        yield


@pytest.fixture(scope='module', autouse=True)
def _old_objects_are_left_alone():
    """Keeps the garbage collector from a million objects of imported modules: each run collects at its end."""
    gc.collect()
    gc.freeze()
