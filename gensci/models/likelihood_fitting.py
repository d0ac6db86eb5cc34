"""How a neural likelihood is fitted: closed form, then mean, then the layers."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from gensci.core.random import stream
from gensci.models.flow_training import Outcome, Schedule, train
from gensci.models.mean_fitting import PolynomialFit, fit_polynomial, held_out
from gensci.models.neural_likelihood import LikelihoodSettings, Noise
from gensci.nn.conditional_flow import ConditionalFlow, FlowEnsemble
from gensci.nn.data_transform import DataTransform
from gensci.nn.parameter_features import ParameterFeatures, robust_whitening

NOISE_DRAWS, HELD_NOISE = 40_000, 5_000
MOST_CORRELATED = 20
"""Data of more columns are taken for uncorrelated before the layers: entries grow as the square."""
SIGNIFICANT = 5.0
"""Standard errors beyond which noise is not taken for white, and layers not for useless."""
CORE = 5.0
"""Width of the narrow part of noise up to which it is taken for one: other noise hides it."""


@dataclass(frozen=True)
class Simulations:
    """What is learned from."""

    theta: Tensor
    x: Tensor
    settings: LikelihoodSettings
    periods: tuple[float | None, ...]
    seed: int

    def held(self) -> Tensor:
        """(n,) bool, the rows that validate."""
        generator = stream(self.seed, "validation")
        return held_out(len(self.theta), self.settings.validation, generator)

    def features(self) -> ParameterFeatures:
        """Fitted to these parameters."""
        return ParameterFeatures.fitted(self.theta, self.periods or None)

    def schedule(self, **changes: Any) -> Schedule:
        """The schedule that the settings ask for."""
        s = self.settings
        values = {
            "epochs": s.epochs, "steps": s.steps, "batch": s.batch,
            "learning_rate": s.learning_rate, "patience": s.patience,
        }  # fmt: skip
        return Schedule(**(values | changes))


def fit_data(
    simulations: Simulations, start: FlowEnsemble | None
) -> tuple[FlowEnsemble, dict[str, Any]]:
    """Mean and layers together, on the data as they are."""
    held = simulations.held()
    if start is None:
        network = _begin_with_data(simulations, held)
    else:
        network = FlowEnsemble(**start.settings)
        network.load_state_dict(start.state_dict())
    outcomes = []
    for index, member in enumerate(network.members):
        seed = simulations.seed + index
        outcomes.append(_train_on_data(member, simulations, held, seed))
    return network, {"mean": None, "layers": [_told(o) for o in outcomes]}


def fit_signals(simulations: Simulations, noise: Noise) -> tuple[FlowEnsemble, dict[str, Any]]:
    """The mean on noise-free signals, then the layers on noise."""
    held = simulations.held()
    normal = transform = _whitened_noise(simulations, noise)
    draws = noise(NOISE_DRAWS, stream(simulations.seed, "shape of noise"))
    gaussian = simulations.settings.kind == "gaussian" or _is_gaussian(transform(draws)[0])
    if gaussian:
        simulations = replace(simulations, settings=replace(simulations.settings, kind="gaussian"))
    elif simulations.settings.kind == "mixture":
        transform = _core_of_noise(draws)
    # the mean of the noise is in the location already, which data lose when they are whitened
    signals = simulations.x @ transform.matrix
    features = simulations.features()
    fit = fit_polynomial(
        features(simulations.theta), signals, held, simulations.settings.degree, floor=1.0
    )
    network = _assembled(simulations, features, transform, fit, unit_noise=True)
    told: dict[str, Any] = {"polynomial_degree": fit.degree, "mean": [], "layers": []}
    gains = []
    for index, member in enumerate(network.members):
        seed = simulations.seed + index
        outcome = _train_mean(member, simulations, signals, held, seed)
        told["mean"].append(_told(outcome) | _accuracy(member, simulations, signals, held))
        if not gaussian:
            gain, outcome = _train_on_noise(member, simulations, noise, normal, seed)
            told["layers"].append(_told(outcome) | {"gain": gain})
            gains.append(gain)
    if not gaussian and min(gains) <= 0:
        plain = replace(simulations.settings, kind="gaussian")
        return fit_signals(replace(simulations, settings=plain), noise)
    told["noise"] = "Gaussian" if gaussian else "learned"
    return network, told


def _begin_with_data(simulations: Simulations, held: Tensor) -> FlowEnsemble:
    """Networks whose mean is the polynomial and whose layers are the identity."""
    transform = DataTransform.chosen(simulations.x)
    plain = transform.elementwise(transform.jitter(simulations.x, stream(simulations.seed, "jit")))
    features = simulations.features()
    u = features(simulations.theta)
    fit = fit_polynomial(u, plain, held, simulations.settings.degree)
    _, matrix = robust_whitening(fit.residual)
    transform.whiten(torch.zeros(transform.dim, dtype=torch.float64), matrix)
    left = fit.residual @ matrix
    white = replace(
        fit, weights=fit.weights @ matrix, residual=left, scale=torch.ones(transform.dim)
    )
    return _assembled(simulations, features, transform, white, unit_noise=False)


def _assembled(
    simulations: Simulations,
    features: ParameterFeatures,
    transform: DataTransform,
    fit: PolynomialFit,
    unit_noise: bool,
) -> FlowEnsemble:
    """An ensemble with these features, this transform and this polynomial in all members."""
    s = simulations.settings
    network = FlowEnsemble(
        s.members, dim=transform.dim, num_parameters=features.dim, kind=s.kind, layers=s.layers,
        hidden=s.hidden, blocks=s.blocks, bins=s.bins, mean_hidden=s.mean_hidden,
        degree=fit.degree, unit_noise=unit_noise, with_context=not unit_noise,
        correlated=not unit_noise and transform.dim <= MOST_CORRELATED,
        periods=list(features.periods), round_trip=list(features.round_trip),
        whole=list(transform.whole), logarithmic=list(transform.logarithmic),
        seed=simulations.seed,
    )  # fmt: skip
    for member in network.members:
        member.features.load_state_dict(features.state_dict())
        member.data.load_state_dict(transform.state_dict())
        member.centre.weights.copy_(fit.weights)
        member.centre.spread.copy_(fit.scale)
        member.centre.growth.copy_(fit.growth)
    return network


def _train_on_data(
    member: ConditionalFlow, simulations: Simulations, held: Tensor, seed: int
) -> Outcome:
    """Negative log-densities of the training rows, jitter anew in each batch."""
    features = member.features(simulations.theta)
    train_x, train_u = simulations.x[~held], features[~held]
    fixed, _ = member.data(train_x)
    fixed = fixed.float()
    whole = any(member.data.whole)
    held_x = member.data.jitter(simulations.x[held], stream(seed, "held"))
    held_y, held_u = member.data(held_x)[0].float(), features[held]
    train_mean = member.centre.fixed_mean(train_u)
    held_mean = member.centre.fixed_mean(held_u)

    def loss(rows: Tensor, generator: Generator) -> Tensor:
        y = fixed[rows]
        if whole:
            y = member.data(member.data.jitter(train_x[rows], generator))[0].float()
        return -member.whitened_log_prob(y, train_u[rows], train_mean[rows]).mean()

    def validate() -> Tensor:
        return -member.whitened_log_prob(held_y, held_u, held_mean).mean()

    parameters = [*member.centre.parameters(), *_layer_parameters(member)]
    return train(parameters, loss, validate, simulations.schedule(), len(train_x), seed)


def _train_mean(
    member: ConditionalFlow, simulations: Simulations, signals: Tensor, held: Tensor, seed: int
) -> Outcome:
    """The Gaussian log-likelihood of signal plus unit noise, averaged over the noise exactly."""
    features, y = member.features(simulations.theta), signals.float()
    train_u, train_y = features[~held], y[~held]
    train_mean = member.centre.fixed_mean(train_u)
    held_mean = member.centre.fixed_mean(features[held])

    def expected(u: Tensor, signal: Tensor, fixed: Tensor) -> Tensor:
        mean, log_scale = member.centre.moments(u, fixed=fixed)
        missed = ((signal - mean).square() + 1) * (-2 * log_scale).exp()
        return (log_scale + 0.5 * missed).sum(1).mean()

    def loss(rows: Tensor, generator: Generator) -> Tensor:
        return expected(train_u[rows], train_y[rows], train_mean[rows])

    def validate() -> Tensor:
        return expected(features[held], y[held], held_mean)

    parameters = list(member.centre.parameters())
    return train(parameters, loss, validate, simulations.schedule(), len(train_u), seed)


def _train_on_noise(
    member: ConditionalFlow,
    simulations: Simulations,
    noise: Noise,
    normal: DataTransform,
    seed: int,
) -> tuple[float, Outcome]:
    """Train the layers on noise alone, drawn anew in each batch.

    Args:
        member: What is trained.
        simulations: Settings and seed.
        noise: Draws.
        normal: Turns the noise into unit normals, as far as its covariance goes.
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

    schedule = simulations.schedule(epochs=simulations.settings.steps)
    outcome = train(_layer_parameters(member), loss, validate, schedule, HELD_NOISE, seed + 1)
    white, normal_log_det = normal(rows)
    gaussian = normal_log_det - 0.5 * (white.square() + math.log(2 * math.pi)).sum(1)
    with torch.no_grad():
        gain = member.residual_log_prob(held, None).double() + log_det - gaussian
    error = float(gain.std()) / math.sqrt(len(gain))
    return float(gain.mean()) - SIGNIFICANT * error, outcome


def _is_gaussian(white: Tensor) -> bool:
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


def _whitened_noise(simulations: Simulations, noise: Noise) -> DataTransform:
    """The transform under which the noise has mean zero and unit covariance.

    What is white already within the error of the draws is left exactly as it is.
    """
    draws = noise(NOISE_DRAWS, stream(simulations.seed, "noise")).double()
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


def _core_of_noise(draws: Tensor) -> DataTransform:
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


def _layer_parameters(member: ConditionalFlow) -> list[torch.nn.Parameter]:
    return list(member.flow.parameters())


@torch.no_grad()
def _accuracy(
    member: ConditionalFlow, simulations: Simulations, signals: Tensor, held: Tensor
) -> dict[str, float]:
    """How far the learned mean is from held-out signals, in standard deviations of the noise."""
    mean, _ = member.centre.moments(member.features(simulations.theta[held]))
    error = (signals[held] - mean).square().mean(1).sqrt()
    return {
        "median_error": float(error.median()),
        "error_90": float(torch.quantile(error, 0.9)),
    }


def _told(outcome: Outcome) -> dict[str, Any]:
    return {"loss": outcome.loss, "steps": outcome.steps, "stopped_early": outcome.stopped_early}
