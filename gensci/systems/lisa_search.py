"""The best point of an observation, found from the prior and the data alone.

Masses, spins and time come first, by differential evolution (Storn & Price 1997) of a statistic in
which each channel has a free complex amplitude. Then the sky: at each position distance,
inclination, phase and polarisation follow from two linear amplitudes (Jaranowski, Krolak & Schutz
1998, arXiv gr-qc/9804014). Damped least squares finishes, from several skies that look alike. Every
waveform is counted.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from gensci.core.priors import BoxPrior, Prior
from gensci.sims.lisa import sky_images, to_ssb
from gensci.systems.lisa_heterodyne import Heterodyne, slopes
from gensci.systems.lisa_likelihood import HeterodynedLikelihood
from gensci.systems.lisa_observation import Observation

_COARSE, _FINE = 512, 128  # nodes
_LEVELS = torch.tensor([1e-2, 0.1, 1.0, 10.0], dtype=torch.float64)
_PROBE, _MOST_BEND = 0.1, 0.75
_GAIN, _IDLE = 1e-4, 2  # nats below which a step is idle, and idle steps that end a descent
_TIMES = 241
_DISTANCE, _COS, _PHASE, _LONGITUDE, _SINE, _POLARISATION, _TIME = 4, 5, 6, 7, 8, 9, 10
_DIRECTIONS = {
    _LONGITUDE: (0.0, 2 * math.pi), _SINE: (-1.0, 1.0), _POLARISATION: (0.0, math.pi)
}  # fmt: skip
_LIGHT_TIME = 505.0  # s from the barycentre to the constellation, and a little


def find_reference(
    observation: Observation,
    prior: Prior,
    generator: torch.Generator,
    *,
    population: int = 40,
    generations: int = 15,
    skies: int = 200,
    starts: int = 2,
) -> tuple[Tensor, int]:
    """Find the most likely point without knowing the truth.

    Args:
        observation: the data.
        prior: bounds of the search.
        generator: source of random numbers.
        population: points of the evolution.
        generations: of the evolution.
        skies: positions tried, two waveforms each.
        starts: skies from which a descent begins, and images of the best point from which another.

    Returns:
        (11,) the best point and the number of waveforms spent: about 2,200 with these settings.
    """
    effort = {"population": population, "generations": generations, "skies": skies}
    if observation.setting.frame == "ssb":
        setting = replace(observation.setting, frame="lisa")
        local = Observation(observation.data, setting, observation.window)
        theta, calls = find_reference(local, _in_lisa(prior), generator, starts=starts, **effort)
        start = _inside(prior, to_ssb(theta[None], setting.t_ref))[0]
        theta, _, spent = descend(observation, prior, start)
        return theta, calls + spent
    candidates, calls = _first_points(observation, prior, generator, **effort)
    descents = [descend(observation, prior, start, rounds=1) for start in candidates[:starts]]
    best = max(descents, key=lambda descent: descent[1])
    others, compared = _images(observation, prior, best[0], starts)
    descents += [descend(observation, prior, start, rounds=1) for start in others]
    best = max(descents, key=lambda descent: descent[1])
    theta, _, spent = descend(observation, prior, best[0])
    return theta, calls + compared + spent + sum(descent[2] for descent in descents)


def _in_lisa(prior: Prior) -> Prior:
    """Bounds in the constellation's frame: any direction, and the light's way to the barycentre."""
    low, high = prior.bounds.clone().unbind(1)
    for column, (first, last) in _DIRECTIONS.items():
        low[column], high[column] = first, last
    low[_TIME] -= _LIGHT_TIME
    high[_TIME] += _LIGHT_TIME
    return BoxPrior(prior.names, low, high, prior.periods)


def _first_points(
    observation: Observation,
    prior: Prior,
    generator: torch.Generator,
    population: int,
    generations: int,
    skies: int,
) -> tuple[Tensor, int]:
    """One point at each sky, the likeliest first, and the waveforms spent."""
    coarse = Heterodyne(observation, prior.bounds.mean(1), _COARSE)
    data = coarse.project(observation.data)
    source = _evolve(coarse, data, prior, generator, population, generations)
    return _skies(coarse, data, prior, source, skies), coarse.calls


def _images(
    observation: Observation, prior: Prior, theta: Tensor, number: int
) -> tuple[Tensor, int]:
    """The likeliest other skies that look alike at low frequency, and the waveforms spent."""
    images = _inside(prior, sky_images(theta[None])[1:, 0])
    likelihood = HeterodynedLikelihood(observation, theta, _FINE)
    order = likelihood(images).argsort(descending=True)
    return images[order[:number]], likelihood.calls


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
    observation: Observation, prior: Prior, start: Tensor, *, rounds: int = 2, steps: int = 12
) -> tuple[Tensor, float, int]:
    """Damped least squares from a point, the reference renewed every round.

    Steps bend along the valley of distance, inclination and sky (geodesic acceleration, Transtrum &
    Sethna 2012, arXiv 1201.5885); without that they crawl.

    Returns:
        (11,) the point, its log-likelihood in nats, and the waveforms spent.
    """
    theta, calls, value = start, 0, -math.inf
    for _ in range(rounds):
        likelihood = HeterodynedLikelihood(observation, theta, _FINE)
        damping, idle = 1e-3, 0
        value = float(likelihood(theta[None])[0])
        for _ in range(steps):
            trials = _bent_steps(likelihood, prior, theta, damping)
            found = likelihood(trials)
            place = int(found.argmax())
            gain = float(found[place]) - value
            idle = 0 if gain > _GAIN else idle + 1
            damping *= float(_LEVELS[place % len(_LEVELS)]) if gain > 0 else 1e3
            damping = max(damping, 1e-9)
            if gain > 0:
                theta, value = trials[place], value + gain
            if idle == _IDLE:
                break
        calls += likelihood.calls
    return theta, value, calls


def _bent_steps(
    likelihood: HeterodynedLikelihood, prior: Prior, theta: Tensor, damping: float
) -> Tensor:
    """Points (8, 11) to go to: four levels of damping, straight and bent; 16 waveforms."""
    residual = likelihood.residual(theta[None])
    slope = slopes(likelihood.residual, theta)
    likelihood.heterodyne.calls += len(theta) - 1
    scale = slope.norm(dim=0).clamp(min=1e-12)
    unit = slope / scale
    levels = damping * _LEVELS[:, None, None] * torch.eye(len(theta), dtype=theta.dtype)
    inverse = torch.linalg.inv(unit.T @ unit + levels)
    straight = -(inverse @ (unit.T @ residual[0]))
    ahead = likelihood.residual(_inside(prior, theta + _PROBE * straight / scale))
    curvature = 2 / _PROBE * ((ahead - residual) / _PROBE - straight @ unit.T)
    bend = -0.5 * (inverse @ (curvature @ unit)[..., None])[..., 0]
    # A bend as large as the step itself is beyond the second order that it comes from.
    share = bend.norm(dim=1) / straight.norm(dim=1).clamp(min=1e-300)
    bend = bend * (_MOST_BEND / share.clamp(min=_MOST_BEND))[:, None]
    return _inside(prior, theta + torch.cat([straight, straight + bend]) / scale)


def _inside(prior: Prior, theta: Tensor) -> Tensor:
    """Points wrapped into their periods and moved a hair inside the bounds."""
    low, high = prior.bounds.unbind(1)
    margin = 1e-6 * (high - low)
    return prior.wrap(theta).clamp(low + margin, high - margin)
