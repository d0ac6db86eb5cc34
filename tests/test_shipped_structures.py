"""The shipped models of crystals and molecules: what a newcomer gets from them."""

import csv
import gzip

import numpy as np
import pytest
import torch
from named_peptides import shared_root

from gensci.__main__ import main
from gensci.commands.structure_proposals import leading, load_structure_proposal
from gensci.core.elements import NUMBERS, SYMBOLS
from gensci.core.prompts import StructurePrompt
from gensci.data.templates import TemplatePool
from gensci.io.crystals import read_crystals
from gensci.metrics.molecules import stability
from gensci.models.checkpoint import find_checkpoint, load_network
from gensci.models.structure_proposal import ordered
from gensci.nn.structure_sequence import Prompted

CPU = torch.device("cpu")


def draw(checkpoint, n, seed=0, **prompt):
    proposal, _ = load_structure_proposal(checkpoint, StructurePrompt(**prompt), CPU)
    return proposal.sample(n, torch.Generator().manual_seed(seed))


def test_eight_crystals_of_titania(tmp_path, monkeypatch):
    pymatgen = pytest.importorskip("pymatgen.core")
    monkeypatch.chdir(tmp_path)
    assert main(["sample", "--system", "crystal:TiO2", "--num-samples", "8", "--seed", "0"]) == 0
    folder = tmp_path / "results" / "TiO2"
    written = sorted((folder / "cif").iterdir())
    assert len(written) == 8
    x, _ = read_crystals(folder / "samples.extxyz")
    volumes = []
    for path, fractional in zip(written, x["fractional"], strict=True):
        crystal = pymatgen.Structure.from_file(path)
        assert [site.specie.Z for site in crystal] == [22, 8, 8]
        away = crystal.frac_coords - fractional.numpy()
        assert np.abs(away - away.round()).max() < 1e-4
        volumes.append(crystal.volume / len(crystal))
    # Rutile, anatase and brookite have 10.4 to 11.4 cubic Angstrom for each atom.
    assert 8 < np.median(volumes) < 16


def test_perovskites_are_found_among_few_draws():
    pymatgen = pytest.importorskip("pymatgen.core")
    from pymatgen.analysis.structure_matcher import StructureMatcher

    ideal = pymatgen.Structure.from_spacegroup(
        "Pm-3m", pymatgen.Lattice.cubic(3.905), ["Sr", "Ti", "O"],
        [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]],
    )  # fmt: skip
    matcher = StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10)
    x = draw("crystals", 20, kind="crystal", numbers=(38, 22, 8, 8, 8), style="perov-5")
    found = [
        matcher.fit(ideal, pymatgen.Structure(lattice, numbers, inside))
        for lattice, numbers, inside in zip(
            x["lattice"].tolist(), x["numbers"].tolist(), x["fractional"].tolist(), strict=True
        )
    ]
    assert np.mean(found) > 0.25


def test_retrieved_rutile_leads_the_model():
    pymatgen = pytest.importorskip("pymatgen.core")
    from pymatgen.analysis.structure_matcher import StructureMatcher

    rutile = pymatgen.Structure.from_spacegroup(
        "P4_2/mnm", pymatgen.Lattice.tetragonal(4.594, 2.959), ["Sn", "O"],
        [[0, 0, 0], [0.305, 0.305, 0]],
    )  # fmt: skip
    matcher = StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10)
    numbers = (50, 50, 8, 8, 8, 8)
    x = draw("crystals", 12, kind="crystal", numbers=numbers, style="mp-20", templates=True)
    found = [
        matcher.fit(rutile, pymatgen.Structure(lattice, numbers, inside))
        for lattice, inside in zip(x["lattice"].tolist(), x["fractional"].tolist(), strict=True)
    ]
    assert any(found)


@pytest.mark.parametrize("novel", [False, True])
def test_the_nearest_template_leads_unless_the_crystal_is_new(novel):
    network, _ = load_network("crystals")
    pool = TemplatePool.load(find_checkpoint("crystals") / "templates.safetensors")
    numbers = np.array([11, 17])
    templates = leading(network.float(), pool, numbers, Prompted("mp-20"), 20, novel)
    assert templates[-1] is None and 2 <= len(templates) <= 21
    first = ordered(pool.candidates(numbers, k=1, novel=novel)[0])[1]
    assert (templates[0].source_numbers == first.source_numbers).all()
    np.testing.assert_array_equal(templates[0].lattice, first.lattice)
    # rock salt itself is in the pool
    assert (sorted(first.source_numbers) == sorted(numbers)) == (not novel)


def test_models_know_which_elements_they_were_trained_on():
    """As their weights tell; molecules as in their README, crystals as tables of crystals have."""
    molecules, crystals = (load_network(name)[0] for name in ("molecules", "crystals"))
    learned = set(SYMBOLS) - set(molecules.unlearned(range(1, len(SYMBOLS) + 1)))
    assert learned == {"H", "C", "N", "O", "F", "S"}
    unknown = crystals.unlearned(range(1, len(SYMBOLS) + 1))
    assert {"Po", "At", "Rn", "Fr", "Ra", "Am"} <= set(unknown)
    assert all(NUMBERS[symbol] >= 84 or symbol == "Ne" for symbol in unknown)


def test_new_molecules_are_stable():
    pytest.importorskip("rdkit")
    x = draw("molecules", 100, kind="molecule", style="qm7")
    found = stability(x["numbers"].numpy(), x["positions"].numpy())
    assert found.molecule_share > 0.6 and found.atom_share > 0.93


@pytest.mark.parametrize("text", ["CCO", "c1ccncc1", "C[C@H](N)C(=O)O"])
def test_conformers_are_those_of_the_molecule(text):
    pytest.importorskip("rdkit")
    from gensci.data.molecule_perception import flat, perceive
    from gensci.systems.molecule_graph import graph_of

    graph = graph_of(text)
    numbers = tuple(graph.numbers.tolist())
    x = draw("molecules", 16, kind="molecule", numbers=numbers, smiles=graph.smiles)
    same = []
    for positions in 10 * x["positions"].numpy():
        try:
            same.append(flat(perceive(graph.numbers, positions)[0]) == flat(text))
        except ValueError:
            same.append(False)
    assert np.mean(same) > 0.5


def test_no_template_is_a_test_row():
    pool = TemplatePool.load(find_checkpoint("crystals") / "templates.safetensors")
    shared = shared_root() / "data" / "crystals"
    tested = set()
    for name in ("mp_20_biternary_test", "perov_5_properties_test"):
        with gzip.open(shared / f"{name}.csv.gz", "rt", newline="") as file:
            tested |= {row["material_id"] for row in csv.DictReader(file)}
    assert len(tested) > 5000 and not tested & set(pool.ids)
