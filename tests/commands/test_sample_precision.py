"""`gensci sample --proposal.precision bfloat16`: faster draws whose density is still their own."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from named_peptides import named_peptide
from tarflow_runs import sample_command, save_tarflow

from gensci.__main__ import main
from gensci.commands import peptide_proposals
from gensci.models.proposal import FlowProposal, LowPrecisionProposal, load_proposal
from gensci.nn import native_inverse
from gensci.nn.tarflow import TarFlowPeptide

PRECISIONS = {"tf32": "high", "bfloat16": "medium"}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tiny(num_blocks):
    """A small TarFlow as if trained: no map is the identity, and bfloat16 is felt."""
    torch.manual_seed(0)
    network = TarFlowPeptide(32, num_blocks, layers_per_block=1, head_dim=16)
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.add_(torch.randn_like(value) * (0.03 if "leave" in name else 0.1))
    return network


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tarflow(tiny(2), tmp_path_factory.mktemp("tarflow"))


@pytest.mark.parametrize("precision", PRECISIONS.values())
def test_the_density_told_is_that_of_the_map_that_draws(precision, monkeypatch):
    # In one block an atom is an affine function of its own noise: exact from two points.
    network, cond = tiny(1), TarFlowPeptide.encode(named_peptide("G"))
    proposal = LowPrecisionProposal(FlowProposal(network, cond), precision)
    size = 3 * len(cond["mask"])
    z = torch.randn(1, size // 3, 3, generator=torch.Generator().manual_seed(2))
    noise = torch.cat((z, z + torch.eye(size).view(size, size // 3, 3)))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randn", lambda *size, **kinds: noise)
        x, log_q = proposal.sample_and_log_prob(len(noise), torch.Generator())
    x = x["positions"].double()
    slopes = torch.diagonal((x[1:] - x[:1]).reshape(size, size))
    log_normal = torch.distributions.Normal(0.0, 1.0).log_prob(z.double()).sum()
    assert float(log_normal - slopes.log().sum()) == pytest.approx(float(log_q[0]), abs=2e-4)
    single, _ = FlowProposal(network, cond).network.inverse(z, cond)
    assert not torch.equal(single[0], x[0].float() / network.sigma_data), "nothing was lowered"


def test_a_run_is_weighed_by_the_density_of_its_own_pass(checkpoint, tmp_path):
    pytest.importorskip("openmm")
    from gensci.sims.peptide import build_peptide

    flow, misses = load_proposal(str(checkpoint), build_peptide("AG"), "cpu"), {}
    for precision in ("float32", *PRECISIONS):
        out = tmp_path / precision
        assert main(sample_command(checkpoint, out, "--proposal.precision", precision)) == 0
        settings = json.loads((out / "run.json").read_text())["settings"]
        assert settings.get("proposal.precision", "float32") == precision
        with np.load(out / "samples.npz") as file:
            arrays = dict(file)
        ratio = arrays["log_target"] - arrays["log_proposal"] - arrays["log_weight"]
        assert np.ptp(ratio) < 1e-6
        positions = torch.from_numpy(arrays["positions"])
        single = flow.log_prob({"positions": positions}).numpy()
        misses[precision] = np.abs(single - arrays["log_proposal"]).mean()
    assert misses["float32"] < 1e-3
    by_kernel = not isinstance(native_inverse.library(), str)
    if by_kernel and not native_inverse.lowers("medium"):
        assert misses["bfloat16"] == misses["float32"], "this processor has single precision only"
    else:  # the law is another one than in single precision, and near to it
        assert 10 * misses["float32"] < misses["bfloat16"] < 3.0


@pytest.mark.parametrize("lowers", [True, False])
def test_a_processor_that_cannot_lower_the_precision_says_so(
    checkpoint, tmp_path, monkeypatch, capsys, lowers
):
    pytest.importorskip("openmm")
    if isinstance(native_inverse.library(), str):
        pytest.skip("torch draws, which rounds on any processor")
    # only what is told: a kernel that was built for this processor may know no other precision
    told_of = SimpleNamespace(library=native_inverse.library, lowers=lambda precision: lowers)
    monkeypatch.setattr(peptide_proposals, "native_inverse", told_of)
    command = sample_command(checkpoint, tmp_path / "run", "--proposal.precision", "bfloat16")
    assert main(command) == 0
    told = "this processor has no matrix products for --proposal.precision bfloat16"
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert any(told in line for line in record["warnings"]) is not lowers
    assert (told in capsys.readouterr().out) is not lowers


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["--proposal.precision", "half"], "half; give float32, tf32, bfloat16"),
        (["--proposal.precisoin", "tf32"], "did you mean 'precision'"),
        (
            ["--proposal.precision", "bfloat16", "--proposal.rotations", "2"],
            "precision bfloat16: an average over rotations or the mirror image needs densities",
        ),
        (
            ["--proposal.precision", "bfloat16", "--sampler", "smc"],
            "needs a proposal with log_prob()",
        ),
        (
            ["--proposal.precision", "bfloat16", "--checkpoint", "peptide-small"],
            "the flow of peptide-small (peptide-internal) draws in single precision only",
        ),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(settings, message, checkpoint, tmp_path, capsys):
    pytest.importorskip("openmm")
    assert main(sample_command(checkpoint, tmp_path / "run", *settings)) == 2
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told
    assert not (tmp_path / "run").exists()


def test_a_flow_at_low_precision_is_not_what_is_finetuned(checkpoint, tmp_path, capsys):
    pytest.importorskip("openmm")
    given = ["--system", "AG", "--checkpoint", str(checkpoint), "--out", str(tmp_path / "run")]
    assert main(["finetune", *given, "--proposal.precision", "bfloat16"]) == 2
    assert "finetuned is the flow itself; leave them out" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
