"""Judges of crystals against pymatgen, smact's own answers and finite differences."""

import math
from types import SimpleNamespace

import pytest
import torch
from crystal_batches import KNOWN, batch, flat, pair

from gensci.core.elements import NUMBERS
from gensci.core.errors import UsageError
from gensci.core.protocols import Target
from gensci.systems.composition import parse_formula
from gensci.systems.crystal_targets import (
    ChargeNeutralTarget,
    DistanceTarget,
    SumTarget,
    covalent_radii,
    is_neutral,
)

NAN = float("nan")


def neutral(formula):
    counts = {NUMBERS[symbol]: count for symbol, count in parse_formula(formula).counts}
    return is_neutral(tuple(sorted(counts.items())))


def test_known_crystals_are_allowed_whatever_the_padding():
    target = DistanceTarget()
    assert isinstance(target, Target)
    x = batch(*KNOWN)
    assert target.log_prob(x).tolist() == [0.0] * len(KNOWN)
    assert target.log_prob({k: v.float() if k != "numbers" else v for k, v in x.items()}).dtype == (
        torch.float32
    )


@pytest.mark.parametrize(
    ("crystal", "allowed"),
    [
        (pair(0.49), False),
        (pair(0.51), True),
        (pair(9.51), False),  # the next image is 0.49 away
        (pair(0.0), False),
        (([8], [[0, 0, 0]], torch.diag(torch.tensor([0.45, 9, 9]))), False),  # an own image
        (([8], [[0, 0, 0]], torch.diag(torch.tensor([0.55, 9, 9]))), True),
        (flat(0.09), False),
        (flat(0.85), True),
        (([8], [[NAN, 0, 0]], torch.eye(3)), False),
        (([8], [[0, 0, 0]], torch.eye(3) * NAN), False),
        (([8], [[0, 0, 0]], torch.eye(3) * math.inf), False),
        (([8], [[0, 0, 0]], torch.zeros(3, 3)), False),
        (([8], [[0, 0, 0]], -torch.eye(3)), True),  # left-handed, but a cell
    ],
)
def test_the_rule_of_cdvae_and_its_limits(crystal, allowed):
    target = DistanceTarget()
    values = target.log_prob(batch("rutile", crystal, "salt"))
    assert values.tolist() == [0.0, 0.0 if allowed else -math.inf, 0.0]


def test_an_image_through_a_skewed_cell_is_seen():
    numbers, places, cube = pair(0.3)
    shear = torch.tensor([[1.0, 7, -4], [0, 1, 9], [0, 0, 1]], dtype=torch.float64)
    inside = torch.tensor(places, dtype=torch.float64) @ torch.linalg.inv(shear)
    x = batch((numbers, inside, shear @ cube))
    assert DistanceTarget().log_prob(x).tolist() == [-math.inf]
    assert DistanceTarget(cutoff=0.2).log_prob(x).tolist() == [0.0]


def test_repulsion_is_that_of_the_covalent_radii():
    radii = covalent_radii()
    assert radii[[6, 8, 22]].tolist() == pytest.approx([0.76, 0.66, 1.60])
    target = DistanceTarget(stiffness=7.0, scale=0.8)
    x = batch(pair(1.0, numbers=(8, 22)), pair(5.0, numbers=(8, 22)))
    expected = -7.0 * (1 - 1.0 / (0.8 * (0.66 + 1.60))) ** 2
    assert target.log_prob(x).tolist() == pytest.approx([expected, 0.0])


def test_gradients_of_the_repulsion_are_those_of_finite_differences():
    target = DistanceTarget(stiffness=3.0, scale=1.2)
    x = batch("rutile", "diamond")
    noise = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x["fractional"] = x["fractional"] + 0.02 * noise

    def value(fractional, lattice):
        return target.log_prob({**x, "fractional": fractional, "lattice": lattice})

    inputs = (x["fractional"].requires_grad_(), x["lattice"].requires_grad_())
    assert torch.autograd.gradcheck(value, inputs)


def test_unfinished_crystals_are_judged_by_what_is_placed():
    target = DistanceTarget()
    crowded = ([8, 8, 8], [[0, 0, 0], [0.5, 0, 0], [0.51, 0, 0]], 9 * torch.eye(3))
    x = batch(crowded, crowded, crowded, flat(0.05))
    x["fractional"][0, 2:] = NAN  # what is not placed may be anything
    x["placed"] = torch.tensor([2, 3, 0, 0])
    assert target.log_twist(x, 0).tolist() == [0.0, -math.inf, 0.0, -math.inf]
    whole = {name: value for name, value in x.items() if name != "placed"}
    assert target.log_twist(whole, 0)[1:].tolist() == target.log_prob(whole)[1:].tolist()
    assert target.log_twist({"numbers": x["numbers"]}, 0).tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("TiO2", True),
        ("NaCl", True),
        ("BaTiO3", True),
        ("Ca5(PO4)3OH", True),
        ("NaCl2", False),
        ("Na3Cl", False),
        ("Fe3O4", False),  # of mixed valence, which the rule does not know
        ("C", True),
        ("CuZn", True),  # an alloy
        ("HeO", False),
        ("YbO", True),  # ytterbium has no electronegativity in the table
        ("Ti4O8", True),
        ("Og2O", False),
    ],
)
def test_charges_of_known_compounds(formula, expected):
    pytest.importorskip("smact")
    assert neutral(formula) is expected


def test_charges_depend_on_the_counts_alone():
    pytest.importorskip("smact")
    target = ChargeNeutralTarget()
    x = batch("rutile", "salt", ([11, 17, 17], [[0, 0, 0]] * 3, torch.eye(3)), "silver")
    expected = [0.0, 0.0, -math.inf, 0.0]
    assert target.log_prob(x).tolist() == expected
    order = torch.randperm(6, generator=torch.Generator().manual_seed(1))
    moved = {**x, "numbers": x["numbers"][:, order]}
    assert target.log_prob(moved).tolist() == expected
    assert target.log_prob({"numbers": torch.zeros(1, 3, dtype=torch.int64)})[0] == -math.inf


def test_charges_agree_with_the_validity_that_is_reported():
    validity = pytest.importorskip("gensci.metrics.crystal_validity")
    pytest.importorskip("smact")
    generator = torch.Generator().manual_seed(0)
    elements = torch.tensor([1, 3, 6, 7, 8, 9, 11, 12, 13, 16, 17, 20, 22, 26, 29, 56, 63, 70])
    for _ in range(150):
        chosen = elements[torch.randperm(len(elements), generator=generator)[:3]].tolist()
        counts = torch.randint(1, 5, (3,), generator=generator).tolist()
        composition = tuple(sorted(zip(chosen, counts, strict=True)))
        common = math.gcd(*counts)
        reduced = tuple((number, count // common) for number, count in composition)
        assert is_neutral(composition) == validity.is_composition_valid(reduced), composition


def test_a_product_of_densities_is_the_sum_of_their_logarithms():
    pytest.importorskip("smact")

    class Constant:
        def log_prob(self, x):
            return torch.full((len(x["numbers"]),), 2.5)

    x = batch("rutile", pair(0.1), ([11, 17, 17], torch.eye(3) / 2, 9 * torch.eye(3)), "salt")
    parts = (Constant(), DistanceTarget(), ChargeNeutralTarget(), Constant())
    target = SumTarget(parts)
    assert target.log_prob(x).tolist() == [5.0, -math.inf, -math.inf, 5.0]
    assert target.log_twist(x, 3).tolist() == [0.0, -math.inf, -math.inf, 0.0]
    assert SumTarget(parts[:1]).log_twist(x, 3).tolist() == [0.0] * 4


@pytest.mark.parametrize("setting", [{"cutoff": -1.0}, {"stiffness": NAN}, {"scale": math.inf}])
def test_unusable_settings_are_refused(setting):
    with pytest.raises(UsageError, match=next(iter(setting))):
        DistanceTarget(**setting)


def test_rules_weigh_the_draws_of_a_model_and_not_against_its_density():
    """Whatever the model's density, all draws that a rule allows count the same."""
    from gensci.samplers.importance import Importance

    def draws(n, generator):
        x = batch(*["rutile"] * n)
        x["fractional"][::4, 1] = x["fractional"][::4, 0]
        return x, torch.randn(n, generator=generator, dtype=torch.float64) * 5

    proposal = SimpleNamespace(sample_and_log_prob=draws)
    found = Importance().run(SumTarget([DistanceTarget()]), proposal, 40, seed=1)
    assert len(found) == 30 and found.meta["rejected"] == {"zero target density": 10}
    assert torch.equal(found.log_weight, found.log_weight[:1].expand(30))
    torch.testing.assert_close(found.log_target, found.log_proposal)
