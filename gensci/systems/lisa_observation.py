"""One observation: channels of data on a frequency grid, kept in one HDF5 file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gensci.core.errors import GensciError, UsageError
from gensci.core.random import stream
from gensci.systems.lisa_noise import Gaussian
from gensci.systems.lisa_problem import Problem
from gensci.systems.lisa_setting import Setting

FORMAT = "gensci-lisa-observation-1"


@dataclass(frozen=True)
class Observation:
    """What LISA measured.

    Attributes:
        data: (c, M) complex128, the Fourier transforms of the channels, exp(+2 pi i f t), 1/Hz.
        setting: grid, channels, noise model, epoch and frame.
        window: (N,) factors by which the time series was multiplied, or None; see `TimeGrid`.

    Raises:
        UsageError: the data have another shape than the setting, or are not finite.
    """

    data: Tensor
    setting: Setting
    window: Tensor | None = None

    def __post_init__(self) -> None:
        expected = (len(self.setting.channels), self.setting.num_bins)
        if tuple(self.data.shape) != expected:
            raise UsageError(
                f"the data have shape {tuple(self.data.shape)} but channels "
                f"{self.setting.channels} on the grid of the setting need {expected}",
                "give one row per channel and one column per frequency",
            )
        bad = (~torch.isfinite(torch.view_as_real(self.data)).all(-1)).nonzero()
        if len(bad):
            channel, place = bad[0].tolist()
            raise UsageError(
                f"the data are NaN or infinite in {len(bad)} places, first in channel "
                f"{self.setting.channels[channel]} at {self.frequencies[place]:.6g} Hz",
                "cut or repair them",
            )

    @property
    def frequencies(self) -> Tensor:
        """The (M,) frequencies, Hz."""
        return self.setting.frequencies()

    @property
    def whitening(self) -> Tensor:
        """(c, M) factors that turn stationary noise into unit normals (real and imaginary)."""
        return (4.0 / (self.setting.duration * self.setting.psd(self.frequencies))).sqrt()

    def check(self, setting: Setting, owner: str = "the surrogate") -> None:
        """Refuse to meet something made for another setting.

        Raises:
            UsageError: grid, noise model, channels, frame or epoch differ; both are named.
        """
        setting.check(self.setting, owner, "the observation")

    def save(self, path: str | Path) -> None:
        """Write the observation to an HDF5 file.

        Raises:
            GensciError: the file cannot be written.
        """
        import h5py

        try:
            with h5py.File(path, "w") as file:
                file.attrs["format"] = FORMAT
                for name, value in self.setting.to_json().items():
                    file.attrs[name] = "none" if value is None else value
                file["frequencies"] = self.frequencies.numpy()
                file["data"] = self.data.numpy()
                if self.window is not None:
                    file["window"] = self.window.numpy()
        except OSError as error:
            raise GensciError(f"cannot write {path} ({error})", "choose another path") from error


def load_observation(path: str | Path) -> Observation:
    """Read an observation that `Observation.save` wrote, or another program in that form.

    Raises:
        UsageError: the file is no such observation, its frequencies are not those of its
            attributes, or its data are not finite.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            attributes = {
                k: v.item() if hasattr(v, "item") else v for k, v in dict(file.attrs).items()
            }
            data = torch.from_numpy(file["data"][()]).to(torch.complex128)
            frequencies = torch.from_numpy(file["frequencies"][()]).to(torch.float64)
            window = torch.from_numpy(file["window"][()]) if "window" in file else None
    except (OSError, KeyError) as error:
        raise UsageError(
            f"{path} is not a readable LISA observation ({error})",
            "write one with Observation.save: HDF5 with `data`, `frequencies` and attributes",
        ) from error
    found = attributes.pop("format", None)
    if found != FORMAT:
        raise UsageError(f"{path} has format {found!r}", f"this version reads {FORMAT!r}")
    setting = _setting(path, attributes)
    _check_grid(path, frequencies, setting)
    return Observation(data, setting, window)


def _setting(path: str | Path, attributes: dict[str, object]) -> Setting:
    fields = {k: None if isinstance(v, str) and v == "none" else v for k, v in attributes.items()}
    try:
        return Setting(**fields)  # type: ignore[arg-type]
    except TypeError as error:
        raise UsageError(
            f"{path} lacks an attribute or has one too many ({error})",
            f"give {', '.join(Setting.__dataclass_fields__)}",
        ) from error


def _check_grid(path: str | Path, frequencies: Tensor, setting: Setting) -> None:
    grid = setting.frequencies()
    same = frequencies.shape == grid.shape and torch.allclose(frequencies, grid, rtol=1e-9, atol=0)
    if not same:
        spans = [
            f"{len(f)} frequencies from {f[0]:.9g} to {f[-1]:.9g} Hz" for f in (frequencies, grid)
        ]
        raise UsageError(
            f"{path} has {spans[0]} but its band and duration mean {spans[1]}",
            "correct f_min, f_max and duration",
        )


def make_observation(problem: Problem, seed: int | None = None) -> Observation:
    """Inject the truth of a problem and disturb it; one waveform call.

    Args:
        problem: what to observe.
        seed: of the noise; the problem's own by default.
    """
    return inject(problem, problem.truth, problem.seed if seed is None else seed)


def inject(problem: Problem, theta: Tensor, seed: int) -> Observation:
    """Observe a binary (11,) of your choice as `problem` observes its own; one waveform call.

    Raises:
        UsageError: a parameter is outside the prior.
    """
    problem.prior.check_inside(theta[None])
    setting = problem.setting
    signal = setting.strain(theta[None], setting.frequencies())[0]
    generator = stream(seed, "lisa", "noise")
    return Observation(
        problem.noise.apply(signal, setting, generator), setting, problem.noise.window(setting)
    )


def gaussian_noise(setting: Setting, generator: torch.Generator) -> Tensor:
    """One draw (c, M) of stationary Gaussian noise with the setting's densities, 1/Hz."""
    silence = torch.zeros(len(setting.channels), setting.num_bins, dtype=torch.complex128)
    return Gaussian().apply(silence, setting, generator)
