"""Every choice of layout, head and features: what is written, read back, and continued."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from structure_cases import crystal, crystal_network, molecule_network, pair_of
from torch.nn import functional as F

from gensci.core.errors import UsageError
from gensci.core.lattice import lattice_parameters
from gensci.nn.structure_decoding import Track, draw_slots, open_slots
from gensci.nn.structure_layout import FRACTION, TOKEN, Layout
from gensci.nn.structure_network import StructureTransformer

PUBLISHED = {
    "lattice": "vectors", "origin": "random", "periodic": False, "head": "ddpm",
    "atom_order": "sorted", "ignore_padding": False, "coming": False,
}  # fmt: skip
SWITCHES = [{name: value} for name, value in PUBLISHED.items()] + [PUBLISHED]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def named(settings):
    return "published" if len(settings) > 1 else "-".join(map(str, *settings.items()))


def continued(network, full):
    """States that tracks reach on their way through ``full``, beside those of one pass."""
    wanted, states = network(full), []

    def solve(denoiser):
        states.append((track.place, track.open.clone(), track.hidden.clone()))
        return full.value[track.open, track.place]

    blank = torch.where(open_slots(full).unsqueeze(-1), torch.zeros(()), full.value)
    empty = replace(full, value=blank)
    if full.molecule is not None:
        positions = torch.zeros_like(full.molecule.positions)
        empty = replace(empty, molecule=replace(full.molecule, positions=positions))
    track = Track(network, empty, ~open_slots(full))
    with torch.no_grad():
        drawn = draw_slots(track, solve)
    return drawn, [(hidden[rows], wanted[rows, place - 1]) for place, rows, hidden in states]


@pytest.mark.parametrize("settings", SWITCHES, ids=named)
@pytest.mark.parametrize("templated", [False, True])
def test_drawing_place_by_place_is_teacher_forcing(settings, templated):
    network = crystal_network(drop_source=0.0, show_template=1.0, **settings)
    structures = [crystal([22, 8, 8], 1), crystal([11, 17, 17], 2), crystal([38, 22, 8, 8, 8], 4)]
    extras = [pair_of(s, k != 1) if templated else None for k, s in enumerate(structures)]
    full = network.collate(structures, generator(3), extras)
    drawn, states = continued(network, full)
    torch.testing.assert_close(drawn.value, full.value)
    assert len(states) >= 6
    for found, wanted in states:
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("settings", SWITCHES, ids=named)
def test_losses_reach_every_weight(settings):
    network = crystal_network(show_property=1.0, drop_source=0.0, show_template=1.0, **settings)
    structures = [crystal([22, 8, 8], 1, formation_energy=-3.0), crystal([11, 17], 2, source="b")]
    batch = network.collate(structures, generator(3), [pair_of(structures[0], True), None])
    losses = network.losses(batch, generator(1))
    (losses.token + losses.slot).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all("on_torus" in name and not network.periodic for name in without)
    assert losses.slots == int(open_slots(batch).sum())


@pytest.mark.parametrize("lattice", ["niggli", "vectors"])
def test_cells_are_read_back(lattice):
    network = crystal_network(lattice=lattice)
    structure = crystal([11, 17], 2)
    found = []
    for seed in range(6):
        batch = network.collate([structure], generator(seed))
        cell = batch.learn[0] & torch.isin(batch.kind[0], torch.tensor(network.layout.cell_kinds))
        found.append(network.layout.cell_vectors(batch.value[0, cell], torch.tensor(2)))
    vectors = torch.stack(found)
    wanted = torch.from_numpy(structure.lattice).expand(6, 6)
    torch.testing.assert_close(lattice_parameters(vectors), wanted, atol=1e-3, rtol=1e-5)
    assert (torch.linalg.det(vectors) > 0).all()
    turned = (vectors - vectors[:1]).abs().amax((1, 2))[1:]
    assert (turned > 0.1).all() if lattice == "vectors" else (turned == 0).all()
    slots = network.layout.cell_slots(vectors, 2)
    again = network.layout.cell_vectors(slots, torch.full((6,), 2))
    torch.testing.assert_close(again, vectors, atol=1e-4, rtol=1e-4)


def test_turned_lattices_point_everywhere():
    """Second moments of a uniform direction are a third."""
    network = crystal_network(lattice="vectors")
    batch = network.collate([crystal([11, 17], 2)] * 1500, generator(0))
    first = batch.value[batch.kind == network.layout.cell_kinds[0]]
    unit = first / first.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(unit.T @ unit / 1500, torch.eye(3) / 3, atol=0.05, rtol=0)


@pytest.mark.parametrize("origin", ["first", "random"])
@pytest.mark.parametrize("atom_order", ["shuffled", "sorted"])
def test_atoms_keep_their_elements_and_neighbours(origin, atom_order):
    network = crystal_network(origin=origin, atom_order=atom_order)
    structure = crystal([8, 22, 38, 8, 8], 3)
    starts = []
    for seed in range(12):
        batch = network.collate([structure], generator(seed))
        atoms = batch.kind[0] == FRACTION
        numbers, x = batch.element[0][atoms].numpy(), batch.value[0][atoms].numpy()
        assert numbers.tolist() == [38, 22, 8, 8, 8]
        assert (x >= 0).all() and (x < 1).all()
        own = structure.coordinates - structure.coordinates[2] + x[0]
        gap = x[2:][:, None] - own[structure.numbers == 8][None]
        gap = np.abs(gap - gap.round()).max(-1)
        assert (gap.min(0) < 1e-5).all() and (gap.min(1) < 1e-5).all()
        if atom_order == "sorted":
            assert x[2:].tolist() == sorted(x[2:].tolist())
        assert bool(batch.learn[0][atoms][0]) == (origin == "random")
        starts.append(x[0])
    spread = np.std(starts, axis=0)
    assert (spread > 0.15).all() if origin == "random" else (spread == 0).all()


def test_the_smallest_of_an_element_is_the_sorted_origin():
    network = crystal_network(atom_order="sorted")
    batch = network.collate([crystal([6] * 5, 3)], generator(0))
    x = batch.value[0][batch.kind[0] == FRACTION].tolist()
    assert x[0] == [0.0, 0.0, 0.0] and x == sorted(x)


def test_padding_counts_where_it_is_told_to():
    network = crystal_network(ignore_padding=False)
    batch = network.collate([crystal([11, 17], 2), crystal([38, 22, 8, 8, 8], 3)], generator(5))
    kind, ids = batch.kind[:, 1:], batch.ids[:, 1:]
    entropy = F.cross_entropy(network.tokens_out(network(batch)[:, :-1]).mT, ids, reduction="none")[
        kind == TOKEN
    ]
    losses = network.losses(batch, generator(0))
    assert losses.tokens == len(entropy) > int((batch.learn[:, 1:] & (kind == TOKEN)).sum())
    torch.testing.assert_close(losses.token, entropy.mean())


@pytest.mark.parametrize("coming", [True, False])
def test_places_know_the_slot_to_come_or_do_not(coming):
    network = crystal_network(coming=coming)
    batch = network.collate([crystal([11, 17, 17], 2)], generator(5))
    place = int((batch.kind[0] == FRACTION).nonzero()[1])
    element = batch.element.clone()
    element[0, place] = 92
    same = torch.equal(
        network(replace(batch, element=element))[:, place - 1], network(batch)[:, place - 1]
    )
    assert same != coming


def test_older_settings_mean_the_same_model():
    network = crystal_network()
    older = {k: v for k, v in network.settings.items() if k not in PUBLISHED or k == "periodic"}
    older.pop("frames")
    again = StructureTransformer(**older)
    assert again.settings == network.settings
    again.load_state_dict(network.state_dict())


def test_unknown_choices_are_named():
    with pytest.raises(UsageError, match="lattice='cubic' is unknown; choose niggli or vectors"):
        Layout(lattice="cubic")
    with pytest.raises(UsageError, match="head='vae'"):
        crystal_network(head="vae")


@pytest.fixture(scope="module")
def molecules():
    pytest.importorskip("rdkit.Chem")
    from types import SimpleNamespace

    from gensci.systems.molecule_graph import graph_of

    rng = np.random.default_rng(0)
    texts = ("CC(=O)O", "N[C@@H](C)C(=O)O")
    graphs = [graph_of(text) for text in texts]
    structures = [
        SimpleNamespace(
            id=text, source="qm7", properties={}, smiles=text, numbers=graph.numbers, lattice=None,
            coordinates=rng.normal(size=(len(graph.numbers), 3)).astype(np.float32) * 2,
        )
        for text, graph in zip(texts, graphs, strict=True)
    ]  # fmt: skip
    return structures, graphs


@pytest.mark.parametrize(
    "settings", [{"frames": "global"}, {"head": "ddpm"}, {"coming": False},
                 {"frames": "global", "head": "ddpm", "coming": False}]
)  # fmt: skip
def test_molecules_place_by_place(molecules, settings):
    structures, graphs = molecules
    network = molecule_network(**settings)
    full = network.collate(structures, generator(3), graphs)
    drawn, states = continued(network, full)
    torch.testing.assert_close(
        drawn.molecule.positions, full.molecule.positions, atol=1e-4, rtol=1e-4
    )
    for found, wanted in states:
        torch.testing.assert_close(found, wanted, atol=5e-3, rtol=5e-3)


def test_global_frames_are_centred_and_turned(molecules):
    structures, graphs = molecules
    network = molecule_network(frames="global")
    first, second = (network.collate(structures, generator(seed), graphs) for seed in (1, 2))
    for k, structure in enumerate(structures):
        n, start = len(structure.numbers), int(first.molecule.start[k])
        x, y = (b.value[k, start : start + n] for b in (first, second))
        assert first.learn[k, start : start + n].all()
        torch.testing.assert_close(x, first.molecule.positions[k, :n])
        torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
        wanted = torch.from_numpy(structure.coordinates)
        torch.testing.assert_close(
            torch.cdist(x, x), torch.cdist(wanted, wanted), atol=1e-4, rtol=1e-4
        )
        assert (x - y).abs().max() > 0.5
