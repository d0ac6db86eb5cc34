"""Slow modes: those of a process whose slowest direction is known."""

import math

import numpy as np
import pytest

from gensci.core.errors import UsageError
from gensci.metrics.slow_modes import agreement_of_halves, fit_slow_modes

pytest.importorskip("deeptime")
SLOW, FAST = 0.95, 0.3


@pytest.fixture(scope="module")
def ladders():
    """Sixteen ladders in which phi2 hops between two wells slowly, psi1 wobbles fast."""
    rng = np.random.default_rng(0)
    count, frames = 16, 600
    hops = rng.random((frames, count)) < 0.5 * (1 - SLOW)
    side = np.cumprod(np.where(hops, -1, 1), axis=0) * rng.choice([-1, 1], count)
    phi = side * 1.2 + 0.2 * rng.normal(size=side.shape)
    psi = np.empty_like(phi)
    psi[0] = rng.normal(size=count)
    for k in range(1, frames):
        psi[k] = FAST * psi[k - 1] + math.sqrt(1 - FAST**2) * rng.normal(size=count)
    number = np.tile(np.arange(count), frames)
    torsions = {
        "phi2": phi.reshape(-1),
        "psi1": 0.3 * psi.reshape(-1),
        "omega1": math.pi + 0.01 * rng.normal(size=frames * count),
        "chi1_2": rng.uniform(-3, 3, frames * count),
    }
    return torsions, number, side.reshape(-1)


def test_the_slowest_mode_is_the_hop(ladders):
    torsions, number, side = ladders
    modes = fit_slow_modes(torsions, number)
    assert modes.names == ("phi2", "psi1")
    found = modes(torsions)
    assert found.shape == (len(number), 2)
    np.testing.assert_allclose(found.mean(0), 0, atol=0.01)
    np.testing.assert_allclose(found.std(0), 1, atol=0.01)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.01
    assert abs(np.corrcoef(found[:, 0], side)[0, 1]) > 0.95
    # sin(phi) is the hop with some noise: slightly less slow than the hop itself
    assert modes.correlation[0] == pytest.approx(SLOW, abs=0.06)
    assert abs(np.corrcoef(found[:, 1], np.sin(torsions["psi1"]))[0, 1]) > 0.95
    lagged = found.reshape(-1, 16, 2)
    again = (lagged[1:] * lagged[:-1]).mean((0, 1))
    np.testing.assert_allclose(modes.correlation, again, atol=0.02)


def test_a_full_turn_changes_nothing(ladders):
    torsions, number, _ = ladders
    modes = fit_slow_modes(torsions, number)
    turned = {name: value + 2 * math.pi for name, value in torsions.items()}
    np.testing.assert_allclose(modes(turned), modes(torsions), atol=1e-9)


def test_halves_agree_where_there_is_something_to_find(ladders):
    torsions, number, _ = ladders
    assert agreement_of_halves(torsions, number, modes=1)[0] > 0.99
    rng = np.random.default_rng(1)
    noise = {f"phi{k}": rng.uniform(-3, 3, len(number)) for k in range(30)}
    assert agreement_of_halves(noise, number, modes=1)[0] < 0.7


def test_bad_arguments_are_named(ladders):
    torsions, number, _ = ladders
    modes = fit_slow_modes(torsions, number)
    with pytest.raises(UsageError, match="no torsion 'psi1'"):
        modes({"phi2": torsions["phi2"]})
    with pytest.raises(UsageError, match="no torsion of the backbone"):
        fit_slow_modes({"chi1_2": torsions["chi1_2"]}, number)
    with pytest.raises(UsageError, match="single frame"):
        fit_slow_modes(torsions, np.arange(len(number)))
