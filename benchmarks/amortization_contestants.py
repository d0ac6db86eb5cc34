"""What bench_amortization times: a flow with weights, replica exchange, plain OpenMM.

Each goes on in small pieces of work; between pieces it can say what it has found so far. All sample
the same energy function of ``PeptideSystem`` at the same temperature.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import openmm
import torch

from gensci.core.random import stream
from gensci.core.weights import clean, normalise
from gensci.systems.peptide import PeptideSystem
from gensci.systems.simulation import SimulationSettings
from gensci.systems.simulation_start import equilibrated, replica_exchange

Array = np.ndarray

HYDROGEN = 3.0  # Da, so that OpenMM can take steps of 2 fs without constraints
BURN_IN = 0.1  # share of the frames of a simulation that is left out, from the start


@dataclass(frozen=True, eq=False)
class Found:
    """What a contestant has so far.

    Attributes:
        positions: (n, atoms, 3) nm.
        weight: (n,) not negative; equal weights without it.
        energies: evaluations of the energy or the forces so far.
    """

    positions: Array
    weight: Array | None
    energies: int


class FlowContestant:
    """Draws of a trained flow with importance weights; training is not timed.

    Args:
        name: of the peptide.
        model: checkpoint.
        seed: of the draws.
        piece: draws at once.
    """

    def __init__(self, name: str, model: str, seed: int, piece: int = 128) -> None:
        self.name, self.model, self.seed, self.piece = name, model, seed, piece
        self._positions: list[Array] = []
        self._log_weight: list[torch.Tensor] = []

    def run(self) -> Iterator[None]:
        """Load the checkpoint, then draw and weigh piece by piece."""
        from gensci.commands.prepare import prepare
        from gensci.systems.resolve import resolve_one

        choice, device = resolve_one(f"peptide:{self.name}"), torch.device("cpu")
        ready = prepare(choice, self.model, device, {}, allow_extrapolation=True)
        generator = stream(self.seed, self.name, "amortization")
        while True:
            with torch.no_grad():
                x, log_proposal = ready.proposal.sample_and_log_prob(self.piece, generator)
                log_target = ready.target.log_prob(x)
            self._positions.append(x["positions"].numpy())
            self._log_weight.append(clean(log_target - log_proposal))
            yield

    def found(self) -> Found | None:
        """All draws with their weights; None while none has any."""
        weight = normalise(torch.cat(self._log_weight)).numpy()
        count = len(weight)
        if not weight.sum() > 0:
            return None
        kept = weight > 0
        return Found(np.concatenate(self._positions)[kept], weight[kept], count)


class ReplicaContestant:
    """Batched replica exchange of gensci, by the recipe that the reference was made with.

    Only the equilibration is shorter: what is not in equilibrium yet is part of the race.

    Args:
        name: of the peptide.
        recipe: settings of the reference's simulation.
        equilibration: ps from scattered starts, hot and again in the ladder.
        seed: not that of the reference.
    """

    def __init__(self, name: str, recipe: dict[str, Any], equilibration: float, seed: int) -> None:
        if seed == recipe["seed"]:
            raise ValueError(f"seed {seed} is that of the reference: give another")
        known = {key: recipe[key] for key in recipe if key in SimulationSettings.__annotations__}
        self.settings = replace(SimulationSettings(**known), equilibration=equilibration)
        self.name, self.seed = name, seed
        self._frames: list[Array] = []
        self._steps = 0

    def run(self) -> Iterator[None]:
        """Build the peptide and equilibrate it, then simulate frame by frame."""
        system, settings = PeptideSystem.from_text(self.name), self.settings
        replicas = replica_exchange(system, settings)
        state = equilibrated(system, replicas, settings, self.seed)
        # hot with half steps, then in the ladder
        self._steps += 3 * round(settings.equilibration / settings.time_step)
        generator = stream(self.seed, self.name, "amortization")
        while True:
            state = replicas.run(state, settings.steps_per_frame, generator)
            coldest = state.dynamics.positions[:: settings.num_temperatures]
            self._frames.append(coldest[system.natural(coldest)].numpy())
            self._steps += settings.steps_per_frame
            yield

    def found(self) -> Found:
        """Frames of the coldest temperature without the first of them."""
        replicas = self.settings.ladders * self.settings.num_temperatures
        return Found(after_burn_in(self._frames), None, self._steps * replicas)


class OpenMMContestant:
    """One Langevin simulation by OpenMM's CPU platform from the minimised geometry.

    Args:
        name: of the peptide.
        seed: of velocities and noise.
        threads: of OpenMM.
        time_step: ps, with hydrogens of 3 Da.
        frame_steps: between frames.
    """

    def __init__(
        self, name: str, seed: int, threads: int, time_step: float = 0.002, frame_steps: int = 100
    ) -> None:
        self.name, self.seed, self.threads = name, seed, threads
        self.time_step, self.frame_steps = time_step, frame_steps
        self._frames: list[Array] = []

    def run(self) -> Iterator[None]:
        """Build the peptide, then simulate frame by frame."""
        from make_openmm_reference import heavy_hydrogens

        system = PeptideSystem.from_text(self.name)
        heavy_hydrogens(system.peptide.system, system.peptide.bonds)
        integrator = openmm.LangevinMiddleIntegrator(system.temperature, 1.0, self.time_step)
        integrator.setRandomNumberSeed(self.seed + 1)
        platform = openmm.Platform.getPlatformByName("CPU")
        properties = {"Threads": str(self.threads)}
        context = openmm.Context(system.peptide.system, integrator, platform, properties)
        context.setPositions(system.positions)
        context.setVelocitiesToTemperature(system.temperature, self.seed + 1)
        while True:
            integrator.step(self.frame_steps)
            state = context.getState(getPositions=True)
            self._frames.append(state.getPositions(asNumpy=True)._value[None].copy())
            yield

    def found(self) -> Found:
        """All frames without the first of them."""
        steps = len(self._frames) * self.frame_steps
        return Found(after_burn_in(self._frames), None, steps)


def after_burn_in(frames: list[Array]) -> Array:
    """Frames without the first tenth of the pieces, joined."""
    return np.concatenate(frames[int(BURN_IN * len(frames)) :])
