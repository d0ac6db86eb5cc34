"""The packed way to train the internal-coordinate flow against the plain one."""

import pytest
import torch

from gensci.nn import internal_packed
from gensci.nn.internal import InternalFlow
from gensci.nn.steric import steric_features, steric_of_placed
from gensci.nn.zmatrix import frames
from gensci.sims.peptide import build_peptide

# float32: weights of 8 channels and more add up some thousand terms of either sign
TOLERANCES = {torch.float64: (1e-9, 1e-10), torch.float32: (2e-3, 2e-4)}


def case(text, dtype, frames_of=5):
    peptide = build_peptide(text)
    cond = InternalFlow.encode(peptide)
    cond = {k: v.to(dtype) if v.is_floating_point() else v for k, v in cond.items()}
    x = torch.as_tensor(peptide.positions)
    noise = torch.randn(frames_of, *x.shape, generator=torch.Generator().manual_seed(1))
    return (x + 0.003 * noise).to(dtype), cond


def network(dtype):
    torch.manual_seed(0)
    flow = InternalFlow(channels=32, num_layers=3, num_heads=2, pair_channels=8)
    for parameter in flow.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return flow.to(dtype)


def density_and_gradients(flow, x, cond, plain):
    """Positions that ask for a gradient make the flow take the plain way."""
    x = x.clone().requires_grad_(plain)
    assert internal_packed.serves(flow, x) != plain
    flow.zero_grad()
    log_prob = flow.log_prob(x, cond)
    weight = torch.linspace(-1, 1, len(x), dtype=x.dtype)
    (log_prob * weight).sum().backward()
    return log_prob.detach(), {name: p.grad.clone() for name, p in flow.named_parameters()}


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("text", ["G", "PW", "Ace-A-Nme", "TKV"])
def test_density_and_gradients_are_those_of_the_plain_way(text, dtype):
    flow, (x, cond) = network(dtype), case(text, dtype)
    packed, slopes = density_and_gradients(flow, x, cond, plain=False)
    plain, expected = density_and_gradients(flow, x, cond, plain=True)
    absolute, relative = TOLERANCES[dtype]
    torch.testing.assert_close(packed, plain, atol=absolute, rtol=relative)
    for name, value in expected.items():
        scale = float(value.abs().max())
        assert scale > 0, name
        error = float((slopes[name] - value).abs().max())
        assert error < absolute * scale, name


def test_half_precision_is_as_near_to_the_truth_as_the_plain_way():
    flow, (x, cond) = network(torch.float32), case("TKV", torch.float32)
    truth, _ = density_and_gradients(flow, x, cond, plain=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        packed, plain = (density_and_gradients(flow, x, cond, way)[0] for way in (False, True))
    assert packed.dtype == plain.dtype
    assert (packed - truth).abs().max() < 2 * (plain - truth).abs().max()


@pytest.mark.parametrize("atoms", [1, 3, 8, 9, 31])
def test_strips_hold_every_pair_of_an_atom_with_an_earlier_one(atoms):
    batch, seen, end = 3, set(), 0
    for first, last, pairs in internal_packed.strips(batch, atoms):
        assert pairs == slice(end, end + batch * (last - first) * last)
        end = pairs.stop
        seen |= {(i, k) for i in range(first, last) for k in range(last)}
    assert seen >= {(i, k) for i in range(atoms) for k in range(i)}


@pytest.mark.parametrize("text", ["AL", "WS"])
def test_steric_energies_of_placed_rotors_are_those_of_the_grid(text):
    x, cond = case(text, torch.float64)
    x = x[:, cond["order"]]
    index = torch.arange(x.shape[1])
    rows = index[3:][~cond["rigid"][3:]]
    p, g, s = (x[:, cond[key][rows]] for key in ("parent", "grand", "side"))
    plain = steric_features(x, frames(p, g, s), g, cond, rows, rows[:, None] > index)
    packed = steric_of_placed(x, frames(p, g, s), g, cond, rows)
    torch.testing.assert_close(packed, plain, atol=1e-10, rtol=1e-10)
