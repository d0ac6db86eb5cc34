"""A flow averaged over orientations and the mirror image: its density, its weights, its slopes."""

import copy
import math

import pytest
import torch

from gensci.core.weights import kish_ess, log_z
from gensci.models.proposal import FlowProposal
from gensci.models.symmetrised_proposal import SymmetrisedProposal, fixed_rotations
from gensci.nn.tarflow import TarFlowPeptide
from gensci.samplers import make_sampler

ATOMS = 4
torch.set_num_threads(1)


class LopsidedFlow:
    """A Gaussian that knows up from down: other means and widths along each axis."""

    def __init__(self):
        noise = torch.randn(ATOMS, 3, generator=torch.Generator().manual_seed(3)).double()
        self.mean = 0.35 * noise
        self.std = torch.tensor([0.9, 1.2, 1.6], dtype=torch.float64).expand(ATOMS, 3)

    def sample_and_log_prob(self, n, generator):
        noise = torch.randn(n, ATOMS, 3, generator=generator, dtype=torch.float64)
        x = {"positions": self.mean + self.std * noise}
        return x, self.log_prob(x)

    def log_prob(self, x):
        z = (x["positions"] - self.mean) / self.std
        norm = self.std.log().sum() + 1.5 * ATOMS * math.log(2 * math.pi)
        return -0.5 * z.square().sum((1, 2)) - norm

    def log_prob_and_grad(self, x):
        grad = (self.mean - x["positions"]) / self.std.square()
        return self.log_prob(x), {"positions": grad}


def right_handed(x):
    return torch.linalg.det(x[:, 1:] - x[:, :1]) > 0


def any_hand(x):
    return torch.ones(len(x), dtype=torch.bool)


class Round:
    """Independent normal atoms, the same in all directions; of one hand or of both."""

    def __init__(self, natural):
        self.natural = natural
        # a molecule of one hand holds half of the normal density
        self.log_z = 0.0 if natural is any_hand else -math.log(2.0)

    def log_prob(self, x):
        positions = x["positions"]
        norm = 1.5 * ATOMS * math.log(2 * math.pi)
        value = -0.5 * positions.square().sum((1, 2)) - norm
        return torch.where(self.natural(positions), value, -math.inf)


def symmetrised(natural=None, count=5):
    return SymmetrisedProposal(LopsidedFlow(), fixed_rotations(count, seed=1), natural)


def test_rotations_are_rotations_and_the_same_for_the_same_seed():
    turns = fixed_rotations(6, seed=2)
    eye = torch.eye(3, dtype=torch.float64)
    assert torch.allclose(turns @ turns.mT, eye.expand(6, 3, 3), atol=1e-12)
    assert torch.allclose(torch.linalg.det(turns), torch.ones(6).double())
    assert torch.equal(turns[0], eye)
    assert torch.equal(turns, fixed_rotations(6, seed=2))
    assert not torch.allclose(turns[1:], fixed_rotations(6, seed=3)[1:])


@pytest.mark.parametrize("natural", [None, right_handed, any_hand])
def test_density_is_the_average_over_the_maps(natural):
    flow, proposal = LopsidedFlow(), symmetrised(natural)
    x, log_prob = proposal.sample_and_log_prob(50, torch.Generator().manual_seed(0))
    turns = fixed_rotations(5, seed=1)
    total = torch.zeros(50, dtype=torch.float64)
    for row in range(50):
        for turn in turns:
            for sign in (1.0,) if natural is None else (1.0, -1.0):
                y = torch.stack([sign * turn @ atom for atom in x["positions"][row]])
                total[row] += flow.log_prob({"positions": y[None]}).exp()[0] / 5
    if natural is any_hand:  # one of the two is kept at random
        total *= 0.5
    assert torch.allclose(log_prob, total.log(), atol=1e-10)
    assert torch.allclose(proposal.log_prob(x), log_prob, atol=1e-10)


@pytest.mark.parametrize("natural", [None, right_handed, any_hand])
@pytest.mark.parametrize("sampler", ["importance", "smc"])
def test_weights_are_unbiased(natural, sampler):
    target = Round(natural or right_handed)
    n = 4000 if sampler == "importance" else 1000
    samples = make_sampler(sampler).run(target, symmetrised(natural), n, seed=4)
    verdict = samples.meta["verdict"]
    assert verdict["log_z_error"] < 0.06
    assert abs(verdict["log_z"] - target.log_z) < 4 * verdict["log_z_error"]
    square = samples.x["positions"].square()
    energy = samples.mean(0.5 * square.sum((1, 2))).item()
    assert abs(energy - 1.5 * ATOMS) < 4.5 * (1.5 * ATOMS / verdict["ess"]) ** 0.5
    # the mean of each axis apart, of which a lopsided flow knows least
    for axis in range(3):
        found = samples.mean(square[:, :, axis].mean(1)).item()
        assert abs(found - 1.0) < 4.5 * (2 / ATOMS / verdict["ess"]) ** 0.5


def test_weights_spread_less_than_those_of_the_flow_alone():
    def log_weights(proposal):
        x, log_q = proposal.sample_and_log_prob(20_000, torch.Generator().manual_seed(7))
        return target.log_prob(x) - log_q

    target = Round(any_hand)
    plain, turned = log_weights(LopsidedFlow()), log_weights(symmetrised(count=8))
    mirrored = log_weights(symmetrised(any_hand, count=8))
    sizes = [kish_ess(w).fraction for w in (plain, turned, mirrored)]
    assert sizes[1] > 1.3 * sizes[0]
    assert sizes[2] > sizes[1]
    assert turned.var() < plain.var()
    assert mirrored.var() < turned.var()
    assert log_z(turned).error < log_z(plain).error


def test_of_a_molecule_of_one_hand_no_draw_is_lost():
    generator = torch.Generator().manual_seed(8)
    plain = LopsidedFlow().sample_and_log_prob(1000, generator)[0]["positions"]
    assert 0.3 < right_handed(plain).double().mean() < 0.7
    proposal = symmetrised(right_handed)
    drawn = proposal.sample(1000, generator)
    assert right_handed(drawn["positions"]).all()
    assert (proposal.log_prob({"positions": -drawn["positions"]}) == -math.inf).all()
    both = symmetrised(any_hand).sample(1000, generator)["positions"]
    assert 0.3 < right_handed(both).double().mean() < 0.7


@pytest.mark.parametrize("natural", [None, right_handed])
def test_slopes_are_those_of_the_density(natural):
    proposal = symmetrised(natural)
    x = proposal.sample(20, torch.Generator().manual_seed(9))["positions"]
    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(proposal.log_prob({"positions": leaf}).sum(), leaf)
    value, grad = proposal.log_prob_and_grad({"positions": x})
    assert torch.allclose(value, proposal.log_prob({"positions": x}), atol=1e-10)
    assert torch.allclose(grad["positions"], slope, atol=1e-10)
    if natural is not None:
        value, grad = proposal.log_prob_and_grad({"positions": -x})
        assert (value == -math.inf).all()
        assert (grad["positions"] == 0).all()


def test_a_flow_that_overflows_in_one_orientation_counts_for_nothing_there():
    class Brittle(LopsidedFlow):
        def log_prob(self, x):
            value = super().log_prob(x)
            return torch.where(x["positions"][:, 0, 2] > 0.5, math.nan, value)

        def log_prob_and_grad(self, x):
            value, grad = self.log_prob(x), super().log_prob_and_grad(x)[1]["positions"]
            return value, {"positions": torch.where(value.isnan()[:, None, None], math.nan, grad)}

    brittle, turns = Brittle(), fixed_rotations(3, seed=1)
    proposal = SymmetrisedProposal(brittle, turns)
    x = torch.randn(200, ATOMS, 3, generator=torch.Generator().manual_seed(1)).double()
    terms = torch.stack([brittle.log_prob({"positions": x @ turn.T}) for turn in turns])
    some = terms.isnan().any(0) & ~terms.isnan().all(0)
    assert some.sum() > 20
    value, grad = proposal.log_prob_and_grad({"positions": x[some]})
    expected = terms[:, some].exp().nan_to_num(nan=0.0).mean(0).log()
    assert torch.allclose(value, expected)
    assert grad["positions"].isfinite().all()


def test_the_flow_of_a_peptide_is_averaged_and_can_be_copied():
    pytest.importorskip("openmm")
    from gensci.sims.peptide import build_peptide

    peptide = build_peptide("AG")
    torch.manual_seed(0)
    network = TarFlowPeptide(channels=32, num_blocks=2, layers_per_block=1, head_dim=16).double()
    for block in network.blocks:
        torch.nn.init.normal_(block.leave.weight, std=0.05)
    flow = FlowProposal(network, network.encode(peptide), "hash", (2, 4))
    proposal = SymmetrisedProposal(flow, fixed_rotations(3), peptide.chirality)
    assert (proposal.checkpoint_hash, proposal.centroid_scale) == ("hash", network.sigma_data)
    x, log_prob = proposal.sample_and_log_prob(12, torch.Generator().manual_seed(1))
    assert torch.allclose(proposal.log_prob(x), log_prob, atol=1e-8)
    terms = torch.stack([flow.log_prob({"positions": x["positions"] @ m.T}) for m in proposal.maps])
    assert terms.std(0).max() > 0.1  # this flow does know its orientation
    handed = peptide.chirality(x["positions"])
    assert not (~handed & peptide.chirality(-x["positions"])).any()
    # one stereocentre: each draw or its mirror image is natural
    assert torch.allclose(log_prob, torch.logsumexp(terms, 0) - math.log(3), atol=1e-8)
    again = copy.deepcopy(proposal).sample_and_log_prob(12, torch.Generator().manual_seed(1))
    assert torch.equal(again[0]["positions"], x["positions"])
