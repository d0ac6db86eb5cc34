"""What `gensci infer` is asked for a simulator: the subject, and how to go about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gensci.commands.infer_calibration import check_number
from gensci.commands.infer_inputs import settings_of
from gensci.core.errors import UsageError
from gensci.core.priors import Prior
from gensci.loops.fitting import FITTING, WALKING
from gensci.loops.reweighting import ReweightSettings
from gensci.loops.rounds import LoopSettings
from gensci.loops.simulate_rows import SimulationSettings
from gensci.models.neural_likelihood import LikelihoodSettings
from gensci.samplers.tempering import Tempering


@dataclass(frozen=True)
class Subject:
    """What the user brings.

    Attributes:
        simulate: From parameters to data.
        prior: Over the parameters.
        observation: Data of the simulator's shape.
        log_likelihood: Exact, of the observation, up to a constant; None where there is none.
        spelled: How each was named, for the record.
    """

    simulate: Callable[..., Any]
    prior: Prior
    observation: np.ndarray
    log_likelihood: Callable[..., Any] | None = None
    spelled: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Tensor:
        """The observation as (dim,) float64."""
        return torch.from_numpy(np.ascontiguousarray(self.observation)).reshape(-1).double()

    def facts(self) -> dict[str, Any]:
        """What of it decides the numbers; the simulator's own code may be mended between calls."""
        digest = hashlib.sha256(self.data.numpy().tobytes()).hexdigest()
        return {
            "simulator": self.spelled.get("simulator", getattr(self.simulate, "__name__", "")),
            "prior": self.prior.to_json(),
            "observation_shape": list(self.observation.shape),
            "observation_sha256": digest,
            "log_likelihood": self.spelled.get("log_likelihood", bool(self.log_likelihood)),
        }


@dataclass(frozen=True)
class Plan:
    """How to infer.

    Attributes:
        loop: Of the rounds.
        model: Of the networks.
        walks: Of the sampler that draws from surrogates.
        exact: How an exact likelihood corrects, where there is one.
        calls: How the simulator is called.
        predictive: Simulations from the posterior, to be held against the observation.
        calibration: Runs over the prior, by which the surrogate of the first round is judged.
        local_calibration: Runs about the observation, by which the last one is.
        retry_failed: Simulate again what failed in an unfinished round.
        seed: None for one that varies, or that of the run to be continued.
    """

    loop: LoopSettings = field(default_factory=lambda: LoopSettings(rounds=4))
    model: LikelihoodSettings = FITTING
    walks: Tempering = WALKING
    exact: ReweightSettings = field(default_factory=ReweightSettings)
    calls: SimulationSettings = field(default_factory=lambda: SimulationSettings(jobs=0))
    predictive: int = 200
    calibration: int = 0
    local_calibration: int = 0
    retry_failed: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        check_number("--calibration", self.calibration)
        check_number("--local-calibration", self.local_calibration)
        for name in ("predictive", "calibration", "local_calibration"):
            if getattr(self, name) < 0:
                spelled = name.replace("_", "-")
                raise UsageError(f"--{spelled} {getattr(self, name)}", "give 0 or more")

    @classmethod
    def of(
        cls,
        *,
        rounds: int = 4,
        simulations: int | tuple[int, ...] = 1000,
        num_samples: int = 10_000,
        max_failed: float = 0.5,
        loop_settings: Mapping[str, Any] | None = None,
        model_settings: Mapping[str, Any] | None = None,
        sampler_settings: Mapping[str, Any] | None = None,
        exact_settings: Mapping[str, Any] | None = None,
        time_limit: float = 60.0,
        jobs: int | None = 0,
        batched: bool = False,
        array: str = "numpy",
        **rest: Any,
    ) -> Plan:
        """A plan from options as they are typed.

        Raises:
            UsageError: One cannot be used.
        """
        fixed: dict[str, Any] = {
            "rounds": rounds, "simulations": simulations, "num_samples": num_samples,
            "max_failed": max_failed,
        }  # fmt: skip
        own = sorted(fixed.keys() & {text.replace("-", "_") for text in loop_settings or {}})
        if own:
            raise UsageError(f"--loop.{own[0]}", f"give --{own[0].replace('_', '-')} instead")
        loop = settings_of(LoopSettings(**fixed), "loop", loop_settings or {})
        model = settings_of(FITTING, "model", model_settings or {})
        walks = settings_of(WALKING, "sampler", sampler_settings or {})
        exact = settings_of(ReweightSettings(), "exact", exact_settings or {})
        calls = SimulationSettings(time_limit=time_limit, jobs=jobs, batched=batched, array=array)
        return cls(loop, model, walks, exact, calls, **rest)

    def facts(self) -> dict[str, Any]:
        """What of it decides the numbers of the rounds."""
        loop = {f"loop.{k}": v for k, v in asdict(self.loop).items() if k != "max_failed"}
        model = {f"model.{k}": v for k, v in asdict(self.model).items()}
        walks = {f"sampler.{k}": v for k, v in asdict(self.walks).items()}
        calls = {"batched": self.calls.batched, "array": self.calls.array}
        return {**loop, **model, **walks, "exact": asdict(self.exact), **calls}
