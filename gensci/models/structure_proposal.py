"""Trained structure models as proposals: crystals of a composition, conformers of a molecule.

What solves slots and decodes tokens is handed in, so that this module knows networks only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from gensci.core.diffusion import Denoiser
from gensci.core.protocols import Tensors
from gensci.models.structure_batches import open_crystals, open_molecules, read_crystals
from gensci.models.structure_exclusion import Exclusion, closes
from gensci.nn.structure_collate import Ordered, element_order, from_first
from gensci.nn.structure_decoding import Track, draw_slots, open_slots
from gensci.nn.structure_heads import RestingHead
from gensci.nn.structure_network import StructureTransformer
from gensci.nn.structure_sequence import Batch, Prompted, crystal_line, stack

ANGSTROM = 0.1  # nm
ROWS_AT_ONCE = 256
TRIES = 8  # for cells whose angles close to no volume
_LARGER = "or choose a --checkpoint for larger ones (`gensci list checkpoints`)"


class SlotSolver(Protocol):
    """What draws slots: a solver of `gensci.samplers.solvers`."""

    def solve(self, denoiser: Denoiser, generator: Generator, temperature: float = 1.0) -> Tensor:
        """Draws (n, 3) from the laws of n slots."""
        ...


class DensitySolver(Protocol):
    """A solver that knows the density of what it draws."""

    def log_prob(self, denoiser: Denoiser, x: Tensor, temperature: float = 1.0) -> Tensor:
        """Log-density (n,) of slots (n, 3)."""
        ...


@dataclass(frozen=True)
class Drawing:
    """How slots are drawn.

    Attributes:
        solver: what draws them.
        temperature: of the coordinates; 1 is the model's own law.
        density: the solver that log-densities come from, or None for ``solver`` itself.
        guide: turns the denoiser with conditions and the one without into one, or None.
        exclusion: keeps the atoms of crystals apart, or None; densities do not know of it.
    """

    solver: SlotSolver
    temperature: float = 1.0
    density: DensitySolver | None = None
    guide: Callable[[Denoiser, Denoiser], Any] | None = None
    exclusion: Exclusion | None = None

    def solve(self, generator: Generator) -> Callable[..., Tensor]:
        """The function that `draw_slots` asks for."""

        def solve(denoiser: Denoiser, *others: Denoiser) -> Tensor:
            chosen = self.guide(denoiser, *others) if others and self.guide else denoiser
            return self.solver.solve(chosen, generator, self.temperature)

        return solve


def prompts(prompt: Prompted, guided: bool) -> list[Prompted]:
    """A prompt, and under guidance the same without its properties, where it has some."""
    return [prompt, *[Prompted(prompt.source)] * (guided and bool(prompt.properties))]


class CrystalProposal:
    """Crystals of one composition.

    The first atom of the sequence (`element_order`) lies at the origin. The density is that of the
    two lattice slots and of the other atoms' fractional coordinates from there: per standardised
    log-length and angle, and per volume of the unit torus.

    Args:
        network: a model of crystals.
        numbers: (N,) atomic numbers in any order, which is that of the samples.
        drawing: how slots are drawn.
        prompt: training set and properties to write like.
        templates: structures of the same composition to lead the model, in the order of
            `ordered`; None among them stands for no template. Row i of a
            draw is led by template i modulo their number.
        guided: whether a second prompt without properties takes part (classifier-free guidance).

    Raises:
        UsageError: more atoms than the model knows.
    """

    def __init__(
        self,
        network: StructureTransformer,
        numbers: Sequence[int],
        drawing: Drawing,
        prompt: Prompted | None = None,
        templates: Sequence[Ordered | None] | None = None,
        guided: bool = False,
    ):
        self.network, self.drawing = network.eval().requires_grad_(False), drawing
        given = np.asarray(numbers, np.int64)
        network.collator.check_size(len(given), "the composition", f"give a smaller cell {_LARGER}")
        self.order = torch.from_numpy(element_order(given))
        self.numbers, self.prompt = given[self.order.numpy()], prompt or Prompted()
        self.templates = list(templates or [None])
        self.guided = guided

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.network.parameters()).device

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user must know of the model and this composition, a line each."""
        return guesses(self.network, self.numbers.tolist())

    def _batch(self, which: Tensor, prompt: Prompted) -> Batch:
        """Sequences in full length with open slots, led by templates ``which`` (n,)."""
        count = len(self.templates)
        compositions = [self.numbers] * count
        batch = open_crystals(self.network, compositions, prompt, self.templates)
        return batch.rows(which % count).to(self.device)

    def sample(self, n: int, generator: Generator) -> Tensors:
        """Draws {"numbers", "fractional", "lattice"} of n crystals whose cells have a volume."""
        sizes = [(k, min(ROWS_AT_ONCE, n - k)) for k in range(0, n, ROWS_AT_ONCE)]
        parts = [self._some(torch.arange(k, k + size), generator) for k, size in sizes]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _some(self, which: Tensor, generator: Generator) -> Tensors:
        return with_volume(lambda rows: self._draw(rows, generator), which)

    def tracks(self, which: Tensor) -> list[Track]:
        """Rows led by templates ``which`` (n,), under every prompt that takes part."""
        batches = [self._batch(which, prompt) for prompt in prompts(self.prompt, self.guided)]
        with torch.no_grad():
            return [Track(self.network, batch, ~open_slots(batch)) for batch in batches]

    def _draw(self, which: Tensor, generator: Generator) -> Tensors:
        first, *others = self.tracks(which)
        with torch.no_grad():
            solve, amend = self.drawing.solve(generator), self.drawing.exclusion
            drawn = draw_slots(first, solve, tuple(others), amend)
        return self.in_order(read_crystals(drawn, self.network.layout))

    def in_order(self, x: Tensors) -> Tensors:
        """Crystals with their atoms in the order that was asked for."""
        back = self.order.argsort().to(x["numbers"].device)
        return {**x, **{name: x[name][:, back] for name in ("numbers", "fractional")}}

    def log_prob(self, x: Tensors) -> Tensor:
        """Log-density (n,) in nats of crystals whose atoms stand in the order of the samples.

        Row i is judged under the template that leads row i of a draw.
        """
        n = len(x["fractional"])
        batch = self._batch(torch.arange(n), self.prompt)
        layout = self.network.layout
        atoms = layout.atoms_inside(x["fractional"][:, self.order.to(x["fractional"].device)])
        if self.network.periodic:
            atoms = atoms % 1.0
        slots = layout.cell_slots(x["lattice"], len(self.numbers))
        values = torch.cat((slots.to(atoms), atoms), 1)
        batch.value[open_slots(batch)] = values.flatten(0, 1).to(batch.value)
        return slot_log_prob(self.network, batch, self.drawing)

    def sample_and_log_prob(self, n: int, generator: Generator) -> tuple[Tensors, Tensor]:
        """Draws and their log-density."""
        x = self.sample(n, generator)
        return x, self.log_prob(x)


def guesses(network: StructureTransformer, numbers: Sequence[int]) -> tuple[str, ...]:
    """A line for the user on the elements that a model has not learned, or none."""
    unknown = network.unlearned(numbers)
    if not unknown:
        return ()
    return (f"the checkpoint has not learned {', '.join(unknown)}: what it draws is a guess there",)


class MostLikely:
    """The likeliest of several draws, for every sample.

    Args:
        proposal: draws; of n times ``tries`` rows each run of ``tries`` gives one sample.
        judge: has ``log_prob``; a proposal without templates, so that all compete alike.
        tries: how many draws a sample is chosen from.
    """

    def __init__(self, proposal: Any, judge: Any, tries: int):
        self.proposal, self.judge, self.tries = proposal, judge, tries

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the proposal."""
        return getattr(self.proposal, "warnings", ())

    def sample(self, n: int, generator: Generator) -> Tensors:
        """The likeliest of each run of draws."""
        x = self.proposal.sample(n * self.tries, generator)
        score = self.judge.log_prob(x).view(n, self.tries)
        best = score.argmax(1) + self.tries * torch.arange(n, device=score.device)
        return {name: value[best.to(value.device)] for name, value in x.items()}


def with_volume(draw: Callable[[Tensor], Tensors], rows: Tensor) -> Tensors:
    """Crystals that ``draw`` makes of rows (n,); those again whose cells have next to no volume."""
    x = draw(rows)
    for _ in range(TRIES):
        bad = (~closes(x["lattice"])).nonzero().squeeze(-1)
        if not len(bad):
            break
        for name, value in draw(rows[bad.cpu()]).items():
            x[name][bad] = value
    return x


def slot_log_prob(network: StructureTransformer, batch: Batch, drawing: Drawing) -> Tensor:
    """Log-density (n,) of all slots that a batch would have drawn, in nats."""
    solver = drawing.density or drawing.solver
    with torch.no_grad():
        hidden = network(batch)
    place = open_slots(batch)[:, 1:]
    rows = place.nonzero()[:, 0]
    torus = network.on_torus(batch.kind[:, 1:][place])
    denoiser = RestingHead(network.head).denoiser(
        hidden[:, :-1][place], torus, batch.hint[:, 1:][place], batch.hinted[:, 1:][place]
    )
    each = solver.log_prob(denoiser, batch.value[:, 1:][place], drawing.temperature)
    return (
        torch.zeros(len(hidden), dtype=torch.float64)
        .to(each.device)
        .index_add(0, rows, each.double())
    )


def chance_of_same(
    network: StructureTransformer,
    numbers: Sequence[int],
    templates: Sequence[Ordered],
    prompt: Prompted,
) -> Tensor:
    """Probability (K,) that the model gives to a structure of the kind of each template.

    Args:
        network: a model of crystals.
        numbers: (N,) atomic numbers in the order of the templates.
        templates: candidates.
        prompt: training set and properties.
    """
    lines = [
        crystal_line(
            network.vocabulary, np.asarray(numbers), prompt, template=t, layout=network.layout
        )
        for t in templates
    ]
    batch = stack(lines).to(next(network.parameters()).device)
    with torch.no_grad():
        logits = network.tokens_out(network(batch)[:, -1]).double()
    vocabulary = network.vocabulary
    return logits[:, [vocabulary.same, vocabulary.other]].softmax(-1)[:, 0]


def ordered(template: Any) -> tuple[np.ndarray, Ordered]:
    """Numbers and template of a `gensci.data.templates.Template`, in the order of a sequence."""
    order = element_order(template.numbers)
    chosen = Ordered(
        template.source_numbers[order].astype(np.int64),
        from_first(template.fractional[order]),
        np.asarray(template.lattice, np.float32),
    )
    return template.numbers[order], chosen


class ConformerProposal:
    """Conformers of one molecule; the density is that of all atoms in their local frames.

    Frames move volumes rigidly, so it is also that of the positions in space, once the first atom
    is put at the origin.

    Args:
        network: a model of molecules.
        graph: of the molecule, a `gensci.systems.molecule_graph.MoleculeGraph`.
        pieces: of its SMILES.
        drawing: how slots are drawn.
        prompt: training set and properties to write like.
    """

    def __init__(
        self,
        network: StructureTransformer,
        graph: Any,
        pieces: Sequence[str],
        drawing: Drawing,
        prompt: Prompted | None = None,
    ):
        self.network = network.eval().requires_grad_(False)
        self.graph, self.drawing, self.prompt = graph, drawing, prompt or Prompted()
        network.collator.check_size(
            len(graph.numbers), graph.smiles, f"give a smaller molecule {_LARGER}"
        )
        self.pieces = [network.vocabulary.piece(text) for text in pieces]

    @property
    def device(self) -> torch.device:
        """Of the weights."""
        return next(self.network.parameters()).device

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user must know of the model and this molecule, a line each."""
        return guesses(self.network, self.graph.numbers.tolist())

    def sample(self, n: int, generator: Generator) -> Tensors:
        """Draws {"numbers", "positions" nm} of n conformers."""
        parts = []
        for k in range(0, n, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, n - k)
            items = [(self.graph, self.pieces)] * count
            parts.append(draw_conformers(self.network, items, self.prompt, self.drawing, generator))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def log_prob(self, x: Tensors) -> Tensor:
        """Log-density (n,) in nats, per cubic Angstrom for every atom but the first."""
        n, atoms = len(x["positions"]), len(self.graph.numbers)
        batch = open_molecules(self.network, [(self.graph, self.pieces)] * n, self.prompt)
        batch = batch.to(self.device)
        positions = (x["positions"] / ANGSTROM).to(batch.value)
        if self.network.layout.frames == "local":
            positions = positions - positions[:, :1]
        batch.molecule.positions[:] = positions
        start = int(batch.molecule.start[0])
        local = self.network.layout.atoms_in_space(positions, batch.molecule.references)
        batch.value[:, start : start + atoms] = local
        return slot_log_prob(self.network, batch, self.drawing)

    def sample_and_log_prob(self, n: int, generator: Generator) -> tuple[Tensors, Tensor]:
        """Draws and their log-density."""
        x = self.sample(n, generator)
        return x, self.log_prob(x)


def draw_conformers(
    network: StructureTransformer,
    items: Sequence[tuple[Any, Sequence[int]]],
    prompt: Prompted,
    drawing: Drawing,
    generator: Generator,
    guided: bool = False,
) -> Tensors:
    """One conformer of each of several molecules.

    Args:
        network: a model of molecules.
        items: graph and tokens of the SMILES of each.
        prompt: training set and properties.
        drawing: how slots are drawn.
        generator: the source of randomness.
        guided: whether the prompt without its properties takes part.

    Returns:
        {"numbers" (n, N), "positions" (n, N, 3) nm}, padded with zeros.
    """
    device = next(network.parameters()).device
    batches = [open_molecules(network, items, one).to(device) for one in prompts(prompt, guided)]
    with torch.no_grad():
        first, *others = [Track(network, batch, ~open_slots(batch)) for batch in batches]
        drawn = draw_slots(first, drawing.solve(generator), tuple(others))
    return {
        "numbers": drawn.molecule.numbers,
        "positions": drawn.molecule.positions * ANGSTROM,
    }
