"""Coordinates of a binary in which its posterior is simple: few bends and no copies.

At low frequency the two channels are linear in two complex amplitudes that hold distance,
inclination, phase, polarisation and the pattern of the constellation at the binary's place (Marsat,
Baker & Dal Canton 2020, arXiv 2003.00357). With them as coordinates

* signals are nearly linear, so that emulators need polynomials of low degree only, and posteriors
  are nearly Gaussian where they are narrow;
* the four binaries that the 22 mode cannot tell apart at all (phase + pi; phase and polarisation
  + pi/2) are one point;
* the eight skies alike at low frequency differ in the last two coordinates only.

In place of the first spin stands the reduced spin of the inspiral,

    chi_PN = m1 chi1 + m2 chi2 - (38 / 113) eta (chi1 + chi2)      (masses over their sum),

which is measured much better than either spin (Ajith 2011, arXiv:1107.1267). Along the direction
that is not, the first spin is a curve of the second and of the masses; the reduced one hardly
bends. Its range depends on masses and the second spin, so that the prior's ends are slanted.

They degenerate where the constellation sees the binary edge-on (latitude zero) and where a
circularly polarised wave vanishes (face-on); both have no volume.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.priors import Prior
from gensci.sims.lisa import PARAMETERS, to_lisa, to_lisa_log_abs_det_jacobian, to_ssb
from gensci.systems.lisa_setting import Setting

SIMPLE = (
    "ln_chirp_mass", "symmetric_mass_ratio", "reduced_spin", "chi2", "time", "first_real",
    "first_imag", "second_real", "second_imag", "sin_latitude", "longitude",
)  # fmt: skip
"""Names of the simple coordinates; all in the constellation's frame."""
COPIES = 4
"""Binaries that one point stands for."""
_UNIT = 5e4  # Mpc, at which amplitudes are about one
_PHASE, _POLARISATION = PARAMETERS.index("phase"), PARAMETERS.index("polarisation")
_RATIO, _SPIN, _TIME, _SINE, _LONGITUDE = 1, 2, 4, 9, 10
_QUARTER = 0.5 * math.pi


def to_simple(theta: Tensor, setting: Setting) -> Tensor:
    """(n, 11) simple coordinates of (n, 11) binaries."""
    if setting.frame == "ssb":
        theta = to_lisa(theta, setting.t_ref)
    mass, ratio, chi1, chi2, distance, cosine, phase, longitude, sine, psi, time = theta.unbind(1)
    right = torch.polar((0.5 * (1 + cosine)).square() * _UNIT / distance, 2 * (phase - psi))
    left = torch.polar((0.5 * (1 - cosine)).square() * _UNIT / distance, 2 * (phase + psi))
    plus, cross = 0.5 * (right + left), 0.5j * (right - left)
    even, odd = 0.5 * (1 + sine.square()) * plus, 1j * sine * cross
    turn = torch.polar(torch.ones_like(longitude), 2 * longitude)
    first, second = turn * (even - odd), turn.conj() * (even + odd)
    symmetric = ratio / (1 + ratio).square()
    heavier, lighter = spin_slopes(symmetric)
    parts = [first.real, first.imag, second.real, second.imag]
    spin = heavier * chi1 + lighter * chi2
    return torch.stack([mass, symmetric, spin, chi2, time, *parts, sine, longitude], 1)


def from_simple(simple: Tensor, setting: Setting, copy: Tensor | None = None) -> Tensor:
    """(n, 11) binaries of (n, 11) simple coordinates; inverse of `to_simple`.

    Args:
        simple: the points.
        setting: of the data.
        copy: (n,) which of the four equal binaries, 0 to 3; the first where absent.
    """
    theta = _in_lisa_frame(simple)
    if copy is not None:
        half = _QUARTER * torch.remainder(copy, 2).double()
        whole = math.pi * torch.div(copy, 2, rounding_mode="floor").double()
        theta[:, _PHASE] = torch.remainder(theta[:, _PHASE] + half + whole, 2 * math.pi)
        theta[:, _POLARISATION] = torch.remainder(theta[:, _POLARISATION] + half, math.pi)
    return to_ssb(theta, setting.t_ref) if setting.frame == "ssb" else theta


def _in_lisa_frame(simple: Tensor) -> Tensor:
    mass, symmetric, _, chi2, time, _, _, _, _, sine, longitude = simple.unbind(1)
    right, left = circular_amplitudes(simple)
    strong, weak = right.abs().sqrt(), left.abs().sqrt()
    distance = _UNIT / (strong + weak).square()
    cosine = (strong - weak) / (strong + weak)
    u, v = 0.5 * right.angle(), 0.5 * left.angle()  # phase less and plus polarisation
    phase = torch.remainder(0.5 * (u + v), 2 * math.pi)
    polarisation = torch.remainder(0.5 * (v - u), math.pi)
    # Both u and v are known up to pi, which leaves the polarisation up to pi/2: a copy.
    root = (0.25 - symmetric).clamp(min=0.0).sqrt()
    ratio = (0.5 + root) / (0.5 - root)
    longitude = torch.remainder(longitude, 2 * math.pi)
    chi1 = first_spin(simple)
    columns = [mass, ratio, chi1, chi2, distance, cosine, phase, longitude, sine, polarisation]
    return torch.stack([*columns, time], 1)


def circular_amplitudes(simple: Tensor) -> tuple[Tensor, Tensor]:
    """Amplitudes (n,) of the right and the left circularly polarised wave of (n, 11) points."""
    a, b, c, d, sine, longitude = simple[:, 5:].unbind(1)
    turn = torch.polar(torch.ones_like(longitude), 2 * longitude)
    one, two = torch.complex(a, b) * turn.conj(), torch.complex(c, d) * turn
    plus = (one + two) / (1 + sine.square())
    cross = -0.5j * (two - one) / sine
    return plus - 1j * cross, plus + 1j * cross


def spin_slopes(symmetric: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes of the reduced spin by either spin at symmetric mass ratios (n,).

    That by the heavier hole's is 0.41 or more.
    """
    apart = (1 - 4 * symmetric).clamp_min(0.0).sqrt()
    shift = 38 / 113 * symmetric
    return 0.5 * (1 + apart) - shift, 0.5 * (1 - apart) - shift


def first_spin(simple: Tensor) -> Tensor:
    """The heavier hole's spin (n,) of (n, 11) points."""
    heavier, lighter = spin_slopes(simple[:, _RATIO])
    return (simple[:, _SPIN] - lighter * simple[:, _SPIN + 1]) / heavier


def log_abs_det_jacobian(theta: Tensor, setting: Setting) -> Tensor:
    """Ln |d simple / d theta| at (n, 11) binaries; (n,)."""
    total = theta.new_zeros(len(theta))
    if setting.frame == "ssb":
        total = to_lisa_log_abs_det_jacobian(theta, setting.t_ref)
        theta = to_lisa(theta, setting.t_ref)
    ratio, distance, cosine, sine = theta[:, 1], theta[:, 4], theta[:, 5], theta[:, 8]
    # Waves are (distance, cosine) -> sizes -> complex amplitudes -> patterns; masses follow.
    waves = 3 * torch.log1p(-cosine.square()) - 5 * distance.log() + 4 * math.log(_UNIT)
    pattern = 2 * (1 + sine.square()).log() + 2 * sine.abs().log()
    masses = (ratio - 1).log() - 3 * (1 + ratio).log()
    spins = spin_slopes(ratio / (1 + ratio).square())[0].log()
    return total + waves + pattern + masses + spins - 5 * math.log(2.0)


class SimplePrior(Prior):
    """The prior of simple coordinates that a prior of binaries means.

    Args:
        prior: over `gensci.sims.lisa.PARAMETERS`, alike for the four equal binaries.
        setting: of the data.

    Attributes:
        binaries: the prior of binaries.

    Raises:
        UsageError: equal binaries are not equally likely.
    """

    kind = "lisa-simple"

    def __init__(self, prior: Prior, setting: Setting) -> None:
        self.binaries, self.setting = prior, setting
        bounds = torch.full((len(SIMPLE), 2), math.inf, dtype=torch.float64)
        bounds[:, 0] = -math.inf
        low, high = prior.bounds.unbind(1)
        largest = 0.25 if low[1] <= 1 else low[1] / (1 + low[1]) ** 2
        bounds[0], bounds[3] = prior.bounds[0], prior.bounds[3]
        bounds[1] = torch.tensor([float(high[1] / (1 + high[1]) ** 2), float(largest)]).double()
        bounds[_SINE, 0], bounds[_SINE, 1] = -1.0, 1.0
        bounds[_LONGITUDE, 0], bounds[_LONGITUDE, 1] = 0.0, 2 * math.pi
        if setting.frame == "lisa":
            bounds[_TIME], bounds[_SINE] = prior.bounds[10], prior.bounds[8]
        super().__init__(SIMPLE, bounds, (None,) * 10 + (2 * math.pi,))
        self._check_copies()

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, 11) points."""
        return to_simple(self.binaries.sample(n, generator), self.setting)

    def settings(self) -> dict[str, Any]:
        """The prior of binaries and the setting."""
        return {"binaries": self.binaries.to_json(), "setting": self.setting.to_json()}

    def _log_density(self, theta: Tensor) -> Tensor:
        binaries = from_simple(theta, self.setting)
        density = self.binaries.log_prob(binaries) + math.log(COPIES)
        density = density - log_abs_det_jacobian(binaries, self.setting)
        return torch.where(density.isfinite(), density, -torch.inf)

    def _check_copies(self) -> None:
        theta = self.binaries.sample(8, torch.Generator().manual_seed(0))
        simple = to_simple(theta, self.setting)
        for copy in range(COPIES):
            equal = from_simple(simple, self.setting, torch.full((len(simple),), copy))
            if not torch.allclose(self.binaries.log_prob(equal), self.binaries.log_prob(theta)):
                raise UsageError(
                    "the prior tells binaries apart that the 22 mode cannot (phase + pi; phase and "
                    "polarisation + pi/2)",
                    "let it be uniform over 2 pi in phase and pi in polarisation",
                )


def skies(simple: Tensor) -> Tensor:
    """The eight skies (8, n, 11) alike at low frequency, itself first; volumes are kept."""
    images = simple.expand(8, -1, -1).clone()
    for number in range(8):
        sign, turns = (1.0, number) if number < 4 else (-1.0, number - 4)
        images[number, :, _SINE] = sign * simple[:, _SINE]
        images[number, :, _LONGITUDE] = torch.remainder(
            simple[:, _LONGITUDE] + turns * _QUARTER, 2 * math.pi
        )
    return images


def closed(numbers: Tensor) -> Tensor:
    """The smallest group of skies that holds the given ones, as numbers of `skies`."""
    group = {0, *numbers.tolist()}
    while True:
        # Mirrors and quarter turns commute: their numbers add up.
        products = {4 * ((a // 4 + b // 4) % 2) + (a + b) % 4 for a in group for b in group}
        if products <= group:
            return torch.tensor(sorted(group))
        group |= products


class Images:
    """Some of the eight skies as maps.

    Args:
        chosen: (k,) numbers of `skies`, the first 0, a group; see `closed`.

    Attributes:
        skies: (k,) the numbers.
    """

    def __init__(self, chosen: Tensor) -> None:
        self.skies = chosen

    def __call__(self, simple: Tensor) -> Tensor:
        """The (k, n, 11) images of (n, 11) points."""
        return simple[None] if len(self.skies) == 1 else skies(simple)[self.skies]
