"""Simulations: the same bits whatever happens, shards that tell ladders apart, refusals."""

from dataclasses import replace
from itertools import product

import mdtraj
import pytest
import torch

from gensci.sims.dynamics import repartitioned_masses
from gensci.systems.peptide import PeptideSystem
from gensci.systems.simulation import SimulationError, SimulationSettings
from gensci.systems.simulation_run import (
    Job,
    Task,
    advance,
    begin,
    simulate_system,
    simulate_together,
    stored_snapshots,
    summarise,
)
from gensci.systems.simulation_start import check_finite, simulated_masses

SETTINGS = SimulationSettings(
    length=0.05,
    frame_interval=0.01,
    ladders=2,
    num_temperatures=2,
    equilibration=0.02,
    frames_per_shard=4,
)  # five snapshots: two whole shards and one that is half full
WRITES = 7  # three shards, and a state before, after and between


class Killed(BaseException):
    """Stands for a kill: nothing may catch it."""


class MemoryStore:
    """A store that dies at its `deadline`-th write, before or after the write."""

    def __init__(self, deadline=None, before=True):
        self.shards, self.states = {}, {}
        self.deadline, self.before = deadline, before

    def _write(self, where, key, tensors):
        dying = self.deadline == 0
        self.deadline = None if self.deadline is None else self.deadline - 1
        if dying and self.before:
            raise Killed
        where[key] = {name: value.clone() for name, value in tensors.items()}
        if dying:
            raise Killed

    def load_shard(self, index):
        return self.shards.get(index)

    def save_shard(self, index, tensors):
        self._write(self.shards, index, tensors)

    def load_state(self, name):
        return self.states.get(name)

    def save_state(self, name, tensors):
        self._write(self.states, name, tensors)

    def drop_state(self, name):
        self.states.pop(name, None)


class Half:
    """A peptide of whose conformations every other or so counts."""

    def __init__(self, system):
        self.system = system

    def __getattr__(self, name):
        return getattr(self.system, name)

    def natural(self, x):
        return (1e5 * x[:, 0, 0]).floor() % 2 == 0


@pytest.fixture(scope="module")
def system():
    return PeptideSystem.from_text("Ace-G-Nme")


def simulated(system, settings=SETTINGS, store=None):
    store = MemoryStore() if store is None else store
    return store, simulate_system(system, settings, seed=3, store=store)


@pytest.fixture(scope="module")
def uninterrupted(system):
    store, summary = simulated(system)
    return store, summary


def assert_same(found, expected):
    for kind in ("shards", "states"):
        mine, other = getattr(found, kind), getattr(expected, kind)
        assert mine.keys() == other.keys()
        for key, tensors in other.items():
            assert mine[key].keys() == tensors.keys()
            for name, value in tensors.items():
                assert torch.equal(mine[key][name], value), (kind, key, name)


@pytest.mark.parametrize(("deadline", "before"), [*product(range(WRITES), (True, False))])
def test_killed_at_any_write_and_continued_gives_the_same_bits(
    system, uninterrupted, deadline, before
):
    store = MemoryStore(deadline, before)
    with pytest.raises(Killed):
        simulated(system, store=store)
    store.deadline = None
    _, summary = simulated(system, store=store)
    assert_same(store, uninterrupted[0])
    assert summary == uninterrupted[1]


@pytest.mark.parametrize("lengths", [(0.01, 0.03), (0.02,), (0.04,)])
def test_made_longer_step_by_step_gives_the_bits_of_a_long_run(system, uninterrupted, lengths):
    store = MemoryStore()
    for length in lengths:
        _, summary = simulated(system, replace(SETTINGS, length=length), store)
        assert summary.snapshots == stored_snapshots(store) == round(length / 0.01)
    _, summary = simulated(system, store=store)
    assert_same(store, uninterrupted[0])
    assert summary == uninterrupted[1]


@pytest.mark.parametrize(("deadline", "before"), [*product(range(5), (True, False))])
def test_killed_while_made_longer_loses_nothing(system, uninterrupted, deadline, before):
    store, _ = simulated(system, replace(SETTINGS, length=0.01))
    first = {name: value.clone() for name, value in store.shards[0].items()}
    store.deadline, store.before = deadline, before
    with pytest.raises(Killed):
        simulated(system, store=store)
    store.deadline = None
    for name, value in first.items():  # what was there is there, whatever came to it
        if name != "dropped":
            assert torch.equal(store.shards[0][name][: len(value)], value)
    simulated(system, store=store)
    assert_same(store, uninterrupted[0])


def test_asking_for_less_changes_nothing(system, uninterrupted):
    store, _ = simulated(system)
    _, summary = simulated(system, replace(SETTINGS, length=0.02), store)
    assert summary.snapshots == 5
    assert_same(store, uninterrupted[0])


def test_a_lost_or_shortened_shard_is_made_again(system, uninterrupted):
    store, _ = simulated(system)
    del store.shards[1]
    simulated(system, store=store)
    assert_same(store, uninterrupted[0])
    shard = store.shards[1]
    store.shards[1] = {name: value[:1] if value.ndim else value for name, value in shard.items()}
    simulated(system, store=store)
    assert_same(store, uninterrupted[0])


def test_another_seed_gives_other_frames(system, uninterrupted):
    store = MemoryStore()
    simulate_system(system, SETTINGS, seed=4, store=store)
    expected = uninterrupted[0].shards[0]["positions"]
    assert not torch.equal(store.shards[0]["positions"], expected)


def test_jobs_that_are_advanced_together_give_what_each_gives_alone(system):
    other = PeptideSystem.from_text("GG")
    short = replace(SETTINGS, length=0.01)
    pairs = [(system, SETTINGS), (other, short), (other, SETTINGS)]
    jobs = [begin(each, settings, 3, MemoryStore()) for each, settings in pairs]
    together = advance(jobs)
    alone = [advance([job])[0] for job in jobs]
    for (job, frames), (own, expected) in zip(together, alone, strict=True):
        assert isinstance(job, Job)
        assert job.state.snapshots == own.state.snapshots
        assert all(torch.equal(frames[name], expected[name]) for name in expected)
    assert [job.finished for job, _ in together] == [False, True, False]


def test_shards_hold_energies_and_forces_of_their_positions(system, uninterrupted):
    shards = uninterrupted[0].shards
    assert [len(shards[k]["energy"]) for k in range(3)] == [4, 4, 2]
    for shard in shards.values():
        energy, forces = system.force_field.energy_and_forces(shard["positions"].double())
        assert {shard[name].dtype for name in ("positions", "energy", "forces")} == {torch.float32}
        assert torch.allclose(shard["energy"].double(), energy, atol=0.02)
        assert torch.allclose(shard["forces"].double(), forces, atol=0.5)
        assert shard["positions"].mean(dim=1).abs().max() < 1e-5
    assert torch.cat([shards[k]["ladder"] for k in range(3)]).tolist() == [0, 1] * 5
    snapshots = torch.cat([shards[k]["snapshot"] for k in range(3)])
    assert snapshots.tolist() == [k for k in range(5) for _ in range(2)]


def test_ladders_can_be_told_apart_where_frames_were_dropped(system, uninterrupted):
    picky = Half(system)
    store, summary = simulated(picky)
    total = 0
    for index, full in uninterrupted[0].shards.items():
        keep, shard = picky.natural(full["positions"]), store.shards[index]
        total += int(shard["dropped"])
        assert int(shard["dropped"]) == int((~keep).sum())
        for name in ("positions", "ladder", "snapshot"):
            assert torch.equal(shard[name], full[name][keep])
    assert (summary.frames, summary.dropped) == (10 - total, total)
    assert 0 < total < 10
    appended, _ = simulated(picky, replace(SETTINGS, length=0.01))
    simulated(picky, store=appended)
    assert_same(appended, store)


def test_scattered_starts_visit_both_sides_of_the_backbone_barriers():
    system = PeptideSystem.from_text("Ace-A-Nme")
    settings = SimulationSettings(
        length=1.5, frame_interval=0.3, time_step=0.003, masses="uniform", equilibration=0.6
    )
    store, summary = simulated(system, settings)
    x = torch.cat([shard["positions"] for shard in store.shards.values()])
    trajectory = mdtraj.Trajectory(x.numpy(), mdtraj.Topology.from_openmm(system.topology))
    _, phi = mdtraj.compute_phi(trajectory)
    _, psi = mdtraj.compute_psi(trajectory)
    assert 0.1 < (psi > 1.0).mean() < 0.95
    # the barriers of phi at 0 and about 120 degrees: both sides, and the natural one more often
    left_handed = ((phi > 0.0) & (phi < 2.3)).mean()
    assert 0.02 < left_handed < 0.5
    assert all(0.2 < rate < 0.9 for rate in summary.acceptance)
    assert summary.frames == 80
    torsions = summary.mixing["torsions"]
    assert abs(torsions["phi2"]["fraction"] - left_handed) < 0.1
    assert set(torsions) == {"omega2", "phi2", "psi2", "omega3"}
    assert torsions["psi2"]["crossings"] > 0
    assert torsions["omega2"]["fraction"] == 0.0  # starts have trans peptide bonds


def test_masses(system):
    physical = simulated_masses(system, "physical")
    assert simulated_masses(system, "uniform").unique().tolist() == [12.0]
    heavy = simulated_masses(system, "hmr")
    assert torch.equal(heavy, repartitioned_masses(physical, system.bonds))
    assert heavy.sum().item() == pytest.approx(physical.sum().item(), rel=1e-6)


def test_an_unstable_replica_is_named_with_its_row(system):
    energy = torch.tensor([1.0, 2.0, torch.nan, torch.inf])
    with pytest.raises(SimulationError) as caught:
        check_finite(system, SETTINGS, energy, "at frame 3")
    for part in ("Ace-G-Nme", "row 2 (ladder 2, 310 K) and 1 more", "at frame 3", "--time-step"):
        assert part in str(caught.value)
    with pytest.raises(SimulationError, match=r"Ace-G-Nme: no finite energy .* in replica row"):
        simulated(system, replace(SETTINGS, time_step=0.01, equilibration=1.0))


def test_a_start_that_is_not_finite_is_named_with_its_row(system):
    class Broken(Half):
        def starts(self, n, generator):
            x = self.system.starts(n, generator)
            x[2, 1] = torch.nan
            return x

    with pytest.raises(SimulationError, match="Ace-G-Nme: row 2 of the starting positions"):
        simulated(Broken(system))


def test_a_summary_of_a_state_without_frames_can_be_told(system):
    job = begin(system, SETTINGS, 3, MemoryStore())
    summary = summarise(job)
    assert (summary.snapshots, summary.frames, summary.round_trips) == (0, 0, 0)
    assert summary.mixing["torsions"]["phi2"]["fraction"] is None


def test_simulations_side_by_side_have_the_bits_of_each_alone(system, uninterrupted):
    other = PeptideSystem.from_text("GG")
    longer = replace(SETTINGS, length=0.09)
    pairs = [(system, SETTINGS), (other, longer)]
    tasks = [Task(one, settings, MemoryStore(), lambda _: None) for one, settings in pairs]
    first, second = simulate_together(tasks, seed=3)
    assert_same(tasks[0].store, uninterrupted[0])
    assert first == uninterrupted[1]
    alone, summary = simulated(other, longer)
    assert_same(tasks[1].store, alone)
    assert second == summary


def test_only_like_settings_go_side_by_side(system):
    other = replace(SETTINGS, frame_interval=0.005)
    tasks = [Task(system, s, MemoryStore(), lambda _: None) for s in (SETTINGS, other)]
    with pytest.raises(ValueError, match="more than the length"):
        simulate_together(tasks, seed=3)


def test_a_simulation_that_fails_leaves_those_beside_it_alone(system, uninterrupted):
    class Breaking(Half):
        """Unusable after some frames."""

        calls = 0

        def natural(self, x):
            self.calls += 1
            if self.calls > 2:
                raise SimulationError("GG: no finite energy in replica row 1")
            return torch.ones(len(x), dtype=torch.bool)

    tasks = [
        Task(Breaking(PeptideSystem.from_text("GG")), SETTINGS, MemoryStore(), lambda _: None),
        Task(system, SETTINGS, MemoryStore(), lambda _: None),
    ]
    broken, fine = simulate_together(tasks, seed=3)
    assert isinstance(broken, SimulationError)
    assert tasks[0].store.shards.keys() == {0}
    assert fine == uninterrupted[1]
    assert_same(tasks[1].store, uninterrupted[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_simulates_what_the_cpu_does(system):
    longer = replace(SETTINGS, length=2.0, frame_interval=0.1, ladders=32, equilibration=0.5)
    means = []
    for device in ("cpu", "cuda"):
        store, _ = simulated(system, replace(longer, device=device))
        energy = torch.cat([shard["energy"] for shard in store.shards.values()]).double()
        means.append((energy.mean(), energy.std() / 32**0.5))
    (cpu, cpu_error), (gpu, gpu_error) = means
    assert abs(cpu - gpu) < 5 * (cpu_error**2 + gpu_error**2).sqrt()
