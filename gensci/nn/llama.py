"""A causal transformer of the Llama kind, with a key-value cache whose rows have own lengths.

Touvron et al. 2023, arXiv:2302.13971: root-mean-square norms before attention and transition,
rotary positions (Su et al. 2021, arXiv:2104.09864), gated transitions (Shazeer 2020,
arXiv:2002.05202), no biases. Rotary pairs are (i, i + half), the order of released weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gensci.core.errors import UsageError

INITIAL_SPREAD = 0.02
INITIAL_POSITIONS = 128
SHORT = 256


@dataclass(frozen=True)
class LlamaCache:
    """Keys and values of the positions read so far; :meth:`Llama.step` writes into them.

    Attributes:
        keys: Rotated keys (layers, B, heads, capacity, head width).
        values: Values, of the same shape.
    """

    keys: Tensor
    values: Tensor

    @property
    def capacity(self) -> int:
        """Number of positions that fit."""
        return self.keys.shape[3]

    def select(self, rows: Tensor) -> LlamaCache:
        """A new cache whose row i is row ``rows[i]`` of this one (int64, repeats allowed)."""
        return LlamaCache(self.keys[:, rows], self.values[:, rows])


class Rotary(nn.Module):
    """Cosines and sines of the rotary angles, computed once and grown on demand.

    Args:
        head_dim: Width of one attention head, even.
        theta: Base of the wavelengths.
    """

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        self.half = head_dim // 2
        self.theta = theta
        self.table: Tensor
        self.register_buffer("table", self._angles(INITIAL_POSITIONS), persistent=False)

    def forward(self, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines (length, head width / 2) of positions 0 .. length - 1."""
        if length > self.table.shape[1]:
            self.table = self._angles(2 * length).to(self.table)
        cos, sin = self.table[:, :length].to(dtype)
        return cos, sin

    def _angles(self, length: int) -> Tensor:
        # Double precision here: at position 1000 a single-precision angle is off by 1e-4.
        powers = torch.arange(self.half, dtype=torch.float64) / self.half
        angle = torch.arange(length, dtype=torch.float64)[:, None] * self.theta**-powers
        return torch.stack((angle.cos(), angle.sin())).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + half) of the last axis of ``x`` by their angles."""
    return Rotation.apply(x, cos, sin)


class Rotation(torch.autograd.Function):
    """:func:`rotate` without temporary tensors; its gradient is the turn back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Turned pairs."""
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Pairs turned back."""
        return _turn(gradient, *ctx.saved_tensors, -1.0), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    (first, second), turned = x.chunk(2, -1), torch.empty_like(x)
    left, right = turned.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=right).addcmul_(first, sin, value=sign)
    return turned


def attend_causally(q: Tensor, k: Tensor, v: Tensor, there: Tensor | None = None) -> Tensor:
    """Attention of each position to itself and all before it; all (B, heads, L, head width).

    Positions that are not ``there`` (B, L) are seen by none.
    """
    length = q.shape[2]
    if there is not None:
        before = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
        return F.scaled_dot_product_attention(q, k, v, before & there[:, None, None])
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or length > SHORT:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    # The fused kernel of the CPU is several times slower here, above all backwards.
    hidden = torch.full((length, length), -torch.inf, dtype=q.dtype).triu(1)
    logits = (q * q.shape[3] ** -0.5) @ k.transpose(2, 3) + hidden
    return logits.softmax(-1).to(v.dtype) @ v


class Norm(nn.RMSNorm):
    """Root-mean-square norm in the precision of its weight, also of inputs under autocast."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of ``x``."""
        x = x.to(self.weight.dtype)
        if x.device.type == "cpu" and torch.is_grad_enabled():
            return FusedNorm.apply(x, self.weight, self.eps)
        return super().forward(x)


class FusedNorm(torch.autograd.Function):
    """The root-mean-square norm with the gradient of the layer norm, which has one CPU kernel.

    The layer norm of rows whose mean is taken to be zero has this value, and a gradient that
    differs by the mean of the incoming one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Rows (..., n) over their root mean square, times the weight (n,)."""
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rate = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, rate)
        return (x * rate).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        """Gradients to rows and weight."""
        x, weight, rate = ctx.saved_tensors
        n, gradient = x.shape[-1], gradient.contiguous()
        to_x, to_weight, _ = torch.ops.aten.native_layer_norm_backward(
            gradient, x, [n], torch.zeros_like(rate), rate, weight, None, [True, True, False]
        )
        to_x.addcmul_((gradient @ weight).unsqueeze(-1), rate, value=1.0 / n)
        return to_x, to_weight, None


class Layer(nn.Module):
    """One block: attention, then a gated transition, each after a norm and added to its input.

    Args:
        hidden: Channels.
        intermediate: Channels inside the transition.
        num_heads: Attention heads; they divide ``hidden``.
        eps: Added to mean squares.
        qk_norm: Whether queries and keys are normalised over the head width.
    """

    def __init__(
        self, hidden: int, intermediate: int, num_heads: int, eps: float, qk_norm: bool
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        head_dim = hidden // num_heads
        self.attention_norm = Norm(hidden, eps)
        self.qkv = nn.Linear(hidden, 3 * hidden, bias=False)
        self.q_norm = Norm(head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm = Norm(head_dim, eps) if qk_norm else nn.Identity()
        self.attention_out = nn.Linear(hidden, hidden, bias=False)
        self.transition_norm = Norm(hidden, eps)
        self.gate_value = nn.Linear(hidden, 2 * intermediate, bias=False)
        self.transition_out = nn.Linear(intermediate, hidden, bias=False)

    def project(self, u: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries and keys, and values, each (B, heads, L, head width)."""
        split = self.qkv(self.attention_norm(u)).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = split.unbind(-3)
        # Under autocast the norms return single precision; products want one type.
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def finish(self, u: Tensor, attended: Tensor) -> Tensor:
        """Add attention (B, heads, L, head width) and transition to ``u`` (B, L, h)."""
        u = u + self.attention_out(attended.transpose(1, 2).flatten(2))
        gate, value = self.gate_value(self.transition_norm(u)).chunk(2, -1)
        return u + self.transition_out(F.silu(gate) * value)


class Llama(nn.Module):
    """Stack of causal blocks over vectors; embeddings and heads belong to the caller.

    Rows shorter than the longest are padded on the right, where causality hides the padding.

    Args:
        hidden: Channels.
        intermediate: Channels inside the transitions.
        num_layers: Blocks.
        num_heads: Attention heads; the head width hidden / num_heads is even.
        rope_theta: Base of the rotary wavelengths.
        eps: Added to mean squares in the norms.
        qk_norm: Whether queries and keys are normalised (Henry et al. 2020, arXiv:2010.04245).

    Raises:
        UsageError: ``num_heads`` does not divide ``hidden`` into even widths.
    """

    def __init__(
        self,
        hidden: int,
        intermediate: int,
        num_layers: int,
        num_heads: int,
        rope_theta: float = 1e4,
        eps: float = 1e-6,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        if num_heads < 1 or hidden % (2 * num_heads):
            raise UsageError(
                f"hidden {hidden} does not split into {num_heads} heads of even width",
                "choose hidden as a multiple of 2 num_heads",
            )
        self.rotary = Rotary(hidden // num_heads, rope_theta)
        self.layers = nn.ModuleList(
            Layer(hidden, intermediate, num_heads, eps, qk_norm) for _ in range(num_layers)
        )
        self.norm = Norm(hidden, eps)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=INITIAL_SPREAD)

    def forward(self, u: Tensor, there: Tensor | None = None) -> Tensor:
        """Hidden states (B, L, h) of inputs ``u`` (B, L, h); row p sees inputs 0..p.

        Args:
            u: Inputs.
            there: Where inputs are not padding (B, L); only states at padding depend on it, and
                they do not see padding then.
        """
        return self._read(u, None, there)

    def prefill(self, u: Tensor, capacity: int) -> tuple[Tensor, LlamaCache]:
        """As :meth:`forward`, and a cache with room for ``capacity`` positions in all.

        Raises:
            UsageError: ``capacity`` is less than the length of ``u``.
        """
        if capacity < u.shape[1]:
            raise UsageError(f"capacity {capacity} is below {u.shape[1]} positions", "raise it")
        pairs: list[tuple[Tensor, Tensor]] = []
        hidden = self._read(u, pairs)
        room = (0, 0, 0, capacity - u.shape[1])
        keys, values = (
            F.pad(torch.stack([pair[which] for pair in pairs]), room) for which in (0, 1)
        )
        return hidden, LlamaCache(keys, values)

    def step(self, u: Tensor, cache: LlamaCache, index: Tensor) -> Tensor:
        """Read one more input per row, each row at its own position.

        Args:
            u: Inputs (B, h).
            cache: Keys and values of the earlier positions; changed in place.
            index: Positions (B,) int64; row b is written at ``index[b]``, over whatever padding
                was there, and sees positions 0..index[b].

        Returns:
            Hidden states (B, h).
        """
        length = int(index.max()) + 1
        together = bool((index == length - 1).all())
        rows = torch.arange(len(u), device=u.device)
        seen = None
        if not together:
            seen = (torch.arange(length, device=u.device) <= index[:, None])[:, None, None]
        cos, sin = self.rotary(length, cache.keys.dtype)
        cos, sin = (t[-1] if together else t[index][:, None, None] for t in (cos, sin))
        u = u[:, None]
        for i, layer in enumerate(self.layers):
            q, k, v = layer.project(u, cos, sin)
            if together:
                cache.keys[i, :, :, length - 1] = k[:, :, 0]
                cache.values[i, :, :, length - 1] = v[:, :, 0]
            else:
                cache.keys[i, rows, :, index] = k[:, :, 0]
                cache.values[i, rows, :, index] = v[:, :, 0]
            known, stored = cache.keys[i, :, :, :length], cache.values[i, :, :, :length]
            u = layer.finish(u, F.scaled_dot_product_attention(q, known, stored, seen))
        return self.norm(u)[:, 0]

    def _read(
        self, u: Tensor, pairs: list[tuple[Tensor, Tensor]] | None, there: Tensor | None = None
    ) -> Tensor:
        """Hidden states; keys and values of each layer are appended to ``pairs``."""
        dtype = torch.get_autocast_dtype(u.device.type) if _autocast(u) else u.dtype
        cos, sin = (t[:, None] for t in self.rotary(u.shape[1], dtype))
        for layer in self.layers:
            q, k, v = layer.project(u, cos, sin)
            if pairs is not None:
                pairs.append((k, v))
            u = layer.finish(u, attend_causally(q, k, v, there))
        return self.norm(u)


def _autocast(u: Tensor) -> bool:
    return torch.is_autocast_enabled(u.device.type)
