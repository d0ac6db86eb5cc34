"""One-dimensional densities from which a product prior is made.

Each knows its log-density, its quantiles (draws come from uniforms), its bounds and its period.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.registry import did_you_mean

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Marginal(ABC):
    """A normalised density of one parameter."""

    kind: ClassVar[str]
    period: float | None = None

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest value."""

    @abstractmethod
    def log_density(self, x: Tensor) -> Tensor:
        """Log-density in nats of values within the bounds."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """Values below which the shares `u` in [0, 1) of the probability lie."""


@dataclass(frozen=True)
class Interval(Marginal):
    """What the densities on an interval share."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and self.low < self.high < math.inf):
            raise UsageError(f"a {self.kind} prior from {self.low} to {self.high}", "low < high")

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high


@dataclass(frozen=True)
class Uniform(Interval):
    """The same density from `low` to `high`, which may be joined at a period."""

    period: float | None = None
    kind = "uniform"

    def log_density(self, x: Tensor) -> Tensor:
        """Minus the logarithm of the width."""
        return torch.full_like(x, -math.log(self.high - self.low))

    def quantile(self, u: Tensor) -> Tensor:
        """The share `u` of the way."""
        return self.low + (self.high - self.low) * u


@dataclass(frozen=True)
class PowerLaw(Interval):
    """Density proportional to `x ** exponent` from `low` > 0 to `high`."""

    exponent: float = 0.0
    kind = "power-law"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low <= 0:
            raise UsageError(f"a {self.kind} prior from {self.low}", "give low > 0")

    def log_density(self, x: Tensor) -> Tensor:
        """`exponent * ln x` less the logarithm of the integral."""
        k = self.exponent + 1
        if k == 0:
            return -x.log() - math.log(math.log(self.high / self.low))
        return self.exponent * x.log() - math.log((self.high**k - self.low**k) / k)

    def quantile(self, u: Tensor) -> Tensor:
        """The inverse of the integral."""
        k = self.exponent + 1
        if k == 0:
            return self.low * torch.exp(u * math.log(self.high / self.low))
        return (self.low**k + u * (self.high**k - self.low**k)) ** (1 / k)


@dataclass(frozen=True)
class LogUniform(PowerLaw):
    """Uniform in the logarithm, from `low` > 0 to `high`."""

    exponent: float = -1.0
    kind = "log-uniform"


@dataclass(frozen=True)
class Sine(Interval):
    """Density proportional to sin(x), such as that of an inclination in rad."""

    low: float = 0.0
    high: float = math.pi
    kind = "sine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low < 0 or self.high > math.pi * (1 + 1e-12):
            raise UsageError(f"a sine prior from {self.low} to {self.high}", "stay in [0, pi]")

    def log_density(self, x: Tensor) -> Tensor:
        """Logarithm of sin x less the logarithm of the integral."""
        return x.sin().log() - math.log(math.cos(self.low) - math.cos(self.high))

    def quantile(self, u: Tensor) -> Tensor:
        """Uniform in the cosine."""
        ends = math.cos(self.low), math.cos(self.high)
        return torch.acos(ends[0] + u * (ends[1] - ends[0]))


@dataclass(frozen=True)
class Cosine(Interval):
    """Density proportional to cos(x), such as that of a latitude in rad."""

    low: float = -math.pi / 2
    high: float = math.pi / 2
    kind = "cosine"

    def __post_init__(self) -> None:
        super().__post_init__()
        if max(-self.low, self.high) > math.pi / 2 * (1 + 1e-12):
            raise UsageError(
                f"a cosine prior from {self.low} to {self.high}", "stay in [-pi/2, pi/2]"
            )

    def log_density(self, x: Tensor) -> Tensor:
        """Logarithm of cos x less the logarithm of the integral."""
        return x.cos().log() - math.log(math.sin(self.high) - math.sin(self.low))

    def quantile(self, u: Tensor) -> Tensor:
        """Uniform in the sine."""
        ends = math.sin(self.low), math.sin(self.high)
        return torch.asin(ends[0] + u * (ends[1] - ends[0]))


@dataclass(frozen=True)
class Normal(Marginal):
    """A normal with its mean and standard deviation."""

    mean: float = 0.0
    sd: float = 1.0
    kind = "normal"

    def __post_init__(self) -> None:
        _check_scale(self.kind, "sd", self.sd)

    @property
    def bounds(self) -> tuple[float, float]:
        """There are none."""
        return -math.inf, math.inf

    def log_density(self, x: Tensor) -> Tensor:
        """Of the standard normal at the scaled value, less ln sd."""
        return -0.5 * ((x - self.mean) / self.sd).square() - math.log(self.sd) - HALF_LOG_2PI

    def quantile(self, u: Tensor) -> Tensor:
        """The standard normal's, scaled."""
        return self.mean + self.sd * _normal_quantile(u)


@dataclass(frozen=True)
class LogNormal(Marginal):
    """The logarithm is normal with mean `loc` and standard deviation `scale`."""

    loc: float = 0.0
    scale: float = 1.0
    kind = "log-normal"

    def __post_init__(self) -> None:
        _check_scale(self.kind, "scale", self.scale)

    @property
    def bounds(self) -> tuple[float, float]:
        """Positive values."""
        return 0.0, math.inf

    def log_density(self, x: Tensor) -> Tensor:
        """Of the normal at ln x, less ln x; -inf at zero."""
        logarithm = x.clamp_min(torch.finfo(x.dtype).tiny).log()
        white = (logarithm - self.loc) / self.scale
        return -0.5 * white.square() - logarithm - math.log(self.scale) - HALF_LOG_2PI

    def quantile(self, u: Tensor) -> Tensor:
        """The exponential of the normal's."""
        return torch.exp(self.loc + self.scale * _normal_quantile(u))


MARGINALS: dict[str, type[Marginal]] = {
    m.kind: m for m in (Uniform, LogUniform, PowerLaw, Sine, Cosine, Normal, LogNormal)
}


def marginal_from_json(description: dict[str, Any]) -> tuple[str, Marginal]:
    """Read `{"name": ..., "kind": ..., settings}`.

    Returns:
        The parameter's name and its marginal.

    Raises:
        UsageError: The name or kind is missing or unknown, or a setting cannot be used.
    """
    settings = dict(description)
    name, kind = settings.pop("name", None), settings.pop("kind", None)
    choices = ", ".join(MARGINALS)
    if not isinstance(name, str) or kind not in MARGINALS:
        hint = did_you_mean(str(kind), list(MARGINALS))
        raise UsageError(
            f"parameter {name!r} of the prior has kind {kind!r}",
            f"{hint}give a name, and a kind out of: {choices}",
        )
    try:
        numbers = {key: None if v is None else float(v) for key, v in settings.items()}
        return name, MARGINALS[kind](**numbers)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the {kind} prior of {name!r} cannot be built from {sorted(settings)}",
            f"give {', '.join(MARGINALS[kind].__dataclass_fields__)}",  # type: ignore[attr-defined]
        ) from error


def marginal_to_json(name: str, marginal: Marginal) -> dict[str, Any]:
    """What `marginal_from_json` reads back."""
    return {"name": name, "kind": marginal.kind, **asdict(marginal)}  # type: ignore[call-overload]


def _check_scale(kind: str, name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise UsageError(f"{name} = {value} of a {kind} prior", "give a positive number")


def _normal_quantile(u: Tensor) -> Tensor:
    """Standard normal quantiles; zero, which a uniform may be, gives a finite value."""
    return torch.special.ndtri(u.clamp_min(1e-300))
