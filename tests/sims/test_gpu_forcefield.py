"""The GPU kernels against torch: in triton's interpreter, and on a GPU where there is one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gensci.sims.forcefield import ForceField
from gensci.sims.forcefield.gpu import (
    NARROW_TILE,
    WIDE_TILE,
    GpuKernel,
    NoGpuKernel,
    gpu_status,
    make_gpu_kernel,
)
from gensci.sims.forcefield.gpu_tables import make_tables

from . import gpu_cases, gpu_compile

HAS_TRITON = importlib.util.find_spec("triton") is not None
needs_triton = pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed (gensci[gpu])")
needs_gpu = pytest.mark.skipif(
    not (HAS_TRITON and torch.cuda.is_available()), reason="needs triton and a CUDA device"
)
ROOT = Path(__file__).parents[2]
INTERPRETED = ("vacuum", "cutoff", "hct", "everything")  # a GPU does every kind
NOT_FINITE = {1: float("nan"), 3: float("inf")}  # by row


def job(parameters, x, counts=None, *, forces=True, tile=(16, 4, 1)):
    parameters = parameters if isinstance(parameters, list) else [parameters]
    counts = (len(x),) if counts is None else counts
    return {"parameters": parameters, "x": x, "counts": counts, "forces": forces, "tile": tile}


def damaged(x):
    x = x.clone()
    for row, value in NOT_FINITE.items():
        x[row, 2, 1] = value
    return x


def mixed_batch(count=3):
    """Two molecules; what stands beyond the atoms of the smaller one must not be read."""
    texts = ("G", "A")
    parameters = [gpu_cases.parameters(text) for text in texts]
    parts = [gpu_cases.crowded_to_scattered(text, count) for text in texts]
    width = max(part.shape[1] for part in parts)
    rows = [
        torch.nn.functional.pad(p, (0, 0, 0, width - p.shape[1]), value=torch.nan) for p in parts
    ]
    return parameters, torch.cat(rows).float(), parts


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory):
    """Results of all jobs, evaluated in one process of their own."""
    folder = tmp_path_factory.mktemp("interpreter")
    x = gpu_cases.crowded_to_scattered("A", 3)
    jobs = {name: job(gpu_cases.parameters("A", name, bonded=False), x) for name in INTERPRETED}
    jobs["plain"] = job(gpu_cases.parameters("A"), x)
    loose = gpu_cases.parameters("A", bonded=False)
    jobs["with forces"], jobs["energies"] = job(loose, x), job(loose, x, forces=False)
    jobs["rows of four"] = job(loose, x, tile=(4, 4, 1))
    jobs["single"] = job(loose, damaged(gpu_cases.crowded_to_scattered("A", 5)).float())
    parameters, padded, _ = mixed_batch(2)
    jobs["mixed"] = job(parameters, padded, (2, 2))
    torch.save(jobs, folder / "jobs.pt")
    command = [sys.executable, "-m", "tests.sims.gpu_interpreter"]
    subprocess.run([*command, folder / "jobs.pt", folder / "results.pt"], cwd=ROOT, check=True)
    return jobs, torch.load(folder / "results.pt")


@needs_triton
@pytest.mark.parametrize("name", ["plain", *INTERPRETED, "rows of four"])
def test_interpreted_kernels_agree_with_torch(interpreted, name):
    jobs, results = interpreted
    gpu_cases.assert_agrees(jobs[name]["parameters"][0], jobs[name]["x"], *results[name])


@needs_triton
def test_interpreted_rows_that_are_not_finite_disturb_no_other(interpreted):
    jobs, results = interpreted
    (energy, forces), x = results["single"], jobs["single"]["x"]
    bad = torch.zeros(len(x), dtype=torch.bool)
    bad[list(NOT_FINITE)] = True
    assert (energy[bad] == torch.inf).all()
    assert (forces[bad] == 0).all()
    gpu_cases.assert_agrees(jobs["single"]["parameters"][0], x[~bad], energy[~bad], forces[~bad])


@needs_triton
def test_interpreted_energies_alone_are_those_with_forces(interpreted):
    results = interpreted[1]
    assert torch.equal(results["energies"][0], results["with forces"][0])
    assert results["energies"][1].numel() == 0


@needs_triton
def test_interpreted_mixed_batch_is_every_molecule_alone(interpreted):
    energy, forces = interpreted[1]["mixed"]
    parameters, _, parts = mixed_batch(2)
    rows = zip(parameters, parts, energy.split(2), forces.split(2), strict=True)
    for p, x, part_energy, part_forces in rows:
        gpu_cases.assert_agrees(p, x.float(), part_energy, part_forces[:, : p.num_atoms])
        assert (part_forces[:, p.num_atoms :] == 0).all()


@needs_triton
@pytest.mark.parametrize(
    ("real", "tile", "on"),
    [
        pytest.param("fp32", WIDE_TILE, (), id="wide"),
        pytest.param("fp32", NARROW_TILE, gpu_compile.FLAGS, id="all terms"),
        pytest.param("fp64", NARROW_TILE, (), id="double", marks=pytest.mark.slow),
    ],
)
def test_compiles_for_hopper_without_spilling(tmp_path, monkeypatch, real, tile, on):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    switches = {flag: flag in (*on, "HAS_BORN", "HAS_TANH") for flag in gpu_compile.FLAGS}
    switches["FAST"] = real == "fp32"
    for kernel in gpu_compile.passes():
        compiled = gpu_compile.compile_pass(kernel, real, tile, switches)
        used = gpu_compile.resources(compiled, tmp_path)
        assert used["STACK"] == used["LOCAL"] == 0, (kernel.__name__, used)
        assert used["REG"] <= (128 if real == "fp32" else 255), (kernel.__name__, used)


def test_every_atom_finds_its_terms():
    p = gpu_cases.parameters("AA")
    tables = make_tables([p, p], torch.float64, torch.device("cpu"))
    counts = tables.starts.diff(dim=1).sum(1).tolist()
    bonds, angles, torsions = len(p.bond_k), len(p.angle_k), len(p.torsion_cos)
    assert counts == [2 * n for n in (2 * bonds, angles, 2 * torsions, 2 * angles, 2 * torsions)]
    second = tables.entries[tables.starts[0, p.num_atoms] : tables.starts[0, -1]]
    assert second[:, 3].min() == bonds


def test_says_why_there_is_no_kernel():
    p = gpu_cases.parameters("A")
    if not torch.cuda.is_available():
        assert gpu_status().startswith("torch: ")
        with pytest.raises(NoGpuKernel, match="CUDA" if HAS_TRITON else "triton is not installed"):
            GpuKernel([p], "cpu")
    assert make_gpu_kernel(p, torch.float32, torch.device("cpu")) is None


def gpu_kernel(parameters, dtype, tile=None):
    return GpuKernel(parameters, "cuda", dtype, tile=tile)


@needs_gpu
@pytest.mark.parametrize(
    ("dtype", "tile"), [(torch.float32, WIDE_TILE), (torch.float64, None)], ids=["single", "double"]
)
@pytest.mark.parametrize("name", gpu_cases.NAMES)
def test_agrees_with_torch_on_the_gpu(name, dtype, tile):
    p, x = gpu_cases.parameters("AA", name), gpu_cases.crowded_to_scattered("AA", 67).to(dtype)
    energy, forces = gpu_kernel([p], dtype, tile).energy_and_forces(x.cuda())
    gpu_cases.assert_agrees(p, x, energy.cpu(), forces.cpu())


@needs_gpu
@pytest.mark.parametrize("tile", [NARROW_TILE, WIDE_TILE], ids=["narrow", "wide"])
def test_energies_alone_are_those_with_forces_on_the_gpu(tile):
    p, x = gpu_cases.parameters("AA"), gpu_cases.crowded_to_scattered("AA", 67).float()
    kernel = gpu_kernel([p], torch.float32, tile)
    energy, forces = kernel.energy_and_forces(x.cuda())
    gpu_cases.assert_agrees(p, x, energy.cpu(), forces.cpu())
    torch.testing.assert_close(kernel.energy(x.cuda()), energy, rtol=1e-6, atol=1e-3)


@needs_gpu
def test_batches_of_every_size_have_the_same_bits_on_the_gpu():
    p, x = gpu_cases.parameters("AA"), gpu_cases.crowded_to_scattered("AA", 300).float().cuda()
    kernel = gpu_kernel([p], torch.float32, WIDE_TILE)
    energy, forces = kernel.energy_and_forces(x)
    for rows in (slice(0, 0), slice(0, 1), slice(3, 130), slice(5, 300)):
        part_energy, part_forces = kernel.energy_and_forces(x[rows])
        assert torch.equal(part_energy, energy[rows])
        assert torch.equal(part_forces, forces[rows])
    rows = damaged(x)
    part_energy, part_forces = kernel.energy_and_forces(rows)
    bad = list(NOT_FINITE)
    assert (part_energy[bad] == torch.inf).all()
    assert (part_forces[bad] == 0).all()
    assert torch.equal(part_forces[4:], forces[4:])


@needs_gpu
def test_large_batches_are_worked_through_in_pieces_on_the_gpu(monkeypatch):
    p, x = gpu_cases.parameters("A"), gpu_cases.crowded_to_scattered("A", 700).float().cuda()
    kernel = gpu_kernel([p], torch.float32, WIDE_TILE)
    energy, forces = kernel.energy_and_forces(x)
    monkeypatch.setattr("gensci.sims.forcefield.gpu._ROWS_AT_ONCE", 13 * 128)
    assert all(map(torch.equal, kernel.energy_and_forces(x), (energy, forces)))


@needs_gpu
def test_mixed_batch_is_every_molecule_alone_on_the_gpu():
    parameters, x, parts = mixed_batch(70)
    kernel = gpu_kernel(parameters, torch.float32, WIDE_TILE)
    energy, forces = (t.split(70) for t in kernel.evaluate(x.cuda(), (70, 70)))
    for i, (p, part) in enumerate(zip(parameters, parts, strict=True)):
        alone = gpu_kernel([p], torch.float32, WIDE_TILE)
        own_energy, own_forces = alone.energy_and_forces(part.float().cuda())
        assert torch.equal(energy[i], own_energy)
        assert torch.equal(forces[i][:, : p.num_atoms], own_forces)
        assert (forces[i][:, p.num_atoms :] == 0).all()


@needs_gpu
def test_a_captured_graph_replays_on_the_gpu():
    p, x = gpu_cases.parameters("AA"), gpu_cases.crowded_to_scattered("AA", 40).float().cuda()
    kernel = gpu_kernel([p], torch.float32)
    replay = kernel.captured((20,))
    for rows in (x[:20], x[20:]):
        assert all(map(torch.equal, replay(rows), kernel.energy_and_forces(rows)))


@needs_gpu
def test_force_field_is_differentiable_twice_on_the_gpu():
    p, x = gpu_cases.parameters("A"), gpu_cases.crowded_to_scattered("A", 2).cuda()
    x.requires_grad_()
    fused, plain = (ForceField(p, fused=on) for on in (True, False))
    weight = torch.linspace(-1, 1, 39, device="cuda", dtype=torch.float64).view(13, 3)
    results = []
    for field in (fused, plain):
        (gradient,) = torch.autograd.grad(field.energy(x).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad((gradient * weight).sum(), x)
        results.append((gradient, second))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-6)


def test_systems_of_different_kinds_are_refused(monkeypatch):
    monkeypatch.setattr("gensci.sims.forcefield.gpu._check_device", lambda device: None)
    kinds = [gpu_cases.parameters("A", name) for name in ("plain", "vacuum")]
    with pytest.raises(ValueError, match="implicit solvent"):
        GpuKernel(kinds, "cpu")


@needs_triton
@pytest.mark.parametrize(
    ("shape", "counts", "message"),
    [((2, 12, 3), (2,), "shape"), ((2, 13, 3), (1,), "counts"), ((2, 13, 3), (3, -1), "counts")],
)
def test_names_what_is_wrong_with_a_batch(monkeypatch, shape, counts, message):
    monkeypatch.setattr("gensci.sims.forcefield.gpu._check_device", lambda device: None)
    kernel = GpuKernel([gpu_cases.parameters("A")], "cpu")
    with pytest.raises(ValueError, match=message):
        kernel.evaluate(torch.zeros(shape), counts)
