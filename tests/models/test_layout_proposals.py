"""Proposals of models with other layouts and heads: densities, steps, new structures."""

import numpy as np
import pytest
import torch
from structure_cases import calm, crystal_network, molecule_network

from gensci.models.new_structures import NewCrystals
from gensci.models.structure_batches import read_crystals
from gensci.models.structure_proposal import CrystalProposal, Drawing, slot_log_prob
from gensci.models.structure_steps import StepwiseConformers, StepwiseCrystals
from gensci.nn.structure_decoding import draw_slots
from gensci.samplers.decoders.base import make_decoder
from gensci.samplers.solvers.base import make_solver

PUBLISHED = {
    "lattice": "vectors", "origin": "random", "periodic": False, "head": "ddpm",
    "atom_order": "sorted", "coming": False,
}  # fmt: skip
SWITCHES = [*({name: value} for name, value in PUBLISHED.items() if name != "head"), PUBLISHED]
# With random weights the published diffusion draws numbers of size 1e4: no logarithms of lengths.
SWITCHES.append({"head": "ddpm", "lattice": "vectors"})
DENSE = [one for one in SWITCHES if "head" not in one] + [
    {name: value for name, value in PUBLISHED.items() if name != "head"}
]
FLOW = make_solver("flow-ode", {"num_steps": 6})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def solver_of(network):
    name = "ddpm" if network.settings["head"] == "ddpm" else "ddim"
    return Drawing(make_solver(name, {"num_steps": 4}), density=FLOW)


@pytest.mark.parametrize("settings", SWITCHES, ids=str)
def test_slot_by_slot_is_the_same_law(settings):
    network = calm(crystal_network(**settings))
    proposal = StepwiseCrystals(network, [22, 8, 8], solver_of(network))
    cell = len(network.layout.cell_kinds)
    g = generator(9)
    partial = proposal.begin(4, g)
    for step in range(proposal.num_steps):
        partial = proposal.extend(partial, step, g)
        view = proposal.view(partial, step)
        assert view["placed"].tolist() == [max(0, step + 1 - cell)] * 4
        assert ("lattice" in view) == (step + 1 >= cell)
    x, whole = proposal.finish(partial), proposal._draw(torch.arange(4), generator(9))
    assert all(torch.equal(x[name], whole[name]) for name in whole)
    assert x["numbers"].tolist() == [[22, 8, 8]] * 4
    assert x["lattice"].shape == (4, 3, 3) and torch.isfinite(x["fractional"]).all()


@pytest.mark.parametrize("settings", DENSE, ids=str)
def test_density_is_that_of_the_slots_drawn(settings):
    network = calm(crystal_network(**settings))
    proposal = CrystalProposal(network, [8, 11, 17], solver_of(network))
    (track,) = proposal.tracks(torch.arange(5))
    with torch.no_grad():
        drawn = draw_slots(track, proposal.drawing.solve(generator(2)))
    x = proposal.in_order(read_crystals(drawn, network.layout))
    wanted = slot_log_prob(network, drawn, proposal.drawing)
    torch.testing.assert_close(proposal.log_prob(x), wanted, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("settings", SWITCHES, ids=str)
def test_new_crystals_have_cells(settings):
    network = calm(crystal_network(**settings))
    proposal = NewCrystals(network, make_decoder("ancestral"), solver_of(network), num_atoms=3)
    x = proposal.sample(5, generator(1))
    assert x["numbers"].shape == (5, 3) and x["lattice"].shape == (5, 3, 3)
    assert torch.isfinite(x["lattice"]).all()


@pytest.mark.parametrize("settings", [{"frames": "global"}, {"head": "ddpm"}], ids=str)
def test_conformers_are_drawn_atom_by_atom(settings):
    pytest.importorskip("rdkit.Chem")
    from gensci.nn.smiles_tokens import tokenize
    from gensci.systems.molecule_graph import graph_of

    network = calm(molecule_network(**settings))
    graph = graph_of("OCC#N")
    proposal = StepwiseConformers(network, graph, tokenize("OCC#N"), solver_of(network))
    x = proposal.sample(3, generator(0))
    assert x["numbers"].tolist() == [graph.numbers.tolist()] * 3
    assert np.isfinite(x["positions"].numpy()).all()
    partial, g = proposal.begin(3, generator(0)), generator(0)
    assert proposal.num_steps == len(graph.numbers) - ("head" in settings)
    for step in range(proposal.num_steps):
        partial = proposal.extend(partial, step, g)
        placed = step + 1 + ("head" in settings)
        assert proposal.view(partial, step)["placed"].tolist() == [placed] * 3
    torch.testing.assert_close(proposal.finish(partial)["positions"], x["positions"])


def test_densities_in_space_are_those_of_the_positions():
    pytest.importorskip("rdkit.Chem")
    from gensci.nn.smiles_tokens import tokenize
    from gensci.systems.molecule_graph import graph_of

    network = calm(molecule_network(frames="global"))
    proposal = StepwiseConformers(network, graph_of("OC"), tokenize("OC"), solver_of(network))
    partial, g = proposal.begin(3, generator(0)), generator(0)
    for step in range(proposal.num_steps):
        partial = proposal.extend(partial, step, g)
    wanted = slot_log_prob(network, partial[0].batch, proposal.drawing)
    found = proposal.log_prob(proposal.finish(partial))
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=1e-4)
