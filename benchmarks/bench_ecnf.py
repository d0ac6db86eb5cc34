"""What an exact autoregressive density buys: the continuous flow beside the flow of gensci.

    OMP_NUM_THREADS=1 python benchmarks/bench_ecnf.py --ecnf runs/peptide-ecnf/checkpoint

Both draw weighted samples of the same peptides by importance sampling, one after the other in one
process: effective samples, and samples and effective samples per second of processor time, which
other work on the machine changes least. Beside them stand what
the continuous flow pays for its density: field and divergence per conformation, the same divergence
by 3N forward derivatives as published continuous flows need, and how far log q moves when the
integration takes four times as many steps (an error that enters the weights).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from bench_environment import environment, write_results

from gensci.models.checkpoint import load_checkpoint
from gensci.models.proposal import FlowProposal, load_proposal
from gensci.samplers import make_sampler
from gensci.systems.peptide import PeptideSystem


def weighted(system: PeptideSystem, proposal: FlowProposal, n: int, seed: int) -> dict[str, Any]:
    """Effective samples of n importance samples and the processor seconds they took."""
    target = system.target("cpu", torch.float32)
    start = time.process_time()
    samples = make_sampler("importance").run(target, proposal, n, seed=seed, shard_size=2000)
    seconds = time.process_time() - start
    verdict = samples.meta["verdict"]
    energy = system.force_field.energy(samples.x["positions"]).double()
    weight = samples.log_weight.double().softmax(0)
    spread = samples.log_weight[samples.log_weight.isfinite()].double()
    quarter, half = spread.quantile(torch.tensor([0.25, 0.75]).double()).tolist()
    return {
        "samples": n,
        "seconds": seconds,
        "ess": verdict["ess_fraction"],
        "khat": verdict["khat"],
        "counted": int(samples.log_weight.isfinite().sum()) / n,
        "samples_per_second": n / seconds,
        "effective_per_second": n * verdict["ess_fraction"] / seconds,
        "log_weight_quartiles": half - quarter,
        "median_energy": float(energy.median()),
        "weighted_energy": float((weight * energy).sum()),
    }


def milliseconds(call: Callable[[], Any], conformations: int) -> float:
    """Processor time of a call per conformation: the least of three."""
    times = []
    for _ in range(3):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return 1e3 * min(times) / conformations


@torch.no_grad()
def costs(proposal: FlowProposal, seed: int, n: int = 16) -> dict[str, float]:
    """Milliseconds per conformation of the field and of its divergence in two ways."""
    flow, cond = proposal.network, proposal.cond
    terms = flow.topology(cond)
    x = flow.noise(n, cond, torch.Generator().manual_seed(seed))
    t = x.new_tensor([0.5])
    basis = torch.eye(x[0].numel(), dtype=x.dtype).reshape(-1, 1, *x.shape[1:])

    def derivatives() -> torch.Tensor:
        def along(v: torch.Tensor) -> torch.Tensor:
            moved = torch.func.jvp(lambda y: flow.field(y, t, terms), (x,), (v.expand_as(x),))
            return (moved[1] * v).sum((1, 2))

        return torch.func.vmap(along)(basis).sum(0)

    _, exact = flow.field.with_divergence(x, t, terms)
    gap = float((derivatives() - exact).abs().max())
    return {
        "field_ms": milliseconds(lambda: flow.field(x, t, terms), n),
        "with_divergence_ms": milliseconds(lambda: flow.field.with_divergence(x, t, terms), n),
        "with_derivatives_ms": milliseconds(derivatives, n),
        "divergence_gap": gap,
    }


def errors(proposal: FlowProposal, seed: int, n: int = 32) -> dict[str, float]:
    """Of log q: against the density read backwards, and against four times as many steps."""
    flow, cond = proposal.network, proposal.cond
    x, log_q = flow.sample_and_log_prob(n, cond, torch.Generator().manual_seed(seed))
    back = flow.log_prob(x, cond)
    steps = flow.num_steps
    flow.num_steps = 4 * steps
    finer = flow.log_prob(x, cond)
    flow.num_steps = steps
    return {
        "log_q_round_trip": float((back - log_q).abs().median()),
        "log_q_steps": float((finer - log_q).abs().median()),
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    print(
        f"{'peptide':8} {'flow':16} {'samples':>7} {'counted':>7} {'ESS':>7} {'k-hat':>6} "
        f"{'samples/s':>10} {'effective/s':>12} {'quartiles':>10} {'median U':>10} {'<U>':>9}"
    )
    for r in rows:
        khat = "-" if r["khat"] is None else f"{r['khat']:.2f}"
        print(
            f"{r['name']:8} {r['flow']:16} {r['samples']:7d} {r['counted']:7.1%} {r['ess']:7.2%} "
            f"{khat:>6} {r['samples_per_second']:10.1f} {r['effective_per_second']:12.3f} "
            f"{r['log_weight_quartiles']:10.1f} {r['median_energy']:10.1f} "
            f"{r['weighted_energy']:9.1f}"
        )
    print("counted: of the right hand, with finite weight; quartiles: of log-weights, nats apart")
    print("U: kJ/mol, of those that count")


def print_costs(row: dict[str, Any]) -> None:
    print(
        f"\n{row['name']}: field {row['field_ms']:.2f} ms, with exact divergence "
        f"{row['with_divergence_ms']:.2f} ms, by forward derivatives "
        f"{row['with_derivatives_ms']:.2f} ms per conformation\n"
        f"log q: {row['log_q_round_trip']:.3f} nats from the density read backwards, "
        f"{row['log_q_steps']:.3f} from four times as many steps (medians)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ecnf", required=True, help="checkpoint of the continuous flow")
    parser.add_argument("--flow", default="peptide-small", help="checkpoint to hold it against")
    parser.add_argument("--names", default="AA", help="comma-separated")
    parser.add_argument("-n", type=int, default=500, help="samples of the continuous flow")
    parser.add_argument("--flow-samples", type=int, default=2000, help="samples of the other")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--result", default="ecnf", help="name of the JSON file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows, price = [], []
    for name in arguments.names.split(","):
        system = PeptideSystem.from_text(name)
        sizes = {arguments.ecnf: arguments.n, arguments.flow: arguments.flow_samples}
        for checkpoint, n in sizes.items():
            proposal = load_proposal(checkpoint, system.peptide, "cpu")
            flow = load_checkpoint(checkpoint)[1]["class"]
            row = weighted(system, proposal, n, arguments.seed)
            rows.append({"name": name, "flow": flow, "checkpoint": checkpoint, **row})
            if checkpoint == arguments.ecnf:
                parts = costs(proposal, arguments.seed) | errors(proposal, arguments.seed)
                price.append({"name": name, **parts})
    print_table(rows)
    for row in price:
        print_costs(row)
    trained = load_checkpoint(arguments.ecnf)[2]
    kept = ("steps", "metrics", "weights_sha256", "trained_residues")
    record = {"rows": rows, "price": price, "trained": {k: trained.get(k) for k in kept}}
    write_results(arguments.result, {**environment(arguments.threads), **record})


if __name__ == "__main__":
    main()
