"""Evaluates jobs by the GPU kernels in triton's interpreter, in a process of its own.

The interpreter is chosen when the kernels are imported, which would last for all later tests:

    python gpu_interpreter.py jobs.pt results.pt
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import torch
from triton.runtime import interpreter

from gensci.sims.forcefield.gpu import GpuKernel, Tile


def patch_interpreter():
    """The interpreter as it is, but for loop bounds, which numpy 2.4 refuses to convert."""
    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor, scope):
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


def evaluate(job):
    kernel = GpuKernel(job["parameters"], "cpu", job["x"].dtype, tile=Tile(*job["tile"]))
    return kernel.evaluate(job["x"], job["counts"], forces=job["forces"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    patch_interpreter()
    jobs = torch.load(sys.argv[1], weights_only=False)
    torch.save({name: evaluate(job) for name, job in jobs.items()}, sys.argv[2])
