"""Observations come back from their files and refuse what they were not taken with."""

from dataclasses import replace

import pytest
import torch

from gensci.core.errors import UsageError
from gensci.systems.lisa_observation import Observation, inject, load_observation, make_observation
from gensci.systems.lisa_problem import load_problem

h5py = pytest.importorskip("h5py")


@pytest.fixture
def file(tmp_path):
    """A saved observation of the faint binary."""
    path = tmp_path / "event.h5"
    make_observation(load_problem("faint"), 3).save(path)
    return path


@pytest.mark.parametrize("name", ["faint", "gap", "moderate-noisy"])
def test_observation_comes_back(tmp_path, name):
    observation = make_observation(load_problem(name))
    observation.save(tmp_path / "o.h5")
    back = load_observation(tmp_path / "o.h5")
    assert back.setting == observation.setting
    assert torch.equal(back.data, observation.data)
    assert (back.window is None) == (observation.window is None)
    if back.window is not None:
        assert torch.equal(back.window, observation.window)


def test_fields_that_may_be_absent_come_back(tmp_path):
    setting = replace(load_problem("faint").setting, confusion=4.0, tdi=2, channels="EAT")
    shape = len(setting.channels), setting.num_bins
    Observation(torch.ones(shape, dtype=torch.complex128), setting).save(tmp_path / "o.h5")
    assert load_observation(tmp_path / "o.h5").setting == setting


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"f_min": 2e-4}, "f_min = 0.0002 but the surrogate has f_min = 0.000134"),
        ({"duration": 90_000.0}, "duration = 90000.0 but the surrogate has duration = 86400.0"),
        ({"noise_model": "sangria"}, "'sangria' but the surrogate has noise_model = 'SciRDv1'"),
        ({"channels": "EA"}, "channels = 'EA' but the surrogate has channels = 'AE'"),
        ({"frame": "ssb"}, "frame = 'ssb' but the surrogate has frame = 'lisa'"),
        ({"confusion": 4.0}, "confusion = 4.0 but the surrogate has confusion = None"),
        ({"tdi": 2}, "tdi = 2 but the surrogate has tdi = 1"),
        ({"t_ref": 0.0}, "t_ref = 0.0 but the surrogate has t_ref = 15779074"),
    ],
)  # fmt: skip
def test_another_setting_is_refused_with_both_values(changes, words):
    trained = load_problem("faint").setting
    other = replace(trained, **changes)
    shape = len(other.channels), other.num_bins
    observation = Observation(torch.zeros(shape, dtype=torch.complex128), other)
    with pytest.raises(UsageError, match=words) as caught:
        observation.check(trained)
    assert "\n" not in str(caught.value)
    observation.check(other)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_data_that_are_not_finite_are_refused(value):
    setting = load_problem("faint").setting
    data = torch.zeros(2, setting.num_bins, dtype=torch.complex128)
    data[1, 2] = value
    with pytest.raises(UsageError, match=r"NaN or infinite in 1 places.* channel E at 0\.0001"):
        Observation(data, setting)
    with pytest.raises(UsageError, match=r"shape \(2, 7\) but channels AE"):
        Observation(data[:, :7], setting)


def test_nan_in_a_file_is_refused(file):
    with h5py.File(file, "r+") as content:
        content["data"][0, 5] = complex("nan")
    with pytest.raises(UsageError, match="NaN"):
        load_observation(file)


def test_files_that_are_no_observation_are_refused(file, tmp_path):
    def changed(change, words):
        with h5py.File(file, "r+") as content:
            change(content)
        with pytest.raises(UsageError, match=words) as caught:
            load_observation(file)
        assert "\n" not in str(caught.value)

    changed(lambda c: c.attrs.__setitem__("duration", 86_000.0), "but its band and duration mean")
    changed(lambda c: c.attrs.__setitem__("duration", "long"), "duration is 'long'")
    changed(lambda c: c.attrs.__delitem__("duration"), "lacks an attribute")
    changed(lambda c: c.attrs.__setitem__("format", "other-1"), "has format 'other-1'")
    changed(lambda c: c.__delitem__("data"), "not a readable LISA observation")
    text = tmp_path / "text.h5"
    text.write_text("no")
    for path in (text, tmp_path / "absent.h5"):
        with pytest.raises(UsageError, match="not a readable LISA observation"):
            load_observation(path)


def test_injections_outside_the_prior_are_refused():
    problem = load_problem("faint")
    theta = problem.truth.clone()
    theta[2] = 1.2
    with pytest.raises(UsageError, match=r"chi1 = 1.2, outside its prior \[-1, 1\]"):
        inject(problem, theta, 0)
    with pytest.raises(UsageError, match="chi1 = nan"):
        theta[2] = torch.nan
        inject(problem, theta, 0)


def test_the_same_seed_gives_the_same_noise():
    problem = load_problem("faint")
    data = [make_observation(problem, seed).data for seed in (1, 1)]
    assert torch.equal(*data)
    noisy = [make_observation(load_problem("moderate-noisy"), seed).data for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
