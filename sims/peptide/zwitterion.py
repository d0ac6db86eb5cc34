"""Parameters of a single residue with both ends charged, which Amber force fields do not list.

Amber has one template for a residue inside a chain (M), one at the N-terminus (N) and one at the
C-terminus (C), not for a residue that is both. The template made here adds the two end effects:
``q = q_N + q_C - q_M`` for each atom, so the total charge is exactly that of the side chain. What
belongs to an atom that is split at an end (the amide H, the carbonyl O) is shared by its equivalent
copies. Atom types come from N for the amine, CA and its hydrogens, from C for the carboxylate.
"""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

from .parse import THREE_LETTER, PeptideSpec
from .topology import chain_topology

if TYPE_CHECKING:
    from openmm import app

_AMINE = ("H", "H2", "H3")
_CARBOXYLATE = ("O", "OXT")


def zwitterion_field(topology: app.Topology, files: tuple[str, ...]) -> app.ForceField | None:
    """Force field with the template of a one-residue zwitterion; None for any longer peptide.

    Args:
        topology: The peptide.
        files: OpenMM force-field files.
    """
    residues = list(topology.residues())
    return _extended(residues[0].name, files) if len(residues) == 1 else None


@lru_cache(maxsize=32)
def _extended(residue: str, files: tuple[str, ...]) -> app.ForceField:
    from openmm import app

    field = app.ForceField(*files)
    letter = next(one for one, three in THREE_LETTER.items() if three == residue)
    templates = field.getMatchingTemplates(chain_topology(PeptideSpec(letter * 3)))
    rows = [{atom.name: atom for atom in template.atoms} for template in templates]
    topology = chain_topology(PeptideSpec(letter))
    field.loadFile(io.StringIO(_template_xml(residue, topology, rows)))
    return field


def _template_xml(residue: str, topology: app.Topology, rows: list[dict[str, Any]]) -> str:
    lines = [
        f"<Atom name={quoteattr(atom.name)} type={quoteattr(_type(atom.name, rows))} "
        f'charge="{_charge(atom.name, rows):.10g}"/>'
        for atom in topology.atoms()
    ]
    lines += [
        f"<Bond atomName1={quoteattr(bond.atom1.name)} atomName2={quoteattr(bond.atom2.name)}/>"
        for bond in topology.bonds()
    ]
    body = "".join(lines)
    return (
        f'<ForceField><Residues><Residue name="Z{residue}">{body}</Residue></Residues></ForceField>'
    )


def _amine_names(first: dict[str, Any]) -> list[str]:
    """Amber calls our H, H2, H3 at the N-terminus H1, H2, H3 (proline: H2, H3)."""
    return [name for name in ("H1", "H2", "H3") if name in first]


def _type(name: str, rows: list[dict[str, Any]]) -> str:
    first, _, last = rows
    if name in ("C", *_CARBOXYLATE):
        return last[name].type
    return first["H1" if name == "H" else name].type


def _charge(name: str, rows: list[dict[str, Any]]) -> float:
    first, middle, last = ({n: a.parameters["charge"] for n, a in row.items()} for row in rows)
    if name in _AMINE:
        copies = _amine_names(first)
        shift = last.get("H", 0.0) - middle.get("H", 0.0)
        return first["H1" if name == "H" else name] + shift / len(copies)
    if name in _CARBOXYLATE:
        return last[name] + (first["O"] - middle["O"]) / len(_CARBOXYLATE)
    return first[name] + last[name] - middle[name]
