import csv
import gzip
import io
import tarfile
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensci.core.errors import UsageError
from gensci.nn.smiles_grammar import GrammarMask
from gensci.nn.smiles_tokens import ELEMENTS, PIECE_INDEX, SMILES_PIECES, join, tokenize

DATA = Path(__file__).parents[3] / "shared" / "data" / "molecules"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="the data of the project are not here")


@pytest.mark.parametrize(
    ("smiles", "pieces"),
    [
        ("Sc1ccccc1", "S c 1 c c c c c 1"),
        ("[Sc+3]", "[ Sc + 3 ]"),
        ("c1cc[nH]c1", "c 1 c c [ n H ] c 1"),
        ("ClCBr", "Cl C Br"),
        ("[13CH4]", "[ 1 3 C H 4 ]"),
        ("C[C@@H](N)C(=O)[O-]", "C [ C @@ H ] ( N ) C ( = O ) [ O - ]"),
        ("F/C=C\\F", "F / C = C \\ F"),
        ("[Cu+2].[O-]S", "[ Cu + 2 ] . [ O - ] S"),
        ("[Fe++]", "[ Fe + + ]"),
        ("C%12CC%12", "C % 1 2 C C % 1 2"),
        ("C%(123)C%(123)", "C % ( 1 2 3 ) C % ( 1 2 3 )"),
        ("[se]1cccc1", "[ se ] 1 c c c c 1"),
        ("[Pt@SP1](F)Cl", "[ Pt @SP 1 ] ( F ) Cl"),
        ("[Co@OH25]", "[ Co @OH 2 5 ]"),
        ("[CH3:7]*", "[ C H 3 : 7 ] *"),
        ("[H+]", "[ H + ]"),
        ("[nH+]", "[ n H + ]"),
        ("Cn1cccc1", "C n 1 c c c c 1"),
        ("N->[Cn]", "N -> [ Cn ]"),
    ],
)
def test_pieces_depend_on_where_they_stand(smiles, pieces):
    assert tokenize(smiles) == pieces.split()
    assert join(tokenize(smiles)) == smiles


@pytest.mark.parametrize(
    ("smiles", "position"),
    [
        ("CX", 1), ("C[Xx]C", 1), ("CC)", 2), ("C(C", 3), ("", 0), ("C%1C", 1), ("[C", 0),
        ("C C", 1), ("C]", 1), ("Q", 0), ("[C@H", 0), ("[13]", 0), ("Hg", 0), ("C[nH2", 1),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named_by_position(smiles, position):
    with pytest.raises(UsageError, match=f"position {position} "):
        tokenize(smiles)


def test_every_element_of_rdkit_has_its_piece():
    chem = pytest.importorskip("rdkit.Chem")
    table = chem.GetPeriodicTable()
    assert list(ELEMENTS) == [table.GetElementSymbol(z) for z in range(1, 119)]
    assert len(SMILES_PIECES) == len(set(SMILES_PIECES))
    for symbol in ELEMENTS:
        written = chem.MolToSmiles(chem.MolFromSmiles(f"[{symbol}+]"))
        assert set(tokenize(written)) <= set(SMILES_PIECES)
        assert symbol in tokenize(written)


def _qm9(step):
    with gzip.open(DATA / "qm9_smiles.csv.gz", "rt") as file:
        return [row["smiles"] for row in islice(csv.DictReader(file), 0, None, step)]


def _drug_like(step):
    from rdkit import Chem, RDLogger

    RDLogger.DisableLog("rdApp.*")
    found = {}
    with tarfile.open(
        fileobj=io.BytesIO((DATA / "conformer_benchmark.tar.gz").read_bytes())
    ) as tar:
        names = sorted(name for name in tar.getnames() if name.endswith(".mol"))
        for name in names[::step]:
            molecule = Chem.MolFromMolBlock(tar.extractfile(name).read().decode(), removeHs=True)
            if molecule is not None:
                found[Chem.MolToSmiles(molecule)] = molecule
    return found


def _accepted(mask, smiles):
    """Whether the grammar lets every piece through, and an end at the end."""
    state = mask.start(1)
    for token in [PIECE_INDEX[piece] for piece in tokenize(smiles)] + [mask.end]:
        if not mask.allowed(state)[0, token]:
            return False
        state = mask.advance(state, torch.tensor([token]))
    return bool(mask.allowed(state)[0].sum() == 1)


@needs_data
def test_all_of_qm9_is_read_and_given_back():
    for smiles in _qm9(5):
        assert join(tokenize(smiles)) == smiles


@needs_data
def test_grammar_lets_qm9_through():
    mask = GrammarMask()
    assert all(_accepted(mask, smiles) for smiles in _qm9(4000))


@needs_data
def test_drug_like_molecules_are_read_and_accepted_in_any_order_of_writing():
    chem = pytest.importorskip("rdkit.Chem")
    mask = GrammarMask()
    molecules = list(_drug_like(300).values())
    assert len(molecules) > 10
    for molecule in molecules:
        for smiles in chem.MolToRandomSmilesVect(molecule, 2, randomSeed=5):
            assert join(tokenize(smiles)) == smiles
            assert _accepted(mask, smiles)


@pytest.mark.parametrize(
    ("smiles", "accepted"),
    [
        ("C1CC1", True), ("C1C1", False), ("C11", False), ("C12CC12", False), ("C1.C1", True),
        ("C1CC", False), ("C=1CC=1", True), ("C=1CC#1", False), ("C=1CC1", True), ("C(C)C", True),
        ("C(=O)=O", True), ("C()C", False), ("(C)C", False), ("C=", False), ("C=)C", False),
        ("C(C=)C", False), ("[C@@H](F)(Cl)Br", True), ("[HH]", False), ("[H][H]", True),
        ("[N++]", True), ("[N+-]", False), ("[1234C]", False), ("[235U]", True), ("C..C", False),
        (".C", False), ("=C", False), ("C%10CC%10", True), ("C%01CC%01", False), ("C==C", False),
        ("CC%1", False), ("C1CC(C1)C", True), ("F/C=C/1.C1", True), ("F/C=C1.C/1", True),
        ("C12CC1CC2", True), ("C1CC%111CC%11", True), ("[", False), ("[]", False),
        ("[CH4+2]", True), ("C1CC2C12", False), ("C1CC2CC12", True),
    ],
)  # fmt: skip
def test_grammar_of_small_cases(smiles, accepted):
    mask, state = GrammarMask(), GrammarMask().start(1)
    result = True
    tokens = _lexed(smiles)
    for token in [*tokens, mask.end]:
        result = result and bool(mask.allowed(state)[0, token])
        if result:
            state = mask.advance(state, torch.tensor([token]))
    assert result is accepted


def _lexed(smiles):
    """Longest match first, with no regard to the grammar (the cases hold no ambiguous pieces)."""
    tokens, at = [], 0
    while at < len(smiles):
        size = next(k for k in (3, 2, 1) if smiles[at : at + k] in PIECE_INDEX)
        tokens.append(PIECE_INDEX[smiles[at : at + size]])
        at += size
    return tokens


def _walk(mask, n, generator, budget):
    state, rows = mask.start(n), []
    for step in range(budget):
        allowed = mask.allowed(state, budget - step)
        assert allowed.any(1).all()
        tokens = torch.multinomial(allowed.double(), 1, generator=generator)[:, 0]
        rows.append(tokens)
        state = mask.advance(state, tokens)
    return torch.stack(rows, 1), state


def _text(mask, row):
    return join(SMILES_PIECES[token] for token in row.tolist() if token != mask.end)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), budget=st.integers(20, 60))
def test_random_walks_end_in_time_and_parse(seed, budget):
    chem = pytest.importorskip("rdkit.Chem")
    pieces = [*"CNOcn()=#123456789%0[]@+-H/\\.", "@@", "Cl"]
    mask = GrammarMask(pieces)
    rows, _ = _walk(mask, 16, torch.Generator().manual_seed(seed), budget)
    assert (rows[:, -1] == mask.end).all()
    for row in rows:
        smiles = _text(mask, row)
        assert tokenize(smiles) == [SMILES_PIECES[k] for k in row.tolist() if k != mask.end]
        parameters = chem.SmilesParserParams()
        parameters.sanitize = False
        assert chem.MolFromSmiles(smiles, parameters) is not None, smiles


def test_walks_over_all_pieces_end_in_time():
    mask = GrammarMask()
    rows, _ = _walk(mask, 64, torch.Generator().manual_seed(3), 40)
    assert (rows[:, -1] == mask.end).all()
    for row in rows:
        assert join(tokenize(_text(mask, row))) == _text(mask, row)


@pytest.mark.parametrize("pieces", [None, [*"CN()12=."], [*"[C]()12"]])
@pytest.mark.parametrize("most", [1, 2, 3, 5, 9])
def test_walks_of_few_atoms_are_never_stuck(pieces, most):
    chem = pytest.importorskip("rdkit.Chem")
    parameters = chem.SmilesParserParams()
    parameters.sanitize = False
    mask = GrammarMask(pieces, most)
    rows, _ = _walk(mask, 200, torch.Generator().manual_seed(most), 90)
    assert (rows[:, -1] == mask.end).all()
    counts = set()
    for row in rows:
        molecule = chem.MolFromSmiles(_text(mask, row), parameters)
        assert molecule is not None, _text(mask, row)
        counts.add(molecule.GetNumAtoms())
    assert min(counts) >= 1 and max(counts) == most


@needs_data
def test_a_bound_on_atoms_lets_all_of_that_size_through_and_none_larger():
    chem = pytest.importorskip("rdkit.Chem")
    for smiles in _qm9(1500):
        atoms = chem.MolFromSmiles(smiles).GetNumAtoms()
        assert _accepted(GrammarMask(None, atoms), smiles), smiles
        assert not _accepted(GrammarMask(None, atoms - 1), smiles), smiles


def test_walks_without_plain_atoms_end_in_time():
    mask = GrammarMask(["[", "]", "Fe", "O", "1", "2", "3", "(", ")", "H", "+"])
    mask._table[:, torch.tensor([PIECE_INDEX["O"]])] &= torch.arange(len(mask._table))[:, None] > 8
    mask._organic = False
    rows, _ = _walk(mask, 64, torch.Generator().manual_seed(4), 50)
    assert (rows[:, -1] == mask.end).all()


def test_rows_continue_chosen_parents():
    mask = GrammarMask()
    state = mask.start(2)
    for pieces in (("C", "N"), ("1", "(")):
        state = mask.advance(state, torch.tensor([PIECE_INDEX[piece] for piece in pieces]))
    tokens = torch.tensor([PIECE_INDEX["C"], PIECE_INDEX["C"], PIECE_INDEX["="]])
    state = mask.advance(state, tokens, torch.tensor([1, 0, 1]))
    allowed = mask.allowed(state)
    closing = allowed[:, PIECE_INDEX[")"]].tolist()
    assert closing == [True, False, False]
    assert allowed[:, PIECE_INDEX["1"]].tolist() == [True, False, False]


def test_pieces_that_are_none_are_refused():
    with pytest.raises(UsageError, match="Xx"):
        GrammarMask(["C", "Xx"])
    with pytest.raises(UsageError, match="no atom"):
        GrammarMask(["=", "("])
