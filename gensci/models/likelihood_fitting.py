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
from gensci.models.neural_likelihood import LikelihoodSettings, NeuralLikelihood, Noise
from gensci.models.noise_fitting import NoiseShape, kept_noise, train_on_noise
from gensci.nn.conditional_flow import ConditionalFlow, FlowEnsemble
from gensci.nn.data_transform import DataTransform
from gensci.nn.parameter_features import ParameterFeatures, robust_whitening

SMALL_ERROR = 0.3
"""Length of an error of the mean, in deviations of Gaussian noise, below which rows are all alike:
what matters for the likelihood is the error of all data together, not that of one."""
MOST_CORRELATED = 20
"""Data of more columns are taken for uncorrelated before the layers: entries grow as the square."""


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

    def noise_schedule(self) -> Schedule:
        """That of layers which learn noise alone, whose epochs have no meaning."""
        steps = self.settings.noise_steps or self.settings.steps
        return self.schedule(epochs=steps, steps=steps)


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


def fit_signals(
    simulations: Simulations, noise: Noise, start: NeuralLikelihood | None = None
) -> tuple[FlowEnsemble, dict[str, Any]]:
    """The mean on noise-free signals, then the layers on noise, or as an earlier fit left them."""
    held, settings, seed = simulations.held(), simulations.settings, simulations.seed
    kept = kept_noise(start, noise, settings, seed)
    shape = NoiseShape.of(noise, settings.kind, seed) if kept is None else None
    if shape is not None and shape.gaussian:
        simulations = replace(simulations, settings=replace(settings, kind="gaussian"))
    transform = kept.members[0].data if shape is None else shape.transform
    # the mean of the noise is in the location already, which data lose when they are whitened
    signals = simulations.x @ transform.matrix
    features = simulations.features()
    gaussian = shape is not None and shape.gaussian
    floor = SMALL_ERROR / math.sqrt(signals.shape[1]) if gaussian else 1.0
    fit = fit_polynomial(features(simulations.theta), signals, held, settings.degree, floor=floor)
    network = _assembled(simulations, features, transform, fit, unit_noise=True)
    told: dict[str, Any] = {"polynomial_degree": fit.degree, "mean": [], "layers": []}
    for index, member in enumerate(network.members):
        outcome = _train_mean(member, simulations, signals, held, seed + index)
        told["mean"].append(_told(outcome) | _accuracy(member, simulations, signals, held))
        if kept is not None:
            member.flow.load_state_dict(kept.members[index].flow.state_dict())
            told["layers"].append(start.report["layers"][index] | {"kept": True})
        elif not shape.gaussian:
            schedule = simulations.noise_schedule()
            gain, outcome = train_on_noise(member, noise, shape.normal, schedule, seed + index)
            told["layers"].append(_told(outcome) | {"gain": gain})
    if any(layers["gain"] <= 0 for layers in told["layers"]):
        plain = replace(settings, kind="gaussian")
        return fit_signals(replace(simulations, settings=plain), noise)
    told["noise"] = "learned" if told["layers"] else "Gaussian"
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
