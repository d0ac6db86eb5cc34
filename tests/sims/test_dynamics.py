import math

import pytest
import torch

from gensci.sims.dynamics import (
    GAS_CONSTANT,
    DynamicsState,
    Langevin,
    ReplicaExchange,
    geometric_ladder,
    relax,
    repartitioned_masses,
    thermal_velocities,
)


class Harmonic:
    """k x^2 / 2 for every coordinate."""

    def __init__(self, stiffness):
        self.stiffness = stiffness

    def energy_and_forces(self, x):
        return 0.5 * self.stiffness * x.square().sum(dim=(1, 2)), -self.stiffness * x


class DoubleWell:
    """Two wells of unequal depth along x, harmonic in y and z, for one atom."""

    def energy_and_forces(self, x):
        u = x[:, 0, 0]
        energy = 20.0 * (u.square() - 1).square() + 3.0 * u
        force = -50.0 * x
        force[:, 0, 0] = -(80.0 * u * (u.square() - 1) + 3.0)
        return energy + 25.0 * x[:, 0, 1:].square().sum(dim=-1), force


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_velocities_have_the_maxwell_boltzmann_spread():
    masses = torch.tensor([1.0, 16.0], dtype=torch.float64)
    temperature = torch.full((20000,), 310.0, dtype=torch.float64)
    v = thermal_velocities(masses, temperature, generator())
    kinetic = 0.5 * masses * v.square().sum(dim=-1)
    expected = 1.5 * GAS_CONSTANT * 310.0
    assert kinetic.mean(dim=0).tolist() == pytest.approx([expected, expected], rel=0.03)


def test_without_friction_the_oscillator_follows_newton():
    frequency, dt, steps = 2.0, 0.002, 500
    masses = torch.tensor([3.0], dtype=torch.float64)
    langevin = Langevin(Harmonic(masses.item() * frequency**2), masses, dt, friction=0.0)
    x = torch.tensor([[[1.0, 0.5, -0.2]]], dtype=torch.float64)
    energy, forces = langevin.potential.energy_and_forces(x)
    state = DynamicsState(x, torch.zeros_like(x), energy, forces)
    end = langevin.run(state, torch.tensor([310.0]), steps, generator())
    time = dt * steps
    assert torch.allclose(end.positions, x * math.cos(frequency * time), atol=1e-4)
    assert torch.allclose(end.velocities, -frequency * x * math.sin(frequency * time), atol=1e-4)


@pytest.mark.parametrize("dt", [0.01, 0.3])
def test_positions_of_an_oscillator_are_exact_at_any_step(dt):
    # BAOAB samples the position marginal of a harmonic well without time-step error
    stiffness, temperature = 40.0, torch.tensor([150.0, 600.0]).repeat_interleave(4000)
    langevin = Langevin(Harmonic(stiffness), torch.tensor([4.0, 1.0]), dt, friction=5.0)
    state = langevin.start(torch.zeros(8000, 2, 3), temperature, generator())
    end = langevin.run(state, temperature, math.ceil(2.0 / dt), generator(1))
    variance = end.positions.square().reshape(2, -1).mean(dim=1)
    expected = GAS_CONSTANT * torch.tensor([150.0, 600.0]) / stiffness
    assert torch.allclose(variance, expected, rtol=0.04)


def test_runs_are_repeatable_and_leave_their_state_alone():
    langevin = Langevin(Harmonic(5.0), torch.ones(2), 0.01)
    temperature = torch.full((4,), 300.0)
    state = langevin.start(torch.zeros(4, 2, 3), temperature, generator())
    before = state.positions.clone()
    first = langevin.run(state, temperature, 40, generator(2))
    second = langevin.run(state, temperature, 40, generator(2))
    assert torch.equal(state.positions, before)
    assert torch.equal(first.positions, second.positions)
    assert torch.equal(first.velocities, second.velocities)
    other = langevin.run(state, temperature, 40, generator(3))
    assert not torch.equal(first.positions, other.positions)


def test_relaxing_goes_down_from_any_height():
    x = 10.0 ** torch.linspace(-1, 3, 6)[:, None, None] * torch.ones(6, 2, 3)
    potential = Harmonic(1e4)
    start, _ = potential.energy_and_forces(x)
    end, energy = relax(potential, x, 100)
    assert (energy < start).all()
    assert torch.equal(energy, potential.energy_and_forces(end)[0])
    assert energy[0] < 1e-2 * start[0]
    assert (end - x).norm(dim=-1).max() <= 100 * 0.01 + 1e-4


def test_repartitioning_keeps_the_total_mass():
    masses = torch.tensor([12.0, 1.0, 1.0, 14.0, 1.0])
    new = repartitioned_masses(masses, [(0, 1), (0, 2), (0, 3), (3, 4)], 3.0)
    assert new.tolist() == [8.0, 3.0, 3.0, 12.0, 3.0]
    with pytest.raises(ValueError, match="lower it"):
        repartitioned_masses(masses, [(0, 1), (0, 2)], 6.0)


def test_ladder_has_a_constant_ratio():
    ladder = geometric_ladder(300.0, 600.0, 3)
    assert ladder == pytest.approx((300.0, 300.0 * math.sqrt(2), 600.0))
    assert geometric_ladder(300.0, 600.0, 1) == (300.0,)
    with pytest.raises(ValueError, match="rising"):
        geometric_ladder(600.0, 300.0, 2)


def exact_left(temperature):
    u = torch.linspace(-3, 3, 20001, dtype=torch.float64)
    energy = 20.0 * (u.square() - 1).square() + 3.0 * u
    weight = torch.exp(-(energy - energy.min()) / (GAS_CONSTANT * temperature))
    return (weight[u < 0].sum() / weight.sum()).item()


class Uncentred(ReplicaExchange):
    """For potentials that know where the origin is."""

    def run(self, state, steps, generator):
        temperature = self.row_temperatures(len(state.walker)).float()
        for _ in range(steps // self.exchange_interval):
            inner = self.langevin.run(
                state.dynamics, temperature, self.exchange_interval, generator
            )
            state = type(state)(**{**vars(state), "dynamics": inner})
            state = self.exchange(state, generator)
        return state


def test_replica_exchange_crosses_a_barrier_and_keeps_both_distributions():
    # the barrier is 20 kJ/mol, 11 kT of the cold end: plain dynamics stays on one side here
    ladder = (220.0, 420.0, 800.0)
    langevin = Langevin(DoubleWell(), torch.tensor([1.0]), 0.03, friction=2.0)
    replicas = Uncentred(langevin, ladder, exchange_interval=10)
    x = torch.zeros(600 * 3, 1, 3)
    x[:, 0, 0] = 1.0  # all in the shallow well
    g = generator(4)
    state = replicas.run(replicas.start(x, g), 2000, g)
    left = []
    for _ in range(15):
        state = replicas.run(state, 50, g)
        left.append((state.dynamics.positions[:, 0, 0] < 0).reshape(600, 3).float().mean(dim=0))
    found = torch.stack(left).mean(dim=0).tolist()
    assert found == pytest.approx([exact_left(t) for t in ladder], abs=0.04)
    assert (state.accepted > 0).all()
    assert state.round_trips.sum() > 100


def test_acceptance_of_a_single_exchange_is_metropolis():
    ladder = (300.0, 500.0)
    replicas = ReplicaExchange(Langevin(Harmonic(1.0), torch.ones(1)), ladder)
    cold, hot = torch.tensor([[0.5, 1.0, 1.5]]), torch.tensor([[2.0, 1.0, 0.2]])
    n = 4000
    x = torch.stack([cold, hot]).repeat(n, 1, 1)
    energy, _ = Harmonic(1.0).energy_and_forces(x[:2])
    beta = [1 / (GAS_CONSTANT * t) for t in ladder]
    expected = min(1.0, math.exp((beta[0] - beta[1]) * (energy[0] - energy[1]).item()))
    end = replicas.exchange(replicas.start(x, generator()), generator(1))
    assert end.attempted.item() == n
    assert end.accepted.item() / n == pytest.approx(expected, abs=0.03)
    moved = end.walker[::2] % 2 == 1
    assert moved.sum() == end.accepted
    assert torch.equal(end.dynamics.positions[::2][moved][0], hot)


def test_velocities_are_rescaled_with_the_temperature():
    ladder = (200.0, 800.0)
    replicas = ReplicaExchange(Langevin(Harmonic(0.0), torch.ones(1)), ladder)
    start = replicas.start(torch.zeros(2, 1, 3), generator())
    end = replicas.exchange(start, generator(1))  # equal energies: always exchanged
    assert end.walker.tolist() == [1, 0]
    assert torch.allclose(end.dynamics.velocities[0], 0.5 * start.dynamics.velocities[1])
    assert torch.allclose(end.dynamics.velocities[1], 2.0 * start.dynamics.velocities[0])


def test_round_trips_are_counted_from_cold_to_hot_and_back():
    # without energy differences every exchange is made, so walkers go round deterministically
    ladder = (300.0, 400.0, 500.0, 600.0)
    replicas = ReplicaExchange(Langevin(Harmonic(0.0), torch.ones(1)), ladder)
    state = replicas.start(torch.zeros(4, 1, 3), generator())
    for _ in range(8):
        state = replicas.exchange(state, generator(1))
    assert state.walker.tolist() == [0, 1, 2, 3]  # one turn takes twice the length of the ladder
    assert state.round_trips[0] == 1
    assert state.attempted.tolist() == [4, 4, 4]
    assert state.accepted.tolist() == [4, 4, 4]


def test_a_ladder_of_one_temperature_exchanges_nothing():
    replicas = ReplicaExchange(Langevin(Harmonic(1.0), torch.ones(1)), (300.0,))
    state = replicas.start(torch.zeros(3, 1, 3), generator())
    again = replicas.exchange(replicas.exchange(state, generator(1)), generator(2))
    assert torch.equal(again.dynamics.positions, state.dynamics.positions)
    assert again.attempted.numel() == 0


def test_a_run_in_two_pieces_equals_its_pieces():
    replicas = ReplicaExchange(
        Langevin(Harmonic(20.0), torch.ones(2), 0.01), (300.0, 400.0), exchange_interval=5
    )
    start = replicas.start(torch.randn(8, 2, 3, generator=generator()), generator(1))
    g = generator(2)
    middle = replicas.run(start, 20, g)
    whole = replicas.run(middle, 20, g)
    again = replicas.run(replicas.run(start, 40, generator(2)), 0, g)
    assert torch.equal(whole.walker, again.walker)
    assert torch.equal(whole.dynamics.positions, again.dynamics.positions)
    assert int(again.exchanges) == 8


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Langevin(Harmonic(1.0), torch.ones(1), 0.0), "time_step"),
        (lambda: Langevin(Harmonic(1.0), torch.ones(1), 0.1, -1.0), "friction"),
        (lambda: ReplicaExchange(None, (400.0, 300.0)), "rising"),
        (lambda: ReplicaExchange(None, (300.0,), 0), "exchange_interval"),
        (lambda: ReplicaExchange(None, (300.0, 400.0)).row_temperatures(3), "multiple"),
    ],
)
def test_unusable_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize("temperature", [torch.full((3,), 300.0), torch.tensor(300.0),
                                         torch.tensor([300.0, -1.0]),
                                         torch.tensor([300.0, math.nan])])  # fmt: skip
def test_a_start_needs_a_temperature_for_each_row(temperature):
    langevin = Langevin(Harmonic(40.0), torch.ones(2))
    with pytest.raises(ValueError, match="give 2, one for each row"):
        langevin.start(torch.zeros(2, 2, 3), temperature, generator())
