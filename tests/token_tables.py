"""Token models that are tables, small enough to write down every row with its probability."""

import itertools
import math
from collections import Counter

import torch
from scipy import stats

A, B, C, END = 0, 1, 2, 3


class PlainTable:
    """A token model given by one row of log-probabilities for every prefix.

    What it would say of a row that has ended, or that took a disallowed token, is NaN: a decoder
    that looked at it would show it.
    """

    def __init__(self, log_probs, children, end=END):
        self.table, self.children, self.end = log_probs, children, end
        self.vocab_size = log_probs.shape[1]
        self.calls = 0

    def start(self, n):
        return torch.zeros(n, dtype=torch.int64)

    def log_probs(self, state):
        self.calls += 1
        said = self.table[state.clamp(min=0)].clone()
        said[state < 0] = math.nan
        return said

    def advance(self, state, tokens, parents):
        nodes = self.children[state[parents], tokens]
        assert (nodes >= 0).all(), "a row was continued after its end or by a disallowed token"
        return nodes

    def probs(self, prefix):
        """Probabilities after a prefix, as a list: the truth that decoders are held against."""
        node = 0
        for token in prefix:
            node = int(self.children[node, token])
        return self.table[node].exp().tolist()


class Table(PlainTable):
    """The same, read several tokens at a time: a state holds the whole row."""

    def start(self, n):
        return [(0,)] * n

    def log_probs(self, state):
        return super().log_probs(torch.tensor([row[-1] for row in state], dtype=torch.int64))

    def advance(self, state, tokens, parents):
        last = torch.tensor([row[-1] for row in state], dtype=torch.int64)
        nodes = super().advance(last, tokens, parents).tolist()
        return [(*state[p], node) for p, node in zip(parents.tolist(), nodes, strict=True)]

    def score(self, state, tokens, lengths, parents):
        rows = [state[parent] for parent in parents.tolist()]
        said = [self.log_probs(rows)]
        for place in range(tokens.shape[1]):
            for i, (row, token) in enumerate(zip(rows, tokens[:, place].tolist(), strict=True)):
                if place < lengths[i]:
                    node = -1 if row[-1] < 0 else int(self.children[row[-1], token])
                    rows[i] = (*row, node)
            said.append(self.log_probs(rows))
        return torch.stack(said, 1), rows

    def rewind(self, state, counts, parents):
        pairs = zip(counts.tolist(), parents.tolist(), strict=True)
        return [state[parent][: len(state[parent]) - count] for count, parent in pairs]


def random_table(seed, depth, *, sharpness=1.0, masked=True, kind=Table, symbols=3, end=END):
    """A random table in which rows hold at most ``depth`` tokens before their end."""
    generator = torch.Generator().manual_seed(seed)
    prefixes = [p for n in range(depth + 1) for p in itertools.product(range(symbols), repeat=n)]
    numbers = {prefix: i for i, prefix in enumerate(prefixes)}
    logits = sharpness * torch.randn(
        len(prefixes), symbols + 1, generator=generator, dtype=torch.float64
    )
    children = torch.full((len(prefixes), symbols + 1), -1)
    for prefix, i in numbers.items():
        if len(prefix) == depth:
            logits[i, :symbols] = -math.inf
        elif masked and i % 3 == 1:
            logits[i, i % symbols] = -math.inf
        for token in range(symbols):
            if logits[i, token] > -math.inf:
                children[i, token] = numbers[(*prefix, token)]
    return kind(torch.log_softmax(logits, 1), children, end)


def endless(probs, kind=Table):
    """A model that says the same at every place."""
    table = torch.tensor([probs], dtype=torch.float64).log()
    children = torch.where(table > -math.inf, 0, -1)
    children[:, END] = -1
    return kind(table, children)


def every_row(model, max_tokens, law=lambda probs: probs):
    """Each row that can come out, with the product of what ``law`` makes of the probabilities."""
    rows, open_rows = {}, {(): 1.0}
    for _ in range(max_tokens):
        grown = {}
        for prefix, weight in open_rows.items():
            for token, p in enumerate(law(model.probs(prefix))):
                if p > 0:
                    ended = rows if token == model.end else grown
                    ended[(*prefix, token)] = weight * p
        open_rows = grown
    return {**rows, **open_rows}


def tempered(temperature):
    def law(probs):
        powers = [p ** (1 / temperature) for p in probs]
        return [p / sum(powers) for p in powers]

    return law


def kept(chosen):
    """The law that keeps tokens ``chosen(probs)`` and normalises."""

    def law(probs):
        tokens = chosen(probs)
        total = sum(probs[t] for t in tokens)
        return [p / total if t in tokens else 0.0 for t, p in enumerate(probs)]

    return law


def top_k(k):
    return kept(lambda probs: sorted(range(len(probs)), key=lambda t: -probs[t])[:k])


def nucleus(share):
    def chosen(probs):
        tokens, held = [], 0.0
        for token in sorted(range(len(probs)), key=lambda t: -probs[t]):
            if held < share and probs[token] > 0:
                tokens.append(token)
                held += probs[token]
        return tokens

    return kept(chosen)


def best_of(rows, m, score, law):
    """The law of the best of ``m`` draws: by the m-th power of the distribution function."""
    best, below = {}, 0.0
    for row in sorted(rows, key=score):
        best[row] = (below + law[row]) ** m - below**m
        below += law[row]
    return best


def inclusion(weights, k):
    """Of each key the probability to be among k draws without replacement, by all orders."""
    total = dict.fromkeys(weights, 0.0)
    for order in itertools.permutations(weights, k):
        p, left = 1.0, 1.0
        for key in order:
            p, left = p * weights[key] / left, left - weights[key]
        for key in order:
            total[key] += p
    return total


def acceptance(target, draft, k):
    """The probability that one of ``k`` drafts without replacement is accepted, by all orders."""
    if k == 0 or not any(draft):
        return 0.0
    excess = [max(t - d, 0.0) for t, d in zip(target, draft, strict=True)]
    total = sum(excess)
    accepted = 0.0
    for x, d in enumerate(draft):
        if d == 0:
            continue
        p = min(1.0, target[x] / d)
        left = [
            0.0 if y == x else other / (1 - d) if d < 1 else 0.0 for y, other in enumerate(draft)
        ]
        again = acceptance([e / total for e in excess], left, k - 1) if p < 1 else 0.0
        accepted += d * (p + (1 - p) * again)
    return accepted


def stuck():
    """A model that has nothing to say after its first token."""
    log_probs = torch.tensor([[0.5, 0.3, 0.2, 0.0], [0.0] * 4]).double().log()
    return Table(log_probs, torch.tensor([[1, 1, 1, -1], [-1] * 4]))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def as_rows(decoded):
    """Rows as tuples, cut after their end; what stands behind it must be the end again."""
    rows = []
    for row, length in zip(decoded.tokens.tolist(), decoded.lengths.tolist(), strict=True):
        assert set(row[length:]) <= {decoded.end}
        rows.append(tuple(row[:length]))
    return rows


def fits(rows, law):
    """Chi-squared test of counts against a law; cells of small expectation are put together."""
    n, counts = len(rows), Counter(rows)
    assert set(counts) <= {row for row, p in law.items() if p > 0}
    cells = [(counts[row], n * p) for row, p in law.items() if n * p >= 5]
    rest = n - sum(seen for seen, _ in cells), n - sum(expected for _, expected in cells)
    cells += [rest] if rest[1] > 1e-6 * n else []
    if len(cells) == 1:
        return counts.total() == n
    seen, expected = zip(*cells, strict=True)
    return stats.chisquare(seen, expected, sum_check=False).pvalue > 1e-3
