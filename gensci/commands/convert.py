"""`gensci convert`: released weights of other packages as checkpoints."""

from __future__ import annotations

from gensci.core.errors import UsageError


def convert(
    weights: str,
    out: str = "checkpoints/prose",
    source_format: str = "prose",
    head_dim: int | None = None,
    sigma_data: float = 0.35,
) -> int:
    """Turn released weights into a checkpoint folder.

    Args:
        weights: File with the released weights, .pth or .safetensors.
        out: Folder to write the checkpoint to.
        source_format: Package that released them (--from); prose.
        head_dim: Width of an attention head; by default as published (64).
        sigma_data: Length scale of the training data, nm (0.28 where made for up to 4 residues).

    Returns:
        Exit status.

    Raises:
        UsageError: Unknown format or no such file.
        CheckpointError: The file is damaged or holds another architecture.
    """
    if source_format.lower() != "prose":
        raise UsageError(f"cannot convert from {source_format!r}", "choose from: prose")
    if sigma_data <= 0:
        raise UsageError(f"sigma_data is {sigma_data}", "give a positive length in nm")
    from gensci.models.convert import convert_prose

    folder = convert_prose(weights, out, head_dim, sigma_data)
    print(f"wrote {folder}; use it with --checkpoint {folder}")
    return 0
