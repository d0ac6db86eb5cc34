"""A diffusion head whose weights rest: noise levels are read once, and C denoises on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from gensci.nn.edm_head import Condition, EdmHead
from gensci.nn.native_edm_head import NativeHead, fits

MOST_LEVELS = 256  # kept at once


class FrozenHead:
    """Denoises as the head did when this was made, without gradients to its weights.

    Solvers walk down the same noise levels for every slot, so what the network makes of a level
    is kept.

    Args:
        head: the network.
        native: whether the C kernel may be used; it is where it can be had.
    """

    def __init__(self, head: EdmHead, native: bool = True):
        self.head = head
        self.kernel = NativeHead(head) if native and fits(head) else None
        self._places: dict[tuple[float, bool], int] = {}
        self._table: dict[str, Tensor] = {}

    def denoise(self, x: Tensor, sigma: Tensor, c: Condition, torus: tuple[bool, ...]) -> Tensor:
        """As ``head.denoise``; ``torus`` says in words of Python what ``c.torus`` says."""
        if not len(x):  # no slot has no level to read
            return x
        differentiated = torch.is_grad_enabled() and x.requires_grad
        if differentiated and len(set(sigma.tolist())) > MOST_LEVELS:
            return self.head.denoise(x, sigma, c)
        place = self._level(sigma, torus)
        if self.kernel is None or differentiated or x.dtype != torch.float32:
            return self.head.denoise(x, sigma, c, self._rows(place, c))
        return self.kernel(x, c, torch.tensor(place), self._table)

    def _rows(self, place: list[int], c: Condition) -> Tensor:
        rows = place[:1] if len(set(place)) == 1 else place
        return self._table["level_terms"][rows].to(c.terms)

    def _level(self, sigma: Tensor, torus: tuple[bool, ...]) -> list[int]:
        """Rows of the table, which is filled where levels are new."""
        keys = list(zip(sigma.tolist(), torus, strict=True))
        new = [key for key in dict.fromkeys(keys) if key not in self._places]
        if len(self._places) + len(new) > MOST_LEVELS:
            self._places.clear()
            new = list(dict.fromkeys(keys))
        if new:
            self._read(new)
        return [self._places[key] for key in keys]

    def _read(self, keys: list[tuple[float, bool]]) -> None:
        like = self.head.leave.weight
        sigma = torch.tensor([s for s, _ in keys], dtype=like.dtype, device=like.device)
        torus = torch.tensor([flag for _, flag in keys], device=like.device)
        with torch.no_grad():
            own = {
                "level_terms": self.head.by_level(sigma, torus.unsqueeze(-1)),
                "sigma": sigma,
                "unit": self.head.torus_unit(sigma),
                "torus": torus,
            }
        if self._places:
            own = {name: torch.cat((self._table[name], value)) for name, value in own.items()}
        self._table = own
        first = len(self._places)
        self._places.update({key: first + k for k, key in enumerate(keys)})
