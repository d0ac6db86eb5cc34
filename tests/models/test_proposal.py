"""A trained flow as a proposal: its chunks change nothing, its density is that of its draws."""

import copy
from types import SimpleNamespace

import pytest
import torch

from gensci.models import proposal as module
from gensci.models.proposal import FlowProposal
from gensci.nn.internal import InternalFlow

pytest.importorskip("openmm")


@pytest.fixture(scope="module")
def flow():
    from gensci.sims.peptide import build_peptide

    torch.manual_seed(0)
    network = InternalFlow(channels=16, num_layers=1, num_heads=2, pair_channels=4).double()
    cond = network.encode(build_peptide("AG"))
    placed = {k: v.double() if v.is_floating_point() else v for k, v in cond.items()}
    return SimpleNamespace(network=network, cond=placed)


@pytest.fixture
def proposal(flow):
    return FlowProposal(flow.network, flow.cond, chunk=4)


def test_draws_come_with_their_own_density(proposal):
    x, log_prob = proposal.sample_and_log_prob(11, torch.Generator().manual_seed(1))
    assert x["positions"].shape == (11, 20, 3)
    assert torch.allclose(proposal.log_prob(x), log_prob, atol=1e-8)


def test_pieces_give_the_density_and_gradient_of_the_whole(proposal, flow, monkeypatch):
    positions = proposal.sample(7, torch.Generator().manual_seed(2))["positions"]
    leaf = positions.clone().requires_grad_()
    whole = flow.network.log_prob(leaf, flow.cond)
    (slope,) = torch.autograd.grad(whole.sum(), leaf)
    sizes = []
    inner = flow.network.log_prob

    def counted(x, cond):
        sizes.append(len(x))
        return inner(x, cond)

    monkeypatch.setattr(module, "PAIRS_AT_ONCE", {"cpu": 2 * 20**2 + 1})
    monkeypatch.setattr(flow.network, "log_prob", counted)
    assert torch.allclose(proposal.log_prob({"positions": positions}), whole, atol=1e-8)
    value, grad = proposal.log_prob_and_grad({"positions": positions})
    assert torch.allclose(value, whole, atol=1e-8)
    assert torch.allclose(grad["positions"], slope, rtol=1e-6, atol=1e-6)
    assert sizes == [2, 2, 2, 1] * 2


def test_a_generator_of_the_same_device_is_used_as_it_is():
    generator = torch.Generator().manual_seed(1)
    assert module.generator_on(torch.device("cpu"), generator) is generator


def test_a_generator_of_another_device_seeds_one_there(monkeypatch):
    class Elsewhere:
        def __init__(self, device):
            self.device = device

        def manual_seed(self, seed):
            return self.device, seed

    monkeypatch.setattr(module, "Generator", Elsewhere)
    gpu = torch.device("cuda")
    first, again, other = (
        module.generator_on(gpu, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first[0] == gpu
    assert first[1] != other[1]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_draws_on_the_gpu_come_from_a_generator_of_the_cpu(flow):
    network = copy.deepcopy(flow.network).cuda()
    cond = {name: value.cuda() for name, value in flow.cond.items()}
    proposal = FlowProposal(network, cond, chunk=4)
    draws = [proposal.sample_and_log_prob(6, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert torch.equal(draws[0][0]["positions"], draws[1][0]["positions"])
    assert torch.allclose(proposal.log_prob(draws[0][0]), draws[0][1], atol=1e-8)


def test_a_peptide_larger_than_a_piece_is_still_evaluated(proposal, monkeypatch):
    monkeypatch.setattr(module, "PAIRS_AT_ONCE", {"cpu": 1})
    x, log_prob = proposal.sample_and_log_prob(3, torch.Generator().manual_seed(3))
    assert torch.allclose(proposal.log_prob(x), log_prob, atol=1e-8)
