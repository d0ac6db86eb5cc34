"""Does the energy of a simulation still fall? The first half of its frames against the second.

A hot start unfolds a peptide, and charged or aromatic side chains find each other again within tens
of picoseconds at the coldest temperature. Frames from before that have too high an energy, and a
flow that learns from many such simulations makes the compact conformations too seldom. One
simulation is too noisy to tell; the mean over a corpus tells (``io.simulation_report``).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from gensci.core.protocols import Tensors


def energy_drift(shards: Iterable[Tensors], kt: float) -> float | None:
    """Mean energy of the first half of every ladder's frames less that of its second half.

    Args:
        shards: with ``energy`` (frames,) kJ/mol, ``ladder`` and ``snapshot`` (frames,).
        kt: kJ/mol.

    Returns:
        In kT, the mean over ladders; None where no ladder has frames in both halves.
    """
    kept: list[tuple[Tensor, Tensor, Tensor]] = [
        (shard["energy"].double(), shard["ladder"].long(), shard["snapshot"].long())
        for shard in shards
    ]
    if not kept:
        return None
    energy, ladder, snapshot = (torch.cat(column) for column in zip(*kept, strict=True))
    if not len(energy):
        return None
    late = snapshot >= (int(snapshot.max()) + 1) / 2
    changes = []
    for number in ladder.unique():
        mine = ladder == number
        if (mine & late).any() and (mine & ~late).any():
            changes.append(float(energy[mine & ~late].mean() - energy[mine & late].mean()))
    if not changes:
        return None
    return sum(changes) / len(changes) / kt
