"""Steered models whose tilted law and log Z are known by enumeration or in closed form."""

import itertools
import math

import pytest
import torch
from cases import DrawsOnly, Killed, MortalStore, target

from gensci.core.errors import GensciError, IncompatibleSampler, UsageError
from gensci.core.random import stream, uniform
from gensci.samplers import MemoryStore, make_sampler

LENGTH, LETTERS = 5, 3
FIRST = torch.tensor([0.5, 0.3, 0.2]).double()
NEXT = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.3, 0.1, 0.6]]).double()
WORDS = torch.tensor(list(itertools.product(range(LETTERS), repeat=LENGTH)))


class Chain:
    """A Markov chain of letters; a partial is a list of columns, as a cache of a network may be."""

    num_steps = LENGTH

    def begin(self, n, generator):
        return n, []

    def extend(self, partial, step, generator):
        n, columns = partial
        chance = FIRST.expand(n, -1) if step == 0 else NEXT[columns[-1]]
        letter = (uniform(n, generator)[:, None] > chance.cumsum(1)).sum(1).clamp(max=LETTERS - 1)
        return n, [*columns, letter]

    def view(self, partial, step):
        n, columns = partial
        assert len(columns) == step + 1
        return {"letters": torch.stack(columns, 1), "placed": torch.full((n,), step + 1)}

    def select(self, partial, rows):
        return len(rows), [column[rows] for column in partial[1]]

    def finish(self, partial):
        return {"letters": torch.stack(partial[1], 1)}


def log_chance(words):
    steps = NEXT[words[:, :-1], words[:, 1:]].log().sum(1)
    return FIRST[words[:, 0]].log() + steps


class Score:
    """Likes letters that add up to six, and forbids words that end in zero."""

    def log_prob(self, x):
        words = x["letters"]
        value = -0.7 * (words.sum(1) - 6.0).square() + 0.5 * (words[:, 0] == 2)
        return torch.where(words[:, -1] == 0, -math.inf, value).double()


class Guessing(Score):
    """Foretells as if the letters to come were ones."""

    def log_twist(self, x, step):
        words = x["letters"]
        assert (x["placed"] == step + 1).all()
        total = words.sum(1) + (LENGTH - step - 1)
        return -0.3 * (total - 6.0).square() + 0.5 * (words[:, 0] == 2)


class Misled(Score):
    """Foretells the opposite of what comes."""

    def log_twist(self, x, step):
        return 0.3 * (x["letters"].sum(1) - 6.0).square().clamp(max=6.0)


class Knowing(Score):
    """The best twist: the log of the mean of the tilt over all completions."""

    def __init__(self, strength):
        self.strength = strength
        self.tilt = self.strength * self.log_prob({"letters": WORDS}) + log_chance(WORDS)

    def log_twist(self, x, step):
        words = x["letters"]
        begins = (words[:, None] == WORDS[:, : step + 1]).all(2)
        total = torch.where(begins, self.tilt, -math.inf).logsumexp(1)
        steps = NEXT[words[:, :-1], words[:, 1:]].log().sum(1)
        return (total - FIRST[words[:, 0]].log() - steps) / self.strength


def truth(strength):
    """The tilted law over all words, and log Z."""
    value = log_chance(WORDS) + strength * Score().log_prob({"letters": WORDS})
    return value.softmax(0), value.logsumexp(0).item()


def frequencies(samples):
    index = (samples.x["letters"] * LETTERS ** torch.arange(LENGTH).flip(0)).sum(1)
    return torch.zeros(len(WORDS)).double().index_add_(0, index, samples.weight)


def steer(subject, n=6000, seed=0, proposal=None, **settings):
    options = {k: settings.pop(k) for k in ("shard_size", "store", "save_seconds") if k in settings}
    sampler = make_sampler("twisted-smc", settings)
    return sampler.run(subject, proposal or Chain(), n, seed=seed, **options)


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("subject", [Score, Guessing, Misled, Knowing])
@pytest.mark.parametrize("scheme", ["systematic", "multinomial"])
def test_words_have_the_tilted_law_and_log_z(subject, strength, scheme):
    target = Knowing(strength) if subject is Knowing else subject()
    samples = steer(target, strength=strength, resampling=scheme, shard_size=1500)
    law, log_z = truth(strength)
    report = samples.meta["verdict"]
    count = min(report["ess"], report["effective_ancestors"])
    assert count > 400
    # total variation of so many independent draws from the law
    noise = 0.5 * (2 / math.pi * law * (1 - law) / count).sqrt().sum()
    assert 0.5 * (frequencies(samples) - law).abs().sum() < 1.5 * noise
    assert abs(report["log_z"] - log_z) < 4.5 * report["log_z_error"] + 1e-9
    assert (samples.x["letters"][:, -1] > 0).all()


def test_the_best_twist_knows_z_after_every_slot():
    """The mean weight is Z at any slot, because the twist is the mean over all completions."""
    log_z = truth(1.0)[1]
    known, misled = (
        steer(subject, n=4000, shard_size=4000, resample_threshold=1.0).info["log_z"]
        for subject in (Knowing(1.0), Misled())
    )
    assert (known - log_z).abs().max() < 0.1
    assert (misled[:-1] - log_z).abs().min() > 0.5
    assert misled[-1] == pytest.approx(log_z, abs=0.2)


def test_estimates_of_z_are_unbiased_even_by_small_populations():
    store = MemoryStore()
    steer(Misled(), n=1600, shard_size=8, resample_threshold=1.0, store=store)
    shards = [store.load_shard(k)["log_weight"].exp().mean() for k in range(200)]
    values = torch.stack(shards)
    assert abs(values.mean() - math.exp(truth(1.0)[1])) < 4.5 * values.std() / 200**0.5


def test_twists_save_what_weighing_at_the_end_loses():
    plain, guess = (steer(subject, strength=2.0) for subject in (Score(), Guessing()))
    assert guess.meta["verdict"]["ess"] > 1.3 * plain.meta["verdict"]["ess"]
    # without a twist nothing is resampled: these are importance weights
    assert torch.equal(plain.ancestor.unique(), plain.ancestor)


def test_no_strength_gives_the_model_and_zero_density_stays_zero():
    samples = steer(Score(), n=4000, strength=0.0)
    assert (samples.x["letters"][:, -1] > 0).all()
    assert torch.equal(samples.log_weight, torch.zeros(len(samples)).double())
    reject = samples.meta["rejected"]["zero target density"]
    chance = log_chance(WORDS).exp()[WORDS[:, -1] == 0].sum().item()
    assert reject == pytest.approx(4000 * chance, abs=4.5 * (4000 * chance * (1 - chance)) ** 0.5)
    negative = steer(Score(), n=4000, strength=-0.2)
    law, log_z = truth_of(-0.2)
    assert (
        abs(negative.meta["verdict"]["log_z"] - log_z)
        < 4.5 * negative.meta["verdict"]["log_z_error"]
    )
    assert 0.5 * (frequencies(negative) - law).abs().sum() < 0.1


def truth_of(strength):
    score = Score().log_prob({"letters": WORDS})
    value = torch.where(score.isfinite(), log_chance(WORDS) + strength * score, -math.inf)
    return value.softmax(0), value.logsumexp(0).item()


class Walk:
    """x_0 ~ N(0, 1), x_k ~ N(0.9 x_{k-1}, 0.6^2): six continuous slots."""

    num_steps, pull, width = 6, 0.9, 0.6

    def begin(self, n, generator):
        return torch.zeros(n, 0, dtype=torch.float64)

    def extend(self, partial, step, generator):
        noise = torch.randn(len(partial), 1, generator=generator, dtype=torch.float64)
        new = noise if step == 0 else self.pull * partial[:, -1:] + self.width * noise
        return torch.cat([partial, new], 1)

    def view(self, partial, step):
        return {"path": partial, "placed": torch.full((len(partial),), step + 1)}

    def select(self, partial, rows):
        return partial[rows]

    def finish(self, partial):
        return {"path": partial}

    def covariance(self):
        one = torch.zeros(6, 6).double()
        one[0, 0] = 1.0
        for k in range(1, 6):
            one[k] = self.pull * one[k - 1]
            one[k, k] = self.width
        return one @ one.T


class Observed:
    """The end of the walk was seen at 3 with an error of 0.3; foretold exactly or not at all."""

    seen, error = 3.0, 0.3

    def log_prob(self, x):
        return normal(x["path"][:, -1], self.seen, self.error**2)


class Foretold(Observed):
    def log_twist(self, x, step):
        left, variance = 5 - step, self.error**2
        for k in range(left):
            variance += Walk.width**2 * Walk.pull ** (2 * k)
        return normal(Walk.pull**left * x["path"][:, -1], self.seen, variance)


def normal(x, mean, variance):
    return -0.5 * (x - mean).square() / variance - 0.5 * math.log(2 * math.pi * variance)


@pytest.mark.parametrize("subject", [Observed, Foretold])
def test_a_walk_seen_at_its_end_has_the_posterior_of_normals(subject):
    samples = steer(subject(), n=8000, proposal=Walk(), shard_size=4000)
    prior = Walk().covariance()
    gain = prior[:, -1] / (prior[-1, -1] + Observed.error**2)
    mean, covariance = gain * Observed.seen, prior - torch.outer(gain, prior[-1])
    report = samples.meta["verdict"]
    count = min(report["ess"], report["effective_ancestors"])
    assert count > (100 if subject is Observed else 400)
    offset = samples.x["path"] - mean
    assert (samples.mean(offset).abs() / covariance.diagonal().sqrt()).max() < 4.5 / count**0.5
    spread = samples.mean(offset.square()) / covariance.diagonal()
    assert (spread - 1).abs().max() < 4.5 * (2 / count) ** 0.5
    log_z = normal(torch.zeros(()), Observed.seen, prior[-1, -1].item() + Observed.error**2).item()
    assert abs(report["log_z"] - log_z) < 4.5 * report["log_z_error"]
    assert report["advice"] == "the weights can be trusted"


def test_a_killed_run_gives_the_same_bits():
    whole = steer(Guessing(), n=90, seed=3, shard_size=30)
    for calls in range(1, 8):
        store = MortalStore()
        store.arm(calls, after=calls % 2 == 0)
        with pytest.raises(Killed):
            steer(Guessing(), n=90, seed=3, shard_size=30, store=store, save_seconds=1e-9)
            raise Killed
        store.arm(math.inf, after=False)
        again = steer(Guessing(), n=90, seed=3, shard_size=30, store=store, save_seconds=1e-9)
        left, right = whole.to_tensors(), again.to_tensors()
        assert left.keys() == right.keys()
        assert all(torch.equal(left[k], right[k]) for k in left)
        assert not store._states


def test_ancestors_count_in_the_joined_set_and_the_course_is_told_for_each_slot():
    samples = steer(Guessing(), n=60, shard_size=20, resample_threshold=1.0)
    shard = samples.ancestor // 20
    assert torch.equal(shard, shard.sort().values)
    assert shard.unique().tolist() == [0, 1, 2]
    assert samples.info["slot"].tolist() == 3 * list(range(LENGTH))
    assert samples.info["ess"].shape == samples.info["log_z"].shape == (3 * LENGTH,)


def test_nothing_alive_is_an_error_with_a_remedy():
    class Nowhere(Score):
        def log_twist(self, x, step):
            return torch.full((len(x["letters"]),), -math.inf)

    with pytest.raises(GensciError, match="zero weight") as caught:
        steer(Nowhere(), n=20)
    assert caught.value.remedy


def test_a_model_that_draws_whole_samples_is_refused():
    with pytest.raises(
        IncompatibleSampler, match=r"proposal with begin\(\), which DrawsOnly lacks"
    ):
        steer(target("gaussian"), n=5, proposal=DrawsOnly())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": math.inf}, "strength=inf"),
        ({"strength": "much"}, "strength='much'"),
        ({"resample_threshold": 2}, "resample_threshold=2"),
        ({"resampling": "systemtic"}, "did you mean 'systematic'"),
        ({"strenght": 1}, "did you mean 'strength'"),
    ],
)
def test_bad_settings_name_the_setting(settings, message):
    with pytest.raises(UsageError, match=message):
        make_sampler("twisted-smc", settings)


def test_views_of_a_toy_chain_are_what_was_drawn():
    model, generator = Chain(), stream(0, "view")
    partial = model.extend(model.extend(model.begin(4, generator), 0, generator), 1, generator)
    chosen = model.select(partial, torch.tensor([2, 2, 0]))
    assert torch.equal(
        model.view(chosen, 1)["letters"], model.view(partial, 1)["letters"][[2, 2, 0]]
    )


class Agreeing:
    """Weighs all words alike."""

    def log_prob(self, x):
        return torch.zeros(len(x["letters"])).double()


class Picky:
    """One word in a hundred counts, and hardly any of the others."""

    def log_prob(self, x):
        chosen = (x["letters"] == torch.tensor([2, 2, 2, 2, 2])).all(1)
        return torch.where(chosen, 0.0, -30.0).double()


@pytest.mark.parametrize(
    ("subject", "n", "told"),
    [
        (Agreeing, 4, "too few samples to judge their weights (4, which descend from 4.0"),
        (Agreeing, 200, "the weights can be trusted"),
        (Picky, 200, "the 200 samples descend from"),
    ],
)
def test_the_verdict_tells_what_was_measured(subject, n, told):
    report = steer(subject(), n=n).meta["verdict"]
    assert report["advice"].startswith(told)
    if subject is Picky:
        assert f"descend from {report['effective_ancestors']:.1f} eff" in report["advice"]
