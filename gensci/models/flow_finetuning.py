"""Gradient steps that adapt a flow to one system from weighted rows with energies.

The loss has three terms, each a mean over rows and in nats per coordinate: maximum likelihood of
rows drawn in proportion to their weights; the dispersion of the log-weights, ``(log q - log p +
log Z)^2``, on those rows and on the flow's own latest draws, which the Boltzmann density makes
zero; and a trust region, ``(log q - log q_pretrained)^2 / 2``. Needs no training package.

References: Tan et al. (2025), arXiv:2508.18175 (self-improvement with a trust region);
arXiv:2602.03729 (2026, log-dispersion regularisation); Richter et al. (2020), arXiv:2010.10436
(VarGrad: the term is right for rows of any origin).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gensci.core.errors import GensciError, UsageError
from gensci.core.protocols import Tensors
from gensci.core.random import stream
from gensci.core.resampling import resample


@dataclass(frozen=True)
class FitSettings:
    """How a flow is adapted in one round.

    Attributes:
        steps: of the optimiser.
        rows: weighted rows of each step; as many of the flow's own draws join them.
        learning_rate: the highest; it rises over ``warmup`` steps and falls to zero as a cosine.
        warmup: steps.
        likelihood: weight of maximum likelihood.
        dispersion: weight of the dispersion of the log-weights.
        clip: nats, beyond which a log-weight counts linearly in it.
        trust: weight of the trust region.
        gradient_norm: at which gradients are clipped.
        ema: decay of the averaged weights, which are what a round gives.
    """

    steps: int = 100
    rows: int = 64
    learning_rate: float = 5e-4
    warmup: int = 10
    likelihood: float = 1.0
    dispersion: float = 0.2
    clip: float = 10.0
    trust: float = 0.01
    gradient_norm: float = 1.0
    ema: float = 0.95

    def __post_init__(self) -> None:
        for name in ("steps", "rows"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(f"{name}={value!r} is not usable", "give a whole number from 1 on")
        for name in ("learning_rate", "clip", "gradient_norm"):
            self._check(name, getattr(self, name) > 0, "a number above 0")
        for name in ("likelihood", "dispersion", "trust", "warmup"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("ema", 0 <= self.ema < 1, "0 or more and below 1")

    def _check(self, name: str, fine: bool, wanted: str) -> None:
        value = getattr(self, name)
        if not (fine and math.isfinite(value)):
            raise UsageError(f"{name}={value} is not usable", f"give {wanted}")


@dataclass(frozen=True)
class Lesson:
    """What a round learns from.

    Attributes:
        x: (n, atoms, 3) nm.
        log_target: (n,) nats; ``log_weight`` (n,) of the rows; ``log_pretrained`` (n,) nats, their
            density under the flow before any finetuning.
        own: (m,) row numbers of the flow's own latest draws.
        log_z: of the target, as far as it is known.
    """

    x: Tensor
    log_target: Tensor
    log_weight: Tensor
    log_pretrained: Tensor
    own: Tensor
    log_z: float


class Terms(NamedTuple):
    """The terms of a loss, nats and nats squared, all of them scalars."""

    likelihood: Tensor
    dispersion: Tensor
    trust: Tensor


def loss_terms(
    log_q: Tensor, lesson: Lesson, rows: Tensor, num_weighted: int, clip: float
) -> Terms:
    """The terms of the loss.

    Args:
        log_q: (k,) nats, of some rows of the lesson under the flow that learns.
        lesson: of the round.
        rows: (k,) which rows they are; the first ``num_weighted`` were drawn in proportion to the
            weights, the others from the flow's own draws.
        num_weighted: see ``rows``.
        clip: nats.
    """
    target, before = (v[rows].to(log_q) for v in (lesson.log_target, lesson.log_pretrained))
    residual = log_q - target + lesson.log_z
    spread = 2 * F.huber_loss(residual, torch.zeros_like(residual), delta=clip)
    trust = 0.5 * (log_q - before).square().mean()
    return Terms(-log_q[:num_weighted].mean(), spread, trust)


def weighted_nll(log_q: Tensor, log_weight: Tensor) -> Tensor:
    """Self-normalised importance estimate of the cross-entropy from p to q: a scalar.

    What drawing rows in proportion to their weights has as its expectation.

    Args:
        log_q: (n,) nats.
        log_weight: (n,).
    """
    return -(torch.softmax(log_weight, 0).to(log_q) * log_q).sum()


class Fitting:
    """One round of gradient steps, whose state can be saved and taken up again.

    Args:
        network: has ``log_prob(x, cond)``; its parameters change.
        cond: conditioning tensors.
        lesson: rows to learn from.
        settings: how.
        seed: of the choice of rows, with the number of the ``round``.
    """

    def __init__(
        self,
        network: nn.Module,
        cond: Tensors,
        lesson: Lesson,
        settings: FitSettings,
        seed: int,
        round: int,
    ) -> None:
        self.network, self.cond, self.lesson, self.settings = network, cond, lesson, settings
        self.seed, self.round, self.taken = seed, round, 0
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimizer = torch.optim.AdamW(
            self.parameters, settings.learning_rate, (0.9, 0.95), weight_decay=0.0
        )

    def run(
        self,
        save: Callable[[Tensors], None] | None = None,
        seconds: float = 30.0,
        tell: Callable[[int], None] | None = None,
    ) -> Tensors:
        """Take the steps that are left; the averaged weights by the names of the state dict.

        Args:
            save: is given the state now and then.
            seconds: between two calls of ``save``.
            tell: is told how many steps are taken.

        Raises:
            GensciError: the loss is not finite.
        """
        saved = time.monotonic()
        while self.taken < self.settings.steps:
            self._step()
            if tell:
                tell(self.taken)
            if save and time.monotonic() - saved >= seconds and self.taken < self.settings.steps:
                save(self.state())
                saved = time.monotonic()
        averaged = dict(zip(self._names(), self.average, strict=True))
        full = {**self.network.state_dict(), **averaged}
        return {name: value.detach().clone() for name, value in full.items()}

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        s = self.settings
        rise = min(1.0, (step + 1) / max(1.0, s.warmup))
        return s.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / s.steps))

    def _rows(self) -> Tensor:
        generator = stream(self.seed, "finetune", self.round, "step", self.taken)
        lesson, count = self.lesson, self.settings.rows
        weighted = resample("systematic", lesson.log_weight, count, generator)
        if not len(lesson.own):
            return weighted
        own = torch.randint(len(lesson.own), (count,), generator=generator)
        return torch.cat((weighted, lesson.own[own]))

    def _step(self) -> None:
        s, rows = self.settings, self._rows()
        parameter = self.parameters[0]
        x = self.lesson.x[rows].to(device=parameter.device, dtype=parameter.dtype)
        log_q = self.network.log_prob(x, self.cond)
        terms = loss_terms(log_q, self.lesson, rows, s.rows, s.clip)
        loss = s.likelihood * terms.likelihood + s.dispersion * terms.dispersion
        loss = (loss + s.trust * terms.trust) / (3 * x.shape[1])
        if not bool(torch.isfinite(loss)):
            raise GensciError(
                f"the loss of round {self.round} is not finite",
                "lower --train.learning_rate",
            )
        self.optimizer.param_groups[0]["lr"] = self.rate(self.taken)
        self.optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, s.gradient_norm)
        if bool(torch.isfinite(norm)):  # a step from a batch that overflows would be lost for good
            self.optimizer.step()
        self.taken += 1
        with torch.no_grad():
            # the first steps are forgotten sooner, as in the schedule of Polyak averages
            decay = min(s.ema, (1 + self.taken) / (10 + self.taken))
            torch._foreach_lerp_(self.average, self.parameters, 1 - decay)

    def _names(self) -> list[str]:
        return [name for name, p in self.network.named_parameters() if p.requires_grad]

    def state(self) -> Tensors:
        """Weights, their average and the optimiser's moments, named."""
        tensors = {"taken": torch.tensor(self.taken)}
        for name, p, mean in zip(self._names(), self.parameters, self.average, strict=True):
            tensors |= {f"weights/{name}": p.detach(), f"average/{name}": mean}
            for key, value in self.optimizer.state[p].items():
                tensors[f"{key}/{name}"] = value
        return tensors

    @torch.no_grad()
    def restore(self, tensors: Tensors) -> None:
        """Take up what ``state`` returned."""
        self.taken = int(tensors["taken"])
        moments = {}
        for index, name in enumerate(self._names()):
            self.parameters[index].copy_(tensors[f"weights/{name}"])
            self.average[index].copy_(tensors[f"average/{name}"])
            moments[index] = {
                key: tensors[f"{key}/{name}"] for key in ("step", "exp_avg", "exp_avg_sq")
            }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
