"""From what was typed, or handed over in Python, to an inference."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gensci.commands.infer_inputs import (
    as_prior,
    check_observation,
    load_function,
    load_observation,
    load_prior,
    parse_simulations,
)
from gensci.commands.infer_plan import Plan, Subject
from gensci.commands.infer_run import Say
from gensci.commands.infer_simulator import infer_here, infer_into
from gensci.core.errors import UsageError
from gensci.core.results import SampleSet


def infer(
    simulate: Callable[..., Any] | str,
    prior: Any,
    observation: Any,
    *,
    log_likelihood: Callable[..., Any] | str | None = None,
    out: str | Path | None = None,
    say: Say | None = None,
    **options: Any,
) -> SampleSet:
    """Infer the parameters of a simulator; the Python counterpart of `gensci infer`.

    Args:
        simulate: From (d,) parameters to data of the observation's shape, or `module:function`. A
            parameter named `seed`, `rng` or `generator` is given one of its own.
        prior: A `gensci.core.priors.Prior`, its JSON as a dictionary, or a file of it.
        observation: Array of any shape, or a file.
        log_likelihood: Exact, from (d,) parameters to nats; it corrects the posterior.
        out: A run folder that is written and continued; nothing is written without one.
        say: Is told a line on each round, for example `print`.
        **options: As for the command: `rounds`, `simulations`, `num_samples`, `seed`, `jobs` (by
            default 0: no other processes), `time_limit`, `batched`, `array`, `predictive`,
            `calibration`, `local_calibration`, `max_failed`, `retry_failed`, `loop_settings`,
            `model_settings`, `sampler_settings`,
            `exact_settings`.

    Returns:
        Draws `x["theta"]` (n, d) of the posterior with their weights; `meta` holds `parameters`,
        `counts`, `verdict` and what the checks found.

    Raises:
        GensciError: See `gensci.commands.infer_simulator.infer_into`.
    """
    spelled = {}
    if isinstance(simulate, str):
        spelled["simulator"], simulate = simulate, load_function("simulate", simulate)
    if isinstance(log_likelihood, str):
        spelled["log_likelihood"] = log_likelihood
        log_likelihood = load_function("log_likelihood", log_likelihood)
    if isinstance(observation, str | Path):
        spelled["observation"], observation = str(observation), load_observation(observation)
    data = check_observation(observation)
    subject = Subject(simulate, as_prior(prior), data, log_likelihood, spelled)
    plan = _plan(**options)
    tell = say or _silent
    if out is None:
        return infer_here(subject, plan, tell)
    return infer_into(Path(out), subject, plan, sys.argv[1:], tell)


def infer_simulator_text(
    simulator: str | None,
    prior: str | None,
    observation: str | None,
    log_likelihood: str | None,
    *,
    out: str | None,
    lisa_settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> int:
    """What `gensci infer --simulator` does.

    Raises:
        GensciError: See `gensci.commands.infer_simulator.infer_into`.
    """
    if lisa_settings:
        raise UsageError(
            f"--lisa.{next(iter(lisa_settings))} is a setting of --system lisa:mbhb", "leave it out"
        )
    needed = {"--simulator": simulator, "--prior": prior, "--observation": observation}
    missing = [name for name, value in needed.items() if value is None]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} must be given",
            "or infer a shipped problem by --system lisa:mbhb --problem loud",
        )
    plan = _plan(**options)
    spelled = {"simulator": simulator, "prior": prior, "observation": observation}
    if log_likelihood is not None:
        spelled["log_likelihood"] = log_likelihood
    subject = Subject(
        load_function("--simulator", simulator),
        load_prior(prior),
        load_observation(observation),
        None if log_likelihood is None else load_function("--log-likelihood", log_likelihood),
        spelled,
    )
    folder = Path(out) if out else Path("results", Path(observation).stem)
    infer_into(folder, subject, plan, sys.argv[1:], _shown)
    return 0


def infer_lisa_text(
    system: str,
    problem: str | None,
    observation: str | None,
    prior: str | None,
    foreign: Mapping[str, Any],
    common: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> int:
    """What `gensci infer --system lisa:mbhb` does.

    Args:
        system: As typed.
        problem: Name of a shipped problem, or None.
        observation: A file, or None for the one of the problem.
        prior: A file, or None for the one of the problem.
        foreign: Options that belong to simulators, by name.
        common: Options that both have.
        settings: Of the LISA pipeline.

    Raises:
        GensciError: See `gensci.commands.infer_lisa.infer_lisa_into`.
    """
    for name, value in foreign.items():
        if value:
            raise UsageError(f"{name} does not go with --system {system}", "leave one of them out")
    from gensci.commands.infer_lisa import infer_lisa_run

    infer_lisa_run(system, problem, observation, prior, common, settings, sys.argv[1:], _shown)
    return 0


def _plan(**options: Any) -> Plan:
    if "simulations" in options:
        text = options["simulations"]
        parsed = parse_simulations(text) if isinstance(text, str | int) else tuple(text)
        options = {**options, "simulations": parsed}
        if isinstance(parsed, tuple):
            options.setdefault("rounds", len(parsed))
    return Plan.of(**options)


def _shown(line: str) -> None:
    print(line, flush=True)


def _silent(line: str) -> None:
    del line
