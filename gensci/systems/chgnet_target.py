"""Energies of crystals by CHGNet, a universal potential whose package brings its weights."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from gensci.core.elements import SYMBOLS
from gensci.core.errors import UsageError
from gensci.core.protocols import Tensors
from gensci.systems.crystal_targets import DistanceTarget

if TYPE_CHECKING:
    from pymatgen.core import Structure

BOLTZMANN = 8.617333262e-5  # eV/K
MIN_ATOM_VOLUME = 1.0  # cubic Angstrom; denser than any crystal, and graphs would not end
MAX_NUMBER = 94  # CHGNet embeds hydrogen to plutonium

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Relaxed:
    """Crystals after relaxation.

    Attributes:
        x: as given, with the relaxed ``fractional`` and ``lattice``; rows that could not be relaxed
            stand as they were.
        energy: (n,) float64 eV per cell, NaN where there is none.
        converged: (n,) bool, forces and stress fell below the limit before the steps ran out.
    """

    x: Tensors
    energy: Tensor
    converged: Tensor


class ChgnetTarget:
    """Boltzmann density ``-E / kT`` of the energy per cell, in nats and not normalised.

    The measure is that of the fractional coordinates and of the lattice numbers in which the
    proposal has its density; no Jacobian, pressure or mass enters, so this selects low energies
    and is no thermal ensemble. Energies are totals of the cell and compare within one composition
    and one size only.

    Zero density where atoms are nearer than 0.5 Angstrom, have less than 1 cubic Angstrom each, no
    neighbour within 6 Angstrom, or are heavier than plutonium.

    Args:
        temperature: K.
        device: of the network; the results come back to the device of ``x``.
        batch_size: crystals in one pass of the network.

    Raises:
        UsageError: the temperature is not positive, or the package is not there.

    Reference: Deng et al. (2023), CHGNet, doi:10.1038/s42256-023-00716-3.
    """

    walkable = False  # as the targets of `crystal_targets`

    def __init__(
        self, temperature: float, device: torch.device | str | None = None, batch_size: int = 16
    ) -> None:
        if not 0 < temperature < float("inf"):
            raise UsageError(f"temperature is {temperature} K", "give a positive one, e.g. 1000")
        self.temperature = temperature
        self.kt = BOLTZMANN * temperature
        self.batch_size = batch_size
        self.network = _network(str(device or "cpu"))
        self._apart = DistanceTarget()

    def log_prob(self, x: Tensors) -> Tensor:
        """Return (n,) float64 nats."""
        log_prob = -self.energy(x) / self.kt
        return torch.where(log_prob.isfinite(), log_prob, -torch.inf)

    def energy(self, x: Tensors) -> Tensor:
        """Return (n,) float64 eV per cell, NaN where CHGNet has no answer."""
        energy = torch.full((len(x["numbers"]),), torch.nan, dtype=torch.float64)
        rows = self._reasonable(x)
        graphs = [(row, graph) for row in rows if (graph := self._graph(x, row)) is not None]
        values = self._predict([graph for _, graph in graphs])
        for (row, graph), value in zip(graphs, values, strict=True):
            energy[row] = value * len(graph.atomic_number)
        return energy.to(x["numbers"].device)

    def relax(self, x: Tensors, steps: int = 200, max_force: float = 0.1) -> Relaxed:
        """Move atoms and cells of crystals to the nearest minimum of the energy.

        Args:
            x: the crystals.
            steps: of the FIRE optimizer at most.
            max_force: eV/Angstrom at which a crystal has converged, the forces on its cell too.
        """
        from chgnet.model import StructOptimizer

        with contextlib.redirect_stdout(io.StringIO()):  # it tells its device
            optimizer = StructOptimizer(
                self.network, use_device=str(self._device), on_isolated_atoms="error"
            )
        result = {name: value.clone() for name, value in x.items()}
        count = len(x["numbers"])
        energy = torch.full((count,), torch.nan, dtype=torch.float64)
        converged = torch.zeros(count, dtype=torch.bool)
        for row in self._reasonable(x):
            done = _relax_one(optimizer, structure_of(x, row), steps, max_force)
            if done is None:
                continue
            structure, energy[row], taken = done
            converged[row] = taken < steps
            present = len(structure)
            frac = torch.from_numpy(np.array(structure.frac_coords))
            result["fractional"][row, :present] = frac.to(result["fractional"])
            cell = torch.from_numpy(np.array(structure.lattice.matrix))
            result["lattice"][row] = cell.to(result["lattice"])
        return Relaxed(result, energy, converged)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _reasonable(self, x: Tensors) -> list[int]:
        """Rows whose graph can be built at all."""
        count = (x["numbers"] > 0).sum(-1)
        known = (x["numbers"] <= MAX_NUMBER).all(-1) & (count > 0)
        apart = self._apart.log_prob(x).isfinite()
        volume = torch.linalg.det(x["lattice"].double().nan_to_num()).abs()
        roomy = volume >= MIN_ATOM_VOLUME * count
        return (known & apart & roomy).nonzero()[:, 0].tolist()

    def _graph(self, x: Tensors, row: int) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                structure = structure_of(x, row)
                # On failure CHGNet would leave a CIF in the working directory.
                structure.to = lambda *args, **settings: ""
                return self.network.graph_converter(structure)
        except (ValueError, RuntimeError, IndexError) as error:
            _log.debug("row %d has no graph: %s", row, error)
            return None

    def _predict(self, graphs: list[Any]) -> list[float]:
        """Energies in eV/atom; a batch that fails is done one by one."""
        values: list[float] = []
        for start in range(0, len(graphs), self.batch_size):
            part = graphs[start : start + self.batch_size]
            try:
                values += self._energies(part)
            except (RuntimeError, IndexError, ValueError):
                values += [self._energy_alone(graph) for graph in part]
        return values

    def _energies(self, graphs: list[Any]) -> list[float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, on how CHGNet makes tensors
            found = self.network.predict_graph(graphs, task="e", batch_size=self.batch_size)
        found = [found] if len(graphs) == 1 else found
        return [float(item["e"]) for item in found]

    def _energy_alone(self, graph: Any) -> float:
        try:
            return self._energies([graph])[0]
        except (RuntimeError, IndexError, ValueError):
            return float("nan")


def structure_of(x: Tensors, row: int) -> Structure:
    """One crystal of a batch as pymatgen has it, its atoms in the same order."""
    from pymatgen.core import Lattice, Structure

    numbers = [number for number in x["numbers"][row].tolist() if number]
    fractional = x["fractional"][row, : len(numbers)].detach().cpu().double().numpy()
    lattice = Lattice(x["lattice"][row].detach().cpu().double().numpy())
    return Structure(lattice, [SYMBOLS[number - 1] for number in numbers], fractional)


def _relax_one(
    optimizer: Any, structure: Structure, steps: int, max_force: float
) -> tuple[Structure, float, int] | None:
    """The relaxed structure, its energy in eV and the steps it took, or None."""
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            done = optimizer.relax(structure, fmax=max_force, steps=steps, verbose=False)
    except (ValueError, RuntimeError, IndexError, np.linalg.LinAlgError) as error:
        _log.debug("not relaxed: %s", error)
        return None
    path = done["trajectory"]  # begins with the start, and has the end twice
    return done["final_structure"], float(path.energies[-1]), len(path.energies) - 2


@functools.lru_cache(maxsize=2)
def _network(device: str) -> Any:
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            from chgnet.model import CHGNet

            network = CHGNet.load(use_device=device, verbose=False).eval()
            network.graph_converter.set_isolated_atom_response("error")
            return network
    except ModuleNotFoundError as error:
        raise UsageError(
            f"energies of crystals need the package {error.name}", "pip install 'gensci[materials]'"
        ) from error
