"""Formula and SMILES grammars against texts whose reading is known."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensci.systems.spellings import ELEMENTS, composition, is_smiles, smiles_fault

SYMBOLS = st.sampled_from(sorted(ELEMENTS))


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("TiO2", {"Ti": 1, "O": 2}),
        ("CH3CH2OH", {"C": 2, "H": 6, "O": 1}),
        ("CS", {"C": 1, "S": 1}),
        ("Cs", {"Cs": 1}),
        ("PIN", {"P": 1, "I": 1, "N": 1}),
        ("AA", None),
        ("GS", None),
        ("Ti0", None),
        ("Ti02", None),
        ("tio2", None),
        ("Ti O2", None),
        ("", None),
        ("2H", None),
    ],
)
def test_compositions(text, counts):
    assert composition(text) == counts


@given(st.lists(st.tuples(SYMBOLS, st.integers(1, 40)), min_size=1, max_size=6))
def test_a_written_formula_reads_back(parts):
    truth = {}
    for symbol, count in parts:
        truth[symbol] = truth.get(symbol, 0) + count
    # a count of 1 is written out, so that no symbol merges with the next
    assert composition("".join(f"{symbol}{count}" for symbol, count in parts)) == truth


@pytest.mark.parametrize(
    "text",
    ["C", "CCO", "C#N", "c1ccccc1", "CC(=O)O", "F/C=C/F", "[Na+].[Cl-]", "N[C@@H](C)C(=O)O",
     "c1ccc2ccccc2c1", "C%12CCCC%12", "[13CH4]", "C(=O)(O)C", "[CH3:1]C", "C=1CCCCC=1"],
)  # fmt: skip
def test_smiles(text):
    assert is_smiles(text)


@pytest.mark.parametrize(
    "text", ["", "AA", "GS", "C1CC", "C(C", "C)", "C=", "=C", "(C)", "C..C", "[Xx]", "[C", "TiO2",
             "Ace-A-Nme", "C-", "C==C", "C()C", "W"]
)  # fmt: skip
def test_not_smiles(text):
    assert not is_smiles(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("C1CC2", "ring bond 1 is not closed"),
        ("CC(C", "a ( is not closed"),
        ("CC)", "the ) at position 2 closes nothing"),
        ("CXC", "it cannot be read at position 1 ('X')"),
        ("CC=", "it ends before an atom"),
        ("", "it ends before an atom"),
        ("CCO", None),
    ],
)
def test_what_breaks_the_grammar_is_named(text, fault):
    assert smiles_fault(text) == fault


@given(st.text(alphabet="CNOcno()[]=#123.-+@HAl%/", max_size=12))
def test_any_text_has_an_answer(text):
    assert is_smiles(text) in (True, False)
