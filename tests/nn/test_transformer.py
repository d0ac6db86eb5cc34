import math

import pytest
import torch

from gensci.nn.transformer import CausalAttention, KeyValueCache, TransformerLayer, sinusoid

VARIANTS = [(True, True), (True, False), (False, True), (False, False)]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_sinusoid_has_the_stated_frequencies():
    features = sinusoid(torch.tensor([0, 3]), 6, 1000.0, torch.float64)
    for k in range(3):
        angle = 3 * 1000.0 ** (-2 * k / 6)
        assert float(features[1, 2 * k]) == pytest.approx(math.sin(angle), abs=1e-12)
        assert float(features[1, 2 * k + 1]) == pytest.approx(math.cos(angle), abs=1e-12)
    assert features[0].tolist() == [0, 1, 0, 1, 0, 1]


def test_attention_is_a_softmax_over_earlier_tokens():
    torch.manual_seed(0)
    attention = CausalAttention(6, 3).double()
    u = torch.randn(2, 5, 6, dtype=torch.float64)
    q, k, v = attention.qkv(attention.norm(u)).split(6, dim=-1)
    q, k = attention.q_norm(q), attention.k_norm(k)
    rows = []
    for i in range(5):
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            score = torch.einsum("bd,bjd->bj", q[:, i, part], k[:, : i + 1, part]) / math.sqrt(3)
            heads.append(torch.einsum("bj,bjd->bd", score.softmax(-1), v[:, : i + 1, part]))
        rows.append(attention.out(torch.cat(heads, dim=-1)))
    torch.testing.assert_close(attention(u), torch.stack(rows, dim=1))


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="head_dim 4 does not divide channels 6"):
        CausalAttention(6, 4)


@pytest.mark.parametrize(("adaptive_norm", "transition"), VARIANTS)
def test_one_token_at_a_time_equals_the_whole_sequence(adaptive_norm, transition):
    torch.manual_seed(1)
    layer = TransformerLayer(8, 4, 2, adaptive_norm, transition).double()
    u, c = torch.randn(3, 6, 8).double(), torch.randn(6, 8).double()
    terms = layer.terms(c)
    cache = layer.cache(3, 6, u)
    assert isinstance(cache, KeyValueCache)
    steps = [layer.step(u[:, i], terms.at(i), cache, i) for i in range(6)]
    torch.testing.assert_close(torch.stack(steps, dim=1), layer(u, terms))


@pytest.mark.parametrize(("adaptive_norm", "transition"), VARIANTS)
def test_later_tokens_never_matter(adaptive_norm, transition):
    torch.manual_seed(2)
    layer = TransformerLayer(8, 4, 2, adaptive_norm, transition).double()
    u, terms = torch.randn(1, 6, 8).double(), layer.terms(torch.randn(6, 8).double())
    changed = u.clone()
    changed[:, 4:] += 1.0
    torch.testing.assert_close(layer(u, terms)[:, :4], layer(changed, terms)[:, :4])
    assert (layer(u, terms)[:, 4:] - layer(changed, terms)[:, 4:]).abs().min() > 1e-6
