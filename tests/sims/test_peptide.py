import contextlib
import json
import math
from functools import lru_cache
from pathlib import Path

import numpy as np
import openmm
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from openmm import app, unit

from gensci.sims.peptide import (
    LETTERS,
    PeptideBuildError,
    PeptideSpec,
    PeptideTextError,
    build_peptide,
    chiral_centres,
    is_natural,
    parse_peptide,
)
from gensci.sims.peptide.geometry import place_atoms, random_torsions, torsion_keys

SHARED = Path(__file__).parents[3] / "shared"
ALL_RESIDUES = ("ACDEF", "GHIKL", "MNPQR", "STVWY")
# OpenMM's own tables call the hydrogens and the methyl of the caps so
STANDARD = {(cap, f"HH3{k}"): f"H{k}" for cap in ("ACE", "NME") for k in (1, 2, 3)}
STANDARD[("NME", "CH3")] = "C"
CHARGED = {"D": -1, "E": -1, "K": 1, "R": 1}


@lru_cache
def built(text):
    return build_peptide(text)


def reference_context(peptide, positions):
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(peptide.system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    return context


def charges(peptide):
    (force,) = (f for f in peptide.system.getForces() if isinstance(f, openmm.NonbondedForce))
    values = (force.getParticleParameters(i)[0] for i in range(peptide.num_atoms))
    return np.array([value.value_in_unit(unit.elementary_charge) for value in values])


def atom_places(peptide):
    keys = zip(peptide.residue_index, peptide.atom_names, strict=True)
    return {key: place for place, key in enumerate(keys)}


def torsion(x, indices):
    a, b, c, d = (x[:, i] for i in indices)
    n1, n2 = torch.linalg.cross(b - a, c - b), torch.linalg.cross(c - b, d - c)
    axis = torch.nn.functional.normalize(c - b, dim=-1)
    return torch.atan2((torch.linalg.cross(n1, n2) * axis).sum(-1), (n1 * n2).sum(-1))


@given(
    st.text(alphabet=LETTERS, min_size=1, max_size=12),
    st.sampled_from([None, "ACE"]),
    st.sampled_from([None, "NME"]),
)
def test_names_are_read_back(sequence, n_cap, c_cap):
    spec = PeptideSpec(sequence, n_cap, c_cap)
    assert parse_peptide(spec.name) == spec
    assert parse_peptide(f" {spec.name} ") == spec
    assert spec.num_residues == len(sequence)


def test_caps_in_any_case_and_letters_that_look_like_caps():
    assert parse_peptide("ACE-a-nme".replace("a", "A")) == PeptideSpec("A", "ACE", "NME")
    assert parse_peptide("ACE").residue_names == ("ALA", "CYS", "GLU")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no residues"),
        ("  ", "no residues"),
        ("Ace-", "no residues"),
        ("AXZ", "unknown residue 'X', 'Z'"),
        ("A A", "unknown residue ' '"),
        ("aa", "write 'AA'"),
        ("A-A", "dash"),
        ("Boc-A", "dash"),
        ("A1", "unknown residue '1'"),
    ],
)
def test_unreadable_text_is_one_line_with_a_remedy(text, says):
    with pytest.raises(PeptideTextError, match=says) as caught:
        parse_peptide(text)
    assert "\n" not in str(caught.value)
    assert "AA" in str(caught.value)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(PeptideTextError):
        assert parse_peptide(parse_peptide(text).name).name == parse_peptide(text).name


@pytest.mark.parametrize("text", ["AA", "FID"])
def test_atoms_are_those_of_the_official_topology(text):
    path = SHARED / "fixtures" / "prose_parity.json"
    if not path.exists():
        pytest.skip("needs ../shared/fixtures, which this clone does not have")
    expected = json.loads(path.read_text())["sequences"][text]
    peptide = built(text)
    found = zip(peptide.residue_names, peptide.atom_names, strict=True)
    assert [list(atom) for atom in found] == expected


@pytest.mark.parametrize("text", [*ALL_RESIDUES, "Ace-A-Nme", "A", "P", "AAAAAAAAAA"])
def test_minimum_of_the_force_field_with_the_right_charge_and_handedness(text):
    peptide = built(text)
    context = reference_context(peptide, peptide.positions)
    state = context.getState(getEnergy=True, getForces=True)
    force = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    assert math.sqrt((force**2).sum(axis=1).mean()) < 30.0
    assert charges(peptide).sum() == pytest.approx(
        sum(CHARGED.get(letter, 0) for letter in peptide.spec.sequence), abs=1e-4
    )
    assert peptide.chirality(torch.from_numpy(peptide.positions)[None]).all()
    assert peptide.positions.mean(axis=0) == pytest.approx(0.0, abs=1e-9)
    assert peptide.system.getNumConstraints() == 0


@pytest.mark.parametrize("text", ALL_RESIDUES)
def test_bonds_and_peptide_planes_have_textbook_geometry(text):
    peptide = built(text)
    x = torch.from_numpy(peptide.positions)
    i, j = torch.tensor(peptide.bonds).T
    radius = {"H": 0.031, "C": 0.074, "N": 0.071, "O": 0.066, "S": 0.105}
    covalent = torch.tensor([radius[e] for e in peptide.elements], dtype=x.dtype)
    ratio = (x[i] - x[j]).norm(dim=-1) / (covalent[i] + covalent[j])
    assert ratio.min() > 0.85
    assert ratio.max() < 1.12
    where = atom_places(peptide)
    for k in range(peptide.spec.num_residues - 1):
        plane = [where[k, "CA"], where[k, "C"], where[k + 1, "N"], where[k + 1, "CA"]]
        assert abs(torsion(x[None], plane)).item() > math.radians(150)


@pytest.mark.parametrize("text", [*ALL_RESIDUES, "Ace-A-Nme"])
def test_bonds_are_those_of_the_standard_residues(text):
    peptide = built(text)
    standard = app.Topology()
    chain = standard.addChain()
    for residue in peptide.topology.residues():
        copy = standard.addResidue(residue.name, chain)
        for atom in residue.atoms():
            standard.addAtom(STANDARD.get((residue.name, atom.name), atom.name), atom.element, copy)
    standard.createStandardBonds()
    pairs = sorted(tuple(sorted((b.atom1.index, b.atom2.index))) for b in standard.bonds())
    assert list(peptide.bonds) == pairs


def test_building_twice_gives_the_same_bits():
    assert np.array_equal(build_peptide("GS").positions, build_peptide("GS").positions)


def test_natural_proteins_are_natural_and_their_mirror_images_are_not():
    # a crystal structure that comes with OpenMM
    pdb = app.PDBFile(str(Path(app.__file__).parent / "data" / "test.pdb"))
    atoms = [a for a in pdb.topology.atoms() if a.residue.name not in ("HOH", "CL", "NA")]
    names = tuple(a.residue.name for a in atoms)
    assert {"THR", "PRO", "GLY", "ALA"} <= set(names)
    centres = chiral_centres(
        tuple(a.residue.index for a in atoms), names, tuple(a.name for a in atoms)
    )
    x = torch.tensor(pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    x = x[[a.index for a in atoms]][None]
    residues = len({a.residue.index for a in atoms if a.name == "CB"})
    assert residues > 30
    beta = len({a.residue.index for a in atoms if a.residue.name in ("ILE", "THR")})
    assert len(centres) == residues + beta
    assert is_natural(x, centres).all()
    each = torch.cat([is_natural(-x, row[None]) for row in centres])
    assert not each.any()


# N, CA, C, CB and the two branches at CB, Angstrom, from the PDB chemical component dictionary
COMPONENTS = {
    ("THR", "OG1", "CG2"): [
        [1.543, -0.702, 0.430],
        [0.122, -0.706, 0.056],
        [-0.038, -0.090, -1.309],
        [-0.675, 0.104, 1.079],
        [-0.193, 1.448, 1.103],
        [-0.511, -0.521, 2.466],
    ],
    ("ILE", "CG1", "CG2"): [
        [-1.944, 0.335, -0.343],
        [-0.487, 0.519, -0.369],
        [0.066, -0.032, -1.657],
        [0.140, -0.219, 0.814],
        [-0.421, 0.341, 2.122],
        [1.658, -0.027, 0.788],
    ],
}


@pytest.mark.parametrize("component", COMPONENTS)
def test_branched_residues_of_the_component_dictionary_are_natural(component):
    residue, *branches = component
    x = torch.tensor(COMPONENTS[component])[None]
    centres = chiral_centres((0,) * 6, (residue,) * 6, ("N", "CA", "C", "CB", *branches))
    assert len(centres) == 2
    assert is_natural(x, centres).all()
    allo = x.clone()
    allo[:, 4:] = x[:, [5, 4]]  # the allo form: only the side-chain centre is inverted
    assert is_natural(allo, centres[:1]).all()
    assert not is_natural(allo, centres).any()


def test_not_finite_positions_are_not_natural():
    for text in ("AA", "GG"):
        peptide = built(text)
        x = torch.from_numpy(peptide.positions)[None].repeat(2, 1, 1)
        x[1] = torch.nan
        assert peptide.chirality(x).tolist() == [True, False]


def test_placed_atoms_have_the_torsions_asked_for():
    spec = parse_peptide("Ace-KWI-Nme")
    angles = random_torsions(spec, 5, torch.Generator().manual_seed(1))
    assert set(angles) == set(torsion_keys(spec))
    peptide = build_peptide(spec, minimise=False)
    where = atom_places(peptide)
    x = place_atoms(spec, angles)
    definitions = {
        (1, "phi"): [(0, "C"), (1, "N"), (1, "CA"), (1, "C")],
        (2, "psi"): [(2, "N"), (2, "CA"), (2, "C"), (3, "N")],
        (1, "chi4"): [(1, "CG"), (1, "CD"), (1, "CE"), (1, "NZ")],
        (2, "chi2"): [(2, "CA"), (2, "CB"), (2, "CG"), (2, "CD1")],
        (3, "chi1"): [(3, "N"), (3, "CA"), (3, "CB"), (3, "CG1")],
    }
    for key, atoms in definitions.items():
        found = torsion(x, [where[atom] for atom in atoms])
        assert torch.allclose((found - angles[key]).cos(), torch.ones(5, dtype=x.dtype))


def test_scattered_conformations_differ_and_are_natural():
    peptide = built("Ace-A-Nme")
    x = peptide.scattered(50, torch.Generator().manual_seed(0))
    assert peptide.chirality(x).all()
    where = atom_places(peptide)
    phi = torsion(x, [where[a] for a in ((0, "C"), (1, "N"), (1, "CA"), (1, "C"))])
    assert torch.histc(phi, 4, -math.pi, math.pi).min() > 4


def test_single_zwitterion_combines_the_two_ends():
    # far from the ends nothing changes, and the end charges are near those of the end residues
    single, pair = charges(built("K")), charges(built("KK"))
    first = dict(zip(built("KK").atom_names[:24], pair[:24], strict=True))
    found = dict(zip(built("K").atom_names, single, strict=True))
    assert found["NZ"] == pytest.approx(first["NZ"], abs=0.02)
    assert found["H2"] == pytest.approx(first["H2"], abs=0.1)
    assert found["O"] == pytest.approx(found["OXT"])
    assert found["O"] < -0.7


def test_settings_change_the_system():
    def count(peptide, kind):
        return sum(isinstance(f, kind) for f in peptide.system.getForces())

    vacuum = build_peptide("A", implicit_solvent=None, minimise=False)
    assert count(vacuum, openmm.CustomGBForce) == 0
    assert count(built("A"), openmm.CustomGBForce) == 1
    cut = build_peptide("A", cutoff=2.0, minimise=False)
    (force,) = (f for f in cut.system.getForces() if isinstance(f, openmm.NonbondedForce))
    assert force.getNonbondedMethod() == openmm.NonbondedForce.CutoffNonPeriodic


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"implicit_solvent": "water"}, "use one of hct, obc1"),
        ({"forcefield": ("no-such.xml",)}, "no-such.xml"),
        ({"forcefield": "no-such.xml"}, r"a tuple of files, \('no-such.xml',\)"),
        ({"forcefield": ("tip3p.xml",)}, "cannot describe this peptide"),
    ],
)
def test_unusable_settings_are_refused(settings, says):
    with pytest.raises(PeptideBuildError, match=says):
        build_peptide("AA", **settings)


def test_very_long_peptides_are_refused():
    with pytest.raises(PeptideBuildError, match="at most 64"):
        build_peptide("A" * 65)
