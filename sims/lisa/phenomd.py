"""IMRPhenomD: the 22 mode of an aligned-spin binary (Khan et al. 2016, arXiv 1508.07253).

Batched and differentiable: one row per binary, any number of frequencies, float64, no loop over
rows. The mode is

    h22(f) = amplitude(f) exp(i phase(f)),   Fourier transform h(f) = integral h(t) e^(+2 pi i f t),

so that the signal passes frequency f at time (d phase / d f) / 2 pi. Time and phase are zero at the
peak of the amplitude, f_peak. (LALSimulation forgets the slope that joins the ringdown to the
intermediate phase when it places its time zero; here as in lisabeta it is kept.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .constants import MEGAPARSEC_SECONDS, SOLAR_MASS_SECONDS
from .phenomd_coefficients import (
    INSPIRAL_AMPLITUDE_END,
    INSPIRAL_PHASE_END,
    PI,
    fitted,
    inspiral_amplitude_series,
    inspiral_phase_series,
    ringdown,
    spins_of,
)

HIGHEST_FREQUENCY = 0.3
"""M f above which the model is not defined; the signal there is zero."""


@dataclass(frozen=True)
class Amplitude:
    """The three pieces of the amplitude over u^(-7/6), each in closed form; all (n, 1).

    Attributes:
        inspiral: coefficients of (pi u)^(k/3).
        quartic: coefficients of ((u - start) / (peak - start))^k.
        height: gamma1 of the ringdown's Lorentzian.
        decay: gamma2 / width, the rate of its exponential.
        width: gamma3 f_damping.
        centre: the ringdown frequency.
        peak: where the ringdown piece begins.
    """

    inspiral: list[Tensor]
    quartic: list[Tensor]
    height: Tensor
    decay: Tensor
    width: Tensor
    centre: Tensor
    peak: Tensor

    def at(self, u: Tensor, v: Tensor) -> Tensor:
        """The amplitude over u^(-7/6) at M f = ``u``, with ``v`` = (pi u)^(1/3)."""
        x = (u - INSPIRAL_AMPLITUDE_END) / (self.peak - INSPIRAL_AMPLITUDE_END)
        late = self.lorentzian(u)
        middle = torch.where(u < self.peak, _horner(self.quartic, x), late)
        return torch.where(u < INSPIRAL_AMPLITUDE_END, _horner(self.inspiral, v), middle)

    def lorentzian(self, u: Tensor) -> Tensor:
        """The ringdown piece (equation 19)."""
        away = u - self.centre
        line = self.height * self.width / (away * away + self.width**2)
        return line * torch.exp(-self.decay * away)


@dataclass(frozen=True)
class Phase:
    """The three pieces of the phase, joined so that value and slope are continuous; all (n, 1).

    Attributes:
        inspiral: coefficients of v^k, k = -5..6.
        logs: coefficients of ln v and v ln v.
        intermediate: coefficients of 1, u, ln u, u^-3.
        late: coefficients of 1, u, 1/u, u^(3/4), atan((u - centre) / width).
        centre: alpha5 f_ringdown.
        width: f_damping.
        end: where the ringdown piece begins.
    """

    inspiral: list[Tensor]
    logs: list[Tensor]
    intermediate: list[Tensor]
    late: list[Tensor]
    centre: Tensor
    width: Tensor
    end: Tensor

    def at(self, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Phase (rad) and its derivative by u at M f = ``u``, with ``v`` = (pi u)^(1/3)."""
        log_v = torch.log(v)
        pieces = (
            self.inspiral_at(u, v, log_v),
            self.intermediate_at(u, log_v),
            self.late_at(u),
        )
        early, before = u < INSPIRAL_PHASE_END, u < self.end
        phase, slope = (
            torch.where(early, first, torch.where(before, second, third))
            for first, second, third in zip(*pieces, strict=True)
        )
        return phase, slope

    def inspiral_at(self, u: Tensor, v: Tensor, log_v: Tensor) -> tuple[Tensor, Tensor]:
        """TaylorF2 with fitted terms (equation 28)."""
        value, by_v = _horner_pair(self.inspiral, v)
        inverse = 1.0 / v
        inverse5 = inverse**5
        constant, linear = self.logs
        phase = value * inverse5 + (constant + linear * v) * log_v
        # The series is v^-5 P(v), so its slope is v^-5 (P' - 5 P / v).
        slope = inverse5 * (by_v - 5.0 * value * inverse)
        slope = slope + constant * inverse + linear * (log_v + 1.0)
        return phase, slope * v / (3.0 * u)

    def intermediate_at(self, u: Tensor, log_v: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 16, with ln u from ln v."""
        offset, linear, logarithm, cubic = self.intermediate
        inverse = 1.0 / u
        inverse3 = inverse**3
        log_u = 3.0 * log_v - _LOG_PI
        phase = offset + linear * u + logarithm * log_u + cubic * inverse3
        return phase, linear + (logarithm - 3.0 * cubic * inverse3) * inverse

    def late_at(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Equation 14."""
        offset, linear, pole, power, step = self.late
        inverse, root = 1.0 / u, torch.sqrt(u)
        three_quarters = root * torch.sqrt(root)
        x = (u - self.centre) / self.width
        phase = offset + linear * u + pole * inverse + power * three_quarters
        slope = linear + inverse * (0.75 * power * three_quarters - pole * inverse)
        return phase + step * torch.atan(x), slope + step / (self.width * (1.0 + x * x))


@dataclass(frozen=True)
class Mode22:
    """The 22 mode of n binaries, ready to be evaluated at any frequency.

    Attributes:
        mass: detector-frame total mass, s; (n, 1).
        scale: |h22| in 1/Hz over the dimensionless amplitude; (n, 1).
        amplitude: dimensionless amplitude.
        phase: phase, zero with zero slope at the peak of the amplitude.
    """

    mass: Tensor
    scale: Tensor
    amplitude: Amplitude
    phase: Phase

    def at(self, frequencies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Amplitude (1/Hz), phase (rad) and time after the peak (s) at ``frequencies`` (Hz).

        Args:
            frequencies: (m,) or (n, m), Hz, positive.

        Returns:
            three tensors of shape (n, m).
        """
        u = self.mass * frequencies
        v = _cube_root(PI * u)
        phase, slope = self.phase.at(u, v)
        amplitude = self.scale * self.amplitude.at(u, v) / (u * torch.sqrt(v))
        return amplitude, phase, slope * (self.mass / (2.0 * PI))


def mode22(
    ln_chirp_mass: Tensor, mass_ratio: Tensor, chi1: Tensor, chi2: Tensor, distance: Tensor
) -> Mode22:
    """Prepares the 22 mode of n binaries.

    Args:
        ln_chirp_mass: ln of the detector-frame chirp mass in solar masses, (n, 1).
        mass_ratio: m1/m2, at least 1, (n, 1).
        chi1: aligned spin of the heavier hole, (n, 1).
        chi2: aligned spin of the lighter hole, (n, 1).
        distance: luminosity distance in Mpc, (n, 1).
    """
    spins = spins_of(mass_ratio, chi1, chi2)
    fits = fitted(spins)
    frequency, damping = ringdown(spins)
    amplitude = _amplitude(inspiral_amplitude_series(spins, fits), fits, frequency, damping)
    phase = _phase(*inspiral_phase_series(spins, fits), fits, spins.eta, frequency, damping)
    mass = SOLAR_MASS_SECONDS * torch.exp(ln_chirp_mass) * spins.eta ** (-0.6)
    # sqrt(2 eta / 3) pi^(-1/6) u^(-7/6) = sqrt(2 eta / 3) / (u v^(1/2)) with v = (pi u)^(1/3).
    scale = mass**2 / (MEGAPARSEC_SECONDS * distance) * torch.sqrt(2.0 / 3.0 * spins.eta)
    return Mode22(mass, scale, amplitude, _zeroed(phase, amplitude.peak))


def _amplitude(
    inspiral: list[Tensor], fits: dict[str, Tensor], frequency: Tensor, damping: Tensor
) -> Amplitude:
    """Places the peak and fits the quartic between inspiral and ringdown (equations 20, 21)."""
    gamma2, width = fits["gamma2"], fits["gamma3"] * damping
    # gamma2 passes 1 for some binaries; the square root then ends at zero, as in the paper.
    root = torch.sqrt(torch.clamp(1.0 - gamma2**2, min=1e-30))
    peak = (frequency + width * (torch.where(gamma2 < 1.0, root, 0.0) - 1.0) / gamma2).abs()
    bare = Amplitude(inspiral, [], fits["gamma1"], gamma2 / width, width, frequency, peak)
    start = torch.full_like(peak, INSPIRAL_AMPLITUDE_END)
    v = _cube_root(PI * start)
    value1, slope1 = _horner_pair(inspiral, v)
    slope1 = slope1 * v / (3.0 * start)
    value3, away = bare.lorentzian(peak), peak - frequency
    slope3 = value3 * (-bare.decay - 2.0 * away / (away**2 + width**2))
    quartic = _hermite_quartic(value1, slope1, fits["v2"], value3, slope3, peak - start)
    return Amplitude(inspiral, quartic, fits["gamma1"], bare.decay, width, frequency, peak)


def _hermite_quartic(
    value1: Tensor, slope1: Tensor, value2: Tensor, value3: Tensor, slope3: Tensor, span: Tensor
) -> list[Tensor]:
    """Quartic on [0, 1] from its values at 0, 1/2 and 1 and the slopes at both ends."""
    slope1, slope3 = slope1 * span, slope3 * span
    rise, bend = value3 - value1 - slope1, slope3 - slope1
    half = 16.0 * (value2 - value1 - 0.5 * slope1)
    second = half - 5.0 * rise + bend
    third = 4.0 * rise - 2.0 * second - bend
    return [value1, slope1, second, third, rise - second - third]


def _phase(
    inspiral: list[Tensor],
    logs: list[Tensor],
    fits: dict[str, Tensor],
    eta: Tensor,
    frequency: Tensor,
    damping: Tensor,
) -> Phase:
    """Joins the three pieces with continuous value and slope (section VI of the paper)."""
    zero = torch.zeros_like(eta)
    middle = [zero, fits["beta1"] / eta, fits["beta2"] / eta, -fits["beta3"] / (3.0 * eta)]
    late = [zero, fits["alpha1"] / eta, -fits["alpha2"] / eta]
    late += [4.0 / 3.0 * fits["alpha3"] / eta, fits["alpha4"] / eta]
    centre, end = fits["alpha5"] * frequency, 0.5 * frequency
    raw = Phase(inspiral, logs, middle, late, centre, damping, end)
    start = torch.full_like(eta, INSPIRAL_PHASE_END)
    v = _cube_root(PI * start)
    target = raw.inspiral_at(start, v, torch.log(v))
    middle = _joined(middle, target, raw.intermediate_at(start, torch.log(v)), start)
    half = Phase(inspiral, logs, middle, late, centre, damping, end)
    target = half.intermediate_at(end, torch.log(PI * end) / 3.0)
    late = _joined(late, target, raw.late_at(end), end)
    return Phase(inspiral, logs, middle, late, centre, damping, end)


def _joined(
    piece: list[Tensor], target: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor], u: Tensor
) -> list[Tensor]:
    """Adds offset and slope so that ``piece`` meets ``target`` (value, slope) at ``u``."""
    linear = target[1] - now[1]
    return [piece[0] + target[0] - now[0] - linear * u, piece[1] + linear, *piece[2:]]


def _zeroed(phase: Phase, peak: Tensor) -> Phase:
    """Moves time and phase so that both are zero at the peak of the amplitude."""
    value, slope = phase.at(peak, _cube_root(PI * peak))
    offset = value - slope * peak
    series = list(phase.inspiral)
    series[5] = series[5] - offset
    series[8] = series[8] - slope / PI
    middle = [phase.intermediate[0] - offset, phase.intermediate[1] - slope]
    late = [phase.late[0] - offset, phase.late[1] - slope]
    return Phase(
        series,
        phase.logs,
        middle + phase.intermediate[2:],
        late + phase.late[2:],
        phase.centre,
        phase.width,
        phase.end,
    )


_LOG_PI = 1.1447298858494002


def _cube_root(x: Tensor) -> Tensor:
    return x ** (1.0 / 3.0)


def _horner(coefficients: list[Tensor], x: Tensor) -> Tensor:
    total = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        total = torch.addcmul(c, total, x)
    return total


def _horner_pair(coefficients: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """A polynomial and its derivative."""
    slopes = [k * c for k, c in enumerate(coefficients)][1:]
    return _horner(coefficients, x), _horner(slopes, x)
