"""Masses: hydrogens made heavier, so that a longer step is stable."""

from collections.abc import Sequence

from torch import Tensor


def repartitioned_masses(
    masses: Tensor, bonds: Sequence[tuple[int, int]], hydrogen: float = 3.0
) -> Tensor:
    """Masses with hydrogens made heavier at the cost of the atom they are bound to.

    Configurational averages do not depend on masses; slower hydrogens allow a longer step.

    Args:
        masses: (atoms,) Da.
        bonds: pairs of atom indices.
        hydrogen: new mass of every hydrogen, Da.

    Raises:
        ValueError: a heavy atom would be left lighter than its hydrogens.
    """
    new = masses.clone()
    for a, b in bonds:
        light, heavy = (a, b) if masses[a] < masses[b] else (b, a)
        if masses[light] < 1.5:
            new[heavy] -= hydrogen - masses[light]
            new[light] = hydrogen
    if (new < hydrogen - 1e-6).any():
        raise ValueError(f"hydrogen mass {hydrogen} leaves too little on heavy atoms; lower it")
    return new
