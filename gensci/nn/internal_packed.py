"""The hidden states of the internal-coordinate flow for training, in half of the work.

A causal network looks at earlier atoms only, so of all pairs (row, column) the upper triangle is
never read. Here the rows come in strips, each of as many columns as its last row may see, one after
another in one array of pairs. Gradients are written out where pairs come in, so that nothing of
their size is kept or moved without need; positions get none: in a training they are data. But for
rounding this is the rest of ``InternalFlow.hidden``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .internal_encoding import MAX_HOPS, Tensors
from .internal_features import RADII, full_precision, ic_features, pair_features, zmatrix_of
from .zmatrix import Frames, InternalCoordinates, zmatrix_frames

if TYPE_CHECKING:
    from .internal import InternalFlow

STRIP = 8  # rows; more do more in vain and leave a core's cache, fewer make small operations
GEOMETRY = 6 + RADII
INPUTS = GEOMETRY + 1 + MAX_HOPS + 1
UNSEEN = -1e9


class Strip(NamedTuple):
    """Rows from ``first`` to before ``last``, columns to before ``last``, and their ``pairs``."""

    first: int
    last: int
    pairs: slice


def strips(batch: int, atoms: int) -> list[Strip]:
    """All rows, in strips."""
    found, start = [], 0
    for first in range(0, atoms, STRIP):
        last = min(first + STRIP, atoms)
        stop = start + batch * (last - first) * last
        found.append(Strip(first, last, slice(start, stop)))
        start = stop
    return found


def working_dtype(x: Tensor) -> torch.dtype:
    """What matrices are multiplied in: autocast's choice where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def serves(flow: InternalFlow, x: Tensor) -> bool:
    """Whether this is the way to go for x: gradients of weights are asked for, on a CPU.

    Elsewhere launching the many strips costs more than they save.
    """
    learning = torch.is_grad_enabled() and not x.requires_grad
    return learning and x.device.type == "cpu" and len(flow.blocks) > 0


def hidden(flow: InternalFlow, x: Tensor, ic: InternalCoordinates, cond: Tensors) -> Tensor:
    """Hidden states (batch, atoms, C) of x (batch, atoms, 3), which gets no gradient."""
    every = slice(0, x.shape[1])
    dtype, parts = working_dtype(x), strips(*x.shape[:2])
    with full_precision(x):
        inputs = pair_inputs(x, zmatrix_frames(x, zmatrix_of(cond)), cond["hops"], parts, dtype)
        pair, bias = PairNetwork.apply(inputs, parts, x.shape[:2], *pair_parameters(flow))
    features = ic_features(ic, cond, every)
    h = flow.first_hidden(flow.identities(cond), features, cond, every)
    for block, own in zip(flow.blocks, bias.chunk(len(flow.blocks)), strict=True):
        query, (key, value) = block.queries(h), block.keys_values(h, features)
        with full_precision(x):
            weight, seen = attention(query.to(dtype), key.to(dtype), value.to(dtype), own)
            looks, pair = Look.apply(weight, pair, parts)
        h = block.update(h, seen, looks)
    return flow.norm(h)


def pair_parameters(flow: InternalFlow) -> list[Tensor]:
    """Weights of the pair network: two layers, then the biases of all heads of all blocks."""
    first = (flow.geometry.weight, flow.geometry.bias[:, None], flow.hops.weight.t())
    biases = [block.pair_bias for block in flow.blocks]
    return [
        torch.cat(first, dim=1),
        flow.pair.weight,
        flow.pair.bias,
        torch.cat([each.weight for each in biases]),
        torch.cat([each.bias for each in biases]),
        torch.cat([block.null for block in flow.blocks]),
    ]


def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights and what is seen with them.

    Seeing nothing is one column more, whose key and value are zero.

    Args:
        query, key, value: (batch, heads, atoms, head_dim).
        bias: (heads, batch, atoms, atoms + 1), with the mask.

    Returns:
        (heads, batch, atoms, atoms + 1) and (batch, atoms, heads, head_dim).
    """
    query, key, value = (t.transpose(0, 1).flatten(0, 1) for t in (query, key, value))
    key, value = F.pad(key, (0, 0, 0, 1)), F.pad(value, (0, 0, 0, 1))
    logits = torch.baddbmm(bias.flatten(0, 1), query, key.transpose(-1, -2))
    weight = torch.softmax(logits, dim=-1)
    seen = (weight @ value).unflatten(0, bias.shape[:2])
    return weight.view(bias.shape), seen.permute(1, 2, 0, 3)


@torch.no_grad()
def pair_inputs(
    x: Tensor, frame: Frames, hops: Tensor, parts: list[Strip], dtype: torch.dtype
) -> Tensor:
    """What the pair network is given: (pairs, INPUTS).

    Geometry, a one, and the number of bonds as a one among zeros: so the bias and the table of the
    pair network are columns of its first matrix. The first three atoms have no frame, thus neither
    geometry nor bias.
    """
    batch = len(x)
    inputs = x.new_zeros(parts[-1].pairs.stop, INPUTS, dtype=dtype)
    inputs[:, GEOMETRY] = 1
    for first, last, pairs in parts:
        rows = slice(first, last)
        own = inputs[pairs].view(batch, last - first, last, INPUTS)
        seen = pair_features(x[:, :last], Frames(frame.origin[:, rows], frame.axes[:, rows]))
        own[..., :GEOMETRY] = seen
        own[..., GEOMETRY + 1 :] = F.one_hot(hops[rows, :last], MAX_HOPS + 1)
        if first < 3:
            own[:, : 3 - first, :, : GEOMETRY + 1] = 0
    return inputs


class PairNetwork(torch.autograd.Function):
    """Two layers over the pairs, and what they add to the logits of every head of every block.

    The hidden layer is twice as large as what comes out and is formed anew for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, parts: list[Strip], size: tuple[int, int], *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Pair channels (pairs, P) and biases (blocks * heads, batch, atoms, atoms + 1)."""
        one, two, shift, three, offset, null = (p.to(inputs.dtype) for p in parameters)
        before = inputs.new_empty(len(inputs), len(two))
        pair = torch.empty_like(before)
        batch, atoms = size
        bias = inputs.new_full((len(three), batch, atoms, atoms + 1), UNSEEN)
        bias[..., -1] = null[:, None, None]
        for first, last, rows in parts:
            inner = F.silu(inputs[rows] @ one.t(), inplace=True)
            torch.addmm(shift, inner, two.t(), out=before[rows])
            pair[rows] = F.silu(before[rows])
            own = torch.addmm(offset, pair[rows], three.t()).t()
            bias[:, :, first:last, :last] = own.unflatten(1, (batch, last - first, last))
            future = torch.ones(2 * (last - first,), dtype=torch.bool, device=pair.device).triu()
            bias[:, :, first:last, first:last].masked_fill_(future, UNSEEN)
        ctx.parts = parts
        ctx.save_for_backward(inputs, before, pair, *parameters)
        return pair, bias

    @staticmethod
    def backward(ctx: Any, of_pair: Tensor, of_bias: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the parameters, summed in their own precision."""
        inputs, before, pair, *parameters = ctx.saved_tensors
        one, two, _, three, *_ = (p.to(inputs.dtype) for p in parameters)
        sums = [torch.zeros_like(p) for p in parameters]
        for first, last, rows in ctx.parts:
            logits = of_bias[:, :, first:last, :last].flatten(1)  # of unseen pairs zero by softmax
            sums[3] += logits @ pair[rows]
            sums[4] += logits.sum(1, dtype=sums[4].dtype)
            outer = torch.addmm(of_pair[rows], logits.t(), three)
            outer = torch.ops.aten.silu_backward(outer, before[rows])
            hidden = inputs[rows] @ one.t()
            sums[1] += outer.t() @ F.silu(hidden)
            sums[2] += outer.sum(0, dtype=sums[2].dtype)
            inner = torch.ops.aten.silu_backward(outer @ two, hidden)
            sums[0] += inner.t() @ inputs[rows]
        sums[5] = of_bias[..., -1].sum((1, 2), dtype=sums[5].dtype)
        return None, None, None, *sums


class Look(torch.autograd.Function):
    """Means of the pairs under the weights of attention.

    The pairs are handed on from block to block, so that their gradient is one array that every
    block adds to.
    """

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, pair: Tensor, parts: list[Strip]
    ) -> tuple[Tensor, Tensor]:
        """Of weights (heads, batch, atoms, atoms + 1): (batch, atoms, heads, P), and the pairs."""
        heads, batch, atoms, _ = weight.shape
        looks = pair.new_empty(batch, atoms, heads, pair.shape[1])
        for part in parts:
            own, there = (
                _of_strip(weight, part),
                pair[part.pairs].view(-1, part.last, pair.shape[1]),
            )
            looks[:, part.first : part.last] = torch.bmm(own, there).unflatten(0, (batch, -1))
        ctx.parts = parts
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(weight, pair)
        return looks, pair.view_as(pair)

    @staticmethod
    def backward(ctx: Any, of_looks: Tensor, of_pair: Tensor | None) -> tuple[Tensor, Tensor, None]:
        """Gradient of the weights, and that of the pairs with what comes from later blocks."""
        weight, pair = ctx.saved_tensors
        batch, later = len(of_looks), 1
        if of_pair is None:
            of_pair, later = torch.empty_like(pair), 0
        of_weight = torch.zeros_like(weight)
        for part in ctx.parts:
            first, last, pairs = part
            looks = of_looks[:, first:last].flatten(0, 1)
            there, into = (t[pairs].view(len(looks), last, -1) for t in (pair, of_pair))
            own = torch.bmm(looks, there.transpose(-1, -2)).unflatten(0, (batch, -1))
            of_weight[:, :, first:last, :last] = own.permute(2, 0, 1, 3)
            into.baddbmm_(_of_strip(weight, part).transpose(-1, -2), looks, beta=later)
        return of_weight, of_pair, None


def _of_strip(weight: Tensor, part: Strip) -> Tensor:
    """Weights (batch * rows, heads, columns) of a strip, of (heads, batch, atoms, atoms + 1)."""
    own = weight[:, :, part.first : part.last, : part.last]
    return own.permute(1, 2, 0, 3).flatten(0, 1)
