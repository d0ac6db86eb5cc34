"""A proposal fitted to draws from a posterior, for importance weights against the exact one.

Symmetric modes are folded into one before the fit and given back with their weights; a chart may
take spikes of the prior away; a share of the draws comes from the prior; the flow's own tails are
broadened (`ProposalNetwork`). Draws of a chain are held out in blocks: rows next to each other are
alike, and would hide overfitting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor

from gensci.core.errors import UsageError
from gensci.core.priors import Prior
from gensci.core.protocols import Tensors
from gensci.core.random import stream
from gensci.models.checkpoint import load_network, save_checkpoint
from gensci.models.mode_folding import Folding, Images
from gensci.nn.proposal_network import ProposalNetwork

ROWS_AT_ONCE = 20_000
BLOCKS = 20
FEWEST_ROWS = 100


class Chart(Protocol):
    """Coordinates in which the density of one mode is smoother."""

    def fitted(self, theta: Tensor) -> Chart:
        """The chart that suits (n, d) folded points."""

    def numbers(self) -> list[float]:
        """What `restored` makes the fitted chart of again."""

    def restored(self, numbers: list[float]) -> Chart:
        """The chart of `numbers`."""

    def limits(
        self, bounds: Tensor, periods: tuple[float | None, ...]
    ) -> tuple[Tensor, tuple[float | None, ...]]:
        """Bounds and periods of charted points, by those of the parameters."""

    def forward(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Charted points (n, d), and ln |d charted / d theta| (n,)."""

    def inverse(self, charted: Tensor) -> Tensor:
        """The (n, d) points of charted ones; all charted points within `limits` have one."""


@dataclass(frozen=True)
class ProposalSettings:
    """Sizes of the flow and length of its training.

    Args:
        layers: Spline layers.
        hidden: Units of each masked network.
        blocks: Residual blocks of each.
        bins: Of each spline.
        tail_bound: Whitened distance beyond which splines are the identity.
        prior_share: Of the draws, from the prior.
        broad_share: Of the others, from a broader base.
        broad_scale: Its standard deviation.
        validation: Share of the blocks held out.
        epochs: Most passes over the draws.
        steps: Most optimiser steps.
        batch: Draws per step.
        learning_rate: Highest.
        patience: Checks without a better validation before training ends.
    """

    layers: int = 4
    hidden: int = 64
    blocks: int = 1
    bins: int = 8
    tail_bound: float = 5.0
    prior_share: float = 0.01
    broad_share: float = 0.1
    broad_scale: float = 1.5
    validation: float = 0.1
    epochs: int = 100
    steps: int = 3000
    batch: int = 512
    learning_rate: float = 3e-3
    patience: int = 12


class ProposalFlow:
    """An exact, normalised density over `{"theta": (n, d)}` that can be drawn from.

    Args:
        network: The flow of one mode.
        prior: What a share of the draws comes from; all draws lie within its bounds.
        prior_share: That share.
        folding: The symmetries, None where there are none.
        mode_weights: (k,) of the images.
        chart: What the network's coordinates are, fitted; None for the parameters themselves.
        report: What the training told.
    """

    def __init__(
        self,
        network: ProposalNetwork,
        prior: Prior,
        prior_share: float,
        folding: Folding | None = None,
        mode_weights: Tensor | None = None,
        chart: Chart | None = None,
        report: dict[str, Any] | None = None,
    ) -> None:
        self.network = network.double().eval().requires_grad_(False)
        self.prior, self.prior_share, self.folding = prior, prior_share, folding
        self.chart = chart
        self.mode_weights = torch.ones(1).double() if mode_weights is None else mode_weights
        self.report = dict(report or {})

    @classmethod
    def fit(
        cls,
        theta: Tensor,
        prior: Prior,
        *,
        weights: Tensor | None = None,
        blocks: Tensor | None = None,
        images: Images | None = None,
        chart: Chart | None = None,
        settings: ProposalSettings | None = None,
        seed: int = 0,
    ) -> ProposalFlow:
        """Fit to draws.

        Args:
            theta: (n, d) draws within the prior; of a chain, thinned and in the chain's order.
            prior: Of the parameters.
            weights: (n,) of the draws; equal where absent.
            blocks: (n,) whole numbers of the groups that are held out together, such as chains;
                twenty stretches of neighbouring rows where absent.
            images: Symmetries between modes, identity first; they keep volumes and form a group.
            chart: Of one mode, to be fitted.
            settings: Sizes and lengths.
            seed: The same seed and draws give the same bits.

        Raises:
            UsageError: A draw lies outside the prior, or there are fewer than 100.
        """
        from gensci.models import flow_training

        settings = settings or ProposalSettings()
        theta = prior.wrap(prior.check_columns(torch.as_tensor(theta)))
        prior.check_inside(theta)
        if len(theta) < FEWEST_ROWS:
            raise UsageError(
                f"{len(theta)} draws to fit a proposal to", f"give {FEWEST_ROWS} or more"
            )
        weights = _normalised(weights, len(theta))
        folding = Folding(images, prior.bounds, prior.periods, theta) if images else None
        folded, shares = theta, None
        if folding is not None:
            folded, modes = folding.fold(theta)
            counts = torch.zeros(folding.number).double().index_add(0, modes, weights)
            shares = (counts + 1) / (counts + 1).sum()  # no mode is shut out
        charted, limits = folded, (prior.bounds, prior.periods)
        if chart is not None:
            chart = chart.fitted(folded)
            charted, limits = chart.forward(folded)[0], chart.limits(*limits)
        network = _network(charted, *limits, settings, seed)
        _whiten(network, charted, weights)
        y = network.whitened(charted)[0].detach().float()
        held = _held_blocks(blocks, len(theta), settings.validation, seed)
        w = weights.float()
        train_y, train_w = y[~held], w[~held]

        def loss(rows: Tensor, generator: Generator) -> Tensor:
            values = network.whitened_log_prob(train_y[rows])
            return -(values * train_w[rows]).sum() / train_w[rows].sum().clamp_min(1e-12)

        def validate() -> Tensor:
            return -(network.whitened_log_prob(y[held]) * w[held]).sum() / w[held].sum()

        schedule = flow_training.Schedule(
            epochs=settings.epochs, steps=settings.steps, batch=settings.batch,
            learning_rate=settings.learning_rate, patience=settings.patience, ema=0.995,
        )  # fmt: skip
        parameters = list(network.flow.flows.parameters())
        outcome = flow_training.train(parameters, loss, validate, schedule, len(train_y), seed)
        report = {"loss": outcome.loss, "steps": outcome.steps, "draws": len(theta)}
        report |= {"mode_weights": None if shares is None else shares.tolist()}
        report |= {"settings": asdict(settings)}
        return cls(network, prior, settings.prior_share, folding, shares, chart, report)

    def log_prob(self, x: Tensors) -> Tensor:
        """(n,) float64 log-densities in nats; -inf outside the prior."""
        theta = self.prior.wrap(self.prior.check_columns(x["theta"]))
        parts = [self._flow_log_prob(rows) for rows in theta.split(ROWS_AT_ONCE)]
        flow = torch.cat(parts) if parts else theta.new_zeros(0)
        prior = self.prior.log_prob(theta)
        if self.prior_share > 0:
            share = self.prior_share
            flow = torch.logaddexp(flow + math.log1p(-share), prior + math.log(share))
        return torch.where(prior > -torch.inf, flow, -torch.inf)

    def sample(self, n: int, generator: Generator) -> Tensors:
        """{"theta": (n, d)} float64 draws."""
        points = self.network.sample(n, generator)
        theta = self.prior.wrap(points if self.chart is None else self.chart.inverse(points))
        if self.folding is not None:
            modes = torch.multinomial(self.mode_weights, n, True, generator=generator)
            theta = self.prior.wrap(self.folding.images(theta)[modes, torch.arange(n)])
        if self.prior_share > 0:
            free = torch.rand(n, 1, generator=generator, dtype=torch.float64)
            theta = torch.where(free < self.prior_share, self.prior.sample(n, generator), theta)
        return {"theta": theta}

    def sample_and_log_prob(self, n: int, generator: Generator) -> tuple[Tensors, Tensor]:
        """Draws and their (n,) log-densities."""
        x = self.sample(n, generator)
        return x, self.log_prob(x)

    def save(self, folder: str | Path, meta: dict[str, Any] | None = None) -> Path:
        """Write a checkpoint. Symmetries and the chart are code, given again to `load`."""
        about = {
            "prior": self.prior.to_json(),
            "prior_share": self.prior_share,
            "mode_weights": self.mode_weights.tolist(),
            "folded": self.folding is not None,
            "chart": None if self.chart is None else self.chart.numbers(),
            "report": self.report,
        }
        config = {"class": "proposal-network", "settings": self.network.settings}
        return save_checkpoint(folder, self.network.state_dict(), config, {**(meta or {}), **about})

    @classmethod
    def load(
        cls,
        source: str | Path,
        images: Images | None = None,
        prior: Prior | None = None,
        chart: Chart | None = None,
    ) -> ProposalFlow:
        """Read a checkpoint.

        Args:
            source: A folder or the name of a shipped checkpoint.
            images: The symmetries it was fitted with.
            prior: What it was fitted with, where `Prior.from_json` does not know its kind.
            chart: The kind that it was fitted with; one fitted without any is left so.

        Raises:
            CheckpointError: As `gensci.models.checkpoint.load_network`.
            UsageError: It was fitted with symmetries or a chart and none are given.
        """
        network, meta = load_network(source)
        if not isinstance(network, ProposalNetwork):
            raise UsageError(f"{source} holds no proposal", "give a checkpoint of a proposal flow")
        if meta["folded"] and images is None:
            raise UsageError(f"the proposal {source} is folded", "give the images it was made with")
        prior = Prior.from_json(meta["prior"]) if prior is None else prior
        shares = torch.tensor(meta["mode_weights"], dtype=torch.float64)
        numbers = meta.get("chart")
        if numbers is not None and chart is None:
            raise UsageError(f"the proposal {source} is charted", "give the chart it was made with")
        return cls.restored(
            network, prior, meta["prior_share"], shares, meta["report"],
            images=images if meta["folded"] else None, chart=chart, numbers=numbers,
        )  # fmt: skip

    @classmethod
    def restored(
        cls,
        network: ProposalNetwork,
        prior: Prior,
        prior_share: float,
        mode_weights: Tensor,
        report: dict[str, Any],
        *,
        images: Images | None,
        chart: Chart | None,
        numbers: list[float] | None,
    ) -> ProposalFlow:
        """The flow of what is kept of it, of the symmetries and of the kind of chart.

        Args:
            network: Of one mode.
            prior: Of the parameters.
            prior_share: Of the draws.
            mode_weights: (k,) of the images.
            report: Of the training.
            images: None where it was not folded.
            chart: Its kind.
            numbers: Of the fitted chart; None where it was fitted without.
        """
        fitted = None if chart is None or numbers is None else chart.restored(numbers)
        folding = None
        if images is not None:
            points = network.double().sample(200, stream(0, "folding"))
            points = points if fitted is None else fitted.inverse(points)
            folding = Folding(images, prior.bounds, prior.periods, prior.wrap(points))
        return cls(network, prior, prior_share, folding, mode_weights, fitted, report)

    def _flow_log_prob(self, theta: Tensor) -> Tensor:
        """(n,) log-densities of the flow with all its modes."""
        if self.folding is None:
            return self._mode_log_prob(theta)
        images = self.folding.images(theta)
        every = [
            self._mode_log_prob(self.prior.wrap(images[back])) + share.log()
            for back, share in zip(self.folding.inverse.tolist(), self.mode_weights, strict=True)
        ]
        return torch.stack(every).logsumexp(0)

    def _mode_log_prob(self, theta: Tensor) -> Tensor:
        """(n,) log-densities of the network alone, over the parameters."""
        if self.chart is None:
            return self.network.log_prob(theta)
        charted, log_det = self.chart.forward(theta)
        return self.network.log_prob(charted) + log_det


def _normalised(weights: Tensor | None, n: int) -> Tensor:
    """Weights that add up to their number.

    Raises:
        UsageError: Another length, negative or not finite.
    """
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    weights = torch.as_tensor(weights, dtype=torch.float64)
    if weights.shape != (n,) or not (weights.isfinite() & (weights >= 0)).all():
        raise UsageError(f"weights of {n} draws", "give one finite number from zero up per draw")
    return weights * (n / weights.sum())


def _network(
    theta: Tensor,
    limits: Tensor,
    periods: Sequence[float | None],
    settings: ProposalSettings,
    seed: int,
) -> ProposalNetwork:
    """An untrained network whose periods are cut opposite the circular means."""
    bounds: list[list[float | None]] = []
    ends = limits.tolist()
    for i, ((low, high), period) in enumerate(zip(ends, periods, strict=True)):
        if period is not None:
            angle = theta[:, i] * (2 * math.pi / period)
            mean = torch.atan2(angle.sin().mean(), angle.cos().mean()) * period / math.tau
            low, high = float(mean) - period / 2, float(mean) + period / 2
        bounds.append([None if math.isinf(low) else low, None if math.isinf(high) else high])
    return ProposalNetwork(
        bounds, list(periods), layers=settings.layers, hidden=settings.hidden,
        blocks=settings.blocks, bins=settings.bins, tail_bound=settings.tail_bound,
        broad_share=settings.broad_share, broad_scale=settings.broad_scale, seed=seed,
    )  # fmt: skip


def _whiten(network: ProposalNetwork, theta: Tensor, weights: Tensor) -> None:
    """Location and matrix from weighted moments of the charted draws."""
    u, _ = network.charted(theta)
    share = (weights / weights.sum())[:, None]
    location = (share * u).sum(0)
    centred = u - location
    covariance = (share * centred).T @ centred
    ridge = 1e-12 * covariance.diagonal().clamp_min(1e-300).diag()
    factor = torch.linalg.cholesky(covariance + ridge)
    network.whiten(location, torch.linalg.inv(factor).T)


def _held_blocks(blocks: Tensor | None, n: int, share: float, seed: int) -> Tensor:
    """(n,) bool, whole blocks."""
    if blocks is None:
        blocks = torch.arange(n) * BLOCKS // n
    names = torch.unique(torch.as_tensor(blocks))
    if len(names) < 2:
        raise UsageError("all draws belong to one block", "give two or more, or none")
    number = min(max(1, round(share * len(names))), len(names) - 1)
    order = torch.randperm(len(names), generator=stream(seed, "blocks"))
    return torch.isin(torch.as_tensor(blocks), names[order[:number]])
