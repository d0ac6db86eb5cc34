"""Lightning module of the continuous flow: flow matching over many peptides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.models.peptide_flow import PeptideFlow


class FlowMatching(PeptideFlow):
    """Flow matching of a transferable continuous flow over many peptides.

    Settings, batches, averaged weights, learning rate and exported checkpoints are those of
    :class:`PeptideFlow`, less what needs log q: the loss is the error of the field on straight
    paths, so training never follows the flow. The network has ``matching_loss(x, cond, generator)``
    and ``encode(peptide)``. Ref: Lipman et al. 2022, arXiv 2210.02747.
    """

    def on_fit_start(self) -> None:
        """Refuse settings of a loss that is not this one's.

        Raises:
            UsageError: a term of log-weights, or own draws, are asked for.
        """
        for name in ("dispersion", "renyi", "own_samples"):
            if self.hparams[name]:
                raise UsageError(
                    f"--model.{name}: flow matching knows no log q while it trains", "leave it out"
                )

    def _loss(self, network: nn.Module, group: Any, *names: int | str) -> Tensor:
        device = group.positions.device
        generator = stream(self.hparams.seed, "matching", *names, device=device)
        return network.matching_loss(group.positions, group.cond, generator)

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """One step: the mean loss over the peptides of the batch."""
        names = (self.global_step, self.global_rank)
        rows = [self._loss(self.network, g, *names, index) for index, g in enumerate(batch)]
        loss = torch.stack(rows).mean()
        self.log("train_loss", loss, prog_bar=True, batch_size=len(batch))
        return loss

    def validation_step(self, batch: list[Any], batch_idx: int) -> None:
        """Loss under the averaged weights with the same noise and times whenever it is asked."""
        for index, group in enumerate(batch):
            loss = self._loss(self.average.module, group, "validation", batch_idx, index)
            self.log("val_loss", loss, prog_bar=True, batch_size=1, sync_dist=True)
