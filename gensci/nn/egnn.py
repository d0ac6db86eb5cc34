"""A vector field on molecules that turns and shifts with them, and its exact divergence.

Every pair of atoms has its own smooth functions of distance, whose places, slopes and weights come
from the bond graph (atom types, residues, bonds between the two). Their sums over neighbours, inner
products of vectors summed the same way, and triple products of those vectors describe each atom's
surroundings; a network of the two atoms' surroundings then says how strongly the pair pulls:

    v_i = sum_j (x_i - x_j) psi(d_ij, t, h_i, h_j) + V_i x V_i' omega(t, h_i),
    h_i = f(sum_j m(d_ij), V_i . V_i', det V_i).

Triple and cross products change sign in a mirror, so the field is equivariant to rotations and
translations but not to reflections: an O(3)-equivariant field from a Gaussian would make both hands
equally often. (Without cross products, atoms in one plane would stay in it.) One round of messages
between atoms keeps the divergence a sum over pairs: moving atom i along x_i - x_j changes, of all
that psi_ij sees, d_ij, h_i and one term of h_j. It costs a few times the field, where 3N
derivatives of a deeper network cost hundreds of times.

Ref: Satorras et al. 2021, arXiv 2102.09844 (EGNN); Koehler et al. 2020, arXiv 2006.02425
(equivariant flows with analytic divergence); Klein and Noe 2024, arXiv 2406.14426 (transferable
continuous flows, whose networks pass messages several times).
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .topology import NODE_CHANNELS, NUM_VECTORS, PairTerms
from .transformer import sinusoid

SOFTENING = 0.002  # nm: makes distances smooth where atoms coincide
REACH = 0.1  # nm: pulls of farther pairs are nearly independent of distance
SUM_SCALE = 0.2  # of sums over neighbours
SHORT = 0.1  # length of a vector below which its products fade
# Pairs and triples of vectors whose products are formed.
FIRST, SECOND = torch.triu_indices(NUM_VECTORS, NUM_VECTORS).tolist()
SQUARES = [k for k, pair in enumerate(zip(FIRST, SECOND, strict=True)) if len(set(pair)) == 1]
TRIPLES = [list(three) for three in combinations(range(NUM_VECTORS), 3)][::3]
LEFT, RIGHT = (
    list(side) for side in zip(*list(combinations(range(NUM_VECTORS), 2))[::3], strict=True)
)
TIME_CHANNELS, TIME_ANGLE = 16, 8.0  # radians of the fastest over all of time


class TimeTerms(NamedTuple):
    """What the field is told of time; each (batch or 1, 1, 1, width)."""

    sharpness: Tensor
    first: Tensor
    node: Tensor
    second: Tensor
    out: Tensor
    direct: Tensor


class Pairs(NamedTuple):
    """Pairs of atoms: r (batch, N, N, 3) nm, d and reach 1 / (d + REACH), tanh features, slopes."""

    r: Tensor
    d: Tensor
    reach: Tensor
    a: Tensor
    gain: Tensor


class Surroundings(NamedTuple):
    """Atoms as their neighbours make them.

    Attributes:
        q: (batch, N, N, K), parts of the vectors.
        vectors: V (batch, N, K, 3).
        products, triples: their invariants, (batch, N, ...).
        inner, receive, send, turn: the network inside and its results.
    """

    q: Tensor
    vectors: Tensor
    products: Tensor
    triples: Tensor
    inner: Tensor
    receive: Tensor
    send: Tensor
    turn: Tensor


class VectorField(nn.Module):
    """The field; see the module's docstring.

    Args:
        channels: functions of distance of each pair, and width of the networks.
        floor: of 1 - t, relative: time counts by the logarithm of (1 - t + floor).
    """

    def __init__(self, channels: int = 64, floor: float = 0.02):
        super().__init__()
        self.floor = floor
        self.time = nn.Sequential(nn.Linear(TIME_CHANNELS, 64), nn.SiLU())
        self.widths = [channels, NODE_CHANNELS, channels, channels, channels]
        self.time_terms = nn.Linear(64, sum(self.widths))
        nn.init.normal_(self.time_terms.weight, std=0.02)
        nn.init.zeros_(self.time_terms.bias)
        self.power = nn.Parameter(torch.linspace(0.0, 1.0, channels))
        self.to_vectors = nn.Linear(channels, NUM_VECTORS, bias=False)
        seen = channels + len(FIRST) + len(TRIPLES)
        self.node_in = nn.Linear(seen, NODE_CHANNELS)
        self.results = [channels, channels, len(LEFT)]
        self.node_out = nn.Linear(NODE_CHANNELS, sum(self.results), bias=False)
        nn.init.normal_(self.node_out.weight[-len(LEFT) :], std=0.001)
        self.pair = nn.Linear(channels, channels, bias=False)

    def time_at(self, tau: Tensor) -> Tensor:
        """Time t of logarithmic time tau, in which the field changes evenly; 0 and 1 stay."""
        return 1 - self.floor * torch.expm1((1 - tau) * self._span)

    def rate_at(self, tau: Tensor) -> Tensor:
        """Derivative dt / dtau."""
        return self.floor * self._span * torch.exp((1 - tau) * self._span)

    @property
    def _span(self) -> float:
        return math.log((1 + self.floor) / self.floor)

    def _at(self, t: Tensor) -> TimeTerms:
        """Terms of times t (batch,) or (1,)."""
        rise = -torch.log((1 - t + self.floor) / (1 + self.floor))
        sharpness = torch.exp(rise[:, None] * self.power)
        features = sinusoid(TIME_ANGLE / self._span * rise, TIME_CHANNELS, 100.0, t.dtype)
        terms = self.time_terms(self.time(features)).split(self.widths, dim=-1)
        return TimeTerms(*(term[:, None, None] for term in (sharpness, *terms)))

    def _pairs(self, x: Tensor, time: TimeTerms, terms: PairTerms) -> Pairs:
        r = x[:, :, None] - x[:, None]
        d = (r.square().sum(-1) + SOFTENING**2).sqrt()
        place = torch.addcmul(terms.offset, terms.slope, d[..., None])
        a = torch.tanh(torch.addcmul(time.first, time.sharpness, place))
        return Pairs(r, d, 1 / (d + REACH), a, time.sharpness * terms.slope)

    def _surroundings(self, pairs: Pairs, time: TimeTerms, terms: PairTerms) -> Surroundings:
        sums = SUM_SCALE * (pairs.a * terms.message).sum(2)
        q = self.to_vectors(pairs.a) * terms.vector
        vectors = (q * pairs.reach[..., None]).transpose(-1, -2) @ pairs.r
        products, triples = invariants(vectors)
        seen = torch.cat((sums, *normalised(products, triples)), dim=-1)
        inner = self.node_in(seen) + terms.node + time.node[:, 0]
        results = self.node_out(nn.functional.silu(inner)).split(self.results, dim=-1)
        return Surroundings(q, vectors, products, triples, inner, *results)

    def _pull(
        self, pairs: Pairs, around: Surroundings, time: TimeTerms, terms: PairTerms
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pull phi (batch, N, N), and what it is made of: z, weights of silu(z) and of a."""
        z = self.pair(pairs.a) + around.receive[:, :, None] + around.send[:, None]
        z = z + terms.bias + time.second
        out, direct = terms.out * (1 + time.out), terms.direct * (1 + time.direct)
        return (out * nn.functional.silu(z) + direct * pairs.a).sum(-1), z, out, direct

    def forward(self, x: Tensor, t: Tensor, terms: PairTerms) -> Tensor:
        """Velocity (batch, N, 3), nm per unit time, without motion of the centroid.

        Args:
            x: positions (batch, N, 3), nm.
            t: times (batch,), or (1,) for all; 0 is noise, 1 is data.
            terms: of the molecule.
        """
        time = self._at(t)
        pairs = self._pairs(x, time, terms)
        around = self._surroundings(pairs, time, terms)
        phi, *_ = self._pull(pairs, around, time, terms)
        return _velocity(phi, pairs, around)

    def with_divergence(self, x: Tensor, t: Tensor, terms: PairTerms) -> tuple[Tensor, Tensor]:
        """Velocity as `forward` gives it and its exact divergence (batch,) per unit time.

        The mean of the velocities, which is taken away, has no divergence of its own: a field that
        does not change under translation has sum_j dv_i/dx_j = 0.
        """
        time = self._at(t)
        pairs = self._pairs(x, time, terms)
        around = self._surroundings(pairs, time, terms)
        phi, z, out, direct = self._pull(pairs, around, time, terms)
        slope = (1 - pairs.a.square()) * pairs.gain  # da / dd
        stretch = pairs.r.square().sum(-1) / pairs.d  # change of d_ij when i moves along r_ij
        a_dot = slope * stretch[..., None]
        own, turning = self._own_change(pairs, around, slope, terms)
        z_dot = self.pair(a_dot) + pairs.r @ own
        z_dot = z_dot + self._other_change(pairs, around, a_dot, stretch, terms).transpose(1, 2)
        phi_dot = (out * silu_slope(z) * z_dot + direct * a_dot).sum(-1)
        psi_dot = pairs.reach * phi_dot - pairs.reach.square() * stretch * phi
        divergence = (3 * pairs.reach * phi + psi_dot).sum((1, 2)) + turning.sum(1)
        return _velocity(phi, pairs, around), divergence

    def _own_change(
        self, pairs: Pairs, around: Surroundings, slope: Tensor, terms: PairTerms
    ) -> tuple[Tensor, Tensor]:
        """What moving x_i does to atom i itself.

        Returns:
            Derivative of receive_i with respect to x_i (batch, N, 3, channels), and the divergence
            of its cross products (batch, N).
        """
        unit = pairs.r / pairs.d[..., None]
        sums = SUM_SCALE * unit.transpose(-1, -2) @ (slope * terms.message)  # (batch, N, 3, C)
        q_slope = self.to_vectors(slope) * terms.vector
        reach = pairs.reach[..., None]
        radial = q_slope * reach - around.q * reach.square()
        along = (radial[..., None] * pairs.r[..., None, :]).flatten(-2)
        along = (unit.transpose(-1, -2) @ along).unflatten(-1, (NUM_VECTORS, 3))
        still = (around.q * reach).sum(2)[:, :, None, :, None]
        moved = along + still * torch.eye(3, dtype=unit.dtype, device=unit.device)[:, None]
        vectors = around.vectors[:, :, None]
        products = (moved[..., FIRST, :] * vectors[..., SECOND, :]).sum(-1)
        products = products + (moved[..., SECOND, :] * vectors[..., FIRST, :]).sum(-1)
        minors = cofactors(vectors)
        triples = (moved[..., TRIPLES, :] * minors).sum((-1, -2))
        receive, _, turn = self._through_node(around, sums, products, triples)
        return receive, _turning(around, moved, products, turn)

    def _other_change(
        self, pairs: Pairs, around: Surroundings, a_dot: Tensor, stretch: Tensor, terms: PairTerms
    ) -> Tensor:
        """Change of send_j when i moves along x_i - x_j: (batch, j, i, channels).

        Then x_j - x_i grows in proportion, so row (j, i) of the pairs changes like row (i, j).
        """
        sums = SUM_SCALE * a_dot * terms.message
        reach = pairs.reach[..., None]
        q_dot = self.to_vectors(a_dot) * terms.vector
        growth = q_dot * reach - around.q * (reach.square() * stretch[..., None])
        growth = growth + around.q * reach  # V_j changes by growth * (x_j - x_i)
        shadow = pairs.r @ around.vectors.transpose(-1, -2)  # (x_j - x_i) . V_j
        products = (
            growth[..., FIRST] * shadow[..., SECOND] + growth[..., SECOND] * shadow[..., FIRST]
        )
        minors = cofactors(around.vectors).flatten(-3, -2)
        shadow = (pairs.r @ minors.transpose(-1, -2)).unflatten(-1, (len(TRIPLES), 3))
        triples = (growth[..., TRIPLES] * shadow).sum(-1)
        return self._through_node(around, sums, products, triples)[1]

    def _through_node(
        self, around: Surroundings, sums: Tensor, products: Tensor, triples: Tensor
    ) -> tuple[Tensor, ...]:
        """Changes of (receive, send, turn) for changes (batch, N, any, ...) of what is seen."""
        here = (around.products[:, :, None], around.triples[:, :, None])
        change = torch.cat((sums, *normalised_change(*here, products, triples)), dim=-1)
        change = silu_slope(around.inner[:, :, None]) * (change @ self.node_in.weight.T)
        return self.node_out(change).split(self.results, dim=-1)


def invariants(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Inner products (..., 21) and triple products (..., T) of vectors (..., K, 3)."""
    products = (vectors[..., FIRST, :] * vectors[..., SECOND, :]).sum(-1)
    a, b, c = vectors[..., TRIPLES, :].unbind(-2)
    return products, (torch.linalg.cross(a, b) * c).sum(-1)


def normalised(products: Tensor, triples: Tensor) -> tuple[Tensor, Tensor]:
    """Products of the vectors' directions, and lengths in place of squares: all of order one.

    Without this, triple products of short vectors would be too small to tell the hands apart.
    """
    length = (products[..., SQUARES] + SHORT**2).sqrt()
    by_two = length[..., FIRST] * length[..., SECOND]
    squares = torch.zeros(len(FIRST), dtype=torch.bool, device=length.device)
    squares[SQUARES] = True
    angles = torch.where(squares, length[..., FIRST], products / by_two)
    return angles, triples / length[..., TRIPLES].prod(-1)


def normalised_change(
    products: Tensor, triples: Tensor, products_dot: Tensor, triples_dot: Tensor
) -> tuple[Tensor, Tensor]:
    """Change of ``normalised(products, triples)`` for changes of both."""
    length = (products[..., SQUARES] + SHORT**2).sqrt()
    growth = 0.5 * products_dot[..., SQUARES] / length.square()  # of the logarithm
    by_two = length[..., FIRST] * length[..., SECOND]
    pair_growth = growth[..., FIRST] + growth[..., SECOND]
    angles = (products_dot - products * pair_growth) / by_two
    angles[..., SQUARES] = growth * length
    by_three = length[..., TRIPLES].prod(-1)
    return angles, (triples_dot - triples * growth[..., TRIPLES].sum(-1)) / by_three


def cofactors(vectors: Tensor) -> Tensor:
    """Derivative of each triple product with respect to its vectors: (..., triples, 3, 3)."""
    a, b, c = vectors[..., TRIPLES, :].unbind(-2)
    cross = torch.linalg.cross
    return torch.stack((cross(b, c), cross(c, a), cross(a, b)), dim=-2)


def silu_slope(x: Tensor) -> Tensor:
    """Derivative of x sigmoid(x)."""
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def directions(vectors: Tensor) -> Tensor:
    """Vectors (..., K, 3) at a length of nearly one."""
    return vectors / (vectors.square().sum(-1, keepdim=True) + SHORT**2).sqrt()


def _turning(around: Surroundings, moved: Tensor, products_dot: Tensor, turn_dot: Tensor) -> Tensor:
    """Divergence (batch, N) of the cross products of every atom, weighted.

    Args:
        around: the atoms.
        moved: (batch, N, 3, K, 3), derivative of V_i with respect to each component of x_i.
        products_dot: of their inner products (batch, N, 3, products).
        turn_dot: of the weights (batch, N, 3, crosses).
    """
    along = directions(around.vectors)[:, :, None]
    square = around.products[:, :, None, SQUARES] + SHORT**2
    growth = 0.5 * products_dot[..., SQUARES] / square
    change = moved / square.sqrt()[..., None] - along * growth[..., None]
    left, right = along[..., LEFT, :], along[..., RIGHT, :]
    cross = torch.linalg.cross(change[..., LEFT, :], right.expand_as(change[..., RIGHT, :]))
    cross = cross + torch.linalg.cross(left.expand_as(cross), change[..., RIGHT, :])
    trace = cross.diagonal(dim1=2, dim2=4).sum(-1)
    still = torch.linalg.cross(left, right)[:, :, 0]
    return (trace * around.turn).sum(-1) + (still * turn_dot.transpose(-1, -2)).sum((-1, -2))


def _velocity(phi: Tensor, pairs: Pairs, around: Surroundings) -> Tensor:
    """Sum of the pulls and cross products, less its mean: (batch, N, 3)."""
    v = ((phi * pairs.reach)[:, :, None] @ pairs.r).squeeze(2)
    along = directions(around.vectors)
    cross = torch.linalg.cross(along[..., LEFT, :], along[..., RIGHT, :])
    v = v + (around.turn[..., None] * cross).sum(-2)
    return v - v.mean(1, keepdim=True)
