"""A linear Gaussian simulator with its posterior in closed form, and simulators that misbehave."""

import math
import os
import time

import numpy as np

MATRIX = np.array([[1.0, 0.5], [-0.3, 1.2], [0.4, 0.4]])
NOISE = 0.3
OBSERVATION = np.array([0.7, 0.1, 0.4])
PRIOR = {"kind": "normal", "mean": [0, 0], "covariance": [1, 1], "names": ["a", "b"]}
RANGE = 7  # a value and no function


def simulate(theta, rng):
    return MATRIX @ theta + NOISE * rng.standard_normal(3)


def picky(theta, rng):
    """Fails for an eighth of the prior."""
    if theta[0] > 1.15:
        raise ValueError("the star\nexploded")
    return simulate(theta, rng)


def log_likelihood(theta):
    return -0.5 * float(((OBSERVATION - MATRIX @ theta) ** 2).sum()) / NOISE**2


def raising_likelihood(theta):
    raise ValueError("no such\nbinary")


def raising(theta):
    raise ValueError("the star\nexploded")


def hanging(theta):
    time.sleep(100)


def crashing(theta):
    os._exit(3)


def other_shape(theta):
    return np.zeros(5)


def of_nan(theta):
    return np.array([math.nan, 0.0, 1.0])


def prior():
    from gensci.core.priors import Prior

    return Prior.from_json(PRIOR)


def no_prior():
    return 3


def posterior(scale=NOISE):
    """Mean and covariance."""
    precision = MATRIX.T @ MATRIX / scale**2 + np.eye(2)
    covariance = np.linalg.inv(precision)
    return covariance @ MATRIX.T @ OBSERVATION / scale**2, covariance


def log_evidence():
    """Of `log_likelihood`, which is not normalised."""
    covariance = MATRIX @ MATRIX.T + NOISE**2 * np.eye(3)
    value = -0.5 * OBSERVATION @ np.linalg.solve(covariance, OBSERVATION)
    return value - 0.5 * np.linalg.slogdet(covariance)[1] + 3 * math.log(NOISE)
