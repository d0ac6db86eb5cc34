"""The shipped surrogate of a LISA posterior as a proposal, and the files of its samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gensci.core.errors import CheckpointError, UsageError
from gensci.core.results import SampleSet
from gensci.io.figures import Draws
from gensci.io.posterior import PosteriorExtras, write_tables
from gensci.io.posterior_corner import corner_plot
from gensci.io.posterior_summary import Labels
from gensci.models.checkpoint import load_checkpoint
from gensci.models.proposal_flow import ProposalFlow
from gensci.sims.lisa import PARAMETERS, UNITS
from gensci.systems.lisa import IMAGES, LisaSystem
from gensci.systems.lisa_problem import Problem
from gensci.systems.lisa_setting import Setting

_NEEDED = ("problem", "setting", "reference")


def load_lisa(
    text: str, checkpoint: str, settings: Mapping[str, Any]
) -> tuple[LisaSystem, ProposalFlow, torch.Tensor, str]:
    """The system, its proposal, the reference of its likelihood and the hash of the weights.

    Args:
        text: `mbhb`.
        checkpoint: Name or folder of a proposal flow of a LISA posterior.
        settings: Of the system.

    Raises:
        UsageError: The checkpoint is another model, or the observation was taken otherwise than
            the data that it was trained for; both values are named.
        CheckpointError: It is absent, truncated or tampered with.
    """
    _, config, meta = load_checkpoint(checkpoint)
    if config["class"] != "proposal-network":
        raise UsageError(
            f"checkpoint {checkpoint!r} is no posterior of a LISA binary",
            "choose another --checkpoint (`gensci list checkpoints`)",
        )
    missing = [name for name in _NEEDED if name not in meta]
    if missing:
        raise CheckpointError(f"{checkpoint} lacks {', '.join(missing)}", "write it again")
    system = LisaSystem.from_text(text, trained_for=meta["problem"], **settings)
    system.check(Setting(**meta["setting"]), f"the surrogate {checkpoint}")
    proposal = ProposalFlow.load(checkpoint, IMAGES.get(str(meta.get("images"))))
    reference = torch.tensor(meta["reference"], dtype=torch.float64)
    return system, proposal, reference, str(meta["weights_sha256"])


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
