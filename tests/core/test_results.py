"""The registry, the streams, the sample set and the diagnostics of chains."""

import math
from dataclasses import dataclass, field, replace

import pytest
import torch

from gensci.core.chains import chain_ess, split_rhat
from gensci.core.errors import GensciError, IncompatibleSampler, UsageError
from gensci.core.packing import pack, unpack
from gensci.core.protocols import Tensors
from gensci.core.random import stream
from gensci.core.registry import Registry
from gensci.core.results import SampleSet


def sample_set(n=5, seed=0, **extra):
    x = torch.randn(n, 4, 3, generator=stream(seed))
    log_weight = torch.randn(n, generator=stream(seed, "w"), dtype=torch.float64)
    return SampleSet({"positions": x}, log_weight, **extra)


def test_registry_forgives_spelling_and_offers_the_nearest():
    registry = Registry("fruit")
    registry.register("sweet-cherry", colour="red")(int)
    assert registry.get(" Sweet_CHERRY ") is int
    assert registry.metadata("sweet-cherry") == {"colour": "red"}
    assert list(registry) == registry.names() == ["sweet-cherry"]
    assert "SWEET_cherry" in registry
    with pytest.raises(UsageError, match="fruit 'sweet-chery'; did you mean 'sweet-cherry'"):
        registry.get("sweet-chery")
    with pytest.raises(UsageError, match="choose from: sweet-cherry"):
        registry.get("xyz")
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("Sweet_Cherry")(str)


def test_errors_carry_a_remedy_and_a_status():
    error = IncompatibleSampler("a is b", "do c")
    assert (str(error), error.exit_status) == ("a is b; do c", 2)
    assert GensciError("only this").exit_status == 1


def test_streams_depend_on_seed_and_every_name():
    def draw(*names):
        return torch.rand(4, generator=stream(*names)).tolist()

    assert draw(1, "smc", "shard", 3) == draw(1, "smc", "shard", 3)
    names = [(1,), (2,), (1, "a"), (1, "ab", "c"), (1, "a", "bc"), (1, 3), (1, "3"), (1, 3, 0)]
    assert len({tuple(draw(*name)) for name in names}) == len(names)


def test_a_set_survives_flat_tensors():
    samples = sample_set(log_target=torch.arange(5.0), info={"ess": torch.rand(3)})
    tensors = samples.to_tensors()
    assert set(tensors) == {"x/positions", "log_weight", "log_target", "info/ess"}
    back = SampleSet.from_tensors(tensors, {"seed": 1})
    assert torch.equal(back.x["positions"], samples.x["positions"])
    assert back.ancestor is None
    assert back.meta == {"seed": 1}
    assert len(back) == 5


def test_rows_that_do_not_match_are_refused():
    with pytest.raises(GensciError, match="log_target has shape"):
        sample_set(log_target=torch.zeros(4))


def test_weighted_mean_and_selection():
    samples = SampleSet({"x": torch.eye(3)}, torch.tensor([0.1, 0.7, 0.2]).log())
    assert torch.allclose(samples.mean(samples.x["x"]), torch.tensor([0.1, 0.7, 0.2]))
    assert samples.mean(samples.x["x"][:, 1] > 0).item() == pytest.approx(0.7)
    assert samples.mean(torch.tensor([10, 0, 5])).item() == pytest.approx(2.0)
    chosen = samples.select(torch.tensor([True, False, True]))
    assert torch.equal(chosen.x["x"], torch.eye(3)[[0, 2]])
    assert chosen.log_weight.exp().tolist() == pytest.approx([0.1, 0.2])


def test_concatenation_keeps_shared_columns():
    first = sample_set(3, log_target=torch.zeros(3), chain=torch.zeros(3).long())
    second = sample_set(2, 1, log_target=torch.ones(2))
    both = SampleSet.concatenate([first, second])
    assert both.log_target.tolist() == [0, 0, 0, 1, 1]
    assert both.chain is None
    assert torch.equal(both.x["positions"][3:], second.x["positions"])
    with pytest.raises(GensciError, match="no sample sets"):
        SampleSet.concatenate([])
    with pytest.raises(GensciError, match="different quantities"):
        SampleSet.concatenate([first, SampleSet({"x": torch.zeros(1)}, torch.zeros(1))])


@dataclass(frozen=True)
class Mixed:
    x: Tensors
    step: float
    count: int
    grad: Tensors = field(default_factory=dict)
    extra: torch.Tensor | None = None


def test_structures_of_different_sizes_are_joined_with_zeros_behind():
    wide, narrow = sample_set(2), sample_set(3, 1)
    narrow = replace(narrow, x={"positions": narrow.x["positions"][:, :3]})
    for first, second in ((wide, narrow), (narrow, wide)):
        both = SampleSet.concatenate([first, second]).x["positions"]
        assert both.shape == (5, 4, 3)
        start = 0
        for part in (first.x["positions"], second.x["positions"]):
            rows, atoms = part.shape[:2]
            assert torch.equal(both[start : start + rows, :atoms], part)
            assert not both[start : start + rows, atoms:].any()
            start += rows


def test_numbers_and_dictionaries_pack_and_unpack():
    subject = Mixed({"a": torch.ones(2, 3).T, "b": torch.zeros(1)}, 0.1, 7)
    packed = pack(subject)
    assert all(value.is_contiguous() for value in packed.values())
    back = unpack(Mixed, packed)
    assert (back.step, back.count, back.grad, back.extra) == (0.1, 7, {}, None)
    assert torch.equal(back.x["a"], subject.x["a"])


def autoregression(rho, draws, chains):
    noise = torch.randn(draws, chains, generator=stream(0, "ar"), dtype=torch.float64)
    rows = [noise[0]]
    for row in noise[1:]:
        rows.append(rho * rows[-1] + math.sqrt(1 - rho**2) * row)
    return torch.stack(rows)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_ess_of_an_autoregression(rho):
    draws = autoregression(rho, 4000, 8)
    expected = 32_000 * (1 - rho) / (1 + rho)
    assert chain_ess(draws) == pytest.approx(expected, rel=0.12)
    assert split_rhat(draws) < 1.02


def test_rhat_tells_chains_that_disagree():
    draws = autoregression(0.3, 500, 4) + torch.tensor([0.0, 0.0, 0.0, 3.0])
    assert split_rhat(draws) > 1.3
    assert chain_ess(draws) < 50
    assert math.isnan(split_rhat(torch.ones(100, 4)))
