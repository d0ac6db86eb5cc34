"""LISA black-hole binaries as a system: `lisa:mbhb`, one of the shipped problems and its data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.registry import SYSTEMS, did_you_mean
from gensci.systems.lisa_likelihood import HeterodynedLikelihood, LisaTarget
from gensci.systems.lisa_observation import Observation, load_observation, make_observation
from gensci.systems.lisa_problem import Problem, load_problem
from gensci.systems.lisa_setting import Setting
from gensci.systems.settings import typed_settings

NODES = 128
LIKELIHOODS = ("exact", "surrogate")


@SYSTEMS.register(
    "lisa",
    proposal="surrogate",
    sampler="importance",
    checkpoint="lisa-loud",
    num_samples=20_000,
    example="lisa:mbhb",
)
@dataclass(frozen=True)
class LisaSystem:
    """One observation of a massive black-hole binary.

    Attributes:
        problem: What is known before, and the truth of an injection.
        observation: The data.
        source: Where they come from: `problem`, or a file.
        nodes: Frequencies of the heterodyned likelihood in each channel.
        likelihood: What weighs: exact or surrogate.
    """

    problem: Problem
    observation: Observation
    source: str
    nodes: int = NODES
    likelihood: str = "exact"

    @classmethod
    def from_text(cls, text: str, trained_for: str = "loud", **settings: Any) -> LisaSystem:
        """Read the system.

        Args:
            text: `mbhb`.
            trained_for: Problem of the surrogate, taken where no setting names one.
            settings: `problem`, `observation` (a file), `nodes`, `likelihood`; text or values.

        Raises:
            UsageError: A setting is unknown, or the observation was taken otherwise than the
                problem's; both values are named.
        """
        del text  # there is one kind of binary

        def declare(parser: Any) -> None:
            parser.add_argument("--problem", type=str, default=trained_for)
            parser.add_argument("--observation", type=str, default="")
            parser.add_argument("--nodes", type=int, default=NODES)
            parser.add_argument("--likelihood", type=str, default="exact")

        chosen = typed_settings(settings, "a LISA binary", declare)
        if chosen["nodes"] < 8:
            raise UsageError(f"--system.nodes {chosen['nodes']}", "give 8 or more")
        if chosen["likelihood"] not in LIKELIHOODS:
            hint = did_you_mean(chosen["likelihood"], list(LIKELIHOODS))
            raise UsageError(
                f"--system.likelihood {chosen['likelihood']!r}",
                f"{hint}choose from: {', '.join(LIKELIHOODS)}",
            )
        problem = load_problem(chosen["problem"])
        source = chosen["observation"]
        observation = load_observation(source) if source else make_observation(problem)
        observation.check(problem.setting, f"problem {problem.name!r}")
        return cls(problem, observation, source or "problem", chosen["nodes"], chosen["likelihood"])

    def check(self, setting: Setting, owner: str) -> None:
        """Refuse a surrogate that was trained for data taken otherwise.

        Raises:
            UsageError: The first difference, with both values.
        """
        self.observation.check(setting, owner)

    def target(self, reference: Tensor) -> LisaTarget:
        """Prior times exact likelihood, heterodyned about a point near the best one."""
        theta = torch.as_tensor(reference, dtype=torch.float64)
        likelihood = HeterodynedLikelihood(self.observation, theta, self.nodes)
        return LisaTarget(self.problem.prior, likelihood)

    def record(self) -> dict[str, Any]:
        """What decides the numbers, for `run.json`."""
        return {
            "system.problem": self.problem.name,
            "system.observation": self.source,
            "system.nodes": self.nodes,
            "system.likelihood": self.likelihood,
        }
