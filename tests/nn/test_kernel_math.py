"""Functions that C kernels compute side by side, against NumPy and SciPy in double precision."""

import ctypes
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import torch

import gensci.nn
from gensci.core import compiler
from gensci.core.compiler import NoKernel, load_kernel

HEADER = Path(gensci.nn.__file__).with_name("kernel_math.h")
ONE_ARGUMENT = "reciprocal reciprocal_root root exponential logarithm hyperbolic_tangent".split()
ONE_ARGUMENT += "log_bessel silu gelu".split()
CALLS = "".join(
    f"void run_{name}(const vec *x, vec *y, long n)"
    f"{{ for (long i = 0; i < n / WIDTH; i++) y[i] = {name}(x[i]); }}\n"
    for name in [*ONE_ARGUMENT, "sine", "cosine"]
)
SOURCE = f"""#include "{HEADER}"
static vec sine(vec x) {{ vec s, c; sine_cosine(x, &s, &c); return s; }}
static vec cosine(vec x) {{ vec s, c; sine_cosine(x, &s, &c); return c; }}
{CALLS}
void run_product(const float *w, const float *bias, const vec *in, vec *out)
{{ product(w, bias, in, out, 37, 2 * ROWS, 3, 1); }}
void run_normalise(const vec *in, vec *out, const float *scale, const float *shift)
{{ normalise(in, out, scale, shift, 24); }}
"""


@pytest.fixture(scope="module", params=["tuned", "untuned"])
def kernel(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "math.c").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        if request.param == "untuned":
            patch.setattr(compiler, "TUNINGS", ((),))
        try:
            return load_kernel(folder / "math.c")
        except NoKernel as reason:
            pytest.skip(str(reason))


def gelu(x):
    return x * scipy.special.ndtr(x)


CASES = {  # function, arguments, relative and absolute error that are allowed
    "reciprocal": (np.reciprocal, np.geomspace(1e-30, 1e30, 4096), 3e-7, 0),
    "reciprocal_root": (lambda x: x**-0.5, np.geomspace(1e-30, 1e30, 4096), 4e-7, 0),
    "root": (np.sqrt, np.concatenate(([0.0] * 16, np.geomspace(1e-28, 1e30, 4080))), 4e-7, 1e-15),
    "exponential": (np.exp, np.linspace(-86, 87, 4096), 3e-7, 0),
    "logarithm": (np.log, np.geomspace(1e-37, 1e37, 4096), 2e-7, 1e-7),
    "hyperbolic_tangent": (np.tanh, np.linspace(-100, 100, 4096), 0, 4e-7),
    "log_bessel": (
        lambda x: np.log(scipy.special.i0e(x)),
        np.geomspace(1e-4, 7e4, 4096),
        2e-7,
        4e-7,
    ),
    "silu": (lambda x: x * scipy.special.expit(x), np.linspace(-100, 100, 4096), 4e-7, 1e-7),
    "gelu": (gelu, np.linspace(-20, 20, 4096), 4e-7, 1e-7),
    "sine": (np.sin, np.linspace(-30, 30, 4096), 0, 2e-7),
    "cosine": (np.cos, np.linspace(-30, 30, 4096), 0, 2e-7),
}


def address(tensor):
    return ctypes.c_void_p(tensor.data_ptr())


@pytest.mark.parametrize("name", CASES)
def test_functions_are_those_of_numpy(kernel, name):
    function, points, relative, absolute = CASES[name]
    x = torch.as_tensor(points, dtype=torch.float32)
    y = torch.empty_like(x)
    getattr(kernel, f"run_{name}")(address(x), address(y), ctypes.c_long(len(x)))
    expected = function(x.double().numpy())
    np.testing.assert_allclose(y.double().numpy(), expected, rtol=relative, atol=absolute)


def test_products_add_to_rows_apart(kernel):
    generator = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(16, 37, generator=generator), torch.randn(16, generator=generator)
    x, out = torch.randn(37, 32, generator=generator), torch.randn(48, 32, generator=generator)
    expected = out.double().clone()
    expected[::3] += weight.double() @ x.double() + bias.double()[:, None]
    panels = weight.unflatten(0, (2, 8)).transpose(1, 2).contiguous()
    kernel.run_product(*(address(t) for t in (panels, bias, x, out)))
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=0)


def test_norm_is_that_of_torch(kernel):
    generator = torch.Generator().manual_seed(1)
    x = 3 + 2 * torch.randn(24, 32, generator=generator)
    scale, shift = torch.randn(2, 24, generator=generator)
    out = torch.empty_like(x)
    kernel.run_normalise(*(address(t) for t in (x, out, scale.contiguous(), shift.contiguous())))
    rows = (t.double() for t in (x.T, scale, shift))
    first, *affine = rows
    expected = torch.nn.functional.layer_norm(first, (24,), *affine).T
    torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)
