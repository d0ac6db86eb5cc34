"""Equal atoms with two namings: the same energy, and one naming that counts."""

import math
from collections import Counter

import pytest
import torch

from gensci.sims.forcefield import ForceField
from gensci.sims.peptide import build_peptide, is_natural
from gensci.sims.peptide.labels import planar_groups, uninverted
from gensci.systems.peptide import PeptideSystem

# names that half a turn exchanges
SWAPS = {
    "N": [("HD21", "HD22")],
    "Q": [("HE21", "HE22")],
    "R": [("HH11", "HH12")],
}


def check_second_naming(system, pairs):
    """The built geometry with the names of pairs exchanged: as low an energy, and no density."""
    peptide = system.peptide
    x = torch.as_tensor(peptide.positions)[None]
    swapped = x.clone()
    for a, b in pairs:
        i, j = peptide.atom_names.index(a), peptide.atom_names.index(b)
        swapped[:, [i, j]] = x[:, [j, i]]
    both = torch.cat((x, swapped))
    energy = ForceField.from_openmm(peptide.system).energy(both)
    torch.testing.assert_close(energy[0], energy[1], atol=1e-4, rtol=0)
    assert peptide.chirality(swapped).all()
    assert peptide.counted(both).tolist() == [True, False]
    log_prob = system.target("cpu", torch.float64).log_prob({"positions": both})
    assert log_prob.isfinite().tolist() == [True, False]
    assert torch.equal(peptide.canonical(swapped), x)


@pytest.mark.parametrize("letter", sorted(SWAPS))
def test_exchanged_names_have_the_same_energy_and_do_not_count(letter):
    check_second_naming(PeptideSystem.from_text(f"G{letter}"), SWAPS[letter])


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


def inversions(peptide):
    """Names of the atoms that each inversion exchanges."""
    return {
        peptide.atom_names[fork.centre[0]]: {
            tuple(peptide.atom_names[i] for i in pair) for pair in fork.swaps
        }
        for fork in peptide.forks
    }


@pytest.mark.parametrize(
    ("sequence", "centre", "pairs"),
    [
        ("A", "CB", {("HB2", "HB3")}),
        ("A", "N", {("H2", "H3")}),
        ("G", "CA", {("HA2", "HA3")}),
        ("K", "NZ", {("HZ2", "HZ3")}),
        ("P", "N", {("H2", "H3")}),
        ("P", "CG", {("HG2", "HG3")}),
        ("V", "CB", {("CG1", "CG2"), ("HG11", "HG21"), ("HG12", "HG22"), ("HG13", "HG23")}),
        ("GLG", "CG", {("CD1", "CD2"), ("HD11", "HD21"), ("HD12", "HD22"), ("HD13", "HD23")}),
    ],
)
def test_inversions_have_the_same_energy_and_do_not_count(sequence, centre, pairs):
    system = PeptideSystem.from_text(sequence)
    assert inversions(system.peptide)[centre] == pairs
    check_second_naming(system, pairs)


@pytest.mark.parametrize("sequence", ["ACDEF", "GHIKL", "MNPQR", "STVWY", "Ace-A-Nme"])
def test_every_atom_with_four_neighbours_has_one_naming(sequence):
    """All twenty residues: stereocentres and forks are all such atoms, each once."""
    peptide = build_peptide(sequence)
    bound = Counter(atom for bond in peptide.bonds for atom in bond)
    hubs = Counter(peptide.tetrahedra[:, 0].tolist())
    assert hubs == Counter(atom for atom, count in bound.items() if count == 4)
    generator = torch.Generator().manual_seed(1)
    x = peptide.scattered(50, generator)
    assert is_natural(x, peptide.tetrahedra).all()
    mixed = x.clone()
    for fork in peptide.forks:  # any exchanges, and all are undone
        turned = torch.rand(50, generator=generator) < 0.5
        for a, b in fork.swaps:
            mixed[turned, a], mixed[turned, b] = mixed[turned, b], mixed[turned, a]
    assert not is_natural(mixed, peptide.tetrahedra).all()
    assert torch.equal(uninverted(mixed, peptide.forks), x)


@pytest.mark.parametrize("sequence", ["LAVIN", "GKQTR", "PMFS"])
def test_a_flow_of_another_convention_is_told_names_that_count(sequence):
    """Its methyls, forks and amides are named the other way round, all or some of them."""
    peptide = build_peptide(sequence)
    generator = torch.Generator().manual_seed(3)
    # as built, for torsions at random would turn amides too
    own = torch.as_tensor(peptide.positions).repeat(40, 1, 1)
    own = own + 0.002 * torch.randn(own.shape, generator=generator, dtype=own.dtype)
    planar = planar_groups(peptide.residue_index, peptide.residue_names, peptide.atom_names)
    for share in (0.5, 1.0):
        foreign = own.clone()
        for group in (*peptide.forks, *planar):
            if torch.rand((), generator=generator) < share:
                for a, b in group.swaps:
                    foreign[:, [a, b]] = foreign[:, [b, a]]
        row = {
            key: i
            for i, key in enumerate(zip(peptide.residue_index, peptide.atom_names, strict=True))
        }

        def drawn(told, foreign=foreign, row=row):
            """What a flow that knows names only draws for a peptide."""
            rows = [row[key] for key in zip(told.residue_index, told.atom_names, strict=True)]
            return foreign[:, rows]

        assert not peptide.counted(drawn(peptide)).any()
        told = peptide.named_as(drawn(peptide))
        assert peptide.counted(drawn(told)).all()
        assert sorted(told.atom_names) == sorted(peptide.atom_names)
        assert told.named_as(own).atom_names == told.atom_names  # nothing left to exchange
