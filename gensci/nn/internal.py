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
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from gensci.core.registry import MODELS

from . import internal_packed, native_placing
from .internal_encoding import MAX_HOPS, NUM_NAMES, NUM_RESIDUES, Tensors, encode_internal
from .internal_features import (
    IC_FEATURES,
    RADII,
    full_precision,
    ic_features,
    pair_features,
    zmatrix_of,
)
from .internal_heads import Heads
from .internal_placing import LOG_HAAR, Placing
from .internal_temperature import RATIO
from .mixtures import mixture_normal_log_prob, mixture_von_mises_log_prob
from .rotations import uniform_rotations
from .steric import steric_features, steric_of_placed
from .zmatrix import (
    Frames,
    InternalCoordinates,
    frames,
    internal_coordinates,
    log_volume,
    zmatrix_frames,
)


class Fused(NamedTuple):
    """Compiled parts of a flow, each with the arguments of the part itself."""

    pair_channels: Callable[..., Tensor]
    steric: Callable[..., Tensor]
    blocks: list[Callable[..., Tensor]]


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
        """Keys and values (batch, heads, K, head_dim) of atoms whose coordinates are known."""
        kv = self.key_value(self.norm_key(h + self.see(features)))
        kv = kv.unflatten(-1, (2 * self.num_heads, -1)).transpose(1, 2)
        return kv[:, : self.num_heads], kv[:, self.num_heads :]

    def queries(self, h: Tensor) -> Tensor:
        """Queries (batch, heads, Q, head_dim), scaled."""
        q = self.query(self.norm_query(h)).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        return q * self.head_dim**-0.5

    def update(self, h: Tensor, seen: Tensor, looks: Tensor) -> Tensor:
        """Add to h what was seen: values (batch, Q, heads, head_dim), pairs (..., heads, P)."""
        h = h + self.out(torch.cat((seen.flatten(-2), looks.flatten(-2)), -1))
        return h + self.mlp(h)

    def forward(
        self, h: Tensor, key: Tensor, value: Tensor, pair: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Update h (batch, Q, C) from K placed atoms; mask (Q, K) True where Q may look."""
        logits = self.queries(h) @ key.transpose(-1, -2)
        logits = logits + self.pair_bias(pair).permute(0, 3, 1, 2)
        if mask is not None:
            logits = logits.masked_fill(~mask, -1e9)
        null = self.null[None, :, None, None].expand(*logits.shape[:-1], 1)
        weight = torch.softmax(torch.cat((logits, null), -1), -1)[..., :-1]
        return self.update(h, (weight @ value).transpose(1, 2), weight.transpose(1, 2) @ pair)


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
        self._fused: Fused | None = None

    encode = staticmethod(encode_internal)

    def fuse(self) -> None:
        """Compile the parts where a training step spends its time: many small operations.

        It takes a minute or two and pays in long trainings only; on a CPU, ``internal_packed`` is
        used there instead. What the parts compute stays the same but for rounding.
        """
        compiled = partial(torch.compile, dynamic=True)
        self._fused = Fused(
            compiled(self._pair_channels),
            compiled(steric_features),
            [compiled(block.forward) for block in self.blocks],
        )

    def add_layers(self, blocks: int) -> None:
        """Append blocks that change nothing yet, so that a trained flow can be made deeper."""
        first = self.blocks[0]
        channels, pair_channels = self.settings["channels"], self.settings["pair_channels"]
        for _ in range(blocks):
            block = Block(channels, first.num_heads, pair_channels).to(first.out.weight)
            for last in (block.out, block.mlp[-1]):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)
            self.blocks.append(block)
        self.settings["num_layers"] = len(self.blocks)

    @staticmethod
    def tempered(cond: Tensors, ratio: float) -> Tensors:
        """Conditioning for ``ratio`` times the temperature of the training; exact all the same."""
        return {**cond, RATIO: cond["length0"].new_tensor(ratio)}

    def identities(self, cond: Tensors) -> Tensor:
        """What is known of the atoms before any is placed: (atoms, channels)."""
        name = cond["name"]
        refs = torch.stack([name[cond[key]] for key in ("parent", "grand", "side")], dim=-1)
        refs = refs + NUM_NAMES * torch.arange(3, device=refs.device)
        e = self.residue(cond["residue"]) + self.name(name) + self.previous(cond["previous"])
        e = e + self.next(cond["next"]) + self.reference_names(refs).sum(-2)
        return e + self.identity(e)

    def pairs(self, seen: Tensor, hops: Tensor, framed: Tensor) -> Tensor:
        """Pair channels (batch, Q, K, P); ``framed`` (Q,) 0 for the first three atoms."""
        seen = self.geometry(seen) * framed[:, None, None]
        return nn.functional.silu(self.pair(nn.functional.silu(seen + self.hops(hops))))

    def _pair_channels(self, x: Tensor, frame: Frames, hops: Tensor, framed: Tensor) -> Tensor:
        """Pair channels (batch, Q, K, P) of atoms x (batch, K, 3) seen from frames (batch, Q)."""
        with full_precision(x):
            seen = pair_features(x, frame)
        return self.pairs(seen, hops, framed)

    def first_hidden(
        self, identity: Tensor, features: Tensor, cond: Tensors, atoms: slice
    ) -> Tensor:
        """Hidden state before the blocks, from the identity and the references' coordinates."""
        refs = [features[:, cond[key][atoms]] for key in ("parent", "grand", "side")]
        return identity[atoms] + self.references(torch.cat(refs, dim=-1))

    def hidden(self, x: Tensor, ic: InternalCoordinates, cond: Tensors) -> Tensor:
        """Hidden states (batch, atoms, C) for x in placing order; row i sees atoms before i."""
        if internal_packed.serves(self, x):
            return internal_packed.hidden(self, x, ic, cond)
        num_atoms = x.shape[1]
        every = slice(0, num_atoms)
        features = ic_features(ic, cond, every)
        index = torch.arange(num_atoms, device=x.device)
        mask = index[:, None] > index
        with full_precision(x):
            frame = zmatrix_frames(x, zmatrix_of(cond))
        parts = self._fused
        pair_channels = parts.pair_channels if parts else self._pair_channels
        pair = pair_channels(x, frame, cond["hops"], (index > 2).to(x.dtype))
        # Atom 0 is its own (unknown) reference: its features are zero by construction.
        h = self.first_hidden(self.identities(cond), features, cond, every)
        updates = parts.blocks if parts else self.blocks
        for block, update in zip(self.blocks, updates, strict=True):
            h = update(h, *block.keys_values(h, features), pair, mask)
        return self.norm(h)

    def _torsion_term(self, x: Tensor, ic: InternalCoordinates, h: Tensor, cond: Tensors) -> Tensor:
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
                    steric = self._steric(x, frames(p, g, s), g, cond, rows)
            given = self.heads.torsion_given(h[:, rows], steric, cond, rows)
            total = total + mixture_von_mises_log_prob(ic.torsion[:, rows], *given).sum(-1)
        return total

    def _steric(
        self, x: Tensor, frame: Frames, grand: Tensor, cond: Tensors, rows: Tensor
    ) -> Tensor:
        """Energies (batch, rows, GRID, FEATURES) of the rotors of placed atoms x."""
        if internal_packed.serves(self, x):
            return steric_of_placed(x, frame, grand, cond, rows)
        placed = rows[:, None] > torch.arange(x.shape[1], device=x.device)
        look = self._fused.steric if self._fused else steric_features
        return look(x, frame, grand, cond, rows, placed)

    def log_prob(self, x: Tensor, cond: Tensors) -> Tensor:
        """Log-density (nats) on R^{3N} of x (batch, atoms, 3) nm, one molecule: (batch,).

        ``cond`` is what :meth:`encode` returned for the molecule, without batch dimension.
        """
        centroid = self._centroid_log_prob(x.mean(1), x.shape[1])
        x = x[:, cond["order"]]
        with full_precision(x):
            ic = internal_coordinates(x, zmatrix_of(cond))
            between = (x[:, cond["parent"]] - x[:, cond["grand"]]).norm(dim=-1).clamp_min(1e-6)
        if self.density_by_kernel(x):
            found = native_placing.NativePlacing(self, cond).log_prob(x, ic) - LOG_HAAR
            return found.to(x.dtype) + centroid
        h = self.hidden(x, ic, cond).to(x.dtype)
        # Centres and widths rounded to bfloat16 change a gradient by three times its own length.
        with full_precision(x):
            total = self._log_conditionals(x, ic, h, cond)
        return total - log_volume(ic, between, cond["closing"]) - LOG_HAAR + centroid

    def _log_conditionals(
        self, x: Tensor, ic: InternalCoordinates, h: Tensor, cond: Tensors
    ) -> Tensor:
        """Sum of the log-densities of torsions, bends and distances: (batch,)."""
        every = slice(0, x.shape[1])
        bend = mixture_normal_log_prob(ic.bend, *self.heads.bend_given(h, ic.torsion, cond, every))
        length = mixture_normal_log_prob(
            ic.distance, *self.heads.length_given(h, ic.torsion, ic.bend, cond, every)
        )
        stiff = bend[:, 2:].sum(-1) + length[:, 1:].sum(-1)
        return self._torsion_term(x, ic, h, cond) + stiff

    def density_by_kernel(self, x: Tensor) -> bool:
        """Whether a C kernel tells the density of x, several times faster but without gradient."""
        return native_placing.tells_density(self, x)

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
        x, log_prob = Placing(self, cond, n).run(generator)
        rotation = uniform_rotations(n, generator, x)
        x = torch.einsum("nij,naj->nai", rotation, x - x.mean(1, keepdim=True))
        centroid = torch.randn(n, 3, generator=generator, device=x.device, dtype=x.dtype)
        centroid = centroid * (self.centroid_scale / math.sqrt(x.shape[1]))
        log_prob = log_prob + self._centroid_log_prob(centroid, x.shape[1])
        out = torch.empty_like(x)
        out[:, cond["order"]] = x + centroid[:, None]
        return out, log_prob
