"""The best point of data with glitches: pulses are taken out one by one between descents.

The Gaussian likelihood takes glitches for signal and ends tens of standard deviations away. Pulses
louder than a falling threshold are therefore subtracted from what the best binary leaves (matched
pursuit, Mallat & Zhang 1993, doi:10.1109/78.258082), and the binary is sought again in the rest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gensci.core.priors import Prior
from gensci.systems.lisa_noise import Glitches, TimeGrid
from gensci.systems.lisa_observation import Observation
from gensci.systems.lisa_search import descend, find_reference

_DECAYS = 10
_MOST = 200
_FLOORS = (60.0, 30.0, 15.0, 9.0)  # SNR; below nine, noise makes pulses of its own


def find_among_glitches(
    observation: Observation, prior: Prior, kind: Glitches, generator: torch.Generator
) -> tuple[Tensor, Observation, int]:
    """Find a binary and the glitches beside it from the data alone.

    Args:
        observation: the data.
        prior: bounds of the search.
        kind: arrivals and decays that glitches can have.
        generator: source of random numbers.

    Returns:
        (11,) the best point, the data without the glitches that were found, and the waveforms
        spent, about 5,000. The point is a good reference; the cleaned data are no data to infer
        from, for what glitches hid stays hidden.
    """
    theta, calls = find_reference(observation, prior, generator)
    cleaned = observation
    for number, floor in enumerate(_FLOORS):
        cleaned = without_glitches(observation, theta, kind, floor)
        # The first point can be in a wrong place altogether.
        if number == 0:
            theta, spent = find_reference(cleaned, prior, generator)
        else:
            theta, _, spent = descend(cleaned, prior, theta)
        calls += 1 + spent
    return theta, cleaned, calls


def without_glitches(
    observation: Observation, theta: Tensor, kind: Glitches, floor: float
) -> Observation:
    """The data less the pulses above an SNR that are left beside a binary (11,); one waveform."""
    setting, frequencies = observation.setting, observation.frequencies
    grid = TimeGrid.of(setting)
    share = torch.linspace(0.0, 1.0, _DECAYS, dtype=torch.float64)
    decays = kind.decays(share)
    rest = observation.data - setting.strain(theta[None], frequencies)[0]
    first, last = (round(time / grid.step) for time in (kind.begin, kind.end))
    arrivals = torch.arange(first, last)
    # Of SNR one in the first channel; a channel of other noise has its own scale.
    shapes = kind.spectra(torch.zeros_like(decays), decays, setting)
    weight = observation.whitening.square()
    power = (weight[:, None] * shapes.abs().square()).sum(-1)
    found = torch.zeros_like(rest)
    for _ in range(_MOST):
        overlap = _overlaps(weight * (rest - found), shapes, setting.first_bin, grid.size)
        overlap = overlap[..., torch.remainder(arrivals, grid.size)]
        loudness = (overlap.square() / power[..., None]).sum(0)
        decay, place = divmod(int(loudness.argmax()), len(arrivals))
        if float(loudness[decay, place]) < floor**2:
            break
        arrival = (arrivals[place] * grid.step).to(torch.float64)[None]
        pulse = kind.spectra(arrival, decays[decay : decay + 1], setting)[0]
        found = found + (overlap[:, decay, place] / power[:, decay])[:, None] * pulse
    return Observation(observation.data - found, setting, observation.window)


def _overlaps(weighted: Tensor, shapes: Tensor, first_bin: int, size: int) -> Tensor:
    """Inner products (c, b, N) of weighted data (c, M) with pulses (b, M) at every arrival."""
    padded = torch.zeros(len(weighted), len(shapes), size, dtype=weighted.dtype)
    stop = first_bin + weighted.shape[1]
    padded[..., first_bin:stop] = weighted[:, None] * shapes.conj()
    return torch.fft.fft(padded).real
