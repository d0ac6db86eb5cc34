"""`gensci sample`: weighted samples of one system, or of every system in a file."""

from __future__ import annotations

from typing import Any


# Not `sample`: jsonargparse looks the name up in `gensci` too, where it would import torch.
def run_sample(
    system: str,
    num_samples: int | None = None,
    sampler: str | None = None,
    checkpoint: str | None = None,
    out: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    allow_extrapolation: bool = False,
    threads: int | None = None,
    save_seconds: float = 30.0,
    formula_units: int | None = None,
    sampler_settings: dict[str, Any] | None = None,
    system_settings: dict[str, Any] | None = None,
    proposal_settings: dict[str, Any] | None = None,
) -> int:
    """Draw samples of a system and keep every weight; the same command again continues.

    Args:
        system: AA, Ace-A-Nme, peptide:AA, toy:double-well, crystal:TiO2, crystal:* (new ones),
            smiles:CCO (conformers), molecule:* (new ones), lisa:mbhb (a black-hole binary), a
            molecule's file (System .xml or .prmtop with coordinates beside it), or a file of
            systems (FASTA, CSV, list).
        num_samples: how many to draw of each system; by default 16 crystals or molecules, each of
            which is a file, 20000 of lisa:mbhb, else 2000.
        sampler: importance, smc, mcmc, direct, twisted-smc, tempering, slice, hmc or nuts;
            `gensci list samplers` shows their settings. By default direct for crystals and
            molecules, else importance.
        checkpoint: name or folder of the model that proposes; by default peptide, crystals,
            molecules or lisa-loud, as the system is.
        out: run folder, by default results/NAME; with a file, one sub-folder per system.
        seed: of all randomness; by default it varies, and is written to run.json.
        device: auto, cpu, cuda or cuda:1.
        allow_extrapolation: also sample peptides of lengths the checkpoint was not trained on.
        threads: CPU threads; by default torch decides.
        save_seconds: how often unfinished work is saved for resuming.
        formula_units: how many of them a cell of crystal:TiO2 holds.
        sampler_settings: settings of the sampler; easier as --sampler.num_steps 64.
        system_settings: settings of the system; easier as --system.temperature 330.
        proposal_settings: how models draw; easier as --proposal.num_steps 20 of crystals and
            molecules, or --proposal.rotations 8, --proposal.mirror true and --proposal.precision
            bfloat16 of peptides.

    Returns:
        Exit status: 0, 3 where some systems of a file failed, 1 where all did.
    """
    # imported late, so that `gensci sample --help` does not wait for torch
    from gensci.commands.device import set_threads
    from gensci.commands.draw import Request
    from gensci.commands.sampling import sample_text

    set_threads(threads)
    units = {} if formula_units is None else {"formula_units": formula_units}
    request = Request(
        num_samples=num_samples,
        sampler=sampler,
        checkpoint=checkpoint,
        seed=seed,
        device=device,
        allow_extrapolation=allow_extrapolation,
        save_seconds=save_seconds,
        sampler_settings=sampler_settings or {},
        system_settings={**(system_settings or {}), **units},
        proposal_settings=proposal_settings or {},
    )
    return sample_text(system, request, out)
