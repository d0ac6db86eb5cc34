"""The frozen head, by the C kernel and by torch, against the head itself."""

import copy

import pytest
import torch

from gensci.nn import native_edm_head
from gensci.nn.edm_denoiser import SlotDenoiser
from gensci.nn.edm_head import TORUS, EdmHead
from gensci.nn.frozen_edm_head import MOST_LEVELS, FrozenHead
from gensci.samplers.solvers.base import make_solver

KERNEL = [
    False,
    pytest.param(
        True,
        marks=pytest.mark.skipif(
            isinstance(native_edm_head.library(), str), reason="no C compiler"
        ),
    ),
]


@pytest.fixture(scope="module", params=[0.0, 0.3])
def head(request):
    torch.manual_seed(0)
    head = EdmHead(condition=16, width=64, depth=2, damping=request.param)
    for weight in head.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    return head.requires_grad_(False)


def slots(head, n, seed=1):
    g = torch.Generator().manual_seed(seed)
    z, hint = torch.randn(n, 16, generator=g), torch.randn(n, 3, generator=g)
    torus, hinted = (torch.rand(n, generator=g) < 0.5 for _ in range(2))
    c = head.condition(z, torus, hint * hinted.unsqueeze(-1), hinted)
    x = torch.randn(n, 3, generator=g) * torch.where(torus, 1.0, 9.0).unsqueeze(-1)
    sigma = torch.tensor([0.001, 0.03, 0.8, 0.2])[torch.arange(n) % 4]
    return x, torch.where(torus, sigma, 20 * sigma), c


def denoise(frozen, x, sigma, c):
    return frozen.denoise(x, sigma, c, tuple(c.torus.squeeze(-1).tolist()))


@pytest.mark.parametrize("native", KERNEL)
@pytest.mark.parametrize("n", [1, 7, 64, 150])
def test_denoises_as_the_head(head, native, n):
    x, sigma, c = slots(head, n)
    frozen = FrozenHead(head, native)
    assert (frozen.kernel is not None) == native
    wanted = head.double().denoise(x.double(), sigma.double(), _double(c))
    head.float()
    found = denoise(frozen, x, sigma, c)
    # Relative to the largest step that the head can take, and the rounding of the sum.
    step = torch.where(c.torus, sigma.clamp(max=0.3).unsqueeze(-1), 1.0)
    assert ((found - wanted).abs() < 1e-4 * step + 2e-7 * (1 + x.abs())).all()


def _double(c):
    return type(c)(*(v.double() if v.is_floating_point() else v for v in c))


@pytest.mark.parametrize("native", KERNEL)
def test_rows_do_not_depend_on_their_company(head, native):
    x, sigma, c = slots(head, 70)
    frozen = FrozenHead(head, native)
    together = denoise(frozen, x, sigma, c)
    for k in (0, 3, 69):
        one = slice(k, k + 1)
        alone = denoise(frozen, x[one], sigma[one], type(c)(*(v[one] for v in c)))
        torch.testing.assert_close(alone, together[one], rtol=0, atol=0 if native else 1e-5)


@pytest.mark.skipif(isinstance(native_edm_head.library(), str), reason="no C compiler")
def test_threads_change_no_bit(head):
    x, sigma, c = slots(head, 70)
    frozen = FrozenHead(head)
    alone = denoise(frozen, x, sigma, c)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(denoise(frozen, x, sigma, c), alone)
    finally:
        torch.set_num_threads(threads)


def test_more_levels_than_are_kept(head):
    n = MOST_LEVELS + 9
    x, _, c = slots(head, n)
    sigma = torch.linspace(0.01, 0.8, n)
    frozen = FrozenHead(head)
    for order in (torch.arange(n), torch.arange(n).flip(0), torch.arange(20)):
        part = type(c)(*(v[order] for v in c))
        found = denoise(frozen, x[order], sigma[order], part)
        wanted = head.denoise(x[order], sigma[order], part)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def calm(head):
    """A head whose flow is not chaotic: little of the highest octaves."""
    torch.manual_seed(0)
    calm = copy.deepcopy(head)
    calm.enter.weight.mul_(0.01)
    return calm


@pytest.mark.parametrize("name", ["dpm-solver++", "heun"])
def test_solves_as_the_head(calm, name):
    head = calm
    _, _, c = slots(head, 24)
    solver = make_solver(name, {"num_steps": 8})
    found, wanted = (
        solver.solve(SlotDenoiser(one, c), torch.Generator().manual_seed(0))
        for one in (FrozenHead(head), head)
    )
    gap = found - wanted
    gap = torch.where(c.torus, gap - gap.round(), gap)
    assert gap.abs().max() < 1e-3


def test_density_is_that_of_the_head(calm):
    head = calm
    x, _, c = slots(head, 6)
    solver = make_solver("flow-ode", {"num_steps": 4})
    found, wanted = (
        solver.log_prob(SlotDenoiser(one, c), x * 0.1) for one in (FrozenHead(head), head)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


def test_damping_hides_octaves_that_noise_drowns():
    """An eighth of the cell is nothing where noise fills it, and all is told where it is low."""
    torch.manual_seed(0)
    head = EdmHead(condition=16, width=64, depth=2)
    torch.nn.init.normal_(head.leave.weight)
    c = head.condition(torch.randn(8, 16), torch.ones(8, dtype=torch.bool))
    x = torch.rand(8, 3)

    def change(sigma, damping):
        head.damping, noise = damping, torch.full((8,), sigma)
        level = head.by_level(noise, c.torus)
        return head.raw(x + 1 / 8, noise, c, level) - head.raw(x, noise, c, level)

    assert change(TORUS.high, 1.0).norm() < 0.02 * change(TORUS.high, 0.0).norm()
    low = 0.01 * TORUS.low
    torch.testing.assert_close(change(low, 1.0), change(low, 0.0), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("native", KERNEL)
@pytest.mark.parametrize("name", ["dpm-solver++", "heun", "ddim", "flow-ode"])
def test_no_slots_are_solved_to_none(head, native, name):
    """As a molecule of one atom has none in its own frame."""
    _, _, c = slots(head, 0)
    solver = make_solver(name, {"num_steps": 2})
    found = solver.solve(SlotDenoiser(FrozenHead(head, native), c), torch.Generator())
    assert found.shape == (0, 3)
    if name == "flow-ode":
        assert solver.log_prob(SlotDenoiser(FrozenHead(head, native), c), found).shape == (0,)
