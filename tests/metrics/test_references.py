"""Reference ensembles: what is written is read back, and damage is noticed."""

import dataclasses
import math

import numpy as np
import pytest

from gensci.metrics import references
from gensci.metrics.references import (
    EnsembleError,
    ReferenceEnsemble,
    load_reference_ensemble,
    save_reference_ensemble,
    superpose,
)


@pytest.fixture
def ensemble():
    rng = np.random.default_rng(0)
    kept = np.arange(3, 60, 6)
    return ReferenceEnsemble(
        name="AA",
        topology="CRYST1\nEND\n",
        temperature=310.0,
        torsion_names=("psi1", "phi2", "omega1", "chi1_2"),
        torsions=rng.uniform(-math.pi, math.pi, (60, 4)).astype(np.float32),
        energy=rng.normal(-500, 10, 60).astype(np.float32),
        ladder=(np.arange(60) % 16).astype(np.uint8),
        snapshot=(np.arange(60) // 16).astype(np.int32),
        positions=superpose(rng.normal(0, 0.4, (len(kept), 9, 3))),
        position_rows=kept,
        meta={"recipe": {"seed": 3}},
    )


def test_round_trip(ensemble, tmp_path):
    path = tmp_path / "AA.npz"
    save_reference_ensemble(path, ensemble)
    found = load_reference_ensemble(path)
    for name in ("energy", "ladder", "snapshot", "position_rows"):
        np.testing.assert_array_equal(getattr(found, name), getattr(ensemble, name))
    for name in ("name", "topology", "temperature", "torsion_names"):
        assert getattr(found, name) == getattr(ensemble, name)
    assert found.meta["recipe"] == {"seed": 3}
    assert found.positions.dtype == np.float32
    assert np.abs(found.positions - ensemble.positions).max() < 0.51e-4
    turned = np.abs(np.angle(np.exp(1j * (found.torsions - ensemble.torsions))))
    assert turned.max() < 1.001 * math.pi / 4096
    assert found.torsions.min() >= -math.pi - 1e-6
    assert found.torsions.max() < math.pi
    assert found.backbone_names == ("psi1", "phi2")
    np.testing.assert_array_equal(found.backbone, found.torsions[:, :2])
    np.testing.assert_array_equal(found.torsion("chi1_2"), found.torsions[:, 3])
    np.testing.assert_allclose(found.reduced_energy, ensemble.energy / 2.577483, rtol=1e-6)


def test_the_same_ensemble_gives_the_same_bytes(ensemble, tmp_path):
    for name in "ab":
        save_reference_ensemble(tmp_path / f"{name}.npz", ensemble)
    again = load_reference_ensemble(tmp_path / "a.npz")
    save_reference_ensemble(tmp_path / "c.npz", again)
    found = {(tmp_path / f"{name}.npz").read_bytes() for name in "ab"}
    assert len(found) == 1
    packed = [dict(np.load(tmp_path / f"{name}.npz")) for name in "ac"]
    for key in packed[0].keys() - {"meta"}:
        np.testing.assert_array_equal(packed[0][key], packed[1][key])


def test_superposed_frames_keep_distances_and_handedness():
    rng = np.random.default_rng(1)
    x = rng.normal(0, 0.3, (8, 3))
    turns, _ = np.linalg.qr(rng.normal(size=(20, 3, 3)))
    turns[:, :, 0] *= np.linalg.det(turns)[:, None]
    copies = x @ turns + rng.normal(size=(20, 1, 3))
    placed = superpose(copies)
    np.testing.assert_allclose(placed, np.broadcast_to(placed[0], placed.shape), atol=1e-12)
    mirrored = superpose(np.stack([x, x * [-1, 1, 1]]))
    assert np.abs(mirrored[1] - mirrored[0]).max() > 0.05

    def triple(y):
        return np.linalg.det(y[1:4] - y[0])

    assert triple(mirrored[1]) == pytest.approx(-triple(mirrored[0]), rel=1e-9)
    noisy = copies + 0.1 * rng.normal(size=copies.shape)

    def distances(y):
        return np.linalg.norm(y[:, :, None] - y[:, None], axis=-1)

    np.testing.assert_allclose(distances(superpose(noisy)), distances(noisy), atol=1e-12)
    # no small turn brings a frame nearer to the first
    placed = superpose(noisy)
    near = ((placed - placed[0]) ** 2).sum()
    for axis in range(3):
        for angle in (-1e-3, 1e-3):
            turn = np.eye(3)
            i, j = [k for k in range(3) if k != axis]
            turn[i, i] = turn[j, j] = math.cos(angle)
            turn[i, j], turn[j, i] = math.sin(angle), -math.sin(angle)
            assert ((placed[1:] @ turn - placed[0]) ** 2).sum() > near


def test_positions_beyond_two_bytes_are_refused(ensemble, tmp_path):
    far = dataclasses.replace(ensemble, positions=ensemble.positions + 4.0)
    with pytest.raises(EnsembleError, match="superpose"):
        save_reference_ensemble(tmp_path / "AA.npz", far)


def test_an_unknown_torsion_lists_the_known(ensemble):
    with pytest.raises(EnsembleError, match="AA has no torsion 'chi9'; use one of psi1, phi2"):
        ensemble.torsion("chi9")


def test_damage_is_noticed(ensemble, tmp_path):
    """Every tenth byte flipped, one at a time: an error of ours or the very same numbers."""
    path = tmp_path / "AA.npz"
    save_reference_ensemble(path, ensemble)
    whole = path.read_bytes()
    noticed, tried = 0, range(0, len(whole), max(1, len(whole) // 150))
    for place in tried:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            found = load_reference_ensemble(path)
        except EnsembleError:
            noticed += 1
            continue
        np.testing.assert_array_equal(found.energy, ensemble.energy)
        assert np.abs(found.positions - ensemble.positions).max() < 0.51e-4
    assert noticed > len(tried) / 2


@pytest.mark.parametrize("content", [b"", b"no zip file", b"PK\x03\x04 cut"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(EnsembleError, match="is no reference ensemble"):
        load_reference_ensemble(path)


def test_other_arrays_and_formats_are_refused(ensemble, tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(EnsembleError, match="is no reference ensemble"):
        load_reference_ensemble(path)
    with monkeypatch.context() as patch:
        patch.setattr(references, "FORMAT", 99)
        save_reference_ensemble(path, ensemble)
    with pytest.raises(EnsembleError, match="has format 99, not 1"):
        load_reference_ensemble(path)


def test_names_are_found_in_a_checkout_only(ensemble, tmp_path, monkeypatch):
    save_reference_ensemble(tmp_path / "AA.npz", ensemble)
    monkeypatch.setattr(references, "_FOLDER", tmp_path)
    assert load_reference_ensemble("AA").name == "AA"
    with pytest.raises(EnsembleError, match="no reference ensemble of 'QQ'; there are: AA"):
        load_reference_ensemble("QQ")
    with pytest.raises(EnsembleError, match="no file"):
        load_reference_ensemble(tmp_path / "QQ.npz")
    monkeypatch.setattr(references, "_FOLDER", tmp_path / "absent")
    with pytest.raises(EnsembleError, match="outside a checkout"):
        load_reference_ensemble("AA")
