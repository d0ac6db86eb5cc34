"""`gensci average`: one checkpoint between several of a training."""

from __future__ import annotations

from gensci.core.errors import UsageError


def average(checkpoints: str, shares: str, out: str) -> int:
    """Average the weights of checkpoints, such as those before and after a further training.

    Args:
        checkpoints: Names or folders with commas, of one network.
        shares: Of each in the average, with commas; positive, with the sum 1, such as 0.3,0.7.
        out: Folder to write the checkpoint to.

    Returns:
        Exit status.

    Raises:
        UsageError: Shares that are none.
        CheckpointError: A checkpoint is absent or of another network.
    """
    from gensci.models.averaging import average_checkpoints

    try:
        given = [float(share) for share in shares.split(",")]
    except ValueError as error:
        raise UsageError(f"--shares {shares!r} is not numbers", "write for example 0.3,0.7") from (
            error
        )
    sources = [source.strip() for source in checkpoints.split(",")]
    folder = average_checkpoints(sources, given, out)
    print(f"wrote {folder}; use it with --checkpoint {folder}")
    return 0
