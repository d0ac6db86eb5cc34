"""The published network: sizes, losses, log-probabilities and cached sampling."""

from __future__ import annotations

import pytest
import torch

from gensci.core.errors import CheckpointError, UsageError
from gensci.core.registry import MODELS
from gensci.nn.published_unigenx import PRESETS, UniGenX
from gensci.nn.published_vocabulary import PublishedVocabulary

TOKENS = PublishedVocabulary.material().tokens
SIZE = {
    "hidden": 16, "intermediate": 24, "num_layers": 2, "num_heads": 2, "head_width": 16,
    "head_depth": 2,
}  # fmt: skip


@pytest.fixture
def network() -> UniGenX:
    torch.manual_seed(0)
    built = MODELS.get("unigenx-published")(TOKENS, **SIZE).double()
    for weight in built.parameters():
        torch.nn.init.normal_(weight, 0.05, 0.3)
    return built


def crystals(rows: list[list[int]]):
    """Sequences of compositions with random slots, padded, as (ids, continuous, coordinates)."""
    tokens = PublishedVocabulary(TOKENS)
    built = []
    for numbers in rows:
        prompt = tokens.crystal_prompt(numbers)
        built.append([*prompt, *([tokens.slot] * (3 + len(numbers))), tokens.end])
    width = max(map(len, built))
    ids = torch.tensor([row + [tokens.pad] * (width - len(row)) for row in built])
    continuous = ids == tokens.slot
    generator = torch.Generator().manual_seed(2)
    return ids, continuous, torch.randn(int(continuous.sum()), 3, generator=generator).double()


@pytest.mark.parametrize(
    ("preset", "depth", "millions"),
    [("100m", 3, 122.7), ("100m", 12, 169.9), ("200m", 3, 223.4), ("base", 3, 424.7),
     ("base", 12, 472.0), ("800m", 3, 862.0), ("800m", 12, 909.2)],
)  # fmt: skip
def test_presets_have_the_published_numbers_of_parameters(preset, depth, millions):
    settings = {**vars(PRESETS[preset]), "head_depth": depth}
    with torch.device("meta"):
        built = UniGenX(TOKENS, **settings)
    count = sum(weight.numel() for weight in built.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.051)


def test_word_loss_smooths_labels_and_counts_padding_as_published(network):
    ids, continuous, coordinates = crystals([[26, 8], [6]])
    _, logits = network(ids, continuous, coordinates)
    terms = []
    for row in range(2):
        for place in range(ids.shape[1] - 1):
            if continuous[row, place + 1]:
                continue
            log_p = logits[row, place].log_softmax(-1)
            target = int(ids[row, place + 1])
            terms.append((target, -0.95 * log_p[target] - 0.05 * log_p.mean()))
    published, honest = (
        network.loss(ids, continuous, coordinates, torch.Generator().manual_seed(0), ignored)
        for ignored in (False, True)
    )
    every = torch.stack([term for _, term in terms]).mean()
    inside = torch.stack([term for target, term in terms if target != 0]).mean()
    torch.testing.assert_close(published.word, every.float())
    torch.testing.assert_close(honest.word, inside.float())
    torch.testing.assert_close(published.total, published.word + 100 * published.coordinate)


def test_state_before_a_slot_conditions_it(network):
    ids, continuous, coordinates = crystals([[26, 8], [6]])
    hidden, _ = network(ids, continuous, coordinates)
    z = torch.stack([hidden[row, place - 1] for row, place in continuous.nonzero().tolist()])
    losses = network.loss(ids, continuous, coordinates, torch.Generator().manual_seed(4))
    expected = network.head.loss(
        z.repeat(4, 1), coordinates.repeat(4, 1), torch.Generator().manual_seed(4)
    )
    torch.testing.assert_close(losses.coordinate, expected.mean())


def test_token_log_prob_is_the_sum_over_rows_of_their_own(network):
    rows = [[26, 8, 8], [6]]
    with torch.no_grad():
        together = network.token_log_prob(*crystals(rows))
    ids, continuous, coordinates = crystals(rows)
    start = 0
    for row in range(2):
        length, slots = int((ids[row] != 0).sum()), int(continuous[row].sum())
        alone = ids[row, :length], continuous[row, :length], coordinates[start : start + slots]
        with torch.no_grad():
            _, logits = network(alone[0][None], alone[1][None], alone[2])
        log_p = logits[0].log_softmax(-1)
        total = sum(
            log_p[place - 1, alone[0][place]] for place in range(1, length) if not alone[1][place]
        )
        assert float(together[row]) == pytest.approx(float(total), rel=1e-5)
        start += slots


class Midpoint:
    """A solver without chance: the denoised origin at one noise level."""

    def solve(self, denoiser, generator, temperature=1.0):
        origin = denoiser.betas.new_zeros(len(denoiser.sigma_range[0]), 3)
        return 0.1 + 0.1 * denoiser.denoise(origin, torch.ones(len(origin), dtype=torch.float64))


def test_cached_sampling_of_ragged_crystals_equals_reading_the_whole_sequence(network):
    rows = [[26, 8, 8], [6], [11, 17, 1, 1]]
    numbers = torch.tensor([[*row, *([0] * (4 - len(row)))] for row in rows])
    sample = network.sample_crystals(numbers, Midpoint(), torch.Generator())
    for row, composition in enumerate(rows):
        count = len(composition)
        drawn = torch.cat((sample["lattice"][row], sample["fractional"][row, :count])).double()
        ids, continuous, _ = crystals([composition])
        raw = drawn.clone()
        for slot in range(3 + count):
            hidden, _ = network(ids, continuous, raw)
            place = int(continuous[0].nonzero()[slot, 0])
            raw[slot] = Midpoint().solve(network.head.denoiser(hidden[:, place - 1]), None)[0]
        expected = torch.cat((raw[:3], raw[3:].remainder(1.0)))
        torch.testing.assert_close(drawn, expected, atol=1e-5, rtol=1e-5)
        assert not sample["fractional"][row, count:].any()
    assert float(sample["fractional"].min()) >= 0 and float(sample["fractional"].max()) < 1


def test_compositions_that_cannot_be_read_are_refused(network):
    with pytest.raises(UsageError, match="composition is empty"):
        network.sample_crystals(torch.tensor([[1], [0]]), Midpoint(), torch.Generator())
    with pytest.raises(UsageError, match="130 is no atomic number"):
        network.sample_crystals(torch.tensor([[130]]), Midpoint(), torch.Generator())
    foreign = PublishedVocabulary.of_dictionary(["C", "N", "O"])
    with pytest.raises(UsageError, match="'Fe' is not in the vocabulary"):
        foreign.crystal_prompt([26])
    with pytest.raises(UsageError, match="2 coordinates for 9 slots"):
        ids, continuous, coordinates = crystals([[26, 8], [6]])
        network(ids, continuous, coordinates[:2])
    with pytest.raises(CheckpointError, match="specials out of place"):
        UniGenX(TOKENS[1:], **SIZE)


def test_unified_dictionary_marks_crystals():
    unified = PublishedVocabulary.of_dictionary(["<material>", "<m>C", "<m>O", "<s>C"])
    assert unified.crystal_prompt([6, 8, 8]) == [1, 4, 5, 6, 6, unified.coordinates]
