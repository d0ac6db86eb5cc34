"""Spin-weighted harmonics, and higher modes by lalsuite through our response."""

import math
import sys

import numpy as np
import pytest
import torch

from gensci.sims import lisa
from gensci.sims.lisa import modes
from gensci.sims.lisa.harmonics import harmonic, pair
from gensci.sims.lisa.parameters import columns
from gensci.sims.lisa.phenomd import mode22

from . import lisa_cases

NEEDS_LAL = "lalsuite is not installed (gensci[lisa])"
NEEDS_LISABETA = "lisabeta is not installed (gensci[lisa-test])"
EVERY = [(degree, order) for degree in (2, 3, 4, 5) for order in range(-degree, degree + 1)]


def test_harmonics_are_orthonormal():
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(24))
    values = {mode: harmonic(*mode, nodes, torch.zeros_like(nodes)) for mode in EVERY}
    for a, first in values.items():
        for b, second in values.items():
            if a[1] != b[1]:
                continue  # the integral over the phase is zero
            product = 2 * math.pi * (weights * first * second.conj()).sum()
            assert abs(complex(product) - (a == b)) < 1e-12


def test_harmonics_equal_lalsuite():
    lal = pytest.importorskip("lal", reason=NEEDS_LAL)
    generator = torch.Generator().manual_seed(0)
    cosine, phase = torch.rand(2, 20, generator=generator, dtype=torch.float64)
    cosine, phase = 2 * cosine - 1, 2 * math.pi * phase
    places = list(zip(cosine.acos().tolist(), phase.tolist(), strict=True))
    for mode in EVERY:
        other = [lal.SpinWeightedSphericalHarmonic(a, p, -2, *mode) for a, p in places]
        other = torch.tensor(other, dtype=torch.complex128)
        torch.testing.assert_close(harmonic(*mode, cosine, phase), other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", modes.HIGHER_MODES)
def test_the_mirror_image_is_the_mode_seen_from_below(mode):
    cosine = torch.linspace(-0.99, 0.99, 20, dtype=torch.float64)
    phase = torch.linspace(0.0, 6.0, 20, dtype=torch.float64)
    right, left = pair(*mode, cosine, phase)
    torch.testing.assert_close(left, harmonic(*mode, -cosine, phase), rtol=0, atol=1e-13)
    if mode == (2, 2):
        exact = math.sqrt(5 / (64 * math.pi)) * (1 + cosine) ** 2 * torch.exp(2j * phase)
        torch.testing.assert_close(right, exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("tdi", [1, 2])
def test_modes_take_the_way_of_the_22_mode(monkeypatch, tdi):
    """With our own 22 mode in place of lalsuite's, the channels are those of `strain`."""

    def ours(theta, frequencies, mode, release):
        amplitude, phase, time = mode22(*columns(theta)[:5]).at(frequencies)
        inside = mode22(*columns(theta)[:5]).mass * frequencies <= 0.3
        return torch.where(inside, torch.polar(amplitude, phase), 0.0), time

    monkeypatch.setattr(modes, "_mode", ours)
    monkeypatch.setattr(modes, "_lalsimulation", lambda: None)
    theta, f = lisa_cases.binaries(6), lisa_cases.band(50)
    for frame in ("lisa", "ssb"):
        options = {"frame": frame, "tdi": tdi, "channels": "AET"}
        made = modes.strain_higher_modes(theta, f, modes=((2, 2),), **options)
        exact = lisa.strain(theta, f, **options)
        scale = exact.abs().amax(dim=(0, 2))[:, None]
        torch.testing.assert_close(made / scale, exact / scale, rtol=0, atol=1e-9)


def test_22_mode_of_xhm_is_that_of_phenomd_but_for_the_calibration():
    pytest.importorskip("lalsimulation", reason=NEEDS_LAL)
    theta = lisa_cases.binaries(6, seed=6)
    theta[:, 1] = 1.0 + 0.3 * theta[:, 1]
    theta[:, 2:4] *= 0.5
    for binary in theta:
        f = lisa_cases.below_the_end(binary, lisa_cases.band(300, 3e-4, 0.02), 0.12)
        xhm = modes.strain_higher_modes(binary[None], f, modes=((2, 2),))[0]
        d = lisa.strain(binary[None], f)[0]
        # Nothing is maximised: time and phase mean the same in both.
        mismatch = lisa_cases.mismatch(xhm, d, f / lisa_cases.densities(f, "AE"))
        assert (mismatch < 0.02).all()


def test_22_mode_is_zero_in_time_and_phase_at_the_peak():
    pytest.importorskip("lalsimulation", reason=NEEDS_LAL)
    for theta in lisa_cases.binaries(5, seed=1):
        mode = mode22(*columns(theta[None])[:5])
        peak = (mode.amplitude.peak / mode.mass)[0]
        value, time = modes._mode(theta[None], peak, (2, 2), 122022)
        assert abs(float(value.angle())) < 1e-6
        assert abs(float(time / mode.mass)) < 1e-6


def test_higher_modes_equal_lisabeta():
    pytest.importorskip("lalsimulation", reason=NEEDS_LAL)
    source = pytest.importorskip("lisabeta.lisa.lisa", reason=NEEDS_LISABETA)
    for theta in lisa_cases.binaries(3, seed=9):
        f = lisa_cases.below_the_end(theta, lisa_cases.band(300, 3e-4), 0.14)
        made = source.GenerateLISATDI_SMBH(
            lisa_cases.dictionary(theta, "lisa"), gridfreq=f.numpy(), t0=0.5, TDI="TDIAET",
            TDIrescaled=False, approximant="IMRPhenomXHM", scale_freq_hm=False,
            modes=list(modes.HIGHER_MODES),
        )  # fmt: skip
        arrival = torch.exp(-2j * math.pi * f * lisa.to_ssb(theta[None])[0, -1])
        lines = {}
        for mode in modes.HIGHER_MODES:
            part = made[mode]
            ours, _ = modes._mode(theta[None], f, mode, 122019)
            theirs = part["amp"] * np.exp(1j * part["phase"])
            np.testing.assert_allclose(ours[0].abs(), np.abs(theirs), rtol=1e-6)
            apart = np.unwrap(np.angle(ours[0].numpy() / theirs))
            lines[mode] = np.polyfit(f.numpy(), apart, 1)
            assert np.abs(apart - np.polyval(lines[mode], f.numpy())).max() < 1e-4
            channels = modes.strain_higher_modes(
                theta[None], f, modes=(mode,), channels="AET", release=122019
            )[0]
            for k in range(3):
                response = (channels[k] / ours[0] * arrival).numpy()
                other = part[f"transferL{k + 1}"] * np.exp(1j * part["phaseRdelay"])
                # lisabeta's time zero is LALSimulation's, ten total masses from ours: in that time
                # the orbit goes on.
                assert np.abs(response - other).max() < 2e-3 * np.abs(other).max()
        # One shift in time and one turn about the axis take every mode to lisabeta's.
        delays = np.array([line[0] for line in lines.values()])
        assert np.ptp(delays) < 1e-4 * np.abs(delays).max()
        for mode, (_, offset) in lines.items():
            turn = offset - 0.5 * mode[1] * lines[2, 2][1]
            # Half of the 22 mode's phase is known up to pi, which odd m feel.
            assert abs(math.remainder(turn, math.pi * (1 + (mode[1] + 1) % 2))) < 1e-3, mode


def test_modes_add_up():
    pytest.importorskip("lalsimulation", reason=NEEDS_LAL)
    theta, f = lisa_cases.binaries(2), lisa_cases.band(40)
    parts = [modes.strain_higher_modes(theta, f, modes=(mode,)) for mode in modes.HIGHER_MODES]
    together = modes.strain_higher_modes(theta, f)
    scale = together.abs().amax()
    torch.testing.assert_close(together / scale, sum(parts) / scale, rtol=0, atol=1e-12)
    assert all(part.abs().amax() > 1e-3 * scale for part in parts[:4:2])


@pytest.mark.parametrize("choice", [(), ((2, 0),), ((5, 5),), ((2, 2), (2, 2))])
def test_unknown_modes_are_refused(choice):
    with pytest.raises(modes.ModeError, match="give some of"):
        modes.strain_higher_modes(lisa_cases.binaries(1), lisa_cases.band(4), modes=choice)


def test_missing_lalsuite_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lalsimulation", None)
    with pytest.raises(modes.MissingLalsuiteError, match=r"pip install 'gensci\[lisa\]'"):
        modes.strain_higher_modes(lisa_cases.binaries(1), lisa_cases.band(4))


def test_an_unknown_release_is_refused():
    with pytest.raises(modes.ModeError, match="release = 1; give one of"):
        modes.strain_higher_modes(lisa_cases.binaries(1), lisa_cases.band(4), release=1)


def test_frequencies_of_each_row_are_refused():
    pytest.importorskip("lalsimulation", reason=NEEDS_LAL)
    with pytest.raises(lisa.FrequencyError, match="one row of frequencies"):
        modes.strain_higher_modes(lisa_cases.binaries(2), lisa_cases.band(4).expand(2, -1))
