import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gensci.nn.frames import frame, to_global, to_local
from gensci.nn.rotations import uniform_rotations

SEEDS = st.integers(0, 2**31)


def _points(seed, *shape):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 3, generator=generator, dtype=torch.float64)


def _bent(seed, n=20):
    """Reference points that are far from a line."""
    points = _points(seed, 20 * n, 3)
    ab, ac = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    height = torch.linalg.cross(ab, ac).norm(dim=-1) / ab.norm(dim=-1)
    return points[height > 0.2 * ac.norm(dim=-1)][:n]


def _count(points, k):
    return torch.full(points.shape[:-2], k)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, k=st.integers(0, 3))
def test_axes_are_a_right_handed_rotation(seed, k):
    points = _points(seed, 20, 3)
    _, axes = frame(points, _count(points, k))
    eye = torch.eye(3, dtype=torch.float64).expand(20, 3, 3)
    torch.testing.assert_close(axes @ axes.mT, eye, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(20, dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_axes_follow_the_atoms(seed):
    points = _bent(seed)
    origin, axes = frame(points, _count(points, 3))
    b, c = to_local(points[:, 1], origin, axes), to_local(points[:, 2], origin, axes)
    torch.testing.assert_close(to_local(points[:, 0], origin, axes), torch.zeros_like(b))
    assert (b[:, 0] > 0).all()
    torch.testing.assert_close(b[:, 1:], torch.zeros_like(b[:, 1:]), atol=1e-12, rtol=0)
    assert (c[:, 1] > 0).all()
    torch.testing.assert_close(c[:, 2], torch.zeros_like(c[:, 2]), atol=1e-12, rtol=0)
    lengths = (points[:, 2] - points[:, 0]).norm(dim=-1)
    torch.testing.assert_close(c.norm(dim=-1), lengths)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS, k=st.integers(0, 3))
def test_there_and_back(seed, k):
    points, x = _points(seed, 20, 3), _points(seed + 1, 20)
    origin, axes = frame(points, _count(points, k))
    torch.testing.assert_close(to_global(to_local(x, origin, axes), origin, axes), x)
    torch.testing.assert_close(to_local(to_global(x, origin, axes), origin, axes), x)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_local_coordinates_ignore_rotation_and_translation(seed):
    points, x = _bent(seed), _points(seed + 1, 20)
    turn = uniform_rotations(1, torch.Generator().manual_seed(seed), x)[0]
    shift = _points(seed + 2, 1)
    local = to_local(x, *frame(points, _count(points, 3)))
    moved = frame(points @ turn.T + shift, _count(points, 3))
    torch.testing.assert_close(to_local(x @ turn.T + shift, *moved), local)


@settings(max_examples=30, deadline=None)
@given(seed=SEEDS)
def test_a_mirrored_molecule_has_mirrored_local_coordinates(seed):
    points, x = _bent(seed), _points(seed + 1, 20)
    turn = uniform_rotations(1, torch.Generator().manual_seed(seed), x)[0]
    mirror = turn * torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)[:, None]
    local = to_local(x, *frame(points, _count(points, 3)))
    mirrored = to_local(x @ mirror.T, *frame(points @ mirror.T, _count(points, 3)))
    torch.testing.assert_close(mirrored, local * torch.tensor([1.0, 1.0, -1.0]).double())


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_log_densities_are_unchanged(k):
    """The map from the local coordinates of a chain of atoms to space has Jacobian 1."""
    start = _points(4, 3)

    def place(local):
        placed = [*start]
        for row in local.reshape(-1, 3):
            points = torch.stack([placed[-1], placed[-2], placed[-3]])
            placed.append(to_global(row, *frame(points, torch.tensor(k))))
        return torch.stack(placed[3:]).reshape(-1)

    jacobian = torch.autograd.functional.jacobian(place, _points(7, 4).reshape(-1))
    _, log_abs_det = torch.linalg.slogdet(jacobian)
    assert abs(log_abs_det) < 1e-12


@pytest.mark.parametrize("degrees", [4.9, 5.1, 174.9, 175.1])
def test_nearly_straight_angles_are_decided_by_the_first_axis(degrees):
    a, b = torch.zeros(3), torch.tensor([0.0, 0.0, 1.5])
    bend = math.radians(degrees)
    c = b + 0.5 * torch.tensor([0.0, math.sin(bend), -math.cos(bend)])
    points = torch.stack([a, b, c])
    _, axes = frame(points, torch.tensor(3))
    _, free = frame(points, torch.tensor(2))
    assert torch.equal(axes, free) is (degrees in (4.9, 175.1))


@pytest.mark.parametrize("b", [(0, 0, 1), (0, 0, -1), (1, 0, 0), (0, -1, 0), (1, 1, -1)])
def test_missing_and_coincident_points_give_a_rotation_and_finite_gradients(b):
    b = torch.tensor(b, dtype=torch.float64)
    nan = torch.full((3,), torch.nan, dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    rows = [(nan, nan, nan, 0), (zero, nan, nan, 1), (zero, b, nan, 2), (zero, b, 2 * b, 3)]
    rows += [(zero, zero, b, 3), (zero, b, zero, 3), (zero, b, b, 3), (zero, zero, zero, 3)]
    for *points, count in rows:
        points = torch.stack(points).requires_grad_()
        origin, axes = frame(points, torch.tensor(count))
        torch.testing.assert_close(torch.linalg.det(axes), torch.ones_like(axes[0, 0]))
        torch.testing.assert_close(axes @ axes.T, torch.eye(3, dtype=torch.float64))
        (axes.sum() + origin.sum()).backward()
        assert torch.isfinite(points.grad).all()
    _, identity = frame(torch.stack([b, nan, nan]), torch.tensor(1))
    assert torch.equal(identity, torch.eye(3, dtype=torch.float64))


def test_gradients_agree_with_differences():
    points = _bent(11, 4).requires_grad_()
    for k in range(4):
        count = _count(points, k)
        assert torch.autograd.gradcheck(lambda p, count=count: frame(p, count), (points,))
