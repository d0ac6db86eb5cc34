import math

import openmm
import pytest
import torch
from openmm import unit

from gensci.core.errors import SystemTextError, UsageError
from gensci.core.registry import SYSTEMS
from gensci.systems.peptide import PeptideSystem, PeptideTarget


@pytest.fixture(scope="module")
def system():
    return PeptideSystem.from_text("Ace-A-Nme")


def conformations(system, n, dtype=torch.float64):
    """Near the minimum, off centre by different amounts."""
    g = torch.Generator().manual_seed(0)
    x = torch.from_numpy(system.peptide.positions).to(dtype)
    noise = torch.randn((n, *x.shape), generator=g, dtype=dtype)
    shift = torch.randn((n, 1, 3), generator=g, dtype=dtype)
    return x + 0.003 * noise + 0.1 * shift


def openmm_energy(system, x):
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system.peptide.system, openmm.VerletIntegrator(0.001), platform)
    energies = []
    for row in x.double().numpy():
        context.setPositions(row)
        energy = context.getState(getEnergy=True).getPotentialEnergy()
        energies.append(energy.value_in_unit(unit.kilojoule_per_mole))
    return torch.tensor(energies, dtype=torch.float64)


def test_log_density_is_the_openmm_energy_and_the_centroid_factor(system):
    x = conformations(system, 4)
    kt = unit.MOLAR_GAS_CONSTANT_R * 310 * unit.kelvin
    kt = kt.value_in_unit(unit.kilojoule_per_mole)
    scale = 0.35 / math.sqrt(system.peptide.num_atoms)
    normal = torch.distributions.Normal(0.0, torch.tensor(scale, dtype=torch.float64))
    expected = -openmm_energy(system, x) / kt + normal.log_prob(x.mean(dim=1)).sum(dim=-1)
    assert torch.allclose(system.target().log_prob({"positions": x}), expected, atol=1e-3)


def test_gradient_is_that_of_the_log_density(system):
    target = system.target()
    x = conformations(system, 3).requires_grad_()
    value = target.log_prob({"positions": x})
    (expected,) = torch.autograd.grad(value.sum(), x)
    log_prob, gradient = target.log_prob_and_grad({"positions": x})
    assert torch.allclose(log_prob, value.detach(), atol=1e-8)
    assert torch.allclose(gradient["positions"], expected, rtol=1e-6, atol=1e-5)


def test_temperature_scales_the_energy(system):
    x = conformations(system, 1)
    hot = PeptideTarget(system.force_field, 620.0, system.peptide.chirality)
    energy = system.target().energy({"positions": x})
    log_prob = [t.log_prob({"positions": x}) for t in (system.target(), hot)]
    assert torch.allclose(log_prob[1] - log_prob[0], 0.5 * energy / system.target().kt)


def test_mirror_images_and_overlaps_have_zero_density_and_disturb_no_other_row(system):
    x = conformations(system, 4)
    alone = system.target().log_prob({"positions": x[:1]})
    x[1] = -x[1]
    x[2] = torch.nan
    x[3] = 0.0
    log_prob, gradient = system.target().log_prob_and_grad({"positions": x})
    assert torch.equal(log_prob[:1], alone)
    assert torch.equal(log_prob[1:], torch.full((3,), -torch.inf, dtype=torch.float64))
    assert torch.equal(gradient["positions"][1:], torch.zeros_like(x[1:]))
    assert torch.equal(system.target().log_prob({"positions": x}), log_prob)


def test_mirror_image_has_the_same_energy(system):
    x = conformations(system, 2)
    target = system.target()
    energy = [target.energy({"positions": sign * x}) for sign in (1, -1)]
    assert torch.allclose(energy[0], energy[1])


def test_precision_follows_the_request(system):
    x = conformations(system, 2)
    single = system.target(dtype=torch.float32).log_prob({"positions": x.float()})
    double = system.target(dtype=torch.float64).log_prob({"positions": x.float()})
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert torch.allclose(single.double(), double, rtol=2e-5)


def test_registry_finds_the_system():
    assert SYSTEMS.get("Peptide") is PeptideSystem
    assert PeptideSystem.from_text("ace-G-nme", temperature=350.0).name == "Ace-G-Nme"


@pytest.mark.parametrize("text", ["", "AXA", "aa", "A" * 65])
def test_unusable_text_is_a_usage_error(text):
    with pytest.raises(SystemTextError) as caught:
        PeptideSystem.from_text(text)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {"temperature": math.nan}])
def test_unusable_temperature_is_refused(system, settings):
    with pytest.raises(UsageError, match="temperature"):
        PeptideTarget(system.force_field, natural=system.peptide.chirality, **settings)


def test_starts_name_equal_atoms_as_the_target_counts_them(monkeypatch):
    """A relaxation with clashes inverts a methyl once in some hundred starts; here, every one."""
    from gensci.systems import peptide as module

    system = PeptideSystem.from_text("GA")
    true_relax = module.relax
    a, b = (system.peptide.atom_names.index(name) for name in ("HB2", "HB3"))

    def inverting(*given):
        x, energy = true_relax(*given)
        x[:, [a, b]] = x[:, [b, a]]
        assert not system.peptide.counted(x).any()
        return x, energy

    monkeypatch.setattr(module, "relax", inverting)
    x = system.starts(6, torch.Generator().manual_seed(0))
    assert system.peptide.counted(x).all()
