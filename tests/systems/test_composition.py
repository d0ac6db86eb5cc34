"""Chemical formulas against pymatgen, and what is said of those that are none."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gensci.core.elements import NUMBERS, SYMBOLS, symbol_of
from gensci.core.errors import SystemTextError, UsageError
from gensci.systems.composition import parse_elements, parse_formula, recased

PARTS = st.lists(st.tuples(st.sampled_from(SYMBOLS), st.integers(1, 20)), min_size=1, max_size=4)


def written(parts):
    return "".join(f"{symbol}{count}" for symbol, count in parts)


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("TiO2", [("Ti", 1), ("O", 2)]),
        ("O2Ti", [("O", 2), ("Ti", 1)]),  # the order is kept
        ("Ti4O8", [("Ti", 4), ("O", 8)]),
        ("Ca(OH)2", [("Ca", 1), ("O", 2), ("H", 2)]),
        ("Ca5(PO4)3OH", [("Ca", 5), ("P", 3), ("O", 13), ("H", 1)]),
        ("[Co(NH3)6]Cl3", [("Co", 1), ("N", 6), ("H", 18), ("Cl", 3)]),
        ("CH3CH2OH", [("C", 2), ("H", 6), ("O", 1)]),
        ("Mg(OH)(NO3)", [("Mg", 1), ("O", 4), ("H", 1), ("N", 1)]),
        ("C", [("C", 1)]),
    ],
)
def test_formulas_are_read_in_order(text, counts):
    composition = parse_formula(text)
    assert list(composition.counts) == counts
    assert composition.num_atoms == len(composition.numbers) == sum(c for _, c in counts)


@given(PARTS, st.integers(1, 9), PARTS)
def test_counts_are_those_of_pymatgen(outer, factor, inner):
    pymatgen = pytest.importorskip("pymatgen.core")
    text = f"{written(outer)}({written(inner)}){factor}"
    if sum(c for _, c in outer) + factor * sum(c for _, c in inner) > 1000:
        return
    composition = parse_formula(text)
    truth = pymatgen.Composition(text)
    assert dict(composition.counts) == {str(e): int(c) for e, c in truth.items()}
    assert composition.units == math.gcd(*map(int, truth.values()))
    assert composition.reduced.times(composition.units) == composition
    assert parse_formula(composition.formula) == composition


def test_atomic_numbers_are_those_of_pymatgen():
    pymatgen = pytest.importorskip("pymatgen.core")
    assert len(SYMBOLS) == 118
    assert all(NUMBERS[symbol] == pymatgen.Element(symbol).Z for symbol in SYMBOLS)
    assert symbol_of(22) == "Ti"
    assert parse_formula("TiO2").numbers == (22, 8, 8)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the composition is empty"),
        ("TIO2", "unknown element 'T'; did you mean TiO2?"),
        ("tio2", "'t' is no element; did you mean TiO2?"),
        ("CAO", "unknown element 'A'; did you mean CaO?"),
        ("BATIO3", "did you mean BaTiO3?"),
        ("Xx2O", "unknown element 'Xx'"),
        ("D2O", "write isotopes of hydrogen as H"),
        ("Fe2.5O4", "fractional"),
        ("Fe.5O", "fractional"),
        ("CuSO4.5H2O", "CuSO4(H2O)5"),
        ("CuSO4·5H2O", "CuSO4(H2O)5"),
        ("Ti0O2", "the count '0'"),
        ("Ti02", "the count '02'"),
        ("Na+", "no charge"),
        ("SO4-2", "no charge"),
        ("Ti O2", "write TiO2"),
        ("2TiO2", "begins with a number"),
        ("Ti(O2", "'(' is not closed"),
        ("TiO2)", "')' closes nothing"),
        ("Ti(O]2", "']' closes nothing"),
        ("Ti()2", "empty brackets"),
        ("Ti1001", "more than 1000 atoms"),
        ("Ti" + "9" * 5000, "more than 1000 atoms"),
        ("((Ti999)99)99", "more than 1000 atoms"),
        ("TiO₂", "'₂' is no element"),
        ("Ti,O", "',' is no element"),
    ],
)
def test_what_is_no_formula_gets_one_line_with_the_fault(text, part):
    with pytest.raises(SystemTextError) as error:
        parse_formula(text)
    assert part in str(error.value)
    assert "\n" not in str(error.value)


@given(st.text(alphabet="TiOoCcaAl()[]0123456789.+ ²", max_size=12))
def test_any_text_is_a_formula_or_refused(text):
    try:
        assert parse_formula(text).num_atoms <= 1000
    except SystemTextError as error:
        assert "composition" in str(error)


@given(PARTS)
def test_a_formula_in_the_wrong_case_is_found_again(parts):
    text = written(parts)
    found = recased(text.upper())
    if found is None:  # the upper case is a formula itself
        assert recased(text.upper()) is None
    else:
        assert found.lower() == text.lower()
        assert parse_formula(found)


@pytest.mark.parametrize(
    ("text", "numbers"), [("Ti,O", (8, 22)), (" O , Ti, O", (8, 22)), ("C", (6,))]
)
def test_lists_of_elements(text, numbers):
    assert parse_elements(text) == numbers


@pytest.mark.parametrize(
    ("text", "part"), [("ti", "did you mean Ti?"), ("Ti;O", "no element"), (" ,", "is empty")]
)
def test_lists_that_are_none(text, part):
    with pytest.raises(UsageError) as error:
        parse_elements(text)
    assert part in str(error.value)
