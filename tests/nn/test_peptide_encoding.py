import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from named_peptides import CODES, named_peptide, shared_fixture

from gensci.core.errors import UsageError
from gensci.nn import peptide_encoding as encoding

SEQUENCES = st.text(alphabet="".join(CODES), min_size=1, max_size=6)


def test_tables_agree_with_the_published_ones():
    tables = json.loads(shared_fixture("prose_tables.json").read_text())
    backbone = tables["backbone"]["n2c"]  # the other direction is not used by the network
    assert tables["atom_type"] == encoding.ATOM_TYPES
    assert tables["aa_type"] == encoding.RESIDUE_TYPES
    assert list(encoding.BEFORE_SIDE_CHAIN) == backbone["before_sidechain"]
    assert list(encoding.AFTER_SIDE_CHAIN) == backbone["after_sidechain"]
    for residue, orders in tables["sidechain"].items():
        ours = "HIS" if residue == "HIE" else residue
        variants = [names for style, names in orders.items() if style != "standard"]
        assert list(encoding.SIDE_CHAINS[ours]) == orders["standard"]
        assert [list(v) for v in [encoding.VARIANT_SIDE_CHAINS.get(ours)] if v] == variants


def test_types_follow_the_naming_rule():
    cases = {
        ("ALA", "HB3"): "HB",
        ("ILE", "HG12"): "HG1",
        ("PHE", "HD1"): "HD1",
        ("HIS", "HE2"): "HE2",
        ("HIE", "HB2"): "HB",
        ("MET", "HE2"): "HE",
        ("LYS", "HZ3"): "HZ",
        ("TRP", "HZ3"): "HZ3",
        ("TYR", "HH"): "HH",
        ("ASN", "OD1"): "OD",
        ("ARG", "HH21"): "HH2",
        ("GLY", "HA3"): "HA",
        ("VAL", "H2"): "H",
    }
    for (residue, name), kind in cases.items():
        assert encoding.atom_type(residue, name) == encoding.ATOM_TYPES[kind], (residue, name)


@settings(max_examples=40, deadline=None)
@given(SEQUENCES)
def test_orders_are_permutations_and_flips_reverse_them(sequence):
    cond = encoding.encode(named_peptide(sequence))
    columns = dict(zip(encoding.ORDERS, cond["permutations"].T, strict=True))
    for name, order in columns.items():
        assert torch.equal(order.sort().values, torch.arange(len(order)))
        if name.endswith("_flip"):
            assert torch.equal(order.flip(0), columns[name.removesuffix("_flip")])
    assert torch.equal(cond["length"], torch.full_like(cond["length"], len(sequence)))


@settings(max_examples=20, deadline=None)
@given(SEQUENCES, st.integers(0, 5))
def test_orders_depend_on_names_not_on_the_given_sequence_of_atoms(sequence, seed):
    peptide = named_peptide(sequence)
    shuffle = torch.randperm(
        len(peptide.atom_names), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    for order in encoding.ORDERS:
        wanted = [
            (peptide.residue_index[i], peptide.atom_names[i])
            for i in encoding.atom_order(peptide, order)
        ]
        moved = type(peptide)(**{k: [v[i] for i in shuffle] for k, v in vars(peptide).items()})
        found = [
            (moved.residue_index[i], moved.atom_names[i]) for i in encoding.atom_order(moved, order)
        ]
        assert found == wanted


@settings(max_examples=20, deadline=None)
@given(st.lists(SEQUENCES, min_size=1, max_size=3), st.integers(0, 4))
def test_padding_stays_last_and_changes_nothing_else(sequences, extra):
    conditions = [encoding.encode(named_peptide(sequence)) for sequence in sequences]
    size = max(len(c["mask"]) for c in conditions) + extra
    batch = encoding.collate(conditions, size)
    for row, cond in enumerate(conditions):
        count = len(cond["mask"])
        for key, value in cond.items():
            assert torch.equal(batch[key][row, :count], value)
        assert not batch["mask"][row, count:].any()
        assert not batch["atom_type"][row, count:].any()
        rest = torch.arange(count, size).unsqueeze(1).expand(-1, len(encoding.ORDERS))
        assert torch.equal(batch["permutations"][row, count:], rest)


@pytest.mark.parametrize("cap", ["ACE", "NME"])
def test_caps_are_refused_with_a_remedy(cap):
    peptide = named_peptide("A")
    peptide.residue_names[0] = cap
    with pytest.raises(UsageError, match=rf"cap {cap}.*--sampler mcmc"):
        encoding.encode(peptide)


def test_unknown_atoms_and_residues_are_named():
    with pytest.raises(UsageError, match=r"'HD1' of residue HIS"):
        encoding.atom_type("HIS", "HD1")
    with pytest.raises(UsageError, match="residue 'SEC'"):
        encoding.residue_type("SEC")
    with pytest.raises(UsageError, match="size 3 is too small"):
        encoding.collate([encoding.encode(named_peptide("A"))], 3)
