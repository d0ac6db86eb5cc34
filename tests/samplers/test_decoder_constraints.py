"""Constrained token models against the law that all rows that obey give, place by place."""

import math

import pytest
import torch
from token_tables import (
    END,
    A,
    B,
    C,
    PlainTable,
    Table,
    as_rows,
    endless,
    every_row,
    fits,
    generator,
    random_table,
)

from gensci.core.errors import GensciError, UsageError
from gensci.core.registry import DECODERS
from gensci.samplers.decoders import (
    AllowedTokens,
    ExactMultiset,
    constrain,
    log_prob,
    make_decoder,
)

DEPTH = 5
COMPOSITION = ExactMultiset({A: 2, B: 1})
WITH_SPACES = ExactMultiset({A: 1, B: 1}, free=frozenset({C}))


def spelled(counts, free=()):
    """Whether a row (its end left out) holds exactly these tokens, and free ones."""

    def obeys(row):
        right = all(row.count(token) == count for token, count in counts.items())
        return right and set(row) <= {*counts, *free}

    return obeys


RULES = {
    "allowed": ([AllowedTokens(frozenset({A, C}))], 4, lambda row: set(row) <= {A, C}),
    "length": ([], 3, lambda row: True),
    "composition": ([COMPOSITION], None, spelled({A: 2, B: 1})),
    "spaces": ([WITH_SPACES], 4, spelled({A: 1, B: 1}, (C,))),
    "all three": (
        [ExactMultiset({A: 1}, free=frozenset({B, C})), AllowedTokens(frozenset({A, B}))],
        4,
        lambda row: row.count(A) == 1 and C not in row,
    ),
}
all_rules = pytest.mark.parametrize("name", RULES)


def model(kind=Table, seed=2):
    return random_table(seed, DEPTH, masked=False, kind=kind)


def obeying(table, name):
    """The rows that obey, each with the product of probabilities among tokens that can obey."""
    _, longest, obeys = RULES[name]
    whole = every_row(table, longest or DEPTH + 1)
    rows = [row for row in whole if row[-1] == END and obeys(row[:-1])]
    law = {}
    for row in rows:
        p = 1.0
        for i, token in enumerate(row):
            probs = table.probs(row[:i])
            possible = {other[i] for other in rows if other[:i] == row[:i]}
            p *= probs[token] / sum(probs[t] for t in possible)
        law[row] = p
    assert sum(law.values()) == pytest.approx(1.0)
    return law


@all_rules
@pytest.mark.parametrize("kind", [PlainTable, Table])
def test_every_row_obeys_and_has_the_law_of_the_places(name, kind):
    rules, longest, _ = RULES[name]
    table = model(kind)
    constrained, law = constrain(table, rules, longest), obeying(table, name)
    decoded = make_decoder("ancestral").decode(constrained, 3000, generator(), DEPTH + 1)
    rows = as_rows(decoded)
    assert decoded.finished.all()
    assert fits(rows, law)
    log_q = torch.tensor([math.log(law[row]) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(decoded.log_prob, log_q)


@all_rules
@pytest.mark.parametrize("kind", [PlainTable, Table])
@pytest.mark.parametrize("draft_obeys", [False, True])
def test_drafts_of_constrained_models_leave_the_law_as_it_is(name, kind, draft_obeys):
    rules, longest, _ = RULES[name]
    table = model(kind)
    table.draft = model(kind, seed=8)
    constrained = constrain(table, rules, longest)
    assert hasattr(constrained, "score") == (kind is Table)
    draft = None if draft_obeys else table.draft
    decoder = make_decoder("recursive-speculative", {"draft": draft, "width": 2, "depth": 3})
    n = 1500 if kind is Table else 300
    decoded = decoder.decode(constrained, n, generator(1), DEPTH + 1)
    law = obeying(table, name)
    rows = as_rows(decoded)
    assert fits(rows, law)
    log_q = torch.tensor([math.log(law[row]) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(decoded.log_prob, log_q)


@all_rules
@pytest.mark.parametrize("decoder", DECODERS.names())
def test_every_decoder_returns_only_rows_that_obey(name, decoder):
    rules, longest, obeys = RULES[name]
    table = model()
    table.draft = model(seed=8)
    samples = make_decoder(decoder).run(
        constrain(table, rules, longest), 5, seed=0, max_tokens=DEPTH + 1
    )
    assert samples.meta["unfinished"] == 0
    for row in samples.x["tokens"].tolist():
        assert obeys(tuple(token for token in row if token != END))


@all_rules
def test_weights_carry_the_draws_over_to_the_model_given_the_rules(name):
    rules, longest, _ = RULES[name]
    table, law = model(), obeying(model(), name)
    truth = every_row(table, longest or DEPTH + 1)
    width = max(map(len, law))
    tokens = torch.tensor([[*row, *[END] * (width - len(row))] for row in law])
    log_q = log_prob(constrain(table, rules, longest), tokens)
    log_weight = log_prob(table, tokens) - log_q
    exact = torch.tensor([truth[row] for row in law], dtype=torch.float64)
    torch.testing.assert_close(log_q.exp(), torch.tensor(list(law.values())).double())
    torch.testing.assert_close((log_q + log_weight).exp(), exact)


def test_a_row_that_breaks_a_rule_has_no_probability():
    constrained = constrain(model(), [COMPOSITION])
    broken = torch.tensor([[A, A, END, END], [A, B, B, END], [C, A, A, B]])
    assert (log_prob(constrained, broken) == -math.inf).all()


@pytest.mark.parametrize(
    ("rules", "longest", "message"),
    [
        ([COMPOSITION], 3, "max_length=3 is too short: the rules need at least 4 tokens; allow"),
        ([COMPOSITION], 0, "max_length=0"),
        ([ExactMultiset({9: 1})], None, r"tokens \[9\] .* not in the vocabulary; give tokens from"),
        ([AllowedTokens(frozenset({END}))], None, "counts the end token 3; leave it out"),
    ],
)
def test_rules_that_no_row_can_obey_are_refused(rules, longest, message):
    with pytest.raises(UsageError, match=message):
        make_decoder("ancestral").decode(constrain(model(), rules, longest), 2, generator(), 9)


@pytest.mark.parametrize("counts", [{A: -1}, {A: 1.5}])
def test_bad_counts_are_refused(counts):
    with pytest.raises(UsageError, match="count of token 0="):
        ExactMultiset(counts)


def test_a_token_is_counted_or_free():
    with pytest.raises(UsageError, match=r"\[0\] are counted and free; leave them out"):
        ExactMultiset({A: 1}, free=frozenset({A}))


def test_a_rule_that_the_model_cannot_obey_is_told():
    only_a = endless([0.9, 0.0, 0.0, 0.1])
    with pytest.raises(GensciError, match="no token at position 3 of 2 rows; loosen"):
        make_decoder("ancestral").decode(constrain(only_a, [COMPOSITION]), 2, generator(), 9)
