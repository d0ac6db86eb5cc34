"""The criterion of the halves on simulations whose truth is known."""

import math

import numpy as np
import pytest

from gensci.core.errors import UsageError
from gensci.metrics.agreement import even_rows, half_agreement, ladder_rows

LADDERS, FRAMES = 16, 400


def two_basins(share, rng, frames=FRAMES):
    """Frames of (psi1, phi2), snapshot by snapshot; ``share`` (ladders,) of each is in basin two.

    The basins are 2 rad apart, in phi across zero.
    """
    second = rng.random((frames, LADDERS)) < share
    psi = 2.6 + 0.05 * rng.normal(size=second.shape)
    phi = np.where(second, 1.0, -1.0) + 0.05 * rng.normal(size=second.shape)
    energy = 20.0 + 3.0 * rng.normal(size=second.shape)
    ladder = np.broadcast_to(np.arange(LADDERS), second.shape)
    backbone = {"psi1": psi.reshape(-1), "phi2": phi.reshape(-1)}
    return backbone, energy.reshape(-1), ladder.reshape(-1)


def test_independent_frames_agree():
    found = half_agreement(
        *two_basins(np.full(LADDERS, 0.3), np.random.default_rng(0)), points=800, splits=4
    )
    assert found.complaints == []
    assert found.points == 800
    assert found.torus.between == pytest.approx(found.torus.floor, rel=0.5)
    share, error = found.basins["phi2 > 0"]
    assert share == pytest.approx(0.3, abs=0.02)
    assert error == pytest.approx(math.sqrt(0.21 / (LADDERS * FRAMES)), rel=0.6)


def test_stuck_ladders_are_found():
    """Two of sixteen ladders that never leave the second basin."""
    share = np.where(np.arange(LADDERS) < 2, 1.0, 0.05)
    found = half_agreement(*two_basins(share, np.random.default_rng(1)), points=400, splits=4)
    # the lower half has 2/8 of 0.95 more in that basin, 2 rad away
    assert found.torus.first == pytest.approx(2 * math.sqrt(0.95 / 4), rel=0.1)
    assert not found.torus.agree
    assert found.energy.agree
    assert [line.split()[0] for line in found.complaints] == ["T-W2", "P(phi2"]


def test_different_energies_are_found():
    rng = np.random.default_rng(2)
    backbone, energy, ladder = two_basins(np.full(LADDERS, 0.3), rng)
    energy = energy + 2.0 * (ladder >= LADDERS // 2)
    found = half_agreement(backbone, energy, ladder, points=200, splits=3)
    assert found.energy.first == pytest.approx(2.0, abs=0.3)
    assert found.energy.excess > 1.0
    assert any(line.startswith("E-W2") for line in found.complaints)


def test_cis_bonds_are_counted():
    """Half of the ladders start and stay cis in one bond; every fourth frame is in the other."""
    backbone, energy, ladder = two_basins(np.full(LADDERS, 0.5), np.random.default_rng(6), 40)
    frames = np.arange(len(ladder)) // LADDERS
    omega = {
        "omega1": np.where(ladder % 2 == 0, 0.1, 3.0),
        "omega2": np.where(frames % 4 == 0, -0.2, -3.1),
    }
    found = half_agreement({**backbone, **omega}, energy, ladder, points=80, splits=2)
    share, error = found.basins["omega1 cis"]
    assert (share, error) == pytest.approx((0.5, math.sqrt(0.25 * 16 / 15 / 16)))
    assert found.basins["omega2 cis"] == pytest.approx((0.25, 0.0))
    assert "P(omega1 cis) = 0.500 +- 0.129" in found.complaints
    assert found.torus == half_agreement(backbone, energy, ladder, points=80, splits=2).torus


def test_limit_grows_with_the_square_root_of_the_links():
    rng = np.random.default_rng(3)
    backbone, energy, ladder = two_basins(np.full(LADDERS, 0.5), rng, frames=40)
    three = {f"{name}{k}": value for k in range(3) for name, value in backbone.items()}
    one = half_agreement(backbone, energy, ladder, points=80, splits=2)
    more = half_agreement(three, energy, ladder, points=80, splits=2)
    assert one.torus.limit == pytest.approx(0.2)
    assert more.torus.limit == pytest.approx(0.2 * math.sqrt(3))
    assert more.torus.first == pytest.approx(one.torus.first * math.sqrt(3), rel=1e-9)


def test_same_seed_same_numbers():
    data = two_basins(np.full(LADDERS, 0.5), np.random.default_rng(4), frames=40)
    first, again = (half_agreement(*data, points=80, splits=3, seed=5) for _ in range(2))
    assert first == again


def test_rows_are_even_in_time_and_equal_in_number():
    ladder = np.array([0, 1, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1])  # ladder 0 lost frames
    rows = even_rows(ladder_rows(ladder), 100)
    assert rows.shape == (2, 4)
    assert rows[0].tolist() == [0, 3, 6, 9]
    assert (ladder[rows] == [[0], [1]]).all()
    assert rows[1].tolist() == [2, 5, 8, 11]
    assert even_rows(ladder_rows(ladder), 2).tolist() == [[3, 9], [4, 10]]


@pytest.mark.parametrize("ladders", [1, 3])
def test_halves_need_an_even_number_of_ladders(ladders):
    with pytest.raises(UsageError, match=f"{ladders} ladders have no two halves"):
        half_agreement({"psi1": np.zeros(12)}, np.zeros(12), np.arange(12) % ladders)
