"""The shipped surrogate of a LISA posterior as a proposal, and the files of its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensci.commands.infer_run import check_packages
from gensci.core.errors import UsageError
from gensci.core.posterior import PosteriorTarget
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.io.figures import Draws
from gensci.io.posterior import PosteriorExtras, write_tables
from gensci.io.posterior_corner import corner_plot
from gensci.io.posterior_summary import Labels
from gensci.loops.lisa_surrogate import ShippedSurrogate, UnfoldedProposal, load_surrogate
from gensci.models.checkpoint import load_checkpoint
from gensci.sims.lisa import PARAMETERS, UNITS
from gensci.systems.lisa import LisaSystem
from gensci.systems.lisa_problem import Problem

_CANDIDATES = 4000


@dataclass(frozen=True)
class LisaSampling:
    """What samples a binary from a surrogate.

    Attributes:
        system: The binary.
        proposal: Draws near its posterior, with their density.
        target: What weighs them: the exact posterior, or the surrogate's.
        digest: Hash of the surrogate's weights.
    """

    system: LisaSystem
    proposal: UnfoldedProposal
    target: PosteriorTarget
    digest: str


def load_lisa(text: str, checkpoint: str, settings: Mapping[str, Any]) -> LisaSampling:
    """The system and what samples it.

    Args:
        text: `mbhb`.
        checkpoint: Name or folder of a surrogate of a LISA posterior.
        settings: Of the system.

    Raises:
        UsageError: The checkpoint is another model, or the observation was taken otherwise than
            the data that it was trained for; both values are named.
        CheckpointError: It is absent, truncated or tampered with.
    """
    check_packages()
    _, config, meta = load_checkpoint(checkpoint)
    if config["class"] != "flow-ensemble" or "setting" not in meta:
        raise UsageError(
            f"checkpoint {checkpoint!r} is no surrogate of a LISA binary",
            "choose another --checkpoint (`gensci list checkpoints`)",
        )
    system = LisaSystem.from_text(text, trained_for=meta.get("problem", "loud"), **settings)
    shipped = load_surrogate(checkpoint)
    system.check(shipped.setting, f"the surrogate {checkpoint}")
    if system.likelihood == "surrogate":
        return LisaSampling(system, shipped.proposal, shipped.target, meta["weights_sha256"])
    target = system.target(_best_point(shipped))
    return LisaSampling(system, shipped.proposal, target, meta["weights_sha256"])


def _best_point(shipped: ShippedSurrogate) -> Tensor:
    """(11,) the most likely of many draws, about which the exact likelihood is heterodyned."""
    theta = shipped.proposal.sample(_CANDIDATES, stream(0, "lisa", "reference"))["theta"]
    return theta[shipped.target.log_prob({"theta": theta}).argmax()]


def lisa_labels(problem: Problem) -> Labels:
    """Names, units, periods and, of an injection, the truth."""
    known = bool(torch.isfinite(problem.truth).all())
    return Labels(
        parameters=PARAMETERS,
        units=tuple("" if unit == "1" else unit for unit in UNITS),
        periods=problem.prior.periods,
        truth=tuple(problem.truth.tolist()) if known else None,
    )


def lisa_writer(system: LisaSystem) -> Callable[[Path, SampleSet], np.ndarray]:
    """What writes `posterior.nc`, `summary.csv` and `corner.png`."""
    labels = lisa_labels(system.problem)

    def write(path: Path, samples: SampleSet) -> np.ndarray:
        prior = system.problem.prior.log_prob(samples.x["theta"])
        verdict = samples.meta["verdict"]
        extras = PosteriorExtras(
            log_likelihood=None if samples.log_target is None else samples.log_target - prior,
            log_prior=prior,
            khat=verdict.get("khat"),
            attributes={"system": "lisa:mbhb", **system.record()},
        )
        write_tables(path, samples, labels, extras, seed=samples.meta["seed"])
        theta, weight = samples.x["theta"].numpy(), samples.weight.numpy()
        corner_plot(path / "corner.png", {system.problem.name: Draws(theta, weight)}, labels)
        return np.arange(len(samples))

    return write
