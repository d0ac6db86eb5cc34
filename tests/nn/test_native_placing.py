"""The kernel that draws from the internal-coordinate flow: against torch, densities and SciPy."""

import copy
import math
from functools import cache

import numpy as np
import pytest
import scipy.stats
import torch

from gensci.core import compiler
from gensci.nn import internal_placing, native_placing
from gensci.nn.internal import InternalFlow
from gensci.nn.internal_features import zmatrix_of
from gensci.nn.internal_placing import LOG_HAAR, Placing, TorchPlacing
from gensci.nn.native_placing import NativePlacing, draw_variates
from gensci.nn.zmatrix import internal_coordinates
from gensci.sims.peptide import build_peptide

SEQUENCES = ["AA", "PW", "RHWA", "Ace-A-Nme"]
SIZES = {
    "small": {"channels": 32, "num_layers": 2, "num_heads": 2, "pair_channels": 8},
    "odd": {"channels": 24, "num_layers": 1, "num_heads": 3, "pair_channels": 16}
    | {"torsion_components": 5, "stiff_components": 2},
    "usual": {},
}


@pytest.fixture(autouse=True)
def kernel():
    found = native_placing.library()
    if isinstance(found, str):
        pytest.skip(f"no C kernel: {found}")


@cache
def conditioning(text):
    """Conditioning of a peptide; a leading ~ makes one rigid torsion a rotor."""
    cond = InternalFlow.encode(build_peptide(text.lstrip("~")))
    if text.startswith("~"):
        alone = cond["rigid"] & (cond["group"] == len(cond["rigid"])).any(-1).logical_not()
        atom = int((alone & (torch.arange(len(alone)) > 8)).nonzero()[0])
        cond["rigid"][atom] = False
    return cond


@cache
def random_flow(size="small"):
    torch.manual_seed(0)
    flow = InternalFlow(**SIZES[size])
    for parameter in flow.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return flow.requires_grad_(False)


def exact(flow, cond):
    """The same in double precision."""
    double = {k: v.double() if v.is_floating_point() else v for k, v in cond.items()}
    return copy.deepcopy(flow).double(), double


def draws(flow, cond, n, seed=0):
    variates = draw_variates(n, len(cond["order"]), torch.Generator().manual_seed(seed))
    return NativePlacing(flow, cond)(variates)


def check_density(flow, cond, n=40):
    """Log q of the pass is the density of the positions, as well as torch's own pass has it."""
    x, log_q = draws(flow, cond, n)
    model, double = exact(flow, cond)
    there = torch.empty_like(x, dtype=torch.float64)
    there[:, cond["order"]] = (x - x.mean(1, keepdim=True)).double()
    centroid = model._centroid_log_prob(torch.zeros(1, 3).double(), x.shape[1])
    closed = x.isfinite().all(-1).all(-1)
    assert closed.sum() > n // 5
    expected = model.log_prob(there[closed], double) - centroid
    torch.testing.assert_close(log_q[closed] - LOG_HAAR, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("text", [*SEQUENCES, "~PW"])
@pytest.mark.parametrize("size", ["small", "usual"])
def test_log_density_of_the_pass_is_that_of_the_positions(text, size):
    check_density(random_flow(size), conditioning(text))


@pytest.mark.parametrize("ratio", [0.8, 2.5])
def test_other_temperatures(ratio):
    check_density(random_flow("odd"), InternalFlow.tempered(conditioning("PW"), ratio))


@pytest.mark.parametrize("text", ["AA", "PW", "~PW"])
@pytest.mark.parametrize("ratio", [1.0, 1.7])
def test_density_of_given_positions_is_that_of_the_parallel_pass(text, ratio):
    flow, cond = random_flow("odd"), conditioning(text)
    if ratio != 1.0:
        cond = InternalFlow.tempered(cond, ratio)
    start = torch.as_tensor(build_peptide(text.lstrip("~")).positions).float()
    x = start + 0.003 * torch.randn(70, *start.shape, generator=torch.Generator().manual_seed(9))
    x = x - x.mean(1, keepdim=True)
    model, double = exact(flow, cond)
    expected = model.log_prob(x.double(), double)
    placed = x[:, cond["order"]]
    ic = internal_coordinates(placed, zmatrix_of(cond))
    found = NativePlacing(flow, cond).log_prob(placed, ic) - LOG_HAAR
    found = found + model._centroid_log_prob(x.mean(1).double(), x.shape[1])
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-6)
    torchs = flow.log_prob(x, cond).double()
    assert (found - expected).abs().max() < 4 * (torchs - expected).abs().max()


def test_the_kernel_tells_densities_where_no_gradient_is_asked_for():
    flow, x = copy.deepcopy(random_flow()), torch.zeros(8, 5, 3)
    assert native_placing.tells_density(flow, x)
    assert not native_placing.tells_density(flow, x[:7])
    assert not native_placing.tells_density(flow, x.double())
    assert not native_placing.tells_density(flow, x.clone().requires_grad_())
    flow.requires_grad_(True)
    assert not native_placing.tells_density(flow, x)
    with torch.no_grad():
        assert native_placing.tells_density(flow, x)


def stream(seeds, atom):
    """Uniform numbers of splitmix64, one per sample at each call."""

    def mixed(z):
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    start = (atom + 1) * 0xD1342543DE82EF95 % 2**64
    state = mixed(seeds.numpy().astype(np.uint64) + np.uint64(start))
    while True:
        state = state + np.uint64(0x9E3779B97F4A7C15)
        yield (mixed(state) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Replay:
    """Stands where the generator does, and gives the mixtures of each atom their variates."""

    def __init__(self, variates):
        self.variates, self.atom = variates, -1
        self.calls = self.order()

    def order(self):
        for atom in range(1, self.variates.uniform.shape[1]):
            self.atom = atom
            yield from (1, 2) if atom > 1 else (2,)

    def component(self, logits, column):
        share = torch.softmax(logits, -1).cumsum(-1)
        picked = self.variates.uniform[:, self.atom, column, None] * share[:, -1:]
        return torch.searchsorted(share, picked, right=True).clamp_max(share.shape[1] - 1)

    def normal(self, logits, mean, log_scale, _):
        column = next(self.calls)
        k = self.component(logits, column)
        noise = self.variates.normal[:, self.atom, column - 1].double()
        return mean.gather(-1, k)[:, 0] + log_scale.gather(-1, k)[:, 0].exp() * noise

    def von_mises(self, logits, loc, log_kappa, _):
        self.atom += 1  # the torsion is drawn before the bend asks for its turn
        k = self.component(logits, 0)
        kappa = log_kappa.gather(-1, k)[:, 0].exp().numpy()
        numbers = stream(self.variates.seed, self.atom)
        out, todo = np.zeros_like(kappa), np.ones(len(kappa), bool)
        tau = 1 + np.sqrt(1 + 4 * kappa**2)
        rho = (tau - np.sqrt(2 * tau)) / (2 * kappa)
        r = (1 + rho**2) / (2 * rho)
        while todo.any():
            z, u, side = np.cos(math.pi * next(numbers)), next(numbers), next(numbers)
            f = (1 + r * z) / (r + z)
            c = kappa * (r - f)
            keep = todo & ((c * (2 - c) > u) | (np.log(c / u) + 1 - c >= 0))
            out[keep] = (np.where(side > 0.5, 1, -1) * np.arccos(f.clip(-1, 1)))[keep]
            todo &= ~keep
        angle = loc.gather(-1, k)[:, 0] + torch.as_tensor(out)
        self.atom -= 1
        return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def replayed(flow, cond, variates, monkeypatch):
    """Torch's pass in double precision with the variates of the kernel."""
    replay = Replay(variates)
    monkeypatch.setattr(internal_placing, "sample_mixture_normal", replay.normal)
    monkeypatch.setattr(internal_placing, "sample_mixture_von_mises", replay.von_mises)
    return TorchPlacing(*exact(flow, cond), len(variates.seed)).run(replay)


@pytest.mark.parametrize(("text", "size"), [("AA", "small"), ("PW", "odd"), ("Ace-A-Nme", "usual")])
def test_the_kernel_equals_torch_with_the_same_variates(text, size, monkeypatch):
    flow, cond = random_flow(size), conditioning(text)
    variates = draw_variates(50, len(cond["order"]), torch.Generator().manual_seed(5))
    x, log_q = NativePlacing(flow, cond)(variates)
    expected, log_prob = replayed(flow, cond, variates, monkeypatch)
    assert torch.equal(x.isnan(), expected.isnan())
    closed = ~x.isnan().any(-1).any(-1)
    torch.testing.assert_close(x[closed].double(), expected[closed], atol=2e-5, rtol=0)
    error = (log_q - LOG_HAAR - log_prob)[closed].abs()
    assert error.max() < 2e-3


def test_rings_that_cannot_be_closed_are_rows_of_nan(monkeypatch):
    flow, cond = copy.deepcopy(random_flow()), conditioning("PW")
    for head in (flow.heads.bend, flow.heads.length):
        head[2].bias[-3:] += 2.2  # nine times wider
    variates = draw_variates(64, len(cond["order"]), torch.Generator().manual_seed(6))
    x, log_q = NativePlacing(flow, cond)(variates)
    expected, _ = replayed(flow, cond, variates, monkeypatch)
    lost = x.isnan().any(-1).any(-1)
    assert 5 < lost.sum() < 59
    assert x[lost].isnan().all()
    assert torch.equal(lost, expected.isnan().any(-1).any(-1))
    assert log_q.isfinite().all()


def test_what_is_no_number_stays_none():
    flow, cond = copy.deepcopy(random_flow()), conditioning("AA")
    x, _ = draws(flow, cond, 40)
    ic = internal_coordinates(x, zmatrix_of(cond))
    before = NativePlacing(flow, cond).log_prob(x, ic)
    x[3, 12, 1] = torch.nan
    after = NativePlacing(flow, cond).log_prob(x, internal_coordinates(x, zmatrix_of(cond)))
    assert after.isnan().nonzero().tolist() == [[3]]
    assert torch.equal(after[4:], before[4:])
    flow.blocks[0].query.weight[0, 0] = torch.nan
    x, log_q = draws(flow, cond, 40)
    assert x.isnan().all()
    assert log_q.isnan().all()


def plain_flow(bias):
    """One component for each coordinate, with parameters that depend on nothing."""
    flow = InternalFlow(**SIZES["small"], torsion_components=1, stiff_components=1)
    flow.heads.torsion[2].bias.data[2] = bias
    return flow.requires_grad_(False)


@pytest.mark.parametrize("log_kappa", [-1.0, 4.6, 11.0])
def test_draws_follow_their_densities(log_kappa):
    flow, cond = plain_flow(log_kappa + 2 * math.log(0.1)), conditioning("AA")
    x, _ = draws(flow, cond, 3000)
    model, double = exact(flow, cond)
    ic = internal_coordinates(x.double(), zmatrix_of(double))
    assert x.isfinite().all()
    around = scipy.stats.vonmises(math.exp(log_kappa)).cdf
    for atom in (3 + double["rigid"][3:].nonzero()[:6, 0]).tolist():
        offset = ic.torsion[:, atom] - double["torsion0"][atom]
        offset = torch.remainder(offset + math.pi, 2 * math.pi) - math.pi
        assert scipy.stats.kstest(offset.numpy(), around).pvalue > 1e-3
    for values, name in ((ic.distance, "length"), (ic.bend, "bend")):
        centre, width = double[f"{name}0"], double[f"{name}_scale"]
        normal = (values - centre - width * model.heads.spread) / (width * math.exp(-0.3))
        for atom in (2, 3, 10, len(centre) - 1):
            assert scipy.stats.kstest(normal[:, atom].numpy(), "norm").pvalue > 1e-3


def test_marginals_are_those_of_torch():
    flow, cond = random_flow(), conditioning("Ace-A-Nme")
    ours, _ = draws(flow, cond, 2500)
    torchs, _ = TorchPlacing(flow, cond, 2500).run(torch.Generator().manual_seed(8))
    first, second = (internal_coordinates(x, zmatrix_of(cond)) for x in (ours, torchs))
    for a, b, known in zip(first, second, (1, 2, 3), strict=True):
        for atom in range(known, a.shape[1]):
            test = scipy.stats.ks_2samp(a[:, atom].numpy(), b[:, atom].numpy())
            assert test.pvalue > 1e-4, (known, atom)


def test_a_sample_has_the_same_bits_in_any_company_and_on_any_number_of_threads():
    flow, cond = random_flow(), conditioning("AA")
    variates = draw_variates(130, len(cond["order"]), torch.Generator().manual_seed(2))
    before, placing = torch.get_num_threads(), NativePlacing(flow, cond)
    try:
        torch.set_num_threads(1)
        x, log_q = placing(variates)
        torch.set_num_threads(3)
        for rows in (slice(0, 130), slice(0, 1), slice(50, 130), slice(129, 130), slice(0, 0)):
            part, log_prob = placing(type(variates)(*(v[rows] for v in variates)))
            assert torch.equal(part, x[rows])
            assert torch.equal(log_prob, log_q[rows])
    finally:
        torch.set_num_threads(before)


def test_the_flow_draws_by_the_kernel_and_knows_the_density():
    flow, cond = random_flow(), conditioning("AA")
    x, log_q = flow.sample_and_log_prob(40, cond, torch.Generator().manual_seed(1))
    model, double = exact(flow, cond)
    torch.testing.assert_close(
        model.log_prob(x.double(), double), log_q.double(), atol=1e-3, rtol=0
    )
    again, _ = flow.sample_and_log_prob(40, cond, torch.Generator().manual_seed(1))
    assert torch.equal(x, again)


@pytest.fixture
def fresh_build():
    """Nothing built is remembered, neither before nor after the test."""
    native_placing.library.cache_clear()
    yield
    native_placing.library.cache_clear()


def test_a_kernel_for_any_processor_gives_the_same(fresh_build, tmp_path, monkeypatch):
    flow, cond = random_flow("odd"), conditioning("PW")
    tuned, log_q = draws(flow, cond, 40)
    native_placing.library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "TUNINGS", ((),))
    x, log_prob = draws(flow, cond, 40)
    assert not torch.equal(x, tuned), "both are the same build"
    torch.testing.assert_close(x, tuned, atol=2e-5, rtol=0, equal_nan=True)
    closed = ~x.isnan().any(-1).any(-1)
    torch.testing.assert_close(log_prob[closed], log_q[closed], atol=2e-3, rtol=0)


def test_without_a_compiler_torch_draws_and_says_so(fresh_build, monkeypatch):
    monkeypatch.setenv("CC", "false")
    flow, cond = random_flow(), conditioning("AA")
    assert native_placing.kernel_status() == "torch: false failed: no message"
    assert not native_placing.fits(flow)
    x, log_q = Placing(flow, cond, 3).run(torch.Generator().manual_seed(0))
    expected = TorchPlacing(flow, cond, 3).run(torch.Generator().manual_seed(0))
    assert torch.equal(x, expected[0])
    assert torch.equal(log_q, expected[1])


@pytest.mark.parametrize("sizes", [{"pair_channels": 12}, {"channels": 36}, {"num_layers": 0}])
def test_sizes_that_the_kernel_does_not_know_are_left_to_torch(sizes):
    flow = InternalFlow(**{**SIZES["small"], **sizes}).requires_grad_(False)
    assert native_placing.fits(random_flow())
    assert not native_placing.fits(flow)
    assert not native_placing.fits(copy.deepcopy(random_flow()).double())
    x, log_q = flow.sample_and_log_prob(4, conditioning("AA"), torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.log_prob(x, conditioning("AA")), log_q, atol=2e-3, rtol=0)
