"""The one result type: samples that keep their weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from gensci.core.errors import GensciError
from gensci.core.packing import pack, unpack
from gensci.core.protocols import Tensors
from gensci.core.resampling import resample
from gensci.core.weights import EffectiveSize, kish_ess, normalise

ROW_FIELDS = ("log_weight", "log_target", "log_proposal", "ancestor", "chain")


@dataclass(frozen=True)
class SampleSet:
    """Samples, their log-weights and where they came from.

    Attributes:
        x: named tensors in physical units, each with n rows: ``positions`` (n, atoms, 3) nm, ...
        log_weight: (n,) float64; row i belongs to row i of ``x``. Zeros when equally weighted.
        log_target: (n,) float64 log-density of the target in nats, or None.
        log_proposal: (n,) float64 log-density of the proposal in nats, or None.
        ancestor: (n,) int64, the row of the first population (or of the set before resampling) that
            this row descends from, or None.
        chain: (n,) int64, the Markov chain of this row, or None.
        info: one entry per step: temperature, ess, acceptance, log_z, ...
        meta: sampler, settings, seed, requested/kept/rejected, verdict; not part of ``to_tensors``.

    Raises:
        GensciError: a field has another number of rows than ``log_weight``.
    """

    x: Tensors
    log_weight: torch.Tensor
    log_target: torch.Tensor | None = None
    log_proposal: torch.Tensor | None = None
    ancestor: torch.Tensor | None = None
    chain: torch.Tensor | None = None
    info: dict[str, torch.Tensor] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in self._rows().items():
            if value.shape[:1] != self.log_weight.shape[:1]:
                raise GensciError(
                    f"{name} has shape {tuple(value.shape)} but there are {len(self)} log-weights",
                    "every row of a SampleSet has one log-weight",
                )

    def __len__(self) -> int:
        return self.log_weight.shape[0]

    def _rows(self) -> Tensors:
        """Return every tensor that has one entry per row, under the keys of ``to_tensors``."""
        rows = {f"x/{name}": value for name, value in self.x.items()}
        rows.update({name: getattr(self, name) for name in ROW_FIELDS})
        return {name: value for name, value in rows.items() if value is not None}

    @property
    def weight(self) -> torch.Tensor:
        """(n,) weights that sum to one."""
        return normalise(self.log_weight)

    @property
    def ess(self) -> EffectiveSize:
        """Kish's effective sample size, as a count and as a fraction of the rows."""
        return kish_ess(self.log_weight)

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the weighted mean of ``values`` (n, ...) over the rows; float64 of whole numbers.

        Args:
            values: any quantity of each row; booleans give the weight of the rows that are True.
        """
        values = values if values.is_floating_point() else values.double()
        weight = self.weight.to(device=values.device, dtype=values.dtype)
        return torch.tensordot(weight, values, dims=([0], [0]))

    def select(self, rows: torch.Tensor) -> SampleSet:
        """Return the given rows: int64 row numbers, or a mask of n booleans."""
        chosen = {name: value[rows] for name, value in self._rows().items()}
        return replace(self, **_nest(chosen))

    def with_meta(self, **entries: Any) -> SampleSet:
        """Return the same samples with entries added to ``meta``."""
        return replace(self, meta={**self.meta, **entries})

    def resample(self, scheme: str, generator: torch.Generator, n: int | None = None) -> SampleSet:
        """Return equally weighted rows drawn in proportion to the weights.

        Every column is carried along; ``log_weight`` becomes zeros and ``ancestor`` the row numbers
        in this set. The scheme and the effective size before it are recorded in ``meta``.

        Args:
            scheme: multinomial, residual, stratified or systematic.
            generator: the source of randomness.
            n: how many rows to draw; default as many as there are.

        Raises:
            UsageError: the scheme is unknown.
            GensciError: every weight is zero.
        """
        rows = resample(scheme, self.log_weight, len(self) if n is None else n, generator)
        drawn = self.select(rows)
        record = {"scheme": scheme, "ess_before": self.ess.count, "rows_before": len(self)}
        return replace(
            drawn,
            log_weight=torch.zeros_like(drawn.log_weight),
            ancestor=rows,
            meta={**self.meta, "resampled": record},
        )

    def to_tensors(self) -> Tensors:
        """Return flat named CPU tensors: ``x/positions``, ``log_weight``, ``info/ess``, ..."""
        return pack(self)

    @classmethod
    def from_tensors(cls, tensors: Tensors, meta: Mapping[str, Any] | None = None) -> SampleSet:
        """Return the set that :meth:`to_tensors` was called on; ``meta`` is given apart."""
        return replace(unpack(cls, tensors), meta=dict(meta or {}))

    @classmethod
    def concatenate(cls, sets: Sequence[SampleSet]) -> SampleSet:
        """Return the rows of several sets in order.

        Log-weights are joined as they are; structures of fewer atoms are padded with zeros.
        Columns and info entries that any set lacks are left out; ``meta`` is that of the first.

        Raises:
            GensciError: there is no set, or the sets hold different quantities in ``x``.
        """
        if not sets:
            raise GensciError("there are no sample sets to join", "give at least one")
        if any(other.x.keys() != sets[0].x.keys() for other in sets):
            raise GensciError("the sample sets hold different quantities", "join like sets")
        tables = [other._rows() for other in sets]
        joined = {k: stack_rows([table[k] for table in tables]) for k in _shared(tables)}
        infos = [other.info for other in sets]
        info = {k: torch.cat([table[k] for table in infos]) for k in _shared(infos)}
        return cls(**_nest(joined), info=info, meta=dict(sets[0].meta))


def widened(value: torch.Tensor, width: int) -> torch.Tensor:
    """Return the tensor with its second dimension padded to ``width`` with zeros behind."""
    missing = width - value.shape[1]
    if missing == 0:
        return value
    return torch.cat((value, value.new_zeros(len(value), missing, *value.shape[2:])), 1)


def stack_rows(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the rows of several tensors (n_i, ...) in order.

    Where their second dimensions differ, as for structures of different numbers of atoms, the
    narrow ones are padded with zeros behind.
    """
    if values[0].dim() < 2:
        return torch.cat(list(values))
    width = max(value.shape[1] for value in values)
    return torch.cat([widened(value, width) for value in values])


def join_rows(parts: Sequence[Tensors]) -> Tensors:
    """Return the rows of several dictionaries in order; see :func:`stack_rows`."""
    return {name: stack_rows([part[name] for part in parts]) for name in parts[0]}


def finite_rows(x: Tensors) -> torch.Tensor:
    """Return (n,) booleans on the CPU: no value of the row is NaN or infinite."""
    checks = [torch.isfinite(value).unsqueeze(-1).flatten(1).all(1) for value in x.values()]
    return torch.stack([check.cpu() for check in checks]).all(0)


def log_or_none(value: float) -> float | None:
    """Return the value for JSON, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None


def _shared(tables: Sequence[Mapping[str, Any]]) -> list[str]:
    return [key for key in tables[0] if all(key in table for table in tables)]


def _nest(rows: Tensors) -> dict[str, Any]:
    """Return constructor arguments: ``x/...`` keys gathered into ``x``, absent columns None."""
    names = {f.name for f in fields(SampleSet)}.intersection(ROW_FIELDS)
    x = {key[2:]: value for key, value in rows.items() if key.startswith("x/")}
    return {"x": x, **{name: rows.get(name) for name in names}}
