"""The compiled kernel against the torch terms, and how it is built, cached and done without."""

import threading

import pytest
import torch

from gensci.sims.forcefield import ForceField, compiler, kernel_status, native
from gensci.sims.peptide import build_peptide

from .openmm_reference import conformations, peptide_system


def kernel_is_available():
    try:
        compiler.load_library(False)
    except compiler.NoKernel:
        return False
    return True


needs_kernel = pytest.mark.skipif(not kernel_is_available(), reason="no C compiler here")


@pytest.fixture
def fresh_build(tmp_path, monkeypatch):
    """An empty cache of kernels for this test alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compiler.load_library.cache_clear()
    yield tmp_path / "gensci" / "kernels"
    compiler.load_library.cache_clear()


def both_paths(text="AAAA", solvent="obc1"):
    system = peptide_system(text)[0]
    if solvent != "obc1":
        system = build_peptide(text, implicit_solvent=solvent, minimise=False).system
    return ForceField.from_openmm(system), ForceField.from_openmm(system, fused=False)


@needs_kernel
@pytest.mark.parametrize("stretch", [0.5, 0.8, 1.0, 1.4, 3.0, 20.0])
@pytest.mark.parametrize("solvent", ["obc1", "gbn2"])
def test_agrees_with_torch_from_crowded_to_scattered(stretch, solvent):
    # Stretching moves pairs through every case of the Born integral, and in and out of necks.
    fused, plain = both_paths("MC", solvent)
    x = stretch * conformations("MC")
    energy, forces = plain.energy_and_forces(x)
    fused_energy, fused_forces = fused.energy_and_forces(x)
    torch.testing.assert_close(fused_energy, energy, rtol=1e-11, atol=1e-8)
    torch.testing.assert_close(fused_forces, forces, rtol=1e-9, atol=1e-6)
    single_energy, single_forces = fused.energy_and_forces(x.float())
    true_energy, true_forces = plain.energy_and_forces(x.float().double())
    torch.testing.assert_close(single_energy.double(), true_energy, rtol=1e-5, atol=1e-3)
    error = (single_forces.double() - true_forces).flatten(1).norm(dim=1)
    assert (error < 1e-4 * true_forces.flatten(1).norm(dim=1)).all()


@needs_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["single", "double"])
def test_bits_do_not_depend_on_the_batch_or_the_threads(dtype):
    fused, _ = both_paths("AA")
    x = conformations("AA", 700).to(dtype)
    x = x * torch.linspace(0.7, 1.8, len(x), dtype=dtype)[:, None, None]
    energy, forces = fused.energy_and_forces(x)
    for rows in (slice(0, 1), slice(3, 18), slice(5, 22), slice(1, 34)):
        part_energy, part_forces = fused.energy_and_forces(x[rows])
        assert torch.equal(part_energy, energy[rows])
        assert torch.equal(part_forces, forces[rows])
        assert torch.equal(fused.energy(x[rows]), energy[rows])
    threaded = ForceField(fused.parameters, num_threads=3)
    assert len(threaded._kernel(x)._slices(len(x), 3)) == 3
    assert all(map(torch.equal, threaded.energy_and_forces(x), (energy, forces)))


@needs_kernel
def test_accepts_positions_that_are_not_contiguous():
    fused, _ = both_paths("AA")
    x = conformations("AA")
    strided = x.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not strided.is_contiguous()
    assert torch.equal(fused.energy(strided), fused.energy(x))


@needs_kernel
def test_slices_cover_every_conformation_once():
    fused, _ = both_paths("GYDPETGTWG")
    kernel = fused._kernel(torch.zeros(0, 138, 3))
    for n in (0, 1, 15, 16, 17, 100, 1000):
        for threads in (1, 2, 3, 8):
            slices = kernel._slices(n, threads)
            assert len(slices) <= threads
            assert [row for a, b in slices for row in range(a, b)] == list(range(n))


@needs_kernel
@pytest.mark.parametrize("tuning", [(), ("-O1",)], ids=["portable", "unoptimised"])
def test_agrees_without_the_instructions_of_this_processor(fresh_build, monkeypatch, tuning):
    fused, _ = both_paths()
    x = conformations("AAAA")
    energy, forces = fused.energy_and_forces(x.float())
    monkeypatch.setattr(compiler, "_TUNINGS", (tuning,))
    compiler.load_library.cache_clear()
    other = ForceField(fused.parameters)
    other_energy, other_forces = other.energy_and_forces(x.float())
    torch.testing.assert_close(other_energy, energy, rtol=1e-5, atol=0)
    torch.testing.assert_close(other_forces, forces, rtol=1e-4, atol=0.1)


@needs_kernel
def test_is_built_once_and_kept(fresh_build):
    assert "fused C kernel" in kernel_status()
    (library,) = fresh_build.iterdir()
    stamp = library.stat().st_mtime_ns
    compiler.load_library.cache_clear()
    assert "fused C kernel" in kernel_status()
    assert [(p, p.stat().st_mtime_ns) for p in fresh_build.iterdir()] == [(library, stamp)]


@needs_kernel
def test_many_may_build_at_once(fresh_build):
    command, outcomes = [*compiler.find_compiler(), *compiler._FLAGS], []
    workers = [
        threading.Thread(target=lambda: outcomes.append(compiler._cached(command).read_bytes()))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(outcomes) == 4
    assert len(list(fresh_build.iterdir())) == 1


@pytest.mark.parametrize(
    ("variables", "reason"),
    [({"PATH": "", "CC": ""}, "no C compiler found"), ({"CC": "false"}, "false failed")],
)
def test_without_a_compiler_torch_takes_over_and_says_so(
    fresh_build, monkeypatch, variables, reason
):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert reason in kernel_status()
    fused, plain = both_paths("AA")
    x = conformations("AA")
    assert native.make_kernel(fused.parameters, x.dtype) is None
    assert torch.equal(fused.energy(x), plain.energy(x))


@needs_kernel
def test_is_built_for_the_process_where_nothing_can_be_kept(fresh_build, monkeypatch, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    fused, plain = both_paths("AA")
    assert "fused C kernel" in kernel_status()
    x = conformations("AA")
    torch.testing.assert_close(fused.energy(x), plain.energy(x), rtol=1e-11, atol=1e-8)
