"""Reference posteriors of the LISA problems: two independent exact parallel-tempering runs each.

Every run searches the data from its own seed, tempers from the wide density about what it found to
prior times heterodyned likelihood, and keeps thinned rows, ln Z, counts and times in
`references/lisa/NAME-RUN.npz` (float32). Where its walkers disagree at the end, a flow is fitted to
their rows and they are tempered again from that flow, up to three times. Runs that are there are
not made again.

    python benchmarks/bench_lisa_reference.py loud faint moderate
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_environment import environment
from torch import Tensor

from gensci.core.posterior import PosteriorTarget
from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.io.run_folder import RunFolder
from gensci.models.proposal_flow import ProposalFlow, ProposalSettings
from gensci.samplers.tempering import Tempering
from gensci.systems.lisa_chart import SmoothChart
from gensci.systems.lisa_coordinates import COPIES, SimplePrior, from_simple, to_simple
from gensci.systems.lisa_likelihood import HeterodynedLikelihood
from gensci.systems.lisa_observation import make_observation
from gensci.systems.lisa_problem import load_problem
from gensci.systems.lisa_search import find_reference
from gensci.systems.lisa_wide import WideProposal, wide_proposal

FOLDER = Path(__file__).parent / "references" / "lisa"
ROWS, WALKERS, WARMUP, THINNING = 20_000, 400, 400, 40
DISAGREE = 1.03
FLOW = ProposalSettings(layers=4, hidden=64, steps=2500, prior_share=0.02)
BATCH = 20_000


def main() -> None:
    """Make the runs that are missing and print a table of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("problems", nargs="*", default=["loud", "faint", "moderate"])
    parser.add_argument("--runs", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--thinning", type=int, default=THINNING)
    parser.add_argument("--work", type=Path, default=Path("/tmp/lisa-reference"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    print(
        f"{'run':14s} {'rows':>6s} {'ESS':>7s} {'R-hat':>6s} {'ln Z':>18s} {'calls':>9s} "
        f"{'CPU s':>7s}"
    )
    for run in chosen.runs:
        for name in chosen.problems:
            path = FOLDER / f"{name}-{run}.npz"
            if not path.exists():
                save(path, *reference(name, run, chosen.thinning, chosen.work))
            describe(path)


def reference(
    name: str, run: int, thinning: int, work: Path
) -> tuple[Tensor, SampleSet, dict[str, Any]]:
    """One run: (n, 11) binaries, each one of its equal copies at random, their rows, its record."""
    problem = load_problem(name)
    observation = make_observation(problem)
    begun = time.monotonic(), time.process_time()
    best, searched = find_reference(observation, problem.prior, stream(run, "reference", name))
    likelihood = HeterodynedLikelihood(observation, best, 64)
    setting = problem.setting
    prior = SimplePrior(problem.prior, setting)
    wide = wide_proposal(likelihood, prior, to_simple(best[None], setting)[0])
    target = PosteriorTarget(prior, lambda x: likelihood(from_simple(x, setting)), wide.images)
    store = RunFolder(work / f"{name}-{run}", {"command": "reference", "settings": thinning,
                                               "seed": run})  # fmt: skip
    store.claim()
    sampler = Tempering(num_walkers=WALKERS, warmup=WARMUP, thinning=thinning)
    samples = sampler.run(target, wide, ROWS, seed=1000 + run, store=store, batch_size=BATCH)
    pilot = samples.meta["verdict"]
    for number in range(1, 4):
        rhat = samples.meta["verdict"]["rhat"]
        if rhat <= DISAGREE:
            break
        print(f"{name}-{run}: R-hat {rhat:.3f}, again from a flow", flush=True)
        samples = again(samples, target, wide, 1000 * number + run)
    verdict = samples.meta["verdict"]
    copies = torch.randint(COPIES, (ROWS,), generator=stream(0, "copies", name, run))
    theta = from_simple(samples.x["theta"], setting, copies)
    error = likelihood.error_bound(theta[:: ROWS // 100])
    told = {
        "ess": verdict["ess"], "rhat": verdict["rhat"], "log_z": verdict["log_z"],
        "log_z_error": verdict["log_z_error"], "calls": likelihood.calls + searched,
        "temperatures": verdict["temperatures"], "exchange": verdict["exchange"],
        "acceptance": verdict["acceptance"], "heterodyne_error": error, "thinning": thinning,
        "first": {key: pilot[key] for key in ("ess", "rhat", "log_z", "log_z_error")},
        "wall_seconds": round(time.monotonic() - begun[0], 1),
        "cpu_seconds": round(time.process_time() - begun[1], 1),
        "environment": environment(1),
    }  # fmt: skip
    return theta, samples, told


def again(samples: SampleSet, target: PosteriorTarget, wide: WideProposal, seed: int) -> SampleSet:
    """Exact tempering from a flow fitted to the rows, which feeds fresh places at every step."""
    images = wide.images if len(wide.images.skies) > 1 else None
    flow = ProposalFlow.fit(
        samples.x["theta"], wide.prior, blocks=samples.chain, images=images,
        chart=SmoothChart.of(wide.prior), settings=FLOW, seed=seed,
    )  # fmt: skip
    sampler = Tempering(num_walkers=WALKERS, warmup=40, thinning=12)
    return sampler.run(target, flow, ROWS, seed=seed, batch_size=BATCH)


def save(path: Path, theta: Tensor, samples: SampleSet, told: dict[str, Any]) -> None:
    """Write binaries and the number of each one's walker."""
    rows, chain = theta.numpy().astype(np.float32), samples.chain.numpy().astype(np.int16)
    np.savez_compressed(path, theta=rows, chain=chain, told=np.array(json.dumps(told)))


def describe(path: Path) -> None:
    """One line on a run."""
    with np.load(path) as file:
        told, rows = json.loads(str(file["told"])), len(file["theta"])
    log_z = f"{told['log_z']:.3f} +- {told['log_z_error']:.3f}"
    print(
        f"{path.stem:14s} {rows:6d} {told['ess']:7.0f} {told['rhat']:6.3f} {log_z:>18s} "
        f"{told['calls']:9d} {told['cpu_seconds']:7.0f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
