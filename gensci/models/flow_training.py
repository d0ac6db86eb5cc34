"""Training of small flows by Lightning: Adam, cosine rate, averaged weights, early stop.

The steps cost about a millisecond, so the module keeps what is done around them small: several
optimiser steps per call, no bars, no loggers, and a validation of its own on averaged weights.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pytorch_lightning as pl
import torch
from torch import Generator, Tensor, nn

from gensci.core.errors import GensciError
from gensci.core.random import stream

Loss = Callable[[Tensor, Generator], Tensor]
"""From row numbers (b,) and a generator to the mean loss, a scalar."""

STEPS_PER_CALL = 10


@dataclass(frozen=True)
class Schedule:
    """How long and how fast.

    Args:
        epochs: Most passes over the rows.
        steps: Most optimiser steps, whatever the epochs.
        batch: Rows per step.
        learning_rate: Highest, after `warm_up` steps; it falls as a cosine to zero.
        warm_up: Steps of linear rise.
        weight_decay: Of AdamW.
        gradient_norm: Longer gradients are shortened to it.
        ema: Decay per step of the averaged weights.
        patience: Checks without a better validation after which training ends.
        check_every: Fewest steps between two checks.
    """

    epochs: int = 200
    steps: int = 20_000
    batch: int = 200
    learning_rate: float = 2e-3
    warm_up: int = 50
    weight_decay: float = 1e-5
    gradient_norm: float = 5.0
    ema: float = 0.99
    patience: int = 15
    check_every: int = 40


@dataclass(frozen=True)
class Outcome:
    """What came of a training.

    Attributes:
        loss: Validation loss of the weights kept, nats.
        steps: Optimiser steps taken.
        history: (step, validation loss) at each check.
        stopped_early: Patience ended it before the schedule.
    """

    loss: float
    steps: int
    history: tuple[tuple[int, float], ...]
    stopped_early: bool


class RowBatches:
    """Shuffled row numbers, anew in each epoch, from a named stream.

    Several batches come at once: what Lightning does around each call would cost as much as a step.
    """

    def __init__(self, num_rows: int, batch: int, passes: int, seed: int) -> None:
        self.num_rows, self.batch = num_rows, min(batch, num_rows)
        self.passes, self.seed, self.epoch = passes, seed, 0

    def __len__(self) -> int:
        return self.passes * math.ceil(self.num_rows // self.batch / STEPS_PER_CALL)

    def __iter__(self) -> Iterator[Sequence[Tensor]]:
        for _ in range(self.passes):
            order = torch.randperm(self.num_rows, generator=stream(self.seed, "rows", self.epoch))
            self.epoch += 1
            batches = order.split(self.batch)[: self.num_rows // self.batch]
            for first in range(0, len(batches), STEPS_PER_CALL):
                yield batches[first : first + STEPS_PER_CALL]


class FlowTraining(pl.LightningModule):
    """Minimise a loss over the weights of a network; the best averaged weights are kept.

    Args:
        parameters: What is trained.
        loss: Of training rows.
        validate: The loss that decides, without noise of its own from call to call.
        schedule: How long and how fast.
        num_rows: Training rows.
        seed: Of order and noise.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        loss: Loss,
        validate: Callable[[], Tensor],
        schedule: Schedule,
        num_rows: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.registered = nn.ParameterList(parameters)
        self.trained = list(parameters)  # a ParameterList costs a millisecond to walk
        self.loss, self.validate, self.schedule = loss, validate, schedule
        per_epoch = max(1, num_rows // min(schedule.batch, num_rows))
        passes = math.ceil(schedule.check_every / per_epoch)
        self.batches = RowBatches(num_rows, schedule.batch, passes, seed)
        self.total = min(schedule.steps, schedule.epochs * per_epoch)
        self.generator = stream(seed, "noise")
        self.average = [p.detach().clone() for p in parameters]
        self.best = [p.detach().clone() for p in parameters]
        self.best_loss, self.since_best, self.taken = math.inf, 0, 0
        self.history: list[tuple[int, float]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what is trained."""
        rate, decay = self.schedule.learning_rate, self.schedule.weight_decay
        return torch.optim.AdamW(self.trained, lr=rate, weight_decay=decay, fused=True)

    def train_dataloader(self) -> RowBatches:
        """Batches of row numbers."""
        return self.batches

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        s = self.schedule
        rise = min(1.0, (step + 1) / max(1, s.warm_up))
        return s.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / self.total))

    def training_step(self, batches: Sequence[Tensor], index: int) -> None:
        """A few steps of the optimiser and of the average."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        for rows in batches:
            if self.taken < self.total:
                self._step(optimizer, rows)

    def _step(self, optimizer: torch.optim.Optimizer, rows: Tensor) -> None:
        optimizer.param_groups[0]["lr"] = self.rate(self.taken)
        optimizer.zero_grad()
        loss = self.loss(rows, self.generator)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.schedule.gradient_norm)
        if torch.isfinite(norm):  # a step from a batch that overflows would be lost for good
            optimizer.step()
        self.taken += 1
        with torch.no_grad():
            # the first steps are forgotten sooner, as in the schedule of Polyak averages
            decay = min(self.schedule.ema, (1 + self.taken) / (10 + self.taken))
            torch._foreach_lerp_(self.average, self.trained, 1 - decay)

    @torch.no_grad()
    def on_train_epoch_end(self) -> None:
        """Validate the average; keep it where it is the best so far."""
        current = [p.detach().clone() for p in self.trained]
        self._load(self.average)
        loss = float(self.validate())
        self._load(current)
        self.history.append((self.taken, loss))
        if loss < self.best_loss:
            self.best_loss, self.since_best = loss, 0
            self.best = [p.clone() for p in self.average]
        else:
            self.since_best += 1
        if self.since_best >= self.schedule.patience or self.taken >= self.total:
            self.trainer.should_stop = True

    @torch.no_grad()
    def _load(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.trained, values, strict=True):
            parameter.copy_(value)


def train(
    parameters: Sequence[nn.Parameter],
    loss: Loss,
    validate: Callable[[], Tensor],
    schedule: Schedule,
    num_rows: int,
    seed: int,
) -> Outcome:
    """Train; afterwards the parameters hold the best averaged weights. See `FlowTraining`.

    Raises:
        GensciError: The validation loss was never finite.
    """
    module = FlowTraining(parameters, loss, validate, schedule, num_rows, seed)
    with torch.no_grad():
        start = float(validate())
    if math.isfinite(start):
        module.best_loss = start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on workers, logging and its own internals
        _trainer().fit(module)
    if not math.isfinite(module.best_loss):
        raise GensciError(
            "training of the flow never gave a finite validation loss",
            "look for outliers in the data, or lower the learning rate",
        )
    module._load(module.best)
    early = module.taken < module.total
    return Outcome(module.best_loss, module.taken, tuple(module.history), early)


def _trainer() -> pl.Trainer:
    """A trainer that prints and writes nothing."""
    logger = logging.getLogger("pytorch_lightning")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return pl.Trainer(
            max_epochs=-1,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    finally:
        logger.setLevel(level)
