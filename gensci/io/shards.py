"""Shards of a run: safetensors files that carry the hash of their own content."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from gensci.io.atomic import write_atomic

Tensors = dict[str, torch.Tensor]


def digest(tensors: Tensors) -> str:
    """sha256 over names, dtypes, shapes and bytes."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def save_tensors(path: Path, tensors: Tensors, run_key: str) -> None:
    """Write tensors atomically with their hash and the key of the run they belong to.

    Args:
        path: Ends in `.safetensors`; its folder exists.
        tensors: Any device; written from the CPU.
        run_key: Changes with any setting that changes the numbers, so that a shard of another run
            is never taken for one of this run.
    """
    # copies, because safetensors refuses tensors that share memory
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    # one key only: the header order of several would vary from run to run
    note = {"gensci": json.dumps({"run": run_key, "sha256": digest(plain)}, sort_keys=True)}
    content = save(plain, metadata=note)  # save_file would let nobody else read the file
    write_atomic(path, lambda temporary: _write_bytes(temporary, content))


def load_tensors(path: Path, run_key: str) -> Tensors | None:
    """Tensors of `save_tensors`, or None where the file is absent, damaged or of another run."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt", device="cpu") as handle:
            note = json.loads((handle.metadata() or {}).get("gensci", "{}"))
            tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):
        return None
    if note.get("run") != run_key or note.get("sha256") != digest(tensors):
        return None
    # copies, because products of matrices depend in their last bits on where rows begin in memory:
    # at any multiple of eight bytes in the file, of sixty-four in a new tensor
    return {name: value.clone() for name, value in tensors.items()}


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
