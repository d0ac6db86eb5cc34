"""Crystals and molecules from nothing: tokens by a decoder, then their coordinates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np
import torch
from torch import Generator, Tensor

from gensci.core.errors import GensciError, UsageError
from gensci.core.protocols import Tensors
from gensci.core.results import join_rows, widened
from gensci.models.structure_batches import open_crystals, read_crystals
from gensci.models.structure_proposal import (
    ROWS_AT_ONCE,
    TRIES,
    Drawing,
    closes,
    draw_conformers,
    prompts,
)
from gensci.nn.structure_constraints import ElementConstraint, SmilesConstraint
from gensci.nn.structure_decoding import GuidedTokens, TokenTrack, Track, draw_slots, open_slots
from gensci.nn.structure_network import StructureTransformer
from gensci.nn.structure_sequence import (
    Line,
    Prompted,
    begin,
    stack,
)

PATIENCE = 256  # texts in a row of which none is wanted, before a model is given up


Item: TypeAlias = tuple[Any, list[int]]
"""The graph of a molecule and the tokens of its SMILES."""


class TokenDecoder(Protocol):
    """What draws tokens: a decoder of `gensci.samplers.decoders`.

    Attributes:
        name: for messages.
        joint: whether the rows are found together, so that asking again may find the same.
    """

    name: str
    joint: bool

    def check_rows(self, n: int) -> None:
        """Raise a UsageError unless ``n`` rows can be asked for at once."""
        ...

    def decode(self, model: Any, n: int, generator: Generator, max_tokens: int) -> Any:
        """Rows with ``tokens`` (n, T) and ``finished`` (n,)."""
        ...


def prompt_line(network: StructureTransformer, prompt: Prompted) -> Line:
    """The beginning of a sequence."""
    line = Line(network.vocabulary, 4 + 2 * len(prompt.properties or {}))
    begin(line, prompt)
    return line


def token_track(
    network: StructureTransformer,
    prompt: Prompted,
    guidance: float,
    max_tokens: int,
    constraint: Any,
) -> TokenTrack | GuidedTokens:
    """The tokens of a new structure as decoders ask for them.

    Args:
        network: the model.
        prompt: training set and properties.
        guidance: how strongly the properties are pressed; one is the model's own.
        max_tokens: most tokens of a row.
        constraint: tells which tokens may come next.
    """
    device = next(network.parameters()).device
    tracks = [
        TokenTrack(network, stack([prompt_line(network, one)]).to(device), max_tokens, constraint)
        for one in prompts(prompt, guidance != 1.0)
    ]
    return tracks[0] if len(tracks) == 1 else GuidedTokens(*tracks, guidance)


def check_rows(decoder: TokenDecoder, n: int) -> None:
    """Raise a UsageError unless a decoder can give the rows of ``n`` samples."""
    if decoder.joint and n > ROWS_AT_ONCE:
        raise UsageError(
            f"decoder {decoder.name!r} finds at most {ROWS_AT_ONCE} rows together, num_samples={n}",
            f"ask for {ROWS_AT_ONCE} or fewer, or choose another --proposal.decoder",
        )
    decoder.check_rows(min(n, ROWS_AT_ONCE))


class NewCrystals:
    """Crystals whose composition the model chooses.

    Args:
        network: a model of crystals.
        decoder: draws the elements.
        drawing: how slots are drawn.
        prompt: training set and properties to write like.
        elements: atomic numbers that may be used; all by default.
        num_atoms: exactly how many atoms, or None.
        guidance: how strongly tokens are pressed to the properties of the prompt; slots are by
            ``drawing.guide``, where this is not one.
    """

    def __init__(
        self,
        network: StructureTransformer,
        decoder: TokenDecoder,
        drawing: Drawing,
        prompt: Prompted | None = None,
        elements: Iterable[int] | None = None,
        num_atoms: int | None = None,
        guidance: float = 1.0,
    ):
        self.network = network.eval().requires_grad_(False)
        self.decoder, self.drawing, self.prompt = decoder, drawing, prompt or Prompted()
        self.guidance = guidance
        self.most = num_atoms or network.max_atoms
        self.constraint = ElementConstraint(
            network.vocabulary, elements, num_atoms, network.max_atoms
        )

    def check_draws(self, n: int) -> None:
        """Raise a UsageError unless ``n`` crystals can be drawn."""
        check_rows(self.decoder, n)

    def sample(self, n: int, generator: Generator) -> Tensors:
        """Draws {"numbers", "fractional", "lattice"}, padded with zeros behind the atoms."""
        sizes = [min(ROWS_AT_ONCE, n - k) for k in range(0, n, ROWS_AT_ONCE)]
        parts = [self.place(self.compositions(size, generator), generator) for size in sizes]
        return join_rows(parts)

    def compositions(self, n: int, generator: Generator) -> list[np.ndarray]:
        """Atomic numbers of n crystals."""
        with torch.no_grad():
            track = token_track(
                self.network, self.prompt, self.guidance, self.most + 1, self.constraint
            )
            decoded = self.decoder.decode(track, n, generator, self.most + 1)
        numbers = self.constraint.numbers[decoded.tokens.cpu()].numpy()
        return [row[row > 0] for row in numbers]

    def place(self, compositions: list[np.ndarray], generator: Generator) -> Tensors:
        """Crystals of compositions, atoms in the order of the sequence; cells have a volume."""
        x = self._draw(compositions, generator)
        for _ in range(TRIES):
            bad = (~closes(x["lattice"])).nonzero().squeeze(-1)
            if not len(bad):
                break
            again = self._draw([compositions[k] for k in bad.tolist()], generator)
            width = x["numbers"].shape[1]
            for name, value in again.items():
                x[name][bad] = value if name == "lattice" else widened(value, width)
        return x

    def _draw(self, compositions: list[np.ndarray], generator: Generator) -> Tensors:
        device = next(self.network.parameters()).device
        batches = [
            open_crystals(self.network, compositions, prompt).to(device)
            for prompt in prompts(self.prompt, self.guidance != 1.0)
        ]
        with torch.no_grad():
            first, *others = [Track(self.network, batch, ~open_slots(batch)) for batch in batches]
            solve, amend = self.drawing.solve(generator), self.drawing.exclusion
            batch = draw_slots(first, solve, tuple(others), amend)
        return read_crystals(batch, self.network.layout)


class NewMolecules:
    """Molecules whose SMILES the model writes before it places the atoms.

    Args:
        network: a model of molecules.
        decoder: draws the SMILES.
        drawing: how slots are drawn.
        graph_of: turns a SMILES into a `gensci.systems.molecule_graph.MoleculeGraph`; a
            GensciError from it means that the text is no molecule, and the row is drawn again.
        prompt: training set and properties to write like.
        pieces: of SMILES that may be used; all by default.
        accept: tells whether a graph is wanted; all by default.
        max_heavy_atoms: most atoms that a SMILES may write, or None.
        max_tokens: longest SMILES, in pieces.
        guidance: how strongly tokens are pressed to the properties of the prompt; slots are by
            ``drawing.guide``, where this is not one.
    """

    def __init__(
        self,
        network: StructureTransformer,
        decoder: TokenDecoder,
        drawing: Drawing,
        graph_of: Callable[[str], Any],
        prompt: Prompted | None = None,
        pieces: Iterable[str] | None = None,
        accept: Callable[[Any], bool] | None = None,
        max_heavy_atoms: int | None = None,
        max_tokens: int = 80,
        guidance: float = 1.0,
    ):
        self.network, self.guidance = network.eval().requires_grad_(False), guidance
        self.decoder, self.drawing, self.prompt = decoder, drawing, prompt or Prompted()
        self.graph_of, self.accept, self.max_tokens = graph_of, accept, max_tokens
        self.constraint = SmilesConstraint(network.vocabulary, pieces, max_tokens, max_heavy_atoms)
        self.texts = network.vocabulary.pieces()
        self.drawn = self.refused = 0

    def check_draws(self, n: int) -> None:
        """Raise a UsageError unless ``n`` molecules can be drawn: the model is tried beforehand."""
        check_rows(self.decoder, n)
        if self.accept is None:
            return
        try:
            self.molecules(n if self.decoder.joint else 1, Generator().manual_seed(0))
        except UsageError:
            raise
        except GensciError as error:
            raise UsageError(error.problem, error.remedy) from error

    def sample(self, n: int, generator: Generator) -> Tensors:
        """Draws {"numbers", "positions" nm, "tokens"}, padded with zeros.

        Raises:
            GensciError: the model writes hardly anything that is a molecule and wanted.
        """
        items = self.molecules(n, generator)
        chunks = [items[k : k + ROWS_AT_ONCE] for k in range(0, n, ROWS_AT_ONCE)]
        parts = []
        for chunk in chunks:
            x = draw_conformers(
                self.network, chunk, self.prompt, self.drawing, generator, self.guidance != 1.0
            )
            most = max(len(pieces) for _, pieces in chunk)
            tokens = torch.zeros(len(chunk), most, dtype=torch.long)
            for k, (_, pieces) in enumerate(chunk):
                tokens[k, : len(pieces)] = torch.tensor(pieces)
            parts.append({**x, "tokens": tokens.to(x["numbers"].device)})
        return join_rows(parts)

    def molecules(self, n: int, generator: Generator) -> list[Item]:
        """Graphs and tokens of n molecules; texts that are none are drawn again and counted.

        Raises:
            GensciError: the model writes hardly anything that is a molecule and wanted.
        """
        if self.decoder.joint:
            return self._found_together(n, generator)
        items: list[Item] = []
        idle = 0  # texts since the last that was wanted
        while len(items) < n:
            if idle >= PATIENCE:
                raise GensciError(
                    f"none of the last {idle} texts that the model wrote is a molecule as asked "
                    f"for ({len(items)} of {n} found)",
                    "allow more elements or heavy atoms, or ask for less narrow properties",
                )
            rows = min(ROWS_AT_ONCE, max(8, n - len(items), idle))
            found = self._read(self._decoded(rows, generator))
            items += found[: n - len(items)]
            idle = 0 if found else idle + rows
        return items

    def _found_together(self, n: int, generator: Generator) -> list[Item]:
        """As `molecules`, by a decoder that would find the same again: more rows at once instead.

        Raises:
            GensciError: there are not so many molecules among the rows that it finds.
        """
        most = min(ROWS_AT_ONCE, getattr(self.decoder, "width", None) or ROWS_AT_ONCE)
        rows = n
        while True:
            decoded = self._decoded(rows, generator)
            items = self._read(decoded)
            if len(items) >= n:
                return items[:n]
            if rows >= most or len(decoded) < rows:
                raise GensciError(
                    f"of the {len(decoded)} texts that decoder {self.decoder.name!r} finds "
                    f"together {len(items)} are molecules as asked for, num_samples={n}",
                    "ask for fewer, or choose another --proposal.decoder",
                )
            rows = min(most, 2 * rows)

    def _decoded(self, rows: int, generator: Generator) -> Any:
        """Rows of tokens."""
        with torch.no_grad():
            track = token_track(
                self.network, self.prompt, self.guidance, self.max_tokens, self.constraint
            )
            return self.decoder.decode(track, rows, generator, self.max_tokens)

    def _read(self, decoded: Any) -> list[Item]:
        """The wanted molecules among rows of tokens."""
        found = []
        for row, finished in zip(decoded.tokens.tolist(), decoded.finished.tolist(), strict=True):
            self.drawn += 1
            pieces = [token for token in row if token in self.texts]
            try:
                if not finished:
                    raise GensciError("the text does not end")
                graph = self.graph_of("".join(self.texts[token] for token in pieces))
                self.network.collator.check_size(len(graph.numbers), graph.smiles, "")
                if len(graph.numbers) == 1:
                    raise GensciError("a single atom")
                if self.accept is not None and not self.accept(graph):
                    raise GensciError("not as wanted")
            except GensciError:
                self.refused += 1
                continue
            found.append((graph, pieces))
        return found

    def smiles(self, tokens: Tensor) -> list[str]:
        """Texts of rows of tokens (n, T)."""
        return ["".join(self.texts.get(token, "") for token in row) for row in tokens.tolist()]
