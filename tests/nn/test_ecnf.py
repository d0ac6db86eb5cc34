"""The continuous flow: symmetry of its field, exact divergence, density, and that it learns."""

import math
from functools import cache

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.nn.ecnf import ContinuousFlow, turned_onto
from gensci.nn.rotations import uniform_rotations
from gensci.sims.peptide import build_peptide

STIFFNESS = 4000.0  # kT / nm^2
MIRROR = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)


@cache
def molecule(text):
    return build_peptide(text)


def conditioning(text):
    cond = ContinuousFlow.encode(molecule(text))
    return cond | {"distance": cond["distance"].double()}


def first_atoms(cond, count):
    """The conditioning of a fragment."""
    return {k: v[:count] if v.dim() == 1 else v[:count, :count] for k, v in cond.items()}


def rough_flow(seed=0, pull=0.0005, **settings):
    """A flow whose field is far from zero; `pull` is how strong, next to random weights."""
    torch.manual_seed(seed)
    flow = ContinuousFlow(channels=16, **{"floor": 0.3, **settings}).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for parameter in flow.topology.terms.parameters():
            parameter[4 * 16 :] *= pull
        flow.field.node_out.weight[-5:] *= 0.02
    return flow


def conformations(text, n, seed=0):
    x = torch.as_tensor(molecule(text).positions, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return x + 0.03 * torch.randn(n, *x.shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("text", ["AA", "GP"])
def test_field_turns_with_the_molecule_and_knows_its_hand(text):
    flow, cond = rough_flow(), conditioning(text)
    x = conformations(text, 6)
    t = torch.linspace(0, 1, 6, dtype=torch.float64)
    rotation = uniform_rotations(6, torch.Generator().manual_seed(1), x)
    shift = torch.tensor([0.3, -2.0, 1.0], dtype=torch.float64)
    v = flow.velocity(x, t, cond)
    assert (v.norm(dim=-1) > 1e-3).all()
    torch.testing.assert_close(v.mean(1), torch.zeros(6, 3, dtype=torch.float64))
    moved = flow.velocity(x @ rotation + shift, t, cond)
    torch.testing.assert_close(moved, v @ rotation, atol=1e-12, rtol=1e-9)
    mirrored = flow.velocity(x * MIRROR, t, cond) * MIRROR
    assert ((mirrored - v).norm(dim=-1).mean(1) > 1e-3 * v.norm(dim=-1).mean(1)).all()


@pytest.mark.parametrize(("text", "t"), [("G", 0.0), ("GP", 0.9), ("AA", 1.0)])
def test_divergence_is_the_trace_of_the_jacobian(text, t):
    flow, cond = rough_flow(), conditioning(text)
    terms = flow.topology(cond)
    x = conformations(text, 2)
    time = torch.tensor([t, 0.6], dtype=torch.float64)
    v, divergence = flow.field.with_divergence(x, time, terms)
    torch.testing.assert_close(v, flow.field(x, time, terms))
    for row in range(2):

        def field(y, row=row):
            return flow.field(y.reshape(1, -1, 3), time[row : row + 1], terms).flatten()

        trace = torch.autograd.functional.jacobian(field, x[row].flatten()).trace()
        assert trace.abs() > 0.1
        torch.testing.assert_close(divergence[row], trace, rtol=1e-10, atol=1e-10)


def test_logarithmic_time_and_its_rate():
    field = rough_flow().field
    tau = torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    t = field.time_at(tau)
    torch.testing.assert_close(t[[0, -1]], torch.tensor([0.0, 1.0], dtype=torch.float64))
    (rate,) = torch.autograd.grad(t.sum(), tau)
    torch.testing.assert_close(field.rate_at(tau), rate)
    gap = torch.log(1 - t + field.floor).diff()
    torch.testing.assert_close(gap, gap[:1].expand(10))


@pytest.mark.parametrize("prior", ["isotropic", "bonded"])
def test_noise_is_a_normalised_gaussian_without_centroid(prior):
    flow, cond = rough_flow(prior=prior), conditioning("G")
    n, atoms = 20_000, len(cond["hops"])
    x = flow.noise(n, cond, torch.Generator().manual_seed(0))
    torch.testing.assert_close(x.mean(1), x.new_zeros(n, 3))
    modes = flow.modes(cond)
    covariance = torch.einsum("nix,njx->ij", x, x) / (3 * n)
    error = (covariance - modes @ modes.T).abs().max() / covariance.diagonal().max()
    assert error < 0.03
    basis = torch.linalg.qr(modes).Q  # any orthonormal basis of the subspace
    normal = torch.distributions.MultivariateNormal(
        modes.new_zeros(atoms - 1), basis.T @ modes @ modes.T @ basis
    )
    expected = normal.log_prob((basis.T @ x[:20]).transpose(1, 2)).sum(-1)
    torch.testing.assert_close(flow.noise_log_prob(x[:20], cond), expected)
    if prior == "bonded":
        d = torch.cdist(x, x).square().mean(0).sqrt()
        assert d[cond["hops"] == 1].min() > 0.05
        assert d[cond["hops"] == 1].max() < 0.9 * d[cond["hops"] > 2].min()


@pytest.mark.parametrize(("text", "prior"), [("AA", "isotropic"), ("GP", "bonded")])
def test_density_of_draws_and_return_to_the_noise(text, prior):
    """Tolerance with 40 steps of a rough field: 5e-3 nats and 5e-4 nm."""
    flow, cond = rough_flow(prior=prior, num_steps=40), conditioning(text)
    x, log_q = flow.sample_and_log_prob(5, cond, torch.Generator().manual_seed(3))
    assert log_q.std() > 1
    torch.testing.assert_close(flow.log_prob(x, cond), log_q, atol=5e-3, rtol=0)
    noise = flow.noise(5, cond, torch.Generator().manual_seed(3))
    terms = flow.topology(cond)
    centred = x - x.mean(1, keepdim=True)
    assert (centred - noise).norm(dim=-1).mean() > 0.01, "the flow moves atoms"
    back, _ = flow.transport(centred, terms, backwards=True)
    torch.testing.assert_close(back, noise, atol=5e-4, rtol=0)


def test_change_of_density_is_the_determinant_of_the_whole_map():
    flow, cond = rough_flow(num_steps=32), conditioning("GP")
    cond = first_atoms(cond, 7)
    terms = flow.topology(cond)
    noise = flow.noise(1, cond, torch.Generator().manual_seed(0))
    basis = torch.linalg.qr(flow.modes(cond)).Q

    def ends(z):
        x, _ = flow.transport((basis @ z.reshape(6, 3))[None], terms, backwards=False)
        return (basis.T @ x[0]).flatten()

    jacobian = torch.autograd.functional.jacobian(ends, (basis.T @ noise[0]).flatten())
    _, change = flow.transport(noise, terms, backwards=False)
    assert change.abs() > 0.3
    expected = torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(change[0], expected, atol=2e-5, rtol=0)


def test_density_integrates_to_one_over_two_atoms():
    """Two atoms: the density depends on the centroid and one distance, both integrated here."""
    flow, cond = rough_flow(num_steps=32), conditioning("GP")
    cond = first_atoms(cond, 2)
    r = torch.linspace(1e-3, 2.5, 200, dtype=torch.float64)
    x = torch.zeros(len(r), 2, 3, dtype=torch.float64)
    x[:, 0, 0], x[:, 1, 0] = r / 2, -r / 2
    log_q = flow.log_prob(x, cond)
    # x1 = c + r/2 and x2 = c - r/2 have unit Jacobian; the centroid is N(0, scale^2 / 2).
    variance = flow.centroid_scale**2 / 2
    centroid = 1.5 * math.log(2 * math.pi * variance)
    total = torch.trapezoid((log_q + centroid).exp() * 4 * math.pi * r.square(), r)
    torch.testing.assert_close(total.item(), 1.0, atol=1e-3, rtol=0)


def test_density_ignores_rotation_and_knows_hand_and_centroid():
    flow, cond = rough_flow(), conditioning("AA")
    x, log_q = flow.sample_and_log_prob(4, cond, torch.Generator().manual_seed(3))
    log_q = flow.log_prob(x, cond)
    turned = x @ uniform_rotations(4, torch.Generator().manual_seed(4), x)
    torch.testing.assert_close(flow.log_prob(turned, cond), log_q)
    assert ((flow.log_prob(x * MIRROR, cond) - log_q).abs() > 1e-3).all()
    shift = torch.tensor([0.1, 0.0, -0.2], dtype=torch.float64)
    centroid = x.mean(1)
    squares = (centroid + shift).square().sum(-1) - centroid.square().sum(-1)
    expected = log_q - 23 * squares / (2 * 0.35**2)
    torch.testing.assert_close(flow.log_prob(x + shift, cond), expected)


def test_log_prob_has_the_gradient_of_finite_differences():
    flow, cond = rough_flow(num_steps=8), first_atoms(conditioning("GP"), 5)
    x = conformations("GP", 1)[:, :5].requires_grad_()
    (grad,) = torch.autograd.grad(flow.log_prob(x, cond).sum(), x)
    step = 1e-5 * torch.randn(1, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        change = flow.log_prob(x + step, cond) - flow.log_prob(x - step, cond)
    torch.testing.assert_close(change[0] / 2, (grad * step).sum(), rtol=1e-3, atol=1e-9)


def test_turning_finds_the_rotation_and_no_mirror_image():
    x = torch.randn(8, 9, 3, generator=torch.Generator().manual_seed(0)).double()
    x = x - x.mean(1, keepdim=True)
    rotation = uniform_rotations(8, torch.Generator().manual_seed(1), x)
    torch.testing.assert_close(turned_onto(x, x @ rotation), x @ rotation)
    turned = turned_onto(x, x * MIRROR)
    volume = torch.linalg.det(x[:, :3])
    torch.testing.assert_close(torch.linalg.det(turned[:, :3]), volume)
    nearest = (turned - x * MIRROR).square().sum((1, 2))
    for seed in range(20):
        other = x @ uniform_rotations(8, torch.Generator().manual_seed(seed), x)
        assert ((other - x * MIRROR).square().sum((1, 2)) >= nearest - 1e-9).all()


def test_equal_atoms_of_a_residue_have_their_own_rank():
    cond, names = conditioning("AA"), list(molecule("AA").atom_names)
    ranks = [int(cond["rank"][k]) for k, name in enumerate(names) if name in ("HB1", "HB2", "HB3")]
    assert ranks == [0, 1, 2, 0, 1, 2]
    bonded = cond["distance"][cond["hops"] == 1]
    assert bonded.min() > 0.09 and bonded.max() < 0.16
    assert (cond["distance"][cond["hops"] > 2] == 0).all()


@pytest.mark.parametrize("settings", [{"prior": "harmonic"}, {"num_steps": 7}, {"num_steps": 0}])
def test_wrong_settings_are_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        ContinuousFlow(channels=8, **settings)


def spring_energy(x, rest):
    """Energy / kT of springs between all atoms: (batch,)."""
    i, j = torch.triu_indices(len(rest), len(rest), 1)
    return 0.5 * STIFFNESS * (torch.cdist(x, x)[:, i, j] - rest[i, j]).square().sum(-1)


def spring_molecule(n, generator):
    """Frames of three atoms on springs, by Metropolis steps."""
    start = 0.15 * torch.tensor([[0.0, 0, 0], [1.0, 0.1, 0.0], [0.1, 1.2, 0.0]]).double()
    rest = torch.cdist(start, start)
    x = start.repeat(n, 1, 1)
    energy = spring_energy(x, rest)
    for _ in range(150):
        trial = x + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)
        after = spring_energy(trial, rest)
        accepted = torch.rand(n, generator=generator, dtype=x.dtype).log() < energy - after
        x = torch.where(accepted[:, None, None], trial, x)
        energy = torch.where(accepted, after, energy)
    return x - x.mean(1, keepdim=True), rest


def effective_share(flow, cond, rest):
    """Effective share of weighted draws and their mean energy, kT."""
    x, log_q = flow.sample_and_log_prob(500, cond, torch.Generator().manual_seed(9))
    energy = spring_energy(x, rest)
    weight = torch.softmax(-energy - log_q + flow.centroid_log_prob(x.mean(1), 3), 0)
    return float(1 / weight.square().sum()) / 500, float((weight * energy).sum())


def test_flow_matching_learns_a_molecule_of_springs():
    generator = torch.Generator().manual_seed(0)
    data, rest = spring_molecule(1000, generator)
    torch.manual_seed(0)
    flow = ContinuousFlow(channels=32, prior_scale=0.1, floor=0.1, num_steps=12).double()
    cond = first_atoms(conditioning("AA"), 3)
    before, _ = effective_share(flow, cond, rest)
    steps = 200
    optimiser = torch.optim.Adam(flow.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda k: 1 - k / steps)
    for _ in range(steps):
        rows = torch.randint(len(data), (128,), generator=generator)
        optimiser.zero_grad()
        flow.matching_loss(data[rows], cond, generator).backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    after, energy = effective_share(flow, cond, rest)
    assert after > 0.3 and after > 3 * before, (before, after)
    assert abs(energy - float(spring_energy(data, rest).mean())) < 0.3
