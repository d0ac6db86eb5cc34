"""Crystals as files that other tools open: `samples.extxyz`, and one CIF for each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gensci.core.elements import SYMBOLS
from gensci.core.lattice import lattice_parameters
from gensci.core.protocols import Tensors
from gensci.core.results import SampleSet, finite_rows
from gensci.io.atomic import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

Array = np.ndarray
ALL, EACH = "samples.extxyz", "cif"


def write_crystals(folder: Path, samples: SampleSet) -> Array:
    """Write `samples.extxyz` and `cif/000000.cif`, ... with the same atoms in the same order.

    The number of a CIF and the `sample` of a frame are the row in `samples.npz`, whose numbers
    these files repeat to 12 digits after the point; the frames have the weights too, which sum to
    one over all samples. Rows without weight or with infinite numbers are left out.

    Args:
        folder: the run folder.
        samples: with `numbers` (n, N), 0 where there is no atom, `fractional` (n, N, 3) and
            `lattice` (n, 3, 3) rows in Angstrom.

    Returns:
        The rows written.
    """
    rows = (finite_rows(samples.x) & samples.log_weight.isfinite().cpu()).nonzero()[:, 0].tolist()
    crystals = [_one(samples.x, row) for row in rows]
    weight = samples.weight.cpu().tolist()
    frames = [
        _extxyz(*crystal, f"sample={row} weight={weight[row]!r}")
        for row, crystal in zip(rows, crystals, strict=True)
    ]
    (folder / EACH).mkdir(exist_ok=True)
    for row, crystal in zip(rows, crystals, strict=True):
        _write(folder / EACH / f"{row:06d}.cif", _cif(*crystal, row))
    _write(folder / ALL, "".join(frames))
    return np.array(rows, dtype=np.int64)


def read_crystals(path: Path) -> tuple[Tensors, torch.Tensor]:
    """Crystals of an extxyz file, and their weights.

    Args:
        path: written by ``write_crystals`` or another program; every frame is periodic.

    Returns:
        ``numbers`` (n, N) int64 padded with 0, ``fractional`` (n, N, 3) and ``lattice`` (n, 3, 3)
        float64; weights (n,) float64, equal where the file has none.
    """
    from ase.io import read

    frames: list[Any] = read(path, index=":", format="extxyz")
    most = max((len(frame) for frame in frames), default=0)
    numbers = torch.zeros(len(frames), most, dtype=torch.int64)
    fractional = torch.zeros(len(frames), most, 3, dtype=torch.float64)
    lattice = torch.zeros(len(frames), 3, 3, dtype=torch.float64)
    weight = torch.full((len(frames),), 1.0 / max(1, len(frames)), dtype=torch.float64)
    for row, frame in enumerate(frames):
        numbers[row, : len(frame)] = torch.from_numpy(frame.numbers)
        inside = frame.get_scaled_positions(wrap=False)
        fractional[row, : len(frame)] = torch.from_numpy(inside)
        lattice[row] = torch.from_numpy(frame.cell.array)
        weight[row] = float(frame.info.get("weight", weight[row]))
    return {"numbers": numbers, "fractional": fractional, "lattice": lattice}, weight


def _one(x: Tensors, row: int) -> tuple[list[str], Array, Array]:
    """Symbols, fractional coordinates and lattice rows of one crystal, in float64."""
    numbers = x["numbers"][row].cpu()
    present = numbers > 0
    symbols = [SYMBOLS[number - 1] for number in numbers[present].tolist()]
    fractional = x["fractional"][row].detach().cpu().double()[present].numpy()
    return symbols, fractional, x["lattice"][row].detach().cpu().double().numpy()


def _extxyz(symbols: list[str], fractional: Array, lattice: Array, facts: str) -> str:
    """One frame of the extended XYZ format, positions in Angstrom."""
    cell = " ".join(f"{value:.12f}" for value in lattice.flatten())
    head = f'Lattice="{cell}" Properties=species:S:1:pos:R:3 pbc="T T T" {facts}'
    lines = (f"{s} {_row(r)}" for s, r in zip(symbols, fractional @ lattice, strict=True))
    return "\n".join((str(len(symbols)), head, *lines)) + "\n"


def _cif(symbols: list[str], fractional: Array, lattice: Array, row: int) -> str:
    """One CIF without symmetry: every atom of the cell is listed."""
    return "\n".join(_cif_lines(symbols, fractional, lattice, row)) + "\n"


def _cif_lines(symbols: list[str], fractional: Array, lattice: Array, row: int) -> Iterator[str]:
    counts = Counter(symbols)
    formula = " ".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))
    yield f"data_{formula.replace(' ', '')}_{row}"
    yield "_symmetry_space_group_name_H-M 'P 1'"
    yield "_symmetry_Int_Tables_number 1"
    numbers = lattice_parameters(torch.from_numpy(lattice)).tolist()
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    for name, value in zip(names, numbers, strict=True):
        yield f"_cell_{name} {value:.12f}"
    yield f"_cell_volume {abs(np.linalg.det(lattice)):.12f}"
    yield f"_chemical_formula_sum '{formula}'"
    yield from ("loop_", "_symmetry_equiv_pos_site_id", "_symmetry_equiv_pos_as_xyz", "1 'x, y, z'")
    yield "loop_"
    columns = ("type_symbol", "label", "symmetry_multiplicity")
    yield from (f"_atom_site_{name}" for name in (*columns, "fract_x", "fract_y", "fract_z"))
    yield "_atom_site_occupancy"
    for number, (symbol, place) in enumerate(zip(symbols, fractional, strict=True), start=1):
        yield f"{symbol} {symbol}{number} 1 {_row(place)} 1"


def _row(values: Array) -> str:
    return " ".join(f"{value:.12f}" for value in values)


def _write(path: Path, text: str) -> None:
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8") and None)
