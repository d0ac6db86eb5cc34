"""Conditional densities of one atom's coordinates: torsion, then bend, then distance."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .internal_encoding import Tensors
from .internal_features import RIGID_WIDTH
from .internal_temperature import (
    RATIO,
    Conditionals,
    stretched_normal,
    stretched_von_mises,
    tempered_rotor,
)
from .steric import FEATURES, GRID, torsion_grid

RIGID_LOG_KAPPA = -2 * math.log(RIGID_WIDTH)
GRID_LOG_KAPPA = -2 * math.log(0.8 * 2 * math.pi / GRID)  # neighbours on the grid overlap
FREE_LOG_KAPPA = math.log(6.0)
FREE_LOGIT = 1.0  # a free component is broader than one on the grid


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
            rigid = Conditionals(logits, centre, _bounded_log(sharpen, RIGID_LOG_KAPPA))
            return stretched_von_mises(rigid, cond[RATIO]) if RATIO in cond else rigid
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
        rotor = Conditionals(logits, centre, log_kappa)
        return tempered_rotor(rotor, cond[RATIO], GRID) if RATIO in cond else rotor

    def bend_given(self, h: Tensor, torsion: Tensor, cond: Tensors, atoms: slice) -> Conditionals:
        """Bends given h and the torsions (batch, atoms)."""
        seen = torch.cat((h, self._torsion_features(torsion, cond, atoms)), dim=-1)
        logits, shift, widen = self.bend(seen).chunk(3, dim=-1)
        width = cond["bend_scale"][atoms][:, None]
        centre = cond["bend0"][atoms][:, None] + width * (self.spread + shift)
        return _stiff(Conditionals(logits, centre, width.log() + (widen - 0.3).clamp(-5, 3)), cond)

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
        return _stiff(Conditionals(logits, centre, width.log() + (widen - 0.3).clamp(-5, 3)), cond)


def _stiff(given: Conditionals, cond: Tensors) -> Conditionals:
    """Bends or distances at the temperature that is asked for."""
    return stretched_normal(given, cond[RATIO]) if RATIO in cond else given


def _bounded_log(raw: Tensor, base: float) -> Tensor:
    """Log-concentration: a correction to ``base``, kept where von Mises draws are exact."""
    return (base + raw).clamp(-4.0, 11.0)
