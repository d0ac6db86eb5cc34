"""Lightning module of the structure models: crystals and molecules."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gensci.core.random import stream
from gensci.core.registry import MODELS
from gensci.models.checkpoint import save_checkpoint
from gensci.nn.structure_sequence import Batch

VALIDATION_REPEATS = 24
TEMPLATES = "templates.safetensors"


class StructureModel(pl.LightningModule):
    """Maximum likelihood of tokens and denoising of slots; averaged weights are shipped.

    Args:
        network: has ``losses(batch, generator)`` and ``collate``.
        learning_rate, weight_decay, betas: of AdamW.
        slot_weight: of the denoising loss against the mean cross-entropy of the tokens.
        warmup_steps: over which the rate rises; it is constant after that.
        decay_steps: last steps of training, over which the rate falls to zero (Hu et al. 2024,
            arXiv:2404.06395: a run can be lengthened before it).
        ema_decay: of the averaged weights, per step.
        seed: of noise and augmentation.
    """

    def __init__(
        self,
        network: nn.Module,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
        slot_weight: float = 3.0,
        warmup_steps: int = 300,
        decay_steps: int = 2000,
        ema_decay: float = 0.999,
        seed: int = 0,
    ):
        super().__init__()
        self.save_hyperparameters(ignore=["network"])
        self.network = network
        self.average = AveragedModel(
            network, multi_avg_fn=get_ema_multi_avg_fn(ema_decay), use_buffers=True
        )
        self.average.requires_grad_(False)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one batch."""
        generator = stream(self.hparams.seed, "noise", self.global_step)
        losses = self.network.losses(batch, generator)
        self.log("token", losses.token, prog_bar=True)
        self.log("slot", losses.slot, prog_bar=True)
        return losses.token + self.hparams.slot_weight * losses.slot

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the averaged weights."""
        # A plain average while the weights still change fast.
        decay = min(self.hparams.ema_decay, (1 + self.global_step) / (10 + self.global_step))
        self.average.multi_avg_fn = get_ema_multi_avg_fn(decay)
        self.average.update_parameters(self.network)

    def on_train_start(self) -> None:
        """Take the rate of this run's schedule, not that of the end of a shorter one."""
        schedule = self.lr_schedulers()
        for group, base in zip(schedule.optimizer.param_groups, schedule.base_lrs, strict=True):
            group["lr"] = base * schedule.lr_lambdas[0](schedule.last_epoch)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Losses of the averaged weights, with the same noise every time."""
        generator = stream(self.hparams.seed, "validation", index)
        losses = self.average.module.losses(batch, generator, VALIDATION_REPEATS)
        for name in ("token", "slot"):
            self.log(
                f"val_{name}", getattr(losses, name), batch_size=batch.places[0], prog_bar=True
            )

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up, constant rate and decay; no weight decay of vectors and tables."""
        h = self.hparams
        named = [(n, p) for n, p in self.network.named_parameters() if p.requires_grad]
        decayed = [p for n, p in named if p.dim() > 1 and "embedding" not in n]
        kept = [p for n, p in named if p.dim() <= 1 or "embedding" in n]
        groups = [{"params": decayed}, {"params": kept, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(
            groups, h.learning_rate, betas=tuple(h.betas), weight_decay=h.weight_decay, fused=True
        )
        total = self.trainer.estimated_stepping_batches
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: min(
                1.0, (step + 1) / max(1, h.warmup_steps), (total - step) / max(1, h.decay_steps)
            ),
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, **others: Any
    ) -> None:
        """Clip the norm here: Lightning refuses to with an optimiser that is fused."""
        if gradient_clip_val:
            nn.utils.clip_grad_norm_(self.network.parameters(), gradient_clip_val, foreach=True)


class ExportStructureWeights(pl.Callback):
    """Write the averaged weights as a checkpoint folder after every validation and at the end.

    Args:
        folder: of the checkpoint.
        data: what it was trained on, for ``model.json``.
        templates: file with the pool that `gensci data pair` made, to lie beside the weights.
    """

    def __init__(self, folder: str, data: str, templates: str | None = None):
        self.folder, self.data, self.templates = folder, data, templates
        self.metrics: dict[str, float] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        shown = trainer.callback_metrics.items()
        self.metrics = {name: float(value) for name, value in shown if name.startswith("val_")}
        self.metrics["at_step"] = trainer.global_step
        self._write(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the checkpoint, where steps were taken since the last validation."""
        if trainer.is_global_zero and self.metrics.get("at_step") != trainer.global_step:
            self._write(trainer, pl_module)

    def _write(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        network = pl_module.average.module
        meta = {"data": self.data, "step": trainer.global_step, "metrics": self.metrics}
        config = {"class": MODELS.name_of(type(network)), "settings": network.settings}
        state = {name: value.half() for name, value in network.state_dict().items()}
        save_checkpoint(self.folder, state, config, meta)
        if self.templates is not None:
            write_beside(Path(self.templates), Path(self.folder) / TEMPLATES)


def write_beside(source: Path, place: Path) -> None:
    """Copy a file so that it is there whole or not at all."""
    part = place.with_name(f".{place.name}.{os.getpid()}")
    shutil.copyfile(source, part)
    part.replace(place)
