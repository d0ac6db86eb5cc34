"""Where arrays lie after large ones were freed: glibc then takes smaller ones from its heap."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, re, sys
from pathlib import Path
from gensci.core.memory import SETTINGS, settle_memory

if sys.argv[1] == "settled":
    os.environ.pop("ONEDNN_PRIMITIVE_CACHE_CAPACITY", None)
    os.environ["THP_MEM_ALLOC_ENABLE"] = "0"
    assert settle_memory()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == "0"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "65536"
import torch

for _ in range(3):
    torch.ones(4 << 20)  # 16 MB, and freed
arrays = [torch.ones(1 << 19) for _ in range(20)]
heap = re.search(r"^(\\w+)-(\\w+) .*\\[heap\\]$", Path("/proc/self/maps").read_text(), re.MULTILINE)
first, last = (int(end, 16) for end in heap.groups())
print(sum(first <= array.data_ptr() < last for array in arrays))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
@pytest.mark.parametrize(("way", "in_heap"), [("settled", 0), ("usual", 20)])
def test_large_arrays_stay_out_of_the_heap(way, in_heap):
    command = [sys.executable, "-c", PROGRAM, way]
    # an earlier training in this process may have settled memory for its children too
    set_then = ("THP_MEM_ALLOC_ENABLE", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    own = {k: v for k, v in os.environ.items() if k not in set_then}
    result = subprocess.run(command, capture_output=True, check=True, text=True, env=own)
    assert int(result.stdout) == in_heap
