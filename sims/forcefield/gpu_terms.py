"""The pair physics of the Triton kernels: what two atoms do to each other, as in pairs.c.

Every function works on a tile of atoms i and conformations with one partner j. Numbers of the
force field that belong to i are columns, those of j and of the system are scalars.
"""

# ruff: noqa: ANN001, ANN201 - to triton an annotation of an argument is an instruction
import triton
import triton.language as tl

from .gpu_tables import NECK_WIDTH, SETTING_WIDTH
from .parameters import NECK_SHARPNESS

_SETTING: tl.constexpr = tl.constexpr(SETTING_WIDTH)
_NECK: tl.constexpr = tl.constexpr(NECK_WIDTH)
_PROBE: tl.constexpr = tl.constexpr(0.14)
_SHARP: tl.constexpr = tl.constexpr(NECK_SHARPNESS[0])
_SHARPEST: tl.constexpr = tl.constexpr(NECK_SHARPNESS[1])


@triton.jit
def logarithm(x, FAST: tl.constexpr):
    """Natural logarithm; FAST is one instruction, to 2^-22 of the binary one.

    That is as good as single precision allows here: it is added to differences of its own size.
    """
    if FAST:
        binary = tl.inline_asm_elementwise(
            "lg2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
        return 0.6931471805599453 * binary
    else:
        return tl.log(x)


@triton.jit
def reciprocal(x, FAST: tl.constexpr):
    """1 / x; FAST is one instruction, to one unit in the last place, for normal numbers."""
    if FAST:
        return tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    else:
        return 1.0 / x


@triton.jit
def descreening(r, inverse, own, scaled, FAST: tl.constexpr):
    """Born integral of an atom over another one and its derivative in r, over r.

    Hawkins, Cramer, Truhlar 1995 (doi:10.1016/0009-2614(95)01082-K).
    """
    upper = r + scaled
    gap = r - scaled
    size = tl.abs(gap)
    engulfed = size < own  # the lower limit is then the atom's own surface
    lower = tl.where(engulfed, own, size)
    common = reciprocal(lower * upper, FAST)
    low, high = upper * common, lower * common
    squares = high * high - low * low
    inverse2 = inverse * inverse
    ratio = scaled * scaled * inverse2
    log_part = 0.25 * inverse * logarithm(lower * high, FAST)
    value = 0.5 * (low - high) + 0.125 * r * (1.0 - ratio) * squares + log_part
    # the integrand vanishes at both limits, but for the lower one where i lies within j's sphere
    within = tl.where((size >= own) & (gap < 0.0), low * low, 0.0)
    slope = (0.125 * (1.0 + ratio) * squares + within) * inverse - log_part * inverse2
    counted = upper > own
    return tl.where(counted, value, 0.0), tl.where(counted, slope, 0.0)


@triton.jit
def neck(r, inverse, reached, height, centre, FAST: tl.constexpr):
    """What a neck adds to an integral (Mongan et al. 2007) and its derivative in r, over r."""
    d = r - centre
    d2 = d * d
    d4 = d2 * d2
    fall = reciprocal(1.0 + d2 * (_SHARP + _SHARPEST * d4), FAST)
    value = tl.where(reached, height * fall, 0.0)
    return value, -value * fall * d * (2.0 * _SHARP + 6.0 * _SHARPEST * d4) * inverse


@triton.jit
def necks(r, inverse, table, reach, FAST: tl.constexpr):
    """The necks on i by j and on j by i, each with its derivative."""
    near = r <= reach
    value, slope = neck(r, inverse, near, tl.load(table), tl.load(table + 1), FAST)
    height, centre = tl.load(table + 2), tl.load(table + 3)
    other_value, other_slope = neck(r, inverse, near, height, centre, FAST)
    return value, slope, other_value, other_slope


@triton.jit
def born_radius(integral, table, HAS_TANH: tl.constexpr):
    """Born radius and its derivative in the Born integral (Onufriev, Bashford, Case 2004)."""
    own = tl.load(table)
    within, outside = 1.0 / own, 1.0 / tl.load(table + 2)
    psi = integral * own
    if HAS_TANH:
        alpha, beta, gamma = tl.load(table + 4), tl.load(table + 5), tl.load(table + 6)
        inner = psi * (alpha + psi * (beta + psi * gamma))
        inner_rate = alpha + psi * (2.0 * beta + 3.0 * psi * gamma)
        # 1 - tanh(inner), kept apart: the inverse radius is a small difference
        rest = 2.0 / (tl.exp(2.0 * tl.minimum(inner, 40.0)) + 1.0)
        radius = 1.0 / ((within - outside) + rest * outside)
        slope = outside * rest * (2.0 - rest) * inner_rate
    else:
        radius = 1.0 / (within - within * psi)
        slope = within
    return radius, radius * radius * own * slope


@triton.jit
def single_atoms(radius, table, setting, HAS_SALT: tl.constexpr):
    """Energy of the atoms with the solvent, and its derivative in the Born radius."""
    intrinsic = tl.load(table + 2)
    charge = tl.load(table + 3)
    inverse = 1.0 / radius
    ratio = intrinsic * inverse
    cube = ratio * ratio * ratio
    reach = intrinsic + _PROBE
    surface = tl.load(setting + 1) * reach * reach * cube * cube
    half = 0.5 * charge * charge * inverse
    polar = tl.load(setting) * half
    rate = -(6.0 * surface + polar) * inverse
    if HAS_SALT:
        kappa = tl.load(setting + 8)
        screened = tl.load(setting + 9) * half
        fade = tl.exp(-kappa * radius)
        polar -= screened * (1.0 - fade)
        rate += screened * ((1.0 - fade) * inverse - kappa * fade)
    return surface + polar, rate


@triton.jit
def field_settings(settings, system):
    """Numbers of the cutoff of a system."""
    setting = settings + _SETTING * system
    cutoff2, krf, crf = tl.load(setting + 2), tl.load(setting + 4), tl.load(setting + 5)
    return cutoff2, krf, crf, tl.load(setting + 6), tl.load(setting + 7)


@triton.jit
def solvent_settings(settings, system):
    """Numbers of the implicit solvent of a system."""
    setting = settings + _SETTING * system
    prefactor, shift = tl.load(setting), tl.load(setting + 3)
    return prefactor, shift, tl.load(setting + 8), tl.load(setting + 9)


@triton.jit
def direct(r2, pair, field, HAS_CUTOFF: tl.constexpr, HAS_SWITCH: tl.constexpr):
    """Lennard-Jones and Coulomb energy of pairs and -dE/dr over r."""
    cutoff2, krf, crf, start, scale = field
    charges = tl.load(pair)
    inverse = tl.rsqrt(r2)
    inverse2 = inverse * inverse
    sixth = inverse2 * inverse2 * inverse2
    repulsion = tl.load(pair + 1) * sixth * sixth
    attraction = tl.load(pair + 2) * sixth
    coulomb = charges * inverse
    lj, push = repulsion - attraction, 12.0 * repulsion - 6.0 * attraction
    if HAS_CUTOFF:
        cut = tl.load(pair + 3) > 0.0  # exceptions know no cutoff
    if HAS_SWITCH:
        r = r2 * inverse
        t = tl.minimum(tl.maximum((r - start) * scale, 0.0), 1.0)
        t = tl.where(cut, t, 0.0)
        left = 1.0 - t * t * t * (10.0 - t * (15.0 - 6.0 * t))
        push = push * left + lj * r * 30.0 * scale * t * t * (1.0 - t) * (1.0 - t)
        lj = lj * left
    energy = lj + coulomb
    slope = (push + coulomb) * inverse2
    if HAS_CUTOFF:
        energy += tl.where(cut, charges * (krf * r2 - crf), 0.0)
        slope -= tl.where(cut, 2.0 * krf * charges, 0.0)
        counted = (r2 <= cutoff2) | (cut == 0)
        energy = tl.where(counted, energy, 0.0)
        slope = tl.where(counted, slope, 0.0)
    return energy, slope


@triton.jit
def polar_pairs(
    r2, charges, own, other, solvent, cutoff2,
    HAS_SALT: tl.constexpr, HAS_CUTOFF: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    """Generalised Born energy of pairs, -dE/dr over r, and the derivative in the own radius."""
    strength, shift, kappa, screened = solvent
    product = own * other
    exponent = -0.25 * r2 * reciprocal(product, FAST)
    decay = tl.exp(exponent)
    f2 = r2 + product * decay
    inverse = tl.rsqrt(f2)
    beyond = inverse
    if HAS_CUTOFF:
        beyond = inverse - shift
    rate = strength * inverse * inverse * inverse  # -dE/df over f
    if HAS_SALT:
        fade = tl.exp(-kappa * f2 * inverse)
        strength = strength - screened * (1.0 - fade)
        rate = inverse * (strength * inverse * inverse + kappa * screened * fade * beyond)
    energy = charges * strength * beyond
    rate = charges * rate
    if HAS_CUTOFF:
        energy = tl.where(r2 <= cutoff2, energy, 0.0)
        rate = tl.where(r2 <= cutoff2, rate, 0.0)
    return energy, rate * (1.0 - 0.25 * decay), -0.5 * rate * decay * (1.0 - exponent) * other
