"""LISA's noise: stored and live densities, and the channels' noise from that of the links."""

import math

import numpy as np
import pytest
import torch

from gensci.sims import lisa
from gensci.sims.lisa.constants import ARM_SECONDS, LIGHT_SPEED

from . import lisa_cases

NEEDS_LISABETA = "lisabeta is not installed (gensci[lisa-test])"
# The spacecraft that sends and the one that receives.
LINKS = ((1, 2), (2, 3), (3, 1), (2, 1), (3, 2), (1, 3))


def test_densities_equal_the_stored_ones():
    stored, _ = lisa_cases.fixture()
    f = stored["frequency_hz"]
    torch.testing.assert_close(lisa.psd(f, "A"), stored["psd_A"], rtol=1e-10, atol=0)
    torch.testing.assert_close(lisa.psd(f, "E"), stored["psd_A"], rtol=1e-10, atol=0)
    torch.testing.assert_close(lisa.psd(f, "T"), stored["psd_T"], rtol=1e-10, atol=0)


@pytest.mark.parametrize("ours, theirs", [("SciRDv1", "SciRDv1"), ("proposal", "Proposal")])
@pytest.mark.parametrize("years", [None, 0.5, 1.0, 4.0])
def test_densities_equal_those_of_the_data_challenge(ours, theirs, years):
    source = pytest.importorskip("lisabeta.lisa.ldcnoise", reason=NEEDS_LISABETA)
    f = lisa_cases.band(300, 1e-4, 0.05)
    other = source.AnalyticNoise(f.numpy(), model=theirs, wd=years or 0).psd(option="A")
    made = lisa.psd(f, "A", model=ours, confusion=years)
    torch.testing.assert_close(made, torch.from_numpy(other), rtol=1e-8, atol=0)


@pytest.mark.parametrize("tdi, theirs", [(1, "TDIAET"), (2, "TDI2AET")])
def test_densities_equal_those_of_lisabeta(tdi, theirs):
    source = pytest.importorskip("lisabeta.lisa.pyLISAnoise", reason=NEEDS_LISABETA)
    f = lisa_cases.band(300, 1e-4, 0.05)
    noises = {
        "SciRDv1": dict(source.LISAnoiseSciRDv1, WDbackground=False),
        "proposal": dict(source.LISAnoiseProposal, WDbackground=False),
        "sangria": source.LISAnoiseLDC2SangriaInstrumental,
    }
    for model, options in noises.items():
        other = source.evaluate_AET_psd(f.numpy(), TDI=theirs, TDIrescaled=False, LISAnoise=options)
        for channel in "AET":
            made = lisa.psd(f, channel, model=model, tdi=tdi)
            there = torch.from_numpy(other[f"TDI{channel}"])
            torch.testing.assert_close(made, there, rtol=1e-9, atol=0)


def levels(f, model):
    """Densities of one test mass and of one optical readout, as fractional frequency."""
    noise = lisa.NOISE_MODELS[model]
    mass = noise.acceleration**2 * (1 + (4e-4 / f) ** 2) * (1 + (f / 8e-3) ** 4)
    mass = mass / (2 * math.pi * f * LIGHT_SPEED) ** 2
    optical = (noise.displacement * 2 * math.pi * f / LIGHT_SPEED) ** 2 * (1 + (2e-3 / f) ** 4)
    return mass, optical


def weights(f, tdi):
    """How each optical readout and test mass enters A, E and T: two of (3, 6, m), complex."""
    z = np.exp(2j * np.pi * ARM_SECONDS * f)
    links = np.zeros((3, 6, len(f)), dtype=complex)
    for k, (a, b, c) in enumerate(((1, 2, 3), (2, 3, 1), (3, 1, 2))):
        outer = (z * z - 1.0) * (1.0 - z**4 if tdi == 2 else 1.0)
        for pair, size in (((b, a), 1.0), ((a, b), z), ((c, a), -1.0), ((a, c), -z)):
            links[k, LINKS.index(pair)] += outer * size
    x, y, w = links
    links = np.stack([(w - x) / 2**0.5, (x - 2 * y + w) / 6**0.5, (x + y + w) / 3**0.5])
    # A test mass moves the link that its spacecraft receives, and that which it sends, a delay on.
    masses = np.zeros_like(links)
    for k, (sender, receiver) in enumerate(LINKS):
        masses[:, LINKS.index((sender, receiver))] += links[:, k]
        masses[:, LINKS.index((receiver, sender))] += z * links[:, k]
    return links, masses


@pytest.mark.parametrize("model", lisa.NOISE_MODELS)
@pytest.mark.parametrize("tdi", [1, 2])
def test_densities_follow_from_twelve_independent_noises(model, tdi):
    f = lisa_cases.band(200, 5e-5, 0.06).numpy()
    mass, optical = levels(f, model)
    links, masses = weights(f, tdi)
    covariance = np.einsum("alf,blf,f->abf", links, links.conj(), optical)
    covariance += np.einsum("alf,blf,f->abf", masses, masses.conj(), mass)
    for k, channel in enumerate("AET"):
        made = lisa.psd(torch.from_numpy(f), channel, model=model, tdi=tdi).numpy()
        np.testing.assert_allclose(made, covariance[k, k].real, rtol=1e-8)
    # The three channels are independent.
    size = np.sqrt(np.einsum("aaf->af", covariance.real))
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(covariance[a, b] / (size[a] * size[b])).max() < 1e-6


def test_confusion_is_heard_at_low_frequency_and_fades_with_the_years():
    f = torch.tensor([1e-3, 2.5e-3, 2e-2], dtype=torch.float64)
    plain = lisa.psd(f, "A")
    shares = torch.stack([lisa.psd(f, "A", confusion=y) / plain - 1.0 for y in (0.25, 1.0, 4, 10)])
    assert (shares[:, 0] > 0.5).all()
    assert (shares[:, 2] < 1e-12).all()
    assert (shares.diff(dim=0)[:, :2] < 0).all()
    assert torch.equal(lisa.psd(f, "T", confusion=1.0), lisa.psd(f, "T"))


@pytest.mark.parametrize(
    "options, error, words",
    [({"model": "SciRDv2"}, lisa.NoiseModelError, "use one of SciRDv1"),
     ({"confusion": 0.1}, lisa.NoiseModelError, "0.25 to 10"),
     ({"confusion": 11.0}, lisa.NoiseModelError, "outside the fit"),
     ({"confusion": math.nan}, lisa.NoiseModelError, "outside the fit"),
     ({"channel": "X"}, lisa.ChannelError, "'X'"),
     ({"tdi": 0}, lisa.ChannelError, "tdi = 0")],
)  # fmt: skip
def test_wrong_options_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        lisa.psd(lisa_cases.band(4), **{"channel": "A", **options})


@pytest.mark.parametrize("f", [0.0, -1e-3, math.nan])
def test_wrong_frequencies_are_refused(f):
    with pytest.raises(lisa.FrequencyError, match="0 Hz"):
        lisa.psd(torch.tensor([1e-3, f]), "A")
