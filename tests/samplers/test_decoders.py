"""Every decoder against the law that writing down all rows of a tiny vocabulary gives."""

import math
from dataclasses import dataclass

import pytest
import torch
from token_tables import (
    END,
    A,
    PlainTable,
    Table,
    acceptance,
    as_rows,
    best_of,
    endless,
    every_row,
    fits,
    generator,
    nucleus,
    random_table,
    stuck,
    tempered,
    top_k,
)

from gensci.core.errors import GensciError, UsageError
from gensci.core.registry import DECODERS
from gensci.core.results import SampleSet
from gensci.samplers.decoders import TokenModel, log_prob, make_decoder, reading

DEPTH = 3


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def table(**options):
    return random_table(5, DEPTH, **options)


def near():
    """A draft much like the model: its table with a little noise."""
    model = table()
    noise = 0.3 * torch.randn(model.table.shape, generator=torch.Generator().manual_seed(1))
    return Table(torch.log_softmax(model.table + noise.double(), 1), model.children)


def far(**options):
    """A draft that knows nothing of the model, and masks nothing that the model masks."""
    return random_table(77, DEPTH, sharpness=2.0, masked=False, **options)


def lame():
    """A draft that cannot say everything: two tokens are all it has, and sometimes none."""
    draft = random_table(78, DEPTH, masked=False)
    draft.table[:, 1:3] = -math.inf
    draft.table[2] = -math.inf
    draft.table = torch.log_softmax(draft.table, 1)
    draft.table[2] = -math.inf
    draft.children[:, 1:3] = -1
    draft.children[2] = -1
    return draft


@dataclass(frozen=True)
class Law:
    """A decoder whose rows are independent draws from a law that can be written down."""

    id: str
    decoder: str
    settings: dict
    step: object = staticmethod(lambda probs: probs)
    best: tuple | None = None  # (candidates, score of a row)
    kind: type = Table
    n: int = 2500


def per_token(row, log_p):
    return log_p / len(row)


LAWS = [
    Law("ancestral", "ancestral", {}),
    Law("cold", "ancestral", {"temperature": 0.6}, tempered(0.6)),
    Law("hot", "ancestral", {"temperature": 2.5}, tempered(2.5)),
    Law("top-1", "top-k", {"k": 1}, top_k(1)),
    Law("top-2", "top-k", {"k": 2}, top_k(2)),
    Law("top-9", "top-k", {"k": 9}),
    Law("top-2-hot", "top-k", {"k": 2, "temperature": 2}, lambda p: top_k(2)(tempered(2)(p))),
    Law("nucleus", "nucleus", {"p": 0.7}, nucleus(0.7)),
    Law("nucleus-all", "nucleus", {"p": 1}),
    Law(
        "nucleus-hot",
        "nucleus",
        {"p": 0.8, "temperature": 1.5},
        lambda p: nucleus(0.8)(tempered(1.5)(p)),
    ),
    Law("best-of-1", "best-of-n", {"num_candidates": 1}, best=(1, lambda row, log_p: log_p)),
    Law("best-of-3", "best-of-n", {"num_candidates": 3}, best=(3, lambda row, log_p: log_p)),
    Law(
        "best-of-3-length",
        "best-of-n",
        {"num_candidates": 3, "normalise": "length", "temperature": 2.0},
        tempered(2.0),
        best=(3, per_token),
    ),
    Law("speculative-near", "speculative", {"draft": near(), "num_draft": 2}),
    Law("speculative-far", "speculative", {"draft": far(), "num_draft": 4}),
    Law("speculative-same", "speculative", {"draft": table(), "num_draft": 3}),
    Law("speculative-lame", "speculative", {"draft": lame(), "num_draft": 2}),
    Law(
        "speculative-plain",
        "speculative",
        {"draft": far(kind=PlainTable), "num_draft": 2},
        kind=PlainTable,
        n=1000,
    ),
    *(
        Law(
            f"recursive-{tree}-{name}",
            "recursive-speculative",
            {"draft": draft, "tree": tree, "width": width, "depth": depth},
        )
        for tree, width, depth in [("constant", 2, 2), ("beam", 3, 3)]
        for name, draft in [("near", near()), ("far", far()), ("lame", lame())]
    ),
    Law("recursive-all", "recursive-speculative", {"draft": far(), "width": 9, "depth": 1}),
    Law(
        "recursive-plain",
        "recursive-speculative",
        {"draft": far(kind=PlainTable), "tree": "beam", "width": 2, "depth": 2},
        kind=PlainTable,
        n=1000,
    ),
]
all_laws = pytest.mark.parametrize("case", LAWS, ids=lambda case: case.id)
SEARCHES = [("beam", {}), ("diverse-beam", {"groups": 3}), ("stochastic-beam", {})]


@all_laws
@pytest.mark.parametrize("max_tokens", [1, 2, DEPTH + 2])
def test_rows_have_the_law_and_the_log_probabilities_that_enumeration_gives(case, max_tokens):
    model = table(kind=case.kind)
    decoded = make_decoder(case.decoder, case.settings).decode(
        model, case.n, generator(), max_tokens
    )
    truth, law = every_row(model, max_tokens), every_row(model, max_tokens, case.step)
    if case.best:
        count, score = case.best
        law = best_of(law, count, lambda row: score(row, math.log(truth[row])), law)
    rows = as_rows(decoded)
    assert fits(rows, law)
    log_p = torch.tensor([math.log(truth[row]) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(decoded.log_prob, log_p)
    assert decoded.finished.tolist() == [row[-1] == END for row in rows]
    if case.best:
        assert decoded.log_proposal is None
        assert not decoded.log_weight.any()
        return
    log_q = torch.tensor([math.log(law[row]) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(decoded.log_proposal, log_q)
    torch.testing.assert_close(decoded.log_weight, log_p - log_q)


@pytest.mark.parametrize(
    ("decoder", "settings", "step"), [(c.decoder, c.settings, c.step) for c in LAWS[1:8]]
)
def test_weights_give_means_under_the_model_over_the_rows_that_can_come_out(
    decoder, settings, step
):
    model = table()
    decoded = make_decoder(decoder, settings).decode(model, 20_000, generator(3), DEPTH + 1)
    truth, law = every_row(model, DEPTH + 1), every_row(model, DEPTH + 1, step)
    terms = decoded.log_weight.exp() * decoded.lengths
    exact = sum(p * len(row) for row, p in truth.items() if row in law)
    error = float(terms.std() / math.sqrt(len(terms)))
    assert abs(float(terms.mean()) - exact) < 4 * error + 1e-9


@pytest.mark.parametrize(
    ("decoder", "settings"), [(c.decoder, c.settings) for c in LAWS] + SEARCHES
)
def test_run_returns_a_sample_set_that_the_seed_decides(decoder, settings):
    model, made = table(), make_decoder(decoder, settings)
    samples = made.run(model, 10, seed=4, max_tokens=3, batch_size=4)
    assert isinstance(samples, SampleSet)
    again = made.run(model, 10, seed=4, max_tokens=3, batch_size=4)
    assert torch.equal(samples.x["tokens"], again.x["tokens"])
    torch.testing.assert_close(log_prob(model, samples.x["tokens"]), samples.log_target)
    meta = samples.meta
    assert (meta["decoder"], meta["requested"], meta["kept"]) == (made.name, 10, 10)
    ended = (samples.x["tokens"] == END).any(1)
    assert meta["unfinished"] == int((~ended).sum())
    if samples.log_proposal is not None and decoder != "best-of-n":
        difference = samples.log_target - samples.log_proposal
        torch.testing.assert_close(samples.log_weight, difference)


def test_batches_of_independent_rows_have_noise_of_their_own():
    samples = make_decoder("ancestral").run(table(), 3000, seed=0, max_tokens=5, batch_size=1500)
    first, second = samples.x["tokens"][:1500], samples.x["tokens"][1500:]
    assert (first != second).any(1).float().mean() > 0.5


def test_given_rows_are_scored():
    model = table()
    rows = every_row(model, 3)
    padded = [[*row, *[END] * (3 - len(row))] for row in rows]
    impossible = [token for token, p in enumerate(model.probs((A,))) if p == 0]
    expected = torch.tensor([math.log(p) for p in rows.values()], dtype=torch.float64)
    torch.testing.assert_close(log_prob(model, torch.tensor(padded)), expected)
    assert impossible
    wrong = torch.tensor([[A, token, END] for token in impossible])
    assert (log_prob(model, wrong) == -math.inf).all()
    with pytest.raises(UsageError, match="outside of the vocabulary; give numbers from 0 to 3"):
        log_prob(model, torch.tensor([[4]]))


@pytest.mark.parametrize("num_draft", [1, 3])
def test_tokens_for_each_round_are_those_of_the_acceptance_rate(num_draft):
    """Leviathan 2023, eq. 1: (1 - a^(k + 1)) / (1 - a) for an acceptance rate a."""
    target, draft = [0.5, 0.3, 0.2, 0.0], [0.2, 0.5, 0.3, 0.0]
    alpha = sum(min(p, q) for p, q in zip(target, draft, strict=True))
    decoder = make_decoder("speculative", {"draft": endless(draft), "num_draft": num_draft})
    meta = decoder.decode(endless(target), 60, generator(), 120).meta
    expected = (1 - alpha ** (num_draft + 1)) / (1 - alpha)
    assert 1 + meta["accepted"] / meta["rounds"] == pytest.approx(expected, rel=0.03)
    assert meta["drafted"] == num_draft * meta["rounds"]


@pytest.mark.parametrize("tree", ["constant", "beam"])
@pytest.mark.parametrize("width", [1, 2, 3])
def test_drafts_without_replacement_are_accepted_as_often_as_all_orders_say(tree, width):
    target, draft = [0.55, 0.25, 0.1, 0.1], [0.1, 0.3, 0.4, 0.2]
    settings = {"draft": endless(draft), "tree": tree, "width": width, "depth": 1}
    n = 4000
    decoded = make_decoder("recursive-speculative", settings).decode(
        endless(target), n, generator(width), 1
    )
    p = acceptance(target, draft, width)
    assert abs(decoded.meta["accepted"] / n - p) < 4 * math.sqrt(p * (1 - p) / n)
    assert decoded.meta["drafted"] == width * n


def test_a_perfect_draft_is_always_accepted_and_saves_passes():
    model = endless([0.4, 0.3, 0.3, 0.0])
    decoder = make_decoder("speculative", {"draft": model, "num_draft": 4})
    decoded = decoder.decode(model, 20, generator(), 30)
    assert decoded.meta["accepted"] == decoded.meta["drafted"]
    assert decoded.meta["target_passes"] == 6
    assert not decoded.finished.any()


def test_the_draft_may_come_with_the_model():
    model = table()
    model.draft = near()
    assert len(make_decoder("speculative").decode(model, 3, generator(), 3)) == 3


@pytest.mark.parametrize("decoder", DECODERS.names())
def test_a_model_without_a_way_out_is_named(decoder):
    settings = {"draft": endless([0.4, 0.3, 0.2, 0.1])} if "speculative" in decoder else {}
    with pytest.raises(GensciError, match=r"no token at position 2 .*; loosen the constraints"):
        make_decoder(decoder, settings).decode(stuck(), 5, generator(), 3)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("bem", {}, "did you mean 'beam'"),
        ("top-k", {"kk": 3}, "decoder 'top-k' has no setting 'kk'; did you mean 'k'"),
        ("ancestral", {"temperature": 0}, "temperature=0 .*; give a positive number"),
        ("ancestral", {"temperature": "nan"}, "temperature='nan'"),
        ("top-k", {"k": 0}, "k=0 .*; give a whole number"),
        ("top-k", {"k": 1.5}, "k=1.5"),
        ("nucleus", {"p": 0.0}, "p=0.0 .*; give 0 < p <= 1"),
        ("nucleus", {"p": 1.1}, "p=1.1"),
        ("beam", {"width": 0}, "width=0"),
        ("diverse-beam", {"groups": 0}, "groups=0"),
        ("diverse-beam", {"penalty": -1}, "penalty=-1 .*; give 0 or more"),
        ("diverse-beam", {"penalty": math.inf}, "penalty=inf"),
        ("stochastic-beam", {"temperature": -2}, "temperature=-2"),
        ("speculative", {"num_draft": 0}, "num_draft=0"),
        ("recursive-speculative", {"tree": "constnt"}, "did you mean 'constant'"),
        ("recursive-speculative", {"width": 0}, "width=0"),
        ("recursive-speculative", {"depth": 0}, "depth=0"),
        ("best-of-n", {"num_candidates": 0}, "num_candidates=0"),
        ("best-of-n", {"normalise": "lenght"}, "did you mean 'length'"),
    ],
)
def test_bad_settings_name_the_setting(name, settings, message):
    with pytest.raises(UsageError, match=message) as caught:
        make_decoder(name, settings)
    assert "\n" not in str(caught.value)


OTHER = PlainTable(torch.zeros(1, 3), torch.zeros(1, 3, dtype=torch.int64), end=2)


@pytest.mark.parametrize(
    ("name", "settings", "n", "max_tokens", "message"),
    [
        ("ancestral", {}, 0, 5, "num_samples=0"),
        ("ancestral", {}, 5, 0, "max_tokens=0"),
        ("beam", {"width": 3}, 4, 5, "width=3 is less than num_samples=4; give width >= 4"),
        ("speculative", {}, 2, 5, "needs a draft model; give a small TokenModel"),
        ("speculative", {"draft": "small"}, 2, 5, "draft='small'"),
        ("speculative", {"draft": OTHER}, 2, 5, r"\(3, 2\) but the model \(4, 3\); give a draft"),
    ],
)
def test_what_cannot_be_decoded_is_refused_in_a_line(name, settings, n, max_tokens, message):
    with pytest.raises(UsageError, match=message):
        make_decoder(name, settings).decode(table(), n, generator(), max_tokens)


def test_fewer_rows_than_groups_make_as_many_groups():
    few, fitting = (
        make_decoder("diverse-beam", {"groups": groups}).decode(table(), 2, generator(), 5)
        for groups in (3, 2)
    )
    assert torch.equal(few.tokens, fitting.tokens) and len(few) == 2


def test_an_end_outside_of_the_vocabulary_is_refused():
    with pytest.raises(UsageError, match="end=9 is not in its vocabulary; give a token from 0"):
        make_decoder("ancestral").decode(table(end=9), 1, generator(), 1)


def test_the_tables_are_token_models_and_text_settings_are_read():
    assert isinstance(table(), TokenModel)
    assert make_decoder("Top_K", {"k": "3", "temperature": "0.5"}).k == 3
    assert all(DECODERS.get(name).__doc__.count("Reference") == 1 for name in DECODERS)


def test_a_quantile_at_the_very_end_never_draws_a_token_of_no_probability(monkeypatch):
    """Rounding may make the quantile equal the sum of all probabilities."""
    monkeypatch.setattr(reading, "uniform", lambda n, generator: torch.ones(n).double())
    log_probs = torch.tensor([[0.2, 0.7, 0.1, 0.0], [1.0, 0.0, 0.0, 0.0]]).double().log()
    assert reading.draw(log_probs, generator()).tolist() == [2, 0]
