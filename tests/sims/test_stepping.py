"""The steps of the C kernel against those in torch, and the noise against its distribution."""

import math

import pytest
import torch
from scipy import stats

from gensci.sims.dynamics import (
    GAS_CONSTANT,
    DynamicsState,
    Langevin,
    Member,
    NonFiniteStart,
    ReplicaExchange,
    kinetic_energy,
    run_together,
)
from gensci.sims.dynamics.langevin import drawing_from
from gensci.sims.dynamics.together import run_padded
from gensci.sims.forcefield import ForceField
from gensci.sims.forcefield.mixed import MixedForceField
from gensci.sims.forcefield.native import Kernel, in_threads, make_kernel
from gensci.sims.forcefield.parameters import Parameters
from gensci.sims.forcefield.stepping import Job, Rows, StepSettings, _pieces

from .openmm_reference import conformations, peptide_system

pytestmark = pytest.mark.skipif(
    make_kernel(ForceField.from_openmm(peptide_system("GG")[0]).parameters, torch.float32) is None,
    reason="no C compiler",
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def field_of(name, **settings):
    return ForceField.from_openmm(peptide_system(name)[0], **settings)


def start_of(name, n, dtype, seed=0):
    field = field_of(name)
    x = conformations(name).repeat(-(-n // 4), 1, 1)[:n].to(dtype)
    langevin = Langevin(field, field.masses.to(dtype))
    return field, langevin.start(x, torch.full((n,), 310.0), generator(seed))


def free_atoms(count):
    """Atoms that feel no force: what moves them is the noise alone."""
    none = torch.zeros(0, dtype=torch.float64)
    square = torch.zeros(count, count, dtype=torch.float64)
    return ForceField(
        Parameters(
            masses=torch.linspace(1.0, 16.0, count, dtype=torch.float64),
            bond_atoms=torch.zeros(0, 2, dtype=torch.long), bond_length=none, bond_k=none,
            angle_atoms=torch.zeros(0, 3, dtype=torch.long), angle_theta=none, angle_k=none,
            torsion_atoms=torch.zeros(0, 4, dtype=torch.long),
            torsion_cos=torch.zeros(0, 7, dtype=torch.float64),
            torsion_sin=torch.zeros(0, 7, dtype=torch.float64),
            coulomb=square, lj12=square, lj6=square, reaction_field=square.bool(),
            born=None, cutoff=None, krf=0.0, crf=0.0,
        )
    )  # fmt: skip


def velocity_noise(n, atoms, dtype=torch.float32, seed=0, steps=1, temperature=300.0):
    """Standardised velocities after steps of full friction: one normal for every coordinate."""
    field = free_atoms(atoms)
    langevin = Langevin(field, field.masses.to(dtype), 0.5, friction=1e3)
    x = torch.arange(3.0 * atoms, dtype=dtype).reshape(1, atoms, 3).repeat(n, 1, 1)
    zero = torch.zeros_like(x)
    state = DynamicsState(x, zero, zero[:, 0, 0], zero)
    end = langevin.run(state, torch.full((n,), temperature), steps, generator(seed))
    spread = (GAS_CONSTANT * temperature / field.masses).sqrt()[:, None]
    return end.velocities.double() / spread


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 3e-6)])
@pytest.mark.parametrize("n", [1, 21])
def test_without_friction_the_steps_are_those_of_torch(dtype, tolerance, n):
    field, state = start_of("AA", n, dtype)
    langevin = Langevin(field, field.masses.to(dtype), 0.0005, friction=0.0)
    temperature = torch.full((n,), 310.0)
    fused = langevin.run(state, temperature, 12, generator())
    plain = langevin.run_torch(state, temperature, 12, drawing_from(generator()))
    assert langevin.job(state, temperature, generator()) is not None
    assert torch.allclose(fused.positions, plain.positions, rtol=0, atol=tolerance)
    assert torch.allclose(fused.velocities, plain.velocities, rtol=0, atol=100 * tolerance)
    assert torch.allclose(fused.energy, plain.energy, rtol=0, atol=1e3 * tolerance)
    assert torch.allclose(fused.forces, plain.forces, rtol=1e3 * tolerance, atol=1e5 * tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_standard_normal_and_uncorrelated(dtype):
    z = velocity_noise(2000, 9, dtype)
    flat = z.flatten()
    assert stats.kstest(flat.numpy(), "norm").pvalue > 1e-3
    n = flat.numel()
    moments = [flat.pow(k).mean().item() for k in (1, 2, 3, 4)]
    spreads = [math.sqrt(v / n) for v in (1, 2, 15, 96)]
    for moment, truth, spread in zip(moments, (0, 1, 0, 3), spreads, strict=True):
        assert abs(moment - truth) < 4 * spread
    correlation = torch.corrcoef(z.reshape(2000, -1).T) - torch.eye(27, dtype=torch.float64)
    assert correlation.abs().max() < 5 / math.sqrt(2000)
    rows = torch.corrcoef(z.reshape(2000, -1)[:200]) - torch.eye(200, dtype=torch.float64)
    assert rows.abs().max() < math.tanh(6 / math.sqrt(27 - 3))  # Fisher's transform


def test_noise_has_tails():
    z = velocity_noise(60_000, 9)
    for limit in (3.0, 4.0):
        expected = 2 * stats.norm.sf(limit) * z.numel()
        assert abs((z.abs() > limit).sum().item() - expected) < 5 * math.sqrt(expected)
    assert z.abs().max() < 6.7


def test_steps_and_calls_have_fresh_noise():
    first, second = velocity_noise(500, 9), velocity_noise(500, 9, steps=2)
    other = velocity_noise(500, 9, seed=1)
    for a, b in ((first, second), (first, other)):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.04
    assert torch.equal(first, velocity_noise(500, 9))


def test_bits_depend_on_neither_threads_nor_neighbours():
    field, state = start_of("AA", 67, torch.float32)
    temperature = torch.linspace(300.0, 500.0, 67)

    def run(threads, rows=67):
        potential = field_of("AA", num_threads=threads)
        langevin = Langevin(potential, field.masses.float())
        part = DynamicsState(*(t[:rows] for t in vars(state).values()))
        return langevin.run(part, temperature[:rows], 9, generator(3))

    whole = run(1)
    for other in (run(2), run(3)):
        assert torch.equal(whole.positions, other.positions)
        assert torch.equal(whole.velocities, other.velocities)
    assert torch.equal(run(1, 30).positions, whole.positions[:30])


def test_pieces_cover_every_row_once():
    kernel = free_atoms(1).fused_kernel(torch.zeros(1, 1, 3))
    settings = StepSettings(torch.ones(1), torch.ones(1), 1.0, 1.0)
    for n in (0, 1, 15, 16, 17, 160, 1000):
        rows = Rows(*(torch.zeros(n, 1, 3),) * 3, torch.zeros(n), torch.zeros(n))
        for threads in (1, 2, 7):
            for others in (1, 5):
                job = Job(kernel, settings, rows, 0)
                pieces = _pieces([job] * others, job, threads)
                assert [r for a, b in pieces for r in range(a, b)] == list(range(n))


@pytest.mark.parametrize("threads", [1, 2])
def test_no_rows_are_no_work(threads):
    field = field_of("GG", num_threads=threads)
    langevin = Langevin(field, field.masses.float())
    none = torch.zeros(0)
    state = langevin.start(torch.zeros(0, field.num_atoms, 3), none, generator())
    assert langevin.run(state, none, 3, generator()).positions.shape == (0, field.num_atoms, 3)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"temperature": torch.tensor([300.0])}, r"temperatures .*\(1,\).*\(4,\)"),
        ({"masses": torch.ones(3)}, r"masses .*\(3,\)"),
        ({"velocities": torch.zeros(4, 2, 3)}, "velocities"),
        ({"forces": torch.zeros(4, 1, 3)}, "forces"),
        ({"energy": torch.zeros(4, dtype=torch.float64)}, "energies .*float64.* give .*float32"),
        ({"positions": torch.zeros(4, 3, 3)}, r"positions .*\(4, 3, 3\)"),
    ],
)
def test_what_does_not_fit_the_kernel_is_refused(change, says):
    field, state = start_of("GG", 4, torch.float32)
    whole = {"temperature": torch.full((4,), 300.0), "masses": field.masses.float(), **vars(state)}
    whole |= change
    langevin = Langevin(field, whole.pop("masses"))
    temperature = whole.pop("temperature")
    with pytest.raises(ValueError, match=says):
        langevin.run(DynamicsState(**whole), temperature, 3, generator())


@pytest.mark.parametrize("friction", [1.0, 1e-2, 1e-3, 1e-4])
def test_noise_makes_up_for_what_weak_friction_takes(friction):
    # next to one, single precision knows few values: kT depends on the one that the kernel gets
    field, state = start_of("GG", 1, torch.float32)
    langevin = Langevin(field, field.masses.float(), 0.0005, friction)
    settings = langevin.job(state, torch.tensor([300.0]), generator()).settings
    keep = torch.tensor(settings.keep, dtype=torch.float32).double()
    kept = settings.spread.double().square() * field.masses / (1 - keep.square())
    assert torch.allclose(kept, torch.full_like(kept, GAS_CONSTANT), rtol=1e-6)


def test_an_exception_in_a_thread_is_raised_where_they_meet():
    done = []

    def work(piece):
        if piece == 3:
            raise RuntimeError("piece 3")
        done.append(piece)

    for threads in (1, 2, 5):
        with pytest.raises(RuntimeError, match="piece 3"):
            in_threads(work, [(k,) for k in range(50)], threads)
    in_threads(done.append, [(k,) for k in range(100, 120)], 3)
    assert sorted(done[-20:]) == list(range(100, 120))


def test_molecules_in_one_batch_have_the_bits_of_separate_runs():
    def member(name, seed):
        field, state = start_of(name, 8, torch.float32, seed)
        langevin = Langevin(field, field.masses.float())
        replicas = ReplicaExchange(langevin, (300.0, 330.0), exchange_interval=5)
        return Member(replicas, replicas.start(state.positions, generator(seed)), generator(seed))

    together = run_together([member("GG", 1), member("AA", 2), member("Ace-A-Nme", 3)], 23)
    for k, name in enumerate(("GG", "AA", "Ace-A-Nme")):
        alone = member(name, k + 1)
        end = alone.replicas.run(alone.state, 23, alone.generator)
        assert torch.equal(together[k].dynamics.positions, end.dynamics.positions)
        assert torch.equal(together[k].walker, end.walker)
        assert torch.equal(together[k].accepted, end.accepted)


def test_a_mixed_batch_falls_back_to_torch_member_by_member():
    field, state = start_of("GG", 4, torch.float32)
    plain = ForceField(field.parameters, fused=False)
    langevin = Langevin(plain, field.masses.float())
    replicas = ReplicaExchange(langevin, (300.0, 330.0), exchange_interval=5)
    begin = replicas.start(state.positions, generator())
    (end,) = run_together([Member(replicas, begin, generator(1))], 10)
    assert torch.equal(
        end.dynamics.positions, replicas.run(begin, 10, generator(1)).dynamics.positions
    )


def test_a_padded_batch_gives_what_separate_runs_give():
    def member(name, seed):
        field, state = start_of(name, 4, torch.float64, seed)
        plain = ForceField(field.parameters, fused=False)
        replicas = ReplicaExchange(Langevin(plain, field.masses), (300.0, 330.0), 5)
        return Member(replicas, replicas.start(state.positions, generator(seed)), generator(seed))

    names = ("GG", "AA", "Ace-A-Nme")
    together = run_padded([member(name, k) for k, name in enumerate(names)], 13)
    for k, name in enumerate(names):
        alone = member(name, k)
        end = alone.replicas.run(alone.state, 13, alone.generator)
        for ours, theirs in zip(
            vars(together[k].dynamics).values(), vars(end.dynamics).values(), strict=True
        ):
            assert torch.allclose(ours, theirs, rtol=1e-12, atol=1e-12)
        assert torch.equal(together[k].walker, end.walker)


def test_a_mixed_force_field_is_its_parts():
    fields = [field_of(name) for name in ("GG", "AA")]
    parts = [conformations("GG"), conformations("AA")[:3]]
    mixed = MixedForceField(fields, (4, 3))
    energy, forces = mixed.energy_and_forces(mixed.pad(parts, torch.nan))
    expected = [f.energy_and_forces(x) for f, x in zip(fields, parts, strict=True)]
    assert torch.equal(energy, torch.cat([e for e, _ in expected]))
    for found, (_, force) in zip(mixed.split(forces), expected, strict=True):
        assert torch.equal(found, force)
    assert (forces[:4, fields[0].num_atoms :] == 0).all()
    assert mixed.masses.isinf().sum() == 4 * (fields[1].num_atoms - fields[0].num_atoms)
    with pytest.raises(ValueError, match="7, 23, 3"):
        mixed.energy_and_forces(parts[0])
    with pytest.raises(ValueError, match="counts"):
        MixedForceField(fields, (4,))


def test_a_mixed_batch_refuses_what_cannot_go_together():
    field, state = start_of("GG", 4, torch.float32)
    langevin = Langevin(field, field.masses.float())
    two = [ReplicaExchange(langevin, (300.0, 330.0), exchange_interval=k) for k in (5, 6)]
    begin = two[0].start(state.positions, generator())
    with pytest.raises(ValueError, match="exchange intervals"):
        run_together([Member(r, begin, generator()) for r in two], 5)
    shared = generator()
    with pytest.raises(ValueError, match="share a generator"):
        run_together([Member(two[0], begin, shared), Member(two[0], begin, shared)], 5)
    assert run_together([], 5) == []


@pytest.mark.parametrize("where", ["positions", "energy"])
def test_starts_that_are_not_finite_are_reported_with_their_row(where):
    field = field_of("GG")
    x = conformations("GG").float().repeat(3, 1, 1)
    if where == "positions":
        x[7, 2, 1] = torch.nan
        says = r"row 7 .*atom 2.* 1 of 12 rows"
    else:
        x[5] *= 1e22
        says = r"row 5 .*no finite energy"
    langevin = Langevin(field, field.masses.float())
    with pytest.raises(NonFiniteStart, match=says):
        langevin.start(x, torch.full((12,), 300.0), generator())


def test_a_row_that_blows_up_stays_alone():
    field, state = start_of("GG", 20, torch.float32)
    temperature = torch.full((20,), 300.0)
    langevin = Langevin(field, field.masses.float())
    good = langevin.run(state, temperature, 6, generator())
    broken = state.positions.clone()
    broken[3] = torch.nan
    bad = DynamicsState(broken, state.velocities, state.energy, state.forces)
    end = langevin.run(bad, temperature, 6, generator())
    rest = torch.arange(20) != 3
    assert torch.equal(end.positions[rest], good.positions[rest])
    assert end.energy[3] == torch.inf
    assert end.energy[rest].isfinite().all()


def test_the_kernel_is_left_alone_where_it_does_not_fit():
    field, state = start_of("GG", 2, torch.float64)
    temperature = torch.full((2,), 300.0)
    masses = field.masses
    assert Langevin(field, masses).job(state, temperature, generator()) is not None
    assert (
        Langevin(field.to(dtype=torch.float32), masses).job(state, temperature, generator()) is None
    )
    assert Langevin(field, masses.repeat(2, 1)).job(state, temperature, generator()) is None
    assert isinstance(field.fused_kernel(state.positions), Kernel)


def test_kinetic_energy_by_hand():
    v = torch.tensor([[[1.0, 2.0, 2.0], [0.0, 0.0, 3.0]]])
    state = DynamicsState(v, v, v[:, 0, 0], v)
    assert kinetic_energy(state, torch.tensor([2.0, 4.0])).tolist() == [27.0]
