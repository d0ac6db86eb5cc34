"""Searches over rows, likeliest or without replacement, against plain lists and all orders."""

import math
from collections import Counter

import pytest
import torch
from token_tables import (
    END,
    A,
    B,
    Table,
    as_rows,
    every_row,
    fits,
    generator,
    inclusion,
    random_table,
    stuck,
    tempered,
)

from gensci.samplers.decoders import make_decoder

DEPTH = 3


def table():
    return random_table(5, DEPTH)


def search(model, width, max_tokens, groups=1, penalty=0.0):
    """Diverse beam search in plain Python over lists of (row, score)."""
    beams = [[((), 0.0)] for _ in range(groups)]
    for _ in range(max_tokens):
        taken = Counter()
        for g in range(groups):
            candidates = []
            for row, score in beams[g]:
                if row and row[-1] == END:
                    candidates.append((row, score, None))
                    continue
                for token, p in enumerate(model.probs(row)):
                    if p > 0:
                        cost = penalty * taken[token]
                        candidates.append(((*row, token), score + math.log(p) - cost, token))
            best = sorted(candidates, key=lambda c: -c[1])[: width[g]]
            beams[g] = [(row, score) for row, score, _ in best]
            taken.update(token for _, _, token in best if token is not None)
    return [row for beam in beams for row, _ in beam]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("width", "n"), [(1, 1), (2, 2), (4, 3), (7, 7)])
def test_beam_search_is_that_of_plain_lists(seed, width, n):
    model = random_table(seed, DEPTH)
    for max_tokens in (2, DEPTH + 1):
        decoded = make_decoder("beam", {"width": width}).decode(model, n, generator(), max_tokens)
        rows = as_rows(decoded)
        assert rows == search(model, [width], max_tokens)[:n]
        truth = every_row(model, max_tokens)
        log_p = torch.tensor([math.log(truth[row]) for row in rows], dtype=torch.float64)
        torch.testing.assert_close(decoded.log_prob, log_p)
        torch.testing.assert_close(decoded.log_weight, log_p)
        assert decoded.log_proposal is None


@pytest.mark.parametrize("max_tokens", [2, DEPTH + 1])
def test_a_wide_beam_finds_exactly_the_likeliest_rows(max_tokens):
    model = table()
    truth = every_row(model, max_tokens)
    decoded = make_decoder("beam", {"width": len(truth)}).decode(model, 5, generator(), max_tokens)
    assert as_rows(decoded) == sorted(truth, key=lambda row: -truth[row])[:5]
    everything = make_decoder("beam").decode(model, 1000, generator(), max_tokens)
    assert set(as_rows(everything)) == set(truth)
    assert float(everything.log_weight.exp().sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("n", "groups", "penalty"), [(5, 1, 0.0), (6, 3, 0.8), (7, 3, 0.2), (4, 4, 2.0), (4, 2, 0)]
)
def test_diverse_beam_search_is_that_of_plain_lists(seed, n, groups, penalty):
    model = random_table(seed, DEPTH)
    decoder = make_decoder("diverse-beam", {"groups": groups, "penalty": penalty})
    decoded = decoder.decode(model, n, generator(), DEPTH + 1)
    widths = [n // groups + (g < n % groups) for g in range(groups)]
    rows = as_rows(decoded)
    assert rows == search(model, widths, DEPTH + 1, groups, penalty)
    if groups == 1:
        assert rows == as_rows(make_decoder("beam").decode(model, n, generator(), DEPTH + 1))
    repeated = [row in rows[:i] for i, row in enumerate(rows)]
    assert (decoded.log_weight == -math.inf).tolist() == repeated
    once = torch.tensor([not r for r in repeated])
    torch.testing.assert_close(decoded.log_weight[once], decoded.log_prob[once])


@pytest.mark.parametrize(("penalty", "second"), [(0.5, (A, END)), (0.52, (B, END))])
def test_a_group_leaves_a_token_when_the_penalty_outweighs_its_lead(penalty, second):
    """0.5 exp(-0.5) = 0.303 still beats 0.3, and 0.5 exp(-0.52) = 0.297 does not."""
    root = [0.5, 0.3, 0.1, 0.1]
    rest = [0.02, 0.03, 0.05, 0.9]
    log_probs = torch.tensor([root, rest, rest, rest]).double().log()
    children = torch.tensor([[1, 2, 3, -1], *[[1, 1, 1, -1]] * 3])
    model = Table(log_probs, children)
    decoder = make_decoder("diverse-beam", {"groups": 2, "penalty": penalty})
    assert as_rows(decoder.decode(model, 2, generator(), 2)) == [(A, END), second]


@pytest.fixture(scope="module")
def small():
    """Thirteen rows, and 700 draws of three of them without replacement at two temperatures."""
    model = random_table(9, 2, masked=False)
    draws = {
        t: [
            make_decoder("stochastic-beam", {"temperature": t}).decode(model, 3, generator(i), 3)
            for i in range(700)
        ]
        for t in (1.0, 2.0)
    }
    return model, draws


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_rows_without_replacement_are_included_as_often_as_all_orders_say(small, temperature):
    model, draws = small
    law = every_row(model, 3, tempered(temperature))
    assert len(law) == 13
    drawn = [as_rows(decoded) for decoded in draws[temperature]]
    assert all(len(set(rows)) == 3 for rows in drawn)
    assert fits([rows[0] for rows in drawn], law)
    seen = Counter(row for rows in drawn for row in rows)
    for row, p in inclusion(law, 3).items():
        error = math.sqrt(p * (1 - p) / len(drawn))
        assert abs(seen[row] / len(drawn) - p) < 4 * error


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("f", [len, lambda row: row[0] == A, lambda row: 1.0])
def test_weighted_sums_without_replacement_are_unbiased(small, temperature, f):
    model, draws = small
    truth = every_row(model, 3)
    sums = []
    for decoded in draws[temperature]:
        values = torch.tensor([float(f(row)) for row in as_rows(decoded)], dtype=torch.float64)
        sums.append((decoded.log_weight.exp() * values).sum())
        difference = decoded.log_prob - decoded.log_proposal
        torch.testing.assert_close(decoded.log_weight, difference)
    sums = torch.stack(sums)
    exact = sum(p * f(row) for row, p in truth.items())
    error = float(sums.std() / math.sqrt(len(sums)))
    assert abs(float(sums.mean()) - exact) < 4 * error


def test_when_all_rows_are_asked_for_each_weighs_its_probability():
    model = table()
    truth = every_row(model, DEPTH + 1)
    for n in (len(truth), len(truth) + 30):
        decoded = make_decoder("stochastic-beam").decode(model, n, generator(), DEPTH + 1)
        rows = as_rows(decoded)
        assert set(rows) == set(truth)
        torch.testing.assert_close(decoded.log_weight, decoded.log_prob)
    assert make_decoder("stochastic-beam").run(model, 99, seed=0, max_tokens=4).meta["kept"] < 99


def test_a_beam_forgets_rows_without_a_way_out():
    model = stuck()
    model.table = torch.tensor([[0.5, 0.3, 0.1, 0.1], [0.0] * 4]).double().log()
    assert as_rows(make_decoder("beam").decode(model, 4, generator(), 3)) == [(END,)]
