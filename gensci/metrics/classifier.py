"""Can a classifier tell two samples apart? C2ST as sbibm defines it, a fast one, and local C2ST."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import ArrayLike

from gensci.core.errors import GensciError, UsageError

Array = np.ndarray


@dataclass(frozen=True)
class ClassifierSettings:
    """How the networks of ``fast_c2st`` and ``LocalC2ST`` are trained.

    Attributes:
        hidden: width of both hidden layers.
        steps: of Adam, with a learning rate that falls to zero along a cosine.
        batch: rows in each step.
        learning_rate: at the start.
        weight_decay: decoupled, against learning single rows by heart.
    """

    hidden: int = 40
    steps: int = 1000
    batch: int = 512
    learning_rate: float = 1e-2
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class Separation:
    """How well a classifier tells two samples apart.

    Attributes:
        accuracy: on held-out rows, of both samples alike; 0.5 where it cannot.
        folds: accuracy on each fold.
        sd: standard deviation of the accuracy for samples of one distribution.
    """

    accuracy: float
    folds: tuple[float, ...]
    sd: float

    @property
    def sigma(self) -> float:
        """Excess over 0.5 in standard deviations."""
        return (self.accuracy - 0.5) / self.sd


@dataclass(frozen=True, eq=False)
class LocalTest:
    """Is the posterior of one observation right?

    Attributes:
        statistic: mean squared distance of the class probability from one half.
        null: (trials,) the same from classifiers of exchanged labels.
        pvalue: share of the null at or above the statistic, itself counted.
        probability: (m,) at each draw that it is a true parameter rather than a draw: above one
            half where the posterior has too little mass, below where too much.
    """

    statistic: float
    null: Array
    pvalue: float
    probability: Array


def c2st(a: ArrayLike, b: ArrayLike, *, seed: int = 1, folds: int = 5) -> float:
    """Accuracy of a classifier between two samples, exactly as sbibm computes it.

    Both samples are z-scored by the first, which should be the reference. A multilayer perceptron
    of scikit-learn with two layers of ten units per dimension is trained on each fold's rest.

    Args:
        a: (n, d) reference.
        b: (m, d) as many rows as ``a``: the accuracy of unequal samples is above 0.5 by itself.
        seed: of the folds and of the networks.
        folds: of the cross-validation.

    Raises:
        UsageError: samples that do not fit each other, or are not finite.
        GensciError: scikit-learn is not installed.

    Reference: Lopez-Paz and Oquab (2017), arXiv:1610.06545; Lueckmann, Boelts, Greenberg,
    Goncalves and Macke (2021), arXiv:2101.04653.
    """
    try:
        from sklearn.model_selection import KFold, cross_val_score
        from sklearn.neural_network import MLPClassifier
    except ImportError as error:
        raise GensciError(
            "c2st needs scikit-learn, which is not installed",
            "pip install scikit-learn, or use fast_c2st",
        ) from error
    first, second = _samples(a, b)
    rows = torch.cat(_scored(first, second)).numpy()
    labels = np.concatenate([np.zeros(len(first)), np.ones(len(second))])
    width = 10 * rows.shape[1]
    network = MLPClassifier(
        activation="relu",
        hidden_layer_sizes=(width, width),
        max_iter=10000,
        solver="adam",
        random_state=seed,
    )
    split = KFold(n_splits=folds, shuffle=True, random_state=seed)
    return float(np.mean(cross_val_score(network, rows, labels, cv=split, scoring="accuracy")))


def fast_c2st(
    a: ArrayLike,
    b: ArrayLike,
    generator: torch.Generator,
    *,
    folds: int = 5,
    settings: ClassifierSettings | None = None,
) -> Separation:
    """Accuracy of a classifier between two samples, all folds trained at once.

    Besides the scores, the networks are shown waves of the rank of each parameter, so that sharp
    edges and thin structures are seen within seconds; ``c2st`` needs longer and finds somewhat less
    (two moons blurred by 0.09 standard deviations: 0.86 against 0.79). For comparison with
    published numbers use ``c2st``. Samples of unequal size are weighed so that 0.5 still means
    equal. Weighted samples are resampled first (``SampleSet.resample``).

    Args:
        a: (n, d) samples.
        b: (m, d) samples.
        generator: of folds, networks and batches.
        folds: of the cross-validation.
        settings: of the training.

    Raises:
        UsageError: samples that do not fit each other, or are not finite.
    """
    first, second = _samples(a, b)
    rows = torch.cat([torch.cat(_scored(first, second)), _rank_waves(first, second)], 1).float()
    labels = torch.cat([torch.zeros(len(first)), torch.ones(len(second))])
    share = torch.cat([labels.new_full((len(s),), 0.5 / len(s)) for s in (first, second)])
    fold = torch.randperm(len(rows), generator=generator) % folds
    held_out = (fold == torch.arange(folds)[:, None]).float()
    networks = _trained(
        rows,
        labels.expand(folds, -1),
        (1.0 - held_out) * share * len(rows),
        settings or ClassifierSettings(),
        generator,
    )
    with torch.no_grad():
        hit = ((networks(rows) > 0) == (labels > 0.5)).float()
    weight = held_out * share
    scores = (hit * weight).sum(1) / weight.sum(1)
    accuracy = float((hit * weight).sum() / weight.sum())
    sd = math.sqrt((1 / len(first) + 1 / len(second)) / 16)
    return Separation(accuracy, tuple(scores.tolist()), sd)


@dataclass(frozen=True, eq=False)
class LocalC2ST:
    """A test of posteriors at single observations, trained once on pairs of parameters and data.

    A classifier tells (true theta, x) from (posterior draw, x). Where the posterior of an
    observation is right, its probability there is one half. The null distribution comes from the
    same training with true and drawn parameters exchanged at random within each pair, which
    changes nothing for a right posterior.

    Attributes:
        networks: the classifier, then one of each trial of the null.
        centre: (features,) of the standardisation.
        scale: (features,).
        dim: of theta.

    Reference: Linhart, Gramfort and Rodrigues (2023), arXiv:2306.03580.
    """

    networks: _Networks
    centre: torch.Tensor
    scale: torch.Tensor
    dim: int

    @classmethod
    def fit(
        cls,
        truth: ArrayLike,
        draw: ArrayLike,
        x: ArrayLike,
        generator: torch.Generator,
        *,
        trials: int = 99,
        settings: ClassifierSettings | None = None,
    ) -> LocalC2ST:
        """Train on calibration runs.

        Args:
            truth: (runs, d) parameters drawn from the prior.
            draw: (runs, d) one draw of the judged posterior of each run.
            x: (runs, k) the data (or summaries) of each run.
            generator: of exchanges, networks and batches.
            trials: of the null; the least p-value is ``1 / (trials + 1)``.
            settings: of the training.

        Raises:
            UsageError: shapes that do not fit each other, or numbers that are not finite.
        """
        true, drawn = _samples(truth, draw)
        data = torch.as_tensor(x)
        if len(true) != len(drawn) or data.dim() != 2 or len(data) != len(true):
            raise UsageError(
                f"truth {tuple(true.shape)}, draw {tuple(drawn.shape)} and x "
                f"{tuple(data.shape)} do not fit",
                "give (runs, d), (runs, d) and (runs, k)",
            )
        data = data.double()
        rows = torch.cat([torch.cat([true, data], 1), torch.cat([drawn, data], 1)]).double()
        if not torch.isfinite(rows).all():
            raise UsageError("x holds numbers that are not finite", "leave such runs out")
        centre, scale = rows.mean(0), _positive(rows.std(0))
        exchanged = torch.rand(trials + 1, len(true), generator=generator) < 0.5
        exchanged[0] = False
        labels = torch.cat([~exchanged, exchanged], 1).float()
        networks = _trained(
            ((rows - centre) / scale).float(),
            labels,
            torch.ones_like(labels),
            settings or ClassifierSettings(),
            generator,
        )
        return cls(networks, centre, scale, true.shape[1])

    def test(self, draws: ArrayLike, x: ArrayLike) -> LocalTest:
        """Judge the posterior of one observation.

        Args:
            draws: (m, d) of the posterior of ``x``.
            x: (k,) the observation.

        Raises:
            UsageError: other dimensions than those of ``fit``.
        """
        theta, data = torch.as_tensor(draws).double(), torch.as_tensor(x).double()
        fits = theta.dim() == 2 and data.dim() == 1 and theta.shape[1] == self.dim
        if not fits or self.dim + len(data) != len(self.centre):
            raise UsageError(
                f"draws {tuple(theta.shape)} and x {tuple(data.shape)} are not what was trained on",
                f"give (m, {self.dim}) and ({len(self.centre) - self.dim},)",
            )
        rows = torch.cat([theta, data.expand(len(theta), -1)], 1)
        with torch.no_grad():
            logits = self.networks(((rows - self.centre) / self.scale).float())
        probability = torch.sigmoid(logits.double()).numpy()
        statistic = ((probability - 0.5) ** 2).mean(1)
        null = statistic[1:]
        pvalue = (1 + int((null >= statistic[0]).sum())) / (1 + len(null))
        return LocalTest(float(statistic[0]), null, pvalue, probability[0])


class _Networks(torch.nn.Module):
    """Independent networks of two hidden layers, evaluated on the same rows in one product."""

    def __init__(self, count: int, features: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        sizes = (features, hidden, hidden, 1)
        self.weights, self.biases = torch.nn.ParameterList(), torch.nn.ParameterList()
        for inside, outside in pairwise(sizes):
            limit = math.sqrt(6.0 / (inside + outside))
            uniform = torch.rand(count, inside, outside, generator=generator)
            self.weights.append(torch.nn.Parameter((2 * uniform - 1) * limit))
            self.biases.append(torch.nn.Parameter(torch.zeros(count, 1, outside)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Logits (count, n) of rows (n, features)."""
        hidden = rows.expand(len(self.weights[0]), -1, -1)
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            hidden = torch.relu(torch.baddbmm(bias, hidden, weight))
        return torch.baddbmm(self.biases[-1], hidden, self.weights[-1])[..., 0]


def _trained(
    rows: torch.Tensor,
    labels: torch.Tensor,
    weights: torch.Tensor,
    settings: ClassifierSettings,
    generator: torch.Generator,
) -> _Networks:
    """One network for each row of ``labels`` and ``weights`` (count, n), on ``rows`` (n, f)."""
    networks = _Networks(len(labels), rows.shape[1], settings.hidden, generator)
    optimiser = torch.optim.AdamW(
        networks.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
    )
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits
    batch = min(settings.batch, len(rows))
    order = torch.empty(0, dtype=torch.int64)
    for step in range(settings.steps):
        if len(order) < batch:
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        chosen, order = order[:batch], order[batch:]
        for group in optimiser.param_groups:
            cosine = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            group["lr"] = settings.learning_rate * cosine
        loss = loss_of(networks(rows[chosen]), labels[:, chosen], weights[:, chosen])
        optimiser.zero_grad(set_to_none=True)
        # each network sees the loss as if it were alone
        (loss * len(labels)).backward()
        optimiser.step()
    return networks


def _samples(a: ArrayLike, b: ArrayLike) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = torch.as_tensor(a).detach().cpu(), torch.as_tensor(b).detach().cpu()
    if first.dim() != 2 or second.dim() != 2 or first.shape[1] != second.shape[1]:
        raise UsageError(
            f"samples of shapes {tuple(first.shape)} and {tuple(second.shape)} do not fit",
            "give (n, d) and (m, d)",
        )
    if not (torch.isfinite(first).all() and torch.isfinite(second).all()):
        raise UsageError("samples hold numbers that are not finite", "leave such rows out")
    return first, second


def _scored(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    mean, sd = a.mean(0), _positive(a.std(0))
    return (a - mean) / sd, (b - mean) / sd


def _rank_waves(a: torch.Tensor, b: torch.Tensor, waves: int = 4) -> torch.Tensor:
    """Cosines (n + m, waves * d) of the common ranks; equal values have one rank, in a or b."""
    values = torch.cat([a, b]).T.contiguous()
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values)
    rank = (below + torch.searchsorted(ordered, values, right=True)) / (2.0 * values.shape[1])
    angle = math.pi * rank.T[..., None] * torch.arange(1, waves + 1)
    return math.sqrt(2.0) * torch.cos(angle).flatten(1)


def _positive(sd: torch.Tensor) -> torch.Tensor:
    return torch.where(sd > 0, sd, torch.ones_like(sd))
