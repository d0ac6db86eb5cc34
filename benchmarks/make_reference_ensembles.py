"""Reference ensembles of the published test peptides, from simulation folders.

    python benchmarks/make_reference_ensembles.py                      # all that are simulated
    python benchmarks/make_reference_ensembles.py --names AA,ARIP --root data/long data/references
    python benchmarks/make_reference_ensembles.py --table              # only print what is there
    python benchmarks/make_reference_ensembles.py --plot data/reference_ensembles.png

Checks whether two independent halves of each simulation agree (gensci/metrics/agreement.py states
the criterion) and writes benchmarks/references/ensembles/NAME.npz and README.md. What is there and
up to date is left alone. Exit status 1: halves of some peptide disagree, or a folder is unfinished.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gensci.core.errors import GensciError
from gensci.metrics.agreement import Agreement, even_rows, half_agreement, ladder_rows
from gensci.metrics.ensembles import all_torsions
from gensci.metrics.references import (
    EnsembleError,
    ReferenceEnsemble,
    load_reference_ensemble,
    save_reference_ensemble,
    superpose,
)

ENSEMBLES = Path(__file__).parent / "references" / "ensembles"
GAS_CONSTANT = 8.31446261815324e-3  # kJ/mol/K
FRAMES = 10_000  # torsions and energies
KEEP_POSITIONS_OF = 5  # every fifth of them
POINTS, SPLITS = 3000, 5  # of the criterion
CRITERION = 2  # changes with the criterion, so that ensembles are judged anew
COUNTS = {2: 30, 4: 30, 8: 4}  # how many of the published test peptides of each length
COLUMNS = (
    "peptide",
    "atoms",
    "frames",
    "positions",
    "simulated",
    "round trips",
    *("T-W2 halves", "floor", "excess"),
    *("E-W2 halves", "floor", "excess"),
    "halves",
    "kB",
)


@dataclass(frozen=True)
class Simulation:
    """All frames of a folder of `gensci simulate`, in order of time in each ladder.

    Attributes:
        positions: (frames, atoms, 3) float32 nm.
        energy: (frames,) float32 kJ/mol.
        ladder: (frames,) int64.
        snapshot: (frames,) int64.
        run: run.json.
    """

    positions: np.ndarray
    energy: np.ndarray
    ladder: np.ndarray
    snapshot: np.ndarray
    run: dict


def published_names() -> list[str]:
    """The test di- and tetrapeptides and the first test octapeptides of Tan et al. 2025."""
    from gensci.data.exclusions import published_splits

    test = [name for name, split in published_splits().items() if split == "test"]
    of_length = {length: [name for name in test if len(name) == length] for length in COUNTS}
    return [name for length, count in COUNTS.items() for name in of_length[length][:count]]


def read_run(folder: Path) -> dict:
    """The record of a finished simulation.

    Raises:
        EnsembleError: there is none, or it is unfinished.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise EnsembleError(f"{folder} holds no simulation", "run gensci simulate")
    run = json.loads(path.read_text())
    if run["outcome"] != "complete":
        raise EnsembleError(f"{folder} is unfinished", "run the same gensci simulate again")
    return run


def simulated_length(run: dict) -> float:
    """Time of each replica, ps; a simulation that can be extended has it beside its settings."""
    return run["length"] if "length" in run else run["settings"]["length"]


def read_simulation(folder: Path) -> Simulation:
    """Read a simulation folder.

    Raises:
        EnsembleError: it is unfinished, or its frames cannot be told apart by ladder.
    """
    from safetensors.torch import load_file

    run = read_run(folder)
    shards = [load_file(path) for path in sorted((folder / "shards").glob("*.safetensors"))]

    def joined(key: str) -> np.ndarray:
        return torch.cat([shard[key] for shard in shards]).numpy()

    positions, energy = joined("positions"), joined("energy")
    if all({"ladder", "snapshot"} <= shard.keys() for shard in shards):
        return Simulation(positions, energy, joined("ladder"), joined("snapshot"), run)
    if run["dropped"]:
        raise EnsembleError(
            f"{folder}: frames were dropped and their ladders are not recorded",
            "simulate it again with this version of gensci",
        )
    # Without a record, frames come snapshot by snapshot, one of each ladder.
    snapshot, ladder = np.divmod(np.arange(len(energy)), run["settings"]["ladders"])
    return Simulation(positions, energy, ladder, snapshot, run)


def fingerprint(folder: Path) -> str:
    """sha256 of a simulation's files and of what decides the outcome here."""
    total = hashlib.sha256(repr((FRAMES, KEEP_POSITIONS_OF, POINTS, SPLITS, CRITERION)).encode())
    for path in [folder / "topology.pdb", *sorted((folder / "shards").glob("*.safetensors"))]:
        total.update(path.read_bytes())
    return total.hexdigest()


def distil(name: str, folder: Path) -> ReferenceEnsemble:
    """The ensemble of a simulation folder, with the agreement of its halves in ``meta``."""
    source = fingerprint(folder)
    simulation = read_simulation(folder)
    temperature = float(simulation.run["temperature"])
    torsions = all_torsions(folder / "topology.pdb", simulation.positions)
    agreement = half_agreement(
        torsions,
        simulation.energy.astype(np.float64) / (GAS_CONSTANT * temperature),
        simulation.ladder,
        points=POINTS,
        splits=SPLITS,
    )
    by_ladder = ladder_rows(simulation.ladder)
    chosen = even_rows(by_ladder, FRAMES // len(by_ladder)).T  # snapshot by snapshot
    rows = chosen.reshape(-1)
    kept = np.arange(rows.size).reshape(chosen.shape)[KEEP_POSITIONS_OF // 2 :: KEEP_POSITIONS_OF]
    kept = kept.reshape(-1)
    return ReferenceEnsemble(
        name=name,
        topology=(folder / "topology.pdb").read_text(),
        temperature=temperature,
        torsion_names=tuple(torsions),
        torsions=np.column_stack(list(torsions.values()))[rows],
        energy=simulation.energy[rows],
        ladder=simulation.ladder[rows],
        snapshot=simulation.snapshot[rows],
        positions=superpose(simulation.positions[rows[kept]]),
        position_rows=kept,
        meta=_meta(simulation, agreement, source),
    )


def _meta(simulation: Simulation, agreement: Agreement, source: str) -> dict:
    run = simulation.run
    return {
        "command": "gensci simulate",
        "recipe": {"seed": run["seed"], **run["settings"], "length": simulated_length(run)},
        "force_field": run["force_field"],
        "versions": run["versions"],
        "simulated_frames": len(simulation.energy),
        "dropped": run["dropped"],
        "round_trips": run["round_trips"],
        "source_sha256": source,
        "units": {"positions": "nm", "energy": "kJ/mol", "T-W2": "radian", "E-W2": "kT"},
        "agreement": {
            **dataclasses.asdict(agreement),
            "torus_excess": agreement.torus.excess,
            "energy_excess": agreement.energy.excess,
            "complaints": agreement.complaints,
        },
    }


def rounding_error(ensemble: ReferenceEnsemble) -> float:
    """Root mean square, kJ/mol, of what rounded positions change in the energies."""
    from gensci.systems.peptide import PeptideSystem

    force_field = PeptideSystem.from_text(ensemble.name).force_field.to(dtype=torch.float64)
    positions = torch.as_tensor(ensemble.positions[::5], dtype=torch.float64)
    energy = force_field.energy(positions).numpy()
    return float(np.sqrt(((energy - ensemble.energy[ensemble.position_rows[::5]]) ** 2).mean()))


def renew(name: str, folder: Path, force: bool) -> bool:
    """Write NAME.npz unless it is up to date; whether its halves agree.

    Raises:
        EnsembleError: the simulation cannot be used.
    """
    read_run(folder)
    path = ENSEMBLES / f"{name}.npz"
    if path.exists() and not force:
        old = load_reference_ensemble(path)
        if old.meta["source_sha256"] == fingerprint(folder):
            print(f"{name}: up to date", flush=True)
            return not old.meta["agreement"]["complaints"]
    begin = time.perf_counter()
    save_reference_ensemble(path, distil(name, folder))
    ensemble = load_reference_ensemble(path)  # as it will be read: rounded
    ensemble.meta["rounding_error"] = rounding_error(ensemble)
    save_reference_ensemble(path, ensemble)
    complaints = ensemble.meta["agreement"]["complaints"]
    print(
        f"{name}: {path.stat().st_size / 1000:.0f} kB in {time.perf_counter() - begin:.0f} s, "
        f"{'; '.join(complaints) or 'halves agree'}",
        flush=True,
    )
    return not complaints


def table() -> str:
    """A Markdown table of all ensembles in the folder, dipeptides first."""
    paths = sorted(ENSEMBLES.glob("*.npz"), key=lambda path: (len(path.stem), path.stem))
    lines = ["| " + " | ".join(COLUMNS) + " |", "| --- |" + " --: |" * (len(COLUMNS) - 1)]
    for path in paths:
        ensemble = load_reference_ensemble(path)
        recipe, agreement = ensemble.meta["recipe"], ensemble.meta["agreement"]
        torus, energy = agreement["torus"], agreement["energy"]
        lines.append(
            f"| {ensemble.name} | {ensemble.positions.shape[1]} | {len(ensemble.energy)} "
            f"| {len(ensemble.positions)} "
            f"| {recipe['ladders']} x {recipe['length'] / 1000:g} ns "
            f"| {ensemble.meta['round_trips']} "
            f"| {torus['between']:.3f} | {torus['floor']:.3f} | {agreement['torus_excess']:.3f} "
            f"| {energy['between']:.3f} | {energy['floor']:.3f} | {agreement['energy_excess']:.3f} "
            f"| {'; '.join(agreement['complaints']) or 'agree'} "
            f"| {path.stat().st_size / 1000:.0f} |"
        )
    total = sum(path.stat().st_size for path in paths) / 1e6
    return "\n".join([*lines, "", f"{len(paths)} ensembles, {total:.1f} MB."])


README = """# Reference ensembles

Written by `python benchmarks/make_reference_ensembles.py` from `gensci simulate` (temperature
replica exchange; the recipe of each peptide, with its seed, is in its file). Names: the first
{counts[2]} dipeptides, {counts[4]} tetrapeptides and {counts[8]} octapeptides of the 30 test
peptides of each length of Tan et al. 2025 (arXiv:2508.18175).
Read one with `gensci.metrics.references.load_reference_ensemble("AA")`.

Each file holds torsions (phi, psi, omega, chi; to 2 pi / 4096), energies (float32, kJ/mol), ladder
and snapshot of about 10,000 frames of equal weight, and positions of every fifth (to 1e-4 nm).
Energies computed anew from these rounded positions are off by {rounding} (root mean square); the
stored energies are the true ones.

Halves: T-W2 (radian, {points} points) and E-W2 (kT, all frames) of half the ladders against the
others, root mean square over {splits} splits; the floor is that of random halves of the same
frames, the excess is the difference of their squares, rooted. Limits of the excess: 0.20 rad
(dipeptides), 0.35 rad (tetrapeptides), 0.53 rad (octapeptides), 0.25 kT; P(phi > 0) and P(cis)
known to 0.02. The module `gensci/metrics/agreement.py` says why. Where the last column but one is
not `agree`, the reference itself is uncertain by about what it says, and smaller differences from
it mean nothing.

"""


def write_readme() -> None:
    errors = [
        load_reference_ensemble(path).meta["rounding_error"]
        for path in sorted(ENSEMBLES.glob("*.npz"))
    ]
    rounding = f"{min(errors):.2f} to {max(errors):.2f} kJ/mol" if errors else "little"
    text = README.format(rounding=rounding, points=POINTS, splits=SPLITS, counts=COUNTS)
    (ENSEMBLES / "README.md").write_text(text + table() + "\n")


def plot(path: Path) -> None:
    """Free energies of every psi-phi link, lower ladders beside upper ladders, in one picture."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = sorted(ENSEMBLES.glob("*.npz"), key=lambda p: (len(p.stem), p.stem))
    panels = [
        (f"{ensemble.name} psi{k} phi{k + 1}", *link_halves(ensemble, k))
        for ensemble in map(load_reference_ensemble, files)
        for k in range(1, len(ensemble.backbone_names) // 2 + 1)
    ]
    columns = 6
    rows = -(-len(panels) // columns)
    figure, axes = pyplot.subplots(
        rows, 2 * columns, figsize=(2.2 * columns, 1.3 * rows), squeeze=False
    )
    for axis in axes.flat:
        axis.axis("off")
    for number, (title, *halves) in enumerate(panels):
        row, column = divmod(number, columns)
        for side, half in enumerate(halves):
            axis = axes[row, 2 * column + side]
            axis.imshow(np.log1p(half.T), origin="lower", extent=(-180, 180, -180, 180))
            axis.set_title(f"{title} {'AB'[side]}", fontsize=5, pad=1)
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=130)
    print(f"{path}: {len(panels)} links, psi across and phi up; A is the lower half of the ladders")


def link_halves(ensemble: ReferenceEnsemble, k: int) -> list[np.ndarray]:
    """Counts (45, 45) of (psi_k, phi_k+1) in the lower and the upper half of the ladders."""
    psi, phi = ensemble.torsion(f"psi{k}"), ensemble.torsion(f"phi{k + 1}")
    numbers = np.unique(ensemble.ladder)
    upper = ensemble.ladder >= numbers[len(numbers) // 2]
    box = [(-np.pi, np.pi)] * 2
    return [np.histogram2d(psi[own], phi[own], bins=45, range=box)[0] for own in (~upper, upper)]


def find_simulation(name: str, roots: list[Path]) -> Path:
    """The folder of the first finished simulation of a name.

    Raises:
        EnsembleError: there is none; what is wrong with the first that was begun.
    """
    begun = [root / name for root in roots if (root / name).is_dir()]
    for folder in begun:
        if json.loads((folder / "run.json").read_text())["outcome"] == "complete":
            return folder
    read_run(begun[0] if begun else roots[0] / name)
    raise EnsembleError(f"{name} has no finished simulation", "run gensci simulate")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--root",
        type=Path,
        nargs="+",
        default=[Path("data/references"), Path("data/references4")],
        help="folders with simulations; the first that has a finished one of a name counts",
    )
    parser.add_argument("--names", default="published", help="comma-separated, or published")
    parser.add_argument("--force", action="store_true", help="also what is up to date")
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--plot", type=Path, help="only draw all ensembles into this PNG")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.plot:
        plot(arguments.plot)
        return 0
    if arguments.table:
        print(table())
        return 0
    names = published_names() if arguments.names == "published" else arguments.names.split(",")
    ENSEMBLES.mkdir(parents=True, exist_ok=True)
    status = 0
    for name in names:
        try:
            folder = find_simulation(name, arguments.root)
            status |= not renew(name, folder, arguments.force)
        except GensciError as error:
            print(f"{name}: {error}", flush=True)
            status = 1
    write_readme()
    print(table())
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
