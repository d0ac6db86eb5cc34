"""What IMRPhenomD needs of each binary, computed once and then used at every frequency.

Equations of Khan et al. 2016 (arXiv 1508.07253) and Husa et al. 2016 (arXiv 1508.07250). Everything
is in geometric units: frequencies are u = M f with M the detector-frame total mass in seconds.
Coefficients have shape (n, 1) so that they broadcast with frequencies of shape (n, m) or (m,).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .constants import EULER_GAMMA
from .phenomd_tables import DAMPING_FREQUENCY, FITS, RINGDOWN_FREQUENCY

PI = math.pi
INSPIRAL_PHASE_END = 0.018
"""M f where the phase passes from the inspiral to the intermediate form."""
INSPIRAL_AMPLITUDE_END = 0.014
"""M f where the amplitude passes from the inspiral to the intermediate form."""


@dataclass(frozen=True)
class Spins:
    """Mass ratio and spins in the combinations that the post-Newtonian series use.

    Attributes:
        eta: symmetric mass ratio.
        delta: (m1 - m2) / M.
        symmetric: (chi1 + chi2) / 2.
        antisymmetric: (chi1 - chi2) / 2.
    """

    eta: Tensor
    delta: Tensor
    symmetric: Tensor
    antisymmetric: Tensor


def spins_of(mass_ratio: Tensor, chi1: Tensor, chi2: Tensor) -> Spins:
    """Forms the combinations from the mass ratio m1/m2 >= 1 and the two spins."""
    total = 1.0 + mass_ratio
    return Spins(
        eta=mass_ratio / total**2,
        delta=(mass_ratio - 1.0) / total,
        symmetric=0.5 * (chi1 + chi2),
        antisymmetric=0.5 * (chi1 - chi2),
    )


def fitted(spins: Spins) -> dict[str, Tensor]:
    """The nineteen phenomenological parameters (Khan et al. 2016, equation 31)."""
    eta = spins.eta
    reduced = spins.symmetric * (1.0 - 76.0 / 113.0 * eta) + spins.delta * spins.antisymmetric
    x = reduced - 1.0
    x2, one, eta2 = x * x, torch.ones_like(eta), eta * eta
    x3 = x2 * x
    basis = torch.cat(
        [one, eta, x, x * eta, x * eta2, x2, x2 * eta, x2 * eta2, x3, x3 * eta, x3 * eta2], dim=1
    )
    table = _fit_table().to(basis.device)
    return dict(zip(FITS, (basis @ table).split(1, dim=1), strict=True))


@lru_cache(maxsize=1)
def _fit_table() -> Tensor:
    return torch.tensor(list(FITS.values()), dtype=torch.float64).T.contiguous()


def ringdown(spins: Spins) -> tuple[Tensor, Tensor]:
    """M f of the ringdown and of its damping, from the fits of final spin and radiated energy."""
    spin, energy = _final_spin(spins), _radiated_energy(spins)
    x = 2.0 * torch.clamp(0.5 * (1.0 - spin), min=1e-6) ** 0.25 - 1.0
    remnant = 1.0 - energy
    return _chebyshev(x, RINGDOWN_FREQUENCY) / remnant, _chebyshev(x, DAMPING_FREQUENCY) / remnant


def _chebyshev(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Sum of Chebyshev polynomials by Clenshaw's recurrence."""
    ahead, above = torch.zeros_like(x), torch.zeros_like(x)
    for c in reversed(coefficients[1:]):
        ahead, above = 2.0 * x * ahead - above + c, ahead
    return x * ahead - above + coefficients[0]


def _final_spin(spins: Spins) -> Tensor:
    """Spin of the remnant (Husa et al. 2016, equation 3.6)."""
    eta = spins.eta
    s = _total_spin(spins)
    return eta * (
        3.4641016151377544
        + eta * (-4.399247300629289 + eta * (9.397292189321194 - 13.180949901606242 * eta))
    ) + s * (
        1.0
        + eta * (-0.0850917821418767 - 5.837029316602263 * eta)
        + eta * (0.1014665242971878 - 2.0967746996832157 * eta) * s
        + eta * (-1.3546806617824356 + 4.108962025369336 * eta) * s**2
        + eta * (-0.8676969352555539 + 2.064046835273906 * eta) * s**3
    )


def _radiated_energy(spins: Spins) -> Tensor:
    """Fraction of the mass that is radiated (Husa et al. 2016, equations 3.7 and 3.8)."""
    eta = spins.eta
    s = _total_spin(spins) / (1.0 - 2.0 * eta)
    at_rest = eta * (
        0.055974469826360077
        + eta * (0.5809510763115132 + eta * (-0.9606726679372312 + 3.352411249771192 * eta))
    )
    above = -0.0030302335878845507 + eta * (-2.0066110851351073 + 7.7050567802399215 * eta)
    below = -0.6714403054720589 + eta * (-1.4756929437702908 + 7.304676214885011 * eta)
    return at_rest * (1.0 + above * s) / (1.0 + below * s)


def _total_spin(spins: Spins) -> Tensor:
    """(m1^2 chi1 + m2^2 chi2) / M^2."""
    return spins.symmetric * (1.0 - 2.0 * spins.eta) + spins.delta * spins.antisymmetric


def inspiral_amplitude_series(spins: Spins, fits: dict[str, Tensor]) -> list[Tensor]:
    """Coefficients of (pi u)^(k/3), k = 0..9, of the amplitude over its leading order.

    Khan et al. 2016, equations 29, 30 and B14 to B20.
    """
    eta, d, s, a = spins.eta, spins.delta, spins.symmetric, spins.antisymmetric
    one = torch.ones_like(eta)
    a2 = -323.0 / 224.0 + 451.0 / 168.0 * eta
    a3 = 27.0 / 8.0 * d * a + (27.0 / 8.0 - 11.0 / 6.0 * eta) * s
    a4 = (
        -27312085.0 / 8128512.0
        + eta * (-1975055.0 / 338688.0 + 105271.0 / 24192.0 * eta)
        + (-81.0 / 32.0 + 8.0 * eta) * a**2
        - 81.0 / 16.0 * d * a * s
        + (-81.0 / 32.0 + 17.0 / 8.0 * eta) * s**2
    )
    a5 = (
        PI * (-85.0 / 64.0 + 85.0 / 16.0 * eta)
        + d * (285197.0 / 16128.0 - 1579.0 / 4032.0 * eta) * a
        + (285197.0 / 16128.0 - eta * (15317.0 / 672.0 + 2227.0 / 1008.0 * eta)) * s
    )
    a6 = (
        -177520268561.0 / 8583708672.0
        + eta * (545384828789.0 / 5007163392.0 - 205.0 / 48.0 * PI**2)
        + eta**2 * (-3248849057.0 / 178827264.0 + 34473079.0 / 6386688.0 * eta)
        + (1614569.0 / 64512.0 + eta * (-1873643.0 / 16128.0 + 2167.0 / 42.0 * eta)) * a**2
        + PI * (31.0 / 12.0 - 7.0 / 3.0 * eta) * s
        + (1614569.0 / 64512.0 + eta * (-61391.0 / 1344.0 + 57451.0 / 4032.0 * eta)) * s**2
        + d * a * (31.0 / 12.0 * PI + (1614569.0 / 32256.0 - 165961.0 / 2688.0 * eta) * s)
    )
    # The fits are in powers of u, the series in powers of pi u.
    fit = [fits[f"rho{k}"] * PI ** (-(6 + k) / 3.0) for k in (1, 2, 3)]
    return [one, 0.0 * one, a2, a3, a4, a5, a6, *fit]


def inspiral_phase_series(
    spins: Spins, fits: dict[str, Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The inspiral phase as a series in v = (pi u)^(1/3).

    TaylorF2 to 3.5 PN with the spin terms of Khan et al. 2016 (equations B6 to B13; no spin-spin
    terms at 3 PN, as in the calibration) and the fitted terms of their equation 28.

    Returns:
        coefficients of v^k for k = -5..6, and coefficients of ln v and of v ln v.
    """
    eta, d, s, a = spins.eta, spins.delta, spins.symmetric, spins.antisymmetric
    p2 = 3715.0 / 756.0 + 55.0 / 9.0 * eta
    p3 = -16.0 * PI + 113.0 / 3.0 * d * a + (113.0 / 3.0 - 76.0 / 3.0 * eta) * s
    p4 = (
        15293365.0 / 508032.0
        + eta * (27145.0 / 504.0 + 3085.0 / 72.0 * eta)
        + (-405.0 / 8.0 + 200.0 * eta) * a**2
        - 405.0 / 4.0 * d * a * s
        + (-405.0 / 8.0 + 5.0 / 2.0 * eta) * s**2
    )
    p5 = (
        PI * (38645.0 / 756.0 - 65.0 / 9.0 * eta)
        + d * (-732985.0 / 2268.0 - 140.0 / 9.0 * eta) * a
        + (-732985.0 / 2268.0 + eta * (24260.0 / 81.0 + 340.0 / 9.0 * eta)) * s
    )
    p6 = (
        11583231236531.0 / 4694215680.0
        - 6848.0 / 21.0 * (EULER_GAMMA + math.log(4.0))
        - 640.0 / 3.0 * PI**2
        + eta * (-15737765635.0 / 3048192.0 + 2255.0 / 12.0 * PI**2)
        + eta**2 * (76055.0 / 1728.0 - 127825.0 / 1296.0 * eta)
        + PI * (2270.0 / 3.0 * (d * a + s) - 520.0 * eta * s)
    )
    p7 = (
        PI * (77096675.0 / 254016.0 + eta * (378515.0 / 1512.0 - 74045.0 / 756.0 * eta))
        + d * a * (-25150083775.0 / 3048192.0 + eta * (26804935.0 / 6048.0 - 1985.0 / 48.0 * eta))
        + s * (-25150083775.0 / 3048192.0)
        + s * eta * (10566655595.0 / 762048.0 + eta * (-1042165.0 / 3024.0 + 5345.0 / 36.0 * eta))
    )
    leading, zero = 3.0 / (128.0 * eta), torch.zeros_like(eta)
    series = [leading, zero, leading * p2, leading * p3, leading * p4, leading * p5 - PI / 4.0]
    series += [leading * p6, leading * p7]
    for k, weight in ((1, 1.0), (2, 0.75), (3, 0.6), (4, 0.5)):
        series.append(weight * fits[f"sigma{k}"] / eta * PI ** (-(2 + k) / 3.0))
    # The fitted terms are powers v^3..v^6; the post-Newtonian ones end at v^2.
    return series, [3.0 * leading * p5, leading * (-6848.0 / 21.0)]
