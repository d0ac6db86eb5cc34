"""Claim: what an effective sample of each of the registry's posterior samplers costs.

No claim is made of being faster than emcee, which runs beside them: where the density costs
nothing, its differential evolution makes more of a second. Rows of ours are as many as are asked
for, so their effective size cannot exceed that; emcee keeps every step.

Three posteriors with known moments, each in a box prior: a correlated Gaussian of eleven
dimensions, a banana with an angle, and eight separate modes. Each sampler starts from draws of the
prior and runs until it has its rows, warm-up included. Printed are effective samples (bulk ESS of
the slowest coordinate, counted by the same code for all) for each second of CPU and for each
thousand points at which the density was asked, next to R-hat and the largest error of a mean in
standard deviations. A row whose R-hat is large has not converged, and its rates mean nothing.

    python benchmarks/bench_posterior_samplers.py [--rows 4000] [--peer /work/venvs/samplers]

emcee runs in its own environment on the same density in NumPy; it moves by stretches, and by
differential evolution as its authors advise for several modes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))

TARGETS = ("gaussian", "banana", "modes")
SAMPLERS: dict[str, dict[str, Any]] = {
    "tempering": {},
    "nuts": {"num_chains": 64, "warmup": 200},
    "hmc": {"num_chains": 64, "warmup": 200},
    "slice": {"num_chains": 64, "warmup": 100},
    "smc": {},
}
# Until its rows count as independent, tempering walks on; between modes that may take for ever.
BOUNDED: dict[tuple[str, str], dict[str, Any]] = {("tempering", "modes"): {"max_steps": 2000}}
PEERS = ("emcee-stretch", "emcee-de")
PEER_WALKERS, PEER_BURN, PEER_STEPS = 64, 1000, 3000
TWO_PI = 2 * np.pi


class Density:
    """A likelihood in a box, written once for NumPy and for torch.

    Attributes:
        low, high: (d,) the box.
        mean, std: (d,) truth of the quantities that are compared.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        generator = np.random.default_rng(0)
        if name == "gaussian":
            factor = generator.normal(size=(11, 11))
            self.matrix = factor @ factor.T / 11 + 0.05 * np.eye(11)
            self.precision = np.linalg.inv(self.matrix)
            self.low, self.high = np.full(11, -20.0), np.full(11, 20.0)
            self.mean, self.std = np.zeros(11), np.sqrt(np.diag(self.matrix))
            self.log_z = 0.5 * np.linalg.slogdet(TWO_PI * self.matrix)[1] - 11 * np.log(40.0)
        elif name == "banana":
            # y given x is normal about x ** 2 - 1
            self.low, self.high = np.array([-8.0, -10.0]), np.array([8.0, 60.0])
            self.mean, self.std = np.zeros(2), np.array([1.0, np.sqrt(2.25)])
            self.log_z = np.log(TWO_PI * 0.5) - np.log(16.0 * 70.0)
        else:
            corners = np.array(np.meshgrid(*[[-1.0, 1.0]] * 3)).reshape(3, 8).T
            self.centres = corners * np.array([3.0, 4.0, 5.0])
            self.share = np.arange(1.0, 9.0) / 36.0
            self.low, self.high = np.full(3, -10.0), np.full(3, 10.0)
            self.mean = self.share @ self.centres
            self.std = np.sqrt(self.share @ self.centres**2 + 0.0625 - self.mean**2)
            self.log_z = -3 * np.log(20.0)

    def torch_log_likelihood(self) -> Any:
        """The log-likelihood of (n, d) tensors."""
        import torch

        if self.name == "gaussian":
            precision = torch.tensor(self.precision)
            return lambda theta: -0.5 * ((theta @ precision) * theta).sum(1)
        if self.name == "banana":
            return lambda theta: (
                -0.5 * theta[:, 0].square()
                - 2.0 * (theta[:, 1] - theta[:, 0].square() + 1.0).square()
            )
        centres, constant = torch.tensor(self.centres), torch.tensor(self._constant())
        return lambda theta: torch.logsumexp(
            constant - 8.0 * (theta[:, None] - centres).square().sum(-1), 1
        )

    def log_likelihood(self, theta: np.ndarray) -> np.ndarray:
        """The log-likelihood of (n, d) arrays, -inf outside the box."""
        inside = ((theta >= self.low) & (theta <= self.high)).all(1)
        if self.name == "gaussian":
            value = -0.5 * ((theta @ self.precision) * theta).sum(1)
        elif self.name == "banana":
            bent = theta[:, 1] - theta[:, 0] ** 2 + 1.0
            value = -0.5 * theta[:, 0] ** 2 - 2.0 * bent**2
        else:
            square = ((theta[:, None] - self.centres) ** 2).sum(-1)
            value = np.logaddexp.reduce(self._constant() - 8.0 * square, axis=1)
        return np.where(inside, value, -np.inf)

    def _constant(self) -> np.ndarray:
        return np.log(self.share) - 3 * np.log(0.25 * np.sqrt(TWO_PI))


def chains_of(samples: Any) -> Any:
    """(draws, chains, d) of a set of samples; rows of smc count as independent."""
    import torch

    from gensci.samplers.chain_report import chain_table

    theta = samples.x["theta"]
    return torch.stack([chain_table(c, samples.chain) for c in theta.unbind(1)], -1)


def ours(name: str, target: str, rows: int, seed: int) -> dict[str, Any]:
    """One run of a sampler of the registry."""
    import torch

    from gensci.core.posterior import PosteriorTarget, PriorProposal
    from gensci.core.priors import BoxPrior
    from gensci.samplers import make_sampler
    from gensci.samplers.chain_report import worst_ranks

    torch.set_num_threads(1)
    density = Density(target)
    prior = BoxPrior([f"p{i}" for i in range(len(density.low))], density.low, density.high)
    posterior = PosteriorTarget(prior, density.torch_log_likelihood())
    start = time.process_time()
    settings = SAMPLERS[name] | BOUNDED.get((name, target), {})
    samples = make_sampler(name, settings).run(
        posterior, PriorProposal(prior), rows, seed=seed, batch_size=4096
    )
    seconds = time.process_time() - start
    verdict = samples.meta["verdict"]
    if samples.chain is None:
        ess, rhat = min(verdict["ess"], verdict["effective_ancestors"]), None
    else:
        rhat, ess = worst_ranks(chains_of(samples))
    theta = samples.x["theta"].numpy()
    mean = samples.weight.numpy() @ theta
    return row(name, target, density, seconds, posterior.calls, ess, rhat, mean) | {
        "log_z_error": None if verdict["log_z"] is None else verdict["log_z"] - density.log_z
    }


def row(
    name: str, target: str, density: Density, seconds: float, calls: int, ess: float,
    rhat: float | None, mean: np.ndarray,
) -> dict[str, Any]:  # fmt: skip
    """What is recorded of a run."""
    return {
        "sampler": name,
        "target": target,
        "cpu_seconds": seconds,
        "density_points": calls,
        "ess": ess,
        "rhat": rhat,
        "mean_error": float((np.abs(mean - density.mean) / density.std).max()),
        "ess_per_second": ess / seconds,
        "ess_per_thousand_points": 1000.0 * ess / calls,
    }


def peer_chain(name: str, target: str, seed: int, out: Path) -> None:
    """Run emcee and keep its chain; this part runs in the peer's environment."""
    import emcee

    density = Density(target)
    dim = len(density.low)
    state = np.random.default_rng(seed).uniform(density.low, density.high, (PEER_WALKERS, dim))
    moves = None
    if name == "emcee-de":
        moves = [(emcee.moves.DEMove(), 0.8), (emcee.moves.DESnookerMove(), 0.2)]
    start = time.process_time()
    sampler = emcee.EnsembleSampler(
        PEER_WALKERS, dim, density.log_likelihood, vectorize=True, moves=moves
    )
    np.random.seed(seed)
    sampler.run_mcmc(state, PEER_BURN + PEER_STEPS)
    seconds = time.process_time() - start
    np.savez(
        out,
        chain=sampler.get_chain(discard=PEER_BURN),
        seconds=seconds,
        calls=PEER_WALKERS * (PEER_BURN + PEER_STEPS + 1),
        version=emcee.__version__,
    )


def peer(name: str, target: str, seed: int, python: Path) -> dict[str, Any]:
    """One run of emcee, judged by the same code as the others."""
    import tempfile

    import torch

    from gensci.samplers.chain_report import worst_ranks

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "chain.npz"
        command = [str(python), __file__, "--peer-run", name, target, str(seed), str(out)]
        subprocess.run(command, check=True)
        kept = np.load(out)
        chain, seconds, calls = kept["chain"], float(kept["seconds"]), int(kept["calls"])
        version = str(kept["version"])
    rhat, ess = worst_ranks(torch.tensor(chain))
    mean = chain.reshape(-1, chain.shape[-1]).mean(0)
    found = row(name, target, Density(target), seconds, calls, ess, rhat, mean)
    return found | {"log_z_error": None, "version": version}


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as text."""
    head = f"{'target':<9} {'sampler':<14} {'ESS':>7} {'R-hat':>6} {'CPU s':>7} {'ESS/s':>8} "
    lines = [head + f"{'ESS/1000 points':>16} {'mean error':>10} {'ln Z error':>10}"]
    for r in rows:
        rhat = "-" if r["rhat"] is None else f"{r['rhat']:.2f}"
        log_z = "-" if r["log_z_error"] is None else f"{r['log_z_error']:+.2f}"
        lines.append(
            f"{r['target']:<9} {r['sampler']:<14} {r['ess']:7.0f} {rhat:>6} "
            f"{r['cpu_seconds']:7.1f} {r['ess_per_second']:8.0f} "
            f"{r['ess_per_thousand_points']:16.2f} {r['mean_error']:10.3f} {log_z:>10}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run every pair that is not yet in the results, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer", type=Path, default=Path("/work/venvs/samplers"))
    parser.add_argument("--peer-run", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer_run:
        name, target, seed, out = options.peer_run
        return peer_chain(name, target, int(seed), Path(out))
    from bench_environment import RESULTS, environment, write_results

    path = RESULTS / "posterior-samplers.json"
    asked = {"rows": options.rows, "seed": options.seed, "settings": SAMPLERS}
    kept = json.loads(path.read_text()) if path.exists() else {}
    rows = kept["runs"] if kept.get("asked") == asked else []
    python = options.peer / "bin" / "python"
    for target in TARGETS:
        for name in (*SAMPLERS, *(PEERS if python.exists() else ())):
            if any((r["target"], r["sampler"]) == (target, name) for r in rows):
                continue
            if name in SAMPLERS:
                rows.append(ours(name, target, options.rows, options.seed))
            else:
                rows.append(peer(name, target, options.seed, python))
            write_results(path.stem, {**environment(1), "asked": asked, "runs": rows})
    print(table(rows))


if __name__ == "__main__":
    main()
