"""Muon for the matrices of a network and AdamW for the rest, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

LEAST = 64  # rows and columns of a matrix that is orthogonalised


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the large matrices of linear layers, AdamW for all other parameters.

    Muon makes the update of a matrix orthogonal, so that directions of which few examples tell are
    learned as fast as others. Its step is scaled to the size of AdamW's, so one rate serves both.
    Ref: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv
    2502.16982 (the scale); Wang et al. 2025, arXiv 2509.26030 (rare examples).

    Args:
        network: whose parameters are trained.
        lr, betas, weight_decay: as of ``torch.optim.AdamW``.
    """

    def __init__(
        self, network: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float
    ):
        matrices = large_matrices(network)
        known = {id(matrix) for matrix in matrices}
        others = [p for p in network.parameters() if id(p) not in known]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr, betas, weight_decay=weight_decay)
        ]
        if matrices:
            muon = torch.optim.Muon(
                matrices, lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )
            self.parts.append(muon)
        super().__init__(network.parameters(), {"lr": lr})
        self._join()

    def _join(self) -> None:
        """Hold the parts' own groups, so that a schedule of rates reaches them."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()


def large_matrices(network: nn.Module) -> list[Tensor]:
    """Weights of linear layers with at least ``LEAST`` inputs and outputs."""
    weights = (m.weight for m in network.modules() if isinstance(m, nn.Linear))
    return [weight for weight in weights if min(weight.shape) >= LEAST]
