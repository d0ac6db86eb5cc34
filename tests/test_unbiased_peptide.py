"""Ace-A-Nme: weights of the flow and SMC against replica exchange, which knows no flow.

The shipped flow never saw a capped peptide, so a few per cent of its draws count. What it says of
energies, of differences of log Z and of basins must be right all the same.
"""

import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from gensci.core.random import stream
from gensci.core.weights import kish_ess, log_z, psis
from gensci.models.proposal import FlowProposal, load_proposal
from gensci.samplers import make_sampler
from gensci.sims.dynamics import GAS_CONSTANT

pytest.importorskip("openmm")
from gensci.sims.peptide.backbone import find_backbone, torsion_angles
from gensci.systems.peptide import PeptideSystem
from gensci.systems.simulation import SimulationSettings
from gensci.systems.simulation_start import equilibrated, replica_exchange

torch.set_num_threads(1)
NAME, COLD = "Ace-A-Nme", 310.0
FIT_STEPS = 150
OPENMM = Path(__file__).parents[1] / "benchmarks" / "references" / "openmm-Ace-A-Nme.json"


@dataclass(frozen=True)
class Estimate:
    """A number and its standard error."""

    value: float
    error: float

    def z(self, other):
        return (self.value - other.value) / math.hypot(self.error, other.error)


def torsions(system, x):
    """(phi, psi) of the middle residue, each (n,) radian."""
    atoms = {torsion.name: torsion.atoms for torsion in find_backbone(system.topology)}
    return torsion_angles(x, torch.tensor([atoms["phi2"], atoms["psi2"]])).unbind(-1)


def helical(system, x):
    """(n,) bool: psi between -120 and 60 degrees."""
    psi = torsions(system, x)[1].rad2deg()
    return (psi > -120) & (psi < 60)


def weighted(values, log_weight):
    """Self-normalised mean and its error by the delta method."""
    weight = torch.softmax(log_weight.double(), 0)
    values = values.double()
    mean = (weight * values).sum()
    error = (weight.square() * (values - mean).square()).sum().sqrt()
    return Estimate(mean.item(), error.item())


def difference_of_log_z(first, second):
    """log Z of the second less that of the first, from log-weights (n,) of the same draws."""
    shares = torch.softmax(second.double(), 0) - torch.softmax(first.double(), 0)
    value = torch.logsumexp(second.double(), 0) - torch.logsumexp(first.double(), 0)
    return Estimate(value.item(), shares.square().sum().sqrt().item())


def over_ladders(values):
    values = np.asarray(values)
    return Estimate(values.mean(), values.std(ddof=1) / len(values) ** 0.5)


def mbar(energy, temperatures):
    """log Z (K,) less its first, from energies (frames, K) kJ/mol at each of K temperatures.

    Reference: Shirts and Chodera (2008), doi:10.1063/1.2978177.
    """
    beta = 1.0 / (GAS_CONSTANT * torch.tensor(temperatures, dtype=torch.float64))
    frames, states = energy.shape
    reduced = beta[:, None] * energy.double().flatten()  # (K, frames * K)
    free = torch.zeros(states, dtype=torch.float64)
    for _ in range(2000):
        mixture = torch.logsumexp(math.log(frames) + free[:, None] - reduced, 0)
        new = -torch.logsumexp(-reduced - mixture, 1)
        new = new - new[0].clone()
        if (new - free).abs().max() < 1e-9:
            break
        free = new
    return -free


class Simulated:
    """Replica exchange: the flow's competitor here, and its judge."""

    def __init__(self, system, picoseconds, ladders, equilibration, seed=7):
        settings = SimulationSettings(
            time_step=0.002, masses="uniform", ladders=ladders, num_temperatures=5,
            coldest=COLD, hottest=600.0, equilibration=equilibration,
        )  # fmt: skip
        replicas = replica_exchange(system, settings)
        state = equilibrated(system, replicas, settings, seed=seed)
        generator, energy, frames = stream(seed, "frames"), [], []
        for _ in range(round(picoseconds / 0.2)):
            state = replicas.run(state, 100, generator)
            energy.append(state.dynamics.energy.reshape(ladders, 5))
            frames.append(state.dynamics.positions.reshape(ladders, 5, -1, 3)[:, 0])
        self.temperatures = replicas.temperatures
        energy = torch.stack(energy)
        positions = torch.stack(frames)
        cold = energy[:, :, 0].double()
        self.frames = positions.flatten(0, 1)
        self.energy = over_ladders(cold.mean(0))
        self.warm_energy = over_ladders(energy[:, :, 1].double().mean(0))
        ladder_free = [mbar(energy[:, k], self.temperatures) for k in range(ladders)]
        self.log_z = [over_ladders(row) for row in torch.stack(ladder_free, 1)]
        self.helix, self.positive = (
            over_ladders([test(positions[:, k]).double().mean() for k in range(ladders)])
            for test in (lambda x: helical(system, x), lambda x: torsions(system, x)[0] > 0)
        )


class Drawn:
    """Draws of the flow with importance weights at every temperature of the ladder."""

    def __init__(self, system, flow, n, seed):
        self.system = system
        x, self.log_q = flow.sample_and_log_prob(n, stream(seed, "unbiased"))
        self.x, self.energy = x["positions"], system.force_field.energy(x["positions"])
        self.log_weight = self.at(COLD)

    def at(self, temperature):
        target = PeptideSystem(NAME, self.system.peptide, temperature).target("cpu", torch.float32)
        value = target.log_prob({"positions": self.x}).double() - self.log_q.double()
        return torch.where(value.isfinite(), value, -math.inf)


def by_smc(system, flow, n, shards=1):
    """Islands of waste-free SMC along the target's own forces: energy, helix and log Z."""
    settings = {"waste_free": True, "force": "target", "ess_target": 0.5}
    samples = make_sampler("smc", settings).run(
        system.target("cpu", torch.float32), flow, n, seed=9, shard_size=n // shards
    )
    verdict = samples.meta["verdict"]
    x = samples.x["positions"]
    # particles of one chain are alike: as many are independent as the verdict says of moves that
    # mix, or of a slow torsion as many as there are ancestors
    size = kish_ess(samples.log_weight).count
    worth, slow = size / verdict["ess_if_moves_mix"], size / verdict["effective_ancestors"]
    energy = weighted(system.force_field.energy(x), samples.log_weight)
    helix = weighted(helical(system, x), samples.log_weight)
    return {
        "worth": worth,
        "energy": Estimate(energy.value, energy.error * worth**0.5),
        "helix": Estimate(helix.value, helix.error * slow**0.5),
        "log Z": Estimate(verdict["log_z"], verdict["log_z_error"]),
        "samples": samples,
    }


def test_smc_from_a_flow_that_fits_badly_agrees_with_replica_exchange():
    """Importance weights of these draws have a k-hat above one: too few of them count."""
    system = PeptideSystem.from_text(NAME, temperature=COLD)
    flow = load_proposal("peptide-small", system.peptide, "cpu")
    simulated = Simulated(system, picoseconds=24.0, ladders=8, equilibration=4.0)
    smc = by_smc(system, flow, 512)
    x, log_weight = smc["samples"].x["positions"], smc["samples"].log_weight
    energy = system.force_field.energy(x).double()
    beta = [1.0 / (GAS_CONSTANT * t) for t in simulated.temperatures[:2]]
    change = difference_of_log_z(log_weight, log_weight - (beta[1] - beta[0]) * energy)
    found = {
        "energy": (smc["energy"], simulated.energy),
        "log Z": (Estimate(change.value, change.error * smc["worth"] ** 0.5), simulated.log_z[1]),
        "helix": (smc["helix"], simulated.helix),
    }
    z = {name: ours.z(theirs) for name, (ours, theirs) in found.items()}
    print(z, found)
    assert max(map(abs, z.values())) < 4.0, z
    assert smc["energy"].error < 2.0
    assert abs(found["log Z"][0].value) > 15 * found["log Z"][0].error
    drawn = Drawn(system, flow, 200, seed=1)
    raw = weighted(drawn.energy.clamp(max=1e3), torch.zeros(200))
    assert raw.z(simulated.energy) > 4.0, "what the flow draws is not what it is weighted to"


@pytest.fixture(scope="module")
def trained():
    """The flow fitted to a few picoseconds of Ace-A-Nme by likelihood; the judge is another run."""
    system = PeptideSystem.from_text(NAME, temperature=COLD)
    frames = Simulated(system, picoseconds=30.0, ladders=8, equilibration=4.0, seed=3).frames
    flow = load_proposal("peptide-small", system.peptide, "cpu")
    network = copy.deepcopy(flow.network).requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=5e-4)
    for step in range(FIT_STEPS):
        rows = torch.randint(len(frames), (32,), generator=stream(0, "fit", step))
        loss = -network.log_prob(frames[rows], flow.cond).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return system, FlowProposal(network, flow.cond)


@pytest.mark.slow
def test_weights_agree_with_replica_exchange_in_energy_log_z_and_basins(trained):
    system, flow = trained
    drawn = Drawn(system, flow, 6000, seed=2)
    print(
        "effective share", kish_ess(drawn.log_weight).fraction, "k-hat", psis(drawn.log_weight).khat
    )
    simulated = Simulated(system, picoseconds=120.0, ladders=16, equilibration=6.0)
    weights = drawn.log_weight
    positive = torsions(system, drawn.x)[0] > 0
    z = {
        "energy": weighted(drawn.energy, weights).z(simulated.energy),
        "helix": weighted(helical(system, drawn.x), weights).z(simulated.helix),
        "phi > 0": weighted(positive, weights).z(simulated.positive),
    }
    for k in (1, 2):
        found = difference_of_log_z(weights, drawn.at(simulated.temperatures[k]))
        z[f"log Z {simulated.temperatures[k]:.0f} K"] = found.z(simulated.log_z[k])
    smc = by_smc(system, flow, 1024, 2)
    z["energy of smc"] = smc["energy"].z(simulated.energy)
    z["log Z of smc"] = smc["log Z"].z(Estimate(*log_z(weights)))
    print({name: round(value, 2) for name, value in z.items()})
    assert max(map(abs, z.values())) < 4.0, z
    assert np.mean(np.square(list(z.values()))) < 2.5, z


@pytest.mark.slow
def test_weights_with_obc2_agree_with_openmm(trained):
    """72 ns of OpenMM's own Langevin dynamics, committed as energies and cells of phi and psi."""
    reference = json.loads(OPENMM.read_text())
    system = PeptideSystem.from_text(NAME, implicit_solvent=reference["implicit_solvent"])
    drawn = Drawn(system, trained[1], 6000, seed=3)
    mean, error = (np.array(reference[key]) for key in ("mean", "error"))
    energy = weighted(drawn.energy, drawn.log_weight)
    z = [energy.z(Estimate(mean[0], error[0]))]
    phi, psi = (((a + math.pi) / (2 * math.pi) * 12).long() % 12 for a in torsions(system, drawn.x))
    for cell in np.flatnonzero(mean[1:] > 0.02):
        share = weighted(phi * 12 + psi == cell, drawn.log_weight)
        z.append(share.z(Estimate(mean[1 + cell], error[1 + cell])))
    print(f"energy {energy}, z of energy and cells {np.round(z, 2)}")
    assert len(z) > 12
    assert np.abs(z).max() < 4.0
    assert np.mean(np.square(z)) < 2.0
