"""A trained flow as the proposal for one peptide. Needs no training package."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from gensci.core.errors import UsageError
from gensci.core.protocols import Tensors
from gensci.core.random import stream
from gensci.models.checkpoint import load_network

TRAINED_TEMPERATURE = 310.0  # K, where a checkpoint does not say: that of all training data so far
# Pairs of atoms evaluated at once for a density, which sees all pairs where a draw sees one row:
# on a CPU what fits the cache is fastest (measured on AA, AAAA and a 10-mer), on a GPU memory
# is what limits.
PAIRS_AT_ONCE = {"cpu": 40_000, "cuda": 2_000_000}
# Draws asked of the network at once, where the sampler asks for as many; a GPU is idle with few.
DRAWN_AT_ONCE = {"cpu": 256, "cuda": 4096}
PILOT = 32  # draws that tell how a flow trained elsewhere names equal atoms


class FlowProposal:
    """A trained flow for one peptide: an exact, normalised density on R^{3N} (nats, nm).

    Args:
        network: the flow; ``cond`` what its ``encode`` returned for the peptide.
        checkpoint_hash: of the weights; ``trained_range`` (fewest, most) residues trained on.
        chunk: conformations drawn at once.

    Attributes:
        dear_slopes: that gradients of its density cost far more than forces of a force field.
    """

    dear_slopes = True

    def __init__(
        self,
        network: nn.Module,
        cond: Tensors,
        checkpoint_hash: str = "",
        trained_range: tuple[int, int] | None = None,
        chunk: int = 256,
    ):
        self.network, self.cond, self.chunk = network.eval().requires_grad_(False), cond, chunk
        self.checkpoint_hash, self.trained_range = checkpoint_hash, trained_range

    @property
    def centroid_scale(self) -> float:
        """nm; centroids of the training data were drawn from N(0, centroid_scale^2 I / atoms)."""
        stretch = float(self.cond.get("centroid_stretch", 1.0))
        return float(self.network.centroid_scale) * stretch

    def sample_and_log_prob(
        self, n: int, generator: Generator, **how: str
    ) -> tuple[Tensors, Tensor]:
        """Draws {"positions": (n, atoms, 3) nm} and log q (n,) from the same pass.

        Args:
            n: number of draws.
            generator: of the noise.
            how: what the network's drawing pass takes beside them.
        """
        generator = generator_on(next(self.network.parameters()).device, generator)
        sizes = [self.chunk] * (n // self.chunk) + [n % self.chunk] * (n % self.chunk > 0)
        parts = [self.network.sample_and_log_prob(k, self.cond, generator, **how) for k in sizes]
        x, log_prob = zip(*parts, strict=True)
        return {"positions": torch.cat(x)}, torch.cat(log_prob)

    def sample(self, n: int, generator: Generator) -> Tensors:
        """Draws {"positions": (n, atoms, 3) nm}."""
        return self.sample_and_log_prob(n, generator)[0]

    def _to_network(self, positions: Tensor) -> Tensor:
        parameter = next(self.network.parameters())
        return positions.to(device=parameter.device, dtype=parameter.dtype)

    def _chunks(self, positions: Tensor) -> tuple[Tensor, ...]:
        """The conformations as the network takes them, in pieces of bounded memory."""
        placed = self._to_network(positions)
        pairs = PAIRS_AT_ONCE.get(placed.device.type, PAIRS_AT_ONCE["cpu"])
        return placed.split(max(1, pairs // placed.shape[1] ** 2))

    def log_prob(self, x: Tensors) -> Tensor:
        """Log-density (n,) of given conformations."""
        placed = self._to_network(x["positions"])
        by_kernel = getattr(self.network, "density_by_kernel", None)
        if by_kernel is not None and by_kernel(placed):
            return self.network.log_prob(placed, self.cond)
        chunks = self._chunks(placed)
        return torch.cat([self.network.log_prob(part, self.cond) for part in chunks])

    def log_prob_and_grad(self, x: Tensors) -> tuple[Tensor, Tensors]:
        """Log-density (n,) and its gradient with respect to the positions (n, atoms, 3)."""
        values, grads = [], []
        for part in self._chunks(x["positions"]):
            part = part.detach().requires_grad_()
            with torch.enable_grad():
                value = self.network.log_prob(part, self.cond)
                grads.append(torch.autograd.grad(value.sum(), part)[0])
            values.append(value.detach())
        return torch.cat(values), {"positions": torch.cat(grads)}


class LowPrecisionProposal:
    """Draws of a flow whose matrix products are of lower precision, with their density.

    That is another flow, as exact as the one in single precision: the density is the one of the
    drawing pass, so weights are right. It is known of draws only, and therefore there is no
    ``log_prob``: the network's own is that of single precision.

    Args:
        flow: the flow in single precision.
        precision: of the products, as the network's ``sample_and_log_prob`` names it.
    """

    def __init__(self, flow: FlowProposal, precision: str):
        self.flow, self.precision = flow, precision
        self.network, self.centroid_scale = flow.network, flow.centroid_scale
        self.checkpoint_hash, self.trained_range = flow.checkpoint_hash, flow.trained_range

    def sample_and_log_prob(self, n: int, generator: Generator) -> tuple[Tensors, Tensor]:
        """Draws {"positions": (n, atoms, 3) nm} and log q (n,) from the same pass."""
        return self.flow.sample_and_log_prob(n, generator, precision=self.precision)

    def sample(self, n: int, generator: Generator) -> Tensors:
        """Draws {"positions": (n, atoms, 3) nm}."""
        return self.sample_and_log_prob(n, generator)[0]


def generator_on(device: torch.device, generator: Generator) -> Generator:
    """The generator itself where it draws on ``device``, else one there that it seeds.

    Samplers keep their streams on the CPU, and torch draws on a GPU only from a generator of it.
    """
    if generator.device.type == device.type:
        return generator
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return Generator(device=device).manual_seed(int(seed))


def load_proposal(
    checkpoint: str,
    peptide: Any,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    temperature: float | None = None,
) -> FlowProposal:
    """The flow of a checkpoint, set up for one peptide.

    Args:
        checkpoint: name of a shipped checkpoint or a folder.
        peptide: a ``gensci.sims.peptide.Peptide``.
        device, dtype: where and in which precision the network runs.
        temperature: K, at which it draws where it can be steered; None for that of its training.
            Whatever the temperature, the density is that of the draws.

    Raises:
        CheckpointError: absent, truncated or tampered with.
        UsageError: the peptide has parts that the flow does not know, or the temperature is not
            positive.
    """
    network, meta = load_network(checkpoint)
    network = network.to(device=device, dtype=dtype)
    try:
        cond = network.encode(peptide)
    except ValueError as error:
        raise UsageError(f"checkpoint {checkpoint}: {error}") from error
    if meta.get("converted_from") == "prose":
        # its training data were built by another tool, which may name equal atoms otherwise
        generator = stream(0, "names of equal atoms", peptide.name)
        pilot, _ = network.sample_and_log_prob(PILOT, _placed(cond, device, dtype), generator)
        cond = network.encode(peptide.named_as(pilot.double().cpu()))
    cond = _at_temperature(network, cond, temperature, trained_temperature(meta))
    trained = meta.get("trained_residues")
    chunk = DRAWN_AT_ONCE.get(torch.device(device).type, DRAWN_AT_ONCE["cpu"])
    return FlowProposal(
        network,
        _placed(cond, device, dtype),
        meta["weights_sha256"],
        tuple(trained) if trained else None,
        chunk,
    )


def _placed(cond: Tensors, device: torch.device | str, dtype: torch.dtype) -> Tensors:
    """Conditioning on a device, real numbers in a precision."""
    return {
        key: value.to(device=device, dtype=dtype if value.is_floating_point() else None)
        for key, value in cond.items()
    }


def trained_temperature(meta: Mapping[str, Any]) -> float:
    """K, the temperature of the data that a checkpoint with these meta data was trained on."""
    return float(meta.get("trained_temperature", TRAINED_TEMPERATURE))


def _at_temperature(
    network: nn.Module, cond: Tensors, temperature: float | None, trained: float
) -> Tensors:
    if temperature is None or temperature == trained or not hasattr(network, "tempered"):
        return cond
    if not (math.isfinite(temperature) and temperature > 0):
        raise UsageError(
            f"temperature={temperature} of the proposal is not usable", "give K above 0, e.g. 310"
        )
    return network.tempered(cond, temperature / trained)
