"""Equal atoms with two namings: the same energy, and one naming that counts."""

import math

import pytest
import torch

from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide
from gensci.systems.peptide import PeptideSystem

# names that half a turn exchanges
SWAPS = {
    "N": [("HD21", "HD22")],
    "Q": [("HE21", "HE22")],
    "R": [("HH11", "HH12")],
}


@pytest.mark.parametrize("letter", sorted(SWAPS))
def test_exchanged_names_have_the_same_energy_and_do_not_count(letter):
    system = PeptideSystem.from_text(f"G{letter}")
    peptide = system.peptide
    x = torch.as_tensor(peptide.positions)[None]
    swapped = x.clone()
    for a, b in SWAPS[letter]:
        i, j = peptide.atom_names.index(a), peptide.atom_names.index(b)
        swapped[:, [i, j]] = x[:, [j, i]]
    energy = ForceField.from_openmm(peptide.system).energy(torch.cat((x, swapped)))
    torch.testing.assert_close(energy[0], energy[1], atol=1e-4, rtol=0)
    assert peptide.chirality(swapped).all()
    assert peptide.counted(torch.cat((x, swapped))).tolist() == [True, False]
    log_prob = system.target("cpu", torch.float64).log_prob({"positions": torch.cat((x, swapped))})
    assert log_prob.isfinite().tolist() == [True, False]


def test_whole_guanidinium_turned_by_half_does_not_count():
    peptide = build_peptide("R")
    x = torch.as_tensor(peptide.positions)[None].clone()
    for a, b in (("NH1", "NH2"), ("HH11", "HH21"), ("HH12", "HH22")):
        i, j = peptide.atom_names.index(a), peptide.atom_names.index(b)
        x[:, [i, j]] = x[:, [j, i]]
    assert not peptide.counted(x).any()


def test_peptides_without_such_groups_and_broken_positions():
    peptide = build_peptide("AG")
    x = torch.as_tensor(peptide.positions)[None].repeat(2, 1, 1)
    x[1, 0, 0] = math.nan
    assert peptide.planar_labels.shape == (0, 4)
    assert peptide.counted(x).tolist() == [True, False]


@pytest.mark.parametrize("letter", sorted(SWAPS))
def test_canonical_naming_undoes_every_exchange_and_moves_nothing(letter):
    peptide = build_peptide(f"G{letter}")
    x = torch.as_tensor(peptide.positions)[None]
    generator = torch.Generator().manual_seed(0)
    flips = [SWAPS[letter]]
    if letter == "R":
        flips += [
            [("HH21", "HH22")],
            [("NH1", "NH2"), ("HH11", "HH21"), ("HH12", "HH22")],
        ]
    for chosen in range(2 ** len(flips)):
        y = x.clone()
        for k, pairs in enumerate(flips):
            if chosen >> k & 1:
                for a, b in pairs:
                    i, j = peptide.atom_names.index(a), peptide.atom_names.index(b)
                    y[:, [i, j]] = y[:, [j, i]]
        assert torch.equal(peptide.canonical(y), x)
        moved = y + 0.004 * torch.randn(50, *y.shape[1:], generator=generator)
        named = peptide.canonical(moved)
        assert peptide.counted(named).all()
        assert torch.equal(named.sort(1).values, moved.sort(1).values)
