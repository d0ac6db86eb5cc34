"""Whether our simulators are the benchmark's: chains on the exact likelihood against its draws.

    python benchmarks/snl_judging.py                  # all tasks, observation 1
    python benchmarks/snl_judging.py --tasks two_moons,sir --observations 1,2

Chains on our likelihood, started from half of the reference draws, must stay indistinguishable from
the other half.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from gensci.core.priors import Prior
from gensci.core.random import stream
from gensci.metrics.classifier import c2st
from gensci.sims.inference_tasks import (
    TASKS,
    InferenceTask,
    load_observation,
    load_reference,
    load_task,
)


def task_prior(task: InferenceTask) -> Prior:
    """The task's prior as an object that can be drawn from."""
    return Prior.from_json({**task.prior, "names": list(task.parameters)})


def evolve(
    log_prob: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor, steps: int,
    generator: torch.Generator,
) -> torch.Tensor:  # fmt: skip
    """Move chains by differential evolution (ter Braak 2006, doi:10.1007/s11222-006-8769-1).

    Halves move in turn, each along differences of the other half, so the joint law is exact.

    Args:
        log_prob: (n, d) -> (n,).
        start: (n, d), n even.
        steps: of all chains.
        generator: random numbers.

    Returns:
        (n, d) last states.
    """
    dim, half = start.shape[1], len(start) // 2
    groups = [start[:half].clone(), start[half : 2 * half].clone()]
    values = [log_prob(group) for group in groups]
    for step in range(steps):
        for mine, other in ((0, 1), (1, 0)):
            pairs = torch.randint(half, (2, half), generator=generator)
            gamma = 1.0 if step % 5 == 4 else 2.38 / (2 * dim) ** 0.5
            shrink = torch.rand(half, 1, generator=generator, dtype=start.dtype)
            move = gamma * shrink * (groups[other][pairs[0]] - groups[other][pairs[1]])
            trial = groups[mine] + move
            value = log_prob(trial)
            uniform = torch.rand(half, generator=generator, dtype=start.dtype)
            keep = uniform.log() < value - values[mine]
            groups[mine] = torch.where(keep[:, None], trial, groups[mine])
            values[mine] = torch.where(keep, value, values[mine])
    return torch.cat(groups)


def exact_log_prob(task: InferenceTask, observation: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The exact log-posterior, not normalised: -inf outside the prior."""
    prior, x = task_prior(task), load_observation(task, observation)

    def log_prob(theta: torch.Tensor) -> torch.Tensor:
        value = prior.log_prob(theta)
        inside = value.isfinite()
        value[inside] += task.log_likelihood(theta[inside], x)
        return value

    return log_prob


def judge_simulator(task: InferenceTask, observation: int, steps: int) -> dict[str, float]:
    """Hold chains on our likelihood against reference draws that they did not start from."""
    reference = load_reference(task, observation)
    order = torch.randperm(len(reference), generator=stream(1, "halves"))
    first, second = reference[order].chunk(2)
    log_prob = exact_log_prob(task, observation)
    ends = evolve(log_prob, first, steps, stream(1, task.name, observation))
    return {"floor": c2st(second, first), "exact": c2st(second, ends)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--observations", default="1")
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'task':24} obs  C2ST of halves  C2ST of exact chains  CPU s")
    for name in arguments.tasks.split(","):
        for observation in map(int, arguments.observations.split(",")):
            begin = time.process_time()
            result = judge_simulator(load_task(name), observation, arguments.steps)
            spent = time.process_time() - begin
            print(
                f"{name:24} {observation:3}  {result['floor']:14.3f}  {result['exact']:20.3f}"
                f"  {spent:5.0f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
