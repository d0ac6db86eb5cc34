"""Energies and relaxation by CHGNet against the package's own answers."""

import math
import warnings

import pytest
import torch
from crystal_batches import KNOWN, batch, flat, pair

from gensci.core.errors import UsageError

pytest.importorskip("chgnet")

from gensci.systems.chgnet_target import BOLTZMANN, ChgnetTarget, structure_of

NAN = float("nan")


@pytest.fixture(scope="module")
def target():
    return ChgnetTarget(1000.0, batch_size=3)


@pytest.fixture(scope="module")
def truth(target):
    """eV per cell by `predict_structure`."""
    x = batch(*KNOWN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        structures = [structure_of(x, row) for row in range(len(KNOWN))]
        found = [target.network.predict_structure(s, task="e")["e"] * len(s) for s in structures]
    return torch.tensor([float(value) for value in found], dtype=torch.float64)


def test_energies_are_those_of_the_package(target, truth):
    torch.testing.assert_close(target.energy(batch(*KNOWN)), truth, rtol=1e-5, atol=1e-5)


def test_log_prob_is_the_boltzmann_factor_of_the_energy_per_cell(target, truth):
    got = target.log_prob(batch(*KNOWN))
    torch.testing.assert_close(got, -truth / (BOLTZMANN * 1000), rtol=1e-5, atol=1e-3)
    assert pytest.approx(8.617333e-5) == BOLTZMANN


def test_what_cannot_be_judged_has_zero_density_and_spoils_no_other(target, truth):
    bad = [
        pair(0.3),
        flat(0.05),
        ([6], [[NAN, 0, 0]], torch.eye(3)),
        ([6], [[0, 0, 0]], torch.eye(3) * NAN),
        ([118], [[0, 0, 0]], 4 * torch.eye(3)),
        ([18], [[0, 0, 0]], 20 * torch.eye(3)),  # alone
        ([6] * 8, torch.rand(8, 3, generator=torch.Generator()), 1.2 * torch.eye(3)),
    ]
    x = batch("salt", *bad, "diamond")
    got = target.log_prob(x)
    assert got[1:-1].tolist() == [-math.inf] * len(bad)
    order = list(KNOWN)
    expected = truth[[order.index("salt"), order.index("diamond")]]
    torch.testing.assert_close(target.energy(x)[[0, -1]], expected, rtol=1e-5, atol=1e-5)
    assert target.log_prob({name: value[1:-1] for name, value in x.items()}).isinf().all()


def test_the_energy_knows_no_translation_nor_choice_of_cell(target, truth):
    x = batch("rutile")
    moved = {**x, "fractional": x["fractional"] + torch.tensor([0.3, -0.2, 2.1])}
    torch.testing.assert_close(target.energy(moved), truth[:1], rtol=1e-5, atol=1e-4)


def test_relaxation_goes_downhill_to_the_known_cell_and_keeps_the_order(target, capfd):
    numbers, _, lattice = KNOWN["salt"]
    strained = (numbers, [[0, 0, 0], [0.52, 0.5, 0.47]], 1.05 * lattice)
    x = batch(strained, pair(0.1))
    before = target.energy(x)
    relaxed = target.relax(x, steps=60, max_force=0.05)
    assert capfd.readouterr().out == ""
    assert relaxed.energy[0] < before[0]
    torch.testing.assert_close(
        target.energy(relaxed.x)[:1], relaxed.energy[:1], rtol=1e-4, atol=1e-3
    )
    assert relaxed.converged.tolist() == [True, False]
    assert relaxed.energy[1].isnan()
    assert torch.equal(relaxed.x["numbers"], x["numbers"])
    assert torch.equal(relaxed.x["lattice"][1], x["lattice"][1])
    edge = torch.linalg.det(relaxed.x["lattice"][0]).abs() * 4
    assert float(edge ** (1 / 3)) == pytest.approx(5.69, abs=0.06)  # PBE, Materials Project
    apart = (relaxed.x["fractional"][0, 1] - relaxed.x["fractional"][0, 0]) % 1
    torch.testing.assert_close(apart, torch.full((3,), 0.5).double(), atol=0.02, rtol=0)


def test_too_few_steps_are_told(target):
    numbers, _, lattice = KNOWN["salt"]
    x = batch((numbers, [[0, 0, 0], [0.56, 0.5, 0.44]], 1.08 * lattice))
    relaxed = target.relax(x, steps=2)
    assert relaxed.converged.tolist() == [False]
    assert relaxed.energy.isfinite().all()


@pytest.mark.parametrize("temperature", [0.0, -3.0, NAN, math.inf])
def test_temperatures_that_are_none_are_refused(temperature):
    with pytest.raises(UsageError, match="temperature"):
        ChgnetTarget(temperature)
