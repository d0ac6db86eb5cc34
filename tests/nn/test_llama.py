"""The causal backbone: cached steps, causality, rotary angles, precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gensci.core.errors import UsageError
from gensci.nn.llama import Llama, Rotary, attend_causally, rotate


@pytest.fixture(params=[False, True], ids=["plain", "qk_norm"])
def llama(request) -> Llama:
    torch.manual_seed(0)
    network = Llama(32, 48, 2, 4, qk_norm=request.param).double()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, 0.3, 0.4)
    return network


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_steps_of_ragged_rows_equal_the_whole_reading(llama):
    inputs, lengths = draw(3, 9, 32), torch.tensor([2, 5, 4])
    truth = llama(inputs)
    hidden, cache = llama.prefill(inputs[:, :5], capacity=9)
    torch.testing.assert_close(hidden, truth[:, :5])
    rows = torch.arange(3)
    for offset in range(4):
        index = lengths + offset
        out = llama.step(inputs[rows, index], cache, index)
        torch.testing.assert_close(out, truth[rows, index])


def test_selected_rows_continue_their_parents(llama):
    inputs, rows = draw(3, 6, 32), torch.tensor([2, 0, 2, 1])
    _, cache = llama.prefill(inputs[:, :5], capacity=6)
    chosen = cache.select(rows)
    out = llama.step(inputs[rows, 5], chosen, torch.full((4,), 5))
    torch.testing.assert_close(out, llama(inputs)[rows, 5])
    assert chosen.capacity == 6
    assert torch.equal(cache.keys[:, :, :, 5], torch.zeros_like(cache.keys[:, :, :, 5]))


def test_hidden_states_depend_on_earlier_inputs_only(llama):
    inputs = draw(1, 6, 32).requires_grad_()
    for place in range(6):
        (slope,) = torch.autograd.grad(llama(inputs)[0, place].sum(), inputs)
        reached = slope[0].abs().sum(-1) > 0
        assert reached.tolist() == [other <= place for other in range(6)]


def test_padding_is_seen_by_none_and_changes_no_state_before_it(llama):
    inputs = draw(2, 6, 32)
    there = torch.arange(6) < torch.tensor([[6], [4]])
    truth = llama(inputs)
    hidden = llama(inputs, there)
    torch.testing.assert_close(hidden[there], truth[there])
    inputs[1, 4] += 1.0
    torch.testing.assert_close(llama(inputs, there)[1, 5], hidden[1, 5])
    assert not torch.allclose(llama(inputs)[1, 5], truth[1, 5])


def test_rotation_is_multiplication_by_a_unit_complex_number():
    rotary, x = Rotary(8, 1e4).double(), draw(300, 8)
    wavelength = 1e4 ** (torch.arange(4, dtype=torch.float64) / 4)
    phase = torch.polar(
        torch.ones(300, 4, dtype=torch.float64),
        torch.arange(300, dtype=torch.float64)[:, None] / wavelength,
    )
    turned = torch.complex(x[:, :4], x[:, 4:]) * phase
    cos, sin = rotary(300, torch.float64)
    expected = torch.cat((turned.real, turned.imag), -1)
    torch.testing.assert_close(rotate(x, cos, sin), expected, atol=1e-6, rtol=0)


def test_mixed_precision_stays_near_and_caches_low_precision():
    torch.manual_seed(0)
    network, inputs = Llama(32, 48, 2, 4, qk_norm=True), draw(2, 7, 32).float()
    truth = network(inputs)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden, cache = network.prefill(inputs[:, :6], capacity=7)
        last = network.step(inputs[:, 6], cache, torch.tensor([6, 6]))
    assert cache.keys.dtype == torch.bfloat16
    torch.testing.assert_close(hidden, truth[:, :6], atol=0.03, rtol=0)
    torch.testing.assert_close(last, truth[:, 6], atol=0.03, rtol=0)


def test_short_attention_in_low_precision_has_the_fused_values_and_slopes():
    q, k, v = (part.detach().requires_grad_() for part in draw(3, 2, 4, 11, 8).bfloat16())
    ours = attend_causally(q, k, v)
    fused = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=True)
    torch.testing.assert_close(ours.double(), fused, atol=0.03, rtol=0)
    for one, other in zip(
        torch.autograd.grad(ours.float().square().sum(), (q, k, v)),
        torch.autograd.grad(fused.square().sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=0.1, rtol=0)


def test_unfit_sizes_are_refused():
    with pytest.raises(UsageError, match="heads of even width"):
        Llama(30, 8, 1, 4)
    with pytest.raises(UsageError, match="capacity 2"):
        Llama(8, 8, 1, 2).prefill(torch.zeros(1, 3, 8), 2)
