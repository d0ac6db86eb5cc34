"""Gradients of the internal-coordinate flow where matrices are multiplied in bfloat16."""

import pytest
import torch

from gensci.models.checkpoint import load_network
from gensci.nn.internal import InternalFlow
from gensci.sims.peptide import build_peptide


@pytest.mark.parametrize("text", ["AL", "RSV"])
def test_gradients_in_half_precision_point_where_those_of_full_precision_do(text):
    flow, _ = load_network("peptide")
    flow.requires_grad_(True)
    cond = InternalFlow.encode(build_peptide(text))
    # its own draws: near the optimum, where what is left of the gradient is small
    x, _ = flow.sample_and_log_prob(64, cond, torch.Generator().manual_seed(1))

    def slope(half):
        flow.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = -flow.log_prob(x, cond).mean()
        loss.backward()
        return loss.item(), torch.cat([p.grad.flatten() for p in flow.parameters()])

    (loss, exact), (rounded_loss, rounded) = slope(False), slope(True)
    assert abs(rounded_loss - loss) < 0.1
    assert (rounded - exact).norm() < 0.1 * exact.norm()
