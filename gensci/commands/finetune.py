"""`gensci finetune`: adapt a pretrained flow of peptides to one system."""

from __future__ import annotations

from typing import Any


def run_finetune(
    system: str,
    checkpoint: str | None = None,
    out: str | None = None,
    rounds: int = 4,
    draws: int = 4000,
    held_out: int = 10_000,
    refresh: str = "importance",
    particles: int = 1000,
    least: int = 100,
    seed: int | None = None,
    device: str = "auto",
    allow_extrapolation: bool = False,
    threads: int | None = None,
    save_seconds: float = 30.0,
    train_settings: dict[str, Any] | None = None,
    sampler_settings: dict[str, Any] | None = None,
    system_settings: dict[str, Any] | None = None,
    proposal_settings: dict[str, Any] | None = None,
) -> int:
    """Adapt a flow to one peptide by its own weighted draws; the same command again continues.

    The result is a checkpoint: `gensci sample --system AAAA --checkpoint runs/AAAA`. It is never
    worse than the flow it began with: independent draws of both are compared, and where the
    finetuned one is not better beyond the errors, the weights are those it began with.

    Args:
        system: AAAA, Ace-A-Nme or peptide:AA.
        checkpoint: name or folder of the flow to begin with, which must tell its density; by
            default that of `gensci sample`.
        out: folder of the run and of the new checkpoint, by default runs/NAME.
        rounds: how often the flow draws, is weighed and learns.
        draws: of each round; one energy each.
        held_out: draws of the flow before (which are learned from too) and after; one energy each.
        refresh: importance (learn from weighted draws), or smc (also from a population that the
            smc sampler brings from the flow to the target in each round).
        particles: of that population.
        least: effective rows that a round learns from; below, weights are flattened.
        seed: of all randomness; by default it varies, and is written to run.json.
        device: auto, cpu, cuda or cuda:1.
        allow_extrapolation: also peptides of lengths the checkpoint was not trained on.
        threads: CPU threads; by default torch decides.
        save_seconds: how often unfinished work is saved for resuming.
        train_settings: of the gradient steps; easier as --train.steps 100; also rows,
            learning_rate, warmup, likelihood, dispersion, clip, trust, gradient_norm, ema.
        sampler_settings: of smc; easier as --sampler.num_moves 2.
        system_settings: of the system; easier as --system.temperature 330.
        proposal_settings: of the flow; easier as --proposal.temperature 310.
    """
    # imported late, so that `gensci finetune --help` does not wait for torch
    from gensci.commands.device import set_threads
    from gensci.commands.finetuning import Order, finetune_into

    set_threads(threads)
    order = Order(
        system=system,
        checkpoint=checkpoint,
        sizes={
            "rounds": rounds,
            "draws": draws,
            "held_out": held_out,
            "refresh": refresh,
            "particles": particles,
            "least": least,
        },
        seed=seed,
        device=device,
        allow_extrapolation=allow_extrapolation,
        save_seconds=save_seconds,
        train=train_settings or {},
        sampler=sampler_settings or {},
        system_settings=system_settings or {},
        proposal_settings=proposal_settings or {},
    )
    finetune_into(out, order)
    return 0
