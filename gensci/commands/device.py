"""Which device a run uses, and why it is not a GPU."""

from __future__ import annotations

import torch

from gensci.core.errors import UsageError


def choose_device(text: str) -> torch.device:
    """The device of `--device`: `auto`, `cpu`, `cuda` or `cuda:1`.

    `auto` takes the first CUDA device, else the CPU. Apple GPUs (`mps`) are refused, because they
    lack the float64 in which log-weights, proposals and the geometry of peptides are computed.

    Raises:
        UsageError: No such device here; the message says why.
    """
    name = text.strip().lower()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"--device {text!r} is no device", "use auto, cpu or cuda") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {text}: {why_no_gpu() or 'no GPU of that number'}", "use cpu")
    if device.type == "mps":
        raise UsageError("--device mps: Apple GPUs lack float64", "use --device cpu")
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {text!r} is not supported", "use auto, cpu or cuda")
    return device


def why_no_gpu() -> str | None:
    """The reason why CUDA cannot be used, or None where it can."""
    if torch.cuda.is_available():
        return None
    if torch.version.cuda is None and torch.version.hip is None:
        return "torch is a CPU build"
    return "torch finds no GPU (is the driver installed, is CUDA_VISIBLE_DEVICES set?)"


def describe_device(device: torch.device) -> str:
    """One line for the start of a run and for `gensci doctor`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu, {torch.get_num_threads()} threads (no GPU: {why_no_gpu() or 'not asked for'})"


def set_threads(threads: int | None) -> None:
    """Use this many CPU threads; None leaves torch's choice.

    Raises:
        UsageError: Fewer than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise UsageError(f"--threads {threads} is too few", "use 1 or more")
    torch.set_num_threads(threads)
