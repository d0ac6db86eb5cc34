"""The ten tasks of the field's benchmark of inference by simulation.

Lueckmann et al. 2021, arXiv:2101.04653. Written from the definitions, batched over parameter rows.
"""

from __future__ import annotations

from .bernoulli import BERNOULLI_GLM, BERNOULLI_GLM_RAW
from .definition import InferenceTask, TaskError
from .gaussians import GAUSSIAN_LINEAR, GAUSSIAN_LINEAR_UNIFORM, GAUSSIAN_MIXTURE, TWO_MOONS
from .integrator import IntegrationError, integrate
from .populations import LOTKA_VOLTERRA, SIR
from .references import benchmark_folder, load_observation, load_reference, load_truth
from .slcp import SLCP, SLCP_DISTRACTORS

TASKS: dict[str, InferenceTask] = {
    task.name: task
    for task in (
        TWO_MOONS,
        GAUSSIAN_LINEAR,
        GAUSSIAN_LINEAR_UNIFORM,
        SLCP,
        SLCP_DISTRACTORS,
        LOTKA_VOLTERRA,
        SIR,
        BERNOULLI_GLM,
        BERNOULLI_GLM_RAW,
        GAUSSIAN_MIXTURE,
    )
}


def load_task(name: str) -> InferenceTask:
    """Return a task by name.

    Raises:
        TaskError: no task has the name.
    """
    if name not in TASKS:
        raise TaskError(f"no task is called {name!r}: the tasks are {', '.join(TASKS)}")
    return TASKS[name]


__all__ = [
    "TASKS",
    "InferenceTask",
    "IntegrationError",
    "TaskError",
    "benchmark_folder",
    "integrate",
    "load_observation",
    "load_reference",
    "load_task",
    "load_truth",
]
