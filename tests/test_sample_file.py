"""`gensci sample` of molecules from files: agreeing files, resuming, refusals."""

import json

import numpy as np
import pytest
import torch
from molecule_files import (
    copy_of,
    peptide,
    write_pdb,
    write_peptide_xml,
    write_prmtop,
    write_system,
)

import gensci
from gensci.__main__ import main
from gensci.systems.molecule import molecule_system

md = pytest.importorskip("mdtraj")
SMALL = [
    "--num-samples", "24", "--sampler", "mcmc", "--sampler.num_chains", "8",
    "--sampler.warmup", "20", "--sampler.thinning", "1", "--seed", "3",
]  # fmt: skip


@pytest.fixture
def work(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_prmtop_run_writes_agreeing_files(work, capsys):
    write_prmtop(work)
    given = ["--system", "ala.prmtop", "--system.temperature", "350"]
    assert main(["sample", *given, *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "ala.prmtop names no solvent and gets obc1" in shown
    folder = work / "results" / "ala"
    run = json.loads((folder / "run.json").read_text())
    arrays = np.load(folder / "samples.npz")
    target = molecule_system("ala.prmtop", temperature=350.0).target("cpu", torch.float64)
    again = target.log_prob({"positions": torch.from_numpy(arrays["positions"]).double()})
    assert np.allclose(arrays["log_target"], again, rtol=1e-4, atol=1e-2)
    frames = md.load(str(folder / "samples.xtc"), top=str(folder / "topology.pdb"))
    assert frames.n_frames == len(arrays["positions"]) == run["kept"] == 24
    elements = [atom.element.symbol for atom in frames.topology.atoms]
    assert elements == list(peptide("Ace-A-Nme").elements)
    assert [r.name for r in frames.topology.residues] == ["ACE", "ALA", "NME"]
    pairs = [[0, 4], [1, 9]]
    found = md.compute_distances(frames, pairs, periodic=False)
    truth = [arrays["positions"][:, a] - arrays["positions"][:, b] for a, b in pairs]
    assert np.allclose(found.T, [np.linalg.norm(step, axis=-1) for step in truth], atol=0.003)
    settings = run["settings"]
    assert settings["system"] == "file:ala.prmtop"
    assert settings["system.implicit_solvent"] == "obc1"
    assert "gets obc1" in run["warnings"][0]
    drawn = gensci.load(folder)
    assert drawn.x["positions"].shape == (24, 22, 3)


def test_the_same_files_continue_and_changed_ones_are_refused(work, capsys):
    write_peptide_xml(work, "AA", "dimer")
    command = ["sample", "--system", "dimer.xml", "--out", "run", *SMALL]
    assert main(command) == 0
    first = (work / "run" / "samples.npz").read_bytes()
    (work / "run" / "samples.npz").unlink()
    assert main(command) == 0
    assert (work / "run" / "samples.npz").read_bytes() == first
    assert json.loads((work / "run" / "run.json").read_text())["warnings"] == []
    built = peptide("AA")
    write_pdb(work / "dimer.pdb", built.topology, built.positions * 1.01)
    capsys.readouterr()
    assert main(command) == 1
    assert "system.coordinates_sha256" in capsys.readouterr().err


def test_files_of_a_list_lie_beside_it(work, capsys):
    (work / "inputs").mkdir()
    write_peptide_xml(work / "inputs", "AA", "one")
    write_prmtop(work / "inputs", name="two")
    (work / "inputs" / "many.txt").write_text("one.xml\nfile:two.prmtop\ntoy:gaussian\n")
    assert main(["sample", "--system", "inputs/many.txt", "--out", "out", *SMALL]) == 0
    batch = json.loads((work / "out" / "batch.json").read_text())
    assert {name: entry["outcome"] for name, entry in batch["systems"].items()} == {
        "one": "complete", "two": "complete", "gaussian": "complete",
    }  # fmt: skip


def test_the_python_call_reads_files_too(work):
    write_peptide_xml(work, "AA", "dimer")
    samples = gensci.sample("dimer.xml", num_samples=5, sampler="direct", seed=1)
    assert samples.x["positions"].shape == (5, 23, 3)


@pytest.mark.parametrize("sampler", ["importance", "smc"])
def test_samplers_that_need_a_density_name_those_that_do_not(work, capsys, sampler):
    write_prmtop(work)
    assert main(["sample", "--system", "ala.prmtop", "--sampler", sampler]) == 2
    line = capsys.readouterr().err
    assert "which ShortDynamics lacks; use one of: direct, mcmc" in line
    assert not (work / "results").exists()


def cut_off(work):
    path = write_peptide_xml(work, "AA", "bad")
    path.write_text(path.read_text()[:5000])


def pme(work):
    system = copy_of(peptide("AA").system)
    (nonbonded,) = (f for f in system.getForces() if hasattr(f, "addException"))
    nonbonded.setNonbondedMethod(nonbonded.PME)
    write_system(work, system, "bad")


def constrained(work):
    system = copy_of(peptide("AA").system)
    system.addConstraint(0, 1, 0.1)
    write_system(work, system, "bad")


def other_atoms(work):
    write_system(work, peptide("AA").system, "bad")
    built = peptide("Ace-A-Nme")
    write_pdb(work / "bad.pdb", built.topology, built.positions)


def not_finite(work):
    write_peptide_xml(work, "AA", "bad")
    lines = (work / "bad.pdb").read_text().splitlines()
    lines[5] = lines[5][:30] + "     nan" + lines[5][38:]
    (work / "bad.pdb").write_text("\n".join(lines))


def alone(work):
    write_system(work, peptide("AA").system, "bad")


def sound(work):
    write_peptide_xml(work, "AA", "bad")


BAD = {
    "missing": (lambda work: None, [], "no such file"),
    "cut off": (cut_off, [], "no complete XML"),
    "particle mesh": (pme, [], "NonbondedForce uses a periodic box"),
    "constraints": (constrained, [], "1 constraints"),
    "other atoms": (other_atoms, [], "bad.pdb has 22 atoms, bad.xml has 23"),
    "not finite": (not_finite, [], "coordinates of atom 5 (CA of ALA 1) are not finite"),
    "no coordinates": (alone, [], "--system.coordinates PATH"),
    "wrong place": (sound, ["--system.coordinates", "no.pdb"], "no.pdb: no such coordinate file"),
    "wrong kind": (sound, ["--system.coordinates", "bad.xml"], "not an OpenMM State"),
    "solvent": (sound, ["--system.implicit_solvent", "obc1"], "holds its forces as they are"),
    "cutoff": (sound, ["--system.cutoff", "1.0"], "holds its forces as they are"),
    "hydrogens": (sound, ["--system.hydrogen_mass", "20"], "hydrogen_mass is 20.0 Da"),
    "cold": (sound, ["--system.temperature", "-3"], "--system.temperature -3.0"),
    "unknown": (sound, ["--system.cutof", "3"], "did you mean 'cutoff'"),
    "words": (sound, ["--system.temperature", "warm"], "temperature"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_get_one_line_and_write_nothing(case, work, capsys):
    make, more, part = BAD[case]
    make(work)
    before = sorted(work.rglob("*"))
    assert main(["sample", "--system", "bad.xml", "--sampler", "mcmc", *more]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert part in lines[0]
    assert sorted(work.rglob("*")) == before
