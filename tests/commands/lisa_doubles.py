"""A small surrogate of `loud`, made in seconds, in the form of `checkpoints/lisa-loud`."""

import torch

from gensci.loops.lisa_surrogate import LisaEstimator, SignalSimulator, save_surrogate
from gensci.loops.rounds import TrainingData
from gensci.models.neural_likelihood import LikelihoodSettings
from gensci.models.proposal_flow import ProposalFlow, ProposalSettings
from gensci.systems.lisa_coordinates import SimplePrior, to_simple
from gensci.systems.lisa_observation import make_observation
from gensci.systems.lisa_problem import load_problem
from gensci.systems.lisa_summaries import HeterodynedBins

# a third of the posterior's standard deviations, in the order of the parameters
SPREAD = torch.tensor(
    [7e-5, 0.007, 0.004, 0.014, 1000.0, 0.02, 0.02, 0.013, 0.012, 0.02, 9.0], dtype=torch.float64
)


def make_surrogate(folder):
    """Write the checkpoint about the truth; its likelihood has hardly been trained."""
    problem = load_problem("loud")
    observation = make_observation(problem)
    setting = problem.setting
    prior = SimplePrior(problem.prior, setting)
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(400, 11, generator=generator, dtype=torch.float64)
    theta = problem.prior.wrap(problem.truth + SPREAD * noise)
    simple = to_simple(theta, setting)
    bins = HeterodynedBins(observation, problem.truth, 16)
    offset = bins.signal(problem.truth[None])[0]
    x = bins.signal(theta) - offset
    network = LikelihoodSettings(kind="gaussian", degree=1, steps=5, batch=64)
    data = TrainingData(simple, x, torch.zeros(400), bins.data() - offset, bins.noise)
    surrogate = LisaEstimator(problem.setting, network).fit(data, None, 1)
    assert SignalSimulator(bins, offset, setting).dim == x.shape[1]
    flow = ProposalFlow.fit(
        simple, prior, seed=1,
        settings=ProposalSettings(layers=1, hidden=16, steps=50, prior_share=0.0),
    )  # fmt: skip
    meta = {"system": "lisa:mbhb", "problem": "loud"}
    skies = torch.zeros(1, dtype=torch.int64)
    return save_surrogate(folder, surrogate, flow, problem.prior, skies, meta)
