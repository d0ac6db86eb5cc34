"""TarFlow over the atoms of a peptide: an autoregressive flow with exact log-density.

One atom is one token. Each block visits the atoms in its own order and moves every atom by an
affine map whose scale and offset a causal transformer computes from the atoms before it. With the
default settings this is the published Prose network; `variant` names the networks of the published
ablation, and each of `lookahead_conditioning`, `adaptive_norm` and `transition` switches one part.

References: Zhai et al. 2024, arXiv:2412.06329 (TarFlow); Tan et al. 2025, arXiv:2508.18175 (Prose).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensci.core.registry import MODELS
from gensci.nn import peptide_encoding
from gensci.nn.inverse import kept_inverse, make_inverse
from gensci.nn.rotations import uniform_rotations
from gensci.nn.transformer import LayerTerms, TransformerLayer, sinusoid

ATOM_ROWS, RESIDUE_ROWS = 128, 64  # sizes of the published embedding tables, larger than needed
Condition = dict[str, Tensor]

# Networks of the published ablation: what differs from Prose. Without backbone-first orders, the
# others keep their turn; the paper does not tell which took the places.
VARIANTS: dict[str, dict[str, Any]] = {
    "prose": {},
    "no-look-ahead": {"lookahead_conditioning": False},
    "no-backbone-first": {
        "permutations": [name for name in peptide_encoding.ORDERS if name[:8] != "backbone"]
    },
    "no-transition": {"transition": False},
    "tarflow": {
        "lookahead_conditioning": False,
        "adaptive_norm": False,
        "transition": False,
        "permutations": ["residue-by-residue", "residue-by-residue_flip"],
    },
}


@MODELS.register("tarflow-peptide")
class TarFlowPeptide(nn.Module):
    """Transferable normalizing flow of peptides of any sequence.

    Densities are those of R^{3N}: the centroid is part of them. Positions are divided by
    `sigma_data`; data with centroid variance `sigma_data^2 / N` (see `augment`) then
    match the standard normal prior in their centroid.

    Conditions come from `encode`, one per system without a batch dimension (all samples are of that
    system, and what depends on the condition alone is computed once), or from `collate` with one.

    Args:
        channels: Width of the tokens.
        num_blocks: Number of autoregressive blocks.
        layers_per_block: Transformer layers in each.
        head_dim: Width of one attention head; divides `channels`.
        expansion: Hidden width of the feed-forward parts over `channels`.
        variant: A network of the published ablation, from `VARIANTS`; it tells the next four.
        permutations: Atom orders of the blocks, from `peptide_encoding.ORDERS`; repeated as needed.
        lookahead_conditioning: Tell each token which atom comes next.
        adaptive_norm: Condition by adaptive norms and gates; otherwise by addition.
        transition: Gated feed-forward branch in each layer.
        sigma_data: Length scale of the data, nm.

    Raises:
        ValueError: An unknown variant or order.
    """

    def __init__(
        self,
        channels: int = 384,
        num_blocks: int = 8,
        layers_per_block: int = 8,
        head_dim: int = 64,
        expansion: int = 4,
        permutations: Sequence[str] | None = None,
        lookahead_conditioning: bool | None = None,
        adaptive_norm: bool | None = None,
        transition: bool | None = None,
        sigma_data: float = 0.35,
        variant: str = "prose",
    ) -> None:
        super().__init__()
        parts = _parts(variant, permutations, lookahead_conditioning, adaptive_norm, transition)
        # Resolved, so that a checkpoint does not lean on the table of variants.
        self.settings = {
            "channels": channels,
            "num_blocks": num_blocks,
            "layers_per_block": layers_per_block,
            "head_dim": head_dim,
            "expansion": expansion,
            **parts,
            "sigma_data": sigma_data,
        }
        self.sigma_data = sigma_data
        self.columns = _columns(parts["permutations"], num_blocks)
        self.embedding = ConditionEmbedding(channels)
        self.blocks = nn.ModuleList(
            AutoregressiveBlock(
                channels,
                [
                    TransformerLayer(
                        channels, head_dim, expansion, parts["adaptive_norm"], parts["transition"]
                    )
                    for _ in range(layers_per_block)
                ],
                parts["lookahead_conditioning"],
            )
            for _ in range(num_blocks)
        )

    encode = staticmethod(peptide_encoding.encode)
    collate = staticmethod(peptide_encoding.collate)

    @staticmethod
    def tempered(cond: Condition, ratio: float) -> Condition:
        """Condition for `ratio` times the temperature of the training: noise of that variance.

        The density stays exact. Centroids spread with it: `centroid_stretch` tells by how much.

        Reference: Dibak et al. 2022, arXiv:2108.01590; Tan et al. 2025, arXiv:2508.18175.
        """
        value = torch.tensor(ratio, device=cond["mask"].device, dtype=torch.float64)
        return {**cond, "temperature_ratio": value, "centroid_stretch": value.sqrt()}

    @property
    def centroid_scale(self) -> float:
        """Centroids are N(0, centroid_scale^2 I / N), nm."""
        return self.sigma_data

    def forward(self, x: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """Map standardised positions to noise.

        Args:
            x: Positions over `sigma_data`, (batch, atoms, 3); padding is ignored.
            cond: Condition of one system, or of each row.

        Returns:
            Noise z (batch, atoms, 3), zero at padding, and log|det dz/dx| (batch,).
        """
        mask = cond["mask"].unsqueeze(-1)
        x = x.masked_fill(~mask, 0.0)
        h = self.embedding(cond).masked_fill(~mask, 0.0)
        log_det = x.new_zeros(len(x))
        for block, column in zip(self.blocks, self.columns, strict=True):
            order = cond["permutations"][..., column]
            z, change = block(permute(x, order), block.terms(permute(h, order)), mask)
            x, log_det = permute(z, order.argsort(-1)), log_det + change
        return x, log_det

    @torch.no_grad()
    def inverse(self, z: Tensor, cond: Condition) -> tuple[Tensor, Tensor]:
        """Map noise to standardised positions of one system, atom by atom.

        Args:
            z: Noise (n, atoms, 3).
            cond: Condition of the system, without batch dimension or padding.

        Returns:
            Positions over `sigma_data` (n, atoms, 3), and log|det dz/dx| (n,) of the map that
            `forward` computes, from this very pass.
        """
        return make_inverse(self, cond)(z)

    def log_prob(self, x: Tensor, cond: Condition) -> Tensor:
        """Log-density of positions on R^{3N}, centroid included.

        Args:
            x: Positions (batch, atoms, 3), nm.
            cond: Condition of one system, or of each row.

        Returns:
            Nats per nm^{3N}, (batch,).
        """
        z, log_det = self(x / self.sigma_data, cond)
        return self._log_density(z, log_det, 3 * cond["mask"].sum(-1).to(z), cond)

    @torch.no_grad()
    def sample_and_log_prob(
        self,
        n: int,
        cond: Condition,
        generator: torch.Generator,
        batch_size: int | None = None,
        precision: str | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw positions of one system with the log-density of the drawing pass itself.

        Args:
            n: Number of samples.
            cond: Condition of the system, without batch dimension or padding.
            generator: Source of the noise; its device may differ from the network's.
            batch_size: Samples computed together; by default what memory bears.
            precision: Of the conditioner's matrix products: "highest", "high" or "medium"; by
                default as `torch.set_float32_matmul_precision` says. The log-density is that of
                the flow as it was computed, so weights are right at each.

        Returns:
            Positions (n, atoms, 3), nm, and log-density (n,), nats.
        """
        like = self.embedding.atom.weight
        atoms = len(cond["mask"])
        noise = torch.randn(
            (n, atoms, 3), generator=generator, device=generator.device, dtype=like.dtype
        )
        if "temperature_ratio" in cond:
            noise = noise * cond["temperature_ratio"].to(noise).sqrt()
        inverse, rows = kept_inverse(self, cond, precision)
        parts = []
        for z in noise.to(like.device).split(max(1, batch_size or rows)):
            x, log_det = inverse(z)
            log_q = self._log_density(z, log_det, 3 * atoms, cond)
            parts.append((x * self.sigma_data, log_q))
        x, log_q = (torch.cat(values) for values in zip(*parts, strict=True))
        return x, log_q

    def augment(
        self, x: Tensor, generator: torch.Generator | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Prepare positions for training: centred, rotated at random, centroid drawn.

        Args:
            x: Positions (batch, atoms, 3), nm.
            generator: Source of randomness.
            mask: True for atoms, (atoms,) or (batch, atoms); without one there is no padding.

        Returns:
            Positions (batch, atoms, 3) with centroid ~ N(0, sigma_data^2 I / N), zero at padding.
        """
        if mask is None:
            mask = torch.ones(x.shape[1], dtype=torch.bool, device=x.device)
        mask = mask.unsqueeze(-1).expand(*x.shape[:2], 1)
        count = mask.sum(-2, keepdim=True)
        x = x.masked_fill(~mask, 0.0)
        x = (x - x.sum(-2, keepdim=True) / count) @ uniform_rotations(len(x), generator, x)
        shift = _normal((len(x), 1, 3), x, generator) * (self.sigma_data / count.sqrt())
        return (x + shift).masked_fill(~mask, 0.0)

    def _log_density(
        self, z: Tensor, log_det: Tensor, size: Tensor | int, cond: Condition
    ) -> Tensor:
        """Log-density of the positions that map to `z`, `size` of whose numbers count."""
        constant, square = 0.5 * math.log(2 * math.pi) + math.log(self.sigma_data), z.square()
        if "temperature_ratio" in cond:
            ratio = cond["temperature_ratio"].to(z)
            constant, square = constant + 0.5 * ratio.log(), square / ratio
        return log_det - 0.5 * square.sum((-2, -1)) - size * constant


class ConditionEmbedding(nn.Module):
    """Vector of each atom from its type, its residue, the residue's place and the length."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.atom = nn.Embedding(ATOM_ROWS, channels)
        self.residue = nn.Embedding(RESIDUE_ROWS, channels)
        self.mlp = nn.Sequential(
            nn.Linear(4 * channels, channels), nn.GELU(), nn.Linear(channels, channels)
        )

    def forward(self, cond: Condition) -> Tensor:
        """Embed a condition of shape (..., atoms) as (..., atoms, channels)."""
        weight = self.atom.weight
        places = [
            sinusoid(cond[key], weight.shape[1], 1000.0, weight.dtype)
            for key in ("residue_index", "length")
        ]
        types = [self.atom(cond["atom_type"]), self.residue(cond["aa_type"])]
        return self.mlp(torch.cat(types + places, dim=-1))


class AutoregressiveBlock(nn.Module):
    """Affine autoregressive map of the atoms in one order.

    Args:
        channels: Width of the tokens.
        layers: The transformer layers.
        lookahead: Let the conditioning of a token name the atom that comes next.
    """

    def __init__(self, channels: int, layers: Sequence[TransformerLayer], lookahead: bool) -> None:
        super().__init__()
        self.lookahead = lookahead
        self.enter = nn.Linear(3, channels)
        self.position_scale = nn.Parameter(torch.tensor([0.01]))
        self.condition = (
            nn.Sequential(
                nn.Linear(2 * channels, channels), nn.GELU(), nn.Linear(channels, channels)
            )
            if lookahead
            else nn.Linear(channels, channels)
        )
        self.layers = nn.ModuleList(layers)
        self.leave = nn.Linear(channels, 6)  # log-scale a and offset b of the next atom
        nn.init.zeros_(self.leave.weight)

    def terms(self, h: Tensor) -> list[LayerTerms]:
        """Conditioning of each layer from atoms `h` (..., atoms, channels), in block order."""
        if self.lookahead:
            h = torch.cat((h, F.pad(h[..., 1:, :], (0, 0, 0, 1))), dim=-1)
        c = self.condition(h)
        return [layer.terms(c) for layer in self.layers]

    def places(self, count: int) -> Tensor:
        """Features (count, channels) of the places in the order."""
        weight = self.enter.weight
        index = torch.arange(count, device=weight.device)
        return self.position_scale * sinusoid(index, len(weight), 10000.0, weight.dtype)

    def forward(self, x: Tensor, terms: list[LayerTerms], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Map `x` (batch, atoms, 3) towards noise.

        Args:
            x: Positions in block order.
            terms: Result of `terms`.
            mask: True for atoms (..., atoms, 1); padding comes last in every order.

        Returns:
            z (batch, atoms, 3) and log|det dz/dx| (batch,).
        """
        u = self.enter(x) + self.places(x.shape[1])
        for layer, term in zip(self.layers, terms, strict=True):
            u = layer(u, term)
        affine = F.pad(self.leave(u[:, :-1]), (0, 0, 1, 0)).masked_fill(~mask, 0.0)
        a, b = affine.chunk(2, dim=-1)
        return (x - b) * torch.exp(-a), -a.sum((-2, -1))


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal numbers of the type and device of `like`."""
    device = like.device if generator is None else generator.device
    noise = torch.randn(shape, generator=generator, device=device, dtype=like.dtype)
    return noise.to(like.device)


def permute(values: Tensor, order: Tensor) -> Tensor:
    """Rows (..., atoms, width) in an order (atoms,) for all or (batch, atoms) for each."""
    if order.dim() == 1:
        return values.index_select(-2, order)
    return values.gather(1, order.unsqueeze(-1).expand(-1, -1, values.shape[-1]))


def _parts(
    variant: str,
    permutations: Sequence[str] | None,
    lookahead_conditioning: bool | None,
    adaptive_norm: bool | None,
    transition: bool | None,
) -> dict[str, Any]:
    """What the variant says, where it is not said otherwise."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r} of Prose: choose from {', '.join(VARIANTS)}")
    whole = {
        "permutations": peptide_encoding.ORDERS,
        "lookahead_conditioning": True,
        "adaptive_norm": True,
        "transition": True,
    }
    told = {
        "permutations": permutations,
        "lookahead_conditioning": lookahead_conditioning,
        "adaptive_norm": adaptive_norm,
        "transition": transition,
    }
    parts = whole | VARIANTS[variant] | {k: v for k, v in told.items() if v is not None}
    return parts | {"permutations": list(parts["permutations"])}


def _columns(permutations: Sequence[str], num_blocks: int) -> list[int]:
    """Column of the condition's permutations that each block uses."""
    known = peptide_encoding.ORDERS
    unknown = [name for name in permutations if name not in known]
    if unknown or not permutations:
        raise ValueError(f"permutations {list(permutations)}: choose from {', '.join(known)}")
    return [known.index(permutations[i % len(permutations)]) for i in range(num_blocks)]
