"""Prior densities over named parameters: draws, normalised log-densities, bounds and periods.

A row of `theta` is one point. All priors compute in float64, on the device of the generator or of
the points they are given, and can be written to and read from JSON.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.marginals import Marginal, marginal_from_json, marginal_to_json
from gensci.core.registry import did_you_mean

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Prior(ABC):
    """A normalised density over named parameters.

    Attributes:
        names: One per column of `theta`.
        periods: Of each column, None where it is not periodic.
        bounds: (d, 2) float64, lowest and highest value; infinite where there is none.
    """

    kind = ""

    def __init__(
        self, names: Sequence[str], bounds: Tensor, periods: Sequence[float | None] | None = None
    ) -> None:
        self.names = tuple(names)
        self.bounds = bounds
        self.periods = (None,) * len(self.names) if periods is None else tuple(periods)
        if not self.names or len(set(self.names)) != len(self.names):
            raise UsageError(f"names {self.names} of the prior", "give each parameter one name")
        if len(self.periods) != self.dim or bounds.shape != (self.dim, 2):
            raise UsageError(
                f"the prior has {self.dim} names, {len(self.periods)} periods and "
                f"{len(bounds)} bounds",
                "give one of each per parameter",
            )
        for name, period, (low, high) in zip(
            self.names, self.periods, bounds.tolist(), strict=True
        ):
            if period is not None and not 0 < high - low <= period * (1 + 1e-12):
                raise UsageError(
                    f"the prior of {name!r} spans {high - low} but its period is {period}",
                    "let it span one period or less",
                )

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return len(self.names)

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, d) points, float64, on the generator's device."""

    @abstractmethod
    def _log_density(self, theta: Tensor) -> Tensor:
        """The (n,) log-density of points within the bounds."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What `from_json` needs besides the kind, as JSON can hold it."""

    def log_prob(self, theta: Tensor) -> Tensor:
        """The (n,) log-density in nats of (n, d) points, normalised; -inf outside the bounds.

        It is differentiable within the bounds.

        Raises:
            UsageError: The points have another number of columns.
        """
        theta = self.check_columns(theta)
        inside = self.inside(theta)
        # Points outside are moved onto the bounds first, so that no gradient is NaN.
        low, high = self.bounds.to(theta.device).unbind(1)
        density = self._log_density(torch.minimum(torch.maximum(theta, low), high))
        return torch.where(inside, density, -torch.inf)

    def inside(self, theta: Tensor) -> Tensor:
        """Which of (n, d) points lie within the bounds, (n,); NaN does not."""
        low, high = self.bounds.to(theta.device).unbind(1)
        return ((theta >= low) & (theta <= high)).all(1)

    def wrap(self, theta: Tensor) -> Tensor:
        """The same points with each periodic column moved into one period from its lower bound."""
        columns = [
            column if period is None else low + torch.remainder(column - low, period)
            for column, period, low in zip(
                theta.unbind(1), self.periods, self.bounds[:, 0], strict=True
            )
        ]
        return torch.stack(columns, 1)

    def check_columns(self, theta: Tensor) -> Tensor:
        """The points in float64.

        Raises:
            UsageError: They are not (n, d).
        """
        if theta.ndim != 2 or theta.shape[1] != self.dim:
            raise UsageError(
                f"theta has shape {tuple(theta.shape)}, the prior has {self.dim} parameters",
                f"give (n, {self.dim}) points, columns {', '.join(self.names)}",
            )
        return theta.to(torch.float64)

    def check_inside(self, theta: Tensor) -> None:
        """Refuse points outside the bounds.

        Raises:
            UsageError: The first such parameter, its value and its bounds.
        """
        theta = self.check_columns(theta)
        low, high = self.bounds.to(theta.device).unbind(1)
        bad = (~((theta >= low) & (theta <= high))).nonzero()
        if len(bad):
            row, column = bad[0].tolist()
            raise UsageError(
                f"theta[{row}] has {self.names[column]} = {theta[row, column].item():.6g}, outside "
                f"its prior [{low[column].item():.6g}, {high[column].item():.6g}]",
                "choose a value within the prior or widen the prior",
            )

    def to_json(self) -> dict[str, Any]:
        """A description that `from_json` reads back to the same prior."""
        return {"kind": self.kind, **self.settings()}

    @staticmethod
    def from_json(description: dict[str, Any]) -> Prior:
        """Build the prior that `to_json` described.

        Raises:
            UsageError: The kind is unknown, or a setting is missing or cannot be used.
        """
        if not isinstance(description, dict) or "kind" not in description:
            raise UsageError(
                "the prior's description has no 'kind'", f"choose from: {', '.join(KINDS)}"
            )
        settings = dict(description)
        kind = str(settings.pop("kind"))
        if kind not in KINDS:
            hint = did_you_mean(kind, list(KINDS))
            raise UsageError(f"unknown prior {kind!r}", f"{hint}choose from: {', '.join(KINDS)}")
        try:
            return KINDS[kind](**settings)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the {kind} prior cannot be built: {error}", "see gensci/core/priors.py"
            ) from error


class BoxPrior(Prior):
    """Uniform between `low` and `high` in every parameter.

    Args:
        names: Of the parameters.
        low: Lowest values, (d,).
        high: Highest values, (d,).
        periods: Of the periodic parameters, None for others; no period where absent.

    Raises:
        UsageError: A `low` is not below its `high`, or the lengths differ.
    """

    kind = "box"

    def __init__(
        self,
        names: Sequence[str],
        low: Sequence[float] | Tensor,
        high: Sequence[float] | Tensor,
        periods: Sequence[float | None] | None = None,
    ) -> None:
        ends = [torch.as_tensor(value, dtype=torch.float64) for value in (low, high)]
        if any(end.shape != (len(names),) for end in ends):
            raise UsageError("low and high of the prior", f"give {len(names)} values, one per name")
        super().__init__(names, torch.stack(ends, 1), periods)
        _check_order(self.names, self.bounds)
        self._log_volume = float((self.bounds[:, 1] - self.bounds[:, 0]).log().sum())

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, d) points."""
        draws = _uniform(n, self.dim, generator)
        low, high = self.bounds.to(draws.device).unbind(1)
        return low + (high - low) * draws

    def _log_density(self, theta: Tensor) -> Tensor:
        # The sum keeps the (zero) gradient with respect to theta.
        return 0.0 * theta.sum(1) - self._log_volume

    def settings(self) -> dict[str, Any]:
        """Names, low, high and periods."""
        low, high = self.bounds.T.tolist()
        return {
            "names": list(self.names), "low": low, "high": high, "periods": list(self.periods)
        }  # fmt: skip


class NormalPrior(Prior):
    """A multivariate normal.

    Args:
        mean: (d,).
        covariance: (d, d), or (d,) variances.
        names: `theta0`, `theta1`, ... where absent.

    Raises:
        UsageError: The covariance is not symmetric and positive definite, or shapes differ.
    """

    kind = "normal"

    def __init__(
        self,
        mean: Sequence[float] | Tensor,
        covariance: Sequence[float] | Sequence[Sequence[float]] | Tensor,
        names: Sequence[str] | None = None,
    ) -> None:
        self.mean = torch.as_tensor(mean, dtype=torch.float64)
        matrix = torch.as_tensor(covariance, dtype=torch.float64)
        self.covariance = torch.diag(matrix) if matrix.ndim == 1 else matrix
        dim = self.mean.numel()
        if self.mean.shape != (dim,) or self.covariance.shape != (dim, dim):
            raise UsageError(
                f"mean {tuple(self.mean.shape)} and covariance {tuple(matrix.shape)} of the prior",
                "give (d,) and (d, d)",
            )
        factor, trouble = torch.linalg.cholesky_ex(self.covariance)
        if trouble or not torch.allclose(self.covariance, self.covariance.T):
            raise UsageError(
                "the covariance of the prior is not symmetric and positive definite",
                "give one that is",
            )
        self._factor = factor
        super().__init__(_default_names(names, dim), _unbounded(dim))

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, d) points."""
        draws = _normal(n, self.dim, generator)
        return self.mean.to(draws.device) + draws @ self._factor.T.to(draws.device)

    def _log_density(self, theta: Tensor) -> Tensor:
        factor = self._factor.to(theta.device)
        centred = (theta - self.mean.to(theta.device)).T
        white = torch.linalg.solve_triangular(factor, centred, upper=False)
        log_scale = factor.diagonal().log().sum()
        return -0.5 * white.square().sum(0) - log_scale - self.dim * HALF_LOG_2PI

    def settings(self) -> dict[str, Any]:
        """Mean, covariance and names."""
        return {
            "mean": self.mean.tolist(),
            "covariance": self.covariance.tolist(),
            "names": list(self.names),
        }


class ProductPrior(Prior):
    """Independent parameters, each with a marginal of its own.

    Args:
        parameters: One per parameter: a `Marginal` with a name, or its JSON such as
            `{"name": "mass", "kind": "log-uniform", "low": 1, "high": 100}`; the kinds are in
            `gensci.core.marginals`.

    Raises:
        UsageError: A marginal cannot be used.
    """

    kind = "product"

    def __init__(self, parameters: Sequence[tuple[str, Marginal] | dict[str, Any]]) -> None:
        pairs = [marginal_from_json(p) if isinstance(p, dict) else p for p in parameters]
        self.marginals = tuple(marginal for _, marginal in pairs)
        bounds = torch.tensor([m.bounds for m in self.marginals], dtype=torch.float64)
        super().__init__(
            [name for name, _ in pairs],
            bounds.reshape(-1, 2),
            [marginal.period for marginal in self.marginals],
        )

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw (n, d) points."""
        draws = _uniform(n, self.dim, generator)
        columns = [m.quantile(u) for m, u in zip(self.marginals, draws.unbind(1), strict=True)]
        return torch.stack(columns, 1)

    def _log_density(self, theta: Tensor) -> Tensor:
        return sum(
            (m.log_density(x) for m, x in zip(self.marginals, theta.unbind(1), strict=True)),
            start=torch.zeros_like(theta[:, 0]),
        )

    def settings(self) -> dict[str, Any]:
        """The marginals in the order of their columns."""
        return {"parameters": list(map(marginal_to_json, self.names, self.marginals))}


class LogNormalPrior(ProductPrior):
    """Independent positive parameters whose logarithms are normal.

    Args:
        loc: Means of the logarithms, (d,).
        scale: Standard deviations of the logarithms, (d,).
        names: `theta0`, `theta1`, ... where absent.
    """

    kind = "lognormal"

    def __init__(
        self,
        loc: Sequence[float] | Tensor,
        scale: Sequence[float] | Tensor,
        names: Sequence[str] | None = None,
    ) -> None:
        places, widths = (torch.as_tensor(v, dtype=torch.float64).tolist() for v in (loc, scale))
        if len(places) != len(widths):
            raise UsageError("loc and scale of the prior differ in length", "give one of each")
        labels = _default_names(names, len(places))
        rows = zip(labels, places, widths, strict=True)
        super().__init__(
            [{"name": n, "kind": "log-normal", "loc": a, "scale": b} for n, a, b in rows]
        )
        self._settings = {"loc": places, "scale": widths, "names": labels}

    def settings(self) -> dict[str, Any]:
        """Loc, scale and names."""
        return dict(self._settings)


KINDS: dict[str, Any] = {p.kind: p for p in (BoxPrior, NormalPrior, LogNormalPrior, ProductPrior)}


def read_prior(path: str | Path) -> Prior:
    """Read a prior from a JSON file.

    Raises:
        UsageError: The file is absent, not JSON, or describes no prior.
    """
    try:
        description = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--prior {path} is not readable JSON", "give a JSON file") from error
    return Prior.from_json(description)


def _default_names(names: Sequence[str] | None, dim: int) -> list[str]:
    """The names given, or `theta0`, `theta1`, ..."""
    return [f"theta{i}" for i in range(dim)] if names is None else list(names)


def _unbounded(dim: int) -> Tensor:
    return torch.tensor([[-math.inf, math.inf]] * dim, dtype=torch.float64)


def _check_order(names: Sequence[str], bounds: Tensor) -> None:
    """Raise where a lowest value is not below the highest."""
    for name, (low, high) in zip(names, bounds.tolist(), strict=True):
        if not low < high or math.isinf(high - low):
            raise UsageError(f"the prior of {name!r} runs from {low} to {high}", "give low < high")


def _uniform(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """(n, dim) uniforms on [0, 1), float64."""
    device = generator.device
    return torch.rand(n, dim, generator=generator, dtype=torch.float64, device=device)


def _normal(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """(n, dim) standard normals, float64."""
    device = generator.device
    return torch.randn(n, dim, generator=generator, dtype=torch.float64, device=device)
