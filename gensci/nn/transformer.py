"""Causal transformer layers that run over a whole sequence or one token at a time.

The one-token form keeps keys and values in preallocated tensors. Terms that depend on the
conditioning alone (adaptive scales, shifts and gates) are computed apart from the layers, so that
many samples of one system share them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(values: Tensor, dim: int, base: float, dtype: torch.dtype) -> Tensor:
    """Sine and cosine features of `values`, interleaved.

    Args:
        values: Positions, any shape (...).
        dim: Even number of features.
        base: Ratio of the longest to the shortest period.
        dtype: Type of the result; the angles are formed in float64.

    Returns:
        Features (..., dim): `sin(v w_k)` at 2k and `cos(v w_k)` at 2k + 1, `w_k = base^(-2k/dim)`.

    Reference: Vaswani et al. 2017, arXiv:1706.03762.
    """
    exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=values.device) / dim
    angles = values.unsqueeze(-1).double() * base**-exponents
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2).to(dtype)


class KeyValueCache:
    """Keys and values of the tokens seen so far, written in place.

    Attributes:
        keys: Tensor (batch, heads, tokens, head_dim).
        values: Tensor of the same shape.
    """

    def __init__(self, batch: int, heads: int, tokens: int, head_dim: int, like: Tensor) -> None:
        self.keys = like.new_empty(batch, heads, tokens, head_dim)
        self.values = like.new_empty(batch, heads, tokens, head_dim)

    def write(self, index: int, key: Tensor, value: Tensor) -> None:
        """Store key and value (batch, heads, head_dim) of token `index`."""
        self.keys[:, :, index] = key
        self.values[:, :, index] = value

    def upto(self, index: int) -> tuple[Tensor, Tensor]:
        """Keys and values of tokens 0 to `index`, inclusive, as views."""
        return self.keys[:, :, : index + 1], self.values[:, :, : index + 1]


class CausalAttention(nn.Module):
    """Pre-norm causal self-attention; queries and keys are normalised over all channels.

    Padding stands at the end of a sequence, so causality alone hides it from real tokens.

    Args:
        channels: Width of the tokens.
        head_dim: Width of one head; divides `channels`.
    """

    def __init__(self, channels: int, head_dim: int) -> None:
        super().__init__()
        if channels % head_dim:
            raise ValueError(f"head_dim {head_dim} does not divide channels {channels}: choose one")
        self.channels, self.head_dim = channels, head_dim
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.q_norm = nn.LayerNorm(channels)
        self.k_norm = nn.LayerNorm(channels)
        self.out = nn.Linear(channels, channels)

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value (..., heads, head_dim) of tokens `u` (..., channels)."""
        q, k, v = self.qkv(self.norm(u)).chunk(3, dim=-1)
        split = (-1, self.head_dim)
        return (
            self.q_norm(q).unflatten(-1, split),
            self.k_norm(k).unflatten(-1, split),
            v.unflatten(-1, split),
        )

    def forward(self, u: Tensor) -> Tensor:
        """Attend within sequences `u` (batch, tokens, channels); same shape."""
        q, k, v = (part.transpose(-3, -2) for part in self.project(u))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(-3, -2).flatten(-2))

    def step(self, u: Tensor, cache: KeyValueCache, index: int) -> Tensor:
        """Attend from token `index`, `u` (batch, channels), to the cached ones before it."""
        q, k, v = self.project(u)
        cache.write(index, k, v)
        mixed = F.scaled_dot_product_attention(q.unsqueeze(2), *cache.upto(index))
        return self.out(mixed.flatten(1))


class Mlp(nn.Sequential):
    """Pre-norm feed-forward network with a GELU."""

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__(
            nn.LayerNorm(channels),
            nn.Linear(channels, expansion * channels),
            nn.GELU(),
            nn.Linear(expansion * channels, channels),
        )


class GatedMlp(nn.Module):
    """Feed-forward network `W_out(SiLU(gate) * value)` without biases.

    Reference: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        self.value_gate = nn.Linear(channels, 2 * expansion * channels, bias=False)
        self.out = nn.Linear(expansion * channels, channels, bias=False)

    def forward(self, u: Tensor) -> Tensor:
        """Map tokens (..., channels) to the same shape."""
        value, gate = self.value_gate(u).chunk(2, dim=-1)
        return self.out(F.silu(gate).mul(value))


class BranchTerms(NamedTuple):
    """What the conditioning contributes to one branch of a layer, each (..., channels)."""

    scale: Tensor
    shift: Tensor
    gate: Tensor

    def at(self, index: int) -> BranchTerms:
        """The terms of one token; for terms (tokens, channels)."""
        return BranchTerms(self.scale[index], self.shift[index], self.gate[index])


class AdaptiveBranch(nn.Module):
    """Adaptive norm before a branch and adaptive gate after it.

    The gate starts near zero (sigmoid of -2), so that a new layer is close to the identity.

    Reference: Peebles and Xie 2023, arXiv:2212.09748; Abramson et al. 2024,
    doi:10.1038/s41586-024-07487-w.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.scale = nn.Linear(channels, channels)
        self.shift = nn.Linear(channels, channels, bias=False)
        self.gate = nn.Linear(channels, channels)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -2.0)

    def terms(self, c: Tensor) -> BranchTerms:
        """Scale, shift and gate of conditioning `c` (..., channels)."""
        normed = self.norm(c)
        return BranchTerms(self.scale(normed).sigmoid(), self.shift(normed), self.gate(c).sigmoid())


def modulate(u: Tensor, terms: BranchTerms) -> Tensor:
    """Layer norm of `u` with the scale and shift of the conditioning."""
    width = u.shape[-1:]
    if terms.scale.dim() == 1:  # one token of one system: the norm's own affine form, fused
        return F.layer_norm(u, width, terms.scale, terms.shift)
    return torch.addcmul(terms.shift, F.layer_norm(u, width), terms.scale)


class LayerTerms(NamedTuple):
    """What the conditioning contributes to one layer; parts that a variant lacks are None."""

    attention: BranchTerms | None = None
    transition: BranchTerms | None = None
    additive: Tensor | None = None

    def at(self, index: int) -> LayerTerms:
        """The terms of one token; for terms (tokens, channels)."""
        return LayerTerms(
            None if self.attention is None else self.attention.at(index),
            None if self.transition is None else self.transition.at(index),
            None if self.additive is None else self.additive[index],
        )


class TransformerLayer(nn.Module):
    """One causal layer, conditioned by adaptive norms and gates or by addition.

    With `adaptive_norm`, a whole pre-norm block (attention and feed-forward) stands inside one
    gated branch, and the transition inside a second one. Without, the conditioning is added to the
    tokens and the same parts are plain residual branches.

    Args:
        channels: Width of tokens and conditioning.
        head_dim: Width of one attention head.
        expansion: Ratio of the hidden width of the feed-forward parts to `channels`.
        adaptive_norm: Condition by scales, shifts and gates instead of by addition.
        transition: Add the gated feed-forward branch.
    """

    def __init__(
        self,
        channels: int,
        head_dim: int,
        expansion: int = 4,
        adaptive_norm: bool = True,
        transition: bool = True,
    ) -> None:
        super().__init__()
        self.attention = CausalAttention(channels, head_dim)
        self.mlp = Mlp(channels, expansion)
        self.transition = GatedMlp(channels, expansion) if transition else None
        self.attention_branch = AdaptiveBranch(channels) if adaptive_norm else None
        self.transition_branch = AdaptiveBranch(channels) if adaptive_norm and transition else None
        self.transition_norm = nn.LayerNorm(channels) if transition and not adaptive_norm else None

    def terms(self, c: Tensor) -> LayerTerms:
        """Contribution of conditioning `c` (..., channels) to this layer."""
        if self.attention_branch is None:
            return LayerTerms(additive=c)
        transition = self.transition_branch
        return LayerTerms(
            self.attention_branch.terms(c), None if transition is None else transition.terms(c)
        )

    def cache(self, batch: int, tokens: int, like: Tensor) -> KeyValueCache:
        """An empty cache for `batch` sequences of `tokens` tokens."""
        heads = self.attention.channels // self.attention.head_dim
        return KeyValueCache(batch, heads, tokens, self.attention.head_dim, like)

    def forward(self, u: Tensor, terms: LayerTerms) -> Tensor:
        """Map sequences `u` (batch, tokens, channels) to the same shape."""
        v = self.enter(u, terms)
        return self.leave(u, v + self.attention(v), terms)

    def step(self, u: Tensor, terms: LayerTerms, cache: KeyValueCache, index: int) -> Tensor:
        """Map token `index`, `u` (batch, channels), given the cached ones before it."""
        v = self.enter(u, terms)
        return self.leave(u, v + self.attention.step(v, cache, index), terms)

    def enter(self, u: Tensor, terms: LayerTerms) -> Tensor:
        """Input of the attention."""
        return u + terms.additive if terms.attention is None else modulate(u, terms.attention)

    def leave(self, u: Tensor, v: Tensor, terms: LayerTerms) -> Tensor:
        """Output of the layer from its input `u` and the result `v` of the attention."""
        v = v + self.mlp(v)
        if terms.attention is None:
            return v if self.transition is None else v + self.transition(self.transition_norm(v))
        u = torch.addcmul(u, v, terms.attention.gate)
        if terms.transition is None:
            return u
        w = self.transition(modulate(u, terms.transition))
        return torch.addcmul(u, w, terms.transition.gate)
