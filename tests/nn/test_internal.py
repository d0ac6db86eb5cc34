"""The internal-coordinate flow: exact density, invariance, placing trees of real peptides."""

import math
from functools import cache

import pytest
import torch

from gensci.nn.internal import InternalFlow
from gensci.nn.internal_features import zmatrix_of
from gensci.nn.rotations import uniform_rotations
from gensci.nn.zmatrix import (
    Frames,
    InternalCoordinates,
    closing_cosine,
    internal_coordinates,
    log_volume,
    place,
    zmatrix_frames,
)
from gensci.sims.peptide import build_peptide

SEQUENCES = ["G", "AA", "PW", "HI", "Ace-A-Nme", "TKV"]


@cache
def molecule(text):
    return build_peptide(text)


def small_flow(dtype=torch.float64):
    torch.manual_seed(0)
    flow = InternalFlow(channels=32, num_layers=2, num_heads=2, pair_channels=8)
    for parameter in flow.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return flow.to(dtype)


def conditioning(text, dtype=torch.float64):
    cond = InternalFlow.encode(molecule(text))
    return {k: v.to(dtype) if v.is_floating_point() else v for k, v in cond.items()}


@pytest.mark.parametrize("text", SEQUENCES)
def test_placing_tree_is_sound(text):
    peptide, cond = molecule(text), conditioning(text)
    order = cond["order"].tolist()
    assert sorted(order) == list(range(len(peptide.atom_names)))
    bonded = {frozenset(b) for b in peptide.bonds}
    for k in range(1, len(order)):
        parent, grand, side = (int(cond[key][k]) for key in ("parent", "grand", "side"))
        assert frozenset((order[k], order[parent])) in bonded
        assert max(parent, grand, side) < k
        assert k < 3 or len({parent, grand, side}) == 3


@pytest.mark.parametrize("text", SEQUENCES)
def test_internal_coordinates_return_to_space(text):
    cond = conditioning(text)
    z = zmatrix_of(cond)
    x = torch.as_tensor(molecule(text).positions)[None, cond["order"]]
    ic = internal_coordinates(x, z)
    rebuilt = x.clone()
    for k in range(3, x.shape[1]):
        f = zmatrix_frames(rebuilt, z)
        between = (rebuilt[:, z.parent[k]] - rebuilt[:, z.grand[k]]).norm(dim=-1)
        cosine = torch.cos(ic.bend[:, k])
        if z.closing[k]:
            cosine = closing_cosine(ic.distance[:, k], ic.bend[:, k], between)
        frame = Frames(f.origin[:, k], f.axes[:, k])
        rebuilt[:, k] = place(frame, ic.distance[:, k], cosine, ic.torsion[:, k])
    torch.testing.assert_close(rebuilt, x, atol=1e-12, rtol=0)
    stiff = (ic.bend - cond["bend0"])[:, 3:].abs().max()
    assert stiff < 0.5, "angles are measured between the atoms that the force field names"
    rigid = cond["rigid"][3:] & (cond["torsion0"][3:].abs() > 0)
    swing = torch.remainder(ic.torsion - cond["torsion0"] + math.pi, 2 * math.pi) - math.pi
    assert swing[0, 3:][rigid].abs().max() < 0.5


@pytest.mark.parametrize("text", ["A", "P", "F"])
def test_volume_element_equals_autograd_jacobian(text):
    cond = conditioning(text)
    z = zmatrix_of(cond)
    assert bool(z.closing.any()) == (text != "A")
    x = torch.as_tensor(molecule(text).positions)[cond["order"]]

    def coordinates(flat):
        ic = internal_coordinates(torch.cat((x[:3], flat.reshape(-1, 3)))[None], z)
        return torch.stack([c[0, 3:] for c in ic], -1).flatten()

    jacobian = torch.autograd.functional.jacobian(coordinates, x[3:].flatten())
    between = (x[z.parent] - x[z.grand]).norm(dim=-1)[None, 3:]
    tail = InternalCoordinates(*(c[:, 3:] for c in internal_coordinates(x[None], z)))
    volume = log_volume(tail, between, z.closing[3:])[0]
    torch.testing.assert_close(-torch.linalg.slogdet(jacobian).logabsdet, volume)


@pytest.mark.parametrize("text", SEQUENCES)
def test_sampling_pass_and_density_agree(text):
    flow, cond = small_flow(), conditioning(text)
    x, log_q = flow.sample_and_log_prob(40, cond, torch.Generator().manual_seed(0))
    closed = x.isfinite().all(-1).all(-1)
    assert closed.sum() > 3
    torch.testing.assert_close(flow.log_prob(x, cond)[closed], log_q[closed], atol=1e-7, rtol=0)


def test_density_is_normalised_over_the_first_three_atoms():
    """E_q[q(y) / q(x)] with y = x + symmetric noise is one only if draws follow a normalised q."""
    flow, cond = small_flow(), conditioning("AA")
    three = {k: v[:3] if v.dim() == 1 else v[:3, :3] for k, v in cond.items()}
    three["order"] = torch.arange(3)
    generator = torch.Generator().manual_seed(3)
    n = 40000
    x, log_q = flow.sample_and_log_prob(n, three, generator)
    noise = 0.001 * torch.randn(n, 3, 3, generator=generator, dtype=x.dtype)
    y = x + noise
    ratio = (flow.log_prob(y, three) - log_q).exp()
    assert (ratio.mean() - 1).abs() < 5 * ratio.std() / math.sqrt(n)
    torch.testing.assert_close(flow.log_prob(x, three), log_q, atol=1e-8, rtol=0)


def test_density_does_not_change_under_rotation_and_knows_the_centroid():
    flow, cond = small_flow(), conditioning("AA")
    generator = torch.Generator().manual_seed(1)
    x, _ = flow.sample_and_log_prob(8, cond, generator)
    turned = torch.einsum("nij,naj->nai", uniform_rotations(8, generator, x), x)
    torch.testing.assert_close(flow.log_prob(turned, cond), flow.log_prob(x, cond))
    shift = torch.tensor([0.02, -0.01, 0.03], dtype=x.dtype)
    variance = 0.35**2 / x.shape[1]
    before, after = x.mean(1), x.mean(1) + shift
    expected = (before.square().sum(-1) - after.square().sum(-1)) / (2 * variance)
    torch.testing.assert_close(flow.log_prob(x + shift, cond) - flow.log_prob(x, cond), expected)


def test_mirror_images_are_told_apart():
    flow, cond = small_flow(), conditioning("AA")
    x, log_q = flow.sample_and_log_prob(8, cond, torch.Generator().manual_seed(1))
    assert (flow.log_prob(-x, cond) < log_q - 100).all()


def test_hidden_states_do_not_see_the_future():
    flow, cond = small_flow(), conditioning("AA")
    x = torch.as_tensor(molecule("AA").positions)[None, cond["order"]]
    z = zmatrix_of(cond)
    moved = x.clone()
    moved[:, 12:] += 0.05 * torch.randn_like(moved[:, 12:])
    before = flow.hidden(x, internal_coordinates(x, z), cond)
    after = flow.hidden(moved, internal_coordinates(moved, z), cond)
    torch.testing.assert_close(after[:, :13], before[:, :13])
    assert (after[:, 13:] - before[:, 13:]).abs().max() > 1e-4


def test_every_parameter_gets_a_gradient():
    flow, cond = small_flow(), conditioning("HI")
    x = torch.as_tensor(molecule("HI").positions)[None]
    flow.log_prob(x, cond).sum().backward()
    without = [n for n, p in flow.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert not without


def test_gradient_of_the_density_is_finite_and_right():
    flow, cond = small_flow(), conditioning("AA")
    x = torch.as_tensor(molecule("AA").positions)[None].requires_grad_()
    gradient = torch.autograd.grad(flow.log_prob(x, cond).sum(), x)[0]
    direction = torch.randn_like(x)
    step = 1e-6
    with torch.no_grad():
        plus, minus = (flow.log_prob(x + s * step * direction, cond) for s in (1, -1))
    expected = (plus - minus) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum()[None], expected, rtol=1e-4, atol=1e-3)


def test_unknown_atoms_are_refused_by_name():
    peptide = molecule("AA")

    class Renamed:
        def __getattr__(self, name):
            value = getattr(peptide, name)
            return ["XX", *value[1:]] if name == "atom_names" else value

    with pytest.raises(ValueError, match="atom name 'XX'"):
        InternalFlow.encode(Renamed())


def test_a_deeper_flow_is_the_same_flow_until_it_is_trained():
    network, cond = small_flow(), conditioning("AA")
    x, _ = network.sample_and_log_prob(4, cond, torch.Generator().manual_seed(0))
    before = network.log_prob(x, cond)
    network.add_layers(2)
    assert network.settings["num_layers"] == len(network.blocks)
    assert torch.equal(network.log_prob(x, cond), before)
    twin = InternalFlow(**network.settings).double()
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin.log_prob(x, cond), before)
    network.log_prob(x, cond).sum().backward()
    assert network.blocks[-1].out.weight.grad.abs().max() > 0


@pytest.mark.slow  # a minute of compiling
def test_compiled_parts_give_the_same_density_and_gradients():
    network, cond = small_flow(), conditioning("PW")
    x, _ = network.sample_and_log_prob(4, cond, torch.Generator().manual_seed(0))
    x.requires_grad_()  # else a CPU takes another way: internal_packed
    plain = network.log_prob(x, cond)
    plain.sum().backward()
    slopes = {k: v.grad.clone() for k, v in network.named_parameters()}
    network.zero_grad()
    network.fuse()
    fused = network.log_prob(x, cond)
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-3)
    fused.sum().backward()
    for name, value in network.named_parameters():
        torch.testing.assert_close(value.grad, slopes[name], rtol=1e-3, atol=1e-3)
