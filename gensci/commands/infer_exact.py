"""A surrogate's posterior, corrected by the exact likelihood that a user brings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gensci.commands.infer_inputs import UserLogLikelihood
from gensci.core.posterior import LogLikelihood, PosteriorTarget
from gensci.core.priors import Prior
from gensci.core.protocols import Store
from gensci.core.results import SampleSet
from gensci.core.weights import LogZ
from gensci.loops.reweighting import ReweightSettings, Say, report, reweight
from gensci.loops.simulation_store import read_text, text_tensor

_PIECE = 500
"""Points after whose evaluation their likelihoods are kept."""


@dataclass(frozen=True)
class Exact:
    """The corrected posterior.

    Attributes:
        posterior: Weighted draws, or those of a chain of the exact posterior.
        log_likelihood: (n,) nats, of its rows.
        verdict: Efficiency, k-hat, ln Z, why there is a chain, and what to make of them.
        calls: Exact evaluations and those of the surrogate.
    """

    posterior: SampleSet
    log_likelihood: Tensor
    verdict: dict[str, Any]
    calls: dict[str, int]

    @property
    def evidence(self) -> LogZ | None:
        """Ln Z and its error."""
        value, error = self.verdict["log_z"], self.verdict["log_z_error"]
        return None if value is None else LogZ(value, float("nan") if error is None else error)


class Remembered:
    """A likelihood whose values are kept, so that a killed run asks for no point twice.

    Args:
        likelihood: Of (n, d) points.
        store: Keeps the values of every call with many points.
    """

    def __init__(self, likelihood: UserLogLikelihood, store: Store) -> None:
        self.likelihood, self.store, self.number = likelihood, store, 0

    def __call__(self, theta: Tensor) -> Tensor:
        """The (n,) log-likelihoods."""
        if len(theta) < _PIECE:  # a chain's step, which is over in no time
            return self.likelihood(theta)
        return torch.cat([self._piece(rows) for rows in theta.split(_PIECE)])

    def _piece(self, theta: Tensor) -> Tensor:
        name = f"exact-{self.number:04d}"
        self.number += 1
        known = self.store.load_state(name)
        if known is None or not torch.equal(known["theta"], theta):
            known = {"theta": theta, "value": self.likelihood(theta)}
            self.store.save_state(name, known)
        return known["value"]

    def forget(self) -> None:
        """Drop what was kept."""
        for number in range(self.number):
            self.store.drop_state(f"exact-{number:04d}")


def correct(
    draws: SampleSet,
    prior: Prior,
    surrogate: LogLikelihood,
    exact: UserLogLikelihood,
    settings: ReweightSettings,
    store: Store,
    seed: int,
    say: Say,
) -> Exact:
    """Weigh draws of a proposal, fitted to the surrogate's posterior, by the exact one.

    Args:
        draws: Of the surrogate's posterior.
        prior: Of the parameters.
        surrogate: Its log-likelihood.
        exact: The likelihood.
        settings: Sizes.
        store: Keeps what was weighed, and the result.
        seed: Of all randomness.
        say: Told a line on each step.
    """
    known = store.load_state("exact")
    if known is None:
        remembered = Remembered(exact, store)
        result = reweight(
            draws, PosteriorTarget(prior, remembered), surrogate=PosteriorTarget(prior, surrogate),
            settings=settings, seed=seed, say=say,
        )  # fmt: skip
        samples = result.samples.select(torch.isfinite(result.samples.log_weight))
        told = report(result, settings.num_draws)
        if result.fallback is None:
            told["advice"] = f"corrected by the exact likelihood; {told['advice']}"
        else:
            told["advice"] = f"{result.fallback}: these are draws of a short exact chain instead"
        note = {"verdict": {**told, "efficiency": result.efficiency}, "calls": result.calls}
        known = {**samples.to_tensors(), "note": text_tensor(note)}
        store.save_state("exact", known)
        remembered.forget()
    note = read_text(known["note"])
    columns = {name: value for name, value in known.items() if name != "note"}
    posterior = SampleSet.from_tensors(dict(sorted(columns.items())))
    value = posterior.log_target - prior.log_prob(posterior.x["theta"])
    return Exact(posterior, value, note["verdict"], note["calls"])
