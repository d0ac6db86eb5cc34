"""Small structure models and structures for the tests."""

from types import SimpleNamespace

import numpy as np
import torch

from gensci.nn.structure_network import StructureTransformer

SMALL = {
    "hidden": 32, "intermediate": 48, "num_layers": 2, "num_heads": 2,
    "head_width": 32, "head_depth": 1, "max_atoms": 24,
}  # fmt: skip


def awake(network):
    """Every weight drawn anew, so that nothing is zero by construction."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(0.25 * torch.randn(p.shape, generator=generator) + (p if p.dim() == 1 else 0))
    return network.eval()


def calm(network):
    """The head's output damped: random weights give a field that no solver follows."""
    with torch.no_grad():
        network.head.leave.weight.mul_(0.02)
        network.head.leave.bias.mul_(0.02)
    return network


def crystal_network(**settings):
    torch.manual_seed(0)
    properties = {"formation_energy": (-1.0, 1.0), "band_gap": (0.5, 1.0)}
    return awake(StructureTransformer("crystal", ["a", "b"], properties, **{**SMALL, **settings}))


def molecule_network(**settings):
    torch.manual_seed(0)
    return awake(StructureTransformer("molecule", ["qm7"], {}, **{**SMALL, **settings}))


def crystal(numbers, seed=0, source="a", **properties):
    rng = np.random.default_rng(seed)
    return SimpleNamespace(
        id=f"crystal {seed}",
        source=source,
        properties=properties,
        numbers=np.asarray(numbers, np.uint8),
        coordinates=rng.random((len(numbers), 3)).astype(np.float32),
        lattice=np.array([3.0, 4.0, 5.0, 80.0, 90.0, 100.0], np.float32),
    )


def pair_of(structure, same):
    """A template near the structure, or none of its kind."""
    rng = np.random.default_rng(5)
    near = (structure.coordinates + 0.01 * rng.normal(size=structure.coordinates.shape)) % 1.0
    return SimpleNamespace(
        same=same,
        numbers=structure.numbers.astype(np.int64),
        source_numbers=structure.numbers.astype(np.int64) + 1,
        template_fractional=near.astype(np.float32),
        template_lattice=structure.lattice * np.float32(1.01),
        fractional=structure.coordinates,
        lattice=structure.lattice,
    )
