"""Atoms keep apart: what is drawn again follows the law of all draws, given that it has room."""

import math

import numpy as np
import pytest
import torch
from structure_cases import calm, crystal_network

from gensci.core.periodic import minimum_distances
from gensci.models.new_structures import NewCrystals
from gensci.models.structure_batches import open_crystals
from gensci.models.structure_exclusion import Exclusion
from gensci.models.structure_proposal import CrystalProposal, Drawing
from gensci.nn.structure_decoding import Track, draw_slot, open_slots
from gensci.nn.structure_sequence import Prompted
from gensci.samplers.decoders.base import make_decoder
from gensci.samplers.solvers.base import make_solver

DDIM = make_solver("ddim", {"num_steps": 4})
EDGE = 20.0  # Angstrom


@pytest.fixture(scope="module")
def network():
    return crystal_network()


def radii(value):
    return torch.full((119,), value, dtype=torch.float64)


def at_second_atom(network, n):
    """Rows of NaCl in a cubic cell with the first atom at the origin."""
    batch = open_crystals(network, [np.array([17, 11])] * n, Prompted())
    track = Track(network, batch, ~open_slots(batch))
    edge = network.layout.cell_slots((EDGE * torch.eye(3)).repeat(n, 1, 1), 2)
    with torch.no_grad():
        for values in (edge[:, 0], edge[:, 1], torch.zeros(n, 3)):
            draw_slot(track, lambda denoiser, values=values: values)
    return track


def test_accepted_atoms_are_uniform_in_the_room_that_is_left(network):
    n, limit = 4000, 11.0  # of at most 17.3 between an atom and all images of another
    track, generator = at_second_atom(network, n), torch.Generator().manual_seed(1)
    exclusion = Exclusion(radii(limit / 2), scale=1.0, tries=60)
    draw = lambda k: torch.rand(k, 3, generator=generator)  # noqa: E731
    rows = torch.arange(n)
    got = exclusion(track, rows, draw(n), lambda some: draw(len(some)))
    away = EDGE * (got - got.round()).norm(dim=1)
    assert away.min() >= limit
    free = draw(60_000)
    free = free[EDGE * (free - free.round()).norm(dim=1) >= limit]
    # radial law and one coordinate against plain rejection, by Kolmogorov and Smirnov
    for measure in (lambda x: (x - x.round()).norm(dim=1), lambda x: x[:, 0]):
        a, b = measure(got).sort().values, measure(free).sort().values
        grid = torch.cat((a, b))
        steps = [torch.searchsorted(s, grid, right=True) / len(s) for s in (a, b)]
        assert (steps[0] - steps[1]).abs().max() < 1.95 * math.sqrt(1 / len(a) + 1 / len(b))


def test_what_has_room_is_left_alone_and_what_never_finds_any_ends_with_most(network):
    track = at_second_atom(network, 3)
    values = torch.tensor([[0.5, 0.5, 0.5], [0.1, 0.0, 0.0], [0.02, 0.0, 0.0]])
    offers = iter([[[0.3, 0, 0], [0.01, 0, 0]], [[0.05, 0, 0]], [[0.03, 0, 0]]])
    asked = []

    def again(some):
        asked.append(some.tolist())
        return torch.tensor(next(offers), dtype=torch.float32)

    exclusion = Exclusion(radii(2.5), scale=1.0, tries=3)  # 5 of 20 Angstrom
    got = exclusion(track, torch.arange(3), values, again)
    assert asked == [[1, 2], [2], [2]]
    expected = torch.tensor([[0.5, 0.5, 0.5], [0.3, 0.0, 0.0], [0.05, 0.0, 0.0]])
    torch.testing.assert_close(got, expected)


def test_crystals_have_no_overlaps():
    network = calm(crystal_network())
    exclusion = Exclusion(radii(0.6), scale=1.0, tries=200)
    drawing, generator = Drawing(DDIM, exclusion=exclusion), torch.Generator().manual_seed(2)
    asked = CrystalProposal(network, [22, 8, 8], drawing).sample(40, generator)
    decoder = make_decoder("ancestral", {})
    new = NewCrystals(network, decoder, drawing, num_atoms=3).sample(40, generator)
    plain = CrystalProposal(network, [22, 8, 8], Drawing(DDIM)).sample(40, generator)
    nearest = [
        (minimum_distances(x["fractional"], x["lattice"]) + 99 * torch.eye(3)).amin((1, 2))
        for x in (asked, new, plain)
    ]
    assert nearest[0].min() > 1.2 - 1e-4 and nearest[1].min() > 1.2 - 1e-4
    assert nearest[2].min() < 1.2


def test_molecules_and_cells_are_not_asked_for_room(network):
    batch = open_crystals(network, [np.array([17, 11])] * 2, Prompted())
    track = Track(network, batch, ~open_slots(batch))
    overlap = Exclusion(radii(50.0)).overlap(track, torch.arange(2), torch.zeros(2, 3))
    assert overlap.tolist() == [0.0, 0.0]
