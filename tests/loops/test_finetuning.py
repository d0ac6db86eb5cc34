"""The loop of finetuning on a flow whose best fit is known."""

import contextlib
import math

import pytest
import torch
from loops.toy_flow import Fragile, Killed, ToyTarget, proposal

from gensci.core.errors import GensciError, IncompatibleSampler, UsageError
from gensci.loops.finetuning import FinetuneSettings, finetune
from gensci.models.flow_finetuning import FitSettings
from gensci.samplers.smc import Smc

FIT = FitSettings(steps=60, learning_rate=0.02, rows=64)
SMALL = FinetuneSettings(rounds=2, draws=400, held_out=1500, fit=FIT)
SMC = Smc(schedule="linear", num_steps=3, num_moves=2, num_leapfrog=2)


def expected_ess(shift=0.35, stretch=-0.15):
    """Of one over E_q[(p/q)^2], nine independent coordinates."""
    s = math.exp(stretch)
    width = 2 * s * s - 1
    one = s * s / math.sqrt(width) * math.exp(shift**2 / width)
    return one**-9


def test_finetuning_finds_the_target_and_says_what_it_cost():
    target = ToyTarget()
    lines = []
    found = finetune(target, proposal(), SMALL, seed=1, say=lines.append)
    before, after = found.before, found.after
    assert before.ess == pytest.approx(expected_ess(), abs=4 * before.ess_error)
    assert after.ess > before.ess + 5 * math.hypot(before.ess_error, after.ess_error)
    assert after.ess > 0.9
    assert found.judgement.kept == "finetuned"
    assert abs(after.log_z - ToyTarget.LOG_Z) < 4 * after.log_z_error
    assert abs(found.buffer.constant.value - ToyTarget.LOG_Z) < 5 * found.buffer.constant.error
    assert found.evaluations == target.rows == 1500 + 2 * 400 + 1500
    assert found.weights["mean"].abs().max() < 0.1
    assert [line.split(":")[0] for line in lines] == ["pretrained", "round 1", "round 2"]


def test_the_pretrained_flow_is_not_changed():
    given = proposal()
    before = {k: v.clone() for k, v in given.network.state_dict().items()}
    finetune(ToyTarget(), given, SMALL, seed=1)
    assert all(torch.equal(v, before[k]) for k, v in given.network.state_dict().items())


def test_a_flow_that_cannot_be_bettered_is_returned_as_it_came():
    given = proposal(0.0, 0.0)
    found = finetune(ToyTarget(), given, SMALL, seed=2)
    assert found.judgement.kept == "pretrained"
    assert all(torch.equal(v, found.weights[k]) for k, v in given.network.state_dict().items())


def test_a_population_of_smc_refreshes_the_buffer_and_its_energies_count():
    target = ToyTarget()
    settings = FinetuneSettings(
        rounds=1, draws=200, held_out=400, refresh="smc", particles=300, fit=FIT, smc=SMC
    )
    found = finetune(target, proposal(), settings, seed=3)
    assert found.judgement.kept == "finetuned"
    assert found.evaluations == target.rows > 400 + 200 + 400 + 300 * 3 * 2 * 2
    assert len(found.buffer.x) > 400 + 200 + 250
    assert found.records[1].learned_from > 1.1 * 400 * found.before.ess
    second = torch.softmax(found.buffer.log_weight, 0) @ found.buffer.x.square().mean((1, 2))
    assert abs(second - 1) < 0.06


@pytest.mark.parametrize("life", [1, 2, 4, 7, 12, 18])
@pytest.mark.parametrize("refresh", ["importance", "smc"])
def test_a_run_that_is_killed_anywhere_ends_with_the_same_bits(refresh, life):
    settings = FinetuneSettings(
        rounds=2, draws=60, held_out=100, refresh=refresh, particles=40,
        fit=FitSettings(steps=4, learning_rate=0.02, rows=16), smc=SMC,
    )  # fmt: skip
    more = {"seed": 5, "save_seconds": 1e-9}
    truth = finetune(ToyTarget(), proposal(), settings, **more)
    store = Fragile()
    store.life = life
    with contextlib.suppress(Killed):
        finetune(ToyTarget(), proposal(), settings, store=store, **more)
    again = finetune(ToyTarget(), proposal(), settings, store=store, **more)
    assert all(torch.equal(v, again.weights[k]) for k, v in truth.weights.items())
    assert again.records == truth.records
    assert again.after == truth.after
    assert again.evaluations == truth.evaluations
    assert torch.equal(again.buffer.log_weight, truth.buffer.log_weight)


def test_rows_without_weight_are_left_out_and_count_all_the_same():
    target = ToyTarget(edge=1.2)
    found = finetune(target, proposal(), SMALL, seed=6)
    share = 0.5 * (1 + math.erf(1.2 / math.sqrt(2)))
    truth = ToyTarget.LOG_Z + 9 * math.log(share)
    assert abs(found.buffer.constant.value - truth) < 5 * found.buffer.constant.error
    assert found.buffer.num_draws < 1500 + 2 * 400
    assert found.evaluations == target.rows


def test_a_flow_without_any_weight_is_told_at_once():
    with pytest.raises(GensciError, match="none of 1500 draws of the flow has any weight"):
        finetune(ToyTarget(edge=-50.0), proposal(), SMALL, seed=1)


def test_a_target_without_slopes_does_not_fit_smc():
    class Plain:
        def log_prob(self, x):
            return ToyTarget().log_prob(x)

    class NoDensity:
        network = proposal().network

        def sample(self, n, generator):
            return {"positions": torch.zeros(n, 3, 3)}

    with pytest.raises(IncompatibleSampler, match="sample_and_log_prob"):
        finetune(Plain(), NoDensity(), SMALL, seed=1)


@pytest.mark.parametrize(
    "settings", [{"rounds": 0}, {"draws": 3}, {"refresh": "md"}, {"held_out": 2.5}]
)
def test_settings_that_cannot_be_used(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        FinetuneSettings(**settings)
