"""From a resolved system to its target and proposal."""

import dataclasses

import pytest
import torch

from gensci.commands.prepare import peptide_settings, prepare
from gensci.core.errors import UsageError
from gensci.core.registry import SYSTEMS, Registry
from gensci.systems.resolve import SystemChoice
from gensci.systems.toy import ToySystem

CPU = torch.device("cpu")


def test_families_are_found_in_the_registry(monkeypatch):
    registry = Registry("system")
    monkeypatch.setattr("gensci.commands.prepare.SYSTEMS", registry)
    with pytest.raises(UsageError, match="unknown system 'toy'"):
        prepare(SystemChoice("toy", "gaussian"), "", CPU, {})

    @registry.register("lattice", proposal="own")
    @dataclasses.dataclass(frozen=True)
    class Lattice(ToySystem):
        """A family of its own."""

    prepared = prepare(SystemChoice("Lattice", "stiff"), "", CPU, {})
    assert prepared.target.toy is ToySystem.parse("stiff").toy
    assert prepared.settings == {"device": "cpu"}
    x, log_q = prepared.proposal.sample_and_log_prob(5, torch.Generator().manual_seed(0))
    assert torch.equal(prepared.proposal.log_prob(x), log_q)
    with pytest.raises(UsageError, match="lattices have no settings"):
        prepare(SystemChoice("lattice", "stiff"), "", CPU, {"size": 3})


def test_every_registered_family_says_where_its_proposals_come_from():
    sources = {SYSTEMS.metadata(name)["proposal"] for name in SYSTEMS}
    assert sources <= {"own", "checkpoint", "dynamics", "structures", "surrogate"}


def test_a_missing_package_is_one_line_with_what_installs_it(monkeypatch, tmp_path):
    from gensci.systems.peptide import PeptideSystem

    def missing(cls, text, **settings):
        raise ModuleNotFoundError("No module named 'openmm'", name="openmm")

    monkeypatch.setattr("gensci.commands.prepare.load_checkpoint", lambda name: ({}, {}, {}))
    monkeypatch.setattr(PeptideSystem, "from_text", classmethod(missing))
    with pytest.raises(UsageError, match=r"package openmm; pip install 'gensci\[peptides\]'"):
        prepare(SystemChoice("peptide", "AA"), "any", CPU, {})


def test_a_model_of_structures_is_no_proposal_of_peptides(monkeypatch):
    config = {"class": "unigenx", "settings": {}}
    monkeypatch.setattr("gensci.commands.prepare.load_checkpoint", lambda name: ({}, config, {}))
    with pytest.raises(UsageError, match="'any' is no model of peptides; choose another"):
        prepare(SystemChoice("peptide", "AA"), "any", CPU, {})


@pytest.mark.parametrize(
    ("text", "files"),
    [
        ("amber99sbildn.xml", ("amber99sbildn.xml",)),
        ("amber14/protein.ff14SB.xml, own.xml", ("amber14/protein.ff14SB.xml", "own.xml")),
        ('["amber99sbildn.xml"]', ("amber99sbildn.xml",)),
        (("amber99sbildn.xml",), ("amber99sbildn.xml",)),
    ],
)
def test_a_force_field_is_a_name_several_with_commas_or_a_list(text, files):
    assert tuple(peptide_settings({"forcefield": text})["forcefield"]) == files


@pytest.mark.parametrize("text", ["none", "None", "null", None])
def test_none_is_no_solvent_and_no_cutoff(text):
    chosen = peptide_settings({"implicit-solvent": text, "cutoff": text})
    assert (chosen["implicit_solvent"], chosen["cutoff"]) == (None, None)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cutoff": "2nm"}, r"--system.cutoff '2nm' cannot be used; give a number or none$"),
        ({"temperature": "none"}, r"--system.temperature 'none' cannot be used; give a number$"),
        ({"minimise": "maybe"}, r"--system.minimise 'maybe' cannot be used; give true or false$"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused_with_what_it_takes(settings, message):
    with pytest.raises(UsageError, match=message):
        peptide_settings(settings)
