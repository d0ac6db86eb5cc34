"""The internal-coordinate autoregressive flow: each atom placed in the frame of three earlier ones.

The log-density is a product over atoms, in placing order, of a torsion (mixture of von Mises), an
angle and a distance (mixtures of normals in units of the force field's thermal widths), times the
volume element of the coordinates. A causal network looks at the earlier atoms as points in the
frame of the atom that comes next, so the density does not change under rotation or translation;
rotations are uniform and the centroid is normal, which makes it a density on R^{3N}.
Ref: Noe et al. 2019, doi:10.1126/science.aaw1147 (Boltzmann generators in internal coordinates);
Tan et al. 2025, arXiv 2508.18175 (transferable autoregressive flows in Cartesian coordinates).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from gensci.core.registry import MODELS

from .internal_encoding import MAX_HOPS, NUM_NAMES, NUM_RESIDUES, Tensors, encode_internal
from .mixtures import (
    mixture_normal_log_prob,
    mixture_von_mises_log_prob,
    sample_mixture_normal,
    sample_mixture_von_mises,
)
from .steric import FEATURES, GRID, steric_features, torsion_grid
from .zmatrix import (
    Frames,
    InternalCoordinates,
    ZMatrix,
    closing_cosine,
    frames,
    internal_coordinates,
    log_volume,
    place,
    zmatrix_frames,
)

IC_FEATURES = 7
RADII = 16
RIGID_WIDTH = 0.1  # radians, spread of torsions that bonding fixes
RIGID_LOG_KAPPA = -2 * math.log(RIGID_WIDTH)
GRID_LOG_KAPPA = -2 * math.log(0.8 * 2 * math.pi / GRID)  # neighbours on the grid overlap
FREE_LOG_KAPPA = math.log(6.0)
FREE_LOGIT = 1.0  # a free component is broader than one on the grid
LOG_HAAR = math.log(8 * math.pi**2)


def zmatrix_of(cond: Tensors) -> ZMatrix:
    """The placing tree among the conditioning tensors."""
    names = ("order", "parent", "grand", "side", "closing", "rigid", "torsion0")
    return ZMatrix(*(cond[name] for name in names))


def ic_features(ic: InternalCoordinates, cond: Tensors, atoms: slice) -> Tensor:
    """What the network sees of placed ``atoms``: (batch, atoms, 7), all of order one."""
    index = torch.arange(ic.distance.shape[1], device=ic.distance.device) + (atoms.start or 0)
    length = (ic.distance - cond["length0"][atoms]) / cond["length_scale"][atoms]
    bend = (ic.bend - cond["bend0"][atoms]) / cond["bend_scale"][atoms]
    swing = torch.sin(ic.torsion - cond["torsion0"][atoms]) / RIGID_WIDTH
    sine, cosine = torch.sin(ic.torsion), torch.cos(ic.torsion)
    has_torsion = (index > 2).to(length.dtype)
    columns = (
        length.clamp(-8, 8) * (index > 0),
        bend.clamp(-8, 8) * (index > 1),
        swing.clamp(-8, 8) * cond["rigid"][atoms] * has_torsion,
        sine * has_torsion,
        cosine * has_torsion,
        2 * sine * cosine * has_torsion,
        (2 * cosine.square() - 1) * has_torsion,
    )
    return torch.stack(columns, dim=-1)


def pair_features(x: Tensor, frame: Frames) -> Tensor:
    """Placed atoms x (batch, K, 3) seen from frames (batch, Q): (batch, Q, K, 6 + RADII)."""
    local = torch.einsum("bqkc,bqac->bqka", x[:, None] - frame.origin[:, :, None], frame.axes)
    r = local.square().sum(-1, keepdim=True).clamp_min(1e-8).sqrt()
    centres = torch.linspace(0.05, 1.25, RADII, device=x.device, dtype=x.dtype)
    radial = torch.exp(-0.5 * ((r - centres) / 0.08).square())
    return torch.cat((local / r, torch.tanh(local / 0.3), radial), dim=-1)


def full_precision(x: Tensor) -> torch.autocast:
    """Keeps autocast away from geometry: bfloat16 holds a position to three digits only."""
    return torch.autocast(x.device.type, enabled=False)


class Block(nn.Module):
    """Attention over placed atoms (with what each pair looks like) and a feed-forward part."""

    def __init__(self, channels: int, num_heads: int, pair_channels: int):
        super().__init__()
        self.num_heads, self.head_dim = num_heads, channels // num_heads
        self.norm_query = nn.LayerNorm(channels)
        self.norm_key = nn.LayerNorm(channels)
        self.see = nn.Linear(IC_FEATURES, channels)
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.pair_bias = nn.Linear(pair_channels, num_heads)
        self.null = nn.Parameter(torch.zeros(num_heads))
        self.out = nn.Linear(channels + num_heads * pair_channels, channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels),
        )

    def keys_values(self, h: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (batch, K, heads, head_dim) of atoms whose coordinates are known."""
        kv = self.key_value(self.norm_key(h + self.see(features)))
        key, value = kv.unflatten(-1, (2 * self.num_heads, -1)).chunk(2, dim=-2)
        return key, value

    def forward(
        self, h: Tensor, key: Tensor, value: Tensor, pair: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Update h (batch, Q, C) from K placed atoms; mask (Q, K) True where Q may look."""
        q = self.query(self.norm_query(h)).unflatten(-1, (self.num_heads, -1))
        logits = torch.einsum("bqhd,bkhd->bhqk", q, key) * self.head_dim**-0.5
        logits = logits + self.pair_bias(pair).permute(0, 3, 1, 2)
        if mask is not None:
            logits = logits.masked_fill(~mask, -1e9)
        null = self.null[None, :, None, None].expand(*logits.shape[:-1], 1)
        weight = torch.softmax(torch.cat((logits, null), -1), -1)[..., :-1]
        seen = torch.einsum("bhqk,bkhd->bqhd", weight, value).flatten(-2)
        looks = torch.einsum("bhqk,bqkp->bqhp", weight, pair).flatten(-2)
        h = h + self.out(torch.cat((seen, looks), -1))
        return h + self.mlp(h)


class Conditionals(NamedTuple):
    """Mixture parameters of one coordinate: logits, centres, log-scales or log-concentrations."""

    logits: Tensor
    centre: Tensor
    log_scale: Tensor


class Heads(nn.Module):
    """Torsion given the network, bend given the torsion too, distance given both.

    The torsion of a rotor is a mixture on the grid of ``steric``, with the energies found there
    added to the logits, and of a few free components; a rigid torsion has the free ones alone.
    """

    def __init__(self, channels: int, torsion_components: int, stiff_components: int):
        super().__init__()
        self.free = torsion_components
        self.torsion = self._mlp(channels, channels, 3 * torsion_components + 1 + FEATURES)
        self.grid = nn.Linear(channels, GRID)
        self.bend = self._mlp(channels + 5, channels, 3 * stiff_components)
        self.length = self._mlp(channels + 6, channels, 3 * stiff_components)
        nn.init.zeros_(self.grid.weight)
        nn.init.zeros_(self.grid.bias)
        around = (torch.arange(torsion_components) + 0.5) / torsion_components * 2 - 1
        self.register_buffer("around", around)
        self.register_buffer("spread", torch.linspace(-0.6, 0.6, stiff_components))
        self.register_buffer("gate", torch.tensor([0.5, 0.2, 0.0]))

    @staticmethod
    def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
        last = nn.Linear(width, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), last)

    @staticmethod
    def _torsion_features(torsion: Tensor, cond: Tensors, atoms: slice) -> Tensor:
        swing = torch.sin(torsion - cond["torsion0"][atoms]) / RIGID_WIDTH
        swing = swing.clamp(-8, 8) * cond["rigid"][atoms]
        sine, cosine = torch.sin(torsion), torch.cos(torsion)
        return torch.stack(
            (swing, sine, cosine, 2 * sine * cosine, 2 * cosine.square() - 1), dim=-1
        )

    def torsion_given(
        self, h: Tensor, steric: Tensor | None, cond: Tensors, rows: Tensor
    ) -> Conditionals:
        """Torsions of some atoms, all rigid or all rotors.

        Args:
            h: hidden states (batch, R, C).
            steric: (batch, R, GRID, FEATURES) for rotors, None for rigid torsions.
            cond: of the molecule.
            rows: (R,) the atoms.
        """
        free, kappa, gates = self.torsion(h).split((3 * self.free, 1, FEATURES), dim=-1)
        logits, shift, sharpen = free.chunk(3, dim=-1)
        if steric is None:
            centre = cond["torsion0"][rows][:, None] + RIGID_WIDTH * (self.around + shift)
            return Conditionals(logits, centre, _bounded_log(sharpen, RIGID_LOG_KAPPA))
        energy = (steric @ (self.gate + gates)[..., None])[..., 0]
        on_grid = self.grid(h) + energy
        logits = torch.cat((on_grid, logits + FREE_LOGIT), dim=-1)
        centre = torch.cat(
            (torsion_grid(steric).expand_as(on_grid), math.pi * self.around + shift), dim=-1
        )
        log_kappa = torch.cat(
            (
                _bounded_log(kappa, GRID_LOG_KAPPA).expand_as(on_grid),
                _bounded_log(sharpen, FREE_LOG_KAPPA),
            ),
            dim=-1,
        )
        return Conditionals(logits, centre, log_kappa)

    def bend_given(self, h: Tensor, torsion: Tensor, cond: Tensors, atoms: slice) -> Conditionals:
        """Bends given h and the torsions (batch, atoms)."""
        seen = torch.cat((h, self._torsion_features(torsion, cond, atoms)), dim=-1)
        logits, shift, widen = self.bend(seen).chunk(3, dim=-1)
        width = cond["bend_scale"][atoms][:, None]
        centre = cond["bend0"][atoms][:, None] + width * (self.spread + shift)
        return Conditionals(logits, centre, width.log() + (widen - 0.3).clamp(-5, 3))

    def length_given(
        self, h: Tensor, torsion: Tensor, bend: Tensor, cond: Tensors, atoms: slice
    ) -> Conditionals:
        """Distances given h, the torsions and the bends (batch, atoms)."""
        bent = ((bend - cond["bend0"][atoms]) / cond["bend_scale"][atoms]).clamp(-8, 8)
        features = self._torsion_features(torsion, cond, atoms)
        seen = torch.cat((h, features, bent[..., None]), dim=-1)
        logits, shift, widen = self.length(seen).chunk(3, dim=-1)
        width = cond["length_scale"][atoms][:, None]
        centre = cond["length0"][atoms][:, None] + width * (self.spread + shift)
        return Conditionals(logits, centre, width.log() + (widen - 0.3).clamp(-5, 3))


def _bounded_log(raw: Tensor, base: float) -> Tensor:
    """Log-concentration: a correction to ``base``, kept where von Mises draws are exact."""
    return (base + raw).clamp(-4.0, 11.0)


@MODELS.register("peptide-internal")
class InternalFlow(nn.Module):
    """Transferable autoregressive flow in internal coordinates; see the module's docstring.

    Args:
        channels, num_layers, num_heads, pair_channels: sizes of the network.
        torsion_components: free von Mises components of each torsion, besides the grid of rotors.
        stiff_components: normal components of each bend and distance.
        centroid_scale: the centroid is N(0, centroid_scale^2 / N) per axis (nm).
    """

    def __init__(
        self,
        channels: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
        pair_channels: int = 32,
        torsion_components: int = 4,
        stiff_components: int = 3,
        centroid_scale: float = 0.35,
    ):
        super().__init__()
        self.settings = {
            "channels": channels,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "pair_channels": pair_channels,
            "torsion_components": torsion_components,
            "stiff_components": stiff_components,
            "centroid_scale": centroid_scale,
        }
        self.centroid_scale = centroid_scale
        self.residue = nn.Embedding(NUM_RESIDUES, channels)
        self.previous = nn.Embedding(NUM_RESIDUES, channels)
        self.next = nn.Embedding(NUM_RESIDUES, channels)
        self.name = nn.Embedding(NUM_NAMES, channels)
        self.reference_names = nn.Embedding(3 * NUM_NAMES, channels)
        for table in (self.residue, self.previous, self.next, self.name, self.reference_names):
            nn.init.normal_(table.weight, std=0.3)
        self.identity = nn.Sequential(
            nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels)
        )
        self.references = nn.Sequential(
            nn.Linear(3 * IC_FEATURES, channels), nn.SiLU(), nn.Linear(channels, channels)
        )
        self.hops = nn.Embedding(MAX_HOPS + 1, 2 * pair_channels)
        self.geometry = nn.Linear(6 + RADII, 2 * pair_channels)
        self.pair = nn.Linear(2 * pair_channels, pair_channels)
        self.blocks = nn.ModuleList(
            Block(channels, num_heads, pair_channels) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(channels)
        self.heads = Heads(channels, torsion_components, stiff_components)

    encode = staticmethod(encode_internal)

    def identities(self, cond: Tensors) -> Tensor:
        """What is known of the atoms before any is placed: (atoms, channels)."""
        name = cond["name"]
        refs = torch.stack([name[cond[key]] for key in ("parent", "grand", "side")], dim=-1)
        refs = refs + NUM_NAMES * torch.arange(3, device=refs.device)
        e = self.residue(cond["residue"]) + self.name(name) + self.previous(cond["previous"])
        e = e + self.next(cond["next"]) + self.reference_names(refs).sum(-2)
        return e + self.identity(e)

    def _pairs(self, seen: Tensor, hops: Tensor, framed: Tensor) -> Tensor:
        """Pair channels (batch, Q, K, P); ``framed`` (Q,) 0 for the first three atoms."""
        seen = self.geometry(seen) * framed[:, None, None]
        return nn.functional.silu(self.pair(nn.functional.silu(seen + self.hops(hops))))

    def _first(self, identity: Tensor, features: Tensor, cond: Tensors, atoms: slice) -> Tensor:
        """Hidden state before the blocks, from the identity and the references' coordinates."""
        refs = [features[:, cond[key][atoms]] for key in ("parent", "grand", "side")]
        return identity[atoms] + self.references(torch.cat(refs, dim=-1))

    def hidden(self, x: Tensor, ic: InternalCoordinates, cond: Tensors) -> Tensor:
        """Hidden states (batch, atoms, C) for x in placing order; row i sees atoms before i."""
        num_atoms = x.shape[1]
        every = slice(0, num_atoms)
        features = ic_features(ic, cond, every)
        index = torch.arange(num_atoms, device=x.device)
        mask = index[:, None] > index
        with full_precision(x):
            seen = pair_features(x, zmatrix_frames(x, zmatrix_of(cond)))
        pair = self._pairs(seen, cond["hops"], (index > 2).to(x.dtype))
        # Atom 0 is its own (unknown) reference: its features are zero by construction.
        h = self._first(self.identities(cond), features, cond, every)
        for block in self.blocks:
            h = block(h, *block.keys_values(h, features), pair, mask)
        return self.norm(h)

    def _torsion_term(
        self, x: Tensor, ic: InternalCoordinates, h: Tensor, cond: Tensors
    ) -> Tensor:
        """Sum of the torsions' log-densities: (batch,)."""
        index = torch.arange(x.shape[1], device=x.device)
        total = x.new_zeros(len(x))
        for rigid in (True, False):
            rows = index[3:][cond["rigid"][3:] == rigid]
            if not len(rows):
                continue
            steric = None
            if not rigid:
                p, g, s = (x[:, cond[key][rows]] for key in ("parent", "grand", "side"))
                with full_precision(x):
                    placed = rows[:, None] > index
                    steric = steric_features(x, frames(p, g, s), g, cond, rows, placed)
            given = self.heads.torsion_given(h[:, rows], steric, cond, rows)
            total = total + mixture_von_mises_log_prob(ic.torsion[:, rows], *given).sum(-1)
        return total

    def log_prob(self, x: Tensor, cond: Tensors) -> Tensor:
        """Log-density (nats) on R^{3N} of x (batch, atoms, 3) nm, one molecule: (batch,).

        ``cond`` is what :meth:`encode` returned for the molecule, without batch dimension.
        """
        centroid = self._centroid_log_prob(x.mean(1), x.shape[1])
        x = x[:, cond["order"]]
        with full_precision(x):
            ic = internal_coordinates(x, zmatrix_of(cond))
            between = (x[:, cond["parent"]] - x[:, cond["grand"]]).norm(dim=-1).clamp_min(1e-6)
        h = self.hidden(x, ic, cond)
        every = slice(0, x.shape[1])
        bend = mixture_normal_log_prob(
            ic.bend, *self.heads.bend_given(h, ic.torsion, cond, every)
        )
        length = mixture_normal_log_prob(
            ic.distance, *self.heads.length_given(h, ic.torsion, ic.bend, cond, every)
        )
        stiff = bend[:, 2:].sum(-1) + length[:, 1:].sum(-1)
        total = self._torsion_term(x, ic, h, cond) + stiff
        return total - log_volume(ic, between, cond["closing"]) - LOG_HAAR + centroid

    def _centroid_log_prob(self, centroid: Tensor, num_atoms: int) -> Tensor:
        variance = self.centroid_scale**2 / num_atoms
        norm = 1.5 * math.log(2 * math.pi * variance)
        return -0.5 * centroid.square().sum(-1) / variance - norm

    @torch.no_grad()
    def sample_and_log_prob(
        self, n: int, cond: Tensors, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Draws and their log-density from the same pass.

        Returns:
            x (n, atoms, 3) nm in the molecule's own atom order, and log q (n,) nats on R^{3N}.
        """
        x, log_prob = _Placing(self, cond, n).run(generator)
        rotation = uniform_rotations(n, generator, x)
        x = torch.einsum("nij,naj->nai", rotation, x - x.mean(1, keepdim=True))
        centroid = torch.randn(n, 3, generator=generator, device=x.device, dtype=x.dtype)
        centroid = centroid * (self.centroid_scale / math.sqrt(x.shape[1]))
        log_prob = log_prob + self._centroid_log_prob(centroid, x.shape[1])
        out = torch.empty_like(x)
        out[:, cond["order"]] = x + centroid[:, None]
        return out, log_prob


class _Placing:
    """One pass over the atoms with keys, values and coordinates in preallocated tensors."""

    def __init__(self, flow: InternalFlow, cond: Tensors, n: int):
        self.flow, self.cond, self.n = flow, cond, n
        weight = flow.geometry.weight
        num_atoms, channels = len(cond["order"]), flow.norm.weight.shape[0]
        self.identity = flow.identities(cond)
        self.x = weight.new_zeros(n, num_atoms, 3)
        self.features = weight.new_zeros(n, num_atoms, IC_FEATURES)
        self.cache = [
            weight.new_zeros(2, n, num_atoms, block.num_heads, channels // block.num_heads)
            for block in flow.blocks
        ]

    def _hidden(self, i: int, frame: Frames) -> Tensor:
        flow, atom = self.flow, slice(i, i + 1)
        h = flow._first(self.identity, self.features, self.cond, atom)
        framed = self.x.new_full((1,), float(i > 2))
        seen = pair_features(self.x[:, :i], frame)
        pair = flow._pairs(seen, self.cond["hops"][atom, :i], framed)
        self.inputs = []
        for block, cache in zip(flow.blocks, self.cache, strict=True):
            self.inputs.append(h)
            h = block(h, cache[0, :, :i], cache[1, :, :i], pair, None)
        return flow.norm(h)

    def _remember(self, i: int, ic: InternalCoordinates) -> None:
        atom = slice(i, i + 1)
        self.features[:, atom] = ic_features(ic, self.cond, atom)
        for block, cache, h in zip(self.flow.blocks, self.cache, self.inputs, strict=True):
            cache[0, :, atom], cache[1, :, atom] = block.keys_values(h, self.features[:, atom])

    def _torsion(self, i: int, h: Tensor, frame: Frames) -> Conditionals:
        cond, rows = self.cond, torch.tensor([i], device=self.x.device)
        steric = None
        if not bool(cond["rigid"][i]):
            grand = self.x[:, cond["grand"][i]][:, None]
            placed = torch.ones(1, i, dtype=torch.bool, device=self.x.device)
            steric = steric_features(self.x[:, :i], frame, grand, cond, rows, placed)
        return self.flow.heads.torsion_given(h, steric, cond, rows)

    def _draw(
        self, i: int, h: Tensor, frame: Frames, generator: Generator
    ) -> tuple[InternalCoordinates, Tensor]:
        heads, cond, atom = self.flow.heads, self.cond, slice(i, i + 1)
        log_prob = self.x.new_zeros(self.n)
        torsion, bend = self.x.new_zeros(self.n, 1), self.x.new_full((self.n, 1), math.pi / 2)
        distance = self.x.new_ones(self.n, 1)
        if i > 2:
            given = self._torsion(i, h, frame)
            torsion = sample_mixture_von_mises(*(p[:, 0] for p in given), generator)[:, None]
            log_prob = log_prob + mixture_von_mises_log_prob(torsion, *given)[:, 0]
        if i > 1:
            given = heads.bend_given(h, torsion, cond, atom)
            bend = sample_mixture_normal(*(p[:, 0] for p in given), generator)[:, None]
            log_prob = log_prob + mixture_normal_log_prob(bend, *given)[:, 0]
        if i > 0:
            given = heads.length_given(h, torsion, bend, cond, atom)
            distance = sample_mixture_normal(*(p[:, 0] for p in given), generator)[:, None]
            log_prob = log_prob + mixture_normal_log_prob(distance, *given)[:, 0]
        return InternalCoordinates(distance, bend, torsion), log_prob

    def _frame(self, i: int) -> Frames:
        if i > 2:
            p, g, s = (self.x[:, self.cond[key][i]] for key in ("parent", "grand", "side"))
            found = frames(p, g, s)
            return Frames(found.origin[:, None], found.axes[:, None])
        # The first three atoms fix the frame of the molecule: origin, x axis, xy plane.
        axes = torch.eye(3, device=self.x.device, dtype=self.x.dtype)
        if i == 2 and int(self.cond["parent"][2]) == 1:
            axes = axes * axes.new_tensor([[-1.0], [1.0], [-1.0]])
        parent = self.x[:, self.cond["parent"][i]]
        return Frames(parent[:, None], axes.expand(self.n, 1, 3, 3))

    def _cosine(self, i: int, ic: InternalCoordinates, between: Tensor) -> Tensor:
        """Cosine of the angle at the parent: (n, 1)."""
        if i == 1:
            return torch.ones_like(ic.bend)  # along the x axis, by choice of the frame
        if bool(self.cond["closing"][i]):
            return closing_cosine(ic.distance, ic.bend, between)
        return torch.cos(ic.bend)

    def run(self, generator: Generator) -> tuple[Tensor, Tensor]:
        """Positions (n, atoms, 3) in placing order, unrotated, and log q without the centroid.

        Rings that cannot be closed give rows of NaN: draws outside of space, which no target
        gives weight. Leaving them out would make the density of the others wrong.
        """
        possible = torch.ones(self.n, dtype=torch.bool, device=self.x.device)
        log_prob = self.x.new_full((self.n,), -LOG_HAAR)
        parent, grand = self.cond["parent"], self.cond["grand"]
        for i in range(self.x.shape[1]):
            frame = self._frame(i)
            ic, term = self._draw(i, self._hidden(i, frame), frame, generator)
            between = (self.x[:, parent[i]] - self.x[:, grand[i]]).norm(dim=-1, keepdim=True)
            closing = self.cond["closing"][i : i + 1]
            log_prob = log_prob + term - log_volume(ic, between.clamp_min(1e-6), closing)
            if i > 0:
                cosine = self._cosine(i, ic, between)
                possible &= (cosine.abs() <= 1)[:, 0]
                cosine = cosine.clamp(-1, 1)
                self.x[:, i] = place(frame, ic.distance, cosine, ic.torsion)[:, 0]
            self._remember(i, ic)
        return self.x.masked_fill(~possible[:, None, None], torch.nan), log_prob


def uniform_rotations(n: int, generator: Generator, like: Tensor) -> Tensor:
    """Rotation matrices (n, 3, 3) of Haar measure, from normalised normal quaternions."""
    q = torch.randn(n, 4, generator=generator, device=like.device, dtype=like.dtype)
    w, x, y, z = (q / q.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
