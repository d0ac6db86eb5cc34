"""Are posteriors of LISA data with glitches or a gap right where Whittle's likelihood is wrong?

For each problem, likelihoods are judged on the same injections: parameters from a local prior
about moderate, waveforms at every frequency of the grid, fresh noise of the true kind. The prior is
a normal about the problem's truth, three times as wide as what quiet data leave in every direction
but no wider than `CAPS`, and cut off where the problem's prior ends.

    python benchmarks/bench_lisa_calibration.py                 # 1,000 injections each
    python benchmarks/bench_lisa_calibration.py --problems gap --candidates neural
    python benchmarks/bench_lisa_calibration.py --quick         # a look

Writes results/lisa-calibration.json, in which what is not judged again stays, and pictures to the
folder --work, where trained likelihoods and runs are kept too; a second call goes on from there.
The TARP curve is the mean over a hundred reference points of each run, in the band of exchanged
truths (`gensci.metrics.calibration_average`).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_environment import RESULTS, environment, write_results
from lisa_calibration_parts import CAPS, NODES, WIDENED, Arena, Candidate, candidates

from gensci.core.random import stream
from gensci.io.posterior_plots import coverage_plot
from gensci.loops.calibrating import CalibrationRuns, calibrate
from gensci.loops.many_posteriors import ManyPosteriors
from gensci.metrics.calibration import CoverageCurve
from gensci.metrics.calibration_average import averaged_tarp
from gensci.metrics.calibration_report import CalibrationReport, calibration_report
from gensci.metrics.classifier import ClassifierSettings, LocalC2ST, fast_c2st
from gensci.metrics.divergence import parameter_divergences
from gensci.metrics.predictive import predictive_check
from gensci.systems.lisa_problem import load_problem

PROBLEMS = ("glitch", "gap")
CANDIDATES = ("neural", "whittle", "whittle, gap cut")
PIECE = 100  # injections that are kept at once
SAMPLER: dict[str, Any] = {"particles": 200, "moves": 6, "last_moves": 40, "ess_target": 0.5}
SPREAD = 10.0  # of summaries along the signal, about


def main() -> None:
    """Train, judge, print, write."""
    options = _options()
    torch.set_num_threads(1)
    name = "lisa-calibration" + ("-quick" if options.quick else "")
    path = RESULTS / f"{name}.json"
    record: dict[str, Any] = {
        **environment(1, "normflows"),
        "nodes": NODES, "waveforms": options.waveforms, "training_steps": options.steps,
        "prior": {"widened": WIDENED, "largest_sd": CAPS}, "sampler": SAMPLER,
        "problems": json.loads(path.read_text())["problems"] if path.exists() else {},
    }  # fmt: skip
    work = options.work / name
    arenas = {problem: Arena(load_problem(problem)) for problem in options.problems}
    judged: list[tuple[Arena, Candidate, CalibrationRuns]] = []
    for problem, arena in arenas.items():
        print(problem, flush=True)
        curves: dict[str, CoverageCurve] = {}
        for candidate in candidates(
            arena, options.candidates, options.waveforms, options.steps, options.seed, work
        ):
            runs, cpu = injections(arena, candidate, options)
            found, report = judge(arena, candidate, runs, cpu, options)
            judged.append((arena, candidate, runs))
            record["problems"].setdefault(problem, {})[candidate.name] = found
            curves[f"{candidate.name}, TARP"] = report.tarp
            curves[f"{candidate.name}, highest density"] = report.expected
            title = f"{problem}: coverage of {options.injections} injections"
            coverage_plot(work / f"{problem}.png", curves, title=title)
            write_results(name, record)
    checks(judged, record, options, name)


def checks(
    judged: list[tuple[Arena, Candidate, CalibrationRuns]],
    record: dict[str, Any],
    options: argparse.Namespace,
    stem: str,
) -> None:
    """What is told besides calibration: the problems' own observations, noise, exact posteriors."""
    for arena, candidate, runs in judged:
        found = record["problems"][arena.problem.name]
        if candidate.name == "neural":
            check = check_noise if arena.cut is None else check_exact
            found["checks"] = check(arena, candidate, options)
        told = at_the_observation(arena, candidate, runs, options.seed)
        found[candidate.name]["at_the_observation"] = told
        write_results(stem, record)


def posteriors_of(arena: Arena, candidate: Candidate) -> ManyPosteriors:
    """The way to posteriors that is judged."""
    return ManyPosteriors(arena.prior, candidate.log_prob, at_once=50, **SAMPLER)


def injections(
    arena: Arena, candidate: Candidate, options: argparse.Namespace
) -> tuple[CalibrationRuns, float]:
    """Injections through one likelihood and their CPU seconds; each piece is kept when made."""
    cpu, pieces = 0.0, []
    for first in range(0, options.injections, PIECE):
        number = min(PIECE, options.injections - first)
        kept = candidate.folder / f"runs-{first}-{number}.pt"
        if not kept.exists():
            begun = time.process_time()
            seed = stream(options.seed, "injections", first).initial_seed()
            posteriors = posteriors_of(arena, candidate)
            runs = calibrate(arena.prior, arena.simulate, posteriors, number, seed=seed)
            torch.save({"cpu": time.process_time() - begun, **vars(runs)}, kept)
        stored = torch.load(kept)
        cpu += stored.pop("cpu")
        pieces.append(CalibrationRuns(**stored))
    return _joined(pieces), cpu


def _joined(pieces: list[CalibrationRuns]) -> CalibrationRuns:
    """All pieces as one."""
    columns = {f.name: [getattr(piece, f.name) for piece in pieces] for f in fields(pieces[0])}
    failed = sum(columns.pop("failed"))
    return CalibrationRuns(**{k: torch.cat(v) for k, v in columns.items()}, failed=failed)


def judge(
    arena: Arena,
    candidate: Candidate,
    runs: CalibrationRuns,
    cpu: float,
    options: argparse.Namespace,
) -> tuple[dict[str, Any], CalibrationReport]:
    """Whether injections came out right."""
    report = _report(arena, runs, options.seed)
    white = averaged_tarp(
        arena.prior.white(runs.truth), arena.prior.white(runs.draws), stream(options.seed, "white")
    )
    gain = information_gain(arena, runs)
    print(f"  {candidate.name} ({candidate.words}), {report.lines()[0]}")
    for line in [*report.lines()[1:], *_widths(report, white, gain, cpu / options.injections)]:
        print(f"  {line}", flush=True)
    told = {
        "assumes": candidate.words, **report.to_json(),
        "tarp_white": {"inside_band": white.inside, "pvalue": white.pvalue,
                       "dispersion": white.dispersion},
        "information_gain_nats": gain, "cpu_seconds_per_injection": cpu / options.injections,
        "training": candidate.learned.report,
    }  # fmt: skip
    return told, report


def at_the_observation(
    arena: Arena, candidate: Candidate, runs: CalibrationRuns, seed: int
) -> dict[str, Any]:
    """Local C2ST and predictive check of the problem's own observation."""
    directions, x = arena.directions(), arena.observed()
    white = arena.prior.white
    test = LocalC2ST.fit(
        white(runs.truth), white(runs.draws[:, 0]), (runs.x @ directions) / SPREAD,
        stream(seed, "local"), settings=ClassifierSettings(hidden=20, steps=300),
    )  # fmt: skip
    draws = posteriors_of(arena, candidate).draw(x[None], stream(seed, "observation"))[0]
    local = test.test(white(draws), (x @ directions) / SPREAD)
    check = predictive_check(x, candidate.sample(draws, stream(seed, "predicted")))
    distance = check.statistics["distance"]
    off = (draws.mean(0) - arena.problem.truth) / draws.std(0)
    found = {
        "local_c2st_pvalue": local.pvalue, "predictive_distance_pvalue": distance.two_sided,
        "predictive_surprises": ", ".join(check.surprising()),
        "largest_error_sd": float(off.abs().max()),
    }  # fmt: skip
    print(
        f"  {arena.problem.name}, {candidate.name}, the problem's own observation: "
        f"local C2ST p = {local.pvalue:.2g}, predictive surprises: "
        f"{found['predictive_surprises'] or 'none'}, largest error of a parameter "
        f"{found['largest_error_sd']:.1f} posterior standard deviations",
        flush=True,
    )
    return found


def _report(arena: Arena, runs: CalibrationRuns, seed: int) -> CalibrationReport:
    return calibration_report(
        runs.truth, runs.draws, runs.truth_log_prob, runs.draws_log_prob, stream(seed, "judge"),
        parameters=arena.prior.names, failed=runs.failed,
    )  # fmt: skip


def _widths(
    report: CalibrationReport, white: CoverageCurve, gain: float, seconds: float
) -> list[str]:
    narrow = ", ".join(
        f"{name} {value:.2f}"
        for name, value in zip(report.parameters, report.shrinkage, strict=True)
    )
    return [
        f"  TARP in the prior's unit coordinates: {'inside' if white.inside else 'outside'}, "
        f"p = {white.pvalue:.2g}",
        f"  posterior over prior widths: {narrow}",
        f"  information gained: {gain:.2f} nats; {seconds:.2f} CPU-s an injection",
    ]


def information_gain(arena: Arena, runs: CalibrationRuns) -> float:
    """Mean of minus half the log-determinant of the draws' covariance, in the prior's units."""
    white = arena.prior.white(runs.draws)
    centred = white - white.mean(1, keepdim=True)
    covariance = centred.mT @ centred / centred.shape[1]
    return float((-0.5 * torch.logdet(covariance)).mean())


def check_noise(arena: Arena, candidate: Candidate, options: argparse.Namespace) -> dict[str, Any]:
    """Noise that the network draws beside true noise, in the directions of the signal."""
    n = 1000 if options.quick else 2000
    centre = arena.problem.truth.expand(n, -1)
    false = candidate.noise(centre, stream(options.seed, "false"))
    silent = arena.bins.signal(arena.problem.truth[None])
    true = arena.simulate(arena.problem.truth.expand(n, -1), stream(options.seed, "true")) - silent
    directions = arena.directions()
    names = [f"direction {i}" for i in range(directions.shape[1])]
    pair = (false @ directions).numpy(), (true @ directions).numpy()
    table = parameter_divergences(*pair, names, stream(options.seed, "floor"))
    values = [d.value for d in table.values()]
    # bursts span two decades; the classifier is shown their logarithm
    shown = [np.arcsinh(x.numpy()) for x in (false, true)]
    told = fast_c2st(*shown, stream(options.seed, "c2st"), settings=ClassifierSettings(steps=300))
    found = {
        "draws": n, "jsd_median": float(np.median(values)), "jsd_max": max(values),
        "jsd_floor_95": table[names[0]].floor_high, "c2st": told.accuracy, "c2st_sd": told.sd,
    }  # fmt: skip
    print(
        f"  learned noise against true noise, along the signal: JSD median "
        f"{found['jsd_median']:.4f}, largest {found['jsd_max']:.4f} nats (95 % of equal samples "
        f"below {found['jsd_floor_95']:.4f}); C2ST of all {false.shape[1]} numbers "
        f"{told.accuracy:.3f}",
        flush=True,
    )
    return found


def check_exact(arena: Arena, candidate: Candidate, options: argparse.Namespace) -> dict[str, Any]:
    """Posteriors of a few injections beside those of the exact likelihood of the gap."""
    runs, particles = (1, 500) if options.quick else (3, 1000)
    truth = arena.prior.sample(runs, stream(options.seed, "exact"))
    x = arena.simulate(truth, stream(options.seed, "exact", "noise"))
    drawn = []
    for number, rows in enumerate((candidate.log_prob, arena.exact, arena.exact)):
        posteriors = ManyPosteriors(arena.prior, rows, particles=particles, at_once=1)
        drawn.append(posteriors.draw(x, stream(options.seed, "exact", number)).numpy())
        print(f"  exact check: {number + 1} of 3 sets of draws", flush=True)
    found: dict[str, Any] = {"injections": runs, "draws": particles}
    for name, pair in (("neural", (0, 1)), ("exact_again", (2, 1))):
        values = []
        for row in range(runs):
            table = parameter_divergences(
                drawn[pair[0]][row], drawn[pair[1]][row], arena.prior.names,
                stream(options.seed, "floor", row),
            )  # fmt: skip
            values += [d.value for d in table.values()]
            found["jsd_floor_95"] = next(iter(table.values())).floor_high
        found[name] = {"jsd_median": float(np.median(values)), "jsd_max": max(values)}
        print(
            f"  {name} against exact posteriors: JSD median {np.median(values):.4f}, largest "
            f"{max(values):.4f} nats (95 % of equal samples below {found['jsd_floor_95']:.4f})",
            flush=True,
        )
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=PROBLEMS, choices=PROBLEMS)
    parser.add_argument("--candidates", nargs="+", default=CANDIDATES, choices=CANDIDATES)
    parser.add_argument("--injections", type=int, default=None)
    parser.add_argument("--waveforms", type=int, default=None)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    options.injections = options.injections or (40 if options.quick else 1000)
    options.waveforms = options.waveforms or (5000 if options.quick else 20_000)
    options.steps = 300 if options.quick else 6000
    return options


if __name__ == "__main__":
    main()
