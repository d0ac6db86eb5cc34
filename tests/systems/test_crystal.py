"""Crystals as systems: which cell is meant, what the model is asked, what judges."""

from types import SimpleNamespace

import pytest
import torch
from crystal_batches import batch

from gensci.core.errors import GensciError, UsageError
from gensci.core.prompts import StructurePrompt
from gensci.core.registry import SYSTEMS
from gensci.samplers.settings import make_sampler
from gensci.systems.crystal import CrystalSystem

read = CrystalSystem.from_text


def test_the_family_is_registered_with_its_own_defaults():
    assert SYSTEMS.get("crystal") is CrystalSystem
    facts = SYSTEMS.metadata("crystal")
    assert (facts["sampler"], facts["checkpoint"]) == ("direct", "crystals")


@pytest.mark.parametrize(
    ("text", "settings", "formula"),
    [
        ("TiO2", {}, "TiO2"),
        ("Ti4O8", {}, "Ti4O8"),
        ("TiO2", {"formula_units": "4"}, "Ti4O8"),
        ("TiO2", {"formula-units": 4}, "Ti4O8"),
        ("Ti4O8", {"formula_units": 4}, "Ti4O8"),  # says the same twice
        ("TiO2", {"num_atoms": 12}, "Ti4O8"),
        ("Ti4O8", {"num_atoms": 12}, "Ti4O8"),
        ("TiO2", {"formula_units": 2, "num_atoms": 6}, "Ti2O4"),
        ("C", {"num_atoms": 8}, "C8"),
        ("Ca(OH)2", {"formula_units": 3}, "Ca3O6H6"),
    ],
)
def test_a_composition_is_the_cell_that_is_written_or_asked_for(text, settings, formula):
    system = read(text, **settings)
    assert system.composition.formula == formula
    prompt = system.prompt()
    assert prompt.numbers == system.composition.numbers
    assert prompt.num_atoms == len(prompt.numbers)
    assert (prompt.kind, prompt.smiles, prompt.elements) == ("crystal", None, None)


def test_new_crystals_are_prompted_by_their_settings():
    system = read(
        "*",
        elements="Ti, O",
        num_atoms="6",
        formation_energy="-3.1",
        band_gap=1.5,
        style="mp-20",
        templates="no",
    )
    assert system.prompt() == StructurePrompt(
        kind="crystal",
        conditions={"formation_energy": -3.1, "band_gap": 1.5},
        style="mp-20",
        elements=(8, 22),
        num_atoms=6,
    )
    assert read("*").prompt() == StructurePrompt(kind="crystal")
    assert read("*", elements=["O", "Ti"]).prompt().elements == (8, 22)
    assert read("*", elements="No").prompt().elements == (102,)
    assert read("TiO2", templates="yes", style="none").prompt().templates
    assert read("TiO2", style="none").prompt().style is None


@pytest.mark.parametrize(
    ("text", "settings", "part"),
    [
        ("Ti4O8", {"formula_units": 2}, "say crystal:TiO2 --system.formula_units 2"),
        ("TiO2", {"formula_units": 0}, "give a number from 1 to 1000"),
        ("TiO2", {"formula_units": "2.5"}, "give a whole number"),
        ("TiO2", {"formula_units": 900}, "makes 2700 atoms"),
        ("TiO2", {"num_atoms": 13}, "whose cell has 3 atoms"),
        ("Ti4O8", {"num_atoms": 6}, "whose cell has 12 atoms"),
        ("TiO2", {"formula_units": 2, "num_atoms": 12}, "whose cell has 6 atoms"),
        ("TiO2", {"elements": "Ti"}, "is for new crystals"),
        ("*", {"formula_units": 3}, "is for a composition"),
        ("*", {"templates": True}, "is for a composition"),
        ("*", {"elements": "Ti,Q"}, "no element 'Q'"),
        ("*", {"num_atoms": -1}, "give a number from 1"),
        ("TiO2", {"band_gap": "nan"}, "give a number or none"),
        ("TiO2", {"band_gap": "-5"}, "give 0 eV (a metal) or more"),
        ("TiO2", {"bandgap": 1}, "did you mean 'band_gap'"),
        ("TiO2", {"target": "dist"}, "did you mean 'distance'"),
        ("TiO2", {"target": "chgnet", "temperature": "0"}, "positive one in K"),
        ("TiO2", {"templates": "maybe"}, "give true or false"),
        ("TIO2", {}, "did you mean TiO2"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(text, settings, part):
    with pytest.raises(GensciError) as error:
        read(text, **settings)
    assert part in str(error.value)
    assert error.value.exit_status == 2


def test_targets_are_chosen_by_name_and_multiplied():
    pytest.importorskip("smact")
    x = batch("rutile", ([11, 17, 17], torch.eye(3) / 2, 9 * torch.eye(3)))
    assert read("TiO2", target="none").target() is None
    assert read("TiO2", target=None).target() is None
    assert read("TiO2").target().log_prob(x).tolist() == [0.0, 0.0]
    assert read("TiO2", target="charge").target().log_prob(x).tolist() == [0.0, -torch.inf]
    both = read("TiO2", target="distance+charge").target()
    assert both.log_prob(x).tolist() == [0.0, -torch.inf]
    assert read("TiO2", target="charge,distance,charge").target().log_prob(x).tolist() == [
        0.0,
        -torch.inf,
    ]


@pytest.mark.parametrize("target", ["distance", "charge", "distance+charge"])
@pytest.mark.parametrize("sampler", ["mcmc", "smc"])
def test_no_chain_walks_among_crystals(target, sampler):
    draws = SimpleNamespace(sample=len, sample_and_log_prob=len, log_prob=len, begin=len)
    with pytest.raises(UsageError, match=r"only weighs .* direct, importance, twisted-smc$"):
        make_sampler(sampler).check(read("TiO2", target=target).target(), draws)


def test_the_record_holds_every_setting():
    record = read("TiO2", formula_units=2).record()
    assert record["system.formula_units"] == 2
    assert record["system.target"] == "distance"
    assert record.keys() == {f"system.{name}" for name in read("TiO2").settings}


def test_energies_of_new_crystals_come_with_a_warning():
    assert read("TiO2", target="chgnet").warnings() == ()
    assert "within one composition" in read("*", target="chgnet").warnings()[0]
