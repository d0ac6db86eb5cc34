"""`gensci infer`: the posterior of a simulator, or of a LISA observation."""

from __future__ import annotations

from typing import Any


# Not `infer`: jsonargparse looks the name up in `gensci` too, where it would import torch.
def run_infer(
    simulator: str | None = None,
    prior: str | None = None,
    observation: str | None = None,
    system: str | None = None,
    problem: str | None = None,
    rounds: int | None = None,
    simulations: str | None = None,
    num_samples: int | None = None,
    log_likelihood: str | None = None,
    out: str | None = None,
    seed: int | None = None,
    jobs: int | None = None,
    time_limit: float = 60.0,
    batched: bool = False,
    array: str = "numpy",
    predictive: int | None = None,
    calibration: int = 0,
    local_calibration: int = 0,
    max_failed: float = 0.5,
    retry_failed: bool = False,
    threads: int | None = None,
    loop_settings: dict[str, Any] | None = None,
    model_settings: dict[str, Any] | None = None,
    sampler_settings: dict[str, Any] | None = None,
    exact_settings: dict[str, Any] | None = None,
    lisa_settings: dict[str, Any] | None = None,
) -> int:
    """Infer the parameters of a simulator from one observation by sequential neural likelihood.

    A neural likelihood is trained on simulations, in rounds about what the round before found. An
    exact likelihood, where there is one, corrects the posterior by importance weights. The same
    command again continues. Writes posterior.nc (ArviZ), summary.csv, samples.npz, corner.png,
    diagnostics/ and run.json with all counts.

    Args:
        simulator: package.module:function or file.py:function; simulate(theta) returns one row of
            data of the observation's shape. A parameter named seed, rng or generator gets one.
        prior: file.json, or package.module:prior; for example {"kind": "box", "names": ["a", "b"],
            "low": [0, 0], "high": [1, 2]}; kinds: box, normal, lognormal, product.
        observation: x.npy, .npz, .csv or .txt; event.h5 with --system lisa:mbhb.
        system: lisa:mbhb in place of --simulator.
        problem: for lisa:mbhb, one of the shipped problems: loud, loud-noisy, moderate,
            moderate-noisy, faint, glitch, gap.
        rounds: at most so many; by default 4, fewer where the posterior moves no more.
        simulations: of each round, by default 1000; or one number for each, as 2000,1000,1000.
        num_samples: draws of the posterior, by default 10000.
        log_likelihood: package.module:function, exact; log_likelihood(theta) returns nats.
        out: run folder, by default results/NAME.
        seed: of all randomness; by default it varies, and is written to run.json.
        jobs: worker processes; by default one for each core, 0 for none.
        time_limit: seconds for one call of the simulator.
        batched: whether the functions take (n, d) rows and return n answers.
        array: what they are given, numpy or torch.
        predictive: simulations from the posterior to hold against the observation, by default 200.
        calibration: simulations over the prior that judge the surrogate of the first round by SBC,
            TARP, expected coverage and local C2ST; 300 tell much, by default none.
        local_calibration: simulations about the observation that judge the last surrogate.
        max_failed: largest share of failed simulations in a round.
        retry_failed: simulate again what failed in an unfinished round.
        threads: CPU threads; by default torch decides.
        loop_settings: further settings of the rounds; easier as --loop.defensive 0.2.
        model_settings: of the networks; easier as --model.layers 3.
        sampler_settings: of the draws from surrogates; easier as --sampler.num_walkers 500.
        exact_settings: of the correction by --log-likelihood; easier as --exact.num_draws 5000.
        lisa_settings: of the LISA pipeline; easier as --lisa.NAME value.

    Returns:
        Exit status 0.
    """
    # imported late, so that `gensci infer --help` does not wait for torch
    from gensci.commands.device import set_threads
    from gensci.commands.inferring import infer_lisa_text, infer_simulator_text

    set_threads(threads)
    given = {
        "rounds": rounds, "simulations": simulations, "num_samples": num_samples,
        "predictive": predictive,
    }  # fmt: skip
    options = {name: value for name, value in given.items() if value is not None}
    common = {"out": out, "seed": seed, **options}
    if system is not None or problem is not None:
        own = {
            "--simulator": simulator, "--log-likelihood": log_likelihood,
            "--loop": loop_settings, "--model": model_settings, "--sampler": sampler_settings,
            "--exact": exact_settings, "--calibration": calibration,
            "--local-calibration": local_calibration,
        }  # fmt: skip
        return infer_lisa_text(
            system or "lisa:mbhb", problem, observation, prior, own, common, lisa_settings or {}
        )
    return infer_simulator_text(
        simulator, prior, observation, log_likelihood,
        **common, jobs=jobs, time_limit=time_limit, batched=batched, array=array,
        calibration=calibration, local_calibration=local_calibration, max_failed=max_failed,
        retry_failed=retry_failed, loop_settings=loop_settings, model_settings=model_settings,
        sampler_settings=sampler_settings, exact_settings=exact_settings,
        lisa_settings=lisa_settings,
    )  # fmt: skip
