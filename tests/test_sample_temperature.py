"""`gensci sample --system.temperature 400` with a flow trained at 310 K."""

import json

import numpy as np
import pytest
import torch

from gensci.__main__ import main
from gensci.core.weights import kish_ess
from gensci.metrics.references import load_reference_ensemble
from gensci.models.proposal import load_proposal
from gensci.samplers import make_sampler
from gensci.sims.dynamics import GAS_CONSTANT
from gensci.systems.peptide import PeptideSystem

pytest.importorskip("openmm")
WARM, N = 400.0, 1200


@pytest.fixture(scope="module")
def drawn():
    """Weighted samples of AA at 400 K, from the flow as trained and from the flow steered there."""
    system = PeptideSystem.from_text("AA", temperature=WARM)
    target, found = system.target("cpu", torch.float32), {}
    for temperature in (310.0, WARM):
        proposal = load_proposal("peptide-small", system.peptide, "cpu", temperature=temperature)
        found[temperature] = make_sampler("importance").run(target, proposal, N, seed=3)
    return system, found


def estimate(values, log_weight):
    """Weighted mean and its error by the delta method."""
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    mean = (weight * values).sum()
    return mean, np.sqrt((weight**2 * (values - mean) ** 2).sum())


def test_a_steered_flow_is_worth_far_more_at_another_temperature(drawn):
    as_trained, steered = (drawn[1][key].meta["verdict"] for key in (310.0, WARM))
    assert steered["ess_fraction"] > 0.5
    assert as_trained["ess_fraction"] < 0.25
    z = (steered["log_z"] - as_trained["log_z"]) / np.hypot(
        steered["log_z_error"], as_trained["log_z_error"]
    )
    assert abs(z) < 4, "both are unbiased for the same constant"


def test_mean_energy_at_400_k_is_that_of_replica_exchange_reweighted_from_310_k(drawn):
    system, found = drawn
    samples = found[WARM]
    energy = system.force_field.energy(samples.x["positions"]).double().numpy()
    mean, error = estimate(energy, samples.log_weight.numpy())
    reference = load_reference_ensemble("AA")
    cold = reference.energy.astype(np.float64)
    change = cold / GAS_CONSTANT * (1 / reference.temperature - 1 / WARM)
    truth, _ = estimate(cold, change)
    # frames of a ladder are correlated, so the error comes from the sixteen ladders
    ladders = [
        estimate(cold[reference.ladder == k], change[reference.ladder == k])[0]
        for k in np.unique(reference.ladder)
    ]
    spread = np.std(ladders, ddof=1) / np.sqrt(len(ladders))
    assert kish_ess(torch.from_numpy(change)).count > 300
    assert abs(mean - truth) < 4 * np.hypot(error, spread)
    unsteered, _ = estimate(cold, 0 * change)
    assert abs(mean - unsteered) > 20 * np.hypot(error, spread), "310 K is told from 400 K"


@pytest.mark.slow
def test_mean_energy_at_400_k_is_that_of_simulated_replica_exchange(drawn, tmp_path):
    system, found = drawn
    samples = found[WARM]
    energy = system.force_field.energy(samples.x["positions"]).double().numpy()
    mean, error = estimate(energy, samples.log_weight.numpy())
    simulate = "simulate --length 40ps --frame-interval 0.2ps --time-step 2fs --ladders 8"
    more = "--system AA --coldest 400 --temperatures 4 --equilibration 6ps --seed 5"
    assert main([*simulate.split(), *more.split(), "--out", str(tmp_path / "md")]) == 0
    from safetensors.torch import load_file

    shards = sorted((tmp_path / "md").rglob("shards/*.safetensors"))
    frames = np.concatenate([load_file(path)["energy"].double().numpy() for path in shards])
    ladders = frames.reshape(-1, 8).mean(0)
    spread = ladders.std(ddof=1) / np.sqrt(8)
    assert abs(mean - frames.mean()) < 4 * np.hypot(error, spread)


def command(out, *more):
    few = ["--num-samples", "20", "--seed", "1", "--threads", "1", "--out", str(out)]
    return ["sample", "--system", "AA", *few, *more]


def test_the_record_tells_the_temperature_of_the_proposal(tmp_path, capsys):
    warm = ["--system.temperature", "400"]
    assert main(command(tmp_path / "warm", *warm)) == 0
    assert main(command(tmp_path / "as-trained", *warm, "--proposal.temperature", "310")) == 0
    assert main(command(tmp_path / "usual")) == 0
    settings = {
        path.parent.name: json.loads(path.read_text())["settings"]
        for path in tmp_path.glob("*/run.json")
    }
    assert settings["warm"]["proposal.temperature"] == 400.0
    assert "proposal.temperature" not in settings["as-trained"]
    assert "proposal.temperature" not in settings["usual"]
    verdicts = [
        json.loads((tmp_path / name / "run.json").read_text())["verdict"]["ess"]
        for name in ("warm", "as-trained")
    ]
    assert verdicts[0] > verdicts[1]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--proposal.temperature", "-3"], "--proposal.temperature -3; give a positive one in K"),
        (["--proposal.temperature", "warm"], "give a positive one in K"),
        (["--proposal.num_steps", "3"], "no setting --proposal.num_steps of a flow of peptides"),
    ],
)
def test_settings_of_the_proposal_that_cannot_be_used(more, told, tmp_path, capsys):
    assert main(command(tmp_path / "out", *more)) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
