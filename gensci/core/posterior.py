"""Posteriors as targets: a prior times a likelihood, over `{"theta": (n, d)}` in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from gensci.core.bijections import Bijection
from gensci.core.errors import UsageError
from gensci.core.priors import Prior
from gensci.core.protocols import Target, Tensors
from gensci.core.results import SampleSet

THETA = "theta"
LogLikelihood = Callable[[torch.Tensor], torch.Tensor]
"""From (n, d) points to (n,) log-likelihoods in nats; one that is not finite is no likelihood."""
Jumps = Callable[[torch.Tensor], torch.Tensor]
"""From (n, d) points to their (k, n, d) images under a group of maps that keep volumes."""


class PriorProposal:
    """A prior as a proposal over ``{"theta": (n, d)}``; samplers temper from it to the posterior.

    Args:
        prior: what is drawn from.
    """

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def sample(self, n: int, generator: torch.Generator) -> Tensors:
        """Return ``n`` draws."""
        return {THETA: self.prior.sample(n, generator)}

    def sample_and_log_prob(
        self, n: int, generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return ``n`` draws and their (n,) log-density in nats."""
        x = self.sample(n, generator)
        return x, self.log_prob(x)

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log-density in nats, -inf outside the bounds."""
        return self.prior.log_prob(x[THETA])


class PosteriorTarget:
    """A prior times a likelihood.

    The likelihood is asked only for points within the prior, so that a simulator or a waveform is
    never given parameters that have no meaning.

    Args:
        prior: the prior; names, bounds and periods are taken from it.
        log_likelihood: (n, d) points to (n,) nats; differentiable where gradients are wanted.
        jumps: (n, d) points to their (k, n, d) images under a group of symmetries that keep
            volumes, for example the eight positions on LISA's sky; None for none.

    Attributes:
        parameters: the names of the columns.
        periods: of each column, None where it is not periodic.
        bounds: (d, 2) float64.
        jumps: as given.
        calls: for how many points the likelihood was asked.
    """

    def __init__(
        self, prior: Prior, log_likelihood: LogLikelihood, jumps: Jumps | None = None
    ) -> None:
        self.prior = prior
        self.parameters = prior.names
        self.periods = prior.periods
        self.bounds = prior.bounds
        self.jumps = jumps
        self.calls = 0
        self._log_likelihood = log_likelihood

    def log_prior(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) normalised log-prior in nats."""
        return self.prior.log_prob(x[THETA])

    def log_likelihood(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log-likelihood in nats; -inf outside the prior."""
        return self._within(x[THETA], torch.isfinite(self.log_prior(x)))

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log of prior times likelihood in nats; its integral is the evidence."""
        log_prior = self.log_prior(x)
        return log_prior + self._within(x[THETA], torch.isfinite(log_prior))

    def log_prob_and_grad(self, x: Tensors) -> tuple[torch.Tensor, Tensors]:
        """Return the log-density and its gradient, which is zero where the density is.

        Raises:
            UsageError: the likelihood does not differentiate.
        """
        with torch.enable_grad():
            value, slope = _slope_of(self._differentiable, x[THETA].detach())
        return value, {THETA: slope}

    def _differentiable(self, x: Tensors) -> torch.Tensor:
        log_prior = self.log_prior(x)
        log_likelihood = self._within(x[THETA], torch.isfinite(log_prior))
        # The slope of the prior alone would let chains creep, and nobody would know why.
        if torch.isfinite(log_prior).any() and not log_likelihood.requires_grad:
            raise UsageError(
                "the log-likelihood has no gradient with respect to theta",
                "compute it by torch operations, or use one of: tempering, slice",
            )
        return log_prior + log_likelihood

    def _within(self, theta: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
        rows = inside.nonzero()[:, 0]
        outside = torch.full((len(theta),), -torch.inf, dtype=torch.float64, device=theta.device)
        if rows.numel() == 0:
            return outside
        self.calls += rows.numel()
        whole = rows.numel() == len(theta)
        value = self._log_likelihood(theta if whole else theta[rows])
        if value.shape != rows.shape:
            raise UsageError(
                f"log_likelihood gave {tuple(value.shape)} numbers for {rows.numel()} points",
                "return one log-likelihood for each row of theta",
            )
        value = value.to(torch.float64)
        return value if whole else outside.index_put((rows,), value)


class UnconstrainedTarget:
    """A target in coordinates without bounds, for samplers that follow gradients.

    Args:
        target: a density over ``{"theta": (n, d)}``.
        bijection: the map to free coordinates and back.

    Attributes:
        periods: as of the target; periodic columns are not transformed.
    """

    def __init__(self, target: Target, bijection: Bijection) -> None:
        self.target = target
        self.bijection = bijection
        self.periods = getattr(target, "periods", None)

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log-density of the free coordinates ``x["theta"]``, in nats."""
        theta, log_abs_det_jacobian = self.bijection.inverse(x[THETA])
        return self.target.log_prob({THETA: theta}) + log_abs_det_jacobian

    def log_prob_and_grad(self, x: Tensors) -> tuple[torch.Tensor, Tensors]:
        """Return the log-density and its gradient, by the target's own gradient where it has one.

        A gradient that is not finite stays so: whoever asks decides what it means.
        """
        with torch.enable_grad():
            u = x[THETA].detach().clone().requires_grad_(True)
            theta, log_abs_det_jacobian = self.bijection.inverse(u)
            value, slope = _value_and_slope(self.target, theta.detach())
            total = (slope * theta).sum() + log_abs_det_jacobian.sum()
            (grad,) = torch.autograd.grad(total, [u])
        return value + log_abs_det_jacobian.detach(), {THETA: grad}

    def wrap(self, x: Tensors) -> Tensors:
        """Return the same points with each angle within one period."""
        u = x[THETA]
        columns = [i for i, period in enumerate(self.periods or ()) if period is not None]
        if not columns:
            return x
        angles = self.bijection.inverse(u)[0][:, columns]
        number = torch.tensor(columns, device=u.device)
        return {**x, THETA: u.index_copy(1, number, angles.to(u))}

    def constrain(self, samples: SampleSet) -> SampleSet:
        """Return samples of this target in the coordinates of the original one.

        Log-densities are those of the original coordinates; weights do not change.
        """
        theta, log_abs_det_jacobian = self.bijection.inverse(samples.x[THETA])
        columns: dict[str, Any] = {"x": {**samples.x, THETA: theta}}
        for name in ("log_target", "log_proposal"):
            value = getattr(samples, name)
            columns[name] = None if value is None else value - log_abs_det_jacobian.to(value)
        return replace(samples, **columns)


class UnconstrainedProposal:
    """Draws of a proposal over ``{"theta": (n, d)}`` in free coordinates.

    Args:
        proposal: draws in the original coordinates, with or without a density.
        bijection: the map to free coordinates and back.
    """

    def __init__(self, proposal: Any, bijection: Bijection) -> None:
        self.proposal = proposal
        self.bijection = bijection

    def sample(self, n: int, generator: torch.Generator) -> Tensors:
        """Return ``n`` draws."""
        if getattr(self.proposal, "sample", None) is None:
            return self.sample_and_log_prob(n, generator)[0]
        drawn = self.proposal.sample(n, generator)
        return {**drawn, THETA: self.bijection.forward(drawn[THETA])[0]}

    def sample_and_log_prob(
        self, n: int, generator: torch.Generator
    ) -> tuple[Tensors, torch.Tensor]:
        """Return ``n`` draws and their (n,) log-density in the free coordinates."""
        drawn, log_prob = self.proposal.sample_and_log_prob(n, generator)
        u, log_abs_det_jacobian = self.bijection.forward(drawn[THETA])
        return {**drawn, THETA: u}, log_prob - log_abs_det_jacobian

    def log_prob(self, x: Tensors) -> torch.Tensor:
        """Return the (n,) log-density in the free coordinates, in nats."""
        theta, log_abs_det_jacobian = self.bijection.inverse(x[THETA])
        return self.proposal.log_prob({**x, THETA: theta}) + log_abs_det_jacobian


def free_coordinates(
    target: Any, proposal: Any
) -> tuple[Any, Any, Callable[[SampleSet], SampleSet]]:
    """Return target and proposal without bounds, and the map of samples back to their own ones.

    A target tells its bounds by ``bounds`` (d, 2) and its angles by ``periods``, as a
    :class:`PosteriorTarget` does; one that has neither is returned as it is. The uniform density
    between two bounds becomes a normal, whose slopes lead chains back from far out; beyond a
    logistic one's plateaus they would walk for ever.
    """
    bounds = getattr(target, "bounds", None)
    if bounds is None:
        return target, proposal, lambda samples: samples
    bijection = Bijection(bounds, getattr(target, "periods", None), "probit")
    if bijection.trivial:
        return target, proposal, lambda samples: samples
    free = UnconstrainedTarget(target, bijection)
    return free, UnconstrainedProposal(proposal, bijection), free.constrain


def _value_and_slope(target: Any, theta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the (n,) log-density and its (n, d) gradient, zero where the density is."""
    fused = getattr(target, "log_prob_and_grad", None)
    if fused is not None:
        value, grads = fused({THETA: theta})
        return value.detach(), grads[THETA].to(theta)
    return _slope_of(target.log_prob, theta)


def _slope_of(
    log_prob: Callable[[Tensors], torch.Tensor], theta: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = theta.clone().requires_grad_(True)
    value = log_prob({THETA: leaf})
    # Rows are independent; one of zero density must not put NaN into the sum.
    total = torch.where(torch.isfinite(value), value, torch.zeros_like(value)).sum()
    if not total.requires_grad:
        return value.detach(), torch.zeros_like(theta)
    (slope,) = torch.autograd.grad(total, [leaf])
    return value.detach(), slope
