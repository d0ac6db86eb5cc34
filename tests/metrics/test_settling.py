"""The fall of the energy over the frames of a simulation."""

import pytest
import torch

from gensci.metrics.settling import energy_drift

KT = 2.5775  # kJ/mol


def shard(energy, first=0):
    """Of energies (snapshots, ladders) in kT."""
    snapshots, ladders = energy.shape
    return {
        "energy": (energy * KT).flatten().float(),
        "ladder": torch.arange(ladders, dtype=torch.int32).repeat(snapshots),
        "snapshot": (first + torch.arange(snapshots, dtype=torch.int32)).repeat_interleave(ladders),
    }


def test_the_drift_is_the_first_half_less_the_second_over_all_shards():
    energy = torch.tensor([[5.0, 1.0], [3.0, 1.0], [2.0, 1.0], [2.0, -2.0]])
    # ladder 0: 4 - 2, ladder 1: 1 + 0.5
    assert energy_drift([shard(energy)], KT) == pytest.approx(1.75, rel=1e-5)
    halves = [shard(energy[:1]), shard(energy[1:], first=1)]
    assert energy_drift(halves, KT) == pytest.approx(1.75, rel=1e-5)


def test_ladders_count_alike_whatever_frames_were_left_out():
    energy = torch.tensor([[4.0, 1.0], [4.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    whole = shard(energy)
    kept = torch.tensor([0, 1, 4, 7])  # of ladder 0 one frame in each half, of ladder 1 too
    thinned = {name: value[kept] for name, value in whole.items()}
    assert energy_drift([thinned], KT) == pytest.approx((3.0 + 1.0) / 2, rel=1e-5)


def test_without_frames_in_both_halves_nothing_is_said():
    energy = torch.tensor([[4.0], [1.0]])
    assert energy_drift([], KT) is None
    assert energy_drift([{k: v[:0] for k, v in shard(energy).items()}], KT) is None
    assert energy_drift([shard(energy[:1])], KT) is None
