"""Gradients written by hand in the transformer against those of torch's own functions."""

import pytest
import torch
from torch.nn import functional as F

from gensci.nn.llama import FusedNorm, Norm, rotate


@pytest.mark.parametrize("shape", [(7, 6), (3, 4, 2, 16)])
def test_norm_and_its_gradients(shape):
    g = torch.Generator().manual_seed(0)
    x, out = (torch.randn(shape, dtype=torch.float64, generator=g) for _ in range(2))
    weight = torch.randn(shape[-1], dtype=torch.float64, generator=g)
    x, weight = x.requires_grad_(True), weight.requires_grad_(True)
    found = FusedNorm.apply(x, weight, 1e-3)
    wanted = F.rms_norm(x, shape[-1:], weight, 1e-3)
    torch.testing.assert_close(found, wanted)
    pairs = zip(
        torch.autograd.grad(found, (x, weight), out),
        torch.autograd.grad(wanted, (x, weight), out),
        strict=True,
    )
    for own, other in pairs:
        torch.testing.assert_close(own, other)


def test_norm_of_a_strided_input_under_autocast():
    """Queries are slices of a larger product, in half precision."""
    g = torch.Generator().manual_seed(1)
    whole = torch.randn(5, 3, 8, generator=g).bfloat16().requires_grad_(True)
    norm = Norm(8, 1e-6)
    wanted = F.rms_norm(whole[:, 1].float(), (8,), norm.weight, 1e-6)
    found = norm(whole[:, 1])
    torch.testing.assert_close(found, wanted)
    first, second = (torch.autograd.grad(y.square().sum(), whole)[0] for y in (found, wanted))
    torch.testing.assert_close(first, second)


def test_rotation_and_its_gradient():
    g = torch.Generator().manual_seed(2)
    x = torch.randn(2, 5, 3, 8, dtype=torch.float64, generator=g).requires_grad_(True)
    angle = torch.randn(5, 1, 4, dtype=torch.float64, generator=g)
    torch.autograd.gradcheck(lambda u: rotate(u, angle.cos(), angle.sin()), (x,))
    pairs = torch.view_as_complex(torch.stack(x.chunk(2, -1), -1)) * torch.polar(
        torch.ones_like(angle), angle
    )
    wanted = torch.cat((pairs.real, pairs.imag), -1)
    torch.testing.assert_close(rotate(x, angle.cos(), angle.sin()), wanted)
