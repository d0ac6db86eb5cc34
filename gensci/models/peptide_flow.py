"""Lightning module of the peptide flows: maximum likelihood over many peptides."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gensci.core.errors import UsageError
from gensci.core.random import stream
from gensci.core.registry import MODELS
from gensci.models.checkpoint import load_network, refuse_other_weights, save_checkpoint
from gensci.models.residual_losses import clipped_square, dispersion, renyi

OWN_STEPS = 4  # drawing takes many small operations, so it is done for several steps at once


class OwnDraws(NamedTuple):
    """Draws of the flow for one peptide.

    Attributes:
        positions: (draws, atoms, 3) nm, centred.
        energy: (draws,) U / kT.
        cond: conditioning tensors of the network.
        level: scalar, log q + U / kT that the flow had on the peptide's data.
    """

    positions: Tensor
    energy: Tensor
    cond: dict[str, Tensor]
    level: Tensor


class Terms(NamedTuple):
    """Terms of the loss on frames of one peptide, scalars.

    Attributes:
        nll: mean of -log q (nats).
        dispersion: of the log-weights (nats^2).
        renyi: divergence, up to a constant (nats).
        level: median of log q + U / kT.
    """

    nll: Tensor
    dispersion: Tensor
    renyi: Tensor
    level: Tensor


class PeptideFlow(pl.LightningModule):
    """Maximum-likelihood training of a transferable flow over many peptides.

    A batch is a list of groups, each with ``positions`` (frames, atoms, 3) nm of one peptide and
    its conditioning tensors ``cond``. The loss is the mean of -log q / (3 atoms), so peptides of
    every size weigh the same. An exponential moving average of the weights is validated and
    shipped. Ref: Tan et al. 2025, arXiv 2508.18175, appendix C.

    Args:
        network: has ``log_prob(x, cond)``, ``encode(peptide)`` and, where it is not invariant to
            rigid motion, ``augment(x, generator)``.
        learning_rate, weight_decay, betas: of AdamW.
        dispersion: weight of the log-dispersion term, the variance over the frames of a peptide of
            log q + U / kT, which the Boltzmann density makes zero. Energies are labels without
            noise, so this sharpens a flow that is already near. Ref: arXiv 2602.03729 (2026,
            log-dispersion regularisation); Richter et al. 2020, arXiv 2010.10436 (VarGrad).
        own_samples: draws of the flow itself, of one peptide in each step, that join the dispersion
            with energies from the group's ``energy``; they find where the flow is dense and the
            target is not.
        dispersion_clip: residuals further than this from their median (nats) count linearly.
        renyi: weight of the Renyi divergence of order ``1 + renyi_excess`` beside likelihood; it
            makes most of the frames that the flow makes too seldom (see ``residual_losses``).
        renyi_excess: 1 for minus the log of the effective sample size, less for a gentler one.
        schedule: ``linear`` (rise, constant, fall to zero) or, as Prose was trained, ``cosine``:
            see ``one_cycle``.
        warmup_steps: over which the rate rises.
        decay_steps: of ``linear``: last steps of training, over which the rate falls. Ref: Hu et
            al. 2024, arXiv 2404.06395 (warm-up, stable, decay: a run can be lengthened before it).
        energy_after: step from which the energies (``dispersion``, ``renyi``) count; before it the
            residuals are large and likelihood alone is the better guide.
        ema_decay: of the averaged weights, per step.
        seed: of the augmentation.
        start_from: checkpoint whose weights the training starts from; see ``take_weights``.
        fuse: compile the network's costly parts where it can (``InternalFlow.fuse``).

    Raises:
        CheckpointError: ``start_from`` is absent or of another network.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-3,
        weight_decay: float = 4e-4,
        betas: tuple[float, float] = (0.9, 0.95),
        warmup_steps: int = 200,
        decay_steps: int = 2000,
        ema_decay: float = 0.999,
        dispersion: float = 0.0,
        own_samples: int = 0,
        dispersion_clip: float = 10.0,
        renyi: float = 0.0,
        renyi_excess: float = 0.5,
        energy_after: int = 0,
        seed: int = 0,
        schedule: Literal["linear", "cosine"] = "linear",
        start_from: str | None = None,
        fuse: bool = False,
    ):
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        known: list[str] = []
        if start_from is not None:
            known = take_weights(network, start_from)
        self.sequences_before = known
        self.network = network
        self.average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True
        )
        self.average.requires_grad_(False)
        self._own: OwnDraws | None = None
        self._averaged = 0

    def _augment(self, positions: Tensor, index: int) -> Tensor:
        if not hasattr(self.network, "augment"):
            return positions
        generator = stream(self.hparams.seed, "augment", self.global_step, index)
        return self.network.augment(positions.cpu(), generator).to(positions.device)

    def _residual(self, network: nn.Module, x: Tensor, energy: Tensor, cond: Any) -> Any:
        """Log q (frames,) and log q + U / kT without the part of the centroid (frames,)."""
        log_q = network.log_prob(x, cond)
        variance = network.centroid_scale**2 / x.shape[1]
        return log_q, log_q + energy + 0.5 * x.mean(1).square().sum(-1) / variance

    def _terms(self, network: nn.Module, group: Any, index: int) -> Terms:
        x = self._augment(group.positions, index)
        log_q, residual = self._residual(network, x, group.reduced_energy, group.cond)
        clip = self.hparams.dispersion_clip
        return Terms(
            -log_q.mean(),
            dispersion(residual, clip),
            renyi(residual, self.hparams.renyi_excess, clip),
            residual.detach().median(),
        )

    def _draw(self, group: Any, level: Tensor) -> OwnDraws:
        """Draws of the flow as it is for the coming steps, with their energies."""
        names = ("own", self.global_step, self.global_rank)
        generator = stream(self.hparams.seed, *names, device=level.device)
        count = self.hparams.own_samples * OWN_STEPS
        with torch.autocast(level.device.type, enabled=False):  # positions need all their digits
            x, _ = self.network.sample_and_log_prob(count, group.cond, generator)
            x = x - x.mean(1, keepdim=True)
            energy = group.energy(x)
        usable = energy.isfinite() & x.isfinite().all(-1).all(-1)
        return OwnDraws(x[usable], energy[usable], group.cond, level)

    def _own_dispersion(self, group: Any, level: Tensor) -> Tensor:
        """The dispersion on the flow's own draws: where it is dense and the target is not.

        The term is right for draws of any origin, so one lot, of one peptide, serves several steps.
        """
        turn = self.global_step % OWN_STEPS
        if turn == 0 or self._own is None:
            self._own = self._draw(group, level)
        own = self._own
        rows = slice(turn, None, OWN_STEPS)
        if not len(own.positions[rows]):
            return level.new_zeros(())
        x = self._augment(own.positions[rows], -1)
        _, residual = self._residual(self.network, x, own.energy[rows], own.cond)
        spread = clipped_square(residual - own.level, self.hparams.dispersion_clip).mean()
        return spread / (3 * x.shape[1])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with the weights of another network.

        Raises:
            CheckpointError: names the first weight that differs.
        """
        refuse_other_weights(
            checkpoint["state_dict"],
            self.state_dict(),
            "the training to go on with is of another network",
            "give the settings of that training, or --ckpt_path null to begin anew",
        )

    def on_fit_start(self) -> None:
        """Compile the network's costly parts where asked.

        Raises:
            UsageError: ``renyi_excess`` is not above 0.
        """
        if not self.hparams.renyi_excess > 0:
            raise UsageError(
                f"--model.renyi_excess {self.hparams.renyi_excess}", "give it above 0, as 0.5"
            )
        if self.hparams.fuse and hasattr(self.network, "fuse"):
            self.network.fuse()

    def on_train_start(self) -> None:
        """Note where a resumed training stands."""
        self._averaged = self.global_step

    def on_train_epoch_start(self) -> None:
        """Tell the data which epoch it is, so that no two epochs draw the same batches."""
        data = getattr(self.trainer, "datamodule", None)
        if hasattr(data, "set_epoch"):
            data.set_epoch(self.current_epoch)

    def training_step(self, batch: list[Any], batch_idx: int) -> Tensor:
        """One step of maximum likelihood, with the dispersion of the log-weights where asked."""
        h, rows, levels = self.hparams, [], []
        counts = self.global_step >= h.energy_after
        weight, weight_renyi = (h.dispersion, h.renyi) if counts else (0.0, 0.0)
        part = batch_idx % self.trainer.accumulate_grad_batches  # of one step, each its own noise
        for index, group in enumerate(batch, part * len(batch)):
            found = self._terms(self.network, group, index)
            coordinates = 3 * group.positions.shape[1]
            loss = found.nll + weight * found.dispersion
            if weight_renyi:
                loss = loss + weight_renyi * found.renyi
            told = (found.nll / coordinates, found.dispersion, found.renyi)
            rows.append(torch.stack((loss / coordinates, *told)))
            levels.append(found.level)
        loss, *parts = torch.stack(rows).mean(0)
        for name, value in zip(("nll", "dispersion", "renyi"), parts, strict=True):
            self.log(f"train_{name}", value, prog_bar=True, batch_size=len(batch))
        if h.own_samples and weight:
            # Counted as a part of one group: with more weight, few wild draws upset the training.
            own = self._own_dispersion(batch[0], levels[0])
            loss = loss + weight * own / len(batch)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the averaged weights, once for each step of the optimiser."""
        if self.global_step != self._averaged:
            self.average.update_parameters(self.network)
        self._averaged = self.global_step

    def validation_step(self, batch: list[Any], batch_idx: int) -> None:
        """Likelihood and dispersion, under the averaged weights, of peptides not trained on."""
        for index, group in enumerate(batch):
            found = self._terms(self.average.module, group, index)
            told = {
                "val_nll": found.nll / (3 * group.positions.shape[1]),
                "val_dispersion": found.dispersion,
                "val_renyi": found.renyi,
            }
            self.log_dict(told, prog_bar=True, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with the rate of the schedule up to the last step."""
        h = self.hparams
        optimiser = torch.optim.AdamW(
            self.network.parameters(), h.learning_rate, h.betas, weight_decay=h.weight_decay
        )
        total = int(self.trainer.estimated_stepping_batches)

        def rate(step: int) -> float:
            if h.schedule == "cosine":
                return one_cycle(step, total, h.warmup_steps)
            rise = (step + 1) / max(1, h.warmup_steps)
            fall = (total - step) / max(1, h.decay_steps)
            return max(0.0, min(1.0, rise, fall))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def one_cycle(step: int, total: int, warmup: int, start: float = 1 / 500) -> float:
    """Rate of a step over the highest: from ``start`` up to 1 and back, both as half a cosine.

    Ref: Smith and Topin 2019, arXiv 1708.07120; lengths and ``start`` of arXiv 2508.18175,
    appendix C (there ``warmup`` is a twentieth of ``total``).
    """
    rising = step < warmup - 1
    first, last = (0, warmup - 1) if rising else (max(0, warmup - 1), total - 1)
    way = min(1.0, (step - first) / max(1, last - first))
    low = 0.5 * (1 + math.cos(math.pi * way)) if rising else 0.5 * (1 - math.cos(math.pi * way))
    return 1.0 + (start - 1.0) * low


def take_weights(network: nn.Module, checkpoint: str) -> list[str]:
    """Give a network the weights of a checkpoint, which may have fewer layers.

    Args:
        network: of the same class and sizes but for the number of layers.
        checkpoint: name of a shipped checkpoint or a folder.

    Returns:
        The sequences that the checkpoint was trained on, as far as it tells.

    Raises:
        CheckpointError: absent, or of another network; the first weight that differs is named.
    """
    earlier, meta = load_network(checkpoint)
    more = getattr(network, "settings", {}).get("num_layers", 0)
    more -= getattr(earlier, "settings", {}).get("num_layers", 0)
    if more > 0 and hasattr(earlier, "add_layers"):
        earlier.add_layers(more)
    refuse_other_weights(
        earlier.state_dict(),
        network.state_dict(),
        f"checkpoint {checkpoint} is of another network",
        "give the network its settings (more layers are allowed), or leave --model.start_from out",
    )
    network.load_state_dict(earlier.state_dict())
    return list(meta.get("training_sequences", []))


class ExportWeights(pl.Callback):
    """Writes the averaged weights as a checkpoint after every validation and at the end.

    Args:
        folder: of the checkpoint, as ``gensci sample --checkpoint`` takes it.
        data: one line on where the training data come from.
        residues: fewest and most residues of the training peptides.
    """

    def __init__(self, folder: str, data: str = "", residues: tuple[int, int] = (2, 2)):
        self.folder, self.data, self.residues = folder, data, residues

    def _write(self, trainer: pl.Trainer, module: PeptideFlow) -> None:
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if "/" not in k}
        names = getattr(trainer.datamodule, "names", [])
        meta = {
            "data": self.data,
            "trained_residues": list(self.residues),
            "training_sequences": sorted({*module.sequences_before, *names}),
            "steps": trainer.global_step,
            "settings": {k: v for k, v in module.hparams.items() if k != "_instantiator"},
            "metrics": metrics,
        }
        network = module.average.module
        config = {"class": MODELS.name_of(type(network)), "settings": network.settings}
        save_checkpoint(self.folder, network.state_dict(), config, meta)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write what was just validated."""
        self._write(trainer, pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the last state."""
        self._write(trainer, pl_module)
