"""The barycentre's and the constellation's frame: conversions, Jacobians and equal skies."""

import math

import numpy as np
import pytest
import torch

from gensci.sims import lisa
from gensci.sims.lisa.constants import AU_SECONDS, ORBITAL_FREQUENCY
from gensci.sims.lisa.harmonics import pair
from gensci.sims.lisa.parameters import columns
from gensci.sims.lisa.response import polarisation_factors, transfer

from . import lisa_cases

T_REFS = (0.0, lisa.DEFAULT_REFERENCE_TIME, 1.234 * lisa.YEAR)
TIME = lisa.PARAMETERS.index("time")


def assert_same(a, b, time=1e-6, angle=1e-9):
    """Rows that are the same binary: angles by their sines and cosines, time in seconds."""
    for name, period in lisa.PERIODS.items():
        k = lisa.PARAMETERS.index(name)
        turn = torch.remainder(a[:, k] - b[:, k] + period / 2, period) - period / 2
        assert turn.abs().max() < angle, name
    sine = lisa.PARAMETERS.index("sin_latitude")
    assert (a[:, sine] - b[:, sine]).abs().max() < angle
    assert (a[:, TIME] - b[:, TIME]).abs().max() < time
    assert torch.equal(a[:, :7], b[:, :7])


@pytest.mark.parametrize("t_ref", T_REFS)
def test_conversions_undo_each_other(t_ref):
    theta = lisa_cases.binaries(500)
    theta[:, TIME] *= 1e4
    assert_same(lisa.to_lisa(lisa.to_ssb(theta, t_ref), t_ref), theta)
    assert_same(lisa.to_ssb(lisa.to_lisa(theta, t_ref), t_ref), theta)
    for rows in (lisa.to_ssb(theta, t_ref), lisa.to_lisa(theta, t_ref)):
        for name in ("longitude", "polarisation"):
            column = rows[:, lisa.PARAMETERS.index(name)]
            assert (column >= 0).all()
            assert (column <= lisa.PERIODS[name]).all()


def test_conversions_equal_those_of_lisabeta():
    source = pytest.importorskip(
        "lisabeta.lisa.lisatools", reason="lisabeta is not installed (gensci[lisa-test])"
    )
    theta = lisa_cases.binaries(200)
    for ours, frame, other in (
        (lisa.to_lisa(theta), "ssb", source.convert_SSBframe_to_Lframe),
        (lisa.to_ssb(theta), "lisa", source.convert_Lframe_to_SSBframe),
    ):
        rows = [other(lisa_cases.dictionary(t, frame), t0=0.5) for t in theta]
        made = theta.clone()
        for k, name in ((7, "lambda"), (9, "psi"), (TIME, "Deltat")):
            made[:, k] = torch.tensor([row[name] for row in rows], dtype=torch.float64)
        made[:, 8] = torch.tensor([math.sin(row["beta"]) for row in rows], dtype=torch.float64)
        # Out of the constellation's frame lisabeta solves for the time to second order, 1e-5 s.
        assert_same(ours, made, time=1e-4)


@pytest.mark.parametrize("t_ref", T_REFS)
def test_jacobians_equal_autograd(t_ref):
    theta = lisa_cases.binaries(20)
    for convert, formula in (
        (lisa.to_ssb, lisa.to_ssb_log_abs_det_jacobian),
        (lisa.to_lisa, lisa.to_lisa_log_abs_det_jacobian),
    ):
        rows = theta.clone().requires_grad_()
        made = convert(rows, t_ref)
        matrix = torch.stack(
            [torch.autograd.grad(c.sum(), rows, retain_graph=True)[0] for c in made.unbind(1)], 1
        )
        exact = torch.linalg.slogdet(matrix).logabsdet
        stated = formula(theta, t_ref)
        torch.testing.assert_close(stated, exact, rtol=0, atol=1e-12)
        assert 1e-6 < stated.abs().max() < 1.1e-4
        # The sky alone turns rigidly: longitude, sine of latitude and polarisation keep volume.
        sky = matrix[:, 7:10, 7:10]
        time = matrix[:, 10, 10]
        assert (torch.linalg.slogdet(sky).logabsdet.abs() < 2e-4).all()
        assert ((time - 1.0).abs() < 2e-4).all()


def wave_tensor(row):
    """Strain tensor of face-on-ish waves and their direction, in the axes of the row's frame."""
    longitude, sine, cosine = row.longitude, row.sin_latitude, (1 - row.sin_latitude**2).sqrt()
    u = torch.stack([longitude.sin(), -longitude.cos(), torch.zeros_like(sine)], dim=-1)[:, 0]
    v = torch.stack([-sine * longitude.cos(), -sine * longitude.sin(), cosine], dim=-1)[:, 0]
    k = -torch.stack([cosine * longitude.cos(), cosine * longitude.sin(), sine], dim=-1)[:, 0]
    plus = u[:, :, None] * u[:, None] - v[:, :, None] * v[:, None]
    cross = u[:, :, None] * v[:, None] + v[:, :, None] * u[:, None]
    factors = polarisation_factors(*pair(2, 2, row.cos_inclination, row.phase), row.polarisation)
    return factors[0][:, :, None] * plus + factors[1][:, :, None] * cross, k


def rotation(alpha):
    """Rz(alpha) Ry(-60 degrees) Rz(-alpha), (n, 3, 3)."""
    out = []
    for a in alpha.tolist():
        c, s = math.cos(a), math.sin(a)
        z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        c, s = math.cos(-math.pi / 3), math.sin(-math.pi / 3)
        # Ry(t): the x axis towards -z for positive t.
        y = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])
        out.append(z @ y.T @ z.T)
    return torch.from_numpy(np.array(out))


def test_the_wave_itself_turns_with_the_frame():
    ssb = lisa_cases.binaries(50)
    t_ref = 0.3 * lisa.YEAR
    alpha = ORBITAL_FREQUENCY * (ssb[:, TIME] + t_ref)
    turn = rotation(alpha)
    inside = lisa.to_lisa(ssb, t_ref)
    (wave, k), (turned, direction) = wave_tensor(columns(ssb)), wave_tensor(columns(inside))
    torch.testing.assert_close((turn @ k[:, :, None])[:, :, 0], direction, rtol=0, atol=1e-12)
    rotated = turn.to(wave.dtype) @ wave @ turn.transpose(1, 2).to(wave.dtype)
    torch.testing.assert_close(rotated, turned, rtol=0, atol=1e-12)
    # The wave meets the constellation when it has crossed the distance to the barycentre.
    centre = torch.stack([alpha.cos(), alpha.sin(), torch.zeros_like(alpha)], 1) * AU_SECONDS
    arrival = ssb[:, TIME] + (k * centre).sum(1)
    torch.testing.assert_close(inside[:, TIME], arrival, rtol=0, atol=1e-9)


def test_strain_is_the_same_in_both_frames():
    theta, f = lisa_cases.binaries(10), lisa_cases.band(60)
    inside = lisa.strain(theta, f, frame="lisa")
    outside = lisa.strain(lisa.to_ssb(theta), f, frame="ssb")
    assert torch.equal(inside, outside)


def test_images_are_a_group_that_keeps_volume():
    theta = lisa_cases.binaries(7)
    images = lisa.sky_images(theta)
    assert images.shape == (8, 7, 11)
    assert_same(images[0], theta)
    # Applied to any image, the eight images are the eight again.
    for k in range(8):
        for other in lisa.sky_images(images[k]):
            near = [(lisa_cases_angles(other) - lisa_cases_angles(i)).abs().amax() for i in images]
            assert min(near) < 1e-9
    rows = theta.clone().requires_grad_()
    for image in lisa.sky_images(rows):
        matrix = torch.stack(
            [torch.autograd.grad(c.sum(), rows, retain_graph=True)[0] for c in image.unbind(1)], 1
        )
        torch.testing.assert_close(matrix.det().abs(), torch.ones(7, dtype=torch.float64))


def lisa_cases_angles(theta):
    """Coordinates that have no jump where an angle wraps."""
    longitude, sine, polarisation, time = theta[:, 7:].unbind(1)
    turns = [longitude.cos(), longitude.sin(), (2 * polarisation).cos(), (2 * polarisation).sin()]
    return torch.stack([*theta[:, :7].unbind(1), *turns, sine, time], 1)


def test_images_are_exact_for_a_constellation_at_rest_and_long_waves():
    theta = lisa_cases.binaries(30)
    images = lisa.sky_images(theta)
    channels = []
    for frequency in (1e-6, 1e-3):
        f = torch.tensor([frequency], dtype=torch.float64)
        rows = lisa.to_ssb(images.flatten(0, 1))
        row = columns(rows)
        alpha = ORBITAL_FREQUENCY * (row.time + lisa.DEFAULT_REFERENCE_TIME)
        factors = polarisation_factors(
            *pair(2, 2, row.cos_inclination, row.phase), row.polarisation
        )
        made = transfer(row, *factors, alpha, f, "AE", 1).reshape(8, 30, 2)
        scale = made[0].abs().amax(dim=1, keepdim=True)
        channels.append(((made - made[0]) / scale).abs().amax())
        # The wave's arrival at the constellation is the same for all: only the transfer differs.
        assert (images[..., TIME] == images[0, :, TIME]).all()
    # To first order in the frequency, and so one thousandth at a thousandth of it.
    assert channels[0] < 1e-3
    assert channels[1] > 10 * channels[0]


def test_images_of_a_short_signal_sound_alike():
    theta = lisa_cases.binaries(10, seed=2)
    theta[:, 0] = math.log(8e6)
    f = lisa_cases.band(60, 3e-4, 6e-4)
    images = lisa.sky_images(theta)
    h = lisa.strain(images.flatten(0, 1), f).reshape(8, 10, 2, -1)
    product = (h.conj() * h[0]).sum((2, 3)).real
    size = h.abs().square().sum((2, 3)).sqrt()
    overlap = product / (size * size[0])
    assert overlap.min() > 0.99
    other = theta.clone()
    other[:, 7] += 0.8
    assert ((lisa.strain(other, f) - h[0]).abs().amax((1, 2)) > 0.1 * h[0].abs().amax((1, 2))).all()


@pytest.mark.parametrize("sine", [1.0, -1.0])
def test_poles_have_finite_conversions_and_gradients(sine):
    theta = lisa_cases.binaries(5)
    theta[:, 8] = sine
    for convert in (lisa.to_ssb, lisa.to_lisa):
        rows = theta.clone().requires_grad_()
        made = convert(rows)
        (gradient,) = torch.autograd.grad(made.sum(), rows)
        assert torch.isfinite(made).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    "function", [lisa.to_ssb, lisa.to_lisa, lisa.sky_images, lisa.to_ssb_log_abs_det_jacobian]
)
def test_wrong_shapes_are_refused(function):
    with pytest.raises(lisa.ParameterRangeError, match=r"shape \(3, 4\)"):
        function(torch.zeros(3, 4))
