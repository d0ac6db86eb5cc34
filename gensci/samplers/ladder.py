"""Ladders of inverse temperatures: their choice, exchanges along them, and the evidence."""

from __future__ import annotations

import math

import torch

from gensci.core.weights import LogZ

MAX_TEMPERATURES = 24
NUM_BLOCKS = 16
"""Blocks of draws whose estimates of log Z tell its error."""


def choose_ladder(stages: torch.Tensor, num_temperatures: int | None) -> torch.Tensor:
    """Return inverse temperatures from 1 down to the first stage, (T,) float64.

    Stages that an adaptive schedule made are equally far apart, so every second one exchanges
    about a quarter of the walkers with the next, which is the best known share.

    Args:
        stages: (k,) rising from 0 to 1.
        num_temperatures: how many; None for what the stages ask.

    Reference: Kone and Kofke (2005), doi:10.1063/1.1917749, for the share.
    """
    count = num_temperatures or min(len(stages) // 2 + 1, MAX_TEMPERATURES)
    if count == 1:
        return torch.ones(1, dtype=torch.float64)
    places = torch.linspace(len(stages) - 1.0, 0.0, count, dtype=torch.float64)
    below = places.floor().long().clamp(max=len(stages) - 2)
    share = places - below
    # Between stages the temperature is interpolated in its logarithm, but for the first, at 0.
    low, high = stages[below], stages[below + 1]
    smooth = (low.clamp(min=1e-300).log() * (1 - share) + high.log() * share).exp()
    return torch.where(low > 0, smooth, share * high).clamp(0.0, 1.0)


def geometric_ladder(smallest: float, num_temperatures: int) -> torch.Tensor:
    """Return inverse temperatures from 1 to ``smallest`` in equal ratios, then 0."""
    count = num_temperatures
    if count <= 2:
        return torch.tensor([1.0, 0.0][:count], dtype=torch.float64)
    powers = torch.linspace(0.0, 1.0, count - 1, dtype=torch.float64)
    return torch.cat((smallest**powers, torch.zeros(1, dtype=torch.float64)))


def adapted_ladder(beta: torch.Tensor, rate: torch.Tensor, gain: float) -> torch.Tensor:
    """Return the ladder moved toward equal exchange rates; its ends stay.

    Args:
        beta: (T,) inverse temperatures from 1 to 0 or above.
        rate: (T - 1,) share of exchanges accepted between neighbours.
        gain: how far to go.

    Reference: Vousden, Farr and Mandel (2016), arXiv:1501.05823.
    """
    if len(beta) < 3:
        return beta
    temperature = 1.0 / beta[:-1]
    gap = torch.log(temperature[1:] - temperature[:-1]) + gain * (rate[:-1] - rate[1:])
    inner = 1.0 + gap.exp().cumsum(0)
    if beta[-1] > 0:
        # A finite end stays by scaling all gaps, which keeps their ratios.
        last = gap[-1].exp() + 1.0 / beta[-1] - temperature[-1]
        scale = (1.0 / beta[-1] - 1.0) / (inner[-1] - 1.0 + last)
        inner = 1.0 + scale * (inner - 1.0)
    return torch.cat((beta[:1], 1.0 / inner, beta[-1:]))


def exchanges(
    beta: torch.Tensor, log_ratio: torch.Tensor, parity: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which walkers go where when every second pair of neighbours exchanges.

    Pairs alternate from step to step, so that walkers travel instead of diffusing.

    Args:
        beta: (T,) inverse temperatures.
        log_ratio: (T, W) rate at which the log-density of each walker grows with ``beta``.
        parity: 0 for the pairs (0, 1), (2, 3), ...; 1 for (1, 2), (3, 4), ...
        generator: the source of randomness.

    Returns:
        (T, W) the temperature each place takes its walker from, and (T - 1,) the mean acceptance
        of each pair, NaN for those not tried.

    Reference: Syed, Bouchard-Cote, Deligiannidis and Doucet (2022), arXiv:1905.02939.
    """
    count, walkers = log_ratio.shape
    source = torch.arange(count)[:, None].expand(count, walkers).clone()
    rate = torch.full((count - 1,), math.nan, dtype=torch.float64)
    cold = torch.arange(parity, count - 1, 2)
    if not cold.numel():
        return source, rate
    gain = (beta[cold] - beta[cold + 1])[:, None] * (log_ratio[cold + 1] - log_ratio[cold])
    probability = torch.nan_to_num(gain, nan=-math.inf).clamp(max=0.0).exp()
    dice = torch.rand(probability.shape, generator=generator, dtype=torch.float64)
    swap = (dice < probability).long()
    source[cold] += swap
    source[cold + 1] -= swap
    rate[cold] = probability.mean(1)
    return source, rate


def bridge(hot: torch.Tensor, cold: torch.Tensor, step: float) -> float:
    """Return log Z of the colder density over the hotter one, by the optimal bridge.

    Args:
        hot: (m,) growth rates of draws at the hotter temperature; -inf for zero density.
        cold: (m,) those of as many draws at the colder one.
        step: difference of the inverse temperatures.

    Reference: Bennett (1976), doi:10.1016/0021-9991(76)90078-4; Meng and Wong (1996).
    """
    hot, cold = step * hot, step * cold
    finite = torch.cat((hot[torch.isfinite(hot)], cold))
    # The two sums of logistic terms cross once, and between the extremes; lower where many of the
    # hotter draws have no density.
    share = max(torch.isfinite(hot).double().mean().item(), 0.5 / len(hot))
    low, high = finite.min().item() + math.log(share), finite.max().item()
    for _ in range(60):
        middle = 0.5 * (low + high)
        excess = torch.sigmoid(hot - middle).mean() - torch.sigmoid(middle - cold).mean()
        low, high = (middle, high) if excess > 0 else (low, middle)
        if high - low < 1e-10 * (1.0 + abs(high)):
            break
    return 0.5 * (low + high)


def bridged_log_z(log_ratio: torch.Tensor, beta: torch.Tensor) -> float:
    """Return log Z at the first temperature over that at the last; see :func:`evidence`."""
    return sum(
        bridge(
            log_ratio[:, t + 1].flatten(),
            log_ratio[:, t].flatten(),
            (beta[t] - beta[t + 1]).item(),
        )
        for t in range(len(beta) - 1)
    )


def evidence(log_ratio: torch.Tensor, beta: torch.Tensor) -> LogZ:
    """Return log Z at the first temperature over that at the last, and its standard error.

    The error is that of the jackknife over blocks: of time, so that draws which follow each other
    are left out together, and of walkers; the larger one counts.

    Args:
        log_ratio: (m, T, W) growth rates of the log-density with the inverse temperature, of the
            walkers kept at m times.
        beta: (T,) inverse temperatures, falling.
    """
    value = bridged_log_z(log_ratio, beta)
    errors = [_jackknife(log_ratio, beta, dim) for dim in (0, 2)]
    return LogZ(value, max(errors))


def _jackknife(log_ratio: torch.Tensor, beta: torch.Tensor, dim: int) -> float:
    size = log_ratio.shape[dim]
    count = min(NUM_BLOCKS, size)
    if count < 4:
        return 0.0
    block = torch.arange(size) * count // size
    left_out = torch.tensor(
        [
            bridged_log_z(log_ratio.index_select(dim, (block != b).nonzero()[:, 0]), beta)
            for b in range(count)
        ],
        dtype=torch.float64,
    )
    return math.sqrt((count - 1) * left_out.var(correction=0).item())
