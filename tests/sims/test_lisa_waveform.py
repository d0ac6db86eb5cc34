"""The 22 mode and the channels as functions: against LALSimulation, theory and themselves."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from gensci.sims import lisa
from gensci.sims.lisa import phenomd, waveform
from gensci.sims.lisa.constants import MEGAPARSEC_SECONDS, SOLAR_MASS_SECONDS
from gensci.sims.lisa.parameters import columns
from gensci.sims.lisa.phenomd_coefficients import INSPIRAL_AMPLITUDE_END, INSPIRAL_PHASE_END

from . import lisa_cases

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
LOUD = {
    "M": 3e6, "q": 3.0, "chi1": 0.3, "chi2": 0.1, "dist": 25924.0, "inc": math.pi / 3, "phi": 0.5,
    "lambda": 1.2, "beta": 0.4, "psi": 0.7, "Deltat": 0.0,
}  # fmt: skip


# IMRPhenomD of LALSimulation 6.2.1: mass ratio and spins; amplitude over M^2 / D and phase (rad) at
# PLACES of M f, the phase without the line through the fifth and seventh of them.
PLACES = (0.001, 0.004, 0.012, 0.016, 0.03, 0.06, 0.09, 0.15, 0.25)
LAL = (
    ((1.0, 0.0, 0.0),
     (1046.922, 199.8683, 49.66748, 33.73095, 15.39188, 9.282402, 4.753362, 0.01197494,
      9.026464e-06),
     (1376.8922, 115.12073, 12.456669, 6.3320221, 0.0, -1.967694, 0.0, 4.5610339, 12.397766)),
    ((3.0, 0.3, 0.1),
     (905.7589, 173.5113, 43.78453, 29.8294, 13.19099, 7.26436, 3.090302, 0.006883424,
      4.603066e-06),
     (1864.3263, 160.89523, 17.093409, 8.4156244, 0.0, -2.2957244, 0.0, 4.9336494, 13.561519)),
    ((8.0, 0.85, -0.6),
     (657.1503, 126.9689, 33.75737, 23.74594, 10.64793, 4.620411, 3.32407, 0.007839662,
      5.580885e-07),
     (3687.5038, 354.60049, 41.880668, 20.107259, 0.0, -3.8478459, 0.0, 13.95388, 37.236225)),
    ((15.0, -0.7, 0.4),
     (497.7626, 90.34919, 15.4377, 7.755568, 3.125039, 0.9494578, 0.04616259, 0.0005079321,
      1.860296e-06),
     (5154.691, 272.13141, 8.4511822, 3.8019825, 0.0, -0.30979208, 0.0, -0.34054414, -1.3578877)),
)  # fmt: skip


def mode_of(theta):
    return phenomd.mode22(*columns(theta)[:5])


def corners(n, seed=0):
    """Binaries whose mass ratios and spins reach the ends of the calibration."""
    theta = lisa_cases.binaries(n, seed)
    theta[:, 1] = 1.0 + 17.0 * torch.linspace(0.0, 1.0, n, dtype=torch.float64) ** 2
    ends = torch.tensor([[1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]])
    theta[: len(ends), 2:4] = ends
    theta[-len(ends) :, 2:4] = ends
    return theta


def lal_mode(theta, frequencies):
    """LALSimulation's IMRPhenomD of one row; its Fourier transform is the conjugate of ours."""
    lal = pytest.importorskip("lal", reason="lalsuite is not installed (gensci[lisa-test])")
    lalsimulation = pytest.importorskip("lalsimulation", reason="lalsuite is not installed")
    ratio = float(theta[1])
    kilograms = lisa_cases.total_mass(theta) * SOLAR_MASS_SECONDS * lal.C_SI**3 / lal.G_SI
    masses = kilograms * ratio / (1 + ratio), kilograms / (1 + ratio)
    points = lal.CreateREAL8Vector(len(frequencies))
    points.data = frequencies.numpy()
    metres = float(theta[4]) * MEGAPARSEC_SECONDS * lal.C_SI
    series = lalsimulation.SimIMRPhenomDFrequencySequence(
        points, 0.0, 0.0, *masses, float(theta[2]), float(theta[3]), metres, None, 1
    )
    # LAL's plus polarisation of an optimally placed source: Y_22 of it is sqrt(5 / (64 pi)) 4 / 2.
    return torch.from_numpy(series.data.data.conj()) / math.sqrt(5.0 / (16.0 * math.pi))


def test_mode_equals_lalsimulation_over_the_whole_calibration():
    theta = corners(60)
    mass = torch.tensor([lisa_cases.total_mass(t) for t in theta], dtype=torch.float64)
    u = torch.logspace(math.log10(5e-4), math.log10(0.2999), 400, dtype=torch.float64)
    f = u / (mass[:, None] * SOLAR_MASS_SECONDS)
    amplitude, phase, _ = mode_of(theta).at(f)
    for k, binary in enumerate(theta):
        other = lal_mode(binary, f[k])
        # G, c and the parsec of LAL differ from ours in the sixth digit; the rest is the ringdown's
        # frequency, a smooth fit here and a spline through rounded numbers there.
        torch.testing.assert_close(amplitude[k], other.abs(), rtol=1e-4, atol=0)
        turned = torch.polar(torch.ones_like(u), phase[k]) * other.conj()
        difference = np.unwrap(np.angle(turned.numpy()))
        # LAL's zero of time and phase is another; nothing but a straight line may differ.
        line = np.polyval(np.polyfit(u.numpy(), difference, 1), u.numpy())
        assert np.abs(difference - line).max() < 1e-4


@pytest.mark.parametrize("binary, amplitudes, phases", LAL)
def test_mode_equals_numbers_of_lalsimulation(binary, amplitudes, phases):
    ratio, chi1, chi2 = (torch.tensor([[x]], dtype=torch.float64) for x in binary)
    chirp = math.log(1e6) + 0.6 * torch.log(ratio / (1 + ratio) ** 2)
    mode = phenomd.mode22(chirp, ratio, chi1, chi2, torch.full_like(ratio, 1e4))
    u = torch.tensor(PLACES, dtype=torch.float64)
    amplitude, phase, _ = mode.at(u / mode.mass)
    unit = mode.mass**2 / (1e4 * MEGAPARSEC_SECONDS)
    expected = torch.tensor([amplitudes, phases], dtype=torch.float64)
    torch.testing.assert_close((amplitude / unit)[0], expected[0], rtol=1e-4, atol=0)
    line = (phase[0, 6] - phase[0, 4]) / (u[6] - u[4]) * (u - u[4]) + phase[0, 4]
    torch.testing.assert_close(phase[0] - line, expected[1], rtol=1e-6, atol=2e-4)


def test_early_inspiral_is_newtonian():
    theta = lisa_cases.binaries(20)
    mass = torch.tensor([lisa_cases.total_mass(t) for t in theta], dtype=torch.float64)
    mass = mass[:, None] * SOLAR_MASS_SECONDS
    f = 1e-9 / mass * torch.tensor([1.0, 1.01], dtype=torch.float64)
    amplitude, _, time = mode_of(theta).at(f)
    chirp = torch.exp(theta[:, :1]) * SOLAR_MASS_SECONDS
    distance = theta[:, 4:5] * MEGAPARSEC_SECONDS
    # h22 at leading order, stationary phase: sqrt(2/3) pi^(-1/6) Mc^(5/6) f^(-7/6) / D, over
    # time (5/256) Mc (pi Mc f)^(-8/3) before the merger.
    newton = math.sqrt(2.0 / 3.0) * math.pi ** (-1 / 6) * chirp ** (5 / 6) * f ** (-7 / 6)
    torch.testing.assert_close(amplitude, newton / distance, rtol=3e-5, atol=0)
    left = 5.0 / 256.0 * chirp * (math.pi * chirp * f) ** (-8 / 3)
    torch.testing.assert_close(-time, left, rtol=3e-5, atol=0)


def test_time_is_the_slope_of_the_phase():
    theta = corners(12)
    f = lisa_cases.band(200).requires_grad_()
    _, phase, time = mode_of(theta).at(f.expand(12, -1))
    for k in range(12):
        (slope,) = torch.autograd.grad(phase[k].sum(), f, retain_graph=True)
        torch.testing.assert_close(slope / (2 * math.pi), time[k], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("join", ["inspiral amplitude", "peak", "inspiral phase", "ringdown"])
def test_pieces_meet_with_the_same_slope(join):
    theta = corners(40)
    mode = mode_of(theta)
    place = {
        "inspiral amplitude": torch.full_like(mode.mass, INSPIRAL_AMPLITUDE_END),
        "peak": mode.amplitude.peak,
        "inspiral phase": torch.full_like(mode.mass, INSPIRAL_PHASE_END),
        "ringdown": mode.phase.end,
    }[join]
    step = 1e-7
    u = place * (1.0 + step * torch.tensor([-2.0, -1.0, 1.0, 2.0], dtype=torch.float64))
    amplitude, phase, time = mode.at(u / mode.mass)
    before, after = amplitude[:, 1] - amplitude[:, 0], amplitude[:, 3] - amplitude[:, 2]
    across = 0.5 * (amplitude[:, 2] - amplitude[:, 1])
    small = step * amplitude[:, 1] * 1e-3
    assert ((before - after).abs() < small).all()
    assert ((before - across).abs() < small).all()
    steps = time.diff(dim=1).abs()
    assert (steps[:, 1] < 3.0 * steps[:, ::2].amax(dim=1) + 1e-9 * mode.mass[:, 0]).all()
    slope = (phase[:, 2] - phase[:, 1]) / (u[:, 2] - u[:, 1]) * mode.mass[:, 0] / (2 * math.pi)
    torch.testing.assert_close(slope, time[:, 1], rtol=1e-6, atol=1e-2)


def test_time_and_phase_are_zero_at_the_peak():
    mode = mode_of(corners(30))
    _, phase, time = mode.at(mode.amplitude.peak / mode.mass)
    assert phase.abs().max() < 1e-9
    assert (time / mode.mass).abs().max() < 1e-9


@pytest.mark.parametrize("frame", ["lisa", "ssb"])
@pytest.mark.parametrize("tdi", [1, 2])
def test_gradients_equal_finite_differences(frame, tdi):
    theta = lisa_cases.binaries(3, seed=4)
    f = lisa_cases.band(40, 2e-4, 4e-3)
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 40, generator=generator, dtype=torch.complex128)

    def value(rows):
        h = lisa.strain(rows, f, frame=frame, tdi=tdi, channels="AET")
        return (weights * h * 1e18).real.sum(dim=(1, 2))

    rows = theta.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(rows).sum(), rows)
    steps = (1e-8, 1e-6, 1e-6, 1e-6, 1e-2, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-4)
    for k, step in enumerate(steps):
        change = torch.zeros_like(theta)
        change[:, k] = step
        # Fourth order: second differences would leave the phase's curvature in the time.
        near = value(theta + change) - value(theta - change)
        far = value(theta + 2 * change) - value(theta - 2 * change)
        difference = (8.0 * near - far) / (12.0 * step)
        scale = difference.abs().max()
        torch.testing.assert_close(gradient[:, k], difference, rtol=1e-5, atol=1e-6 * scale)


@pytest.mark.parametrize(
    "column, value",
    [("cos_inclination", 1.0), ("cos_inclination", -1.0), ("sin_latitude", 1.0),
     ("sin_latitude", -1.0), ("mass_ratio", 1.0), ("chi1", 1.0), ("chi1", -1.0)],
)  # fmt: skip
def test_ends_of_the_ranges_have_finite_values_and_gradients(column, value):
    theta = lisa_cases.binaries(4)
    theta[:, lisa.PARAMETERS.index(column)] = value
    theta.requires_grad_()
    h = lisa.strain(theta, lisa_cases.band(30), channels="AET")
    (gradient,) = torch.autograd.grad(h.abs().square().sum() * 1e36, theta)
    assert torch.isfinite(torch.view_as_real(h.detach())).all()
    assert torch.isfinite(gradient).all()


def test_batches_equal_single_rows(monkeypatch):
    theta, f = lisa_cases.binaries(23), lisa_cases.band(64)
    together = lisa.strain(theta, f, channels="EAT", start=3e6)
    monkeypatch.setattr(waveform, "_CHUNK", {"cpu": 256, "cuda": 256})
    in_chunks = lisa.strain(theta, f, channels="EAT", start=3e6)
    scale = together.abs().amax(dim=(0, 2))[:, None]
    torch.testing.assert_close(in_chunks / scale, together / scale, rtol=0, atol=1e-10)
    single = torch.cat([lisa.strain(t[None], f, channels="EAT", start=3e6) for t in theta])
    torch.testing.assert_close(single / scale, together / scale, rtol=0, atol=1e-10)
    own = f * torch.linspace(0.8, 1.2, 23, dtype=torch.float64)[:, None]
    rows = lisa.strain(theta, own, channels="EAT")
    pairs = zip(theta, own, strict=True)
    single = torch.cat([lisa.strain(t[None], o, channels="EAT") for t, o in pairs])
    torch.testing.assert_close(single / scale, rows / scale, rtol=0, atol=1e-10)


def test_no_rows_give_no_rows():
    assert lisa.strain(torch.zeros(0, 11), lisa_cases.band(8)).shape == (0, 2, 8)


def test_strain_is_transfer_times_carrier():
    theta = lisa_cases.binaries(5)
    f = lisa_cases.band(50, 1e-4, 2e-3)
    amplitude, phase, transfer = lisa.carrier(theta, f, channels="AET")
    product = transfer * (amplitude * torch.exp(1j * phase))[:, None]
    strain = lisa.strain(theta, f, channels="AET")
    torch.testing.assert_close(product, strain, rtol=1e-9, atol=1e-30)


def test_grid_is_within_its_stated_error():
    theta = lisa_cases.row(LOUD)
    grid = torch.arange(260, 35000, dtype=torch.float64) / (30 * 86400.0)
    grid = grid[:: len(grid) // 4000]
    full = lisa.strain(theta, grid)
    for nodes, bound in ((256, 4e-5), (512, 1.3e-5)):
        error = (lisa.strain_on_grid(theta, grid, nodes=nodes) - full).abs().max()
        assert error < bound * full.abs().max()
    few = grid[:100]
    assert torch.equal(lisa.strain_on_grid(theta, few), lisa.strain(theta, few))


def test_signal_begins_at_start_and_ends_with_the_model():
    theta = lisa_cases.row(LOUD)
    f = lisa_cases.band(400, 5e-5, 0.05)
    h = lisa.strain(theta, f, start=5 * 86400.0)[0, 0]
    _, _, time = mode_of(theta).at(f)
    inside = (time[0] >= -5 * 86400.0) & (f * 3e6 * SOLAR_MASS_SECONDS <= 0.3)
    assert torch.equal(h != 0, inside)
    assert 50 < int(inside.sum()) < 350


def test_time_distance_and_frame_scale_as_they_must():
    theta, f = lisa_cases.binaries(4), lisa_cases.band(40)
    h = lisa.strain(theta, f, frame="ssb")
    twice = theta.clone()
    twice[:, 4] *= 2.0
    torch.testing.assert_close(2.0 * lisa.strain(twice, f, frame="ssb"), h, rtol=1e-13, atol=0)
    # A later merger under an orbit as much earlier is the same signal, later.
    later = theta.clone()
    later[:, -1] += 1000.0
    moved = lisa.strain(later, f, frame="ssb", t_ref=lisa.DEFAULT_REFERENCE_TIME - 1000.0)
    shift = torch.exp(2j * math.pi * f * 1000.0)
    torch.testing.assert_close(moved, h * shift, rtol=1e-7, atol=0)
    a, e = lisa.strain(theta, f, channels="A"), lisa.strain(theta, f, channels="EA")
    assert torch.equal(a[:, 0], e[:, 1])


@pytest.mark.parametrize(
    "column, value, words",
    [("mass_ratio", 0.5, "mass_ratio = 0.5"), ("mass_ratio", 21.0, r"\[1, 20\]"),
     ("chi1", 1.01, "chi1"), ("chi2", -1.01, "chi2"), ("distance", 0.0, "distance"),
     ("distance", math.inf, "distance"), ("cos_inclination", 1.1, "cos_inclination"),
     ("sin_latitude", -1.1, "sin_latitude"), ("time", math.nan, "time = nan"),
     ("ln_chirp_mass", 1000.0, "ln_chirp_mass")],
)  # fmt: skip
def test_unphysical_parameters_are_named(column, value, words):
    theta = lisa_cases.binaries(3)
    theta[1, lisa.PARAMETERS.index(column)] = value
    with pytest.raises(lisa.ParameterRangeError, match=words) as error:
        lisa.strain(theta, lisa_cases.band(8))
    assert "row 1" in str(error.value)
    assert error.value.exit_status == 2
    assert "\n" not in str(error.value)
    h = lisa.strain(theta, lisa_cases.band(8), check=False)
    assert torch.isnan(h[1].real).all()
    assert torch.equal(h[::2], lisa.strain(theta[::2], lisa_cases.band(8)))


@pytest.mark.parametrize("theta", [torch.zeros(11), torch.zeros(2, 10), [[1.0], [1.0, 2.0]], "x"])
def test_wrong_shapes_are_refused(theta):
    with pytest.raises(lisa.ParameterRangeError, match="in the order ln_chirp_mass"):
        lisa.strain(theta, lisa_cases.band(8))


@pytest.mark.parametrize(
    "options, error, words",
    [({"channels": "AX"}, lisa.ChannelError, "'AX'"),
     ({"channels": ""}, lisa.ChannelError, "channels"),
     ({"channels": "AA"}, lisa.ChannelError, "each once"),
     ({"tdi": 3}, lisa.ChannelError, "tdi = 3"),
     ({"frame": "galactic"}, lisa.FrameError, "galactic"),
     ({"t_ref": math.nan}, lisa.FrameError, "t_ref"),
     ({"start": math.nan}, lisa.FrequencyError, "start"),
     ({"start": -1.0}, lisa.FrequencyError, "start")],
)  # fmt: skip
def test_wrong_options_are_refused(options, error, words):
    for function in (lisa.strain, lisa.strain_on_grid):
        with pytest.raises(error, match=words):
            function(lisa_cases.binaries(2), lisa_cases.band(8), **options)


@pytest.mark.parametrize(
    "frequencies", [[0.0, 1e-3], [-1e-3], [math.nan], [math.inf], [[1e-3]] * 3, 1e-3]
)
def test_wrong_frequencies_are_refused(frequencies):
    f = torch.tensor(frequencies, dtype=torch.float64)
    with pytest.raises(lisa.FrequencyError):
        lisa.strain(lisa_cases.binaries(2), f)


@pytest.mark.parametrize("grid", [[[1e-3, 2e-3]] * 2, [2e-3, 1e-3], [1e-3, 1e-3]])
def test_wrong_grids_are_refused(grid):
    with pytest.raises(lisa.FrequencyError, match="increasing"):
        lisa.strain_on_grid(lisa_cases.binaries(2), torch.tensor(grid, dtype=torch.float64))


def test_too_few_nodes_are_refused():
    with pytest.raises(lisa.FrequencyError, match="nodes = 3"):
        lisa.strain_on_grid(lisa_cases.binaries(2), lisa_cases.band(8), nodes=3)


def test_no_lisa_package_is_needed():
    code = (
        "import sys, torch; from gensci.sims import lisa\n"
        "lisa.strain(torch.tensor([[14.0, 2, 0, 0, 1e4, 0, 0, 0, 0, 0, 0]]), [1e-3])\n"
        "print(sorted(set(m.split('.')[0] for m in sys.modules) & "
        "{'lal', 'lalsimulation', 'lisabeta', 'lisagwresponse', 'pytdi', 'bbhx', 'scipy'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("frame", ["lisa", "ssb"])
def test_no_tensor_stays_behind_on_the_cpu(frame):
    """Tensors without storage meet no others: what would fail on a GPU fails here."""
    theta, f = lisa_cases.binaries(5).to("meta"), lisa_cases.band(8).to("meta")
    pieces = waveform._pieces(theta, f, waveform._Settings(frame, 0.0, 2, "AET"))
    assert pieces.transfer.is_meta and pieces.phase.is_meta
    assert waveform._in_band(f, pieces.mass, pieces.time, 1e5).is_meta
    assert lisa.sky_images(theta).is_meta
    assert lisa.to_lisa_log_abs_det_jacobian(theta).is_meta
    assert lisa.noise._science(f, f, lisa.NOISE_MODELS["SciRDv1"], None).is_meta


@needs_gpu
def test_gpu_equals_cpu():
    theta, f = lisa_cases.binaries(50), lisa_cases.band(64)
    here = lisa.strain(theta, f, channels="AET", tdi=2)
    rows = theta.cuda().requires_grad_()
    there = lisa.strain(rows, f.cuda(), channels="AET", tdi=2)
    scale = here.abs().amax(dim=(0, 2))[:, None]
    torch.testing.assert_close(there.detach().cpu() / scale, here / scale, rtol=0, atol=1e-9)
    (gradient,) = torch.autograd.grad(there.abs().sum() * 1e18, rows)
    assert gradient.is_cuda and torch.isfinite(gradient).all()
