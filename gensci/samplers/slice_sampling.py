"""Slice sampling along lines, batched over chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch

from gensci.core.random import randn_like
from gensci.core.registry import SAMPLERS
from gensci.samplers.base import Info
from gensci.samplers.free_chains import FLAT, ChainSampler, FlatDensity
from gensci.samplers.settings import check_choice, check_whole
from gensci.samplers.warmup import FreeChains

MOST_SHRINKS = 100
"""An interval of any length is below rounding after that many; the chain then stays."""

PLAIN = 5
"""Of the differences one in so many is a coordinate: few chains do not span the space."""
EARLY = 0.4
"""Share of the warm-up in which lines are coordinates, whatever is asked for."""

LineDensity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From row numbers (k,) and places along their lines (k,) to log-densities (k,)."""


class Drawn(NamedTuple):
    """Places along lines (n,), their log-density (n,), and the mean numbers of evaluations."""

    place: torch.Tensor
    log_density: torch.Tensor
    expansions: float
    shrinks: float


@SAMPLERS.register("slice")
@dataclass(frozen=True)
class Slice(ChainSampler):
    """Chains of slice sampling along lines, with stepping out and shrinkage: no gradient needed.

    One move draws along as many lines as there are coordinates. Bounded parameters are freed by a
    bijection and angles wrapped. The verdict's R-hat and effective size are those of the slowest
    coordinate, by ranks; its acceptance is the share of draws along a line that were within the
    slice.

    Attributes:
        num_chains: chains side by side in a shard.
        warmup: moves that are thrown away while widths adapt.
        thinning: moves between kept rows.
        lines: differences of two other chains, which suit correlated coordinates and need at least
            four chains; coordinates or random.
        max_expansions: the most times an interval is widened.

    Reference: Neal (2003), doi:10.1214/aos/1056562461; Karamanis and Beutler (2021),
        arXiv:2002.06212, for the widths and the differences.
    """

    warmup: int = 100
    lines: str = "differences"
    max_expansions: int = 16

    name: ClassVar[str] = "slice"
    needs_grad: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("lines", self.lines, ("coordinates", "random", "differences"))
        check_whole("max_expansions", self.max_expansions, 1)
        if self.lines == "differences":
            check_whole("num_chains", self.num_chains, 4)

    def first_step(self, dim: int) -> float:
        """Return the width of an interval, in units of the scale."""
        return 2.0

    def moved(
        self, state: FreeChains, density: FlatDensity, generator: torch.Generator
    ) -> tuple[FreeChains, Info]:
        """Return the chains after as many lines as there are coordinates."""
        dim = state.place.shape[1]
        order = torch.randperm(dim, generator=generator)
        expansions = shrinks = 0.0
        # Far out, where only some coordinates matter, other lines lead nowhere.
        early = state.moves < EARLY * self.warmup
        lines = "coordinates" if early else self.lines
        groups = _groups(lines, len(state.place), generator)
        for number in range(dim):
            plain = lines == "differences" and number % PLAIN == 0
            kind = "coordinates" if plain else lines
            for mine in groups:
                direction = _direction(kind, state, mine, int(order[number]), generator)
                drawn = self._drawn(state, mine, direction, density, generator)
                place = state.place[mine] + drawn.place[:, None] * direction
                state = replace(
                    state,
                    place=state.place.index_copy(0, mine, place),
                    log_density=state.log_density.index_copy(0, mine, drawn.log_density),
                )
                expansions += drawn.expansions
                shrinks += drawn.shrinks
        draws = dim * len(groups)
        info = {"acceptance": draws / (draws + shrinks), "divergent": 0.0}
        return state, {**info, "expansions": expansions / draws, "shrinks": shrinks / draws}

    def adapted(self, state: FreeChains, info: Info) -> FreeChains:
        """Return the chains with a width for which intervals grow as often as they shrink."""
        grown, shrunk = info["expansions"], info["shrinks"]
        factor = 2.0 * (grown + 0.1) / (grown + shrunk + 0.2)
        gain = 1.0 / math.sqrt(1.0 + state.moves / 5.0)
        return replace(state, step_size=min(max(state.step_size * factor**gain, 1e-6), 1e6))

    def _drawn(
        self,
        state: FreeChains,
        mine: torch.Tensor,
        direction: torch.Tensor,
        density: FlatDensity,
        generator: torch.Generator,
    ) -> Drawn:
        place = state.place[mine]

        def along(rows: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return density.log_prob({FLAT: place[rows] + t[:, None] * direction[rows]})

        return slice_along(
            along, state.log_density[mine], state.step_size, self.max_expansions, generator
        )


def _groups(lines: str, count: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Return which chains move together: by differences, half of them while others stand."""
    if lines != "differences" or count < 4:
        return (torch.arange(count),)
    order = torch.randperm(count, generator=generator)
    return order[: count // 2], order[count // 2 :]


def _direction(
    lines: str, state: FreeChains, mine: torch.Tensor, column: int, generator: torch.Generator
) -> torch.Tensor:
    """Return the (k, d) direction of each line; a step of one is about the local scale."""
    place = state.place[mine]
    if lines == "coordinates":
        direction = torch.zeros_like(place)
        direction[:, column] = state.scale[column]
        return direction
    if len(mine) < len(state.place):
        others = torch.ones(len(state.place), dtype=torch.bool)
        others[mine] = False
        standing = state.place[others]
        first = torch.randint(len(standing), (len(mine),), generator=generator)
        other = torch.randint(1, len(standing), (len(mine),), generator=generator)
        return standing[first] - standing[(first + other) % len(standing)]
    noise = randn_like(place, generator)
    return state.scale * noise / noise.norm(dim=1, keepdim=True).clamp(min=1e-300)


def slice_along(
    along: LineDensity,
    log_density: torch.Tensor,
    width: float,
    max_expansions: int,
    generator: torch.Generator,
) -> Drawn:
    """Return draws from slices along lines on which the chains stand at 0.

    Args:
        along: the log-density along the lines.
        log_density: (n,) at 0.
        width: of the first interval.
        max_expansions: the most times that an interval is widened.
        generator: the source of randomness.
    """
    n = len(log_density)
    level = log_density + _uniform(n, generator).log()
    low = -width * _uniform(n, generator)
    ends = torch.stack((low, low + width))
    # The share of the two ends is drawn beforehand, without which the limit would cost exactness.
    budget = torch.floor((max_expansions + 1) * _uniform(n, generator)).long()
    left = torch.stack((budget, max_expansions - budget))
    ends, expansions = _stepped_out(along, level, ends, left, width)
    place, value, shrinks = _shrunk(along, level, log_density, ends, generator)
    return Drawn(place, value, expansions / n, shrinks / n)


def _stepped_out(
    along: LineDensity,
    level: torch.Tensor,
    ends: torch.Tensor,
    left: torch.Tensor,
    width: float,
) -> tuple[torch.Tensor, int]:
    """Return the (2, n) ends moved out until they leave the slice, and how often they moved."""
    moved = 0
    outward = torch.tensor([-width, width], dtype=torch.float64)
    going = left > 0
    while going.any():
        side, rows = going.nonzero().unbind(1)
        inside = along(rows, ends[side, rows]) > level[rows]
        ends = ends.index_put((side, rows), inside * outward[side], accumulate=True)
        left = left.index_put((side, rows), -inside.long(), accumulate=True)
        going = going.index_put((side, rows), inside) & (left > 0)
        moved += int(inside.sum())
    return ends, moved


def _shrunk(
    along: LineDensity,
    level: torch.Tensor,
    log_density: torch.Tensor,
    ends: torch.Tensor,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Return places within the slice, their log-density, and how many were tried in vain."""
    place, value = torch.zeros_like(level), log_density.clone()
    low, high = ends.clone().unbind(0)
    rows = torch.arange(len(level))
    failed = 0
    for _ in range(MOST_SHRINKS):
        t = low[rows] + (high - low)[rows] * _uniform(len(rows), generator)
        found = along(rows, t)
        inside = found > level[rows]
        place[rows[inside]], value[rows[inside]] = t[inside], found[inside]
        rows, t = rows[~inside], t[~inside]
        if not rows.numel():
            break
        failed += rows.numel()
        low[rows] = torch.where(t < 0, t, low[rows])
        high[rows] = torch.where(t < 0, high[rows], t)
    return place, value, failed


def _uniform(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)
