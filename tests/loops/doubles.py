"""Small stand-ins for the parts of the sequential loop, with answers known in closed form."""

import math

import numpy as np
import torch

from gensci.core.random import stream
from gensci.core.results import SampleSet
from gensci.samplers.base import MemoryStore

MATRIX = np.array([[1.0, 0.5], [-0.3, 1.2], [0.4, 0.4]])
NOISE = 0.2


def linear(theta, rng):
    """Three data of two parameters, linear with Gaussian noise."""
    return MATRIX @ theta + NOISE * rng.standard_normal(3)


def linear_by_global_numbers(theta):
    return MATRIX @ theta + NOISE * np.random.standard_normal(3)


def linear_batched(theta, seed):
    noise = np.random.default_rng(seed).standard_normal((len(theta), 3))
    return theta @ MATRIX.T + NOISE * noise


class Linear:
    """A surrogate: the data are Gaussian about a linear mean."""

    def __init__(self, tensors, observation):
        self.tensors, self.observation = tensors, observation
        self.report = {"epochs": 1}

    def log_likelihood(self, theta):
        mean = torch.cat([theta, torch.ones(len(theta), 1)], 1) @ self.tensors["weights"]
        white = (self.observation - mean) / self.tensors["scale"]
        return -0.5 * white.square().sum(1)


class LeastSquares:
    """An estimator that solves for the linear surrogate; counts how often it had to."""

    def __init__(self, observation):
        self.observation, self.fits, self.seen = observation, 0, []

    def fit(self, data, previous, seed):
        self.fits += 1
        self.seen.append(data)
        design = torch.cat([data.theta, torch.ones(len(data.theta), 1)], 1)
        weights = torch.linalg.lstsq(design, data.x).solution
        scale = (data.x - design @ weights).std(0)
        return Linear({"weights": weights, "scale": scale}, self.observation)

    def pack(self, surrogate):
        return surrogate.tensors

    def unpack(self, tensors):
        return Linear(tensors, self.observation)


class Resampling:
    """Draws of a posterior by weighing many draws of the prior."""

    def __init__(self, prior, num_draws=10_000):
        self.prior, self.num_draws = prior, num_draws

    def draw(self, log_likelihood, n, *, temperature, seed, candidates):
        generator = stream(seed, "resampling")
        theta = self.prior.sample(self.num_draws, generator)
        samples = SampleSet({"theta": theta}, log_likelihood(theta) / temperature)
        return samples.with_meta(verdict={"ess": samples.ess.count}).resample(
            "multinomial", generator, n
        )


class Interrupting(MemoryStore):
    """A store that ends the run as it is about to write for the k-th time."""

    def __init__(self, writes):
        super().__init__()
        self.left = writes

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt

    def save_shard(self, index, tensors):
        self._count()
        super().save_shard(index, {k: v.clone() for k, v in tensors.items()})

    def save_state(self, name, tensors):
        self._count()
        super().save_state(name, {k: v.clone() for k, v in tensors.items()})


def exact_posterior(observation, scale=NOISE):
    """Mean and covariance of the posterior under a flat prior."""
    matrix = torch.from_numpy(MATRIX)
    precision = matrix.T @ matrix / scale**2
    covariance = torch.linalg.inv(precision)
    return covariance @ matrix.T @ observation / scale**2, covariance


def moody(theta):
    """Fails in every way that a simulator can, by the value of its parameter."""
    import os
    import time

    kind = int(theta[0])
    if kind == 1:
        raise ValueError("the star\nexploded")
    if kind == 2:
        time.sleep(60)
    if kind == 3:
        return np.zeros(3)
    if kind == 4:
        return np.array([1.0, math.nan])
    if kind == 5:
        os._exit(3)
    return theta[1:] + np.random.standard_normal(2)


def moody_batched(theta):
    return np.stack([moody(row) for row in theta])
