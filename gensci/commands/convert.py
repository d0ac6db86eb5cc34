"""`gensci convert`: released weights of other packages as checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gensci.core.errors import UsageError


def convert(
    weights: str,
    out: str | None = None,
    source_format: str = "prose",
    head_dim: int | None = None,
    sigma_data: float | None = None,
    vocabulary: str | None = None,
) -> int:
    """Turn released weights into a checkpoint folder.

    Args:
        weights: File with the released weights, .pth, .pt or .safetensors.
        out: Folder to write the checkpoint to; checkpoints/prose or checkpoints/unigenx by default.
        source_format: Package that released them (--from); prose or unigenx.
        head_dim: prose: width of an attention head; by default as published (64).
        sigma_data: prose: length scale of the training data, nm; 0.35 by default (0.28 where made
            for up to 4 residues).
        vocabulary: unigenx: dictionary file of the weights; not needed for those of crystals.

    Returns:
        Exit status.

    Raises:
        UsageError: Unknown format, an option of another format, or no such file.
        CheckpointError: The file is damaged or holds another architecture.
    """
    formats = {
        "prose": {"head_dim": head_dim, "sigma_data": sigma_data},
        "unigenx": {"vocabulary": vocabulary},
    }
    name = source_format.lower()
    if name not in formats:
        raise UsageError(
            f"cannot convert from {source_format!r}", f"choose from: {', '.join(formats)}"
        )
    for other, options in formats.items():
        foreign = [key for key, value in options.items() if value is not None and other != name]
        if foreign:
            option = foreign[0].replace("_", "-")
            raise UsageError(f"--{option} has no meaning for {name}", "leave it out")
    if sigma_data is not None and sigma_data <= 0:
        raise UsageError(f"sigma_data is {sigma_data}", "give a positive length in nm")
    given = {key: value for key, value in formats[name].items() if value is not None}
    folder = _converter(name)(weights, out or f"checkpoints/{name}", **given)
    print(f"wrote {folder}; use it with --checkpoint {folder}")
    return 0


def _converter(name: str) -> Callable[..., Path]:
    """The function that converts from a format."""
    if name == "prose":
        from gensci.models.convert import convert_prose

        return convert_prose
    from gensci.models.convert_unigenx import convert_unigenx

    return convert_unigenx
