"""The peers of bench_lisa_waveforms: lalsuite and lisabeta, run by the Python of their environment.

    /work/venvs/lisa/bin/python benchmarks/lisa_peer.py problem.npz answer.npz

bench_lisa_waveforms writes the binaries and the frequencies and reads times and a few channels;
nothing of gensci is imported here, so the peers need no place in our environment. What is timed is
the generator alone, one binary after the other as both libraries work: LALSimulation's IMRPhenomD
without any response, and lisabeta's IMRPhenomD with the response of A, E and T, left as amplitudes,
phases and transfers. Both are given the frequencies below the end of the model, M f = 0.3, only.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

SOLAR_MASS_SECONDS = 4.925490947641267e-6
END = 0.2995
REFERENCE_YEARS = 0.5


def main(source: str, target: str) -> None:
    """Reads the problem, times both peers and writes what they found."""
    with np.load(source) as problem:
        theta, f, shown = problem["theta"], problem["frequencies"], int(problem["shown"])
    rows = [binary(row, f) for row in theta]
    report = {
        "lalsuite": timed(lalsuite_generator(), rows),
        "lisabeta": timed(lisabeta_generator(), rows),
        "versions": {name: version(name) for name in ("lalsuite", "lisabeta", "numpy")},
        "python": sys.version.split()[0],
    }
    np.savez(target, channels=channels(rows[:shown], f), report=json.dumps(report))


def binary(row: np.ndarray, frequencies: np.ndarray) -> dict[str, Any]:
    """A row of theta as the peers name it, and the frequencies at which they have a signal."""
    ratio = row[1]
    mass = np.exp(row[0]) * (ratio / (1 + ratio) ** 2) ** -0.6
    names = ("chi1", "chi2", "dist", "inc", "phi", "lambda", "beta", "psi", "Deltat")
    values = dict(zip(names, (float(x) for x in row[2:]), strict=True))
    values["inc"], values["beta"] = np.arccos(values["inc"]), np.arcsin(values["beta"])
    masses = {"m1": float(mass * ratio / (1 + ratio)), "m2": float(mass / (1 + ratio))}
    inside = frequencies * mass * SOLAR_MASS_SECONDS < END
    return {"params": {**masses, **values, "Lframe": True}, "frequencies": frequencies[inside]}


def timed(generate: Callable[[dict[str, Any]], Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds for all rows after a warm-up, by the wall and of this process."""
    for row in rows[:50]:
        generate(row)
    wall, cpu = time.monotonic(), time.process_time()
    for row in rows:
        generate(row)
    return {
        "wall_seconds": time.monotonic() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def lalsuite_generator() -> Callable[[dict[str, Any]], Any]:
    """IMRPhenomD's plus polarisation on given frequencies."""
    import lal
    import lalsimulation

    sun, megaparsec = lal.MSUN_SI, 1e6 * lal.PC_SI

    def generate(row: dict[str, Any]) -> Any:
        p = row["params"]
        points = lal.CreateREAL8Vector(len(row["frequencies"]))
        points.data = row["frequencies"]
        return lalsimulation.SimIMRPhenomDFrequencySequence(
            points, 0.0, 0.0, p["m1"] * sun, p["m2"] * sun, p["chi1"], p["chi2"],
            p["dist"] * megaparsec, None, 1,
        )  # fmt: skip

    return generate


def lisabeta_generator() -> Callable[[dict[str, Any]], Any]:
    """IMRPhenomD and the response of A, E and T on given frequencies."""
    import lisabeta.lisa.lisa as lisabeta

    def generate(row: dict[str, Any]) -> Any:
        return lisabeta.GenerateLISATDI_SMBH(
            row["params"], gridfreq=row["frequencies"], t0=REFERENCE_YEARS, TDI="TDIAET",
            TDIrescaled=False, approximant="IMRPhenomD",
        )  # fmt: skip

    return generate


def channels(rows: list[dict[str, Any]], frequencies: np.ndarray) -> np.ndarray:
    """A and E of lisabeta, to see that both sides compute the same; (n, 2, m)."""
    generate = lisabeta_generator()
    out = np.zeros((len(rows), 2, len(frequencies)), dtype=complex)
    for k, row in enumerate(rows):
        mode = generate(row)[2, 2]
        carrier = mode["amp"] * np.exp(1j * (mode["phase"] + mode["phaseRdelay"]))
        for c in range(2):
            out[k, c, : len(carrier)] = carrier * mode[f"transferL{c + 1}"]
    return out


if __name__ == "__main__":
    main(*sys.argv[1:])
