"""The frozen problems are what they say: truth, prior, SNR, and versions that share them."""

import math

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.sims.lisa import PARAMETERS
from gensci.systems.lisa_problem import PROBLEMS, load_problem, problem_from_json
from gensci.systems.lisa_setting import Setting

CHANGES = {"mass_ratio": 0.5, "chi1": 1.5, "cos_inclination": 2.0, "distance": -1.0}


def description(problem):
    """What `problem_from_json` reads."""
    return {
        "name": "mine", "description": "one", "snr": 1, "seed": 0, "noise": {"kind": "none"},
        "setting": problem.setting.to_json(), "prior": problem.prior.to_json(),
        "truth": dict(zip(PARAMETERS, problem.truth.tolist(), strict=True)),
    }  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_snr_of_the_file_is_that_of_the_injection(name):
    problem = load_problem(name)
    f = problem.setting.frequencies()
    h = problem.setting.strain(problem.truth[None], f)[0]
    power = 4 / problem.setting.duration * h.abs().square() / problem.setting.psd(f)
    assert float(power.sum().sqrt()) == pytest.approx(problem.snr, rel=1e-5)


def test_loud_is_the_binary_of_the_reference():
    """Its SNR is that of lisabeta 1.2.0 for the same numbers in its LISA frame, 1057.664."""
    problem = load_problem("loud")
    mass, q = 3e6, 3.0
    truth = {
        "ln_chirp_mass": math.log(mass * (q / (1 + q) ** 2) ** 0.6), "mass_ratio": q,
        "chi1": 0.3, "chi2": 0.1, "distance": 25_924.0, "cos_inclination": math.cos(math.pi / 3),
        "phase": 0.5, "longitude": 1.2, "sin_latitude": math.sin(0.4), "polarisation": 0.7,
        "time": 0.0,
    }  # fmt: skip
    assert dict(zip(PARAMETERS, problem.truth.tolist(), strict=True)) == pytest.approx(truth)
    f = problem.setting.frequencies()
    assert float(f[0]) == pytest.approx(1e-4, abs=1e-6)
    assert float(f[-1]) == pytest.approx(0.0135, abs=1e-6)
    assert (problem.setting.frame, problem.setting.channels) == ("lisa", "AE")
    assert problem.setting.t_ref == pytest.approx(0.5 * 365.25636 * 86_400, rel=1e-6)
    assert problem.snr == pytest.approx(1057.664, rel=1e-4)


@pytest.mark.parametrize("name", PROBLEMS)
def test_priors_are_those_stated(name):
    prior = load_problem(name).prior
    low, high = prior.bounds.unbind(1)
    turn = 2 * math.pi
    widths = [0.1, 9, 2, 2, 199_000, 2, turn, turn, 2, math.pi, 1200]
    assert (high - low).tolist() == pytest.approx(widths)
    assert low[1:].tolist() == pytest.approx([1, -1, -1, 1000, -1, 0, 0, -1, 0, -600])
    middle = 0.5 * (low[0] + high[0])
    assert float(middle) == pytest.approx(float(load_problem(name).truth[0]))


def test_moderate_and_faint_are_as_loud_as_said():
    assert load_problem("moderate").snr == pytest.approx(300, abs=1)
    assert 30 <= load_problem("faint").snr <= 100


@pytest.mark.parametrize(
    ("version", "base", "kind"),
    [
        ("loud-noisy", "loud", "gaussian"), ("moderate-noisy", "moderate", "gaussian"),
        ("glitch", "moderate", "glitch"), ("gap", "moderate", "gap"),
    ],
)  # fmt: skip
def test_versions_differ_by_their_noise_alone(version, base, kind):
    first, second = load_problem(version), load_problem(base)
    assert first.setting == second.setting
    assert torch.equal(first.truth, second.truth)
    assert torch.equal(first.prior.bounds, second.prior.bounds)
    assert (first.noise.kind, second.noise.kind) == (kind, "none")


def test_faint_signal_begins_in_the_last_hours():
    """A quadrupole of this chirp mass passes f_min six hours before it merges."""
    problem = load_problem("faint")
    seconds = math.exp(float(problem.truth[0])) * 4.925491e-6
    left = 5 / 256 * seconds ** (-5 / 3) * (math.pi * problem.setting.f_min) ** (-8 / 3)
    assert left == pytest.approx(6 * 3600, rel=0.05)


def test_unknown_problems_and_bad_descriptions_end_in_one_line():
    with pytest.raises(UsageError, match="did you mean 'loud'"):
        load_problem("lout")
    problem = load_problem("loud")
    for name, value in CHANGES.items():
        text = description(problem)
        text["truth"][name] = value
        with pytest.raises(UsageError, match=f"{name} = .* outside its prior") as caught:
            problem_from_json(text)
        assert "\n" not in str(caught.value)
    text = description(problem)
    text["prior"]["low"][1] = 0.5
    with pytest.raises(UsageError, match=r"the prior reaches mass_ratio = 0.5 .* \[1, 20\]"):
        problem_from_json(text)
    text = description(problem)
    del text["truth"]["chi2"]
    with pytest.raises(UsageError, match="chi2"):
        problem_from_json(text)
    text = description(problem)
    text["noise"] = {"kind": "glich"}
    with pytest.raises(UsageError, match="did you mean 'glitch'"):
        problem_from_json(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"noise_model": "SciRDv9"}, "SciRDv9"), ({"channels": "AA"}, "AA"),
        ({"channels": "XY"}, "XY"), ({"frame": "icrs"}, "icrs"), ({"tdi": 3}, "tdi = 3"),
        ({"f_min": "low"}, "f_min is 'low'"), ({"f_min": 0.02}, "0.02"),
        ({"confusion": 99.0}, "99"), ({"duration": 10.0}, "no frequency"),
    ],
)  # fmt: skip
def test_settings_without_a_meaning_are_refused(changes, words):
    fields = load_problem("loud").setting.to_json() | changes
    with pytest.raises(UsageError, match=words):
        Setting(**fields)
