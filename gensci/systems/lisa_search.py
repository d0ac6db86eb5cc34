"""The best point of an observation, found from the prior and the data alone.

Masses, spins and time come first, by differential evolution (Storn & Price 1997) of a statistic in
which each channel has a free complex amplitude. Then the sky: at each position distance,
inclination, phase and polarisation follow from two linear amplitudes (Jaranowski, Krolak & Schutz
1998, arXiv gr-qc/9804014). Levenberg's damped least squares finishes. Every waveform is counted.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gensci.core.priors import Prior
from gensci.systems.lisa_heterodyne import Heterodyne, slopes
from gensci.systems.lisa_likelihood import HeterodynedLikelihood
from gensci.systems.lisa_observation import Observation

_COARSE = 512
_TIMES = 241
_DISTANCE, _COS, _PHASE, _LONGITUDE, _SINE, _POLARISATION, _TIME = 4, 5, 6, 7, 8, 9, 10
_AMPLITUDES = (_DISTANCE, _COS, _PHASE, _POLARISATION)


def find_reference(
    observation: Observation,
    prior: Prior,
    generator: torch.Generator,
    *,
    population: int = 40,
    generations: int = 15,
    skies: int = 200,
    starts: int = 3,
) -> tuple[Tensor, int]:
    """Find the most likely point without knowing the truth.

    Args:
        observation: the data.
        prior: bounds of the search.
        generator: source of random numbers.
        population: points of the evolution.
        generations: of the evolution.
        skies: positions tried, two waveforms each.
        starts: skies from which the last descent begins.

    Returns:
        (11,) the best point and the number of waveforms spent.
    """
    centre = prior.bounds.mean(1)
    coarse = Heterodyne(observation, centre, _COARSE)
    data = coarse.project(observation.data)
    source = _evolve(coarse, data, prior, generator, population, generations)
    candidates = _skies(coarse, data, prior, source, skies)[:starts]
    calls, best, highest = coarse.calls, source, -math.inf
    for start in candidates:
        theta, value, spent = descend(observation, prior, start)
        calls += spent
        if value > highest:
            best, highest = theta, value
    return best, calls


def _evolve(
    coarse: Heterodyne,
    data: Tensor,
    prior: Prior,
    generator: torch.Generator,
    size: int,
    steps: int,
) -> Tensor:
    """Masses, spins and time of the loudest carrier, the other columns at the prior's centre."""
    low, high = prior.bounds.unbind(1)
    members = prior.sample(size, generator)
    members[:, 4:] = prior.bounds.mean(1)[4:]
    score, times = _carrier_statistic(coarse, data, members, low[_TIME], high[_TIME])
    for _ in range(steps):
        picks = torch.rand(size, size, generator=generator).argsort(1)[:, :2]
        best = members[score.argmax()]
        trial = (
            members + 0.6 * (best - members) + 0.6 * (members[picks[:, 0]] - members[picks[:, 1]])
        )
        keep = torch.rand(size, prior.dim, generator=generator) < 0.2
        trial = torch.where(keep, members, trial)
        trial = torch.where(
            (trial < low) | (trial > high), 0.5 * (members + trial.clamp(low, high)), trial
        )
        new, arrival = _carrier_statistic(coarse, data, trial, low[_TIME], high[_TIME])
        better = new > score
        members = torch.where(better[:, None], trial, members)
        score, times = torch.where(better, new, score), torch.where(better, arrival, times)
    source = members[score.argmax()].clone()
    source[_TIME] = times[score.argmax()]
    return source


def _carrier_statistic(
    coarse: Heterodyne, data: Tensor, theta: Tensor, first: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Best power over arrival times with a free complex amplitude in each channel, and its time."""
    channels = coarse.node_values(theta)  # direction-dependent, but smooth: only its shape is used
    shape = channels / channels.abs().amax(-1, keepdim=True)
    shifts = torch.linspace(float(first), float(last), _TIMES, dtype=torch.float64)
    turns = torch.polar(
        torch.ones(_TIMES, coarse.basis.size, dtype=torch.float64),
        2 * math.pi * shifts[:, None] * coarse.basis.nodes,
    )
    power = coarse.whiten(shape).abs().square().sum(-1)
    # <L g | d> = g^dagger L^T d: the data are brought to the nodes once.
    lower = coarse.whiten(
        torch.eye(coarse.basis.size, dtype=data.dtype)[:, None].expand(-1, len(data), -1)
    )
    at_nodes = torch.einsum("jck,ck->cj", lower.conj(), data)
    overlap = torch.einsum("ncj,tj->nct", shape.conj() * at_nodes, turns.conj())
    value, place = (overlap.abs().square() / power[..., None]).sum(1).max(1)
    return value, theta[:, _TIME] + shifts[place]


def _skies(coarse: Heterodyne, data: Tensor, prior: Prior, source: Tensor, number: int) -> Tensor:
    """Whole points at each sky position, the most likely first; two waveforms each."""
    index = torch.arange(number, dtype=torch.float64) + 0.5
    points = source.repeat(2, number, 1)
    points[:, :, _SINE] = 1.0 - 2.0 * index / number
    points[:, :, _LONGITUDE] = torch.remainder(
        index * math.pi * (3.0 - math.sqrt(5.0)), 2 * math.pi
    )
    points[:, :, _COS], points[:, :, _PHASE] = 0.0, 0.0
    points[0, :, _POLARISATION], points[1, :, _POLARISATION] = 0.0, 0.25 * math.pi
    waves = coarse.coordinates(points.reshape(-1, prior.dim)).reshape(2, number, -1)
    gram = torch.einsum("ani,bni->nab", waves.conj(), waves)
    overlap = torch.einsum("ani,i->na", waves.conj(), data.flatten())
    factors = torch.linalg.solve(gram, overlap)
    power = (overlap.conj() * factors).real.sum(1)
    # Edge-on, polarisation 0 and pi/4 are the plus and the cross wave; circular ones follow.
    right, left = factors[:, 0] - 1j * factors[:, 1], factors[:, 0] + 1j * factors[:, 1]
    roots = right.abs().sqrt(), left.abs().sqrt()
    whole = points[0].clone()
    whole[:, _COS] = (roots[0] - roots[1]) / (roots[0] + roots[1])
    whole[:, _DISTANCE] = source[_DISTANCE] * 4.0 / (roots[0] + roots[1]).square()
    whole[:, _PHASE] = 0.25 * (right.angle() + left.angle())
    whole[:, _POLARISATION] = 0.25 * (left.angle() - right.angle())
    return _inside(prior, whole)[power.argsort(descending=True)]


def descend(
    observation: Observation, prior: Prior, start: Tensor, *, rounds: int = 2, steps: int = 8
) -> tuple[Tensor, float, int]:
    """Damped least squares (Levenberg 1944) from a point, the reference renewed every round.

    Returns:
        (11,) the point, its log-likelihood in nats, and the waveforms spent.
    """
    theta, calls, value = start, 0, -math.inf
    for _ in range(rounds):
        likelihood = HeterodynedLikelihood(observation, theta, 128)
        damping = 1e-3
        value = float(likelihood(theta[None])[0])
        for _ in range(steps):
            residual = likelihood.residual(theta[None])[0]
            slope = slopes(likelihood.residual, theta)
            likelihood.heterodyne.calls += len(theta) - 1
            scale = slope.norm(dim=0).clamp(min=1e-12)
            normal = (slope / scale).T @ (slope / scale)
            pull = (slope / scale).T @ residual
            levels = damping * torch.tensor([0.1, 1.0, 10.0, 1e3], dtype=torch.float64)
            unit = torch.eye(len(theta), dtype=torch.float64)
            moves = [torch.linalg.solve(normal + level * unit, pull) / scale for level in levels]
            trials = _inside(prior, theta - torch.stack(moves))
            found = likelihood(trials)
            place = int(found.argmax())
            if not float(found[place]) > value + 1e-6:
                damping *= 1e3
                continue
            damping = float(levels[place].clamp(min=1e-9))
            theta, value = trials[place], float(found[place])
        calls += likelihood.calls
    return theta, value, calls


def _inside(prior: Prior, theta: Tensor) -> Tensor:
    """Points wrapped into their periods and moved a hair inside the bounds."""
    low, high = prior.bounds.unbind(1)
    margin = 1e-6 * (high - low)
    return prior.wrap(theta).clamp(low + margin, high - margin)
