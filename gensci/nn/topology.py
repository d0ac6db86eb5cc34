"""What the equivariant field knows of a molecule before it has a shape: its atoms and bonds.

Nothing here depends on positions or on time, so it is computed once for a molecule, however many
conformations are drawn. Atom features are those of transferable Boltzmann generators (type by atom
name, residue, place in the chain; Klein and Noe 2024, arXiv 2406.14426), with the bond graph and
the distances that bonds and angles fix beside them.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .peptide_encoding import ATOM_TYPES, RESIDUE_TYPES, encode
from .transformer import sinusoid
from .zmatrix import topological_distances

Tensors = dict[str, Tensor]
MAX_HOPS, STIFF_HOPS = 8, 2
MAX_RANK, MAX_OFFSET = 4, 3
NODE_CHANNELS, PAIR_CHANNELS = 64, 64
NUM_VECTORS = 6
UNIT_SLOPE = 5.0  # 1 / nm
STIFF_SPREAD = 0.05  # nm, of the places near a distance that bonds fix


class PairTerms(NamedTuple):
    """What the field's functions are made of; (N, N, channels) unless said otherwise.

    Attributes:
        slope, offset: the functions of distance are tanh(sharpness (slope d + offset) + ...).
        message, bias, out, direct: weights of their sums, of the pulls and of both directly.
        node: (N, channels) of each atom.
        vector: (N, N, NUM_VECTORS), weights of the vectors that an atom sums.
    """

    slope: Tensor
    offset: Tensor
    message: Tensor
    bias: Tensor
    out: Tensor
    direct: Tensor
    node: Tensor
    vector: Tensor


def encode_topology(peptide: Any) -> Tensors:
    """Conditioning tensors of one peptide, without batch dimension.

    Args:
        peptide: has atom_names, residue_names, residue_index, bonds and positions (atoms, 3) nm
            (``gensci.sims.peptide.Peptide``).

    Returns:
        atom_type, aa_type, residue_index, length as ``peptide_encoding.encode`` numbers them;
        rank (N,), which of the equally typed atoms of a residue this is; hops (N, N) bonds between
        atoms, at most 8; distance (N, N) nm in the built geometry between atoms that one or two
        bonds join, else 0.

    Raises:
        UsageError: a cap, or an atom or residue that the encoding does not know.
    """
    kept = ("atom_type", "aa_type", "residue_index", "length")
    cond = {key: value for key, value in encode(peptide).items() if key in kept}
    count: Counter[tuple[int, int]] = Counter()
    ranks = []
    for key in zip(cond["residue_index"].tolist(), cond["atom_type"].tolist(), strict=True):
        ranks.append(min(count[key], MAX_RANK - 1))
        count[key] += 1
    x = torch.as_tensor(peptide.positions, dtype=torch.float64)
    bonds = [tuple(bond) for bond in peptide.bonds]
    hops = topological_distances(len(x), bonds, MAX_HOPS)
    stiff = (hops <= STIFF_HOPS) & (hops > 0)
    distance = torch.cdist(x, x).where(stiff, x.new_zeros(())).float()
    return cond | {"rank": torch.tensor(ranks), "hops": hops, "distance": distance}


class TopologyEmbedding(nn.Module):
    """Embeds a molecule's graph as the terms of the field's functions of distance.

    Args:
        channels: functions of distance of each pair.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        width = NODE_CHANNELS
        self.atom = nn.Embedding(len(ATOM_TYPES) + 1, width)
        self.residue = nn.Embedding(len(RESIDUE_TYPES) + 1, width)
        self.rank = nn.Embedding(MAX_RANK, width)
        self.hops = nn.Embedding(MAX_HOPS + 1, PAIR_CHANNELS)
        self.offset = nn.Embedding(2 * MAX_OFFSET + 1, PAIR_CHANNELS)
        self.chain = nn.Linear(2 * width, width)
        self.bonded = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(2)
        )
        self.ends = nn.Linear(width, 2 * PAIR_CHANNELS)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(PAIR_CHANNELS, PAIR_CHANNELS), nn.SiLU())
        self.terms = nn.Linear(PAIR_CHANNELS, 6 * channels)
        self.vectors = nn.Linear(PAIR_CHANNELS, NUM_VECTORS)
        self.node = nn.Linear(width, NODE_CHANNELS)
        self._start(channels)

    def _start(self, channels: int) -> None:
        """Places of the functions spread over the distances, and pulls of nearly zero."""
        generator = torch.Generator().manual_seed(channels)
        places = torch.linspace(0.05, 0.95, channels)[torch.randperm(channels, generator=generator)]
        self.places = nn.Parameter(places)
        spread = torch.linspace(-STIFF_SPREAD, STIFF_SPREAD, channels)
        self.spread = nn.Parameter(spread[torch.randperm(channels, generator=generator)])
        for name, scale in (("atom", 0.5), ("residue", 0.5), ("rank", 0.5)):
            nn.init.normal_(getattr(self, name).weight, std=scale)
        with torch.no_grad():
            weight = self.terms.weight.unflatten(0, (6, channels))
            weight[2:4] *= 3.0
            weight[4:] *= 0.02
            self.vectors.weight *= 5.0
            self.terms.bias.zero_()

    def atoms(self, cond: Tensors) -> Tensor:
        """Embedding of the atoms: (N, channels)."""
        dtype, width = self.atom.weight.dtype, NODE_CHANNELS
        places = [sinusoid(cond[k], width, 1000.0, dtype) for k in ("residue_index", "length")]
        z = self.atom(cond["atom_type"]) + self.residue(cond["aa_type"]) + self.rank(cond["rank"])
        z = z + self.chain(torch.cat(places, dim=-1))
        neighbours = (cond["hops"] == 1).to(dtype)
        for layer in self.bonded:
            z = z + layer(torch.cat((z, neighbours @ z), dim=-1))
        return z

    def forward(self, cond: Tensors) -> PairTerms:
        """Terms of the molecule whose conditioning this is."""
        z = self.atoms(cond)
        one, two = self.ends(z).chunk(2, dim=-1)
        apart = cond["residue_index"][:, None] - cond["residue_index"]
        apart = apart.clamp(-MAX_OFFSET, MAX_OFFSET) + MAX_OFFSET
        e = self.mix(one[:, None] + two + self.hops(cond["hops"]) + self.offset(apart))
        terms = self.terms(e).unflatten(-1, (6, self.channels)).unbind(-2)
        steep, shift, message, bias, out, direct = terms
        stiff = cond["distance"][..., None]
        place = torch.where(stiff > 0, stiff + self.spread, self.places)
        slope = UNIT_SLOPE * (1 + 0.3 * steep)
        offset = -slope * place + 0.3 * shift
        different = 1 - torch.eye(len(z), dtype=z.dtype, device=z.device)[..., None]
        return PairTerms(
            slope,
            offset,
            message * different,
            bias,
            out * different,
            direct * different,
            self.node(z),
            self.vectors(e) * different,
        )
