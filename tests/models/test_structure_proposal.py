"""Proposals of crystals, conformers and new structures, with small networks of random weights."""

from dataclasses import dataclass
from itertools import groupby, product

import numpy as np
import pytest
import torch
from structure_cases import calm, crystal_network, molecule_network

from gensci.core.errors import GensciError, UsageError
from gensci.models.new_structures import NewCrystals, NewMolecules, token_track
from gensci.models.structure_proposal import (
    CrystalProposal,
    Drawing,
    MostLikely,
    chance_of_same,
    closes,
    ordered,
)
from gensci.models.structure_steps import StepwiseConformers, StepwiseCrystals
from gensci.nn.structure_collate import Ordered, element_order
from gensci.nn.structure_constraints import ElementConstraint
from gensci.nn.structure_sequence import Prompted
from gensci.samplers.decoders.base import make_decoder
from gensci.samplers.solvers.base import make_solver
from gensci.samplers.solvers.guidance import GuidedByCondition
from gensci.samplers.steering import TwistedSmc

DDIM = make_solver("ddim", {"num_steps": 4})
FLOW = make_solver("flow-ode", {"num_steps": 6})
PLAIN = Drawing(DDIM, density=FLOW)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def network():
    return crystal_network()


def template(numbers, seed=1):
    rng = np.random.default_rng(seed)
    return Ordered(
        np.asarray(numbers) + 1,
        rng.random((len(numbers), 3)).astype(np.float32),
        np.array([4.0, 4.0, 4.5, 90.0, 90.0, 90.0], np.float32),
    )


def test_composition_and_order_are_those_asked_for(network):
    x = CrystalProposal(network, [22, 8, 38, 8, 8], PLAIN).sample(6, generator())
    assert x["numbers"].tolist() == [[22, 8, 38, 8, 8]] * 6
    assert x["fractional"].shape == (6, 5, 3)
    assert (x["fractional"] >= 0).all() and (x["fractional"] < 1).all()
    assert closes(x["lattice"]).all()


def test_same_seed_same_bits(network):
    proposal = CrystalProposal(network, [22, 8, 8], PLAIN)
    first, second, other = (proposal.sample(4, generator(s)) for s in (3, 3, 4))
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["fractional"], other["fractional"])


def test_atoms_in_another_order_have_the_same_density(network):
    """The samples' order is the caller's; the sequence's is by element."""
    one = CrystalProposal(network, [8, 8, 22], PLAIN)
    other = CrystalProposal(network, [22, 8, 8], PLAIN)
    x = one.sample(3, generator(1))
    turned = {
        **x,
        "numbers": x["numbers"][:, [2, 0, 1]],
        "fractional": x["fractional"][:, [2, 0, 1]],
    }
    torch.testing.assert_close(one.log_prob(x), other.log_prob(turned))


def test_density_is_that_of_the_draws():
    """E[u/q] = 1 under q for any normalised u: uniform in the atoms, normal in the cell."""
    network = calm(crystal_network())
    flow = make_solver("flow-ode", {"num_steps": 24})
    proposal = CrystalProposal(network, [11, 17], Drawing(flow))
    x = proposal.sample(400, generator(2))
    log_q = proposal.log_prob(x)
    slots = cell_slots(x["lattice"])
    mean, spread = slots.mean(0), slots.std(0) * 0.8
    normal = torch.distributions.Normal(mean, spread).log_prob(slots).sum(-1)
    ratio = (normal - log_q).exp()
    error = ratio.std() / len(ratio) ** 0.5
    assert error < 0.2
    assert abs(ratio.mean() - 1.0) < 4 * error + 0.05


def cell_slots(lattice):
    from gensci.core.lattice import lattice_parameters
    from gensci.nn.structure_layout import normal_lattice

    cells = lattice_parameters(lattice.double()).numpy()
    return torch.from_numpy(np.stack([normal_lattice(cell, 2).ravel() for cell in cells])).double()


def test_rows_take_templates_in_turn(network):
    templates = [template([22, 8, 8], 1), template([22, 8, 8], 2), None]
    led = CrystalProposal(network, [8, 8, 22], PLAIN, templates=templates)
    x = led.sample(5, generator(0))
    assert x["numbers"].tolist() == [[8, 8, 22]] * 5
    alone = CrystalProposal(network, [8, 8, 22], PLAIN, templates=[templates[1]])
    chosen = {name: value[[1, 4]] for name, value in x.items()}
    torch.testing.assert_close(
        alone.log_prob(chosen), led.log_prob(x)[[1, 4]], rtol=1e-4, atol=1e-3
    )


def test_template_chances_are_the_two_tokens(network):
    chance = chance_of_same(
        network, [22, 8, 8], [template([22, 8, 8], s) for s in range(4)], Prompted()
    )
    assert chance.shape == (4,) and ((chance > 0) & (chance < 1)).all()
    assert len(set(chance.tolist())) == 4


def test_templates_are_put_in_order():
    @dataclass
    class Found:
        numbers: np.ndarray
        source_numbers: np.ndarray
        fractional: np.ndarray
        lattice: np.ndarray

    found = Found(
        np.array([8, 22, 8]), np.array([16, 40, 16]), np.arange(9.0).reshape(3, 3) / 10, np.ones(6)
    )
    numbers, chosen = ordered(found)
    assert numbers.tolist() == [22, 8, 8]
    assert chosen.source_numbers.tolist() == [40, 16, 16]
    np.testing.assert_allclose(chosen.fractional[1], [0.7, 0.7, 0.7], atol=1e-6)


def test_guidance_of_one_is_no_guidance_and_more_is(network):
    prompt = Prompted("a", {"band_gap": 2.0})
    draws = []
    for weight, guided in ((1.0, False), (1.0, True), (3.0, True)):
        drawing = Drawing(DDIM, guide=lambda c, u, w=weight: GuidedByCondition(c, u, w))
        proposal = CrystalProposal(network, [11, 17], drawing, prompt, guided=guided)
        draws.append(proposal.sample(3, generator(5))["fractional"])
    torch.testing.assert_close(draws[0], draws[1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(draws[0], draws[2], atol=1e-3)


def test_new_structures_are_pressed_to_their_properties(network):
    """Guidance of one is none; the tokens' law under guidance is the extrapolated one."""
    prompt, decoder = Prompted("a", {"band_gap": 2.0}), make_decoder("ancestral")
    draws = {}
    for weight, shown in product((1.0, 4.0), (prompt, Prompted("a"))):
        drawing = Drawing(DDIM, guide=lambda c, u, w=weight: GuidedByCondition(c, u, w))
        new = NewCrystals(network, decoder, drawing, shown, num_atoms=3, guidance=weight)
        x = new.place([np.array([11, 17]), np.array([3, 3, 9])], generator(4))
        draws[weight, bool(shown.properties)] = x["fractional"]
    assert not torch.allclose(draws[4.0, True], draws[1.0, True], atol=1e-3)
    torch.testing.assert_close(draws[4.0, False], draws[1.0, False], atol=1e-4, rtol=1e-4)
    laws = []
    constraint = ElementConstraint(network.vocabulary, [8, 22, 38], 3, network.max_atoms)
    tokens, parents = torch.tensor([network.vocabulary.element(22)] * 2), torch.arange(2)
    for shown, weight in ((prompt, 1.0), (Prompted("a"), 1.0), (prompt, 4.0)):
        track = token_track(network, shown, weight, 5, constraint)
        state = track.advance(track.start(2), tokens, parents)
        laws.append(track.log_probs(state))
    allowed = laws[0].isfinite()
    assert allowed.any() and torch.equal(allowed, laws[2].isfinite())
    wanted, free = laws[0][allowed].view(2, -1), laws[1][allowed].view(2, -1)
    expected = (free + 4.0 * (wanted - free)).log_softmax(-1)
    torch.testing.assert_close(laws[2][allowed].view(2, -1), expected)


def test_the_likeliest_is_chosen(network):
    plain = CrystalProposal(network, [11, 17], PLAIN)
    x = plain.sample(12, generator(7))
    best = MostLikely(plain, plain, 4).sample(3, generator(7))
    score = plain.log_prob(x).view(3, 4)
    rows = score.argmax(1) + 4 * torch.arange(3)
    assert torch.equal(best["fractional"], x["fractional"][rows])
    assert (score.max(1).values > score.mean(1)).all()


@pytest.mark.parametrize("guided", [False, True])
def test_slot_by_slot_is_the_same_law(network, guided):
    drawing = Drawing(DDIM, guide=lambda c, u: GuidedByCondition(c, u, 2.0))
    prompt = Prompted("a", {"band_gap": 1.0})
    proposal = StepwiseCrystals(network, [22, 8, 8], drawing, prompt, guided=guided)
    g = generator(9)
    partial = proposal.begin(4, g)
    for step in range(proposal.num_steps):
        before = partial
        partial = proposal.extend(partial, step, g)
        assert before[0].place + 1 == partial[0].place
        view = proposal.view(partial, step)
        assert view["placed"].tolist() == [max(0, step - 1)] * 4
        assert ("lattice" in view) == (step >= 1)
    x, whole = proposal.finish(partial), proposal._draw(torch.arange(4), generator(9))
    assert all(torch.equal(x[name], whole[name]) for name in whole)


class SodiumLow:
    """Zero density where the second atom by element lies above 0.5 along x."""

    def log_prob(self, x):
        return torch.where(x["fractional"][:, 0, 0] < 0.5, 0.0, -torch.inf)

    def log_twist(self, x, step):
        low = torch.where(x["fractional"][:, 1, 0] < 0.5, 0.0, -torch.inf)
        return torch.where(x["placed"] > 1, low, 0.0)


def test_steering_meets_its_target(network):
    """By element chlorine comes first, at the origin; the samples have the order asked for."""
    proposal = StepwiseCrystals(network, [11, 17], PLAIN)
    samples = TwistedSmc().run(SodiumLow(), proposal, 24, seed=0)
    assert (samples.x["fractional"][:, 0, 0] < 0.5).all()
    assert samples.x["numbers"].tolist() == [[11, 17]] * len(samples)


def spelled_as_in_training(numbers):
    """Groups by count, and by falling atomic number where counts are equal."""
    groups = [(len(list(group)), -number) for number, group in groupby(numbers)]
    return groups == sorted(groups) and len({number for _, number in groups}) == len(groups)


def test_new_crystals_use_only_allowed_elements(network):
    decoder = make_decoder("ancestral")
    proposal = NewCrystals(network, decoder, PLAIN, elements=[8, 22, 38], num_atoms=4)
    x = proposal.sample(20, generator(1))
    assert x["numbers"].shape == (20, 4)
    assert set(x["numbers"].flatten().tolist()) <= {8, 22, 38}
    assert all(spelled_as_in_training(row) for row in x["numbers"].tolist())
    ragged = NewCrystals(network, decoder, PLAIN, elements=[3, 9]).sample(16, generator(2))
    count = (ragged["numbers"] > 0).sum(1)
    assert count.min() >= 1 and len(count.unique()) > 1
    beyond = torch.arange(ragged["numbers"].shape[1]) >= count.unsqueeze(-1)
    assert (ragged["fractional"][beyond] == 0).all()


def test_every_composition_of_training_can_be_written():
    """The constraint allows what `element_order` writes, and hence nothing twice."""
    vocabulary = crystal_network().vocabulary
    constraint = ElementConstraint(vocabulary, [3, 8, 9], None, 6)
    for counts in product(range(4), repeat=3):
        numbers = np.repeat([3, 8, 9], counts)
        if not 1 <= len(numbers) <= 6:
            continue
        state, parents = constraint.start(1), torch.zeros(1, dtype=torch.long)
        tokens = [vocabulary.element(int(z)) for z in numbers[element_order(numbers)]]
        for token in [*tokens, vocabulary.coordinates]:
            assert constraint.allowed(state)[0, token], (counts, numbers)
            state = constraint.advance(state, torch.tensor([token]), parents)


def test_more_atoms_than_known_are_refused(network):
    with pytest.raises(UsageError, match="knows up to 24"):
        CrystalProposal(network, [6] * 25, PLAIN)
    with pytest.raises(UsageError, match="give a smaller cell or choose a --checkpoint"):
        CrystalProposal(network, [6] * 25, PLAIN)
    with pytest.raises(UsageError, match="num_atoms=25"):
        NewCrystals(network, make_decoder("ancestral"), PLAIN, num_atoms=25)


@pytest.fixture(scope="module")
def chemistry():
    pytest.importorskip("rdkit.Chem")
    from gensci.nn.smiles_tokens import tokenize
    from gensci.systems.molecule_graph import graph_of

    return graph_of, tokenize


def test_conformers_and_their_density_turn_with_the_molecule(chemistry):
    graph_of, tokenize = chemistry
    network = calm(molecule_network())
    proposal = StepwiseConformers(network, graph_of("OCC#N"), tokenize("OCC#N"), PLAIN)
    x = proposal.sample(3, generator(0))
    assert x["numbers"].tolist() == [graph_of("OCC#N").numbers.tolist()] * 3
    log_q = proposal.log_prob(x)
    shifted = {**x, "positions": x["positions"] + torch.tensor([0.3, -0.2, 0.1])}
    torch.testing.assert_close(proposal.log_prob(shifted), log_q, atol=2e-2, rtol=1e-3)
    partial, g = proposal.begin(3, generator(0)), generator(0)
    for step in range(proposal.num_steps):
        partial = proposal.extend(partial, step, g)
    torch.testing.assert_close(proposal.finish(partial)["positions"], x["positions"])


def test_new_molecules_are_molecules(chemistry):
    graph_of, _ = chemistry
    pieces = ["C", "O", "N", "(", ")", "=", "1"]
    proposal = NewMolecules(
        molecule_network(), make_decoder("ancestral"), PLAIN, graph_of, pieces=pieces, max_tokens=12
    )
    x = proposal.sample(6, generator(3))
    texts = proposal.smiles(x["tokens"])
    for row, text in enumerate(texts):
        graph = graph_of(text)
        assert x["numbers"][row][: len(graph)].tolist() == graph.numbers.tolist()
        assert not x["numbers"][row][len(graph) :].any()
    assert proposal.drawn >= 6 + proposal.refused


def test_a_wish_that_is_never_met_ends_in_one_line(chemistry):
    graph_of, _ = chemistry
    proposal = NewMolecules(
        molecule_network(), make_decoder("ancestral"), PLAIN, graph_of, pieces=["C"],
        accept=lambda graph: False, max_tokens=6,
    )  # fmt: skip
    with pytest.raises(GensciError, match=r"none of the last 256 texts .* \(0 of 2 found\)"):
        proposal.sample(2, generator(4))
    with pytest.raises(UsageError, match="none of the last 256 texts"):
        proposal.check_draws(2)


def test_heavy_atoms_are_bounded_by_the_mask(chemistry):
    graph_of, _ = chemistry
    proposal = NewMolecules(
        molecule_network(), make_decoder("ancestral"), PLAIN, graph_of,
        pieces=["C", "O", "(", ")", "1", "2"], max_heavy_atoms=3,
    )  # fmt: skip
    heavy = [int((graph.numbers > 1).sum()) for graph, _ in proposal.molecules(40, generator(5))]
    assert set(heavy) == {1, 2, 3}


def test_a_decoder_that_finds_rows_together_gives_no_molecule_twice(chemistry):
    """Where some of the likeliest texts are no molecules, the beam is widened, not asked again."""
    graph_of, _ = chemistry
    pieces = ["C", "O", "F", "(", ")", "="]
    make = lambda decoder: NewMolecules(  # noqa: E731
        molecule_network(), decoder, PLAIN, graph_of, pieces=pieces, max_heavy_atoms=4
    )
    proposal = make(make_decoder("beam"))
    texts = [graph.smiles for graph, _ in proposal.molecules(12, generator(0))]
    assert proposal.refused > 0
    assert len(set(texts)) == 12
    with pytest.raises(GensciError, match="of the 12 texts that decoder 'beam' finds together"):
        make(make_decoder("beam", {"width": 12})).molecules(12, generator(0))
    for decoder, n, problem in (
        (make_decoder("beam", {"width": 3}), 4, "width=3 is less than num_samples=4"),
        (make_decoder("stochastic-beam"), 257, "at most 256 rows together, num_samples=257"),
    ):
        with pytest.raises(UsageError, match=problem):
            make(decoder).check_draws(n)
        with pytest.raises(UsageError, match=problem):
            NewCrystals(crystal_network(), decoder, PLAIN).check_draws(n)


def test_a_single_atom_is_at_the_origin_with_density_one(chemistry):
    """In its own frame it has no slot to draw; beside others it has none either."""
    graph_of, tokenize = chemistry
    network = molecule_network()
    proposal = StepwiseConformers(network, graph_of("[He]"), tokenize("[He]"), PLAIN)
    x, log_q = proposal.sample_and_log_prob(3, generator(0))
    assert x["numbers"].tolist() == [[2]] * 3
    assert (x["positions"] == 0).all() and log_q.tolist() == [0.0] * 3
    partial, g = proposal.begin(3, generator(0)), generator(0)
    for step in range(proposal.num_steps):
        partial = proposal.extend(partial, step, g)
    assert torch.equal(proposal.finish(partial)["positions"], x["positions"])


def test_a_single_atom_is_no_new_molecule(chemistry):
    graph_of, _ = chemistry
    proposal = NewMolecules(
        molecule_network(), make_decoder("ancestral"), PLAIN, graph_of, pieces=["[", "He", "]", "O"]
    )  # fmt: skip
    molecules = proposal.molecules(8, generator(1))
    assert proposal.refused > 0
    assert min(len(graph.numbers) for graph, _ in molecules) > 1
