"""How LISA's data were taken: frequency grid, channels, noise model, reference epoch and frame.

Two things that do not share a setting must not meet: a surrogate trained on one setting refuses an
observation of another, naming both values.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from gensci.core.errors import UsageError
from gensci.sims.lisa import LisaError, carrier, psd, strain

_EDGE = 1e-9  # a grid point this close to an edge, in bins, is inside


@dataclass(frozen=True)
class Setting:
    """The frame of one LISA analysis.

    Attributes:
        f_min: lowest frequency, Hz.
        f_max: highest frequency, Hz.
        duration: length of the data, s; the grid's spacing is its inverse.
        channels: channels in the order of the data, of "AET".
        noise_model: name of the noise density (SciRDv1, ...).
        confusion: years of observation that set the galactic foreground, or None without it.
        tdi: 1 for TDI 1.5, 2 for TDI 2.0.
        frame: "lisa" or "ssb", the frame of sky angles, polarisation and time.
        t_ref: epoch at which LISA's frame is taken and from which time is counted, s.

    Raises:
        UsageError: no grid point lies between f_min and f_max, or the frame, the noise model, the
            channels or tdi are unknown.
    """

    f_min: float
    f_max: float
    duration: float
    channels: str = "AE"
    noise_model: str = "SciRDv1"
    confusion: float | None = None
    tdi: int = 1
    frame: str = "lisa"
    t_ref: float = 15_779_074.8817728

    def __post_init__(self) -> None:
        for name in ("f_min", "f_max", "duration", "t_ref"):
            if not isinstance(getattr(self, name), (int, float)):
                raise UsageError(f"{name} is {getattr(self, name)!r}", "give a number")
        if not (0 < self.f_min < self.f_max < math.inf and self.duration > 0):
            raise UsageError(
                f"a band from {self.f_min} to {self.f_max} Hz over {self.duration} s",
                "give 0 < f_min < f_max and a positive duration",
            )
        if self.frame not in ("lisa", "ssb"):
            raise UsageError(f"frame {self.frame!r}", "choose lisa or ssb")
        if set(self.channels) - set("AET") or len(set(self.channels)) != max(1, len(self.channels)):
            raise UsageError(f"channels {self.channels!r}", "choose from A, E and T, as AE")
        try:
            self.psd(torch.tensor([self.f_min], dtype=torch.float64))
        except LisaError as error:
            raise UsageError(str(error)) from error
        if self.last_bin < self.first_bin:
            raise UsageError("the band holds no frequency of the grid", "widen it")

    @property
    def first_bin(self) -> int:
        """Index of the lowest frequency of the grid."""
        return math.ceil(self.f_min * self.duration - _EDGE)

    @property
    def last_bin(self) -> int:
        """Index of the highest frequency of the grid."""
        return math.floor(self.f_max * self.duration + _EDGE)

    @property
    def num_bins(self) -> int:
        """Number of frequencies of the grid."""
        return self.last_bin - self.first_bin + 1

    def frequencies(self) -> Tensor:
        """The (M,) frequencies of the grid, Hz."""
        bins = torch.arange(self.first_bin, self.last_bin + 1, dtype=torch.float64)
        return bins / self.duration

    def psd(self, frequencies: Tensor) -> Tensor:
        """The (c, m) one-sided noise densities of the channels, 1/Hz."""
        return torch.stack(
            [
                psd(frequencies, c, model=self.noise_model, confusion=self.confusion, tdi=self.tdi)
                for c in self.channels
            ]
        )

    def strain(self, theta: Tensor, frequencies: Tensor) -> Tensor:
        """The (n, c, m) channels of (n, 11) binaries at given frequencies, 1/Hz."""
        return strain(theta, frequencies, **self._response())

    def carrier(self, theta: Tensor, frequencies: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Amplitude (n, m), phase (n, m) and transfer (n, c, m) of (n, 11) binaries."""
        return carrier(theta, frequencies, **self._response())

    def _response(self) -> dict[str, Any]:
        return {
            "frame": self.frame, "t_ref": self.t_ref, "tdi": self.tdi, "channels": self.channels
        }  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The fields, as JSON can hold them."""
        return asdict(self)

    def check(self, other: Setting, mine: str, theirs: str) -> None:
        """Refuse another setting.

        Args:
            other: what is compared with this one.
            mine: what this setting belongs to, for the message ("the surrogate").
            theirs: what the other belongs to ("the observation").

        Raises:
            UsageError: they differ; the message names the first field with both values.
        """
        for name, value in self.to_json().items():
            found = getattr(other, name)
            same = (
                math.isclose(value, found, rel_tol=1e-9)
                if isinstance(value, float) and isinstance(found, float)
                else value == found
            )
            if not same:
                raise UsageError(
                    f"{theirs} has {name} = {found!r} but {mine} has {name} = {value!r}",
                    f"use data whose {name} is that of {mine}",
                )
