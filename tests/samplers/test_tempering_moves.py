"""Each move of ensembles leaves its target as it is; ladders and bridges against what is known."""

import math

import pytest
import torch
from posterior_cases import Banana, EightModes, farthest_from_uniform

from gensci.core.posterior import PriorProposal
from gensci.core.random import stream, uniform
from gensci.samplers.ensemble import Surroundings, moved, new_ensemble
from gensci.samplers.ensemble_moves import ENSEMBLE_MOVES, Proposed, jump
from gensci.samplers.evaluate import Density, MicroBatch
from gensci.samplers.flat import Layout, Space
from gensci.samplers.folded_moves import folded
from gensci.samplers.ladder import (
    adapted_ladder,
    bridge,
    choose_ladder,
    evidence,
    exchanges,
    geometric_ladder,
)
from gensci.samplers.tempered_path import TemperedPath

LIMIT = 1.95  # of Kolmogorov-Smirnov, passed by one exact sample in a thousand
MOVES = [*ENSEMBLE_MOVES, "mixed"]


def walkers_of(target, theta, move):
    """An ensemble of one temperature at given points, and what it moves in."""
    layout = Layout({"theta": theta[:1]})
    path = TemperedPath.at_target(Density(target, MicroBatch(10_000)), layout)
    value = path.log_ratio(theta, torch.zeros(len(theta), dtype=torch.float64))
    state = new_ensemble(
        theta[None],
        torch.zeros_like(value)[None],
        value[None],
        torch.ones(1, dtype=torch.float64),
        len(theta),
        layout.template,
    )
    space = Space.of(target, theta.shape[1])
    return state, Surroundings(path, space, target.jumps, None, move)


@pytest.mark.parametrize("move", MOVES)
def test_a_move_leaves_exact_draws_exact(move):
    target = Banana()
    state, around = walkers_of(target, target.draw(6000, stream(1, move)), move)
    first, accepted = state.theta, []
    for step in range(6):
        state, share = moved(state, around, stream(2, move, step))
        accepted.append(share)
    assert min(accepted) > 0.1
    changed = (state.theta - first).abs().amax((0, 2)) > 0.05
    assert changed.double().mean() > 0.4
    theta = state.theta[0]
    assert farthest_from_uniform(target.scores(theta)) < LIMIT
    assert target.prior.inside(theta).all()
    # what is carried along is that of the points
    assert torch.allclose(state.log_ratio[0], target.log_prob({"theta": theta}))


def test_a_wrong_correction_would_be_seen(monkeypatch):
    def careless(theta, others, space, generator):
        proposed = ENSEMBLE_MOVES.get("stretch")(theta, others, space, generator)
        none = torch.where(proposed.log_correction > -math.inf, 0.0, -math.inf).double()
        return Proposed(proposed.theta, none)

    import gensci.samplers.ensemble as ensemble

    monkeypatch.setattr(ensemble, "ENSEMBLE_MOVES", {"careless": careless})
    target = Banana()
    state, around = walkers_of(target, target.draw(6000, stream(1)), "careless")
    for step in range(6):
        state, _ = moved(state, around, stream(2, step))
    assert farthest_from_uniform(target.scores(state.theta[0])) > LIMIT


def test_jumps_reach_every_image_alike():
    target = EightModes()
    theta = torch.tensor([[[1.0, 2.0, 3.0]]], dtype=torch.float64).expand(1, 8000, 3)
    space = Space.of(target, 3)
    new = jump(theta, target.jumps, space, stream(0)).theta[0]
    assert torch.equal(new.abs(), theta[0])
    counts = torch.unique(new.sign(), dim=0, return_counts=True)[1]
    assert len(counts) == 8
    assert (counts - 1000).abs().max() < 4.5 * math.sqrt(1000)


@pytest.mark.parametrize("move", ["stretch", "snooker", "fitted", "differential"])
def test_moves_within_a_mode_leave_exact_draws_exact(move):
    """Modes of unequal weight that run into each other: the symmetry holds only nearly."""
    width, weights = 1.2, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    target = EightModes(weights, width=width)
    centres = target.corners * torch.tensor([3.0, 4.0, 5.0])
    generator = stream(1, move)
    mode = torch.multinomial(target.weights, 8000, True, generator=generator)
    noise = torch.randn(8000, 3, generator=generator, dtype=torch.float64)
    theta = centres[mode] + width * noise
    theta = theta[target.prior.inside(theta)][:7800]

    def scores(x):
        return torch.einsum(
            "k,nkd->nd", target.weights, torch.special.ndtr((x[:, None] - centres) / width)
        )

    mine, others, space = theta[None, :3900], theta[None, 3900:], Space.of(target, 3)
    first = mine
    for step in range(8):
        generator = stream(2, move, step)
        new = folded(ENSEMBLE_MOVES.get(move), mine, others, target.jumps, space, generator)
        gain = target.log_prob({"theta": new.theta[0]}) - target.log_prob({"theta": mine[0]})
        accept = uniform(3900, generator).log() < gain + new.log_correction[0]
        assert accept.double().mean() > 0.2
        # a step that is allowed stays in its mode
        assert torch.equal(new.theta[0, accept].sign(), mine[0, accept].sign())
        mine = torch.where(accept[None, :, None], new.theta, mine)
    assert ((mine - first).abs().amax(-1) > 0.2).double().mean() > 0.7
    assert farthest_from_uniform(scores(first[0])) < LIMIT
    assert farthest_from_uniform(scores(mine[0])) < LIMIT


@pytest.mark.parametrize("move", ["stretch", "snooker", "fitted", "differential"])
def test_moves_do_not_see_where_angles_wrap(move):
    """Walkers on both sides of the seam move as those that lie in one piece do."""
    target = Banana()

    def steps(offset):
        generator = stream(3, move)
        theta = torch.randn(1, 40, 3, generator=stream(4), dtype=torch.float64) * 0.2
        theta[..., 2] += offset
        space = Space.of(target, 3)
        new = ENSEMBLE_MOVES.get(move)(
            space.wrap(theta[:, :20]), space.wrap(theta[:, 20:]), space, generator
        )
        return space.shortest(new.theta - theta[:, :20]), new.log_correction

    # the seam is at 1
    here, there = steps(1.0), steps(4.0)
    torch.testing.assert_close(here[0], there[0], atol=1e-8, rtol=0)
    torch.testing.assert_close(here[1], there[1], atol=1e-8, rtol=1e-8)


def test_angles_average_over_the_seam():
    space = Space.of(Banana(), 3)
    theta = space.wrap(torch.tensor([[0.0, 0.0, 0.9], [2.0, 4.0, 1.3]], dtype=torch.float64))
    centre = space.centre(theta)
    expected = space.wrap(torch.tensor([1.0, 2.0, 1.1], dtype=torch.float64))
    torch.testing.assert_close(centre, expected)


def test_ladders_run_from_one_to_zero_and_keep_their_ends():
    for count in range(1, 9):
        ladder = geometric_ladder(0.01, count)
        assert len(ladder) == count
        assert ladder[0] == 1.0
        assert (ladder.diff() < 0).all()
    stages = torch.tensor([0.0, 1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0], dtype=torch.float64)
    chosen = choose_ladder(stages, None)
    assert chosen.tolist() == pytest.approx([1.0, 0.1, 1e-3, 0.0])
    assert choose_ladder(stages, 7).tolist() == pytest.approx(stages.flip(0).tolist())
    # rates that are equal leave it; a pair that hardly exchanges moves closer together
    same = torch.full((3,), 0.3, dtype=torch.float64)
    torch.testing.assert_close(adapted_ladder(chosen, same, 0.5), chosen)
    poor = torch.tensor([0.05, 0.4, 0.4], dtype=torch.float64)
    moved_ladder = adapted_ladder(chosen, poor, 0.5)
    assert moved_ladder[1] > chosen[1]
    assert moved_ladder[[0, -1]].tolist() == [1.0, 0.0]
    ends = torch.tensor([1.0, 0.3, 0.1], dtype=torch.float64)
    assert adapted_ladder(ends, poor[:2], 0.5)[[0, -1]].tolist() == [1.0, 0.1]


def gaussian_rates(beta, draws, walkers, seed):
    """Log-likelihoods -x^2/2 of exact draws at each temperature of a standard normal base."""
    noise = torch.randn(draws, len(beta), walkers, generator=stream(seed), dtype=torch.float64)
    return -0.5 * noise.square() / (1.0 + beta[:, None])


def test_bridges_give_the_evidence_of_a_gaussian():
    beta = torch.tensor([1.0, 0.3, 0.05, 0.0], dtype=torch.float64)
    found = [evidence(gaussian_rates(beta, 40, 20, seed), beta) for seed in range(12)]
    away = torch.tensor([(z.value + 0.5 * math.log(2.0)) / z.error for z in found])
    assert away.abs().max() < 3.5
    assert 0.5 < away.square().mean().sqrt() < 1.7


def test_zero_density_at_the_hot_end_counts():
    cold = torch.zeros(5000, dtype=torch.float64)
    hot = torch.where(uniform(5000, stream(0)) < 0.25, 0.0, -math.inf).double()
    assert bridge(hot, cold, 1.0) == pytest.approx(math.log(0.25), abs=0.1)


def test_exchanges_keep_the_law_of_each_temperature():
    beta = torch.tensor([1.0, 0.3, 0.0], dtype=torch.float64)
    rates = gaussian_rates(beta, 1, 40_000, 5)[0]
    for step in range(4):
        source, rate = exchanges(beta, rates, step % 2, stream(6, step))
        assert torch.isnan(rate).tolist() == [step % 2 == 1, step % 2 == 0]
        rates = rates[source, torch.arange(rates.shape[1])]
    expected = -0.5 / (1.0 + beta)
    torch.testing.assert_close(rates.mean(1), expected, rtol=0.03, atol=0)


def test_a_proposal_feeds_the_hot_end_with_its_own_law():
    target = Banana()
    drawn = PriorProposal(target.prior).sample(4000, stream(0))["theta"]
    assert target.prior.inside(drawn).all()
    low, high = target.bounds.unbind(1)
    assert farthest_from_uniform((drawn - low) / (high - low)) < LIMIT
