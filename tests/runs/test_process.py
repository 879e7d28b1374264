import subprocess
import sys

import pytest

# A block above glibc's default threshold is mapped when it is taken and unmapped when it is freed: each time its pages
# are new. Kept memory is the same pages again.
COUNT = """
import resource, torch
from composer_kd.runs.process import keep_freed_memory
done = {keep}
for _ in range(20):  # until the allocator has found a place
    torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(2**24)
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep):
    done = subprocess.run([sys.executable, '-c', COUNT.format(keep=keep)], capture_output=True, text=True, check=True)
    done, count = done.stdout.split()
    return done == 'True', int(count)


def test_freed_memory_is_used_again():
    kept, count = faults('keep_freed_memory()')
    if not kept:
        pytest.skip('not glibc, or a GPU is there')
    _, before = faults('None')
    assert count < before / 10
