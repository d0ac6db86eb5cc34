"""The C kernel of the diffusion head: built once for each user and processor."""

from __future__ import annotations

import ctypes
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gensci.nn.native_kernel import kernel_library, status_line

if TYPE_CHECKING:
    from gensci.nn.edm_head import Condition, EdmHead

SOURCE = Path(__file__).with_name("edm_head.c")
TILE, PANEL = 64, 32  # as in the source: rows taken together, outputs that lie together
LEAST = 16  # rows that are worth a thread
LEAST_LANES = 8  # with which the kernel is faster than torch

WEIGHTS = ("enter", "inner", "outer", "leave")
SIZES = ("inputs", "width", "depth", "frequencies")
ROWS = ("x", "hint", "hinted", "terms", "level", "level_terms", "sigma", "unit", "torus")


class _Head(ctypes.Structure):
    _fields_ = (
        *((name + end, ctypes.c_void_p) for name in WEIGHTS for end in ("", "_bias")),
        *((name, ctypes.c_int64) for name in SIZES),
        ("damping", ctypes.c_double),
    )


class _Slots(ctypes.Structure):
    _fields_ = (*((name, ctypes.c_void_p) for name in ROWS), ("rows", ctypes.c_int64))


def fits(head: EdmHead) -> bool:
    """Whether the kernel can be had and computes this network."""
    weight = head.leave.weight
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32
    return plain and head.width % PANEL == 0 and not isinstance(library(), str)


def kernel_status() -> str:
    """One line on what solves diffusion heads on a CPU, and why."""
    return status_line(library())


def _prepare(kernel: ctypes.CDLL) -> str | None:
    few = kernel.gensci_edm_lanes() < LEAST_LANES
    return "faster on a processor without AVX" if few else None


library = kernel_library(SOURCE, _prepare)


class NativeHead:
    """Denoising by the C kernel, in single precision, with the weights as they are now.

    The bits of a row do not depend on how many are denoised together.

    Args:
        head: for which :func:`fits` holds.
    """

    def __init__(self, head: EdmHead) -> None:
        blocks = head.blocks
        self.kept = {  # the kernel holds addresses only
            "enter": _panels(head.enter.weight),
            "enter_bias": head.enter.bias.detach().clone(),
            "inner": torch.stack([_panels(block.enter.weight) for block in blocks]),
            "inner_bias": torch.stack([block.enter.bias.detach() for block in blocks]),
            "outer": torch.stack([_panels(block.leave.weight) for block in blocks]),
            "outer_bias": torch.stack([block.leave.bias.detach() for block in blocks]),
            "leave": head.leave.weight.detach().clone(),
            "leave_bias": head.leave.bias.detach().clone(),
        }
        sizes = (head.enter.in_features, head.width, len(blocks), len(head.octaves))
        addresses = {name: value.data_ptr() for name, value in self.kept.items()}
        named = dict(zip(SIZES, sizes, strict=True))
        self.head = _Head(**addresses, **named, damping=head.damping)
        self.scratch_size = TILE * (sizes[0] + 3 * sizes[1])

    def __call__(self, x: Tensor, c: Condition, level: Tensor, table: dict[str, Tensor]) -> Tensor:
        """Denoised points (n, 3) of ``x`` (n, 3).

        Args:
            x: single precision.
            c: the slots.
            level: (n,) int64 rows of the table.
            table: ``level_terms``, ``sigma``, ``unit`` and ``torus`` by level.
        """
        rows = {"x": x, "hint": c.hint, "hinted": c.hinted, "terms": c.terms, "level": level}
        rows = {name: value.contiguous() for name, value in rows.items()}
        out = torch.empty_like(rows["x"])
        threads = max(1, min(len(x) // LEAST, torch.get_num_threads()))
        size = -(-len(x) // threads)

        def work(first: int) -> None:
            own = {name: value[first : first + size] for name, value in rows.items()}
            pointers = {name: value.data_ptr() for name, value in (own | table).items()}
            slots = _Slots(**pointers, rows=len(own["x"]))
            scratch = x.new_empty(self.scratch_size)
            library().gensci_edm_denoise(
                ctypes.byref(self.head),
                ctypes.byref(slots),
                ctypes.c_void_p(out[first:].data_ptr()),
                ctypes.c_void_p(scratch.data_ptr()),
            )

        if threads == 1:
            work(0)
        else:
            list(_pool(threads).map(work, range(0, len(x), size)))
        return out


def _panels(weight: Tensor) -> Tensor:
    """A matrix (outputs, inputs) as (outputs / PANEL, inputs, PANEL)."""
    return weight.detach().unflatten(0, (-1, PANEL)).transpose(1, 2).contiguous()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)
