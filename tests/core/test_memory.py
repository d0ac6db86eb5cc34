"""Freed memory that is kept must not be asked of the system again."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from gensci.core.memory import keep_freed_memory

def faults(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(12 << 20)  # 48 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "keep":
    assert keep_freed_memory()
faults(2)
print(faults(10))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_arrays_come_from_memory_that_was_freed():
    kept, usual = (
        int(
            subprocess.run(
                [sys.executable, "-c", PROGRAM, way], capture_output=True, check=True, text=True
            ).stdout
        )
        for way in ("keep", "usual")
    )
    assert kept < 0.02 * usual
