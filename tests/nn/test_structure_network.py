"""The structure transformer: sequences, causality, and continuation place by place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from structure_cases import SMALL, crystal, crystal_network, molecule_network, pair_of

from gensci.core.errors import CheckpointError, UsageError
from gensci.nn.structure_decoding import Track, draw_slots, open_slots
from gensci.nn.structure_layout import (
    ANGLES,
    FRACTION,
    LENGTHS,
    TOKEN,
    normal_lattice,
    physical_lattice,
)
from gensci.nn.structure_network import StructureTransformer
from gensci.nn.structure_sequence import Prompted, crystal_line, stack
from gensci.nn.structure_vocabulary import Vocabulary

SEED = torch.Generator().manual_seed(0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def network():
    return crystal_network(show_property=1.0, drop_source=0.0)


@pytest.fixture(scope="module")
def batch(network):
    structures = [crystal([22, 8, 8], 1, formation_energy=-3.0), crystal([11, 17], 2, source="b")]
    structures.append(crystal([38, 22, 8, 8, 8], 3))
    extras = [pair_of(structures[0], True), pair_of(structures[1], False), None]
    torch.manual_seed(0)
    return replace_template_chance(network).collate(structures, generator(3), extras)


def replace_template_chance(network):
    network.collator.settings["show_template"] = 1.0
    return network


def test_a_sequence_reads_as_documented():
    vocabulary = Vocabulary.build(["a"], ["p"])
    line = crystal_line(
        vocabulary,
        np.array([8, 22]),
        Prompted("a", {"p": 0.5}),
        np.array([3.0, 4.0, 5.0, 90.0, 90.0, 120.0], np.float32),
        np.array([[0.0, 0.0, 0.0], [0.6, 0.7, 0.8]], np.float32),
    )
    b = stack([line])
    names = [vocabulary.tokens[i] for i in b.ids[0].tolist()]
    wanted = ["<bos>", "<set:a>", "<prop:p>", "<slot>", "el:O", "el:Ti", "<coord>"]
    assert names == [*wanted, "<slot>", "<slot>", "<slot>", "<slot>", "<eos>"]
    assert b.kind[0, 7:11].tolist() == [LENGTHS, ANGLES, FRACTION, FRACTION]
    assert b.learn[0].tolist() == [False] * 4 + [True] * 5 + [False, True, False]
    assert b.element[0, 9:11].tolist() == [8, 22]
    torch.testing.assert_close(b.value[0, 10], torch.tensor([0.6, 0.7, 0.8]))


def test_lattice_slots_round_trip():
    cell = np.array([3.0, 4.5, 9.0, 61.0, 90.0, 119.0], np.float32)
    slots = torch.from_numpy(normal_lattice(cell, 7))
    found = physical_lattice(slots, torch.tensor(7))
    torch.testing.assert_close(found, torch.from_numpy(cell), rtol=1e-5, atol=1e-4)


def test_atoms_keep_their_elements_and_neighbours(network):
    """Augmentation permutes and puts the first atom at the origin, and changes nothing else."""
    structure = crystal([8, 22, 38, 8, 8], 3)
    b = network.collate([structure], generator(11))
    atoms = b.kind[0] == FRACTION
    numbers, x = b.element[0][atoms].numpy(), b.value[0][atoms].numpy()
    assert numbers.tolist() == [38, 22, 8, 8, 8]  # the rarest first, then the heaviest
    assert not x[0].any()
    own = structure.coordinates - structure.coordinates[2]
    for number in (8, 22, 38):
        gap = x[numbers == number][:, None] - own[structure.numbers == number][None]
        gap = np.abs(gap - gap.round()).max(-1)
        assert (gap.min(0) < 1e-5).all() and (gap.min(1) < 1e-5).all()


def test_equal_atoms_are_shuffled(network):
    structure = crystal([8, 8, 8, 22], 3)
    orders = {
        tuple(network.collate([structure], generator(k)).value[0, -4:-1, 0].tolist())
        for k in range(20)
    }
    assert len(orders) == 6


def test_states_see_nothing_that_comes_later(network, batch):
    hidden = network(batch)
    for place in (6, 9, 12):
        value = batch.value.clone()
        value[:, place:] += 0.37
        changed = network(replace(batch, value=value))
        assert torch.equal(changed[:, :place], hidden[:, :place])
        slot = (batch.kind != TOKEN)[:, place] & (place < batch.places[1] - 1)
        assert (changed[slot, place] != hidden[slot, place]).any(-1).all()


def test_padding_changes_no_loss(network):
    """A structure beside a longer one has the loss it has alone (the head's noise aside)."""
    one, other = crystal([11, 17], 2), crystal([38, 22, 8, 8, 8], 3)
    alone = network.collate([one], generator(5))
    beside = network.collate([one, other], generator(5))
    length = alone.places[1]
    assert torch.equal(alone.ids[0], beside.ids[0, :length])
    first, second = network(alone), network(beside)
    torch.testing.assert_close(first[0], second[0, :length], atol=1e-5, rtol=1e-5)
    assert not beside.learn[0, length:].any()


@pytest.mark.parametrize("templated", [False, True])
def test_drawing_place_by_place_is_teacher_forcing(network, templated):
    structures = [crystal([22, 8, 8], 1), crystal([11, 17, 17], 2)]
    if templated:
        structures.append(crystal([22, 22, 8, 8, 8], 4))
    extras = [pair_of(s, k != 1) if templated else None for k, s in enumerate(structures)]
    full = replace_template_chance(network).collate(structures, generator(3), extras)
    wanted = network(full)
    states = []

    def solve(denoiser):
        states.append((track.place, track.open.clone(), track.hidden.clone()))
        return full.value[track.open, track.place]

    empty = torch.where(open_slots(full).unsqueeze(-1), torch.zeros(()), full.value)
    track = Track(network, replace(full, value=empty), ~open_slots(full))
    with torch.no_grad():
        drawn = draw_slots(track, solve)
    torch.testing.assert_close(drawn.value, full.value)
    assert len(states) >= 4
    for place, rows, hidden in states:
        torch.testing.assert_close(
            hidden[rows], wanted[rows, place - 1], atol=2e-4, rtol=1e-3, msg=f"place {place}"
        )


def test_losses_reach_every_weight(network, batch):
    training = crystal_network()
    losses = training.losses(batch, generator(1))
    (losses.token + losses.slot).backward()
    without = [n for n, p in training.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert losses.slots == int(open_slots(batch).sum())


def test_a_foreign_vocabulary_is_refused():
    settings = crystal_network().settings
    network = StructureTransformer(**settings)
    assert network.settings == settings
    with pytest.raises(CheckpointError, match="vocabulary"):
        StructureTransformer(**{**settings, "sets": ["b", "a"]})


def test_too_many_atoms_are_refused(network):
    with pytest.raises(UsageError, match="knows up to 24"):
        network.collate([crystal([6] * 25)], generator())


def test_unknown_sets_and_properties_are_named():
    vocabulary = Vocabulary.build(["perov-5"], ["band_gap"])
    with pytest.raises(UsageError, match="perov-5"):
        vocabulary.set_token("mp-21")
    with pytest.raises(UsageError, match="band_gap"):
        vocabulary.property_token("colour")


MOLECULES = ("CC(=O)O", "c1ccccc1O", "N[C@@H](C)C(=O)O")


@pytest.fixture(scope="module")
def molecules():
    chem = pytest.importorskip("rdkit.Chem")
    from types import SimpleNamespace

    from gensci.systems.molecule_graph import graph_of

    rng = np.random.default_rng(0)
    graphs = [graph_of(text) for text in MOLECULES]
    structures = [
        SimpleNamespace(
            id=text, source="qm7", properties={}, smiles=text, numbers=graph.numbers, lattice=None,
            coordinates=rng.normal(size=(len(graph.numbers), 3)).astype(np.float32) * 2,
        )
        for text, graph in zip(MOLECULES, graphs, strict=True)
    ]  # fmt: skip
    assert chem is not None
    return structures, graphs


def test_turning_a_molecule_changes_only_its_first_atoms(molecules):
    """Two draws of the augmentation differ by a rotation, which local frames take back."""
    structures, graphs = molecules
    network = molecule_network()
    network.collator.settings["drop_source"] = 0.0
    first, second = (network.collate(structures, generator(seed), graphs) for seed in (1, 2))
    start = first.molecule.start
    moved = (first.value - second.value).abs().amax(-1)
    for k in range(3):
        n = len(graphs[k].numbers)
        atoms = slice(int(start[k]), int(start[k]) + n)
        assert moved[k, atoms][3:].max() < 1e-4
        assert moved[k, atoms][1] > 1e-3
    inside = first.molecule.numbers > 0
    seen = [network.look_around(b.molecule)[inside] for b in (first, second)]
    third = (torch.arange(inside.shape[1]) >= 3).expand_as(inside)[inside]
    torch.testing.assert_close(seen[0][third], seen[1][third], atol=1e-3, rtol=1e-3)


def test_molecules_place_by_place(molecules):
    structures, graphs = molecules
    network = molecule_network()
    full = network.collate(structures, generator(3), graphs)
    wanted = network(full)
    states = []

    def solve(denoiser):
        states.append((track.place, track.open.clone(), track.hidden.clone()))
        return full.value[track.open, track.place]

    blank = replace(
        full,
        value=torch.where(open_slots(full).unsqueeze(-1), torch.zeros(()), full.value),
        molecule=replace(full.molecule, positions=torch.zeros_like(full.molecule.positions)),
    )
    track = Track(network, blank, ~open_slots(full))
    with torch.no_grad():
        drawn = draw_slots(track, solve)
    torch.testing.assert_close(
        drawn.molecule.positions, full.molecule.positions, atol=1e-4, rtol=1e-4
    )
    for place, rows, hidden in states:
        torch.testing.assert_close(
            hidden[rows], wanted[rows, place - 1], atol=5e-3, rtol=5e-3, msg=f"place {place}"
        )


def test_elements_that_training_never_wrote_are_known():
    torch.manual_seed(0)
    network = StructureTransformer("crystal", ["a"], {}, **SMALL)
    assert network.unlearned(range(1, 119)) == []  # nothing can be told without training
    # a strong decay forgets the start within few steps, as a mild one does within many
    optimiser = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=1.0)
    rows, g = [crystal([22, 8, 8], 1), crystal([11, 17], 2)], generator()
    for _ in range(60):
        optimiser.zero_grad()
        network.losses(network.collate(rows, g), g, 1).token.backward()
        optimiser.step()
    assert network.unlearned([8, 11, 17, 22]) == []
    assert network.unlearned([22, 21, 84]) == ["Sc", "Po"]
    assert len(network.unlearned(range(1, 119))) == 114


def test_structures_too_large_to_learn_say_where_the_limit_is(network):
    with pytest.raises(UsageError, match=r"knows up to 24; give the network a larger max_atoms"):
        network.collate([crystal([6] * 25)], generator())
