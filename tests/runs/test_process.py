import resource

import pytest
import torch

from composer_kd.runs.process import keep_freed_memory
from tests.launching import forked


def faults():
    """Prints how many pages are new to the process before and after it keeps freed memory, if it can.

    A block above glibc's default threshold is mapped when it is taken and unmapped when it is freed: each time its
    pages are new. Kept memory is the same pages again.
    """
    before = new_pages()
    print(before, new_pages() if keep_freed_memory() else '')


def new_pages():
    for _ in range(20):  # until the allocator has found a place
        torch.ones(2**24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_freed_memory_is_used_again():
    code, said = forked(faults)
    assert code == 0, said
    before, *after = map(int, said.split())
    if not after:
        pytest.skip('not glibc, or a GPU is there')
    assert after[0] < before / 10
