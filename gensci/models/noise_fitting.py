"""What noise is like, whatever the parameters: its covariance, its core, and its learned density.

Noise that is added to a signal does not depend on the parameters. Its density is learned on draws
of it alone, which take no simulation, and is kept from one fit to the next for as long as fresh
draws are as likely under it as those that validated it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor

from gensci.core.random import stream
from gensci.models.flow_training import Outcome, Schedule, train
from gensci.nn.conditional_flow import ConditionalFlow, FlowEnsemble
from gensci.nn.data_transform import DataTransform

if TYPE_CHECKING:
    from gensci.models.neural_likelihood import LikelihoodSettings, NeuralLikelihood, Noise

NOISE_DRAWS, HELD_NOISE = 40_000, 5_000
SIGNIFICANT = 5.0
"""Standard errors beyond which noise is not taken for white, and layers not for useless."""
CORE = 5.0
"""Width of the narrow part of noise up to which it is taken for one: other noise hides it."""
SIZES = ("kind", "layers", "hidden", "blocks", "bins", "members")
"""Settings that the network of the noise has to itself."""


@dataclass(frozen=True)
class NoiseShape:
    """What draws tell of noise before its density is learned.

    Attributes:
        transform: Of data, before their mean is taken away.
        normal: Turns the noise into unit normals, as far as its covariance goes.
        gaussian: No density is to be learned.
    """

    transform: DataTransform
    normal: DataTransform
    gaussian: bool

    @classmethod
    def of(cls, noise: Noise, kind: str, seed: int) -> NoiseShape:
        """Look at draws.

        Args:
            noise: Makes them.
            kind: Of the layers that may learn it.
            seed: Of the draws.
        """
        normal = whitened_noise(noise, seed)
        draws = noise(NOISE_DRAWS, stream(seed, "shape of noise"))
        gaussian = kind == "gaussian" or is_gaussian(normal(draws)[0])
        bursts = not gaussian and kind == "mixture"
        return cls(core_of_noise(draws) if bursts else normal, normal, gaussian)


def kept_noise(
    start: NeuralLikelihood | None, noise: Noise, settings: LikelihoodSettings, seed: int
) -> FlowEnsemble | None:
    """The networks of an earlier likelihood whose density of the noise still holds.

    Args:
        start: The earlier one.
        noise: What is to be learned.
        settings: Of the networks that are wanted.
        seed: Of the draws that are looked at.

    Returns:
        None where nothing was learned, the sizes are others, or fresh draws of the noise are less
        likely than those that validated the training were.
    """
    if start is None or start.report.get("noise") != "learned":
        return None
    earlier = start.report["settings"]
    if any(earlier.get(name) != getattr(settings, name) for name in SIZES):
        return None
    draws = noise(HELD_NOISE, stream(seed, "fresh noise"))
    for member, told in zip(start.network.members, start.report["layers"], strict=True):
        with torch.no_grad():
            value = member.residual_log_prob(member.data(draws)[0].float(), None).double()
        error = math.sqrt(2.0 / len(value)) * float(value.std())
        if not abs(float(value.mean()) + told["loss"]) < SIGNIFICANT * error:
            return None
    return start.network


def train_on_noise(
    member: ConditionalFlow, noise: Noise, normal: DataTransform, schedule: Schedule, seed: int
) -> tuple[float, Outcome]:
    """Train the layers on noise alone, drawn anew in each batch.

    Args:
        member: What is trained.
        noise: Draws.
        normal: As of `NoiseShape`.
        schedule: How long; its epochs are of `HELD_NOISE` draws.
        seed: Of the training.

    Returns:
        Nats per draw gained over the Gaussian on draws held out, less its standard errors; what
        the training told.
    """

    def draws(n: int, generator: Generator) -> Tensor:
        return member.data(noise(n, generator))[0].float()

    rows = noise(HELD_NOISE, stream(seed, "held noise"))
    held, log_det = member.data(rows)
    held = held.float()

    def loss(rows: Tensor, generator: Generator) -> Tensor:
        return -member.residual_log_prob(draws(len(rows), generator), None).mean()

    def validate() -> Tensor:
        return -member.residual_log_prob(held, None).mean()

    outcome = train(list(member.flow.parameters()), loss, validate, schedule, HELD_NOISE, seed + 1)
    white, normal_log_det = normal(rows)
    gaussian = normal_log_det - 0.5 * (white.square() + math.log(2 * math.pi)).sum(1)
    with torch.no_grad():
        gain = member.residual_log_prob(held, None).double() + log_det - gaussian
    error = float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) - SIGNIFICANT * error, outcome


def is_gaussian(white: Tensor) -> bool:
    """Whether white draws show no third or fourth moments beyond those of a Gaussian.

    Bursts make squares large and alike in several columns; gaps and lines change covariances only,
    which whitening has taken out.
    """
    n = len(white)
    skewness = white.pow(3).mean(0).abs().max() / math.sqrt(15 / n)
    squares = (white.square() - 1) / math.sqrt(2)
    excess = squares.T @ squares / n - torch.eye(white.shape[1], dtype=white.dtype)
    # the variance of ((z^2 - 1)^2 / 2) is 14, that of products of two such columns one
    widths = 1 + (math.sqrt(14) - 1) * torch.eye(white.shape[1], dtype=white.dtype)
    return bool(max(skewness, (excess.abs() / widths).max() * math.sqrt(n)) < SIGNIFICANT + 1)


def whitened_noise(noise: Noise, seed: int) -> DataTransform:
    """The transform under which the noise has mean zero and unit covariance.

    What is white already within the error of the draws is left exactly as it is.
    """
    draws = noise(NOISE_DRAWS, stream(seed, "noise")).double()
    dim, n = draws.shape[1], len(draws)
    transform = DataTransform(dim)
    mean, deviation = draws.mean(0), draws.std(0)
    eye = torch.eye(dim, dtype=torch.float64)
    if (mean.abs() < SIGNIFICANT * deviation / math.sqrt(n)).all():
        mean = torch.zeros_like(mean)
    covariance = draws.T.cov()
    if (covariance - eye).abs().max() < SIGNIFICANT * math.sqrt(2 / n):
        matrix = eye
    else:
        matrix = torch.linalg.inv(torch.linalg.cholesky(covariance)).T
    transform.whiten(mean, matrix)
    return transform


def core_of_noise(draws: Tensor) -> DataTransform:
    """Columns in units of the narrow part of their noise, for densities that bursts make wide.

    A column whose narrow part is about one is left as it is: summaries come whitened for the noise
    without bursts. No column is mixed with others, so that bursts stay where they are.
    """
    ordered = draws.double().sort(0).values
    inside = len(ordered) // 20
    # the shortest interval with a twentieth of the draws, of which a normal's has 0.1254
    shortest = (ordered[inside:] - ordered[:-inside]).min(0).values / 0.1254
    alike = (shortest > 0.2) & (shortest < CORE)
    transform = DataTransform(draws.shape[1])
    scale = torch.where(alike | (shortest == 0), 1.0, shortest)
    transform.whiten(draws.double().median(0).values * ~alike, torch.diag(1 / scale))
    return transform
