"""The LISA pipeline on a short run: evidence and moments against independent exact estimates."""

import math
from dataclasses import replace

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.core.weights import log_z
from gensci.loops.lisa_inference import LisaSettings, infer_lisa, usual_settings
from gensci.loops.lisa_surrogate import UnfoldedProposal, load_surrogate, save_surrogate
from gensci.loops.reweighting import ReweightSettings
from gensci.loops.rounds import LoopSettings
from gensci.models.neural_likelihood import LikelihoodSettings
from gensci.models.proposal_flow import ProposalSettings
from gensci.samplers.base import MemoryStore
from gensci.samplers.tempering import Tempering
from gensci.systems.lisa_coordinates import SimplePrior, from_simple, to_simple
from gensci.systems.lisa_likelihood import HeterodynedLikelihood
from gensci.systems.lisa_observation import make_observation
from gensci.systems.lisa_problem import load_problem
from gensci.systems.lisa_wide import wide_proposal

SMALL = LisaSettings(
    nodes=32,
    loop=LoopSettings(rounds=2, simulations=(250, 350), draws=400, num_samples=1500),
    likelihood=LikelihoodSettings(kind="gaussian", degree=2, steps=100, batch=128),
    tempering=Tempering(num_walkers=80, warmup=60, thinning=4),
    reweight=ReweightSettings(
        num_draws=2000, rehearsals=1, rehearsal_draws=4000,
        proposal=ProposalSettings(layers=1, hidden=16, steps=150, batch=256),
        chain=Tempering(num_walkers=40, warmup=20, thinning=2), chain_rows=400,
    ),
)  # fmt: skip


class Searched(MemoryStore):
    """A store in which the search has already ended, near the truth."""

    def __init__(self, problem):
        super().__init__()
        near = problem.truth.clone()
        near[0], near[7] = near[0] + 1e-4, near[7] + 0.01
        self.save_state("search", {"best": near, "calls": torch.tensor(123)})


@pytest.fixture(scope="module")
def problem():
    return load_problem("loud")


@pytest.fixture(scope="module")
def run(problem):
    store, lines = Searched(problem), []
    observation = make_observation(problem)
    return infer_lisa(problem, observation, SMALL, store, seed=1, say=lines.append), store, lines


@pytest.fixture(scope="module")
def exact(problem):
    """Weighted rows and ln Z by draws of the wide density alone: no network, no chain."""
    likelihood = HeterodynedLikelihood(make_observation(problem), problem.truth, 32)
    prior = SimplePrior(problem.prior, problem.setting)
    wide = wide_proposal(likelihood, prior, to_simple(problem.truth[None], problem.setting)[0])
    x, log_wide = wide.sample_and_log_prob(60_000, torch.Generator().manual_seed(2))
    value = likelihood(from_simple(x["theta"], problem.setting)) + prior.log_prob(x["theta"])
    return SampleSet(x, value - log_wide), log_z(value - log_wide)


def test_evidence_and_moments_are_the_exact_ones(run, exact, problem):
    result, expected, constant = run[0], *exact
    error = math.hypot(result.evidence.error, constant.error)
    assert abs(result.evidence.value - constant.value) < 5 * error < 1.0
    simple = to_simple(result.posterior.x["theta"], problem.setting)
    mean, reference = result.posterior.mean(simple), expected.mean(expected.x["theta"])
    spread = expected.mean((expected.x["theta"] - reference).square()).sqrt()
    few = min(result.posterior.ess.count, expected.ess.count)
    assert ((mean - reference).abs() < 6 * spread / math.sqrt(few)).all()


def test_counts_are_honest(run):
    result = run[0]
    simulated = sum(record.simulator_calls for record in result.records)
    # the reference of the likelihood, 11 derivatives, 8 skies, that of the bins, the offset
    assert result.counts["search"] == 123 + 1 + 11 + 8 + 1 + 1
    assert simulated == result.counts["simulator"] <= 600
    assert result.counts["waveform"] == result.counts["search"] + simulated
    assert result.counts["total"] == result.counts["waveform"] + result.counts["exact"]
    assert result.counts["exact"] <= 2000 + (0 if result.fallback is None else 10**6)
    assert result.counts["surrogate"] > 4000


def test_rows_are_binaries_within_the_prior(run, problem):
    theta = run[0].posterior.x["theta"]
    alive = torch.isfinite(run[0].posterior.log_weight)
    assert problem.prior.inside(theta[alive]).all()
    copies = (theta[:, 6] / (math.pi / 2)).floor()[alive].unique(return_counts=True)[1]
    assert len(copies) == 4 and copies.min() > 0.15 * copies.sum()
    assert any("search" in line for line in run[2])


def test_log_densities_are_over_binaries(run, problem):
    posterior = run[0].posterior
    rows = torch.isfinite(posterior.log_weight).nonzero()[:50, 0]
    theta = posterior.x["theta"][rows]
    near = run[1].load_state("search")["best"]
    likelihood = HeterodynedLikelihood(make_observation(problem), near, 32)
    expected = problem.prior.log_prob(theta) + likelihood(theta)
    torch.testing.assert_close(posterior.log_target[rows], expected, rtol=0, atol=1e-4)


def test_again_with_the_same_store_gives_the_same_bits(run, problem):
    result, store, _ = run
    again = infer_lisa(problem, make_observation(problem), SMALL, store, seed=1)
    assert torch.equal(again.posterior.log_weight, result.posterior.log_weight)
    assert torch.equal(again.posterior.x["theta"], result.posterior.x["theta"])
    assert again.counts == result.counts


def test_a_saved_surrogate_samples_binaries(run, problem, tmp_path):
    result = run[0]
    save_surrogate(
        tmp_path / "s", result.surrogate, result.proposal, problem.prior, result.images.skies, {}
    )
    shipped = load_surrogate(tmp_path / "s")
    x, log_prob = shipped.proposal.sample_and_log_prob(500, stream(1, "draws"))
    assert isinstance(shipped.proposal, UnfoldedProposal)
    torch.testing.assert_close(
        shipped.target.log_likelihood(x),
        result.surrogate.log_likelihood(to_simple(x["theta"], problem.setting)),
    )
    weights = shipped.target.log_prob(x) - log_prob
    assert float(SampleSet(x, weights).ess.fraction) > 0.02


@pytest.mark.parametrize(
    ("name", "summary", "dim"), [("glitch", "score", 11), ("gap", "bins", 128)]
)
def test_in_other_noise_the_surrogate_is_the_result(name, summary, dim):
    problem = load_problem(name)
    few = replace(
        SMALL, summary=summary,
        loop=LoopSettings(rounds=1, simulations=150, draws=200, num_samples=400),
        likelihood=LikelihoodSettings(kind="nsf", layers=1, hidden=16, degree=1, steps=40),
    )  # fmt: skip
    result = infer_lisa(problem, make_observation(problem), few, Searched(problem), seed=1)
    assert math.isnan(result.khat) and math.isnan(result.evidence.value)
    assert result.counts["exact"] == 0 and result.proposal is None
    assert result.surrogate.likelihood.dim == dim
    assert problem.prior.inside(result.posterior.x["theta"]).all()
    assert torch.equal(result.posterior.x["theta"], result.surrogate_posterior.x["theta"])


def test_the_network_of_the_noise_is_kept_from_round_to_round():
    problem, store = load_problem("glitch"), Searched(load_problem("glitch"))
    few = replace(
        SMALL, nodes=8,
        loop=LoopSettings(rounds=2, simulations=100, draws=80, num_samples=80),
        likelihood=LikelihoodSettings(
            kind="mixture", hidden=24, bins=2, degree=1, steps=40, batch=128, noise_steps=400
        ),
        tempering=Tempering(num_walkers=40, num_temperatures=2, warmup=20, thinning=2),
    )  # fmt: skip
    result = infer_lisa(problem, make_observation(problem), few, store, seed=1)
    first, second = (store.load_state(f"surrogate-{number:04d}") for number in (0, 1))
    names = [name for name in first if ".flow." in name]
    assert names and all(torch.equal(first[name], second[name]) for name in names)
    trained, kept = (record.training["layers"][0] for record in result.records)
    assert trained["steps"] > 40 and kept == trained | {"kept": True}
    (
        store.drop_state("posterior"),
        store.drop_state("round-0001"),
        store.drop_state("surrogate-0001"),
    )
    again = infer_lisa(problem, make_observation(problem), few, store, seed=1)
    assert torch.equal(again.posterior.x["theta"], result.posterior.x["theta"])


def test_noise_that_is_learned_has_usual_settings_of_its_own():
    plain, fit = usual_settings(load_problem("loud")), usual_settings(load_problem("glitch"))
    assert replace(plain, likelihood=None) == LisaSettings() and fit.nodes < plain.nodes
    assert plain.likelihood.kind == "gaussian" and fit.likelihood.kind == "mixture"
    assert fit.likelihood.noise_steps > fit.likelihood.steps
    assert fit.tempering.warmup > plain.tempering.warmup
    assert fit.loop.sizes[0] > plain.loop.sizes[0]


def test_another_grid_is_refused(problem):
    faint = load_problem("faint")
    with pytest.raises(UsageError, match="f_min"):
        infer_lisa(problem, make_observation(faint), SMALL, MemoryStore(), seed=1)


def test_unknown_summary_is_refused():
    with pytest.raises(UsageError, match="summary='pca'"):
        LisaSettings(summary="pca")
