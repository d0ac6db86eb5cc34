"""A structure model, its solver and decoder, and templates, put together for one prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gensci.samplers  # noqa: F401  (registers solvers and decoders)
from gensci.core.elements import NUMBERS, SYMBOLS
from gensci.core.errors import UsageError
from gensci.core.prompts import StructurePrompt
from gensci.core.registry import did_you_mean
from gensci.data.templates import TemplatePool
from gensci.models.checkpoint import load_network
from gensci.models.new_structures import NewCrystals, NewMolecules
from gensci.models.published_proposal import PublishedCrystals
from gensci.models.structure_exclusion import Exclusion
from gensci.models.structure_proposal import (
    Drawing,
    MostLikely,
    chance_of_same,
    ordered,
)
from gensci.models.structure_steps import (
    GuidedCrystals,
    SpacedCrystals,
    StepwiseConformers,
    StepwiseCrystals,
)
from gensci.nn.published_unigenx import UniGenX
from gensci.nn.smiles_tokens import SMILES_PIECES, tokenize
from gensci.nn.structure_collate import element_order
from gensci.nn.structure_sequence import Prompted
from gensci.samplers.decoders.base import make_decoder
from gensci.samplers.solvers.base import make_solver
from gensci.samplers.solvers.guidance import GuidedByCondition
from gensci.systems.molecule_graph import explicit_molecule, graph_of

TEMPLATES = "templates.safetensors"
LEAST_CHANCE = 0.05  # templates after the first that the model believes in less do not lead
FARTHEST = 10  # standard deviations of a property, beyond which no model has seen anything
DENSITY = {"num_steps": 8, "method": "rk4"}
_TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class ProposalSettings:
    """How a structure model draws; given as ``--proposal.num_steps 20``.

    Attributes:
        solver: of the diffusion head, see `gensci list solvers`; ``solver.rho`` and others go to
            it.
        num_steps: of the solver; None for its own default.
        temperature: of coordinates and cells; below one sharpens.
        decoder: of tokens, see `gensci list decoders`; ``decoder.p`` and others go to it.
        token_temperature: of decoders that have a temperature.
        guidance: strength of the properties asked for; one is the model's own.
        best_of: how many draws each sample is the likeliest of.
        num_templates: how many retrieved structures are tried.
        exclusion: two atoms of a crystal are no closer than this share of the sum of their
            covalent radii; 0 for the model's own law, whose density is
            known and which other samplers than direct start from.
        novel: the wanted crystal is known not to be among the retrieved structures, so that those
            of exactly its composition come last.
    """

    solver: str = "dpm-solver++"
    num_steps: int | None = 16
    temperature: float = 1.0
    decoder: str = "ancestral"
    token_temperature: float = 1.0
    guidance: float = 1.0
    best_of: int = 1
    num_templates: int = 20
    exclusion: float = 0.7
    novel: bool = False


def read_settings(given: Mapping[str, Any]) -> tuple[ProposalSettings, dict[str, dict[str, Any]]]:
    """Settings by name, as text or values, and those of solver and decoder apart.

    Raises:
        UsageError: a setting is unknown or of the wrong kind.
    """
    kinds = {field.name: field for field in fields(ProposalSettings)}
    chosen: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {"solver": {}, "decoder": {}}
    for text, value in given.items():
        name = text.replace("-", "_")
        group, _, key = name.partition(".")
        if key and group in nested:
            nested[group][key] = value
            continue
        if name not in kinds:
            hint = did_you_mean(name, list(kinds))
            raise UsageError(
                f"no setting --proposal.{text}", f"{hint}choose from: {', '.join(kinds)}"
            )
        chosen[name] = _typed(name, value, kinds[name].default)
    settings = ProposalSettings(**chosen)
    for name in ("guidance", "temperature"):
        if not 0 <= getattr(settings, name) < 100:
            raise UsageError(f"--proposal.{name} {getattr(settings, name)}", "give 0 to 100")
    if not 0 <= settings.exclusion <= 1:
        raise UsageError(f"--proposal.exclusion {settings.exclusion}", "give 0 to 1")
    for name in ("best_of", "num_templates"):
        if getattr(settings, name) < 1:
            raise UsageError(f"--proposal.{name} {getattr(settings, name)}", "give 1 or more")
    return settings, nested


def recorded(given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings by their names in `run.json`, defaults included.

    Raises:
        UsageError: a setting is unknown or of the wrong kind.
    """
    chosen, nested = read_settings(given)
    own = {f"{group}.{name}": value for group in nested for name, value in nested[group].items()}
    return {f"proposal.{name}": value for name, value in {**asdict(chosen), **own}.items()}


def refuse_idle(prompt: StructurePrompt, settings: Mapping[str, Any]) -> None:
    """Refuse settings that this prompt would not feel, so that nobody takes them for at work.

    Raises:
        UsageError: there is one; the message says what it needs.
    """
    new = prompt.numbers is None and prompt.smiles is None
    missing = {
        "decoder": None if new else "new structures, crystal:* or molecule:*",
        "token_temperature": None if new else "new structures, crystal:* or molecule:*",
        "best_of": "a composition or a SMILES" if new else None,
        "num_templates": None if prompt.templates else "--system.templates true",
        "exclusion": None if prompt.kind == "crystal" else "crystals",
        "novel": None if prompt.templates else "--system.templates true",
        "guidance": (
            "a composition or new structures"
            if prompt.smiles
            else None
            if prompt.conditions
            else "a property, such as --system.band_gap"
        ),
    }
    for text in settings:
        needed = missing.get(text.replace("-", "_").partition(".")[0])
        if needed is not None:
            raise UsageError(f"--proposal.{text} needs {needed}", "give that, or leave it out")


def _typed(name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if not isinstance(value, str) or kind is str:
        return value
    try:
        return _TRUTH[value.lower()] if kind is bool else kind(value)
    except (KeyError, ValueError):
        wanted = {int: "a whole number", bool: "true or false"}.get(kind, "a number")
        raise UsageError(f"--proposal.{name} {value!r} cannot be used", f"give {wanted}") from None


def load_structure_proposal(
    checkpoint: str, prompt: StructurePrompt, device: torch.device, **settings: Any
) -> tuple[Any, str]:
    """The proposal of a structure model for a prompt.

    Args:
        checkpoint: name or folder.
        prompt: what is wanted.
        device: where to compute.
        **settings: see `ProposalSettings`.

    Returns:
        The proposal and the SHA-256 of the weights.

    Raises:
        UsageError: a setting, or something that the model does not know.
        CheckpointError: the checkpoint cannot be used, or is of another family.
    """
    chosen, nested = read_settings(settings)
    refuse_idle(prompt, settings)
    network, meta = load_network(checkpoint)
    published = isinstance(network, UniGenX)
    if ("crystal" if published else getattr(network, "family", None)) != prompt.kind:
        raise UsageError(
            f"checkpoint {checkpoint!r} is no model of {prompt.kind}s",
            "choose another --checkpoint (`gensci list checkpoints`)",
        )
    network = network.float().to(device)
    steps = {} if chosen.num_steps is None else {"num_steps": chosen.num_steps}
    drawing = Drawing(
        make_solver(chosen.solver, {**steps, **nested["solver"]}),
        chosen.temperature,
        make_solver("flow-ode", DENSITY),
        _guide(chosen.guidance),
        exclusion_of(chosen.exclusion) if prompt.kind == "crystal" else None,
    )
    if published:
        return published_crystals(network, prompt, drawing, chosen), meta["weights_sha256"]
    start = read_prompt(network, prompt)
    folder = Path(meta["folder"])
    if prompt.kind == "crystal" and prompt.numbers is not None:
        proposal = crystals(network, prompt, start, drawing, chosen, folder)
    elif prompt.kind == "crystal":
        decoder = _decoder(chosen, nested["decoder"])
        wanted = (prompt.elements, prompt.num_atoms, chosen.guidance)
        proposal = NewCrystals(network, decoder, drawing, start, *wanted)
    elif prompt.smiles is not None:
        graph = graph_of(prompt.smiles)
        proposal = StepwiseConformers(network, graph, tokenize(prompt.smiles), drawing, start)
        proposal = _chosen(proposal, proposal, chosen.best_of)
    else:
        decoder = _decoder(chosen, nested["decoder"])
        proposal = NewMolecules(
            network, decoder, drawing, graph_of, start, pieces_of(prompt.elements), _small(prompt),
            prompt.max_heavy_atoms, guidance=chosen.guidance,
        )  # fmt: skip
    return proposal, meta["weights_sha256"]


def published_crystals(
    network: UniGenX, prompt: StructurePrompt, drawing: Drawing, chosen: ProposalSettings
) -> PublishedCrystals:
    """The proposal of a model as published, which knows compositions and nothing else."""
    asked = {
        "a new composition": prompt.numbers is None,
        "properties": bool(prompt.conditions),
        "a style": prompt.style is not None,
        "templates": prompt.templates,
        "best_of": chosen.best_of > 1,
    }
    for name, wanted in asked.items():
        if wanted:
            raise UsageError(
                f"converted UniGenX models draw crystals of a composition, not {name}",
                "leave it out, or use a checkpoint of unigenx",
            )
    return PublishedCrystals(network, prompt.numbers, drawing.solver, drawing.temperature)


def read_prompt(network: Any, prompt: StructurePrompt) -> Prompted:
    """Training set and standardised properties, refused where the model does not know them.

    So are elements for new structures that it would never write.
    """
    if unknown := network.unlearned(prompt.elements or ()):
        known = sorted(set(prompt.elements) - {NUMBERS[symbol] for symbol in unknown})
        alone = {1} if prompt.kind == "molecule" else set()  # hydrogen alone makes none
        left = ",".join(SYMBOLS[number - 1] for number in known if number not in alone)
        raise UsageError(
            f"--system.elements: the checkpoint has not learned to write {', '.join(unknown)}",
            f"leave it out ({left})" if left else "choose others, or another --checkpoint",
        )
    if prompt.style is not None:
        network.vocabulary.set_token(prompt.style)
    shown = {}
    for name, value in prompt.conditions.items():
        network.vocabulary.property_token(name)
        shown[name] = network.collator.standardised(name, value)
        if abs(shown[name]) > FARTHEST:
            raise UsageError(
                f"{name} {value:g} is {abs(shown[name]):.0f} standard deviations from the "
                "training data",
                f"give one within {FARTHEST} of them; is the unit right?",
            )
    return Prompted(prompt.style, shown)


def crystals(
    network: Any,
    prompt: StructurePrompt,
    start: Prompted,
    drawing: Drawing,
    chosen: ProposalSettings,
    folder: Path,
) -> Any:
    """The proposal of one composition, led by templates where they are wanted."""
    plain = StepwiseCrystals(network, prompt.numbers, drawing, start)
    templates = None
    if prompt.templates:
        if not (folder / TEMPLATES).is_file():
            raise UsageError(
                f"the checkpoint in {folder} brings no {TEMPLATES}",
                "leave --system.templates out, or use a checkpoint that does",
            )
        pool = TemplatePool.load(folder / TEMPLATES)
        wanted = (plain.numbers, start, chosen.num_templates, chosen.novel)
        templates = leading(network, pool, *wanted)
    guided = chosen.guidance != 1.0
    kind = GuidedCrystals if guided else StepwiseCrystals
    if drawing.exclusion is not None:
        kind = SpacedCrystals
    proposal = kind(network, prompt.numbers, drawing, start, templates, guided)
    return _chosen(proposal, plain, chosen.best_of)


def leading(
    network: Any,
    pool: TemplatePool,
    numbers: Sequence[int],
    start: Prompted,
    most: int,
    novel: bool = False,
) -> list[Any]:
    """Templates in the order of the pool; after the first, not those the model does not believe in.

    None stands at the end, for draws that are led by nothing. The pool's order by similarity of
    elements is kept because the model's chances, good at telling what is hopeless, order the rest
    worse; on validation rows of MP-20 they cost more right first templates than they saved.

    Args:
        network: a model of crystals.
        pool: where templates are retrieved from.
        numbers: (N,) atomic numbers.
        start: training set and properties.
        most: how many are tried.
        novel: the wanted crystal is known not to be in the pool.
    """
    wanted = np.asarray(numbers)[element_order(numbers)]
    found = pool.candidates(wanted, k=most, novel=novel)
    if not found:
        return [None]
    templates = [ordered(template)[1] for template in found]
    chance = chance_of_same(network, wanted, templates, start)
    pairs = zip(templates, chance.tolist(), strict=True)
    believed = [template for template, value in pairs if value >= LEAST_CHANCE]
    rest = [template for template in believed if template is not templates[0]]
    return [templates[0], *rest, None]


def _chosen(proposal: Any, judge: Any, tries: int) -> Any:
    return proposal if tries == 1 else MostLikely(proposal, judge, tries)


def exclusion_of(scale: float) -> Exclusion | None:
    """What keeps atoms apart by a share of their covalent radii; None for a share of 0."""
    if not scale:
        return None
    from gensci.systems.crystal_targets import covalent_radii

    return Exclusion(covalent_radii(), scale)


def _guide(weight: float) -> Any:
    if weight == 1.0:
        return None
    return lambda conditional, free: GuidedByCondition(conditional, free, weight)


def _decoder(chosen: ProposalSettings, nested: Mapping[str, Any]) -> Any:
    warm = {} if chosen.token_temperature == 1.0 else {"temperature": chosen.token_temperature}
    decoder = make_decoder(chosen.decoder, {**warm, **nested})
    if hasattr(decoder, "draft"):
        raise UsageError(
            f"decoder {decoder.name!r} needs a draft model, which checkpoints do not bring",
            "choose another --proposal.decoder (`gensci list decoders`)",
        )
    return decoder


def pieces_of(elements: Sequence[int] | None) -> list[str] | None:
    """Pieces of SMILES that write only these elements, hydrogen among them; no atom of any."""
    if elements is None:
        return None
    symbols = {SYMBOLS[number - 1] for number in elements}
    atoms = {*SYMBOLS, *(symbol.lower() for symbol in SYMBOLS)}
    kept = {*symbols, *(symbol.lower() for symbol in symbols), "H"}
    others = {*atoms, "*"} - kept
    return [piece for piece in SMILES_PIECES if piece not in others]


def _small(prompt: StructurePrompt) -> Any:
    """Tells whether a molecule is of the elements and the size asked for, and whole."""
    if prompt.max_heavy_atoms is None and prompt.elements is None:
        return None
    allowed = None if prompt.elements is None else {1, *prompt.elements}

    def accept(graph: Any) -> bool:
        if allowed is not None and not allowed.issuperset(graph.numbers.tolist()):
            return False
        if prompt.max_heavy_atoms is None:
            return True
        # a bracket such as [CH2] may have counted on a neighbour for which no atom was left
        atoms = explicit_molecule(graph.smiles).GetAtoms()
        whole = not any(atom.GetNumRadicalElectrons() for atom in atoms)
        return whole and int((graph.numbers > 1).sum()) <= prompt.max_heavy_atoms

    return accept
