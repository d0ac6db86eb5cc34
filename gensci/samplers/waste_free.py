"""Waste-free moves: every state of a chain is a particle.

Reference: Dau and Chopin (2022), arXiv:2011.02328.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from gensci.core.results import join_rows
from gensci.samplers.evaluate import num_rows, take


def num_chains(count: int, num_moves: int) -> int:
    """Return how many chains of ``num_moves`` moves and a start hold ``count`` particles."""
    return -(-count // (num_moves + 1))


def moves_to_fill(state: Any) -> int:
    """Return the moves of all chains that make the particles which a population lacks."""
    return -(-(state.num_rows - num_rows(state.x)) // state.num_chains)


def front(state: Any) -> Any:
    """Return the population of the last states of the chains that go on.

    Args:
        state: a population whose row r is of chain ``r % num_chains``; ``grad`` of the last states.
    """
    count = num_rows(state.x)
    going = min(state.num_chains, state.num_rows - count)
    rows = torch.arange(going) + count - state.num_chains
    return replace(
        state,
        x=take(state.x, rows),
        log_target=state.log_target[rows],
        log_proposal=state.log_proposal[rows],
        log_weight=state.log_weight[rows],
        ancestor=state.ancestor[rows],
        grad={name: value[:going] for name, value in state.grad.items()},
    )


def grown(state: Any, moved: Any) -> Any:
    """Return the population with the rows of its moved front appended."""
    columns = ("log_target", "log_proposal", "log_weight", "ancestor")
    joined = {k: torch.cat([getattr(state, k), getattr(moved, k)]) for k in columns}
    return replace(moved, x=join_rows([state.x, moved.x]), **joined)
