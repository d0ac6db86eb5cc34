"""The ways to invert a flow: one step for both directions, recorded graphs, lower precision."""

import gc
import math
import weakref
from pathlib import Path

import pytest
import torch
from named_peptides import named_peptide

from gensci.nn import inverse, native_inverse
from gensci.nn.graphs import Graphed
from gensci.nn.inverse import TorchInverse, kept_inverse, make_inverse, rows_at_once
from gensci.nn.tarflow import VARIANTS, TarFlowPeptide

PRECISIONS = tuple(native_inverse.PARTS)
each_precision = pytest.mark.parametrize("precision", PRECISIONS)
each_kind = pytest.mark.parametrize("native", [False, True])


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def network(variant="prose", dtype=torch.float32, **settings):
    """A small network whose every weight matters and whose matrices fill tiles."""
    torch.manual_seed(5)
    size = {"channels": 32, "num_blocks": 2, "layers_per_block": 2, "head_dim": 8, "expansion": 2}
    model = TarFlowPeptide(**{**size, "variant": variant, **settings}).to(dtype)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.add_(torch.randn_like(value) * (0.02 if "leave" in name else 0.1))
    return model.requires_grad_(False)


def condition(sequence="G"):
    return TarFlowPeptide.encode(named_peptide(sequence))


def noise(n, cond, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, len(cond["mask"]), 3, generator=generator, dtype=dtype)


class Recorded:
    """Stands for a CUDA graph: plays the recorded call, and counts recordings and plays."""

    def __init__(self):
        self.records, self.plays = 0, 0

    def __call__(self, call):
        self.records += 1
        call()

        def play():
            self.plays += 1
            call()

        return play


def graphed(model, cond, record):
    parts = [
        (block, model.embedding(cond)[cond["permutations"][:, column]], order)
        for block, column in zip(model.blocks, model.columns, strict=True)
        for order in [cond["permutations"][:, column]]
    ]
    made = TorchInverse(parts, graphs=True)
    for part in made.inverts:
        part.record = record
    return made


def test_a_recorded_inverse_is_the_eager_one_for_every_number_of_rows():
    model, cond, record = network(), condition(), Recorded()
    eager, recorded = make_inverse(model, cond, native=False), graphed(model, cond, record)
    calls = [noise(n, cond, seed) for seed, n in enumerate((6, 6, 2, 0, 9, 5))]
    kept = [recorded(z) for z in calls]
    for z, found in zip(calls, kept, strict=True):  # results outlive the calls after them
        for value, wanted in zip(found, eager(z), strict=True):
            torch.testing.assert_close(value, wanted, atol=1e-5, rtol=0)
    assert record.records == 4  # two blocks, for 6 rows and then for 9
    assert record.plays == 10  # five calls that had rows


def test_a_recorded_function_plays_in_its_own_memory():
    places, record = [], Recorded()

    def function(x):
        places.append(x.data_ptr())
        return (2 * x,)

    double = Graphed(function, record)
    for n in (5, 3, 5, 1):
        x = torch.arange(n * 2.0).view(n, 2)
        assert torch.equal(double(x)[0], 2 * x)
    assert len(set(places)) == record.records == 1


def test_a_recorded_inverse_keeps_its_caches_where_they_are():
    model, cond, record = network(), condition(), Recorded()
    recorded = graphed(model, cond, record)
    z = noise(5, cond)
    x, log_det = recorded(z)
    places = [cache.keys.data_ptr() for cache in recorded.caches]
    back, forth = recorded.forward(x[:2])
    torch.testing.assert_close(back, z[:2], atol=1e-4, rtol=0)
    torch.testing.assert_close(forth, log_det[:2], atol=1e-4, rtol=0)
    again, _ = recorded(z)
    assert torch.equal(again, x)
    assert places == [cache.keys.data_ptr() for cache in recorded.caches]


@pytest.mark.parametrize("variant", VARIANTS)
@each_precision
@torch.no_grad()
def test_the_log_density_is_that_of_the_flow_as_computed(precision, variant):
    model, cond = network(variant), condition("A")
    low = make_inverse(model, cond, native=False, precision=precision)
    z = noise(20, cond)
    x, log_det = low(z)
    back, forth = low.forward(x)
    torch.testing.assert_close(back, z, atol=2e-4, rtol=0)
    torch.testing.assert_close(forth, log_det, atol=2e-4, rtol=0)
    whole, change = model(x, cond)
    if precision == "medium":  # and that is another flow than the one in single precision
        assert (whole - z).abs().mean() > 10 * (back - z).abs().mean()
        assert (change - log_det).abs().mean() > 10 * (forth - log_det).abs().mean()
    else:
        torch.testing.assert_close(change, log_det, atol=2e-4, rtol=0)


@each_kind
@each_precision
@torch.no_grad()
def test_the_log_determinant_is_that_of_the_map_at_every_precision(precision, native):
    # In one block, an atom is an affine function of its own noise: exact from two points.
    model, cond = network(num_blocks=1), condition("G")
    z = noise(1, cond)
    atoms = z.shape[1]
    moved = z + torch.eye(3 * atoms).view(3 * atoms, atoms, 3)
    x, log_det = make_inverse(model, cond, native, precision)(torch.cat((z, moved)))
    slopes = torch.diagonal((x[1:] - x[:1]).reshape(3 * atoms, 3 * atoms))
    assert float(-slopes.double().log().sum()) == pytest.approx(float(log_det[0]), abs=1e-4)


def test_bfloat16_is_used_where_the_processor_has_it():
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if isinstance(native_inverse.library(), str):
        pytest.skip(f"no C kernel: {native_inverse.library()}")
    if "avx512_bf16" not in flags or "amx_bf16" in flags:  # the system may withhold tiles
        pytest.skip("a processor without AVX512_BF16, or with matrix tiles")
    assert [native_inverse.lowers(precision) for precision in PRECISIONS] == [False, False, True]
    model, cond = network(), condition()
    z = noise(8, cond)
    with torch.inference_mode():
        found = {p: make_inverse(model, cond, precision=p)(z)[0] for p in PRECISIONS}
    assert torch.equal(found["highest"], found["high"])
    assert not torch.equal(found["highest"], found["medium"])


@each_kind
@torch.no_grad()
def test_each_precision_is_as_near_to_the_network_as_it_says(native):
    model, cond = network(), condition("AG")
    z = noise(70, cond)
    exact, log_det = make_inverse(model.double(), cond)(z.double())
    model = model.float()
    bounds = {"highest": 2e-5, "high": 2e-4, "medium": 5e-2}
    for precision, bound in bounds.items():
        x, change = make_inverse(model, cond, native, precision)(z)
        assert (x - exact).abs().max() < bound, precision
        assert (change - log_det).abs().max() < 10 * bound, precision


@torch.no_grad()
def test_weights_are_unbiased_with_a_conditioner_in_bfloat16():
    model = network(num_blocks=2)
    cond = condition("G")
    kept = [column[column < 2] for column in cond["permutations"].T]
    pair = {k: v[:2] for k, v in cond.items()} | {"permutations": torch.stack(kept, 1)}
    generator = torch.Generator().manual_seed(3)
    x, log_q = model.sample_and_log_prob(40_000, pair, generator, precision="medium")
    width = 0.2  # nm, narrower than the flow: bounded weights
    log_p = -0.5 * (x / width).square().sum((1, 2)) - 6 * math.log(width * math.sqrt(2 * math.pi))
    weight = (log_p - log_q).double().exp()
    error = float(weight.std() / len(weight) ** 0.5)
    assert error < 0.03
    assert float(weight.mean()) == pytest.approx(1.0, abs=4 * error)


@torch.no_grad()
def test_the_kernel_gives_the_same_bits_in_any_company_at_every_precision():
    if isinstance(native_inverse.library(), str):
        pytest.skip(f"no C kernel: {native_inverse.library()}")
    model, cond = network(), condition()
    z = noise(400, cond)  # two groups of tiles
    for precision in PRECISIONS:
        x, log_det = make_inverse(model, cond, precision=precision)(z)
        for rows in (slice(0, 1), slice(60, 200), slice(399, 400)):
            part, change = make_inverse(model, cond, precision=precision)(z[rows])
            assert torch.equal(part, x[rows])
            assert torch.equal(change, log_det[rows])


def test_an_inverse_is_kept_until_weights_condition_or_precision_change(monkeypatch):
    made = []
    monkeypatch.setattr(
        inverse, "make_inverse", lambda *a, **k: made.append(1) or make_inverse(*a, **k)
    )
    model, cond, other = network(), condition(), condition("A")
    z = noise(3, cond)

    def fresh(precision="highest"):
        kept = kept_inverse(model, cond, precision).invert(z)
        wanted = make_inverse(model, cond, precision=precision)(z)
        assert all(torch.equal(a, b) for a, b in zip(kept, wanted, strict=True))
        return len(made)

    assert [fresh(), fresh()] == [1, 1]
    weight = model.blocks[0].layers[1].mlp[1].weight
    weight.mul_(1.5)
    assert [fresh(), fresh()] == [2, 2]
    weight.data.mul_(0.5)  # unseen by torch's count of versions
    assert [fresh(), fresh()] == [3, 3]
    assert [fresh("medium"), fresh("medium")] == [4, 4]
    kept_inverse(model, other, "medium")
    assert fresh("medium") == 6


def test_a_kept_inverse_does_not_keep_its_network():
    model, cond = network(), condition()
    kept_inverse(model, cond)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


def test_rows_follow_the_memory():
    model = network(channels=64)
    assert rows_at_once(model, 10) == 1024
    few, many = rows_at_once(model, 100, 2**30), rows_at_once(model, 100, 3 * 2**30)
    cache = 4 * 2 * 2 * 100 * 64  # bytes for the keys and values of a sample
    assert 0.4 * 2**30 < few * cache < 0.5 * 2**30
    assert many == pytest.approx(3 * few, abs=3)
    assert rows_at_once(model, 100, 1000) == 1
    assert rows_at_once(model, 100, 2**50) == 16384


def test_an_unknown_precision_is_named():
    with pytest.raises(ValueError, match="'low' of matrix products: choose from highest, high, m"):
        make_inverse(network(), condition(), precision="low")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@each_precision
@torch.no_grad()
def test_a_captured_graph_equals_the_steps_on_a_gpu(precision):
    model, cond = network(), condition("AG")
    z = noise(50, cond)
    exact, log_det = make_inverse(model.double(), cond, native=False)(z.double())
    model = model.float().cuda()
    cond = {key: value.cuda() for key, value in cond.items()}
    made = make_inverse(model, cond, precision=precision)
    assert all(isinstance(part, Graphed) for part in made.inverts)
    bound = {"highest": 2e-5, "high": 2e-2, "medium": 5e-2}[precision]
    for n in (50, 50, 20):
        x, change = made(z[:n].cuda())
        assert (x.cpu() - exact[:n]).abs().max() < bound
        assert (change.cpu() - log_det[:n]).abs().max() < 10 * bound
        back, forth = made.forward(x)
        torch.testing.assert_close(back.cpu(), z[:n], atol=1e-3, rtol=0)
        torch.testing.assert_close(forth, change, atol=1e-3, rtol=0)
