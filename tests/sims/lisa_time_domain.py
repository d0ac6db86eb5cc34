"""TDI channels in the time domain by lisagwresponse, lisaorbits and pytdi.

Run by an interpreter that has those packages:
``python lisa_time_domain.py in.npz out.npz``. The input holds ``time`` (N,) in seconds on an even
grid, ``plus`` and ``cross`` (N,), ``longitude``, ``latitude``; the output A, E, T of TDI 1.5 as
``first`` and of TDI 2.0 as ``second``, each (3, N). Imports nothing of this project.
"""

from __future__ import annotations

import math
import sys
from itertools import permutations

import numpy as np
from lisagwresponse import ReadStrain
from lisaorbits import EqualArmlengthOrbits
from pytdi import michelson

ARM_SECONDS = 2.5e9 / 299_792_458.0
# Positions of the spacecraft every hour, joined by cubics: 1e-3 m.
ORBIT_STEP = 3600.0
LINKS = [12, 23, 31, 13, 32, 21]


def main(source: str, target: str) -> None:
    """Reads polarisations, writes channels."""
    given = np.load(source)
    time = given["time"]
    response = ReadStrain(
        t_interp=time,
        hplus=given["plus"],
        hcross=given["cross"],
        strain_interp_order=5,
        gw_beta=float(given["latitude"]),
        gw_lambda=float(given["longitude"]),
        orbits="given as functions",
        **positions(time),
        ltt=dict.fromkeys(LINKS, ARM_SECONDS),
    )
    # The ends need strain before and after them.
    inner = time[200:-200]
    links = np.zeros((len(time), 6))
    links[200:-200] = response.compute_gw_response(inner, LINKS)
    eta = {f"eta_{link}": links[:, k] for k, link in enumerate(LINKS)}
    first = channels(eta, [michelson.X1_ETA, michelson.Y1_ETA, michelson.Z1_ETA], time)
    second = channels(eta, [michelson.X2_ETA, michelson.Y2_ETA, michelson.Z2_ETA], time)
    np.savez(target, first=first, second=second)


def positions(time: np.ndarray) -> dict[str, dict[int, object]]:
    """Interpolants of the spacecraft's coordinates."""
    from scipy.interpolate import CubicSpline

    grid = np.arange(time[0] - 2 * ORBIT_STEP, time[-1] + 3 * ORBIT_STEP, ORBIT_STEP)
    place = EqualArmlengthOrbits(t_init=0.0).compute_position(grid)
    axes = {}
    for axis, name in enumerate("xyz"):
        axes[name] = {k + 1: CubicSpline(grid, place[:, k, axis]) for k in range(3)}
    return axes


def channels(eta: dict[str, np.ndarray], combinations: list, time: np.ndarray) -> np.ndarray:
    """A, E, T of three Michelson combinations with equal and constant delays."""
    delays = {f"d_{a}{b}": ARM_SECONDS for a, b in permutations((1, 2, 3), 2)}
    rate = 1.0 / (time[1] - time[0])
    x, y, z = (c.build(delays, rate)(eta) for c in combinations)
    a, e, t = (z - x) / math.sqrt(2), (x - 2 * y + z) / math.sqrt(6), (x + y + z) / math.sqrt(3)
    return np.stack([a, e, t])


if __name__ == "__main__":
    main(*sys.argv[1:])
