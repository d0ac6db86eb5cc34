"""The optimiser of matrices and of the rest."""

import copy

import torch
from torch import nn

from gensci.models.muon import MuonAdamW, large_matrices

SIZES = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.0}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(70, 64), nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 3))


def steps(net, optimiser, count):
    for turn in range(count):
        generator = torch.Generator().manual_seed(turn)
        rows = torch.randint(70, (40,), generator=generator)
        optimiser.zero_grad()
        net(rows).square().sum().backward()
        optimiser.step()


def test_matrices_move_in_all_directions_alike_and_the_rest_as_by_adamw():
    net, plain = network(), network()
    assert [m.shape for m in large_matrices(net)] == [(96, 64)]  # no table, no narrow layer
    before = net[1].weight.detach().clone()
    steps(net, MuonAdamW(net, **SIZES), 1)
    steps(plain, torch.optim.AdamW(plain.parameters(), **SIZES), 1)
    moved = torch.linalg.svdvals(net[1].weight.detach() - before)
    gradient = torch.linalg.svdvals(net[1].weight.grad)
    rank = int((gradient > 0.1 * gradient[0]).sum())
    assert rank > 1
    # five steps of Newton and Schulz take singular values to between 0.7 and 1.2
    scale = SIZES["lr"] * 0.2 * 96**0.5
    assert (moved[:rank] / scale > 0.6).all()
    assert (moved[:rank] / scale < 1.3).all()
    assert gradient[0] / gradient[rank - 1] > 2 * moved[0] / moved[rank - 1]
    for index, name in ((0, "weight"), (1, "bias"), (3, "weight"), (3, "bias")):
        torch.testing.assert_close(getattr(net[index], name), getattr(plain[index], name))


def test_it_goes_on_to_the_same_bits_and_follows_the_schedule():
    whole, halves = network(), network()
    optimiser = MuonAdamW(whole, **SIZES)
    steps(whole, optimiser, 3)
    first = MuonAdamW(halves, **SIZES)
    steps(halves, first, 3)
    again = MuonAdamW(halves, **SIZES)
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    for each, net in ((optimiser, whole), (again, halves)):
        schedule = torch.optim.lr_scheduler.LambdaLR(each, lambda step: 0.5)
        assert {group["lr"] for part in each.parts for group in part.param_groups} == {0.005}
        steps(net, each, 2)
        schedule.step()
    for mine, other in zip(whole.parameters(), halves.parameters(), strict=True):
        assert torch.equal(mine, other)
