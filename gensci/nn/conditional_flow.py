"""The density of data given parameters: a learned mean and scale, then a flow of normflows.

`x -> whiten -> (x - mean(theta)) / scale(theta) -> masked layers -> standard normal`. Shifting
first makes noise that does not depend on the parameters one and the same density for the layers.
The mean is a polynomial, found in closed form, plus a network; all layers start as the identity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gensci.core.errors import UsageError
from gensci.core.registry import MODELS
from gensci.nn.data_transform import DataTransform
from gensci.nn.parameter_features import ParameterFeatures, Polynomial, farness

KINDS = ("gaussian", "maf", "nsf", "mixture")
LARGEST_LOG_SCALE = 7.0


class Bends(nn.Module):
    """SiLU for the first half of the units and ReLU for the others: smooth curves and kinks."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, k) activations."""
        smooth, kinked = x.chunk(2, 1)
        return torch.cat((nn.functional.silu(smooth), kinked.relu()), 1)


class Centre(nn.Module):
    """Subtract a mean and divide by a scale, both functions of the features.

    Args:
        dim: Number of data.
        num_features: Of the parameters.
        degree: Of the polynomial part of the mean.
        hidden: Units of each of the two layers of the network.
        unit_noise: The data hold noise of unit variance besides what the scale adds.
        correlated: What is left is also freed of correlations, by a triangular matrix that is a
            function of the features: with a network for it, any Gaussian is met exactly.
    """

    def __init__(
        self,
        dim: int,
        num_features: int,
        degree: int,
        hidden: int,
        unit_noise: bool,
        correlated: bool = False,
    ) -> None:
        super().__init__()
        self.unit_noise, self.correlated = unit_noise, correlated and dim > 1
        self.polynomial = Polynomial(num_features, degree)
        self.register_buffer("weights", torch.zeros(self.polynomial.num_terms, dim))
        # what the network adds is in units of what the polynomial leaves: of `spread` in the bulk,
        # growing outside it, so that far rows do not drown the others
        self.register_buffer("spread", torch.ones(dim))
        self.register_buffer("growth", torch.zeros(dim))
        self.trunk = nn.Sequential(
            nn.Linear(num_features, hidden), Bends(), nn.Linear(hidden, hidden), Bends()
        )
        self.head = nn.Linear(hidden, 2 * dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        if self.correlated:
            rows, columns = torch.tril_indices(dim, dim, -1)
            # where the matrix takes its entries from, laid out as numbers with a zero at the end
            places = torch.full((dim, dim), len(rows))
            places[rows, columns] = torch.arange(len(rows))
            self.register_buffer("places", places.flatten(), persistent=False)
            self.mixing = nn.Linear(hidden, len(rows))
            nn.init.zeros_(self.mixing.weight)
            nn.init.zeros_(self.mixing.bias)

    def fixed_mean(self, features: Tensor) -> Tensor:
        """(n, d) the part of the mean that is not trained."""
        return self.polynomial(features) @ self.weights

    def moments(
        self, features: Tensor, hidden: Tensor | None = None, fixed: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """(n, d) mean and logarithm of the scale.

        Args:
            features: (n, k) of the parameters.
            hidden: What the trunk makes of them, where it is at hand.
            fixed: Their `fixed_mean`, where it is at hand: it costs more than the rest.
        """
        hidden = self.trunk(features) if hidden is None else hidden
        fixed = self.fixed_mean(features) if fixed is None else fixed
        shift, raw = self.head(hidden).chunk(2, 1)
        raw = LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)
        log_growth = farness(features) * self.growth
        mean = fixed + shift * self.spread * log_growth.exp()
        log_scale = raw + self.spread.log() + log_growth
        if self.unit_noise:  # the variances add
            log_scale = 0.5 * nn.functional.softplus(2 * log_scale)
        return mean, log_scale

    def inverse(
        self,
        x: Tensor,
        features: Tensor,
        hidden: Tensor | None = None,
        fixed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Data to noise, with log-determinants (n,)."""
        hidden = self.trunk(features) if hidden is None else hidden
        mean, log_scale = self.moments(features, hidden, fixed)
        z = (x - mean) * (-log_scale).exp()
        if self.correlated:
            z = z + (self._mixed(hidden) @ z[:, :, None])[:, :, 0]
        return z, -log_scale.sum(1)

    def forward(self, z: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Noise to data, with log-determinants (n,)."""
        hidden = self.trunk(features)
        mean, log_scale = self.moments(features, hidden)
        if self.correlated:
            unit = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
            matrix = unit + self._mixed(hidden)
            z = torch.linalg.solve_triangular(matrix, z[:, :, None], upper=False)[:, :, 0]
        return z * log_scale.exp() + mean, log_scale.sum(1)

    def _mixed(self, hidden: Tensor) -> Tensor:
        """(n, d, d) strictly lower triangular matrices."""
        told = self.mixing(hidden)
        padded = torch.cat((told, torch.zeros_like(told[:, :1])), 1)
        return padded[:, self.places].view(len(hidden), *2 * (len(self.spread),))


@MODELS.register("conditional-flow")
class ConditionalFlow(nn.Module):
    """log p(x | theta) in nats, normalised over x, in the data's own units.

    Args:
        dim: Number of data.
        num_parameters: Columns of theta.
        kind: `gaussian` (no layers), `maf`, `nsf`, or `mixture` (no layers, see `MaskedMixture`).
        layers: Number of masked layers.
        hidden: Units of the masked networks.
        blocks: Residual blocks of each.
        bins: Of each spline; components of each mixture.
        tail_bound: Beyond which splines are the identity, in units of the scale.
        mean_hidden: Units of the network of the mean.
        degree: Of the polynomial of the mean.
        unit_noise: See `Centre`.
        correlated: See `Centre`.
        with_context: The layers depend on theta; they do not where noise is added to a signal.
        periods: Of the parameters.
        round_trip: See `ParameterFeatures`.
        whole: See `DataTransform`.
        logarithmic: See `DataTransform`.
        seed: Of the weights.

    Raises:
        UsageError: The kind is unknown.
    """

    def __init__(
        self,
        dim: int,
        num_parameters: int,
        *,
        kind: str = "nsf",
        layers: int = 2,
        hidden: int = 48,
        blocks: int = 1,
        bins: int = 8,
        tail_bound: float = 4.0,
        mean_hidden: int = 64,
        degree: int = 2,
        unit_noise: bool = False,
        correlated: bool = False,
        with_context: bool = True,
        periods: Sequence[float | None] | None = None,
        round_trip: Sequence[bool] | None = None,
        whole: Sequence[bool] | None = None,
        logarithmic: Sequence[bool] | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if kind not in KINDS:
            raise UsageError(f"unknown kind of flow {kind!r}", f"choose from: {', '.join(KINDS)}")
        import normflows

        from gensci.nn import flow_layers

        self.dim = dim
        self.features = ParameterFeatures(num_parameters, periods, round_trip)
        self.data = DataTransform(dim, whole, logarithmic)
        context = self.features.num_features + mean_hidden if with_context else None
        self.with_context = with_context
        with torch.random.fork_rng(devices=[]):  # normflows draws weights from the global stream
            torch.manual_seed(seed)
            self.centre = Centre(
                dim, self.features.num_features, degree, mean_hidden, unit_noise, correlated
            )
            chain = flow_layers.layers(
                kind, dim, context, number=layers if kind in ("maf", "nsf") else 0, hidden=hidden,
                blocks=blocks, bins=bins, tail_bound=tail_bound,
            )  # fmt: skip
            base = flow_layers.base(kind, dim, hidden, context, blocks, bins)
        self.flow = normflows.ConditionalNormalizingFlow(base, chain)

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """(n,) float64 log-densities of (n, dim) data given (n, d) parameters, in one pass.

        Data where the density is not defined (not above zero for logarithmic columns) give -inf.
        """
        y, log_det = self.data(x)
        value = self.whitened_log_prob(y.float(), self.features(theta)).double() + log_det
        return torch.where(value.isnan(), -torch.inf, value)

    def whitened_log_prob(self, y: Tensor, features: Tensor, fixed: Tensor | None = None) -> Tensor:
        """(n,) log-densities of whitened data given features, in the type of the weights.

        Args:
            y: (n, dim) whitened data.
            features: (n, k) of the parameters.
            fixed: (n, dim) `centre.fixed_mean` of them, where it is at hand.
        """
        hidden = self.centre.trunk(features)
        residual, log_det = self.centre.inverse(y, features, hidden, fixed)
        return self.residual_log_prob(residual, self.context(features, hidden)) + log_det

    def residual_log_prob(self, residual: Tensor, context: Tensor | None = None) -> Tensor:
        """(n,) log-densities of data from which mean and scale are taken."""
        return self.flow.log_prob(residual, context)

    def context(self, features: Tensor, hidden: Tensor | None = None) -> Tensor | None:
        """What the layers see of the parameters: the features and what the mean makes of them."""
        if not self.with_context:
            return None
        hidden = self.centre.trunk(features) if hidden is None else hidden
        return torch.cat((features, hidden), 1)

    @torch.no_grad()
    def sample(self, theta: Tensor, generator: Generator) -> Tensor:
        """(n, dim) float64 data, one row for each row of parameters."""
        features = self.features(theta)
        context = self.context(features)
        z = self.flow.q0.draw(len(theta), generator, context)
        for layer in self.flow.flows:
            z, _ = layer(z, context)
        return self.data.inverse(self.centre(z, features)[0])


@MODELS.register("flow-ensemble")
class FlowEnsemble(nn.Module):
    """Conditional flows that differ in their seeds; the density is their mean.

    Args:
        members: How many.
        **settings: Of `ConditionalFlow`; the seed of the first, the others follow.
    """

    def __init__(self, members: int = 1, **settings: Any) -> None:
        super().__init__()
        self.settings = {"members": members, **settings}
        seed = settings.pop("seed", 0)
        self.members = nn.ModuleList(
            ConditionalFlow(**settings, seed=seed + index) for index in range(members)
        )

    def log_prob(self, x: Tensor, theta: Tensor) -> Tensor:
        """(n,) float64 log of the mean density."""
        values = torch.stack([member.log_prob(x, theta) for member in self.members])
        return values[0] if len(values) == 1 else values.logsumexp(0) - math.log(len(values))

    def sample(self, theta: Tensor, generator: Generator) -> Tensor:
        """(n, dim) data; each row from a member drawn at random."""
        drawn = torch.stack([member.sample(theta, generator) for member in self.members])
        if len(drawn) == 1:
            return drawn[0]
        pick = torch.randint(len(drawn), (len(theta),), generator=generator)
        return drawn[pick, torch.arange(len(theta))]
