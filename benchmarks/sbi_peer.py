"""The peer of bench_snl: neural likelihood by sbi, run by the Python of its own environment.

    /work/venvs/sbi/bin/python benchmarks/sbi_peer.py problem.npz draws.npz

bench_snl writes the problem (prior box, simulations, observation) and reads the draws; nothing of
gensci is imported here, so sbi needs no place in our environment. Settings are sbi's defaults
(masked autoregressive flow, batches of 200, patience of 20 epochs); draws are made as in sbibm:
vectorised slice sampling, 100 chains, every tenth state, 25 steps of warm-up, chains started from
10,000 resampled candidates.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

CHAINS, THIN, WARMUP, CANDIDATES = 100, 10, 25, 10_000


def timed(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """The result of ``work`` and its seconds, by the wall and of this process."""
    wall, cpu = time.monotonic(), time.process_time()
    result = work()
    return result, {
        "wall_seconds": time.monotonic() - wall,
        "cpu_seconds": time.process_time() - cpu,
    }


def infer(problem: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, Any]]:
    """Train sbi's neural likelihood on the simulations and draw from its posterior."""
    import sbi
    from sbi.inference import NLE
    from sbi.utils import BoxUniform

    torch.manual_seed(int(problem["seed"]))
    low, high, theta, x, observation = (
        torch.from_numpy(problem[name]).float()
        for name in ("low", "high", "theta", "x", "observation")
    )
    trainer = NLE(prior=BoxUniform(low, high), show_progress_bars=False)
    trainer.append_simulations(theta, x)
    estimator, training = timed(trainer.train)
    posterior = trainer.build_posterior(
        estimator,
        sample_with="mcmc",
        mcmc_method="slice_np_vectorized",
        mcmc_parameters={
            "num_chains": CHAINS,
            "thin": THIN,
            "warmup_steps": WARMUP,
            "init_strategy": "resample",
            "init_strategy_parameters": {"num_candidate_samples": CANDIDATES},
        },
    )
    posterior.set_default_x(observation[None])
    draws, sampling = timed(
        lambda: posterior.sample((int(problem["num_samples"]),), show_progress_bars=False)
    )
    epochs = trainer.summary["epochs_trained"][-1]
    report = {"sbi": sbi.__version__, "torch": torch.__version__, "epochs": int(epochs)}
    return draws.numpy(), {**report, "training": training, "sampling": sampling}


def main() -> None:
    source, target = (Path(name).resolve() for name in sys.argv[1:3])
    os.chdir(tempfile.mkdtemp())  # sbi writes a folder of logs where it stands
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with np.load(source) as problem:
        draws, report = infer(dict(problem))
    np.savez(target, theta=draws, report=json.dumps(report))


if __name__ == "__main__":
    main()
