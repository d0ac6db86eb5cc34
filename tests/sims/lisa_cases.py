"""Binaries, the stored responses of lisabeta, and measures that LISA's tests share."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from gensci.sims import lisa
from gensci.sims.lisa.constants import SOLAR_MASS_SECONDS

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures"

LOW = (math.log(5e5), 1.0, -1.0, -1.0, 1e3, -1.0, 0.0, 0.0, -1.0, 0.0, -600.0)
HIGH = (math.log(3e6), 10.0, 1.0, 1.0, 2e5, 1.0, 2 * math.pi, 2 * math.pi, 1.0, math.pi, 600.0)


def binaries(n, seed=0):
    """Random rows within the ranges of massive black holes, (n, 11)."""
    generator = torch.Generator().manual_seed(seed)
    low, high = torch.tensor([LOW, HIGH], dtype=torch.float64)
    return low + (high - low) * torch.rand(n, 11, generator=generator, dtype=torch.float64)


def band(nodes=100, low=1e-4, high=0.0135):
    """Log-spaced frequencies, Hz."""
    return torch.logspace(math.log10(low), math.log10(high), nodes, dtype=torch.float64)


def row(case):
    """A row of theta from a dictionary with lisabeta's names; total mass ``M``."""
    eta = case["q"] / (1 + case["q"]) ** 2
    values = [
        math.log(case["M"] * eta**0.6), case["q"], case["chi1"], case["chi2"], case["dist"],
        math.cos(case["inc"]), case["phi"], case["lambda"], math.sin(case["beta"]), case["psi"],
        case["Deltat"],
    ]  # fmt: skip
    return torch.tensor([values], dtype=torch.float64)


def dictionary(theta, frame):
    """lisabeta's dictionary of one row."""
    t = [float(x) for x in theta]
    mass = total_mass(theta)
    return {
        "m1": mass * t[1] / (1 + t[1]), "m2": mass / (1 + t[1]), "chi1": t[2], "chi2": t[3],
        "Deltat": t[10], "dist": t[4], "inc": math.acos(t[5]), "phi": t[6], "lambda": t[7],
        "beta": math.asin(t[8]), "psi": t[9], "Lframe": frame == "lisa",
    }  # fmt: skip


def total_mass(theta):
    """Detector-frame total mass of one row, solar masses."""
    ratio = float(theta[1])
    return math.exp(float(theta[0])) * (ratio / (1 + ratio) ** 2) ** -0.6


def below_the_end(theta, frequencies, end=0.2995):
    """The frequencies at which IMRPhenomD is defined for one row."""
    return frequencies[frequencies * total_mass(theta) * SOLAR_MASS_SECONDS < end]


@cache
def fixture():
    """Stored arrays of lisabeta as tensors, and the cases they belong to."""
    source = FIXTURES / "lisa_response.npz"
    if not source.exists():
        pytest.skip(f"{source} is not here: the stored responses stand beside the checkout")
    with np.load(source) as stored:
        arrays = {name: torch.from_numpy(stored[name]) for name in stored}
    return arrays, json.loads(source.with_suffix(".json").read_text())["cases"]


def inner(a, b, weight):
    """Noise-weighted product of two channels."""
    return (a.conj() * b * weight).sum(-1)


def mismatch(a, b, weight):
    """1 - overlap, nothing maximised."""
    size = (inner(a, a, weight).real * inner(b, b, weight).real).sqrt()
    return 1.0 - inner(a, b, weight).real / size


def densities(frequencies, channels="AET", tdi=1):
    """SciRDv1 noise of the channels, (c, m)."""
    return torch.stack([lisa.psd(frequencies, c, tdi=tdi) for c in channels])
