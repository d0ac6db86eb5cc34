"""Draws with several symmetric modes, folded into one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gensci.core.errors import UsageError

Images = Callable[[Tensor], Tensor]
"""From (n, d) points to their (k, n, d) images under a group that keeps volumes, identity first."""

ROUNDS = 8
CANDIDATES = 64


class Folding:
    """A group of images: how to bring points into one mode, and how to undo each image.

    Args:
        images: The group.
        bounds: (d, 2) of the parameters, which give the units of distance.
        periods: None where not periodic.
        sample: (n, d) points within the bounds, by which the inverses are found.

    Raises:
        UsageError: An image has no inverse among the images.
    """

    def __init__(
        self,
        images: Images,
        bounds: Tensor,
        periods: Sequence[float | None],
        sample: Tensor,
    ) -> None:
        self.images, self.periods = images, tuple(periods)
        width = bounds[:, 1] - bounds[:, 0]
        spread = sample.std(0).clamp_min(1e-300)
        self.units = torch.where(width.isfinite(), width, spread)
        self.inverse = self._inverses(sample[:8])

    @property
    def number(self) -> int:
        """Of images."""
        return len(self.inverse)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared distances of (..., d) points; round the period where there is one."""
        total = torch.zeros(torch.broadcast_shapes(a.shape, b.shape)[:-1], dtype=torch.float64)
        for i, period in enumerate(self.periods):
            gap = a[..., i] - b[..., i]
            if period is None:
                total = total + (gap / self.units[i]).square()
            else:
                # the chord, in units in which all the way across is one
                total = total + 0.5 * (1 - torch.cos(gap * (2 * math.pi / period)))
        return total

    def fold(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Bring points into the mode of a reference that most of them agree on.

        Returns:
            (n, d) folded points; (n,) the image that leads from the folded point to the given one.
        """
        reference = self._start(theta)
        every = self.images(theta)
        for _ in range(ROUNDS):
            pick = self.distance(every, reference).argmin(0)
            folded = every[pick, torch.arange(len(theta))]
            centre = self._mean(folded)
            if torch.equal(centre, reference):
                break
            reference = centre
        return folded, self.inverse[pick]

    def _start(self, theta: Tensor) -> Tensor:
        """The point to whose nearest images a sample of points is closest in all."""
        few = theta[:: max(1, len(theta) // CANDIDATES)]
        apart = self.distance(self.images(few)[:, :, None, :], few).min(0).values
        return few[apart.sqrt().sum(0).argmin()]

    def _mean(self, theta: Tensor) -> Tensor:
        """Mean, circular where periodic."""
        means = []
        for x, period in zip(theta.unbind(1), self.periods, strict=True):
            if period is None:
                means.append(x.mean())
                continue
            angle = x * (2 * math.pi / period)
            means.append(torch.atan2(angle.sin().mean(), angle.cos().mean()) * period / math.tau)
        return torch.stack(means)

    def _inverses(self, sample: Tensor) -> Tensor:
        """(k,) which image undoes each."""
        found = []
        for number, moved in enumerate(self.images(sample)):
            missed = self.distance(self.images(moved), sample).max(1).values
            back = int(missed.argmin())
            if missed[back] > 1e-12:
                raise UsageError(
                    f"image {number} of the symmetries has no inverse among them",
                    "give all images of a group",
                )
            found.append(back)
        return torch.tensor(found)
