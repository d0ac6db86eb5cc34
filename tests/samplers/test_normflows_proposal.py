"""A flow of normflows, trained on a toy, as the proposal: it helps, and the truth comes out."""

import functools

import normflows
import pytest
import torch
from cases import target

from gensci.core.random import stream
from gensci.samplers import make_sampler
from gensci.systems.toy import ToySystem

torch.set_num_threads(1)
TOY = ToySystem.parse("double-well")


class NormflowsProposal:
    """Its noise comes from a seed drawn from the generator."""

    def __init__(self, flow):
        self.flow = flow

    def sample_and_log_prob(self, n, generator):
        seed = torch.randint(2**31, (1,), generator=generator).item()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            x, log_prob = self.flow.sample(n)
        return {"x": x}, log_prob

    def sample(self, n, generator):
        return self.sample_and_log_prob(n, generator)[0]

    def log_prob(self, x):
        return self.flow.log_prob(x["x"])


def coupling_flow():
    """RealNVP in two dimensions, as broad as the toy before any training."""
    layers = []
    for _ in range(4):
        network = normflows.nets.MLP([1, 24, 24, 2], init_zeros=True)
        layers += [normflows.flows.AffineCouplingBlock(network)]
        layers += [normflows.flows.Permute(2, mode="swap")]
    base = normflows.distributions.DiagGaussian(2, trainable=False)
    flow = normflows.NormalizingFlow(base, layers).double()
    base.log_scale += (1.5 * TOY.truth.std).log()
    return flow


@functools.cache
def flows():
    """The flow before and after training on weighted draws of a broad Gaussian."""
    draws = make_sampler("importance", {"resample": "systematic"}).run(
        TOY.target(), TOY.proposal(dtype=torch.float64), 4000, seed=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before, flow = coupling_flow(), coupling_flow()
    optimiser = torch.optim.Adam(flow.parameters(), lr=5e-3)
    generator = stream(0, "batches")
    for _ in range(300):
        rows = torch.randint(len(draws), (256,), generator=generator)
        optimiser.zero_grad()
        flow.forward_kld(draws.x["x"][rows]).backward()
        optimiser.step()
    return before, flow


@pytest.mark.parametrize("name", ["importance", "smc"])
def test_a_trained_flow_is_a_proposal_and_its_weights_give_the_truth(name):
    settings = {"move": "mala"} if name == "smc" else {}
    samples = make_sampler(name, settings).run(
        target("double-well"), NormflowsProposal(flows()[1]), 2000, seed=0
    )
    truth, verdict = TOY.truth, samples.meta["verdict"]
    assert abs(verdict["log_z"] - truth.log_z) < 3.5 * verdict["log_z_error"]
    assert verdict["log_z_error"] < 0.05
    right = samples.mean((samples.x["x"][:, 0] > 0).double())
    assert abs(right - truth.weights[1]) < 0.06


def test_training_makes_more_of_the_draws_count():
    before, after = (
        make_sampler("importance").run(TOY.target(), NormflowsProposal(flow), 2000, seed=0)
        for flow in flows()
    )
    assert after.meta["verdict"]["ess"] > 1.5 * before.meta["verdict"]["ess"]
    assert after.meta["verdict"]["ess_fraction"] > 0.6
