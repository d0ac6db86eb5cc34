"""A corrected posterior as tensors and back, so that a store can keep it."""

from __future__ import annotations

import torch

from gensci.core.priors import Prior
from gensci.core.protocols import Tensors
from gensci.core.results import SampleSet
from gensci.core.weights import LogZ
from gensci.loops.reweighting import Reweighted
from gensci.loops.simulation_store import read_text, text_tensor
from gensci.models.mode_folding import Images
from gensci.models.proposal_flow import Chart, ProposalFlow
from gensci.nn.proposal_network import ProposalNetwork


def pack(result: Reweighted) -> Tensors:
    """Rows, flow and numbers as named tensors."""
    flow = result.proposal
    note = {
        "fallback": result.fallback, "calls": result.calls, "seconds": result.seconds,
        "settings": flow.network.settings, "prior_share": flow.prior_share,
        "chart": None if flow.chart is None else flow.chart.numbers(),
        "report": flow.report, "verdict": dict(result.samples.meta.get("verdict", {})),
    }  # fmt: skip
    constants = [*result.evidence, result.khat, result.efficiency]
    tensors = {
        "note": text_tensor(note),
        "numbers": torch.tensor(constants, dtype=torch.float64),
        "mode_weights": flow.mode_weights,
    }
    tensors |= {f"network/{k}": v for k, v in flow.network.state_dict().items()}
    tensors |= {f"samples/{k}": v for k, v in result.samples.to_tensors().items()}
    if result.surrogate is not None and result.surrogate_evidence is not None:
        tensors |= {f"surrogate/{k}": v for k, v in result.surrogate.to_tensors().items()}
        tensors["surrogate_evidence"] = torch.tensor(
            list(result.surrogate_evidence), dtype=torch.float64
        )
    return tensors


def unpack(
    tensors: Tensors, prior: Prior, images: Images | None, chart: Chart | None = None
) -> Reweighted:
    """What was packed.

    Args:
        tensors: of `pack`.
        prior: of the parameters.
        images: the symmetries that the flow was folded by.
        chart: the kind that it was fitted with.
    """
    note = read_text(tensors["note"])
    value, error, khat, efficiency = tensors["numbers"].tolist()
    network = ProposalNetwork(**note["settings"]).double()
    network.load_state_dict(_part(tensors, "network"))
    flow = ProposalFlow.restored(
        network, prior, note["prior_share"], tensors["mode_weights"], note["report"],
        images=images, chart=chart, numbers=note.get("chart"),
    )  # fmt: skip
    surrogate, constant = None, None
    if "surrogate_evidence" in tensors:
        surrogate = SampleSet.from_tensors(_part(tensors, "surrogate"))
        constant = LogZ(*tensors["surrogate_evidence"].tolist())
    meta = {"verdict": note["verdict"]} if note["verdict"] else {}
    return Reweighted(
        SampleSet.from_tensors(_part(tensors, "samples"), meta), LogZ(value, error), khat,
        efficiency, note["fallback"], flow, surrogate, constant, note["calls"], note["seconds"],
    )  # fmt: skip


def _part(tensors: Tensors, name: str) -> Tensors:
    """The tensors under a name, without it."""
    start = f"{name}/"
    return {k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}
