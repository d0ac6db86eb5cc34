"""The frozen LISA problems: one JSON each, shipped with the package."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.core.priors import Prior
from gensci.core.registry import did_you_mean, normalise_name
from gensci.sims.lisa import PARAMETERS, ParameterRangeError
from gensci.sims.lisa.parameters import checked
from gensci.systems.lisa_noise import NoiseKind, noise_kind
from gensci.systems.lisa_setting import Setting

PROBLEMS = ("loud", "loud-noisy", "moderate", "moderate-noisy", "faint", "glitch", "gap")


@dataclass(frozen=True)
class Problem:
    """One injected binary, how it is observed and what is known before.

    Attributes:
        name: a name of `PROBLEMS`.
        description: one line.
        setting: grid, channels, noise model, epoch and frame.
        prior: over `PARAMETERS`.
        truth: (11,) parameters of the injection.
        noise: what disturbs the signal: none, gaussian, glitch or gap.
        seed: of the noise.
        snr: optimal signal-to-noise ratio of the injection over all channels.
    """

    name: str
    description: str
    setting: Setting
    prior: Prior
    truth: Tensor
    noise: NoiseKind
    seed: int
    snr: float


def load_problem(name: str) -> Problem:
    """Return one of the problems shipped with the package.

    Raises:
        UsageError: there is no such problem; the nearest name is offered.
    """
    key = normalise_name(name)
    if key not in PROBLEMS:
        hint = did_you_mean(name, list(PROBLEMS))
        raise UsageError(f"unknown problem {name!r}", f"{hint}choose from: {', '.join(PROBLEMS)}")
    folder = resources.files("gensci.systems") / "lisa_problems"
    return problem_from_json(json.loads((folder / f"{key}.json").read_text(encoding="utf-8")))


def problem_from_json(description: dict[str, Any]) -> Problem:
    """Build a problem from its description; see the JSON files for the keys.

    Raises:
        UsageError: a key is missing, the truth lies outside the prior, or the prior is wider than
            the physical range.
    """
    try:
        truth, snr = description["truth"], float(description["snr"])
        values = torch.tensor([[float(truth[name]) for name in PARAMETERS]], dtype=torch.float64)
        prior = Prior.from_json(description["prior"])
        problem = Problem(
            name=str(description["name"]),
            description=str(description["description"]),
            setting=Setting(**description["setting"]),
            prior=prior,
            truth=values[0],
            noise=noise_kind(description["noise"]),
            seed=int(description["seed"]),
            snr=snr,
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"the problem's description lacks or misspells {error}") from error
    if prior.names != PARAMETERS:
        raise UsageError(
            f"the prior's names are {', '.join(prior.names)}", f"name {', '.join(PARAMETERS)}"
        )
    _check_physical(prior)
    prior.check_inside(values)
    return problem


def _check_physical(prior: Prior) -> None:
    """Refuse bounds at which there is no waveform.

    Raises:
        UsageError: the parameter, its bound and its physical range.
    """
    if not prior.bounds.isfinite().all():
        return  # no bound to check; a draw that has no waveform says so itself
    try:
        checked(prior.bounds.T)
    except ParameterRangeError as error:
        fault = str(error).removeprefix("theta: ").split(";")[0]
        raise UsageError(f"the prior reaches {fault}", "narrow the prior") from error
