"""Where diffusion heads and solvers meet: the denoiser, and grids of noise levels.

Noise is additive: ``x = x0 + sigma * eps`` with standard normal ``eps`` in each of the three
coordinates of a row. Rows are independent of each other and may be of different kinds, each with
noise levels of its own: a lattice vector in Euclidean space, a fractional coordinate on the torus
[0, 1)^3. On the torus the noisy density is the wrapped one, and the denoised point is told as
``x + displacement`` with ``displacement = sigma^2 * grad log p_sigma(x)``, so the same differential
equation, ``dx / dsigma = (x - D(x, sigma)) / sigma``, holds for both kinds.

Reference: Karras, Aittala, Aila and Laine (2022), arXiv:2206.00364; on the torus: Jing, Corso,
Chang, Barzilay and Jaakkola (2022), arXiv:2206.01729.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch

from gensci.core.errors import UsageError


@runtime_checkable
class Denoiser(Protocol):
    """A batch of n conditional distributions of 3-vectors, known by their denoisers.

    An optional capability, found by attribute: ``ddpm``, a :class:`DiscreteDiffusion`, for heads
    trained on discrete variance-preserving steps.
    """

    @property
    def sigma_range(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The smallest and the largest noise level of each row, (n,) each, positive."""
        ...

    def denoise(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """Return (n, 3) estimates of ``E[x0 | x]``; on the torus ``x + displacement``.

        Args:
            x: (n, 3) noisy points; the displacement of torus rows is periodic in it.
            sigma: (n,) noise levels, within ``sigma_range``.
        """
        ...

    def prior(self, generator: torch.Generator) -> torch.Tensor:
        """Return an (n, 3) draw at the largest noise level."""
        ...

    def prior_log_prob(self, x: torch.Tensor) -> torch.Tensor:
        """Return the (n,) log-density that :meth:`prior` draws from, in nats."""
        ...

    def wrap(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` with torus rows taken modulo 1 and the others unchanged."""
        ...


@runtime_checkable
class DiscreteDiffusion(Protocol):
    """A head trained on T steps of ``x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps``.

    Reference: Ho, Jain and Abbeel (2020), arXiv:2006.11239; learned variances: Nichol and Dhariwal
    (2021), arXiv:2102.09672.
    """

    @property
    def betas(self) -> torch.Tensor:
        """The (T,) float64 variances of the forward steps."""
        ...

    def noise_and_log_variance(
        self, x: torch.Tensor, t: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the estimated noise and the log-variance of the reverse step, (n, 3) each.

        Args:
            x: (n, 3) points of step ``t``, variance-preserving.
            t: (n,) int64 steps, from 0 to T - 1.
        """
        ...


def karras_sigmas(
    low: torch.Tensor,
    high: torch.Tensor,
    steps: int,
    rho: float = 7.0,
    *,
    to_zero: bool = True,
) -> torch.Tensor:
    """Return falling noise levels, equally spaced in ``sigma ** (1 / rho)``, for every row.

    Args:
        low: (n,) smallest noise levels, positive.
        high: (n,) largest noise levels.
        steps: how many steps to take.
        rho: how far the levels crowd near the smallest.
        to_zero: the last of the steps goes from ``low`` to zero; otherwise it ends at ``low``.

    Returns:
        (steps + 1, n) levels in the type of ``high``, from ``high`` to zero or ``low``.

    Raises:
        UsageError: ``steps`` is below one, or ``rho`` is not positive.

    Reference: Karras, Aittala, Aila and Laine (2022), arXiv:2206.00364, equation 5.
    """
    if not rho > 0.0:
        raise UsageError(f"rho={rho} bends no noise schedule", "give a positive number")
    time = _times(high, steps, to_zero)
    start, end = high.double() ** (1.0 / rho), low.double() ** (1.0 / rho)
    return _finish(torch.lerp(start, end, time) ** rho, low, high, to_zero)


def log_uniform_sigmas(
    low: torch.Tensor, high: torch.Tensor, steps: int, *, to_zero: bool = True
) -> torch.Tensor:
    """Return falling noise levels, equally spaced in ``log sigma``: equal steps of log-SNR.

    Arguments, result and errors are those of :func:`karras_sigmas`.

    Reference: Lu, Zhou, Bao, Chen, Li and Zhu (2022), arXiv:2211.01095.
    """
    time = _times(high, steps, to_zero)
    levels = torch.lerp(high.double().log(), low.double().log(), time).exp()
    return _finish(levels, low, high, to_zero)


def _times(like: torch.Tensor, steps: int, to_zero: bool) -> torch.Tensor:
    """Return the (levels, 1) share of the way from the largest to the smallest level."""
    if steps < 1:
        raise UsageError(f"num_steps={steps} leaves no noise schedule", "give at least 1")
    count = steps - 1 if to_zero else steps
    time = torch.arange(count + 1, dtype=torch.float64, device=like.device)
    return (time / max(count, 1))[:, None]


def _finish(
    levels: torch.Tensor, low: torch.Tensor, high: torch.Tensor, to_zero: bool
) -> torch.Tensor:
    """Return the levels with exact ends, and the final zero if it is asked for."""
    levels[0] = high
    if levels.shape[0] > 1:
        levels[-1] = low
    if to_zero:
        levels = torch.cat([levels, torch.zeros_like(levels[:1])])
    return levels.to(high.dtype)
