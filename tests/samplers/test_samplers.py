"""Every row of the table of samplers against the truth, and against being killed."""

import math
import random

import pytest
import torch
from cases import CASES, DrawsOnly, HalfSpace, Killed, MortalStore, target

from gensci.core.errors import GensciError, IncompatibleSampler, UsageError
from gensci.core.registry import SAMPLERS
from gensci.samplers import make_sampler
from gensci.samplers.verdict import importance_advice, khat_limit
from gensci.systems.toy import BroadGaussian, ToySystem

torch.set_num_threads(1)
all_cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)


def run(case, toy="gaussian", n=2000, seed=1, dtype=torch.float64, **options):
    return case.make().run(target(toy), case.proposal(toy, dtype), n, seed=seed, **options)


def effective(samples):
    verdict = samples.meta["verdict"]
    return min(verdict["ess"], verdict.get("effective_ancestors", math.inf), len(samples))


def same_bits(left, right):
    left, right = left.to_tensors(), right.to_tensors()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def test_every_sampler_has_a_row():
    # twisted-smc tilts a model by a target, which is another law: tests/samplers/test_steering.py
    assert {case.sampler for case in CASES} == set(SAMPLERS) - {"twisted-smc"}


@all_cases
def test_moments_of_a_gaussian(case):
    samples = run(case)
    truth = ToySystem.parse("gaussian").truth
    z = (samples.x["x"] - truth.mean) / truth.std
    ess = effective(samples)
    assert ess > 300
    assert samples.mean(z).abs().max() < 4.5 / ess**0.5
    assert (samples.mean(z.square()) - 1).abs().max() < 4.5 * (2 / ess) ** 0.5


@all_cases
def test_weights_of_modes(case):
    samples = run(case, case.multimodal, n=3000)
    toy = ToySystem.parse(case.multimodal)
    modes = torch.nn.functional.one_hot(toy.toy.mode(samples.x["x"]), len(toy.truth.weights))
    found = samples.mean(modes.double())
    spread = (toy.truth.weights * (1 - toy.truth.weights) / effective(samples)).sqrt()
    # autocorrelation of the density does not see how slowly chains change wells
    slack = 0.04 if case.sampler == "mcmc" else 0.0
    assert ((found - toy.truth.weights).abs() < 4.0 * spread + slack).all(), found


@all_cases
@pytest.mark.parametrize("toy", ["gaussian", "mixture"])
def test_log_z_lies_within_its_error_bar(case, toy):
    if not case.evidence:
        assert run(case, n=30).meta["verdict"]["log_z"] is None
        return
    verdict = run(case, toy, n=1500, seed=5, shard_size=500).meta["verdict"]
    error = verdict["log_z_error"]
    assert 0.005 < error < 0.15
    assert abs(verdict["log_z"] - ToySystem.parse(toy).truth.log_z) < 3.5 * error


@all_cases
def test_same_seed_same_bits(case):
    options = {"n": 60, "shard_size": 30}
    first = run(case, seed=3, **options)
    assert same_bits(first, run(case, seed=3, **options))
    assert not torch.equal(first.x["x"], run(case, seed=4, **options).x["x"])


@all_cases
def test_a_killed_run_ends_with_the_same_bits(case):
    options = {"n": 50, "shard_size": 20, "save_seconds": 0.0}
    dice = random.Random(case.id)
    whole, kills = run(case, **options), 0
    store = MortalStore()
    while True:
        store.arm(dice.randint(1, 60), after=dice.random() < 0.5)
        try:
            resumed = run(case, store=store, progress=store.progress, **options)
            break
        except Killed:
            kills += 1
    assert kills > 0 or case.sampler in ("direct", "importance")
    assert same_bits(whole, resumed)
    assert resumed.meta["verdict"] == whole.meta["verdict"]


@all_cases
def test_columns_belong_to_their_rows(case):
    samples = run(case, n=400, shard_size=150)
    n = len(samples)
    assert samples.x["x"].shape == (n, 3)
    expected = target("gaussian").log_prob(samples.x)
    assert torch.allclose(samples.log_target, expected, atol=1e-9)
    if samples.log_proposal is not None:
        q = case.proposal("gaussian").log_prob(samples.x)
        assert torch.allclose(samples.log_proposal, q, atol=1e-9)
    if case.id == "importance":
        ratio = samples.log_target - samples.log_proposal
        assert (samples.log_weight - ratio).std() < 1e-9
    assert torch.logsumexp(samples.log_weight, 0).item() == pytest.approx(math.log(n))


@all_cases
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_keep_their_type_and_weights_are_float64(case, dtype):
    if case.exact and dtype == torch.float32:
        pytest.skip("the exact proposals are float64")
    samples = run(case, n=60, dtype=dtype)
    assert samples.x["x"].dtype == dtype
    assert samples.log_weight.dtype == torch.float64
    assert samples.log_target.dtype == torch.float64


@all_cases
def test_counts_and_settings_are_recorded(case):
    meta = run(case, n=64).meta
    assert (meta["requested"], meta["kept"], meta["rejected"]) == (64, 64, {})
    assert meta["sampler"] == case.sampler
    assert case.settings.items() <= meta["settings"].items()
    assert meta["verdict"].keys() >= {
        "ess", "ess_fraction", "khat", "log_z", "log_z_error", "advice"
    }  # fmt: skip


@all_cases
def test_values_that_are_not_finite_are_zero_density(case):
    proposal = BroadGaussian(torch.zeros(1).double(), torch.full((1,), 1.5).double())
    samples = case.make().run(HalfSpace(), proposal, 1000, seed=2)
    x, verdict = samples.x["x"][:, 0], samples.meta["verdict"]
    assert len(samples) + sum(samples.meta["rejected"].values()) == 1000
    if case.sampler == "direct":
        assert verdict["zero_target_density"] == (x < 0).sum()
        weighted = make_sampler("importance").run(HalfSpace(), proposal, 1000, seed=2)
        # other draws, because streams bear the name of the sampler
        assert verdict["ess_if_weighted"] == pytest.approx(weighted.ess.count, rel=0.1)
        return
    assert (x >= 0).all()
    mean = math.sqrt(2 / math.pi)
    assert abs(samples.mean(x).item() - mean) < 5 * 0.6 / effective(samples) ** 0.5
    if case.evidence:
        assert abs(verdict["log_z"] - HalfSpace.log_z) < 3.5 * verdict["log_z_error"]
    if case.id == "importance":
        assert samples.meta["rejected"] == {"zero target density": 1000 - len(samples)}


@all_cases
def test_nothing_with_weight_is_an_error_with_a_remedy(case):
    class Nowhere:
        def log_prob(self, x):
            return torch.full((x["x"].shape[0],), math.nan)

    if case.sampler == "direct":
        pytest.skip("direct does not weigh")
    with pytest.raises(GensciError, match=r"(zero|any) target density") as caught:
        case.make().run(Nowhere(), case.proposal("gaussian"), 30, seed=0)
    assert caught.value.remedy


@pytest.mark.parametrize("name", ["importance", "smc"])
def test_a_proposal_without_density_is_refused(name):
    with pytest.raises(IncompatibleSampler, match="DrawsOnly lacks; use one of: direct, mcmc"):
        make_sampler(name).run(target("gaussian"), DrawsOnly(), 10, seed=0)


@pytest.mark.parametrize("name", ["importance", "smc", "mcmc"])
def test_no_target_leaves_only_direct(name):
    with pytest.raises(IncompatibleSampler, match=r"needs a target .*use one of: direct$"):
        make_sampler(name).run(None, DrawsOnly(), 10, seed=0)
    assert len(make_sampler("direct").run(None, DrawsOnly(), 10, seed=0)) == 10


def test_chains_may_start_from_draws_without_density():
    samples = make_sampler("mcmc", {"num_chains": 20, "warmup": 100}).run(
        target("gaussian"), DrawsOnly(), 100, seed=0, shard_size=60
    )
    assert samples.chain.unique().tolist() == list(range(40))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("smcc", {}, "did you mean 'smc'"),
        ("smc", {"num_step": 3}, "did you mean 'num_steps'"),
        ("smc", {"num-steps": "0"}, "num_steps=0"),
        ("smc", {"move": "hcm"}, "did you mean 'hmc'"),
        ("smc", {"ess_target": 1.5}, "ess_target=1.5"),
        ("smc", {"resampling": "sytematic"}, "did you mean 'systematic'"),
        ("smc", {"step_size": -1}, "step_size=-1"),
        ("importance", {"psis": "maybe"}, "psis='maybe'"),
        ("importance", {"truncate": 1.0}, "truncate=1.0"),
        ("mcmc", {"num_chains": 2.5}, "num_chains=2.5"),
        ("mcmc", {"target_acceptance": 0}, "target_acceptance=0"),
    ],
)
def test_bad_settings_name_the_setting(name, settings, message):
    with pytest.raises(UsageError, match=message):
        make_sampler(name, settings)


@pytest.mark.parametrize("n", [0, -5, 2.5])
def test_bad_counts_name_the_argument(n):
    with pytest.raises(UsageError, match="num_samples="):
        make_sampler("direct").run(None, DrawsOnly(), n, seed=0)


def test_text_settings_are_read():
    sampler = make_sampler("IMPORTANCE", {"psis": "True", "truncate": "1e-2", "resample": "none"})
    assert (sampler.psis, sampler.truncate, sampler.resample) == (True, 0.01, None)


def test_truncation_is_recorded_and_absent_otherwise():
    case = next(case for case in CASES if case.id == "importance")
    assert "truncation" not in run(case, "mixture").meta
    cut = make_sampler("importance", {"truncate": 0.05}).run(
        target("mixture"), case.proposal("mixture"), 2000, seed=1
    )
    assert cut.meta["truncation"]["count"] == 100
    assert cut.meta["verdict"]["ess"] > cut.meta["verdict"]["ess_raw"]


@pytest.mark.parametrize(
    ("n", "limit"),
    [(1, -math.inf), (10, 0.0), (100, 0.5), (1000, 2 / 3), (2155, 0.7), (10**6, 0.7)],
)
def test_few_draws_bear_only_a_light_tail(n, limit):
    assert khat_limit(n) == pytest.approx(limit, abs=1e-4)
    if n > 10:
        assert "cannot be trusted" in importance_advice(1000.0, limit + 0.01, n)
        assert importance_advice(1000.0, limit - 0.01, n) == "the weights can be trusted"


@pytest.mark.parametrize(
    ("ess", "khat", "remedies"),
    [
        (10.0, 0.3, ["draw more", "finetune"]),
        (1000.0, 0.9, ["draw more samples", "finetune", "the smc sampler takes far more"]),
        (1000.0, 1.2, ["more draws would not help", "finetune", "use the smc sampler"]),
    ],
)
def test_the_advice_names_first_what_costs_least_for_an_effective_sample(ess, khat, remedies):
    advice = importance_advice(ess, khat, 10_000)
    places = [advice.index(remedy) for remedy in remedies]
    assert places == sorted(places)
    assert ("smc" in advice) == ("smc" in remedies[-1])


def test_acceptance_is_the_mean_over_the_moves_that_made_the_samples():
    proposal = ToySystem.parse("double-well").proposal(dtype=torch.float64)
    smc = make_sampler("smc").run(target("double-well"), proposal, 200, seed=0, shard_size=100)
    moves = smc.info["acceptance"]
    assert len(moves) > 6
    assert smc.meta["verdict"]["acceptance"] == pytest.approx(moves.double().mean().item())
    settings = {"num_chains": 10, "warmup": 20, "thinning": 2}
    mcmc = make_sampler("mcmc", settings).run(
        target("double-well"), proposal, 100, seed=0, shard_size=50
    )
    moves, shard = mcmc.info["acceptance"].double(), mcmc.info["shard"]
    mean = torch.cat([moves[shard == k][20:] for k in (0, 1)]).mean().item()
    assert len(moves) == 2 * (20 + 5 * 2)
    assert mcmc.meta["verdict"]["acceptance"] == pytest.approx(mean)


def test_a_poor_proposal_is_told_by_khat():
    far = BroadGaussian(torch.full((3,), 9.0).double(), torch.full((3,), 0.8).double())
    verdict = make_sampler("importance").run(target("gaussian"), far, 2000, seed=0).meta["verdict"]
    assert verdict["khat"] > 0.7
    assert "smc" in verdict["advice"]
