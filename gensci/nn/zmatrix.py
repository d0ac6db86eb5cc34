"""Internal coordinates of a molecule: who is placed from whom, and the map to and from space.

Atom ``i`` is placed from three earlier atoms: its parent ``p`` (bonded to it), ``g`` and ``s``.
With ``e1`` along ``p -> g`` and ``e2`` the part of ``p -> s`` at right angles to it,

    x_i = x_p + d (cos(theta) e1 + sin(theta) (cos(phi) e2 + sin(phi) e3)),   e3 = e1 x e2,

so ``d`` is the bond length, ``theta`` the bond angle and ``phi`` the dihedral of ``i`` and ``s``
about ``p - g``. The volume element is ``dx_i = d^2 sin(theta) dd dtheta dphi``. An atom that closes
a ring is bonded to both ``p`` and ``g``: its second coordinate is not the angle but its distance
``d2`` from ``g``, so that both bonds are coordinates, and ``dx_i = d d2 / |p - g| dd dd2 dphi``.
Ref: Parsons et al. 2005, doi:10.1002/jcc.20237 (placing atoms); Noe et al. 2019,
doi:10.1126/science.aaw1147 (internal coordinates in Boltzmann generators).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

GAS_CONSTANT = 0.00831446261815324  # kJ/mol/K
BACKBONE = ("N", "CA", "C", "CH3")  # CH3 is the methyl carbon of a cap
MIN_SINE = 1e-6


class InternalCoordinates(NamedTuple):
    """Distances (nm), bends and torsions of shape (batch, atoms), in placing order.

    A bend is an angle (radians), or the second distance (nm) of an atom that closes a ring.
    Entries that an atom of the first three does not have are filled with neutral values.
    """

    distance: Tensor
    bend: Tensor
    torsion: Tensor


class Frames(NamedTuple):
    """The frame an atom is placed in: ``origin`` (..., 3), ``axes`` (..., 3, 3) with rows e1-e3."""

    origin: Tensor
    axes: Tensor


@dataclass(frozen=True)
class ZMatrix:
    """The tree of placements. All indices but ``order`` count in placing order.

    Attributes:
        order: (atoms,) atom of the molecule that is placed first, second, ...
        parent, grand, side: (atoms,) the atoms p, g, s; 0 where there is none.
        closing: (atoms,) bool, True for an atom bonded to both p and g.
        rigid: (atoms,) bool, True where the torsion has one value fixed by the bonding.
        torsion0: (atoms,) that value (radians); 0 for rotors.
    """

    order: Tensor
    parent: Tensor
    grand: Tensor
    side: Tensor
    closing: Tensor
    rigid: Tensor
    torsion0: Tensor


def neighbour_lists(num_atoms: int, bonds: list[tuple[int, int]]) -> list[list[int]]:
    """Bonded atoms of each atom, in increasing order of the bonds."""
    neighbours: list[list[int]] = [[] for _ in range(num_atoms)]
    for a, b in sorted({(min(bond), max(bond)) for bond in bonds}):
        neighbours[a].append(b)
        neighbours[b].append(a)
    return neighbours


def topological_distances(num_atoms: int, bonds: list[tuple[int, int]], cap: int) -> Tensor:
    """Number of bonds between atoms, at most ``cap``: (atoms, atoms) int64."""
    hops = torch.full((num_atoms, num_atoms), cap, dtype=torch.long)
    hops.fill_diagonal_(0)
    for a, b in bonds:
        hops[a, b] = hops[b, a] = 1
    for middle in range(num_atoms):
        hops = torch.minimum(hops, hops[:, middle, None] + hops[None, middle])
    return hops


def _placing_class(name: str, element: str) -> int:
    if element == "H":
        return 3
    if name in BACKBONE:
        return 0
    return 1 if name in ("O", "OXT") else 2


def placing_order(
    names: list[str], elements: list[str], neighbours: list[list[int]], first: int
) -> list[int]:
    """Heavy backbone, then oxygens, side chains and hydrogens, each beside a placed atom."""
    rank = [(_placing_class(n, e), i) for i, (n, e) in enumerate(zip(names, elements, strict=True))]
    order, placed = [first], {first}
    while len(order) < len(names):
        reachable = {b for a in order for b in neighbours[a]} - placed
        if not reachable:
            raise ValueError("the atoms are not one bonded molecule; give one peptide at a time")
        nearest = min(reachable, key=lambda i: rank[i])
        order.append(nearest)
        placed.add(nearest)
    return order


def _in_one_ring(a: int, b: int, neighbours: list[list[int]]) -> bool:
    """Whether two atoms, bonded or with one between them, are joined by a second path."""
    if b not in neighbours[a]:
        return any(_in_one_ring(a, n, neighbours) for n in neighbours[a] if n in neighbours[b])
    seen, stack = {a}, [n for n in neighbours[a] if n != b]
    while stack:
        atom = stack.pop()
        if atom == b:
            return True
        if atom not in seen:
            seen.add(atom)
            stack.extend(neighbours[atom])
    return False


def _references(i: int, before: list[int], neighbours: list[list[int]]) -> tuple[int, int, int]:
    """The atoms p, g, s for atom ``i`` given those placed ``before`` it (in order)."""
    placed = {atom: k for k, atom in enumerate(before)}

    def earlier(atom: int, *without: int) -> list[int]:
        found = [n for n in neighbours[atom] if n in placed and n not in without]
        return sorted(found, key=placed.__getitem__)

    bonded = earlier(i)
    parent = bonded[0]
    if len(bonded) > 1:
        return parent, bonded[1], (earlier(parent, bonded[1]) + earlier(bonded[1], parent))[0]
    around = earlier(parent)
    if not around:
        return parent, -1, -1
    grand = around[0]
    if len(around) > 1:
        return parent, grand, around[1]
    beyond = earlier(grand, parent)
    return parent, grand, beyond[0] if beyond else -1


def _ideal_torsion(phi: float, planar: bool) -> float:
    """The nearest of the values that bonding allows: 0 and 180 degrees, or 120 either way too."""
    ideals = (0.0, math.pi) if planar else (2 * math.pi / 3, -2 * math.pi / 3, math.pi)
    return min(ideals, key=lambda t: abs(math.remainder(phi - t, 2 * math.pi)))


def build_zmatrix(
    names: list[str],
    elements: list[str],
    bonds: list[tuple[int, int]],
    positions: Tensor,
) -> ZMatrix:
    """Placing tree of a molecule.

    Args:
        names, elements: of the atoms; ``bonds``: index pairs.
        positions: (atoms, 3) nm, any conformation of the right chirality; only the handedness
            of its centres and the planarity of its rings are read from it.
    """
    neighbours = neighbour_lists(len(names), bonds)
    first = min(range(len(names)), key=lambda i: (_placing_class(names[i], elements[i]), i))
    order = placing_order(names, elements, neighbours, first)
    rank = {atom: k for k, atom in enumerate(order)}
    refs = [(0, 0, 0)]
    rigid, ring, closing = [True], [False], [False]
    for k, atom in enumerate(order[1:], start=1):
        p, g, s = _references(atom, order[:k], neighbours)
        refs.append(tuple(rank.get(a, 0) for a in (p, g, s)))
        closing.append(k > 2 and g in neighbours[atom])
        sibling = s in neighbours[p] and not closing[-1]
        ring.append(g >= 0 and not sibling and _in_one_ring(p, g, neighbours))
        flat = ring[-1] and max(len(neighbours[a]) for a in (p, g, atom)) <= 3
        rigid.append(g < 0 or s < 0 or sibling or flat)
    parent, grand, side = torch.tensor(refs).T.contiguous()
    z = ZMatrix(
        torch.tensor(order),
        parent,
        grand,
        side,
        torch.tensor(closing),
        torch.tensor(rigid),
        torch.zeros(len(names)),
    )
    phi = internal_coordinates(positions[None, z.order].double(), z).torsion[0]
    ideal = [
        _ideal_torsion(float(phi[k]), ring[k] or len(neighbours[order[int(parent[k])]]) == 3)
        if rigid[k] and k > 2
        else 0.0
        for k in range(len(order))
    ]
    return replace(z, torsion0=torch.tensor(ideal))


def rigid_groups(z: ZMatrix) -> Tensor:
    """Atoms that turn with a rotor because their torsion is fixed relative to its own.

    Returns:
        (atoms, 3) int64: the atom itself and its followers in placing order; -1 for none. Atoms
        with a rigid torsion have themselves only.
    """
    group = torch.full((len(z.order), 3), -1)
    for i in range(len(z.order)):
        followers = z.rigid & (z.parent == z.parent[i]) & (z.grand == z.grand[i]) & (z.side == i)
        members = [i, *followers.nonzero()[:, 0].tolist()] if i > 2 and not z.rigid[i] else [i]
        group[i, : len(members)] = torch.tensor(members)
    return group


def _unit(v: Tensor) -> Tensor:
    return v / v.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def frames(x_parent: Tensor, x_grand: Tensor, x_side: Tensor) -> Frames:
    """Frames from the positions (..., 3) of p, g and s."""
    e1 = _unit(x_grand - x_parent)
    to_side = x_side - x_parent
    e2 = _unit(to_side - (to_side * e1).sum(-1, keepdim=True) * e1)
    return Frames(x_parent, torch.stack((e1, e2, torch.linalg.cross(e1, e2)), dim=-2))


def zmatrix_frames(x: Tensor, z: ZMatrix) -> Frames:
    """Frames of x (batch, atoms, 3) in placing order; those of atoms 0-2 are not to be used."""
    return frames(x[:, z.parent], x[:, z.grand], x[:, z.side])


def internal_coordinates(x: Tensor, z: ZMatrix) -> InternalCoordinates:
    """Internal coordinates of x (batch, atoms, 3) nm, atoms in placing order."""
    frame = zmatrix_frames(x, z)
    delta = x - frame.origin
    distance = delta.norm(dim=-1)
    local = torch.einsum("bnc,bnkc->bnk", delta, frame.axes)
    # Not from local[..., 1:]: the third atom has a parent and an angle, but no e2 and e3.
    across = delta - local[..., :1] * frame.axes[..., 0, :]
    across = across.square().sum(-1).clamp_min(1e-30).sqrt()
    bend = torch.atan2(across, local[..., 0])
    bend = torch.where(z.closing, (x - x[:, z.grand]).norm(dim=-1), bend)
    torsion = torch.atan2(local[..., 2], local[..., 1])
    index = torch.arange(x.shape[1], device=x.device)
    return InternalCoordinates(
        torch.where(index > 0, distance, torch.ones_like(distance)),
        torch.where(index > 1, bend, torch.full_like(bend, math.pi / 2)),
        torch.where(index > 2, torsion, torch.zeros_like(torsion)),
    )


def closing_cosine(distance: Tensor, second: Tensor, between: Tensor) -> Tensor:
    """Cosine at p of the triangle with sides p-i, g-i and p-g; beyond one where none exists."""
    return (distance.square() + between.square() - second.square()) / (2 * distance * between)


def place(frame: Frames, distance: Tensor, cosine: Tensor, torsion: Tensor) -> Tensor:
    """Position (..., 3) of an atom with this distance, cosine of the angle and torsion (...,)."""
    sine = torch.sqrt(1 - cosine.square())
    local = torch.stack((cosine, sine * torch.cos(torsion), sine * torch.sin(torsion)), dim=-1)
    return frame.origin + distance[..., None] * (local[..., None, :] @ frame.axes)[..., 0, :]


def log_volume(ic: InternalCoordinates, between: Tensor, closing: Tensor) -> Tensor:
    """Log |dx / d(internal, rotation, position of atom 0)|: (batch,).

    The rotation is measured by its Haar volume 8 pi^2, so a uniform rotation adds
    ``-log(8 pi^2)`` to a log-density in internal coordinates.

    Args:
        ic: internal coordinates (batch, atoms).
        between: distances (batch, atoms) of p and g, nm; read for closing atoms only.
        closing: (atoms,) bool.
    """
    sine = torch.sin(ic.bend).clamp_min(MIN_SINE)
    angular = 2 * ic.distance.log() + sine.log()
    closed = ic.distance.log() + ic.bend.clamp_min(MIN_SINE).log() - between.log()
    return torch.where(closing, closed, angular).sum(-1)


def force_field_widths(
    system: Any, z: ZMatrix, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Equilibrium bond lengths and bends with their thermal widths sqrt(kT / k).

    Args:
        system: an ``openmm.System`` with harmonic bonds and angles.
        z: the placing tree; ``temperature`` in K.

    Returns:
        length (nm), its width, bend (radians, or nm where an atom closes a ring), its width: each
        (atoms,), in placing order.
    """
    kt = GAS_CONSTANT * temperature
    bonds, angles = {}, {}
    for force in system.getForces():
        kind = type(force).__name__
        if kind == "HarmonicBondForce":
            for n in range(force.getNumBonds()):
                a, b, r0, k = force.getBondParameters(n)
                bonds[a, b] = bonds[b, a] = (r0 / r0.unit, k / k.unit)
        elif kind == "HarmonicAngleForce":
            for n in range(force.getNumAngles()):
                a, b, c, t0, k = force.getAngleParameters(n)
                angles[a, b, c] = angles[c, b, a] = (t0 / t0.unit, k / k.unit)
    order = z.order.tolist()
    rows = []
    for k, (p, g) in enumerate(zip(z.parent.tolist(), z.grand.tolist(), strict=True)):
        r0, kr = bonds[order[k], order[p]] if k > 0 else (0.15, 1e5)
        t0, ka = (2.0, 400.0)
        if z.closing[k]:
            t0, ka = bonds[order[k], order[g]]
        elif k > 1:
            t0, ka = angles[order[k], order[p], order[g]]
        rows.append((r0, math.sqrt(kt / kr), t0, math.sqrt(kt / ka)))
    return tuple(torch.tensor(column) for column in zip(*rows, strict=True))
