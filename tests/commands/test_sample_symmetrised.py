"""`gensci sample --proposal.rotations 3 --proposal.mirror true` with a flow that needs it."""

import json
import math

import numpy as np
import pytest
import torch
from tarflow_runs import sample_command, save_tarflow

from gensci.__main__ import main
from gensci.models.proposal import load_proposal
from gensci.models.symmetrised_proposal import fixed_rotations
from gensci.nn.tarflow import TarFlowPeptide

pytest.importorskip("openmm")
BOTH = ["--proposal.rotations", "3", "--proposal.mirror", "true"]


@pytest.fixture(scope="module")
def tarflow(tmp_path_factory):
    """A small untrained TarFlow that knows its orientation."""
    torch.manual_seed(0)
    network = TarFlowPeptide(channels=32, num_blocks=2, layers_per_block=1, head_dim=16)
    for block in network.blocks:
        torch.nn.init.normal_(block.leave.weight, std=0.05)
    return save_tarflow(network, tmp_path_factory.mktemp("tarflow"))


def test_weights_are_those_of_the_average(tarflow, tmp_path):
    assert main(sample_command(tarflow, tmp_path / "run", *BOTH)) == 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert settings["proposal.rotations"] == 3
    assert settings["proposal.mirror"] is True
    arrays = np.load(tmp_path / "run" / "samples.npz")
    from gensci.sims.peptide import build_peptide

    peptide = build_peptide("AG")
    positions = torch.from_numpy(arrays["positions"])
    assert peptide.chirality(positions).all()
    flow = load_proposal(str(tarflow), peptide, "cpu")
    turned = [sign * positions @ t.T.float() for t in fixed_rotations(3) for sign in (1, -1)]
    terms = torch.stack([flow.log_prob({"positions": x}).double() for x in turned])
    expected = torch.logsumexp(terms, 0) - math.log(3)
    found = torch.from_numpy(arrays["log_proposal"])
    assert torch.allclose(found, expected, atol=5e-3)
    ratio = arrays["log_target"] - arrays["log_proposal"] - arrays["log_weight"]
    assert np.ptp(ratio) < 1e-6


def test_without_the_settings_the_flow_draws_as_before(tarflow, tmp_path):
    assert main(sample_command(tarflow, tmp_path / "run", "--sampler", "direct")) == 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]
    assert not any(name.startswith("proposal.") for name in settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BOTH[:2], "rotations 3: the flow of peptide-small (peptide-internal) is the same in all"),
        (BOTH[2:], "mirror: the flow of peptide-small (peptide-internal) makes natural hands only"),
        (["--proposal.rotations", "0"], "--proposal.rotations 0; give 1 to 64"),
        (["--proposal.rotations", "many"], "--proposal.rotations many; give 1 to 64"),
        (["--proposal.mirror", "often"], "--proposal.mirror often; give true or false"),
        (["--proposal.rotation", "3"], "did you mean 'rotations'"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(settings, message, tmp_path, capsys):
    assert main(sample_command("peptide-small", tmp_path / "run", *settings)) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
    assert not (tmp_path / "run").exists()


def test_the_shipped_flow_makes_natural_hands_only():
    from gensci.sims.peptide import build_peptide

    peptide = build_peptide("TI")  # three stereocentres
    flow = load_proposal("peptide-small", peptide, "cpu")
    x, log_prob = flow.sample_and_log_prob(64, torch.Generator().manual_seed(0))
    assert peptide.chirality(x["positions"]).all()
    mirrored = flow.log_prob({"positions": -x["positions"]})
    assert (mirrored < log_prob - 500).all()


def test_the_average_is_not_what_is_finetuned(tarflow, tmp_path, capsys):
    given = ["--system", "AG", "--checkpoint", str(tarflow), "--out", str(tmp_path / "run")]
    assert main(["finetune", *given, *BOTH]) == 2
    assert "finetuned is the flow itself; leave them out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
