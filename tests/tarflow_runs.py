"""A small TarFlow as a checkpoint, and the command that samples from it."""

from pathlib import Path

from gensci.models.checkpoint import save_checkpoint
from gensci.nn.tarflow import TarFlowPeptide


def save_tarflow(network: TarFlowPeptide, folder: Path) -> Path:
    """Write the network as a checkpoint of dipeptides into a sub-folder."""
    config = {"class": "tarflow-peptide", "settings": network.settings}
    path = folder / "tiny"
    save_checkpoint(path, network.state_dict(), config, {"trained_residues": [2, 2]})
    return path


def sample_command(checkpoint: Path | str, out: Path, *more: str) -> list[str]:
    """`gensci sample` of forty conformations of AG."""
    fixed = ["sample", "--system", "AG", "--num-samples", "40", "--seed", "1", "--out", str(out)]
    return [*fixed, "--checkpoint", str(checkpoint), *more]
