"""Training rows beside a template each: what a model learns to correct when it is given one.

Every row of a table gets templates from a pool that is asked without the row itself, so that the
model meets in training the templates that it will meet for a new composition. Where the template
is of the right kind, the row is rewritten in its frame.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.data.structure_table import Structure, StructureTable
from gensci.data.template_alignment import align
from gensci.data.template_elements import cell_volume
from gensci.data.template_fingerprint import fingerprint, mismatch
from gensci.data.templates import Template, TemplatePool

Array = np.ndarray
ARRAYS, SUMMARY = "pairs.safetensors", "pairs.json"
CHUNK = 256
NEAR = 5  # templates that a pair is drawn from
COPY_MISMATCH, COPY_VOLUME = 0.1, 0.01


@dataclass(frozen=True)
class Pair:
    """A row and a template for it; the atoms of both are in the same order.

    Attributes:
        template_id: row of the pool.
        numbers: (N,) uint8 elements of the row.
        source_numbers: (N,) uint8 elements of the pool's structure at the same places.
        template_fractional: (N, 3) float32.
        template_lattice: (6,) float32, rescaled for the elements of the row.
        distance: substitution distance.
        same: the template is of the right kind and the target lies in its frame.
        fractional: (N, 3) float32 of the target in [0, 1).
        lattice: (6,) float32 of the target.
        residual: root mean square of the fractional differences; NaN where not the same.
    """

    template_id: str
    numbers: Array
    source_numbers: Array
    template_fractional: Array
    template_lattice: Array
    distance: float
    same: bool
    fractional: Array
    lattice: Array
    residual: float


@dataclass(frozen=True)
class TemplatePairs:
    """Pairs of the rows of a table, in flat arrays.

    Attributes:
        starts: (rows + 1,) int64; row i has the pairs starts[i] to starts[i + 1].
        offsets: (pairs + 1,) int64; pair j has the atoms offsets[j] to offsets[j + 1].
        ids: of the templates, one for each pair.
        atoms: arrays by atom, named like the attributes of `Pair`.
        pairs: arrays by pair, named like the attributes of `Pair`.
    """

    starts: Array
    offsets: Array
    ids: tuple[str, ...]
    atoms: dict[str, Array]
    pairs: dict[str, Array]

    def __len__(self) -> int:
        """Rows of the table."""
        return len(self.starts) - 1

    def count(self, row: int) -> int:
        """Pairs of a row."""
        return int(self.starts[row + 1] - self.starts[row])

    def row(self, row: int, choice: int = 0) -> Pair | None:
        """A pair of a row, None where it has none; `choice` counts round."""
        if not self.count(row):
            return None
        pair = int(self.starts[row]) + choice % self.count(row)
        atoms = slice(self.offsets[pair], self.offsets[pair + 1])
        return Pair(
            template_id=self.ids[pair],
            **{name: value[atoms] for name, value in self.atoms.items()},
            template_lattice=self.pairs["template_lattice"][pair],
            lattice=self.pairs["lattice"][pair],
            distance=float(self.pairs["distance"][pair]),
            same=bool(self.pairs["same"][pair]),
            residual=float(self.pairs["residual"][pair]),
        )

    @staticmethod
    def load(folder: str | Path) -> TemplatePairs:
        """The pairs beside a table.

        Raises:
            UsageError: there are none, or the file is damaged.
        """
        path = Path(folder) / ARRAYS
        try:
            return _from_arrays(load_file(path))
        except (OSError, KeyError, ValueError, SafetensorError) as error:
            raise UsageError(
                f"no template pairs in {folder} ({error})", "make them with 'gensci data pair'"
            ) from error


def make_pairs(
    folder: str | Path,
    pool: TemplatePool,
    num_pairs: int = 2,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Pair the rows of a prepared table with templates and write the pairs beside it.

    A killed run goes on where it was when it is started again with the same arguments.

    Args:
        folder: of a `StructureTable` of crystals.
        pool: templates; rows of the table may be among them.
        num_pairs: different templates for each row.
        seed: of the choice among the nearest.
        progress: called with the rows done and the rows in all.

    Returns:
        Statistics of the pairs, as written to `pairs.json`.
    """
    folder = Path(folder)
    table = StructureTable.load(folder)
    key = hashlib.sha256(repr((table.ids, pool.ids, num_pairs, seed)).encode())
    key.update(pool.elements.embedding.tobytes())
    chunks = folder / f".pairs-{key.hexdigest()[:16]}"
    chunks.mkdir(exist_ok=True)
    copies = _Copies(pool)
    parts = []
    for first in range(0, len(table), CHUNK):
        path = chunks / f"{first}.safetensors"
        if not path.exists():
            rows = range(first, min(first + CHUNK, len(table)))
            _write(path, _chunk(table, rows, pool, copies, num_pairs, seed))
        parts.append(load_file(path))
        if progress:
            progress(min(first + CHUNK, len(table)), len(table))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    _write(folder / ARRAYS, arrays)
    summary = {"num_pairs": num_pairs, "seed": seed, "pool_rows": len(pool), **statistics(arrays)}
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(chunks)
    return summary


def statistics(arrays: dict[str, Array]) -> dict[str, float]:
    """Share of rows with a template, of pairs of one kind, and how closely."""
    same = arrays["same"].astype(bool)
    residual = arrays["residual"][same]
    volumes = [cell_volume(arrays[name][same]) for name in ("lattice", "template_lattice")]
    found = {
        "rows": len(arrays["counts"]),
        "rows_without_template": int((arrays["counts"] == 0).sum()),
        "pairs": len(same),
        "same": float(same.mean()) if len(same) else 0.0,
    }
    if same.any():
        middle, large = np.quantile(residual, [0.5, 0.9])
        found |= {"residual_median": float(middle), "residual_90_percent": float(large)}
        found["log_volume_error"] = float(np.abs(np.log(volumes[0] / volumes[1])).mean())
    return found


class _Copies:
    """Finds the rows of a pool that are the same crystal as a given one."""

    def __init__(self, pool: TemplatePool) -> None:
        self.pool = pool
        self.rows: dict[bytes, list[int]] = {}
        for row in range(len(pool)):
            numbers = pool.numbers[pool.offsets[row] : pool.offsets[row + 1]]
            self.rows.setdefault(np.sort(numbers).tobytes(), []).append(row)

    def of(self, structure: Structure) -> set[str]:
        """Ids of the structure itself and of its copies.

        The polymorphs of one element stay: their test rows have copies in training as well.
        """
        ids = {structure.id}
        if len(np.unique(structure.numbers)) == 1:
            return ids
        rows = self.rows.get(np.sort(structure.numbers).tobytes(), [])
        rows = [row for row in rows if self.pool.ids[row] != structure.id]
        if not rows:
            return ids
        own = fingerprint(structure.numbers, structure.coordinates, structure.lattice)
        return ids | {
            self.pool.ids[row] for row in rows if self._equal(row, structure, own.density)
        }

    def _equal(self, row: int, structure: Structure, density: Array) -> bool:
        known = self.pool.structure(row)
        volume = np.log(cell_volume(known.lattice) / cell_volume(structure.lattice))
        if abs(volume) > COPY_VOLUME:
            return False
        other = fingerprint(known.numbers, known.coordinates, known.lattice)
        return bool(mismatch(other.density, density) < COPY_MISMATCH)


def choose(
    pool: TemplatePool, structure: Structure, exclude: set[str], count: int, rng: torch.Generator
) -> list[Template]:
    """Different templates near a structure, as a model meets them when it is asked for many.

    Each is the best with probability 1/2; else one of the next four, in the order of the votes or
    in the order of distance. Among polymorphs of one element every row is as near. The row is
    left out of the pool, so it is novel to it, as a test row is.
    """
    voted = pool.candidates(structure.numbers, NEAR, exclude, novel=True)
    if len(np.unique(structure.numbers)) == 1:
        near = [pool.random(structure.numbers, rng, exclude) for _ in range(NEAR - 1)]
        near = [template for template in near if template is not None]
    else:
        near = pool.candidates(structure.numbers, NEAR, exclude, vote=False)
    chosen: dict[tuple[str, bytes], Template] = {}
    for _ in range(8 * count):
        if len(chosen) == count or not voted:
            break
        draw, place = torch.rand(2, generator=rng).tolist()
        pick = voted[:1] if draw < 0.5 else voted[1:] if draw < 0.75 else near
        if pick:
            template = pick[int(place * len(pick))]
            chosen.setdefault((template.id, template.numbers.tobytes()), template)
    return list(chosen.values())


def _chunk(
    table: StructureTable,
    rows: range,
    pool: TemplatePool,
    copies: _Copies,
    num_pairs: int,
    seed: int,
) -> dict[str, Array]:
    counts, found = [], []
    for row in rows:
        structure = table.row(row)
        rng = stream(seed, "pairs", structure.id)
        templates = choose(pool, structure, copies.of(structure), num_pairs, rng)
        found += [_pair_arrays(structure, template) for template in templates]
        counts.append(len(templates))
    columns = {name: [pair[name] for pair in found] for name in _pair_shapes()}
    return {"counts": np.array(counts, dtype=np.uint8)} | {
        name: np.concatenate([np.zeros(shape, kind), *columns[name]]).astype(kind)
        for name, (shape, kind) in _pair_shapes().items()
    }


def _pair_shapes() -> dict[str, tuple[tuple[int, ...], type]]:
    """Empty shape and type of every array of a pair."""
    by_pair = {"distance": np.float32, "same": np.uint8, "residual": np.float32}
    return {
        "ids": ((0,), np.uint8),
        "numbers": ((0,), np.uint8),
        "source_numbers": ((0,), np.uint8),
        "template_fractional": ((0, 3), np.float32),
        "fractional": ((0, 3), np.float32),
        "template_lattice": ((0, 6), np.float32),
        "lattice": ((0, 6), np.float32),
        **{name: ((0,), kind) for name, kind in by_pair.items()},
        "length": ((0,), np.uint16),
    }


def _pair_arrays(structure: Structure, template: Template) -> dict[str, Array]:
    aligned = align(structure, template)
    return {
        "ids": np.frombuffer((template.id + "\n").encode(), dtype=np.uint8),
        "numbers": template.numbers,
        "source_numbers": template.source_numbers,
        "template_fractional": template.fractional,
        "fractional": np.mod(aligned.fractional.astype(np.float32), np.float32(1)),
        "template_lattice": template.lattice[None],
        "lattice": aligned.lattice[None],
        "distance": np.array([template.distance]),
        "same": np.array([aligned.same]),
        "residual": np.array([aligned.residual]),
        "length": np.array([len(template.numbers)]),
    }


def _from_arrays(arrays: dict[str, Array]) -> TemplatePairs:
    def ends(lengths: Array) -> Array:
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])

    by_atom = ("numbers", "source_numbers", "template_fractional", "fractional")
    by_pair = ("template_lattice", "lattice", "distance", "same", "residual")
    return TemplatePairs(
        starts=ends(arrays["counts"]),
        offsets=ends(arrays["length"]),
        ids=tuple(arrays["ids"].tobytes().decode().split("\n")[:-1]),
        atoms={name: arrays[name] for name in by_atom},
        pairs={name: arrays[name] for name in by_pair},
    )


def _write(path: Path, arrays: dict[str, Array]) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.partial")
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, part)
    part.replace(path)
