"""Diffusion head of 3-vectors, in space and on the torus, with sigma apart from the condition.

A slot is a vector x in R^3 (lattice numbers, coordinates in a local frame) or on the unit torus
(fractional coordinates). In space the head is preconditioned as by Karras et al. 2022
(arXiv:2206.00364). On the torus noise is a wrapped normal, and the head learns its score relative
to the root mean square of it (Jing et al. 2022, arXiv:2206.01729; Jiao et al. 2023,
arXiv:2309.04475). Condition and noise level modulate the layers additively, so that a solver
computes the part of the condition once for all of its steps.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

TORUS_IMAGES = 5  # on each side; enough for sigma up to one
GROUPS = 32  # noise levels that one pass of the loss has
EVEN = 0.3  # share of the levels on the torus that are spread evenly over their logarithm


class Ranges(NamedTuple):
    """Smallest and largest noise of a kind of slot."""

    low: float
    high: float


SPACE = Ranges(0.002, 20.0)
TORUS = Ranges(0.001, 0.8)


def torus_displacement(difference: Tensor, sigma: Tensor) -> Tensor:
    """sigma^2 times the score of a wrapped normal.

    Args:
        difference: (..., 3) noisy minus clean fractional coordinates.
        sigma: (...) width of the kernel.

    Returns:
        (..., 3): minus the posterior mean of the difference, summed over all images.
    """
    images = torch.arange(-TORUS_IMAGES, TORUS_IMAGES + 1, device=difference.device)
    shifted = (difference - difference.round()).unsqueeze(-1) + images
    logits = -0.5 * (shifted / sigma[..., None, None]).square()
    return -(logits.softmax(-1) * shifted).sum(-1)


def torus_scale(sigma: Tensor) -> Tensor:
    """Root mean square of sigma times the score of a wrapped normal, by the grid (any shape)."""
    grid = (torch.arange(256, device=sigma.device, dtype=sigma.dtype) + 0.5) / 256
    # Half of the points where the kernel is narrow, so that narrow ones are resolved too.
    width = (8 * sigma).clamp(max=1.0).unsqueeze(-1)
    difference = (grid - 0.5) * width
    images = torch.arange(-TORUS_IMAGES, TORUS_IMAGES + 1, device=sigma.device)
    shifted = difference.unsqueeze(-1) + images
    density = torch.exp(-0.5 * (shifted / sigma[..., None, None]).square())
    mean = (density * shifted).sum(-1) / density.sum(-1)
    weight = density.sum(-1)
    square = (weight * mean.square()).sum(-1) / weight.sum(-1)
    return square.sqrt() / sigma


class Block(nn.Module):
    """Residual block behind a modulated norm."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.enter, self.leave = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, u: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Map (..., width) to the same shape; scale and shift broadcast against it."""
        return u + self.leave(F.silu(self.enter(torch.addcmul(shift, self.norm(u), 1 + scale))))


class Condition(NamedTuple):
    """What a solver keeps of the slots it solves.

    Attributes:
        terms: (n, layers, 2, width) modulation by the condition.
        torus: (n, 1) booleans, whether the slot lives on the torus.
        hint: (n, 3) value of the template at this slot, zero where there is none.
        hinted: (n, 1) float, one where there is a hint.
    """

    terms: Tensor
    torus: Tensor
    hint: Tensor
    hinted: Tensor


class EdmHead(nn.Module):
    """Denoiser of single slots under a condition.

    Args:
        condition: width of the conditioning states.
        width, depth: of the residual network.
        frequencies: number of octaves of Fourier features of the noisy vector.
        damping: how much less of an octave is shown the more of its waves the noise spans:
            exp(-(damping * angular frequency * sigma)^2 / 2). The true denoiser varies over the
            width of the noise; without damping the divergence of a trained one wiggles, which
            costs solvers of densities many steps. A quarter is mild, 0 is off.
    """

    def __init__(
        self,
        condition: int,
        width: int = 256,
        depth: int = 3,
        frequencies: int = 6,
        damping: float = 0.0,
    ):
        super().__init__()
        self.width, self.layers, self.damping = width, depth + 1, damping
        self.register_buffer("octaves", 2.0 ** torch.arange(frequencies), persistent=False)
        self.register_buffer("levels", 0.5 * 1.32 ** torch.arange(16), persistent=False)
        table = torch.linspace(math.log(TORUS.low / 10), math.log(2.0), 512)
        self.register_buffer("log_sigmas", table, persistent=False)
        self.register_buffer("scales", torus_scale(table.exp().double()).float(), persistent=False)
        features = 3 * (1 + 2 * frequencies)
        self.enter = nn.Linear(2 * features + 2, width)
        self.sigma = nn.Sequential(nn.Linear(33, width), nn.SiLU(), nn.Linear(width, width))
        terms = 2 * self.layers * width
        self.by_condition = nn.Sequential(
            nn.Linear(condition, width), nn.SiLU(), nn.Linear(width, terms)
        )
        self.by_sigma = nn.Sequential(nn.SiLU(), nn.Linear(width, terms))
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.leave = nn.Linear(width, 3)
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.zeros_(self.leave.weight)

    def condition(
        self, z: Tensor, torus: Tensor, hint: Tensor | None = None, hinted: Tensor | None = None
    ) -> Condition:
        """Prepare slots for any number of calls of :meth:`denoise`.

        Args:
            z: (..., condition) hidden states.
            torus: (...) booleans.
            hint: (..., 3) values of a template; ``hinted`` (...) tells where there is one.
        """
        rows = z.shape[:-1]
        hint = z.new_zeros(*rows, 3) if hint is None else hint
        flags = z.new_zeros(rows) if hinted is None else hinted.to(hint.dtype)
        terms = self.by_condition(z).unflatten(-1, (self.layers, 2, self.width))
        return Condition(terms, torus.unsqueeze(-1), hint, flags.unsqueeze(-1))

    def _fourier(self, x: Tensor, torus: Tensor, scale: Tensor, share: Tensor | None) -> Tensor:
        """Features (..., 3 (1 + 2 frequencies)); periodic on the torus."""
        angles = torch.where(torus, 2 * math.pi * x, x).unsqueeze(-1) * self.octaves
        plain = torch.where(torus, torch.zeros_like(x), x * scale)
        waves = [angles.sin(), angles.cos()]
        if share is not None:
            waves = [wave * share for wave in waves]
        return torch.cat((plain, *(wave.flatten(-2) for wave in waves)), -1)

    def _shares(self, sigma: Tensor, torus: Tensor) -> Tensor | None:
        """How much of each octave is shown (..., 1, frequencies) at noise (...)."""
        if not self.damping:
            return None
        spanned = torch.where(torus, 2 * math.pi, 1.0).to(sigma) * sigma.unsqueeze(-1)
        return (-0.5 * (self.damping * spanned.unsqueeze(-1) * self.octaves).square()).exp()

    def by_level(self, sigma: Tensor, torus: Tensor) -> Tensor:
        """Modulation (..., layers, 2, width) by noise (...) of slots of a sort (..., 1)."""
        angles = sigma.log().unsqueeze(-1) * self.levels
        features = torch.cat((angles.sin(), angles.cos(), torus.to(angles.dtype)), -1)
        return self.by_sigma(self.sigma(features)).unflatten(-1, (self.layers, 2, self.width))

    def raw(self, x: Tensor, sigma: Tensor, c: Condition, level: Tensor) -> Tensor:
        """Output of the network (..., 3).

        Args:
            x: (..., 3) noisy vectors.
            sigma: (...) noise.
            c: of the slots.
            level: from :meth:`by_level`; broadcasts against ``c.terms``.
        """
        unit = (1 + sigma.square()).rsqrt().unsqueeze(-1)
        share = self._shares(sigma, c.torus)
        here = self._fourier(x, c.torus, unit, share)
        # Differences to the template, so that copying it closely needs no precise arithmetic.
        away = self._fourier(x - c.hint, c.torus, unit, share) * c.hinted
        flags = torch.cat((c.hinted, c.torus.to(c.hinted.dtype)), -1)
        u = self.enter(torch.cat((here, away, flags.expand(*x.shape[:-1], 2)), -1))
        # Taken apart at once: gradients of slices would each fill a tensor of the whole size.
        parts = zip(c.terms.unbind(-3), level.unbind(-3), strict=True)
        terms = [(own + by_level).unbind(-2) for own, by_level in parts]
        for block, (scale, shift) in zip(self.blocks, terms[:-1], strict=True):
            u = block(u, scale, shift)
        scale, shift = terms[-1]
        return self.leave(torch.addcmul(shift, self.norm(u), 1 + scale))

    def torus_unit(self, sigma: Tensor) -> Tensor:
        """Root mean square displacement (...) on the torus, from the table."""
        step = self.log_sigmas[1] - self.log_sigmas[0]
        place = ((sigma.log() - self.log_sigmas[0]) / step).clamp(0, len(self.scales) - 1.001)
        k = place.long()
        scales = self.scales.to(sigma.dtype)
        return sigma * torch.lerp(scales[k], scales[k + 1], place - k)

    def denoise(
        self, x: Tensor, sigma: Tensor, c: Condition, level: Tensor | None = None
    ) -> Tensor:
        """E[x0 | x] (n, 3); on the torus x plus the expected displacement.

        Args:
            x: (n, 3) noisy vectors; any image on the torus.
            sigma: (n,) noise.
            c: from :meth:`condition`.
            level: from :meth:`by_level`, of one row where all are alike; computed by default.
        """
        if level is None:
            same = bool((sigma == sigma[0]).all() and (c.torus == c.torus[0]).all())
            rows = slice(0, 1) if same else slice(None)
            level = self.by_level(sigma[rows], c.torus[rows])
        out = self.raw(x, sigma, c, level).to(x.dtype)
        s = sigma.unsqueeze(-1)
        space = (x + s * (1 + s * s).sqrt() * out) / (1 + s * s)
        return torch.where(c.torus, x + self.torus_unit(sigma).unsqueeze(-1) * out, space)

    def loss(
        self,
        z: Tensor,
        x0: Tensor,
        torus: Tensor,
        generator: torch.Generator,
        hint: Tensor | None = None,
        hinted: Tensor | None = None,
        repeats: int = 4,
    ) -> Tensor:
        """Denoising loss (n,), the mean over ``repeats`` noise levels, of order one at the start.

        Rows share their levels with every ``GROUPS``-th other, so that the part of the network
        that sees only the level runs on few of them.

        Args:
            z: (n, condition) hidden states.
            x0: (n, 3) clean vectors.
            torus: (n,) booleans.
            generator: of levels and noise.
            hint, hinted: as for :meth:`condition`.
            repeats: noisy versions of every row.
        """
        hint = torch.zeros_like(x0) if hint is None else hint
        hinted = torch.zeros_like(torus) if hinted is None else hinted
        error = torch.zeros_like(x0[:, 0])
        # Apart, since the same levels then serve all rows that are left, and half of the
        # arithmetic is needed by one kind only.
        for on_torus in (False, True):
            rows = (torus == on_torus).nonzero().squeeze(-1)
            if len(rows):
                parts = (part[rows] for part in (z, x0, hint, hinted.to(x0.dtype)))
                own = self._loss_of_kind(*parts, on_torus, generator, repeats)
                error = error.index_copy(0, rows, own.to(error.dtype))
        return error

    def _loss_of_kind(
        self,
        z: Tensor,
        x0: Tensor,
        hint: Tensor,
        hinted: Tensor,
        on_torus: bool,
        generator: torch.Generator,
        repeats: int,
    ) -> Tensor:
        """As :meth:`loss`, of rows that are all on the torus or all in space."""
        n = len(x0)
        z, x0, hint, hinted = (_grouped(part) for part in (z, x0, hint, hinted))
        flags = torch.full_like(hinted, on_torus, dtype=torch.bool)
        count = repeats * GROUPS
        place = (torch.rand(1, generator=generator) + torch.arange(count) / count) % 1.0
        place = place[torch.randperm(count, generator=generator)].view(repeats, 1, GROUPS)
        sigma = _noise_of(place.to(x0), on_torus)
        noise = torch.randn(repeats, *x0.shape, generator=generator).to(x0)
        s = sigma.unsqueeze(-1)
        x = x0 + s * noise
        level = self.by_level(sigma, torch.full_like(s, on_torus, dtype=torch.bool))
        out = self.raw(x, sigma, self.condition(z, flags, hint, hinted), level).float()
        if on_torus:
            wanted = torus_displacement(x - x0, sigma) / self.torus_unit(sigma).unsqueeze(-1)
        else:
            wanted = (x0 * (1 + s * s) - x) / (s * (1 + s * s).sqrt())
        return (out - wanted).square().mean((0, -1)).flatten()[:n]


def _noise_of(place: Tensor, on_torus: bool) -> Tensor:
    """Noise of training from places in (0, 1).

    Log-normal in space. On the torus log-uniform for some, which teaches to place atoms sharply,
    and for the others log-normal about the levels at which it is decided where they go.
    """
    if not on_torus:
        return _log_normal(place, math.exp(-1.5), 1.6)
    low, high = math.log(2 * TORUS.low), math.log(TORUS.high)
    uniform = (low + place / EVEN * (high - low)).exp()
    centred = _log_normal((place - EVEN) / (1 - EVEN), 0.2, 1.0)
    return torch.where(place < EVEN, uniform, centred.clamp(2 * TORUS.low, TORUS.high))


def _log_normal(place: Tensor, median: float, width: float) -> Tensor:
    """Quantiles of a log-normal law at places in (0, 1), without its farthest tails."""
    return (
        median * (width * math.sqrt(2) * torch.erfinv((2 * place - 1).clamp(-0.999, 0.999))).exp()
    )


def _grouped(part: Tensor) -> Tensor:
    """Rows (n, ...) as (n / GROUPS, GROUPS, ...), filled up with zeros."""
    missing = -len(part) % GROUPS
    filled = torch.cat((part, part.new_zeros(missing, *part.shape[1:]))) if missing else part
    return filled.unflatten(0, (-1, GROUPS))
