"""Crossings of backbone barriers: counted by walker, with hysteresis; agreement of ladders."""

import math

import pytest
import torch

from gensci.sims.peptide.backbone import BackboneTorsion
from gensci.systems.backbone_trips import (
    CORES,
    ENOUGH_TRIPS,
    BarrierTrips,
    cores,
    disagreement,
    mixing_report,
)

PHI = BackboneTorsion("phi", 2, "ALA", (0, 1, 2, 3))
PSI = BackboneTorsion("psi", 1, "ALA", (0, 1, 2, 3))
OMEGA = BackboneTorsion("omega", 2, "ALA", (0, 1, 2, 3))
PROLINE = BackboneTorsion("phi", 2, "PRO", (0, 1, 2, 3))


@pytest.mark.parametrize(
    ("torsion", "degrees", "expected"),
    [
        (PHI, [-150, -60, -20, 20, 60, 120, 170, -175], [0, 0, -1, -1, 1, -1, -1, -1]),
        (PSI, [150, -175, 180, 60, 0, -60, -120, 95], [0, 0, 0, -1, 1, 1, -1, -1]),
        (OMEGA, [180, -170, 0, 90, -29], [0, 0, 1, -1, 1]),
        (PHI, [math.nan], [-1]),
    ],
)
def test_angles_lie_in_cores_or_between_them(torsion, degrees, expected):
    angles = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))[:, None]
    assert cores(angles, (torsion,)).flatten().tolist() == expected


def test_cores_of_a_torsion_lie_apart():
    for regions in CORES.values():
        (a, b), (c, d) = regions.values()
        gaps = [(c - b) % 360, (a - d) % 360]
        assert b - a + d - c + sum(gaps) == 360  # no overlap
        assert min(gaps) >= 60


def followed(rows, walkers=None):
    """Trips of one ladder: cores (frames, replicas) of one torsion."""
    rows = torch.tensor(rows)
    trips = BarrierTrips.zero(1, rows.shape[1], 1)
    for k, row in enumerate(rows):
        walker = torch.arange(len(row)) if walkers is None else torch.tensor(walkers[k])
        trips = trips.observe(row[:, None], walker)
    return trips


@pytest.mark.parametrize(
    ("path", "crossings"),
    [
        ([0, 0, 1, 0], 2),
        ([-1, -1, 1, 1, 0], 1),  # the first core that is reached is no crossing
        ([0, -1, 0, -1, -1, 0], 0),  # quivering on top of the barrier
        ([0, -1, 1, -1, 0, 1], 3),
        ([-1, -1], 0),
    ],
)
def test_only_entering_the_other_core_is_a_crossing(path, crossings):
    assert followed([[core] for core in path]).crossings.tolist() == [[crossings]]


def test_walkers_are_followed_through_the_temperatures():
    # two walkers in two basins that keep changing places: neither ever crosses
    swapped = followed([[0, 1], [1, 0], [0, 1]], [[0, 1], [1, 0], [0, 1]])
    assert swapped.crossings.sum() == 0
    # the coldest temperature sees both basins
    assert swapped.seen.tolist() == [[[2, 1]]]
    # the same conformations without exchanges are crossings
    assert followed([[0, 1], [1, 0], [0, 1]]).crossings.tolist() == [[2], [2]]


def test_disagreement_is_the_potential_scale_reduction_of_an_indicator():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(6, 4000, generator=generator, dtype=torch.float64) < 0.3).double()
    x[0] = (torch.rand(4000, generator=generator) < 0.6).double()  # one ladder is elsewhere
    within, between = x.var(dim=1).mean(), x.mean(dim=1).var()
    length = x.shape[1]
    expected = math.sqrt(((length - 1) / length * within + between) / within)
    assert disagreement(x.mean(dim=1)) == pytest.approx(expected, rel=1e-3)
    assert disagreement(torch.tensor([0.2, 0.2]).double()) == 1.0
    assert disagreement(torch.tensor([0.0, 1.0]).double()) is None


def trips_of(crossings, seen):
    walkers = torch.tensor(crossings)
    return BarrierTrips(torch.zeros_like(walkers), walkers, torch.tensor(seen))


def test_the_error_of_a_fraction_comes_from_the_ladders():
    trips = trips_of([[5], [4]], [[[80, 20]], [[60, 40]], [[70, 30]], [[0, 0]]])
    row = mixing_report(trips, (PHI,), 1, 0)["torsions"]["phi2"]
    assert (row["crossings"], row["round_trips"]) == (9, 4)
    assert row["fraction"] == pytest.approx(0.3)
    assert row["standard_error"] == pytest.approx(0.1 / math.sqrt(3))  # the last saw no basin yet


@pytest.mark.parametrize(
    ("torsions", "crossings", "round_trips", "verdict", "reason"),
    [
        ((PHI,), 2 * ENOUGH_TRIPS, ENOUGH_TRIPS, "well mixed", ""),
        ((PHI,), 6, ENOUGH_TRIPS, "poorly mixed", "3 round trips of phi2 (at least 20 wanted)"),
        ((PHI,), 2 * ENOUGH_TRIPS, 1, "poorly mixed", "1 round trip through the temperatures"),
        ((PROLINE, OMEGA), 0, ENOUGH_TRIPS, "not judged", ""),
        ((), 0, ENOUGH_TRIPS, "not judged", ""),
    ],
)
def test_the_verdict_names_what_was_too_rare(torsions, crossings, round_trips, verdict, reason):
    k = len(torsions)
    trips = trips_of([[crossings] * k], [[[70, 30]] * k, [[71, 29]] * k])
    report = mixing_report(trips, torsions, 2, round_trips)
    assert report["verdict"] == verdict
    assert reason in ", ".join(report["reasons"])
    assert bool(report["reasons"]) == bool(reason)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ([[[90, 10]], [[10, 90]]], "ladders disagree on phi2"),
        ([[[90, 0]], [[0, 90]]], "ladders keep to one basin of phi2 each"),
    ],
)
def test_ladders_that_disagree_are_poorly_mixed(seen, reason):
    report = mixing_report(trips_of([[100]], seen), (PHI,), 1, 0)
    assert report["verdict"] == "poorly mixed"
    assert reason in report["reasons"][0]
