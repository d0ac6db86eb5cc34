"""The improved UniGenX: a causal transformer over tokens and slots, and an EDM head for slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from gensci.core.elements import SYMBOLS
from gensci.core.errors import UsageError
from gensci.core.registry import MODELS
from gensci.nn.llama import Llama
from gensci.nn.smiles_tokens import SMILES_PIECES
from gensci.nn.structure_collate import Collator
from gensci.nn.structure_features import SequenceEmbedding, Surroundings
from gensci.nn.structure_frames import frames_of, roles
from gensci.nn.structure_heads import build_head, slot_errors
from gensci.nn.structure_layout import FRACTION, TOKEN, Layout
from gensci.nn.structure_sequence import Batch, MoleculeBatch
from gensci.nn.structure_vocabulary import Vocabulary

ALIKE = 0.15  # shipped models: below 0.08 for tokens never written, above 0.2 for rare ones


class Losses(NamedTuple):
    """Means over the places that are learned: (), and how many there were."""

    token: Tensor
    slot: Tensor
    tokens: int
    slots: int


@MODELS.register("unigenx")
class StructureTransformer(nn.Module):
    """Tokens and slots of crystals or molecules in one causal transformer.

    The state at a place predicts the next token, or is the condition of the diffusion head where
    a slot follows. After Zhang et al. 2025 (arXiv:2503.06687); the head after Karras et al. 2022
    (arXiv:2206.00364) and Cheng et al. 2025 (Quetzal).

    Args:
        family: ``crystal`` or ``molecule``.
        sets: training sets that the model can tell apart.
        properties: mean and width by name of the scalars that it can be conditioned on.
        hidden, intermediate, num_layers, num_heads: of the transformer.
        head_width, head_depth, head_repeats: of the diffusion head, and how many noise levels
            every slot is trained on in a step.
        max_atoms: most atoms of a structure.
        periodic: whether fractional coordinates live on the torus.
        lattice, origin, atom_order, frames: how structures are written as slots; see
            :class:`~gensci.nn.structure_layout.Layout`. Global frames have no surroundings.
        head: ``edm``, or ``ddpm``, the published one, which takes fractional coordinates for
            vectors in space.
        coming: whether a place is told which slot comes next, in kind, element and number.
        ignore_padding: whether the loss of the tokens is that of the tokens to be predicted. The
            published one counts every place that is no slot, padding too.
        head_damping: of the octaves that the noise spans; see `EdmHead`.
        drop_source, show_property, show_template: chances in training that the training set is
            hidden, that a known property is shown, and that a template is.
        vocabulary_sha256: of the vocabulary that weights were trained with.

    Raises:
        UsageError: the family is unknown.
        CheckpointError: the vocabulary is another one.
    """

    def __init__(
        self,
        family: str,
        sets: Sequence[str],
        properties: Mapping[str, Sequence[float]],
        hidden: int = 256,
        intermediate: int = 640,
        num_layers: int = 6,
        num_heads: int = 4,
        head_width: int = 256,
        head_depth: int = 3,
        head_repeats: int = 3,
        max_atoms: int = 64,
        periodic: bool = True,
        drop_source: float = 0.1,
        show_property: float = 0.3,
        show_template: float = 0.6,
        vocabulary_sha256: str | None = None,
        lattice: str = "niggli",
        origin: str = "first",
        atom_order: str = "shuffled",
        frames: str = "local",
        head: str = "edm",
        coming: bool = True,
        ignore_padding: bool = True,
        head_damping: float = 0.25,
    ):
        settings = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        super().__init__()
        if family not in ("crystal", "molecule"):
            raise UsageError(f"family={family!r} is unknown", "choose crystal or molecule")
        pieces = SMILES_PIECES if family == "molecule" else ()
        self.vocabulary = Vocabulary.build(sets, properties, pieces, family == "crystal")
        if vocabulary_sha256 is not None:
            self.vocabulary.check(vocabulary_sha256)
        self.settings = settings | {
            "sets": list(sets),
            "properties": {name: list(value) for name, value in properties.items()},
            "vocabulary_sha256": self.vocabulary.sha256,
        }
        self.family, self.max_atoms, self.periodic = family, max_atoms, periodic
        self.head_repeats, self.ignore_padding = head_repeats, ignore_padding
        self.layout = Layout.of(settings)
        self.collator = Collator(self.vocabulary, self.layout, self.settings)
        self.embedding = SequenceEmbedding(
            len(self.vocabulary), hidden, max_atoms, periodic, coming, self.layout.num_kinds
        )
        self.backbone = Llama(hidden, intermediate, num_layers, num_heads, qk_norm=True)
        self.tokens_out = nn.Linear(hidden, len(self.vocabulary), bias=False)
        nn.init.normal_(self.tokens_out.weight, std=0.02)
        self.head = build_head(head, hidden, head_width, head_depth, head_damping)
        around = family == "molecule" and frames == "local"
        self.surroundings = Surroundings(hidden) if around else None

    def collate(
        self, structures: Sequence[Any], generator: Generator, extras: Sequence[Any] | None = None
    ) -> Batch:
        """Sequences of structures with random augmentation; see :class:`Collator`."""
        seed = int(torch.randint(2**62, (), generator=generator))
        return self.collator(structures, np.random.default_rng(seed), extras)

    def inputs(self, batch: Batch) -> Tensor:
        """Input of the transformer (B, L, hidden)."""
        u = self.embedding(batch)
        if batch.molecule is None or self.surroundings is None:
            return u
        seen = self.look_around(batch.molecule)
        rows = torch.arange(len(seen), device=u.device).unsqueeze(-1)
        atoms = batch.molecule.numbers > 0
        order = torch.arange(atoms.shape[1], device=u.device)
        place = (batch.molecule.start.unsqueeze(-1) - 1 + order).clamp(max=u.shape[1] - 1)
        rows = rows.expand_as(place)
        return u.index_put((rows[atoms], place[atoms]), seen[atoms].to(u), True)

    def look_around(self, m: MoleculeBatch, atoms: Tensor | None = None) -> Tensor:
        """What atoms find placed before them.

        Args:
            m: the molecules.
            atoms: (B, K) which atoms; all by default.

        Returns:
            (B, K, hidden).
        """
        rows, count = m.numbers.shape
        order = torch.arange(count, device=m.numbers.device)
        atoms = order.expand(rows, count) if atoms is None else atoms
        row = torch.arange(rows, device=atoms.device).unsqueeze(-1)
        references = m.references[row, atoms]
        origin, axes = frames_of(m.positions, references)
        offsets = m.positions.unsqueeze(1) - origin.unsqueeze(2)
        return self.surroundings(
            torch.einsum("bijx,bikx->bijk", offsets, axes),
            m.numbers.unsqueeze(1).expand(-1, atoms.shape[1], -1),
            m.numbers[row, atoms],
            m.distance[row, atoms],
            m.bond[row, atoms],
            roles(references, count),
            m.stereo[row, atoms],
            (order < atoms.unsqueeze(-1)) & (m.numbers > 0).unsqueeze(1),
        )

    def unlearned(self, numbers: Iterable[int]) -> list[str]:
        """Symbols, among atomic numbers, of elements that training (almost) never wrote.

        At every step all tokens that never follow anything are pushed alike, so that their rows of
        the output layer end where that of the token <bos> ends, which cannot follow.
        """
        rows = self.tokens_out.weight.detach().float()
        never = rows[self.vocabulary.begin]
        far = ((rows - never).norm(dim=1) > ALIKE * never.norm()).tolist()
        known = {1} if self.family == "molecule" else set()  # SMILES leave hydrogens out
        asked = sorted(set(numbers) - known)
        spelled = {number: self.vocabulary.spellings(number) for number in asked}
        return [SYMBOLS[z - 1] for z in asked if not any(far[token] for token in spelled[z])]

    def on_torus(self, kind: Tensor) -> Tensor:
        """Whether slots of some kinds (any shape) live on the torus."""
        return (kind == FRACTION) & (self.periodic and self.settings["head"] == "edm")

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states (B, L, hidden); that at place p is about place p + 1."""
        return self.backbone(self.inputs(batch))

    def losses(self, batch: Batch, generator: Generator, repeats: int | None = None) -> Losses:
        """Cross-entropy of the tokens (nats) and denoising loss of the slots.

        Args:
            batch: of structures.
            generator: of noise and its levels.
            repeats: noise levels of every slot; ``head_repeats`` by default.
        """
        hidden = self(batch)[:, :-1]
        learn, kind = batch.learn[:, 1:], batch.kind[:, 1:]
        slot = learn & (kind != TOKEN)
        token = (kind == TOKEN) & (learn | (not self.ignore_padding))
        logits = self.tokens_out(hidden[token]).float()
        entropy = F.cross_entropy(logits, batch.ids[:, 1:][token])
        values, hint = batch.value[:, 1:][slot], batch.hint[:, 1:][slot]
        error = slot_errors(
            self.head, hidden[slot], values, self.on_torus(kind[slot]), generator, hint,
            batch.hinted[:, 1:][slot], self.head_repeats,
        )  # fmt: skip
        return Losses(entropy, error.mean(), int(token.sum()), int(slot.sum()))
