"""Averages of checkpoints in the space of their weights.

Weights that one training led from A to B lie in one basin, and a point between them often does
better on unseen data than either: the noise of the last steps averages out, and what A knew is kept
where B forgot it. Ref: Izmailov et al. 2018, arXiv 1803.05407; Wortsman et al. 2022,
arXiv 2109.01903. Weights of trainings that began apart have no such average.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.models.checkpoint import load_checkpoint, refuse_other_weights, save_checkpoint


def average_checkpoints(
    sources: Sequence[str | Path], shares: Sequence[float], out: str | Path
) -> Path:
    """Write the average of checkpoints of one network as a checkpoint.

    Its meta data are those of the source with the largest share, without ``metrics``, which nobody
    has measured; ``trained_residues`` and ``training_sequences`` are those of all, and ``averaged``
    lists the SHA-256 of the weights of each source with its share.

    Args:
        sources: Folders or names of shipped checkpoints, two at least.
        shares: Of each, positive, with the sum 1.
        out: Folder of the new one.

    Returns:
        The folder.

    Raises:
        UsageError: Shares that are none.
        CheckpointError: A source is absent or of another network than the first, or the folder
            cannot be written.
    """
    if len(sources) < 2 or len(sources) != len(shares):
        raise UsageError(
            f"{len(sources)} checkpoints and {len(shares)} shares",
            "name two or more checkpoints and give as many shares",
        )
    if not all(0 < share < 1 for share in shares) or not math.isclose(sum(shares), 1.0):
        raise UsageError(
            f"shares {', '.join(f'{share:g}' for share in shares)}",
            "give positive ones with the sum 1",
        )
    loaded = [load_checkpoint(source) for source in sources]
    first, config, _ = loaded[0]
    for source, (state, other, _) in zip(sources, loaded, strict=True):
        what = f"{source} is of another network than {sources[0]}"
        refuse_other_weights(state, first, what, "average checkpoints of one training")
        if other != config:
            raise UsageError(f"{what}: class or settings differ", "average those of one training")
    state = {name: _mean([held[0][name] for held in loaded], shares) for name in first}
    return save_checkpoint(out, state, config, _meta([held[2] for held in loaded], shares))


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Weighted mean, formed in double precision; what is no floating number comes from the last."""
    last = tensors[-1]
    if not last.is_floating_point():
        return last
    parts = [share * tensor.double() for tensor, share in zip(tensors, shares, strict=True)]
    return torch.stack(parts).sum(0).to(last.dtype)


def _meta(metas: Sequence[dict[str, Any]], shares: Sequence[float]) -> dict[str, Any]:
    most = metas[max(range(len(shares)), key=lambda k: shares[k])]
    meta = {k: v for k, v in most.items() if k not in ("metrics", "folder", "versions")}
    meta.pop("weights_sha256")
    ranges = [held["trained_residues"] for held in metas if "trained_residues" in held]
    if ranges:
        fewest, longest = zip(*ranges, strict=True)
        meta["trained_residues"] = [min(fewest), max(longest)]
    if any("training_sequences" in held for held in metas):
        names = {name for held in metas for name in held.get("training_sequences", [])}
        meta["training_sequences"] = sorted(names)
    meta["averaged"] = [
        {"weights_sha256": held["weights_sha256"], "share": share}
        for held, share in zip(metas, shares, strict=True)
    ]
    return meta
