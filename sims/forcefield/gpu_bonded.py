"""Triton kernel for bonds, angles and torsions.

A program serves one atom of LANES conformations and works through the terms that the atom takes
part in, each time for its own share of the force: a bond is evaluated twice, an angle three and a
torsion four times. That is no more work than to write every term's forces to memory and gather
them, and it spares every scattered addition. The order of the atoms in an entry puts the program's
own atom where its role says, which the symmetry of angles and torsions under reversal allows.
"""

# ruff: noqa: ANN001, ANN201 - to triton an annotation of an argument is an instruction
import triton
import triton.language as tl

from .gpu_kernels import _MIN_R2, _SYSTEM, place, position
from .gpu_tables import ENTRY_WIDTH
from .gpu_terms import reciprocal
from .parameters import MAX_PERIODICITY

_ENTRY: tl.constexpr = tl.constexpr(ENTRY_WIDTH)
_ORDERS: tl.constexpr = tl.constexpr(MAX_PERIODICITY + 1)
_TINY: tl.constexpr = tl.constexpr(1e-18)
_SMALL: tl.constexpr = tl.constexpr(1e-12)


@triton.jit
def cross(ax, ay, az, bx, by, bz):
    """Vector product."""
    return ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx


@triton.jit
def angle_of(y, x, FAST: tl.constexpr):
    """The angle of (x, y) for y >= 0, to the precision of either type.

    The arc tangent below pi/8 is a Chebyshev fit of atan(sqrt(q))/sqrt(q), error 1.3e-18.
    """
    width = tl.abs(x)
    steep = y > width
    longer, shorter = tl.where(steep, y, width), tl.where(steep, width, y)
    t = shorter * reciprocal(tl.maximum(longer, 1e-30), FAST)
    turned = t > 0.4142135623730950
    t = tl.where(turned, (t - 1.0) * reciprocal(t + 1.0, FAST), t)
    q = t * t
    p = -0.017805397205419446 * q + 0.03796525745386593
    p = p * q - 0.05035102456601552
    p = p * q + 0.05846878297330872
    p = p * q - 0.06662951813629191
    p = p * q + 0.07692045330902225
    p = p * q - 0.09090896809064027
    p = p * q + 0.11111110744919658
    p = p * q - 0.14285714279250245
    p = p * q + 0.19999999999940893
    p = p * q - 0.3333333333333312
    angle = t + t * q * p
    angle = tl.where(turned, 0.7853981633974483 + angle, angle)
    angle = tl.where(steep, 1.5707963267948966 - angle, angle)
    return tl.where(x < 0.0, 3.141592653589793 - angle, angle)


@triton.jit
def bond_share(x, entry, bonds, ax, ay, az, lanes, n):
    """Half the energy of a bond and the force on its first atom."""
    bx, by, bz = position(x, tl.load(entry), lanes, n)
    bond = bonds + 2 * tl.load(entry + 3)
    dx, dy, dz = bx - ax, by - ay, bz - az
    r2 = tl.maximum(dx * dx + dy * dy + dz * dz, _MIN_R2)
    inverse = tl.rsqrt(r2)
    stretch = r2 * inverse - tl.load(bond)
    pull = tl.load(bond + 1) * stretch
    energy = 0.25 * pull * stretch
    pull *= inverse
    return energy, pull * dx, pull * dy, pull * dz


@triton.jit
def angle_forces(ax, ay, az, bx, by, bz, angle, FAST: tl.constexpr):
    """Energy of an angle between a and b; what multiplies a and b in the forces at their ends.

    The force at the end of a is torque b - along_a a, and likewise at b.
    """
    cx, cy, cz = cross(ax, ay, az, bx, by, bz)
    square = cx * cx + cy * cy + cz * cz
    inverse = tl.rsqrt(tl.maximum(square, _TINY))
    ab = ax * bx + ay * by + az * bz
    bend = angle_of(square * inverse, ab, FAST) - tl.load(angle)
    torque = tl.load(angle + 1) * bend
    energy = 0.5 * torque * bend
    torque *= inverse
    along_a = torque * ab * reciprocal(tl.maximum(ax * ax + ay * ay + az * az, _SMALL), FAST)
    along_b = torque * ab * reciprocal(tl.maximum(bx * bx + by * by + bz * bz, _SMALL), FAST)
    return energy, torque, along_a, along_b


@triton.jit
def angle_end(x, entry, angles, ax, ay, az, lanes, n, FAST: tl.constexpr):
    """Force on the first atom of an angle; its energy is counted at the middle."""
    mx, my, mz = position(x, tl.load(entry), lanes, n)
    ex, ey, ez = position(x, tl.load(entry + 1), lanes, n)
    ux, uy, uz = ax - mx, ay - my, az - mz
    vx, vy, vz = ex - mx, ey - my, ez - mz
    angle = angles + 2 * tl.load(entry + 3)
    _energy, torque, along, _other = angle_forces(ux, uy, uz, vx, vy, vz, angle, FAST)
    return torque * vx - along * ux, torque * vy - along * uy, torque * vz - along * uz


@triton.jit
def angle_middle(x, entry, angles, mx, my, mz, lanes, n, FAST: tl.constexpr):
    """Energy of an angle and the force on its middle atom."""
    ax, ay, az = position(x, tl.load(entry), lanes, n)
    bx, by, bz = position(x, tl.load(entry + 1), lanes, n)
    ux, uy, uz = ax - mx, ay - my, az - mz
    vx, vy, vz = bx - mx, by - my, bz - mz
    angle = angles + 2 * tl.load(entry + 3)
    energy, torque, along_u, along_v = angle_forces(ux, uy, uz, vx, vy, vz, angle, FAST)
    on_u, on_v = along_u - torque, along_v - torque
    return energy, on_u * ux + on_v * vx, on_u * uy + on_v * vy, on_u * uz + on_v * vz


@triton.jit
def series(term, order, cos1, sin1):
    """Energy of a Fourier series and its derivative in the angle."""
    c, s = cos1, sin1
    energy = tl.load(term) + 0.0 * cos1
    slope = 0.0 * cos1
    for k in range(1, order + 1):
        in_cos = tl.load(term + k)
        in_sin = tl.load(term + _ORDERS + k)
        energy += in_cos * c + in_sin * s
        slope += k * (in_sin * c - in_cos * s)
        c, s = c * cos1 - s * sin1, s * cos1 + c * sin1
    return energy, slope


@triton.jit
def torsion_share(
    x, entry, torsions, ax, ay, az, lanes, n, INNER: tl.constexpr, FAST: tl.constexpr
):
    """Half the energy of a torsion and the force on its first or, if INNER, second atom.

    Forces after Blondel and Karplus 1996 (doi:10.1002/jcc.540170907).
    """
    bx, by, bz = position(x, tl.load(entry), lanes, n)
    if INNER:
        ax, ay, az, bx, by, bz = bx, by, bz, ax, ay, az
    cx, cy, cz = position(x, tl.load(entry + 1), lanes, n)
    dx, dy, dz = position(x, tl.load(entry + 2), lanes, n)
    ax, ay, az = bx - ax, by - ay, bz - az
    bx, by, bz = cx - bx, cy - by, cz - bz
    cx, cy, cz = dx - cx, dy - cy, dz - cz
    ux, uy, uz = cross(ax, ay, az, bx, by, bz)
    vx, vy, vz = cross(bx, by, bz, cx, cy, cz)
    uu = ux * ux + uy * uy + uz * uz
    vv = vx * vx + vy * vy + vz * vz
    axis2 = tl.maximum(bx * bx + by * by + bz * bz, _SMALL)
    scale = tl.rsqrt(tl.maximum(uu * vv, _TINY))
    inverse = tl.rsqrt(axis2)
    axis = axis2 * inverse
    term = torsions + 2 * _ORDERS * tl.load(entry + 3)
    cos1 = (ux * vx + uy * vy + uz * vz) * scale
    sin1 = (ax * vx + ay * vy + az * vz) * axis * scale
    energy, slope = series(term, tl.load(entry + 4), cos1, sin1)
    on_u = slope * axis * reciprocal(tl.maximum(uu, _SMALL), FAST)
    if INNER:
        s = (ax * bx + ay * by + az * bz) * inverse * inverse + 1.0
        t = (cx * bx + cy * by + cz * bz) * inverse * inverse
        on_u *= -s
        on_v = -t * slope * axis * reciprocal(tl.maximum(vv, _SMALL), FAST)
        return 0.5 * energy, on_u * ux + on_v * vx, on_u * uy + on_v * vy, on_u * uz + on_v * vz
    return 0.0 * energy, on_u * ux, on_u * uy, on_u * uz


@triton.jit(do_not_specialize=["n", "groups", "total"])
def bonded_pass(
    x, blocks, systems, starts, entries, bonds, angles, torsions, row_energy, force, n, groups,
    total, FORCES: tl.constexpr, FAST: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Writes the bonded energy of every atom's share and the bonded forces."""
    system, atoms, _, row, _, lanes, served = place(blocks, systems, groups, 1, LANES)
    i = tl.minimum(tl.program_id(0) % groups, atoms - 1)
    mine = starts + tl.load(systems + _SYSTEM * system + 1) + i
    ax, ay, az = position(x, i, lanes, n)
    energy, fx, fy, fz = ax * 0.0, ax * 0.0, ax * 0.0, ax * 0.0
    for k in range(tl.load(mine), tl.load(mine + 1)):
        e, gx, gy, gz = bond_share(x, entries + _ENTRY * k, bonds, ax, ay, az, lanes, n)
        energy, fx, fy, fz = energy + e, fx + gx, fy + gy, fz + gz
    mine += total
    for k in range(tl.load(mine), tl.load(mine + 1)):
        e, gx, gy, gz = angle_middle(x, entries + _ENTRY * k, angles, ax, ay, az, lanes, n, FAST)
        energy, fx, fy, fz = energy + e, fx + gx, fy + gy, fz + gz
    mine += total
    for k in range(tl.load(mine), tl.load(mine + 1)):
        entry = entries + _ENTRY * k
        e, gx, gy, gz = torsion_share(x, entry, torsions, ax, ay, az, lanes, n, True, FAST)
        energy, fx, fy, fz = energy + e, fx + gx, fy + gy, fz + gz
    if FORCES:
        mine += total
        for k in range(tl.load(mine), tl.load(mine + 1)):
            gx, gy, gz = angle_end(x, entries + _ENTRY * k, angles, ax, ay, az, lanes, n, FAST)
            fx, fy, fz = fx + gx, fy + gy, fz + gz
        mine += total
        for k in range(tl.load(mine), tl.load(mine + 1)):
            entry = entries + _ENTRY * k
            e, gx, gy, gz = torsion_share(x, entry, torsions, ax, ay, az, lanes, n, False, FAST)
            fx, fy, fz = fx + gx, fy + gy, fz + gz
    kept = served & (row < atoms)
    tl.store(row_energy + i * n + lanes, energy, mask=kept)
    if FORCES:
        to = force + 3 * i * n + lanes
        tl.store(to, fx, mask=kept)
        tl.store(to + n, fy, mask=kept)
        tl.store(to + 2 * n, fz, mask=kept)
