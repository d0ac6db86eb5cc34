"""Atom names of zwitterionic peptides without building them, and where `shared/` lies."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from gensci.nn.peptide_encoding import SIDE_CHAINS

LETTERS = "ARNDCQEGHILKMFPSTWYV"
RESIDUES = "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL"
CODES = dict(zip(LETTERS, RESIDUES.split(), strict=True))


def named_peptide(sequence):
    """Names per atom, residue by residue, of a sequence of one-letter codes."""
    names, kinds, index = [], [], []
    for place, letter in enumerate(sequence):
        residue = CODES[letter]
        atoms = ["N", *([] if letter == "P" else ["H"]), *(["H2", "H3"] if place == 0 else [])]
        atoms += ["CA", *(["HA2", "HA3"] if letter == "G" else ["HA"]), *SIDE_CHAINS[residue]]
        atoms += ["C", "O", *(["OXT"] if place == len(sequence) - 1 else [])]
        names += atoms
        kinds += [residue] * len(atoms)
        index += [place] * len(atoms)
    return SimpleNamespace(atom_names=names, residue_names=kinds, residue_index=index)


def shared_fixture(name):
    """Path of a fixture in `shared/`, or a skip that says why."""
    path = shared_root() / "fixtures" / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: the fixtures of ../shared do not come with a clone")
    return path


def shared_root():
    """The folder `shared/`, or a skip that says why."""
    root = Path(os.environ.get("GENSCI_SHARED", Path(__file__).parents[2] / "shared"))
    if not root.is_dir():
        pytest.skip(f"{root} is absent: ../shared does not come with a clone")
    return root
