"""Amber prmtop and inpcrd text of an OpenMM System, since AmberTools is not at hand in the tests.

Force fields of Amber's functional form only; one residue per chain link, as in the topology.
"""

import itertools
import math

import numpy as np
import openmm
from openmm import unit
from openmm.app.internal import customgbforces

KCAL, ANGSTROM, CHARGE = 4.184, 10.0, 18.2223


def prmtop_text(topology, system, radii=customgbforces.GBSAOBC1Force):
    """The text of a prmtop; radii and screening are those of an implicit solvent of OpenMM."""
    atoms = list(topology.atoms())
    hydrogen = [atom.element.symbol == "H" for atom in atoms]
    forces = {type(force): force for force in system.getForces()}
    nonbonded = forces[openmm.NonbondedForce]
    types, lennard_jones = _types(nonbonded)
    bonds, bond_types = _terms(forces[openmm.HarmonicBondForce], "Bond")
    angles, angle_types = _terms(forces[openmm.HarmonicAngleForce], "Angle")
    torsions, torsion_types = _torsions(forces[openmm.PeriodicTorsionForce], nonbonded, bonds)
    with_h, without_h = _split(bonds, hydrogen)
    angles_h, angles_no_h = _split(angles, hydrogen)
    torsions_h, torsions_no_h = _split(torsions, hydrogen)
    excluded = _excluded(nonbonded, len(atoms))
    charges = [_plain(nonbonded.getParticleParameters(i)[0]) for i in range(len(atoms))]
    residues = list(topology.residues())
    first = [next(residue.atoms()).index + 1 for residue in residues]
    born = np.array([row[:2] for row in radii.getStandardParameters(topology)])
    count = max(types)
    triangle = [(a, b) for a in range(count) for b in range(a + 1)]
    pair = {key: i for i, (a, b) in enumerate(triangle) for key in ((a, b), (b, a))}
    pointers = [0] * 31
    sizes = [len(atoms), count, len(with_h), len(without_h), len(angles_h), len(angles_no_h),
             len(torsions_h), len(torsions_no_h), 0, 0, sum(map(len, excluded)), len(residues),
             len(without_h), len(angles_no_h), len(torsions_no_h), len(bond_types),
             len(angle_types), len(torsion_types), 1]  # fmt: skip
    pointers[: len(sizes)] = sizes
    acoef, bcoef = _coefficients(lennard_jones, pair)
    sections = [
        ("TITLE", "20a4", ["test"]),
        ("POINTERS", "10I8", pointers),
        ("ATOM_NAME", "20a4", [atom.name for atom in atoms]),
        ("CHARGE", "5E16.8", [CHARGE * q for q in charges]),
        ("ATOMIC_NUMBER", "10I8", [atom.element.atomic_number for atom in atoms]),
        ("MASS", "5E16.8", [_plain(system.getParticleMass(i)) for i in range(len(atoms))]),
        ("ATOM_TYPE_INDEX", "10I8", types),
        ("NUMBER_EXCLUDED_ATOMS", "10I8", [len(row) for row in excluded]),
        ("NONBONDED_PARM_INDEX", "10I8",
         [pair[a, b] + 1 for a in range(count) for b in range(count)]),
        ("RESIDUE_LABEL", "20a4", [residue.name for residue in residues]),
        ("RESIDUE_POINTER", "10I8", first),
        *_type_sections(bond_types, angle_types, torsion_types),
        ("SOLTY", "5E16.8", [0.0] * count),
        ("LENNARD_JONES_ACOEF", "5E16.8", acoef),
        ("LENNARD_JONES_BCOEF", "5E16.8", bcoef),
        ("BONDS_INC_HYDROGEN", "10I8", _joined(with_h)),
        ("BONDS_WITHOUT_HYDROGEN", "10I8", _joined(without_h)),
        ("ANGLES_INC_HYDROGEN", "10I8", _joined(angles_h)),
        ("ANGLES_WITHOUT_HYDROGEN", "10I8", _joined(angles_no_h)),
        ("DIHEDRALS_INC_HYDROGEN", "10I8", _joined(torsions_h)),
        ("DIHEDRALS_WITHOUT_HYDROGEN", "10I8", _joined(torsions_no_h)),
        ("EXCLUDED_ATOMS_LIST", "10I8", _joined(excluded)),
        *((name, "5E16.8", []) for name in ("HBOND_ACOEF", "HBOND_BCOEF", "HBCUT")),
        ("AMBER_ATOM_TYPE", "20a4", [atom.element.symbol for atom in atoms]),
        ("RADIUS_SET", "1a80", ["modified Bondi radii (mbondi)"]),
        ("RADII", "5E16.8", born[:, 0] * ANGSTROM),
        ("SCREEN", "5E16.8", born[:, 1]),
    ]  # fmt: skip
    head = "%VERSION  VERSION_STAMP = V0001.000  DATE = 01/01/26  00:00:00\n"
    return head + "".join(_section(*row) for row in sections)


def _type_sections(bond_types, angle_types, torsion_types):
    """The constants of every type of bond, angle and torsion, in Amber's units."""
    return [
        ("BOND_FORCE_CONSTANT", "5E16.8", [k / 2 / KCAL / ANGSTROM**2 for _, k in bond_types]),
        ("BOND_EQUIL_VALUE", "5E16.8", [length * ANGSTROM for length, _ in bond_types]),
        ("ANGLE_FORCE_CONSTANT", "5E16.8", [k / 2 / KCAL for _, k in angle_types]),
        ("ANGLE_EQUIL_VALUE", "5E16.8", [theta for theta, _ in angle_types]),
        ("DIHEDRAL_FORCE_CONSTANT", "5E16.8", [k / KCAL for _, _, k in torsion_types]),
        ("DIHEDRAL_PERIODICITY", "5E16.8", [n for n, _, _ in torsion_types]),
        ("DIHEDRAL_PHASE", "5E16.8", [phase for _, phase, _ in torsion_types]),
        ("SCEE_SCALE_FACTOR", "5E16.8", [1.2] * len(torsion_types)),
        ("SCNB_SCALE_FACTOR", "5E16.8", [2.0] * len(torsion_types)),
    ]  # fmt: skip


def inpcrd_text(positions):
    """The text of an inpcrd with positions (atoms, 3) in nm."""
    numbers = [f"{value:12.7f}" for value in np.asarray(positions).reshape(-1) * ANGSTROM]
    rows = ["".join(numbers[i : i + 6]) for i in range(0, len(numbers), 6)]
    return "\n".join(["test", f"{len(positions):6d}", *rows]) + "\n"


def _plain(value):
    return value.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(value) else value


def _section(name, layout, values):
    if "a" in layout:
        per_line, width = map(int, layout.split("a"))
        words = [f"{value:<{width}}" for value in values]
    elif "I" in layout:
        per_line, width = map(int, layout.split("I"))
        words = [f"{value:{width}d}" for value in values]
    else:
        per_line, width = 5, 16
        words = [f"{value:16.8E}" for value in values]
    rows = ["".join(words[i : i + per_line]) for i in range(0, len(words), per_line)] or [""]
    return f"%FLAG {name}\n%FORMAT({layout})\n" + "\n".join(rows) + "\n"


def _types(nonbonded):
    """Lennard-Jones type of every atom, counted from 1, and sigma and epsilon of the types."""
    found = {}
    rows = [nonbonded.getParticleParameters(i) for i in range(nonbonded.getNumParticles())]
    types = [found.setdefault((_plain(s), _plain(e)), len(found) + 1) for _, s, e in rows]
    return types, list(found)


def _coefficients(lennard_jones, pair):
    """A = 4 epsilon sigma^12 and B = 4 epsilon sigma^6 in kcal and Angstrom, Lorentz-Berthelot."""
    size = len(lennard_jones) * (len(lennard_jones) + 1) // 2
    acoef, bcoef = [0.0] * size, [0.0] * size
    for (a, b), place in pair.items():
        sigma = 0.5 * (lennard_jones[a][0] + lennard_jones[b][0]) * ANGSTROM
        epsilon = math.sqrt(lennard_jones[a][1] * lennard_jones[b][1]) / KCAL
        acoef[place], bcoef[place] = 4 * epsilon * sigma**12, 4 * epsilon * sigma**6
    return acoef, bcoef


def _terms(force, kind):
    """Rows of atoms and a type, and the parameters of the types."""
    found, rows = {}, []
    for i in range(getattr(force, f"getNum{kind}s")()):
        *atoms, first, k = getattr(force, f"get{kind}Parameters")(i)
        key = (_plain(first), _plain(k))
        rows.append([*(3 * atom for atom in atoms), found.setdefault(key, len(found) + 1)])
    return rows, list(found)


def _torsions(force, nonbonded, bonds):
    """As `_terms`; negative third or fourth atoms keep a pair from being counted twice."""
    bound = {frozenset((a // 3, b // 3)) for a, b, _ in bonds}
    scaled = set()
    for i in range(nonbonded.getNumExceptions()):
        a, b, charge, _, epsilon = nonbonded.getExceptionParameters(i)
        if _plain(charge) or _plain(epsilon):
            scaled.add(frozenset((a, b)))
    found, rows = {}, []
    for i in range(force.getNumTorsions()):
        a, b, c, d, n, phase, k = force.getTorsionParameters(i)
        if 0 in (c, d):  # zero has no sign
            a, b, c, d = d, c, b, a
        proper = {frozenset(pair) for pair in ((a, b), (b, c), (c, d))} <= bound
        ends = frozenset((a, d))
        counted = proper and ends in scaled
        scaled -= {ends} if counted else set()
        key = (n, _plain(phase), _plain(k))
        kind = found.setdefault(key, len(found) + 1)
        rows.append([3 * a, 3 * b, 3 * c * (1 if counted else -1), 3 * d * (1 if proper else -1),
                     kind])  # fmt: skip
    for ends in scaled:  # a force field may leave out torsions of zero strength, Amber does not
        a, b, c, d = next(path for path in _paths(bound) if {path[0], path[3]} == set(ends))
        rows.append([3 * a, 3 * b, 3 * c, 3 * d, found.setdefault((1, 0.0, 0.0), len(found) + 1)])
    return rows, list(found)


def _paths(bound):
    """Chains of four bound atoms that do not end with atom 0."""
    for b, c in itertools.permutations({atom for pair in bound for atom in pair}, 2):
        if c == 0 or frozenset((b, c)) not in bound:
            continue
        for a, d in itertools.product({*itertools.chain(*bound)}, repeat=2):
            if d and a not in (c, d) and d != b and {frozenset((a, b)), frozenset((c, d))} <= bound:
                yield a, b, c, d


def _joined(rows):
    return [value for row in rows for value in row]


def _split(rows, hydrogen):
    """Rows with hydrogens, and rows without."""
    has = [any(hydrogen[abs(atom) // 3] for atom in row[:-1]) for row in rows]
    with_h = [row for row, h in zip(rows, has, strict=True) if h]
    return with_h, [row for row, h in zip(rows, has, strict=True) if not h]


def _excluded(nonbonded, count):
    """Atoms after each atom that it does not meet in full, counted from 1; a zero for none."""
    rows = [set() for _ in range(count)]
    for i in range(nonbonded.getNumExceptions()):
        a, b, *_ = nonbonded.getExceptionParameters(i)
        rows[min(a, b)].add(max(a, b) + 1)
    return [sorted(row) or [0] for row in rows]
