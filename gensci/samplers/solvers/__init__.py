"""Solvers of diffusion heads: importing this package registers all of them in ``SOLVERS``."""

from gensci.samplers.solvers import ddim, ddpm, dpm_solver, flow_ode, heun
from gensci.samplers.solvers.base import GridSolver, Solver, make_solver
from gensci.samplers.solvers.guidance import GuidedByCondition, GuidedDenoiser

__all__ = [
    "GridSolver",
    "GuidedByCondition",
    "GuidedDenoiser",
    "Solver",
    "ddim",
    "ddpm",
    "dpm_solver",
    "flow_ode",
    "heun",
    "make_solver",
]
